"""Prefix-TEA, the cross-fitted and debiased TEA."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache, partial

import numpy as np
import torch
from torch import Tensor

from tea.estimators.constants import constant
from tea.estimators.families import BANK_SIZE, check_tail, combine, slope_bank
from tea.estimators.group import (
    as_group,
    by_count,
    check_tail_fraction,
    check_target_n,
    finalize,
    tail_count,
    warn_if_binary,
)
from tea.estimators.normal import truncated_normal_constants
from tea.estimators.tail import tail_shaped_reward
from tea.estimators.tensors import (
    in_blocks,
    power_of_two_below,
    scatter_sorted,
    sort_groups,
    values_are_readable,
    where,
)

DEFAULT_SHRINKAGE = 2.0


def default_prefix_sizes(num_generations: int) -> tuple[int, ...]:
    """Sizes m/2, 5m/8, 3m/4 and m - 1, rounded; distinct, increasing, within 2 .. m - 1."""
    m = num_generations
    sizes = {math.floor(m * share + 0.5) for share in (0.5, 0.625, 0.75)} | {m - 1}
    return tuple(sorted(n for n in sizes if 2 <= n <= m - 1))


def prefix_weights(prefix_sizes: Sequence[int], order: int) -> list[float]:
    r"""Minimum-norm weights of the generalised jackknife.

    .. math:: \sum_j w_j = 1, \quad \sum_j w_j n_j^{-l} = 0 \quad (l = 1, \dots, K - 1)

    Args:
        prefix_sizes: Distinct sizes n_1 < ... < n_J, J >= K.
        order: K; the bias terms of order n^-1 .. n^-(K-1) cancel.
    """
    # Only ratios of sizes matter; powers of n itself would make the system needlessly ill-conditioned.
    ratios = max(prefix_sizes) / np.asarray(prefix_sizes, dtype=np.float64)
    powers = ratios[None, :] ** np.arange(order)[:, None]
    return np.linalg.lstsq(powers, np.eye(order)[0], rcond=None)[0].tolist()


def check_order(order: int) -> None:
    """Raise ValueError unless ``order`` is an integer >= 1."""
    if isinstance(order, bool) or not isinstance(order, int) or order < 1:
        raise ValueError(f"order must be an integer >= 1, got {order!r}")


def check_shrinkage(shrinkage: float) -> None:
    """Raise ValueError unless ``shrinkage`` is a finite number >= 0."""
    if isinstance(shrinkage, (bool, str)) or not math.isfinite(shrinkage) or shrinkage < 0:
        raise ValueError(f"shrinkage must be a finite number >= 0, got {shrinkage!r}")


def check_prefix_sizes(prefix_sizes: Sequence[int] | None, order: int, num_generations: int | None = None) -> None:
    """Raise ValueError unless the sizes are increasing integers in 2 .. m - 1, at least ``order`` of them."""
    if prefix_sizes is None:
        if num_generations is not None and len(default_prefix_sizes(num_generations)) < order:
            raise ValueError(
                f"order={order} needs {order} distinct prefix sizes between 2 and m - 1, which "
                f"{num_generations} generations per prompt do not have; lower the order or generate more"
            )
        return
    if isinstance(prefix_sizes, (str, int)) or not all(
        isinstance(n, int) and not isinstance(n, bool) for n in prefix_sizes
    ):
        raise ValueError(f"prefix_sizes must be a sequence of integers, got {prefix_sizes!r}")
    sizes = list(prefix_sizes)
    if len(sizes) < order or any(a >= b for a, b in itertools.pairwise(sizes)) or sizes[0] < 2:
        raise ValueError(
            f"prefix_sizes must be at least {order} (the order) strictly increasing integers >= 2, got {sizes}"
        )
    if num_generations is not None and sizes[-1] > num_generations - 1:
        raise ValueError(
            f"prefix_sizes must be below the number of generations per prompt ({num_generations}), got {sizes}: "
            "a rollout is left out of its own prefix"
        )


def _sizes_of(count: int, m: int, prefix_sizes: tuple[int, ...] | None) -> tuple[int, ...]:
    """The sizes for a prompt of which ``count`` of m rollouts are valid."""
    if prefix_sizes is None:
        return default_prefix_sizes(count)
    scaled = {math.floor(n * count / m + 0.5) for n in prefix_sizes}
    return tuple(sorted(n for n in scaled if 2 <= n <= count - 1))


def _prefix_table(
    m: int, target_n: float, tail_fraction: float, order: int, prefix_sizes: tuple[int, ...] | None
) -> list[list[float]]:
    """Per number of valid rollouts 0 .. m, for each size: n, tail count t, s^2, weight * n / t, slopes of the bank."""
    width = len(prefix_sizes or default_prefix_sizes(m))
    table = []
    for count in range(m + 1):
        sizes = _sizes_of(count, m, prefix_sizes)
        weights = prefix_weights(sizes, min(order, len(sizes))) if sizes else []
        row: list[float] = []
        for n, weight in zip(sizes, weights, strict=True):
            t = tail_count(n, tail_fraction)
            constants = truncated_normal_constants(t / n)
            row += [n, t, constants.std**2, weight * n / t, *slope_bank(target_n, t / n)]
        table.append(row + [2.0, 2.0, *[0.0] * (2 + BANK_SIZE)] * (width - len(sizes)))
    return table


@lru_cache(maxsize=1024)
def _reach(m: int, tail_fraction: float, prefix_sizes: tuple[int, ...] | None) -> list[int]:
    """For each size, among how many of the best rollouts the tail of any prefix lies: its own t and those left out."""
    reach = [2] * len(prefix_sizes or default_prefix_sizes(m))
    for count in range(3, m + 1):
        for j, n in enumerate(_sizes_of(count, m, prefix_sizes)):
            reach[j] = max(reach[j], tail_count(n, tail_fraction) + count - n)
    return reach


def _count_up_(x: Tensor) -> Tensor:
    """``x.cumsum(0)`` in place: log2 steps of whole rows, many times faster on the CPU than torch's own."""
    length, half = len(x), 1
    while half < length:
        whole = length - length % (2 * half)
        pairs = x[:whole].unflatten(0, (-1, 2, half))
        pairs[:, 1] += pairs[:, 0, -1:]
        if whole + half < length:
            x[whole + half :] += x[whole + half - 1]
        half *= 2
    return x


