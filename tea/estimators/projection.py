"""The monotone projection: isotonic regression of advantages in the order of the rewards."""

from __future__ import annotations

import torch
from torch import Tensor

from tea.estimators.constants import constant
from tea.estimators.tensors import in_blocks, scatter_sorted, sort_groups, values_are_readable, where


def _inverse_sizes(half: int) -> list[list[float]]:
    return [[1.0 / (i + j) for j in range(1, half + 1)] for i in range(1, half + 1)]


def _merge_halves(x: Tensor, half: int) -> Tensor:
    """Isotonic regression of blocks of ``2 * half`` rows, of which both halves are isotonic already.

    Where the halves meet, a suffix of the left and a prefix of the right pool to one value
    v = max_a min_b mean(left[a:], right[:b]); left of it nothing exceeds v and right of it nothing is below.
    """
    blocks = x.unflatten(0, (-1, 2, half))
    left, right = blocks[:, 0], blocks[:, 1]
    if half == 1:
        pooled = (left + right) * 0.5
    else:
        suffix = left.flip(1).cumsum(1).unsqueeze(2)
        prefix = right.cumsum(1).unsqueeze(1)
        means = (suffix + prefix) * constant(_inverse_sizes, half, dtype=x.dtype, device=x.device).unsqueeze(-1)
        pooled = means.amin(2).amax(1, keepdim=True)
    # Nothing to pool: no rounding of the means may move a value.
    top = left[:, -1:]
    pooled = where(top <= right[:, :1], top, pooled)
    return torch.stack((torch.minimum(left, pooled), torch.maximum(right, pooled)), dim=1).view(x.shape)


def _average_ties(a: Tensor, sorted_rewards: Tensor) -> Tensor:
    """Give equal rewards the mean of their advantages; both (P, m), in the order of the rewards.

    As the first of a block plus the mean difference to it, which leaves a block of equal advantages untouched.
    """
    new = sorted_rewards[:, 1:] != sorted_rewards[:, :-1]
    if values_are_readable(a) and new.all():
        return a
    num_prompts, m = a.shape
    index = torch.arange(m, device=a.device).expand(num_prompts, m)
    edge = torch.ones_like(new[:, :1])
    first = where(torch.cat((edge, new), 1), index, 0).cummax(1).values
    last = where(torch.cat((new, edge), 1), index, m - 1).flip(1).cummin(1).values.flip(1)
    anchor = a.gather(1, first)
    sums = (a - anchor).cumsum(1)
    before = where(first > 0, sums.gather(1, (first - 1).clamp(min=0)), 0.0)
    return anchor + (sums.gather(1, last) - before) / (last - first + 1)


def _isotonic(a: Tensor, sorted_rewards: Tensor | None, ceiling: Tensor) -> Tensor:
    """Isotonic regression of (P, m) advantages in the order of the rewards; ``ceiling`` (P, 1) is not below them."""
    if sorted_rewards is not None:
        a = _average_ties(a, sorted_rewards)
    m = a.shape[1]
    width = 1 << (m - 1).bit_length()
    # Prompts last, so that no sum or minimum runs over neighbours in memory: it is several prompts at a time.
    x = torch.cat((a, ceiling.expand(-1, width - m)), dim=1).t().contiguous()
    half = 1
    while half < width:
        x = _merge_halves(x, half)
        half *= 2
    return x[:m].t().contiguous()


def monotone_projection(
    advantages: Tensor, rewards: Tensor, valid: Tensor | None = None, *, ties_agree: bool = False
) -> Tensor:
    r"""Isotonic regression of each prompt's advantages in the order of its rewards.

    The closest nondecreasing function of the reward, in least squares. The influence function of best-of-N
    never decreases, so this can only bring the advantages nearer to it, and a policy is never rewarded for a
    worse response. The sum of each group is kept; equal rewards share one advantage; a group that is
    nondecreasing already is returned as it was, to the last bit.

    Equals the minimax formula :math:`x_i = \max_{j \le i} \min_{k \ge i} \mathrm{mean}(a_j, \dots, a_k)`,
    computed by merging halves: log2(m) steps and about m^2 / 2 operations per prompt.

    Args:
        advantages: (P, m), float32 or float64.
        rewards: (P, m), finite where valid.
        valid: (P, m) bool; None: all. Invalid entries come out as 0.
        ties_agree: Equal rewards are known to have equal advantages, so that no time is spent on them.

    Returns:
        (P, m), dtype of ``advantages``.

    Checked against ``scipy.optimize.isotonic_regression`` by ``tests/estimators/test_group.py``.
    """
    if valid is None:
        valid = torch.ones_like(rewards, dtype=torch.bool)
    m = rewards.shape[1]
    if rewards.numel() == 0:
        return torch.zeros_like(advantages)
    sorted_rewards, order = sort_groups(where(valid, rewards, torch.inf))
    # Invalid entries stand last and as high as the highest: nothing below them pools with them.
    ceiling = where(valid, advantages, -torch.inf).amax(1, keepdim=True)
    a = where(valid, advantages, ceiling).gather(1, order)
    size = max((m // 2) ** 2, m)
    if ties_agree:
        a = in_blocks(lambda a, ceiling: _isotonic(a, None, ceiling), size, a, ceiling)
    else:
        a = in_blocks(_isotonic, size, a, sorted_rewards, ceiling)
    return where(valid, scatter_sorted(a, order), 0.0)
