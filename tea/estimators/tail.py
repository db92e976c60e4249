"""TEA, the tail-extrapolated advantage, and the tail statistics that it is made of."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from tea.estimators.constants import constant
from tea.estimators.families import (
    AUTO_FRACTIONS,
    BANK_SIZE,
    check_tail,
    combine,
    fraction_weights,
    slope_bank,
)
from tea.estimators.group import (
    Group,
    as_group,
    by_count,
    check_tail_fraction,
    check_target_n,
    finalize,
    tail_count,
    warn_if_binary,
)
from tea.estimators.tensors import largest, power_of_two_below, where


def _tail_table(m: int, target_n: float, tail_fraction: float) -> list[list[float]]:
    """Per number of valid rollouts 0 .. m: tail count, leading factor, slope of every member of the bank."""
    rows = []
    for count in range(m + 1):
        k = tail_count(count, tail_fraction)
        slopes = slope_bank(target_n, k / count) if count > 1 else [0.0] * BANK_SIZE
        rows.append([float(k), count / k if count > 1 else 0.0, *slopes])
    return rows


class _Tail(NamedTuple):
    """The k largest rewards of each prompt, measured from the k-th; every tensor is (P, 1)."""

    threshold: Tensor
    unit: Tensor  # power of two that the next two are divided by, so that no square over- or underflows
    excess: Tensor  # mean - threshold
    std: Tensor  # divisor k - 1; 1 where all k rewards are equal
    slope: Tensor
    factor: Tensor


def _upper_tail(group: Group, target_n: float, tail_fraction: float, tail: str) -> _Tail:
    m = group.rewards.shape[1]
    table = constant(_tail_table, m, target_n, tail_fraction, dtype=group.rewards.dtype, device=group.rewards.device)
    rows = by_count(table, group)
    k, factor = rows[:, :1], rows[:, 1:2]
    slope = combine(rows[:, 2:], group, tail, tail_fraction).unsqueeze(1)
    top = largest(group.filled(-torch.inf), tail_count(m, tail_fraction))
    member = torch.arange(top.shape[1], device=top.device) < k
    threshold = top.gather(1, (k - 1).clamp(min=0).long())
    above = where(member, top - threshold, 0.0)
    unit = power_of_two_below(above[:, :1])
    above = above / unit
    excess = above.sum(1, keepdim=True) / k
    variance = where(member, (above - excess) ** 2, 0.0).sum(1, keepdim=True) / (k - 1)
    return _Tail(threshold, unit, excess, where(variance > 0, variance.sqrt(), 1.0), slope, factor)


def tail_shaped_reward(above: Tensor, excess: Tensor, std: Tensor, slope: Tensor) -> Tensor:
    r"""T(u) as a function of :math:`w = u - r`, with :math:`\delta = \mu_\alpha - r`.

    .. math:: T = w \left[ 1 + \frac{\tilde c}{2 \sigma_\alpha} (w - 2 \delta) \right], \quad w \ge 0

    which is :math:`(u - r) + \tilde c / (2 \sigma_\alpha) \, [(u - \mu_\alpha)^2 - (r - \mu_\alpha)^2]`, free of
    the location. 0 for w <= 0.
    """
    above = above.clamp(min=0.0)
    return above * (1.0 + slope * (above - 2.0 * excess) / (2.0 * std))


def _tea(group: Group, target_n: float, tail_fraction: float, tail: str) -> Tensor:
    fitted = _upper_tail(group, target_n, tail_fraction, tail)
    above = (group.filled(-torch.inf) - fitted.threshold) / fitted.unit
    return tail_shaped_reward(above, fitted.excess, fitted.std, fitted.slope) * fitted.factor * fitted.unit


def tea_advantages(
    rewards: Tensor,
    target_n: float,
    tail_fraction: float | Literal["auto"] = 0.25,
    *,
    tail: str = "gaussian",
    mask: Tensor | None = None,
    monotone: bool = False,
    center: bool = True,
    scale: str = "none",
) -> Tensor:
    r"""TEA: the policy gradient of best-of-N, extrapolated from m < N rollouts by a Gaussian upper tail.

    With the threshold r (the k-th largest reward, k = max(ceil(alpha m), 2)), the mean and standard deviation of
    the k largest (divisor k - 1), and alpha = k / m,

    .. math::
        A_i = \frac{1}{\alpha} 1\{R_i \ge r\} \, T(R_i), \quad
        T(u) = (u - r) + \frac{\tilde c}{2 \sigma_\alpha} \left[ (u - \mu_\alpha)^2 - (r - \mu_\alpha)^2 \right],
        \quad \tilde c = \frac{c_N - h}{s}

    Source: Li, Qian, Mou, arXiv 2605.10716. Bias O(1/m), variance O(log N / m). T dips below zero just above r:
    the tail must spread, not only shift; ``monotone=True`` takes the dip out.

    Args:
        rewards: (P, m) float; higher is better; NaN marks a missing one.
        target_n: N, samples per prompt at deployment, >= 1.
        tail_fraction: alpha, in (0, 1]: the share of rollouts that counts as tail. "auto": the largest of 1/2, 1/4
            and 1/8 at which the batch is compatible with the family, see
            :func:`tea.estimators.families.fraction_weights`.
        tail: Family of the upper tail, which sets c~: "gaussian" as published, "exponential", "gpd" or "auto", see
            :mod:`tea.estimators.families`.
        mask: (P, m) bool, True where the rollout counts.
        monotone: Project on nondecreasing functions of the reward, see :func:`tea.monotone_projection`.
        center: Subtract the group mean.
        scale: "none", or divide by the reward standard deviation + 1e-4 of the "group" or "batch".

    Returns:
        (P, m) advantages, to be averaged over the group: positive ones are to become more likely. float64 for
        float64 rewards, else float32. Zeros for a tail of equal rewards.

    Raises:
        TypeError, ValueError: On bad arguments, see :func:`tea.estimators.group.as_group`.

    Checked by ``tests/estimators/test_tail.py``.
    """
    check_target_n(target_n)
    check_tail_fraction(tail_fraction, auto=True)
    check_tail(tail)
    group = as_group(rewards, mask)
    warn_if_binary(group, "tea")
    if isinstance(tail_fraction, str) and tail in ("gpd", "auto"):
        tail_fraction = AUTO_FRACTIONS[0]
    if isinstance(tail_fraction, str):
        weights = fraction_weights(group, tail)
        candidates = torch.stack([_tea(group, target_n, fraction, tail) for fraction in AUTO_FRACTIONS])
        raw = torch.tensordot(weights, candidates.nan_to_num(0.0), dims=1)
    else:
        raw = _tea(group, target_n, tail_fraction, tail)
    return finalize(raw, group, monotone=monotone, center=center, scale=scale)


class TailStatistics(NamedTuple):
    """Upper tail of each prompt's rewards; all (P,), NaN where fewer than 2 rollouts are valid.

    Attributes:
        threshold: The k-th largest reward.
        mean: Mean of the k largest.
        std: Their standard deviation, divisor k - 1.
        best_of_n: Forecast of the expected best of ``target_n`` samples, mean + c~ * std.
    """

    threshold: Tensor
    mean: Tensor
    std: Tensor
    best_of_n: Tensor


def tail_statistics(
    rewards: Tensor, target_n: float, tail_fraction: float = 0.25, *, mask: Tensor | None = None
) -> TailStatistics:
    r"""Tail mean and standard deviation, and the best-of-N value that they forecast under a Gaussian tail.

    .. math:: V_N \approx \mu_\alpha + \tilde c \, \sigma_\alpha, \quad \tilde c = (c_N - h) / s

    Source: arXiv 2605.10716. Arguments and errors as in :func:`tea_advantages`.

    Checked by ``tests/estimators/test_tail.py``.
    """
    check_target_n(target_n)
    check_tail_fraction(tail_fraction)
    group = as_group(rewards, mask)
    tail = _upper_tail(group, target_n, tail_fraction, "gaussian")
    std = where(tail.excess > 0, tail.std * tail.unit, 0.0)
    mean = tail.threshold + tail.excess * tail.unit
    values = torch.cat((tail.threshold, mean, std, mean + tail.slope * std), dim=1)
    return TailStatistics(*where(group.count > 1, values, torch.nan).unbind(1))
