"""max@k on samples of an earlier policy: what a group is worth when its rollouts are weighed by importance ratios."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tea.estimators.group import as_group, finalize
from tea.estimators.order import check_k
from tea.estimators.tensors import scatter_sorted, sort_groups, values_are_readable, where


def check_ratios(ratios: Tensor, valid: Tensor) -> None:
    """Raise ValueError, on the CPU in eager mode, unless every valid ratio is finite and not negative."""
    if ratios.shape != valid.shape:
        raise ValueError(f"ratios must have the shape of rewards {tuple(valid.shape)}, got {tuple(ratios.shape)}")
    if not values_are_readable(ratios):
        return
    bad = valid & ~(torch.isfinite(ratios) & (ratios >= 0))
    if bad.any():
        prompt, rollout = bad.nonzero()[0].tolist()
        raise ValueError(
            f"importance ratios must be finite and not negative, got {ratios[prompt, rollout].item()} at prompt "
            f"{prompt}, rollout {rollout} ({int(bad.sum())} in all): the policy has moved too far from the one that "
            "sampled; bound the ratios, or take fewer iterations"
        )


def max_at_k_off_policy_advantages(
    rewards: Tensor,
    ratios: Tensor,
    k: int,
    *,
    own_ratio: bool = True,
    mask: Tensor | None = None,
    center: bool = False,
) -> Tensor:
    r"""max@k for the current policy from rollouts of an earlier one, unbiased.

    With :math:`\rho_i` the probability of rollout i under the current policy over that when it was sampled, and
    uniform subsets I of the group,

    .. math::
        A_i = k \, E \left[ \prod_{j \in I} \rho_j \left( \max_{j \in I} R_j - \max_{j \in I \setminus i} R_j \right)
        \mid i \in I, |I| = k \right]

    so that, in the mean convention, the gradient of best of k at the current policy is estimated without bias: a
    subset counts as often as the current policy would have drawn all of it, not only rollout i. Where all ratios
    are 1 it is :func:`tea.max_at_k_advantages`, uncentred. On the sorted rewards it is one cumulative sum per member
    of the subset: the elementary symmetric polynomials of the ratios below. Source: max@k, arXiv 2510.23393, for the
    product of the ratios over the subset; the baseline is PKPO's, arXiv 2505.15201.

    Args:
        rewards: (P, m) float; higher is better; NaN marks a missing one.
        ratios: (P, m) float, of whole sequences (not of tokens), >= 0. Their product over k rollouts varies much:
            bounding them, to [0.5, 2] say, trades variance for bias.
        k: Size of the subsets, 1 <= k <= m. A prompt with fewer valid rollouts has no subset, and gets zeros.
        own_ratio: Off: without the factor :math:`\rho_i`, for a loss that multiplies by it itself, as GRPO's does.
        mask: (P, m) bool, True where the rollout counts.
        center: Subtract the group mean, which off policy is a bias that nothing makes up for; hence off.

    Returns:
        (P, m) advantages, float64 for float64 rewards, else float32.

    Raises:
        ValueError: On a ratio that is negative or not finite (checked on the CPU in eager mode), another shape of
            ``ratios``, or bad arguments as in :func:`tea.estimators.group.as_group`.

    Checked by ``tests/estimators/test_off_policy.py``, against all subsets and by enumeration.
    """
    check_k(k, rewards.shape[-1] if isinstance(rewards, Tensor) and rewards.ndim else None)
    group = as_group(rewards, mask)
    check_ratios(ratios, group.valid)
    # Invalid ones last, and with ratio 0 in no subset.
    values, order = sort_groups(group.filled(group.filled(-torch.inf).amax(1, keepdim=True)))
    weight = where(group.valid, ratios.detach().to(values.dtype), 0.0).gather(1, order)
    # subsets[:, i]: sum over the subsets of r rollouts before i of the product of their ratios, r = 0 .. k - 2.
    subsets = torch.ones_like(weight)
    for _ in range(k - 2):
        subsets = (weight * subsets).cumsum(1).roll(1, 1)
        subsets[:, 0] = 0.0
    if k == 1:
        raw = values
    else:
        reach = (weight * subsets).cumsum(1)  # subsets of k - 1 among the rollouts up to here
        raw = torch.cat((torch.zeros_like(values[:, :1]), (values.diff(dim=1) * reach[:, :-1]).cumsum(1)), dim=1)
    # Of the valid rollouts' other count - 1, how many subsets of k - 1 there are.
    others = group.count.to(values.dtype) - 1
    log_number = torch.lgamma(others + 1) - math.lgamma(k) - torch.lgamma((others - k + 2).clamp(min=1))
    share = where(others >= k - 1, k * torch.exp(-log_number), 0.0)
    raw = raw * share
    if own_ratio:
        raw = raw * weight
    return finalize(scatter_sorted(raw, order), group, monotone=False, center=center, scale="none")
