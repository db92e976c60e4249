"""Empirical Bayes for best-of-N: what a group cannot say about its tail, the other groups of the batch can.

Best-of-N is an integral over levels of one minus F^N, F the probability of not exceeding the level; at each level a
rollout either exceeds it or not. So it is pass@N at every level, and each level gets what
:func:`tea.pass_at_n_advantages` does for a verifier: a Beta prior for that probability, learnt from all prompts.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from tea.estimators.binary import grid_evidence_table, grid_weight_table, outcomes
from tea.estimators.constants import Table, constant
from tea.estimators.group import Group, as_group, check_target_n, finalize, group_mean, reward_std
from tea.estimators.tensors import power_of_two_below, scatter_sorted, sort_groups, values_are_readable, where

MAX_LEVELS = 256
LIMIT = 2.0  # standard errors that shrinkage may move a mean by


def _level_positions(rollouts: int) -> Table:
    """Which of the sorted rewards of the batch are levels, as positions in [0, 1].

    All of them where there are few. Of more, half at even distances, for prompts whose best is another's average, and
    half ever denser towards the top, where F^(N-1) is not 0.
    """
    if rollouts <= MAX_LEVELS:
        return [np.linspace(0.0, 1.0, rollouts).tolist()]
    half = MAX_LEVELS // 2
    top = 1.0 - np.logspace(-math.log10(rollouts - 1), 0.0, half)
    return [np.sort(np.concatenate((np.linspace(0.0, 1.0, MAX_LEVELS - half), top))).tolist()]


def _step_table(m: int, target_n: float) -> Table:
    """Row count * (m + 1) + s: how much more a rollout above the level gets than one below it, per unit of reward."""
    weights = grid_weight_table(m, target_n)  # of a rollout with s of its others above
    higher = np.roll(weights, 1, axis=0)  # of one that is above itself: s - 1 of its others are
    count, above = outcomes(m)
    others = np.maximum(count - 1, 1)
    step = higher * (count - above) / others + weights * above / others
    # Where all are on one side there is nothing to compare.
    return np.where((above > 0) & (above < count), step, 0.0)


def _shrunk(values: Tensor, noise: Tensor, number: Tensor) -> Tensor:
    """How far each of ``values`` (P, 1) is to be moved to their mean, as a share in [0, 1].

    Args:
        values: (P, 1) estimates less their mean; 0 where there is none.
        noise: (P, 1) their sampling variances; 0 where there is none.
        number: () how many there are.
    """
    variance = values.square().sum() / (number - 1).clamp(min=1)
    between = (variance - noise.sum() / number.clamp(min=1)).clamp(min=0.0)
    # Equal ones need no moving, and 0 / 0 is no share.
    return where(between > 0, 1.0 - between / (between + noise), 1.0)


def _standardized(group: Group) -> tuple[Tensor, Tensor]:
    """Rewards (P, m) minus each prompt's mean, over its standard deviation (P, 1), which is the second result.

    Both are shrunk to those of the batch by as much as m rollouts leave them uncertain.
    """
    count = group.count.to(group.rewards.dtype)
    known = count > 1
    std = reward_std(group)
    spread = std > 0  # False for NaN
    log_std = where(spread, std, 1.0).log()
    number = spread.sum()
    center = log_std.sum() / number.clamp(min=1)
    distance = where(spread, log_std - center, 0.0)
    moved = _shrunk(distance, where(spread, 0.5 / (count - 1), 0.0), number)
    scale = (center + (1.0 - moved) * distance).exp()

    mean = group_mean(group.rewards, group)
    anchor = where(known, mean, torch.nan).nanmean()
    distance = where(known, mean - anchor, 0.0)
    unit = power_of_two_below(distance.abs().amax())
    noise = (where(known, std, 0.0) / unit).square() / count.clamp(min=1)
    moved = _shrunk(distance / unit, noise, known.sum())
    # Not beyond what the prompt's own rollouts leave possible (limited translation, Efron and Morris 1972): among
    # prompts of very different spread the shrinkage is right on average only.
    error = scale * (LIMIT * count.clamp(min=1).rsqrt())
    shift = (moved * distance).clamp(-error, error)
    # From the prompt's own mean: next to a prompt whose rewards are 1e30 the others keep their digits.
    return (group.rewards - mean + shift) / scale, scale


def eb_bon_advantages(
    rewards: Tensor,
    target_n: float,
    *,
    standardize: bool = True,
    mask: Tensor | None = None,
    monotone: bool = False,
    center: bool = True,
    scale: str = "none",
) -> Tensor:
    r"""Best-of-N by empirical Bayes: each level of reward is a 0/1 question whose prior the whole batch teaches.

    With F_p(t) the probability that a rollout of prompt p does not exceed t, best-of-N is
    :math:`\int (1 - F_p(t)^N) dt` up to a constant, and the advantage

    .. math::
        A_i = \int E[N F_p(t)^{N-1} \mid c_{-i}(t)] \left( 1[R_i > t] - \frac{c_{-i}(t)}{m - 1} \right) dt

    where :math:`c_{-i}(t)` of the other m - 1 rollouts exceed t and :math:`1 - F_p(t)` has a Beta prior. The prior of
    each level is averaged over a grid, every member weighted by how well it predicts the batch. So where prompts are
    alike, P * m rollouts tell how rare a reward is and N may be as large as that; where they are not, the group's own
    ranks decide, as in max@m. No shape of the tail is assumed, and nondecreasing by construction: no N F^(N-1) is
    negative. With 0/1 rewards and ``standardize=False`` this is ``pass_at_n`` with ``prior="fit"``, up to a prompt's
    share in its own prior: here every prompt's counts for (P - 1) / P. Ours.

    It needs a batch: with few prompts the grid of priors is all it has, and with one nothing else.

    Args:
        rewards: (P, m) float; higher is better; NaN marks a missing one.
        target_n: N, samples per prompt at deployment, >= 1. N = 1: m / (m - 1) times the reward minus its mean.
        standardize: Compare prompts after subtracting each one's mean and dividing by its standard deviation, both
            shrunk to the batch's by what m rollouts leave uncertain; the advantages are in units of the reward all
            the same. False: the levels are rewards as they are.
        mask: (P, m) bool, True where the rollout counts.
        monotone: Project on nondecreasing functions of the reward (it is one already).
        center: Subtract the group mean.
        scale: "none", or divide by the reward standard deviation + 1e-4 of the "group" or "batch".

    Returns:
        (P, m) advantages, float64 for float64 rewards, else float32.

    Raises:
        TypeError, ValueError: On bad arguments, see :func:`tea.estimators.group.as_group`.

    Checked by ``tests/estimators/test_empirical_bayes.py``.
    """
    check_target_n(target_n)
    group = as_group(rewards, mask)
    if rewards.numel() == 0:
        return torch.zeros_like(group.rewards)
    dtype, device = group.rewards.dtype, rewards.device
    m = rewards.shape[1]
    values, unit = _standardized(group) if standardize else (group.rewards, torch.ones_like(group.rewards[:, :1]))

    # The levels, (T,): order statistics of the batch, the invalid ones beyond them.
    pooled = sort_groups(where(group.valid, values, torch.inf).reshape(1, -1))[0].squeeze(0)
    positions = constant(_level_positions, rewards.numel(), dtype=dtype, device=device).squeeze(0)
    number = group.count.sum()
    levels = pooled[(positions * (number - 1)).round().long().clamp(min=0)]
    levels = where(number > 0, levels, 0.0)

    # How many of each prompt exceed each level, and what that says of the priors.
    ascending, order = sort_groups(where(group.valid, values, torch.inf))
    at_or_below = torch.searchsorted(ascending, levels[:-1].expand(len(rewards), -1).contiguous(), right=True)
    # Where all groups are whole, and looking is free, the rows of smaller ones are left out.
    first = m * (m + 1) if values_are_readable(values) and bool(group.valid.all()) else 0
    start = group.count * (m + 1) - first
    row = start + (group.count - at_or_below)
    # Sums of logarithms over all prompts, of which the differences between priors matter.
    exact = torch.float32 if device.type == "mps" else torch.float64
    evidence = constant(grid_evidence_table, m, dtype=exact, device=device)[first:]
    seen = torch.zeros(row.shape[1], len(evidence), dtype=exact, device=device)
    seen = seen.scatter_add(1, row.t(), torch.ones_like(row.t(), dtype=exact))
    prompts = (group.count > 0).sum().clamp(min=1)
    belief = torch.softmax(seen @ evidence * ((prompts - 1) / prompts), dim=1)

    # Steps (T - 1, rows) from level to level, and their sums up to every level, whoever of the group is above.
    step = belief @ constant(_step_table, m, target_n, dtype=exact, device=device)[first:].t()
    total = (step * levels.diff().to(exact).unsqueeze(1)).cumsum(0)
    total = torch.cat((torch.zeros_like(total[:1]), total))
    # From one reward of the group to the next, count - i are above.
    ascending = where(torch.isfinite(ascending), ascending, group.filled(-torch.inf).amax(1, keepdim=True))
    position = (torch.searchsorted(levels, ascending, right=True) - 1).clamp(0, len(step) - 1)
    above = (group.count - torch.arange(1, m, device=device)).clamp(min=0)
    row = start + above
    beyond = (ascending - levels[position]).to(exact)
    (low, high), (below, over) = ((x[:, :-1], x[:, 1:]) for x in (position, beyond))
    # Between the same levels a difference of sums would lose the digits that count.
    within = step[low, row] * (over - below)
    across = total[high, row] - total[low, row] + step[high, row] * over - step[low, row] * below
    rise = where(low == high, within, across).clamp(min=0.0).to(dtype)
    raw = torch.cat((torch.zeros_like(rise[:, :1]), rise.cumsum(1)), dim=1)
    return finalize(scatter_sorted(raw * unit, order), group, monotone=monotone, center=center, scale=scale)
