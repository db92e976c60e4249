"""What a user would compare with: estimators that aim at the mean of one response, or at no N of their own."""

from __future__ import annotations

import torch
from torch import Tensor

from tea.estimators.group import Group, as_group, finalize, group_mean


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
    Source: arXiv 2402.03300; ``scale="none"`` is Dr. GRPO, arXiv 2503.20783.

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