def _window_variance(own: Tensor, n: Tensor, count: Tensor) -> Tensor:
    """Variance of rollouts i+1 .. i+n (mod count), divisor n - 1: (P, J, m), of (P, m), (P, J) and (P, 1)."""
    m = own.shape[1]
    index = torch.arange(2 * m, device=own.device)
    end = (index[:m] + n.long().unsqueeze(2)).flatten(1)
    # Differences of running sums, once round and again, which float32 would cancel to noise.
    precise = own.dtype if own.device.type == "mps" else torch.float64
    n = n.to(precise).unsqueeze(2)
    deviation = own.to(precise)
    deviation = deviation - deviation.sum(1, keepdim=True) / count.clamp(min=1)
    deviation = deviation.gather(1, where(index < count, index, index - count).clamp_(max=m - 1))
    total, squares = (
        running.gather(1, end).unflatten(1, (-1, m)).sub_(running[:, None, :m])
        for running in (deviation.cumsum(1), deviation.square().cumsum(1))
    )
    variance = squares.sub_(total.square_().div_(n)).div_(n - 1.0)
    # What the differences leave of equal rewards is rounding, not a variance.
    return where(variance > 8 * m * torch.finfo(precise).eps, variance, 0.0).to(own.dtype)


def _cross_fitted(height: Tensor, count: Tensor, per_size: Tensor, *, reach: list[int], shrinkage: float) -> Tensor:
    """The combination over sizes, (P, m), in units of ``height``.

    Args:
        height: (P, m) rewards in sampling order, in [0, 2); the missing ones last, -inf.
        count: (P, 1), how many are not missing.
        per_size: (P, J, 5): n, t, s^2, weight * n / t, slope.
        reach: For each size, among how many of the best rollouts the tail of every prefix lies.
        shrinkage: lambda.
    """
    dtype, m = height.dtype, height.shape[1]
    descending, order = sort_groups(-height)
    own, level = height.clamp(min=0.0), (-descending).clamp_(min=0.0)
    index = torch.arange(m, device=height.device).unsqueeze(0)
    absent = 2 * m - 1  # no window reaches that far
    place = where(index < count, order, absent)[:, : max(reach)]
    prior = _window_variance(own, per_size[:, :, 0], count).transpose(0, 1) if shrinkage > 0 else None
    constants = per_size.permute(2, 1, 0).unsqueeze(3)  # (5, J, P, 1)
    # In eager mode on the CPU, ranks first and prompts last: a sum over ranks is then a sum of vectors, of several
    # prompts at a time. Counts are there in the narrowest integers, of which a vector operation takes most. Elsewhere,
    # prompts first; counts are floats, which need no conversion.
    turned, small = values_are_readable(height), dtype
    if turned:
        small = next(kind for kind in (torch.int8, torch.int16, torch.int32) if absent <= torch.iinfo(kind).max)
        own, level, place, count, index = (x.t().contiguous() for x in (own, level, place, count, index))
        constants = constants.transpose(2, 3).contiguous()
        prior = None if prior is None else prior.transpose(1, 2)
    axis, ranks = (0, 0) if turned else (1, 2)  # of the ranks, among two dimensions and among three

    # (a, i, P) or (P, i, a): how many places after rollout i the a-th best one was sampled; i itself is the last.
    offset = place.to(small).unsqueeze(1) - (index + 1).to(small).unsqueeze(ranks)
    # Compared with a tensor, because torch compares with a number element by element.
    passed = (offset < torch.zeros_like(count, dtype=small).unsqueeze(ranks)).to(small)
    offset += passed * count.to(small).unsqueeze(ranks)

    n, t, tail_variance, factor, slope = constants
    tails = []
    for columns, size, tail_size in zip(reach, n.to(small), t.to(small), strict=True):
        member = (offset.narrow(ranks, 0, columns) < size.unsqueeze(ranks)).to(small)
        above = member.to(dtype, copy=True).mul_(level.narrow(axis, 0, columns).unsqueeze(1))
        # The t-th member stands where t - 1 have been counted; what is above it is the rest of the tail.
        counted = _count_up_(member) if turned else member.cumsum(ranks)
        last = (counted < tail_size.unsqueeze(ranks)).to(small).sum(ranks, dtype=small)
        threshold = level.gather(axis, last.long().clamp(max=columns - 1))
        above.sub_(threshold.unsqueeze(ranks)).clamp_(min=0.0)
        tails.append((threshold, above.sum(ranks), above.square_().sum(ranks)))
    threshold, excess, squares = (torch.stack(x) for x in zip(*tails, strict=True))  # (J, m, P) or (J, P, m)
    excess /= t
    # The smallest one above the threshold is 0 above it, so this difference never cancels.
    sum_of_squares = (squares - t * excess**2).clamp_(min=0.0)
    variance = sum_of_squares / (t - 1.0)
    if prior is not None:
        variance = (sum_of_squares + shrinkage * tail_variance * prior) / (t - 1.0 + shrinkage)
    # Deviations below this share of the group's spread are rounding, not a standard deviation to divide by.
    usable = variance > (8.0 * torch.finfo(dtype).eps) ** 2
    std = where(usable, variance, 1.0).sqrt()
    shaped = tail_shaped_reward(own - threshold, excess, std, slope)
    combined = (factor * where(usable, shaped, 0.0)).sum(0)
    return combined.t().contiguous() if turned else combined


