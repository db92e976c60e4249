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

import torch
from torch import Tensor

from tea.estimators.group import Table, as_group, by_count, constant, finalize, scatter_sorted


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
    return [k * math.exp(log_binomial(i - 1, k - 1) - log_binomial(m - 1, k - 1)) for i in range(1, m + 1)]


def spacing_advantages(
    rewards: Tensor,
    table: Callable[..., Table],
    *args: Hashable,
    mask: Tensor | None,
    monotone: bool,
    center: bool,
    scale: str,
) -> Tensor:
    """Advantages from spacing weights.

    Args:
        rewards: (P, m).
        table: ``table(m, *args)`` gives for every number of valid rollouts 0 .. m the weights d_1 .. d_m of the
            ascending ranks (zeros beyond that number).
        args: Hashable; tables are cached by them.
        mask: (P, m) bool or None.
        monotone: See :func:`tea.estimators.group.finalize`, as for ``center`` and ``scale``.
    """
    group = as_group(rewards, mask)
    m = rewards.shape[1]
    weights = by_count(constant(table, m, *args, dtype=group.rewards.dtype, device=rewards.device), group)
    # Invalid ones stand in as copies of the largest: no spacing beyond it.
    largest = group.filled(-torch.inf).amax(1, keepdim=True)
    values, order = torch.where(group.valid, group.rewards, largest).sort(dim=1)
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
            "for best-of-N beyond the group use tea, prefix_tea or ladder with target_n"
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
    max@k of arXiv 2510.23393. k = 1: the rewards themselves. k = m: the best rollout gets m times its lead.

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
