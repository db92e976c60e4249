"""What a user would compare with: estimators that aim at the mean of one response, or at no N of their own."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tea.estimators.constants import constant
from tea.estimators.group import Group, as_group, by_count, check_target_n, finalize, group_mean
from tea.estimators.tensors import scatter_sorted, sort_groups, values_are_readable, where


def grpo_advantages(
    rewards: Tensor,
    *,
    mask: Tensor | None = None,
    monotone: bool = False,
    center: bool = True,
    scale: str = "group",
) -> Tensor:
    r"""GRPO: the reward minus the group mean, over the group standard deviation.

    .. math:: A_i = (R_i - \bar R) / (\mathrm{std}(R) + 10^{-4})

    with the divisor m - 1 in the standard deviation, as TRL's GRPOTrainer computes it, to the last bit: where the
    mean of equal rewards is not exact, a constant group gets that rounding error instead of zeros, as there.
    Source: arXiv 2402.03300.

    Args:
        rewards: (P, m) float; higher is better; NaN marks a missing one.
        mask: (P, m) bool, True where the rollout counts.
        monotone: Project on nondecreasing functions of the reward (it is one already).
        center: Subtract the group mean.
        scale: What to divide by: the reward standard deviation + 1e-4 of the "group" or "batch", or "none".

    Returns:
        (P, m) advantages, float64 for float64 rewards, else float32.

    Raises:
        TypeError, ValueError: On bad arguments, see :func:`tea.estimators.group.as_group`.

    Checked by ``tests/estimators/test_baselines.py`` and, in training, ``tests/trainers/test_parity.py``.
    """
    group = as_group(rewards, mask)
    return finalize(group.rewards, group, monotone=monotone, center=center, scale=scale)


def _deviation(group: Group) -> Tensor:
    """Reward minus group mean; exactly 0 in a constant group."""
    rewards = group.rewards - group.filled(torch.inf).amin(1, keepdim=True)
    return rewards - group_mean(rewards, group)


def dr_grpo_advantages(
    rewards: Tensor,
    *,
    mask: Tensor | None = None,
    monotone: bool = False,
    center: bool = True,
    scale: str = "none",
) -> Tensor:
    r"""Dr. GRPO: the reward minus the group mean.

    .. math:: A_i = R_i - \bar R

    Source: arXiv 2503.20783. The formula is centred by itself; ``center`` is accepted for the common contract.
    Arguments, result and errors as in :func:`grpo_advantages`.

    Checked by ``tests/estimators/test_baselines.py``.
    """
    group = as_group(rewards, mask)
    return finalize(_deviation(group), group, monotone=monotone, center=center, scale=scale)


def rloo_advantages(
    rewards: Tensor,
    *,
    mask: Tensor | None = None,
    monotone: bool = False,
    center: bool = True,
    scale: str = "none",
) -> Tensor:
    r"""RLOO: the reward minus the mean of the others.

    .. math:: A_i = R_i - \frac{1}{m - 1} \sum_{j \ne i} R_j = \frac{m}{m - 1} (R_i - \bar R)

    Source: arXiv 2402.14740. The formula is centred by itself; ``center`` is accepted for the common contract.
    Arguments, result and errors as in :func:`grpo_advantages`.

    Checked by ``tests/estimators/test_baselines.py``.
    """
    group = as_group(rewards, mask)
    count = group.count.to(group.rewards.dtype)
    raw = _deviation(group) * (count / (count - 1).clamp(min=1))
    return finalize(raw, group, monotone=monotone, center=center, scale=scale)


def check_nonnegative(rewards: Tensor, valid: Tensor) -> None:
    """Raise ValueError, on the CPU in eager mode, if a valid reward is negative."""
    if not values_are_readable(rewards):
        return
    negative = valid & (rewards < 0)
    if negative.any():
        prompt, rollout = negative.nonzero()[0].tolist()
        raise ValueError(
            f"rewards must not be negative for max_rl, which divides by their mean, got "
            f"{rewards[prompt, rollout].item()} at prompt {prompt}, rollout {rollout} ({int(negative.sum())} in all); "
            "shift them by a constant bound of yours, or use max_at_k or tea"
        )


def max_rl_advantages(
    rewards: Tensor,
    *,
    mask: Tensor | None = None,
    monotone: bool = False,
    center: bool = True,
    scale: str = "none",
) -> Tensor:
    r"""MaxRL: the reward minus the group mean, over the group mean.

    .. math:: A_i = (R_i - \bar R) / \bar R

    and zeros where no reward is positive. With 0/1 rewards it aims at :math:`\log p` truncated to order K,
    :math:`-\sum_{k=1}^{K} (1 - p)^k / k`: at maximum likelihood as m grows, which gives a prompt weight
    :math:`1 / p`. Uncentred, :math:`R_i / \bar R`, it is exactly unbiased for K = m; as the field uses it, for
    K = m - 1, because a group without a success has no mean to subtract. Source: MaxRL, arXiv 2602.02710; the
    authors add 1e-6 to the denominator. It does not change when all rewards are multiplied by a number, and is not
    defined for negative ones.

    Args:
        rewards: (P, m) float, not negative, canonically 0 or 1; NaN marks a missing one.
        mask: (P, m) bool, True where the rollout counts.
        monotone: Project on nondecreasing functions of the reward (it is one already).
        center: Subtract the group mean; off: the reward over the group mean.
        scale: "none", or divide (once more) by the reward standard deviation + 1e-4 of the "group" or "batch".

    Returns:
        (P, m) advantages, float64 for float64 rewards, else float32.

    Raises:
        ValueError: If a reward is negative (checked on the CPU in eager mode; elsewhere the advantages of that group
            come out as NaN), or on bad arguments as in :func:`tea.estimators.group.as_group`.
        TypeError: As there.

    Checked by ``tests/estimators/test_baselines.py``.
    """
    group = as_group(rewards, mask)
    check_nonnegative(group.rewards, group.valid)
    mean = group_mean(group.rewards, group)
    # The deviation of a constant group is exactly 0.
    raw = where(mean > 0, (_deviation(group) if center else group.rewards) / mean, 0.0)
    if not values_are_readable(rewards):
        raw = where((group.rewards < 0).any(1, keepdim=True), torch.nan, raw)
    return finalize(raw, group, monotone=monotone, center=center, scale=scale)


def bon_max_mean_advantages(
    rewards: Tensor,
    *,
    mask: Tensor | None = None,
    monotone: bool = False,
    center: bool = True,
    scale: str = "none",
) -> Tensor:
    r"""BoN-max-mean: the best rollout gets its lead over the group mean, the others nothing.

    .. math:: A_i = (\max_j R_j - \bar R) \, 1\{R_i = \max_j R_j\}

    before centring. Several best ones share it equally, which is what picking one of them at random gives in
    expectation; arXiv 2510.23393 (appendix A) gives each the whole of it. Source: after arXiv 2412.15287.
    Arguments, result and errors as in :func:`grpo_advantages`.

    Checked by ``tests/estimators/test_baselines.py``.
    """
    group = as_group(rewards, mask)
    deviation = _deviation(group)
    best = group.rewards == group.filled(-torch.inf).amax(1, keepdim=True)
    share = best / best.sum(1, keepdim=True).clamp(min=1).to(deviation.dtype)
    raw = where(best, deviation * share, 0.0)
    return finalize(raw, group, monotone=monotone, center=center, scale=scale)


def _cat_bon_table(m: int, target_n: float) -> list[list[float]]:
    """Per number of valid rollouts 0 .. m, N q^(N-1) for 0 .. m - 1 smaller ones."""
    rows = []
    for count in range(m + 1):
        others = max(count - 1, 1)
        rows.append([target_n * min(smaller / others, 1.0) ** (target_n - 1.0) for smaller in range(m)])
    return rows


def cat_bon_advantages(
    rewards: Tensor,
    target_n: float,
    *,
    mask: Tensor | None = None,
    monotone: bool = False,
    center: bool = True,
    scale: str = "none",
) -> Tensor:
    r"""CAT-BoN: the deviation from the mean, weighted by the density of the best of N at the rollout's rank.

    .. math:: A_i = N q_i^{N-1} (R_i - \bar R), \quad q_i = \frac{\#\{j : R_j < R_i\}}{m - 1}

    Source: Compute Aligned Training, arXiv 2604.24957; compared with the authors' code
    (github.com/adamoosya/compute-aligned-training), not with the text. The weight :math:`N q^{N-1}` and the ties
    (an equal reward does not count as smaller) are theirs. Theirs differs in three points: q is smoothed to
    (smaller + 1) / (m + 1), which for N far beyond m leaves even the best rollout little weight
    (:math:`N (m / (m + 1))^{N-1}` where here it is N); the deviation is divided by the group standard deviation
    (``scale="group"``); and the result is not centred (``center=False``), while their presets divide the weights
    by their mean over the batch. Not monotone: a rollout below the mean is pushed down the more the higher it ranks.

    Args:
        rewards: (P, m) float; higher is better; NaN marks a missing one.
        target_n: N, samples per prompt at deployment, >= 1.
        mask: (P, m) bool, True where the rollout counts.
        monotone: Project on nondecreasing functions of the reward, see :func:`tea.monotone_projection`.
        center: Subtract the group mean.
        scale: "none", or divide by the reward standard deviation + 1e-4 of the "group" or "batch".

    Returns:
        (P, m) advantages, float64 for float64 rewards, else float32.

    Raises:
        TypeError, ValueError: On bad arguments, see :func:`tea.estimators.group.as_group`.

    Checked by ``tests/estimators/test_baselines.py``.
    """
    check_target_n(target_n)
    group = as_group(rewards, mask)
    m = rewards.shape[1]
    values, order = sort_groups(group.filled(torch.inf))
    # Where the run of equal rewards begins is how many are smaller.
    begins = where(values[:, 1:] != values[:, :-1], torch.arange(1, m, device=values.device), 0)
    smaller = torch.nn.functional.pad(begins, (1, 0)).cummax(dim=1).values
    table = constant(_cat_bon_table, m, target_n, dtype=values.dtype, device=values.device)
    weight = scatter_sorted(by_count(table, group).gather(1, smaller), order)
    return finalize(weight * _deviation(group), group, monotone=monotone, center=center, scale=scale)


def check_beta(beta: float) -> None:
    """Raise ValueError unless ``beta`` is a finite number other than 0."""
    if isinstance(beta, (bool, str)) or not math.isfinite(beta) or beta == 0:
        raise ValueError(f"beta must be a finite number other than 0 (its limit there is dr_grpo), got {beta!r}")


def rs_grpo_advantages(
    rewards: Tensor,
    beta: float = 2.0,
    *,
    mask: Tensor | None = None,
    monotone: bool = False,
    center: bool = True,
    scale: str = "none",
) -> Tensor:
    r"""RS-GRPO: the policy gradient of the entropic risk :math:`\frac{1}{\beta} \log E[e^{\beta R}]`.

    .. math:: A_i = \frac{1}{\beta} \left( \frac{e^{\beta R_i}}{\frac{1}{m} \sum_j e^{\beta R_j}} - 1 \right)

    Source: risk-sensitive GRPO, arXiv 2509.24261. The formula is centred by itself; ``center`` is accepted for
    the common contract. Not equivariant under a change of the rewards' unit: beta is per unit of reward.

    Args:
        rewards: (P, m) float; higher is better; NaN marks a missing one.
        beta: Risk seeking (> 0, towards the maximum) or averse (< 0), per unit of reward; the paper's code has 2.
        mask: (P, m) bool, True where the rollout counts.
        monotone: Project on nondecreasing functions of the reward (it is one already).
        center: Subtract the group mean.
        scale: "none", or divide by the reward standard deviation + 1e-4 of the "group" or "batch".

    Returns:
        (P, m) advantages, float64 for float64 rewards, else float32.

    Raises:
        TypeError, ValueError: On bad arguments, see :func:`tea.estimators.group.as_group`.

    Checked by ``tests/estimators/test_baselines.py``.
    """
    check_beta(beta)
    group = as_group(rewards, mask)
    # From the reward with the largest exponential, so that nothing overflows; less 1, so that nothing cancels.
    anchor = (
        group.filled(-torch.inf).amax(1, keepdim=True) if beta > 0 else group.filled(torch.inf).amin(1, keepdim=True)
    )
    excess = torch.expm1(beta * (group.rewards - anchor))
    mean = group_mean(excess, group)
    raw = (excess - mean) / (beta * (1.0 + mean))
    return finalize(raw, group, monotone=monotone, center=center, scale=scale)