def prefix_tea_advantages(
    rewards: Tensor,
    target_n: float,
    tail_fraction: float = 0.25,
    *,
    order: int = 2,
    prefix_sizes: Sequence[int] | None = None,
    shrinkage: float = DEFAULT_SHRINKAGE,
    tail: str = "gaussian",
    mask: Tensor | None = None,
    monotone: bool = False,
    center: bool = True,
    scale: str = "none",
) -> Tensor:
    r"""Prefix-TEA: TEA with the tail fitted on other rollouts, at several sizes, combined to cancel its bias.

    For rollout i and size n the threshold, mean and standard deviation of the tail come from rollouts
    i+1 .. i+n (mod m) in sampling order, never from i itself. The advantages at sizes n_1 < ... < n_J are
    combined with the minimum-norm weights of a generalised jackknife, sum w_j = 1 and
    sum w_j n_j^-l = 0 for l < order, so that the bias falls as m^-order. A tail of t points can be much too
    narrow by chance, and its standard deviation stands in a denominator, so its variance is shrunk towards what
    the whole prefix implies under a Gaussian,

    .. math::
        \hat\sigma^2 \leftarrow \frac{(t - 1) \hat\sigma^2 + \lambda s^2 \mathrm{var}(prefix)}{t - 1 + \lambda}

    Source: Li, Qian, Mou, arXiv 2605.10716, for the principle; the circular cross-fitting and the shrinkage are
    ours. Its standard deviation is several times TEA's: it pays when many prompts are averaged.

    Not equivariant under permutations of the rollouts: which ones share a prefix depends on their order.

    Args:
        rewards: (P, m) float in sampling order; higher is better; NaN marks a missing one.
        target_n: N, samples per prompt at deployment, >= 1.
        tail_fraction: alpha, in (0, 1].
        order: K >= 1: the bias is O(m^-K). 1 only cross-fits.
        prefix_sizes: At least K increasing sizes in 2 .. m - 1; default m/2, 5m/8, 3m/4, m - 1. A prompt with
            fewer valid rollouts uses them in proportion (and a lower order where too few are left); one with
            fewer than 3 cannot be cross-fitted and gets zeros.
        shrinkage: lambda >= 0, in pseudo-observations; 0: none, as published.
        tail: Family of the upper tail, which sets c~: "gaussian" as published, "exponential", "gpd" or "auto", see
            :mod:`tea.estimators.families`.
        mask: (P, m) bool, True where the rollout counts.
        monotone: Project on nondecreasing functions of the reward, see :func:`tea.monotone_projection`.
        center: Subtract the group mean.
        scale: "none", or divide by the reward standard deviation + 1e-4 of the "group" or "batch".

    Returns:
        (P, m) advantages, float64 for float64 rewards, else float32.

    Raises:
        TypeError, ValueError: On bad arguments, see :func:`tea.estimators.group.as_group`.

    Checked by ``tests/estimators/test_prefix.py``, against a loop.
    """
    check_target_n(target_n)
    check_tail_fraction(tail_fraction)
    check_order(order)
    check_shrinkage(shrinkage)
    check_tail(tail)
    group = as_group(rewards, mask)
    m = rewards.shape[1]
    check_prefix_sizes(prefix_sizes, order, m)
    warn_if_binary(group, "prefix_tea")
    sizes = None if prefix_sizes is None else tuple(prefix_sizes)
    dtype, device = group.rewards.dtype, rewards.device
    table = constant(_prefix_table, m, target_n, tail_fraction, order, sizes, dtype=dtype, device=device)
    per_size = by_count(table, group).unflatten(1, (-1, 4 + BANK_SIZE))  # (P, J, 4 + BANK_SIZE)
    slopes = combine(per_size[:, :, 4:].transpose(1, 2), group, tail, tail_fraction)  # (P, J)
    per_size = torch.cat((per_size[:, :, :4], slopes.unsqueeze(2)), dim=2)

    floor = group.filled(torch.inf).amin(1, keepdim=True)
    height = group.filled(-torch.inf) - floor
    unit = power_of_two_below(height.amax(1, keepdim=True).clamp(min=0.0))
    # Windows run over the valid rollouts: these first, in their order.
    place = where(group.valid, group.valid.cumsum(1), group.count + (~group.valid).cumsum(1)) - 1
    reach = _reach(m, tail_fraction, sizes)
    raw = in_blocks(
        partial(_cross_fitted, reach=reach, shrinkage=shrinkage),
        m * max(reach),
        scatter_sorted(height / unit, place),
        group.count,
        per_size,
    )
    raw = raw.gather(1, place) * unit
    return finalize(raw, group, monotone=monotone, center=center, scale=scale, ties_agree=False)
