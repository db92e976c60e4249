"""Unbiased estimators that are linear in the sorted rewards: max@k and everything built from it.

The influence of an L-statistic on a sample depends on ranks and spacings alone: with the rewards sorted,
A_(i) = sum_{j <= i} d_j (g_(j) - g_(j-1)), g_(0) = 0. One weight per rank says everything: A is nondecreasing
in the reward exactly when d_2, ..., d_m >= 0, equal rewards share one advantage to the last bit, and nothing is
cancelled between large numbers.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Hashable, Sequence

import numpy as np
import torch
from scipy import special
from torch import Tensor

from tea.estimators.constants import Table, constant
from tea.estimators.families import BANK_SIZE, combine
from tea.estimators.group import as_group, by_count, finalize, warn_if_binary
from tea.estimators.presets import parse_preset, preset_rank_weights
from tea.estimators.tensors import largest, scatter_sorted, sort_groups


def log_binomial(n: int, k: int) -> float:
    """Logarithm of the binomial coefficient; -inf where it is zero."""
    if k < 0 or k > n:
        return -math.inf
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def max_at_k_spacing_weights(m: int, k: int) -> list[float]:
    r"""Weights d_1 .. d_m of max@k over m rollouts, :math:`d_i = k \binom{i-1}{k-1} / \binom{m-1}{k-1}`.

    From :math:`A_i = k (E[\max I \mid i \in I] - E[\max \text{ of } k-1 \text{ of the others}])
    = \frac{k}{\binom{m-1}{k-1}} \sum_{j<i} \binom{j-1}{k-2} (g_{(i)} - g_{(j)})`: a subset counts when i is its
    best and j the best of the others. k = 1 has no others to compare with: A_i is the reward itself.
    """
    # From d_m = k downwards by d_i / d_(i+1) = (i - k + 1) / i: no factorial to overflow, no logarithm to lose digits.
    i = np.arange(1, m)
    shrink = np.clip(i - k + 1, 0, None) / i
    return (k * np.append(np.cumprod(shrink[::-1])[::-1], 1.0)).tolist()


def spacing_advantages(
    rewards: Tensor,
    table: Callable[..., Table],
    *args: Hashable,
    mask: Tensor | None,
    monotone: bool,
    center: bool,
    scale: str,
    tail: str | None = None,
) -> Tensor:
    """Advantages from spacing weights.

    Args:
        rewards: (P, m).
        table: ``table(m, *args)`` gives for every number of valid rollouts 0 .. m the weights d_1 .. d_m of the
            ascending ranks (zeros beyond that number).
        args: Hashable; tables are cached by them.
        mask: (P, m) bool or None.
        monotone: See :func:`tea.estimators.group.finalize`, as for ``center`` and ``scale``.
        tail: If given, a row holds the weights of every member of the bank of tail families, one after the other,
            and this family's are used, judged by the upper half of the rewards.
    """
    group = as_group(rewards, mask)
    m = rewards.shape[1]
    by_size = constant(table, m, *args, dtype=group.rewards.dtype, device=rewards.device)
    if tail is not None:
        warn_if_binary(group, "ladder", stacklevel=4)
        by_size = combine(by_size.unflatten(1, (BANK_SIZE, m)), group, tail, 0.5)
    weights = by_count(by_size, group)
    # Invalid ones stand in as copies of the largest: no spacing beyond it.
    values, order = sort_groups(group.filled(group.filled(-torch.inf).amax(1, keepdim=True)))
    # Centring takes the constant d_1 g_(1) out again; leaving it out keeps the digits of rewards far from zero.
    base = torch.zeros_like(values[:, :1]) if center else values[:, :1]
    spacings = torch.cat((base, values.diff(dim=1)), dim=1)
    raw = scatter_sorted((weights * spacings).cumsum(dim=1), order)
    return finalize(raw, group, monotone=monotone, center=center, scale=scale)


def check_k(k: int, num_generations: int | None = None) -> None:
    """Raise ValueError unless ``k`` is an integer >= 1 and within the group."""
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ValueError(f"k must be an integer >= 1, got {k!r}")
    if num_generations is not None and k > num_generations:
        raise ValueError(
            f"k must be at most the number of generations per prompt ({num_generations}), got {k}; "
            "for best-of-N beyond the group use tea, prefix_tea or ladder with target_n, or remember rewards "
            "(tea.RewardMemory)"
        )


def _max_at_k_table(m: int, k: int) -> list[list[float]]:
    table = []
    for count in range(m + 1):
        # A group with fewer valid rollouts than k gets the largest k that it can estimate.
        weights = max_at_k_spacing_weights(count, min(k, count)) if count > 0 else []
        table.append(weights + [0.0] * (m - count))
    return table


def max_at_k_advantages(
    rewards: Tensor,
    k: int,
    *,
    mask: Tensor | None = None,
    monotone: bool = False,
    center: bool = True,
    scale: str = "none",
) -> Tensor:
    r"""max@k: the unbiased policy gradient of the expected best of k <= m rollouts, of lowest variance.

    .. math::
        A_i = k \left( E[\max_{j \in I} R_j \mid i \in I, |I| = k] - E[\max_{j \in I'} R_j \mid i \notin I',
        |I'| = k - 1] \right)

    over uniform subsets I, I' of the group. Source: PKPO, arXiv 2505.15201 ("sloo_minus_one"); the first term is
    max@k of arXiv 2510.23393 (its equation 9). Both sum over the group where this averages: m times theirs.
    k = 1: the rewards themselves. k = m: the best rollout gets m times its lead.

    Args:
        rewards: (P, m) float; higher is better; NaN marks a missing one.
        k: Size of the subsets, 1 <= k <= m. A prompt with fewer than k valid rollouts uses as many as it has.
        mask: (P, m) bool, True where the rollout counts.
        monotone: Project on nondecreasing functions of the reward (it is one already).
        center: Subtract the group mean.
        scale: "none", or divide by the reward standard deviation + 1e-4 of the "group" or "batch".

    Returns:
        (P, m) advantages, float64 for float64 rewards, else float32.

    Raises:
        TypeError, ValueError: On bad arguments, see :func:`tea.estimators.group.as_group`.

    Checked by ``tests/estimators/test_order.py``, against all subsets.
    """
    check_k(k, rewards.shape[-1] if isinstance(rewards, Tensor) and rewards.ndim else None)
    return spacing_advantages(rewards, _max_at_k_table, k, mask=mask, monotone=monotone, center=center, scale=scale)


def check_rungs(rungs: Sequence[int] | None, num_generations: int | None = None) -> None:
    """Raise ValueError unless ``rungs`` are at least two increasing integers >= 1 within the group."""
    if rungs is None:
        return
    if isinstance(rungs, (str, int)) or not all(isinstance(k, int) and not isinstance(k, bool) for k in rungs):
        raise ValueError(f"rungs must be a sequence of integers, got {rungs!r}")
    if len(rungs) < 2 or rungs[0] < 1 or any(a >= b for a, b in itertools.pairwise(rungs)):
        raise ValueError(f"rungs must be at least two strictly increasing integers >= 1, got {list(rungs)}")
    if num_generations is not None and rungs[-1] > num_generations:
        raise ValueError(
            f"rungs must be at most the number of generations per prompt ({num_generations}), got {list(rungs)}"
        )


def check_rank_weights(rank_weights: Sequence[float] | str, num_generations: int | None = None) -> None:
    """Raise ValueError unless ``rank_weights`` are a preset, or finite numbers and fewer than the group."""
    if isinstance(rank_weights, str):
        parse_preset(rank_weights)
        return
    if (
        not isinstance(rank_weights, Sequence)
        or len(rank_weights) < 1
        or not all(isinstance(w, (int, float)) and not isinstance(w, bool) and math.isfinite(w) for w in rank_weights)
    ):
        raise ValueError(
            f"rank_weights must be a sequence of finite numbers, the weight of the best first, got {rank_weights!r}"
        )
    if num_generations is not None and len(rank_weights) >= num_generations:
        raise ValueError(
            f"rank_weights must be fewer than the generations per prompt ({num_generations}), got "
            f"{len(rank_weights)}: the estimator compares subsets with a rollout to subsets without it"
        )


def order_stat_spacing_weights(m: int, rank_weights: Sequence[float]) -> list[float]:
    r"""Weights d_1 .. d_m of the L-statistic with these rank weights (best first) over subsets of size K < m.

    On a subset of which c members have rank i or higher, the spacing g_(i) - g_(i-1) counts
    W(c) = w_1 + ... + w_c times. Members are hypergeometric, so that

    .. math::
        d_i = K \{E[W(1 + H_{K-1}^{m-i})] - E[W(H_K^{m-i})] - E[W(H_{K-1}^{m-i+1})] + E[W(H_K^{m-i+1})]\}

    with H_n^s the number of specials among n draws without replacement from m - 1 of which s are special: the
    first two for a rollout of rank i or higher, in the subset and not; the others for a lower one.
    """
    size = len(rank_weights)
    total = np.concatenate(([0.0], np.cumsum(np.asarray(rank_weights, dtype=np.float64))))  # W(0) .. W(K)

    def expectation(draws: int, special_count: np.ndarray, gain: np.ndarray) -> np.ndarray:
        """E[gain(H)] for each number of specials."""
        hits = np.arange(draws + 1)
        log_factorial = special.gammaln(np.arange(m + 1) + 1.0)

        def log_choose(n: np.ndarray, k: np.ndarray) -> np.ndarray:
            possible = (k >= 0) & (k <= n)
            k = np.where(possible, k, 0)
            value = log_factorial[n] - log_factorial[k] - log_factorial[n - k]
            return np.where(possible, value, -np.inf)

        specials = special_count[:, None]
        log_probability = log_choose(specials, hits) + log_choose(m - 1 - specials, draws - hits)
        return np.exp(log_probability - log_choose(np.array(m - 1), np.array(draws))) @ gain

    above = m - np.arange(1, m + 1)  # rollouts of higher rank than i
    high = expectation(size - 1, above, total[1:]) - expectation(size, above, total)
    # No rollout is lower than rank 1; the value there is never used.
    at_least = np.minimum(above + 1, m - 1)
    low = expectation(size - 1, at_least, total[:-1]) - expectation(size, at_least, total)
    return (size * (high - low)).tolist()


def _order_stat_table(m: int, rank_weights: tuple[float, ...]) -> list[list[float]]:
    table = []
    for count in range(m + 1):
        weights = order_stat_spacing_weights(count, rank_weights) if count > len(rank_weights) else [0.0] * count
        table.append(weights + [0.0] * (m - count))
    return table


def check_size(size: int | None) -> None:
    """Raise ValueError unless ``size`` is an integer >= 1, or None."""
    if size is not None and (isinstance(size, bool) or not isinstance(size, int) or size < 1):
        raise ValueError(f"size must be an integer >= 1, got {size!r}")


def order_stat_advantages(
    rewards: Tensor,
    rank_weights: Sequence[float] | str,
    *,
    size: int | None = None,
    mask: Tensor | None = None,
    monotone: bool = False,
    center: bool = True,
    scale: str = "none",
) -> Tensor:
    r"""OrderGrad: the unbiased policy gradient of any L-statistic of K samples.

    The objective is the expectation of :math:`L = \sum_j w_j R_{(j)}` over K < m samples, R_(1) their best: best
    of K, top-j mean, median, trimmed mean, CVaR. Over uniform subsets I of the group of size K,

    .. math:: A_i = K \left( E[L(I) \mid i \in I] - E[L(I) \mid i \notin I] \right)

    Source: OrderGrad, arXiv 2606.06096; agrees with the authors' code (github.com/paavo5/ordergrad), which leaves
    the factor K to its caller. The formula is centred by itself; ``center`` is accepted for the common contract.
    Nondecreasing in the reward where no weight is negative.

    Args:
        rewards: (P, m) float; higher is better; NaN marks a missing one.
        rank_weights: w_1 .. w_K, the weight of the best first, 1 <= K < m. ``(1, 0, 0, 0)`` is best-of-4,
            ``(0.5, 0.5, 0, 0)`` the mean of the upper half of 4. A prompt with K or fewer valid rollouts has no
            subset without one of them, and gets zeros. Or a name: "median", "quantile:0.9", "cvar:0.25", see
            :func:`tea.estimators.presets.preset_rank_weights`.
        size: K for a name, default m // 2: the larger, the sharper the quantile and the noisier the estimate.
        mask: (P, m) bool, True where the rollout counts.
        monotone: Project on nondecreasing functions of the reward, see :func:`tea.monotone_projection`.
        center: Subtract the group mean.
        scale: "none", or divide by the reward standard deviation + 1e-4 of the "group" or "batch".

    Returns:
        (P, m) advantages, float64 for float64 rewards, else float32.

    Raises:
        TypeError, ValueError: On bad arguments, see :func:`tea.estimators.group.as_group`.

    Checked by ``tests/estimators/test_order.py``, against all subsets.
    """
    check_size(size)
    check_rank_weights(rank_weights)
    m = rewards.shape[-1] if isinstance(rewards, Tensor) and rewards.ndim == 2 else None
    if isinstance(rank_weights, str):
        rank_weights = preset_rank_weights(rank_weights, size or max((m or 2) // 2, 1))
    elif size not in (None, len(rank_weights)):
        raise ValueError(f"size is for a named preset; {len(rank_weights)} rank_weights are given, size={size}")
    check_rank_weights(rank_weights, m)
    weights = tuple(float(w) for w in rank_weights)
    return spacing_advantages(
        rewards, _order_stat_table, weights, mask=mask, monotone=monotone, center=True, scale=scale
    )


def bon_max_second_advantages(
    rewards: Tensor,
    *,
    mask: Tensor | None = None,
    monotone: bool = False,
    center: bool = True,
    scale: str = "none",
) -> Tensor:
    r"""BoN-max-second: the best rollout gets its lead over the second best, the others nothing.

    .. math:: A_{(m)} = R_{(m)} - R_{(m-1)}, \quad A_{(i)} = 0 \quad (i < m)

    before centring; zeros where two share the best reward. Source: arXiv 2503.19595, as in verl's ``grpo_passk``,
    which does not centre and by default divides by the group standard deviation. It is
    :func:`tea.max_at_k_advantages` at k = m divided by m: the best-of-m gradient.

    Args:
        rewards: (P, m) float; higher is better; NaN marks a missing one.
        mask: (P, m) bool, True where the rollout counts.
        monotone: Project on nondecreasing functions of the reward (it is one already).
        center: Subtract the group mean.
        scale: "none", or divide by the reward standard deviation + 1e-4 of the "group" or "batch".

    Returns:
        (P, m) advantages, float64 for float64 rewards, else float32.

    Raises:
        TypeError, ValueError: On bad arguments, see :func:`tea.estimators.group.as_group`.

    Checked by ``tests/estimators/test_order.py``.
    """
    group = as_group(rewards, mask)
    second = largest(group.filled(-torch.inf), 2)[:, 1:]
    raw = (group.rewards - second).clamp(min=0.0)
    return finalize(raw, group, monotone=monotone, center=center, scale=scale)


def _tail_rl_table(m: int) -> list[list[float]]:
    return [[1.0 / (count - i + 1) if i <= count else 0.0 for i in range(1, m + 1)] for count in range(m + 1)]


def tail_rl_advantages(
    rewards: Tensor,
    *,
    mask: Tensor | None = None,
    monotone: bool = False,
    center: bool = True,
    scale: str = "none",
) -> Tensor:
    r"""TailRL: every reward gap weighted by one over the number of rollouts that reach across it.

    .. math:: A_{(i)} = w_i - \bar w, \quad w_i = w_{i-1} + \frac{R_{(i)} - R_{(i-1)}}{m - i + 1}

    Up to the factor m the plug-in gradient of :math:`\int \log P(R \ge t) \, dt`: a maximum likelihood of
    exceeding every threshold. Source: TailRL, arXiv 2609.02987; compared with the authors' code
    (github.com/Zanette-Labs/TailRL), not with the text. This is the form of their GUI experiment; their README and
    reference implementations multiply it by m. The formula is centred by itself; ``center`` is accepted for the
    common contract. Arguments, result and errors as in :func:`bon_max_second_advantages`.

    Checked by ``tests/estimators/test_order.py``, against finite differences of that integral.
    """
    return spacing_advantages(rewards, _tail_rl_table, mask=mask, monotone=monotone, center=True, scale=scale)
