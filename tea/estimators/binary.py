"""0/1 rewards: pass@N beyond the group."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import torch
from scipy import special
from torch import Tensor

from tea.estimators.constants import Table, constant
from tea.estimators.group import Group, as_group, by_count, check_target_n, finalize
from tea.estimators.order import check_k, log_binomial
from tea.estimators.tensors import values_are_readable, where

# What prior="fit" chooses among: means and concentrations a + b of the Beta distribution.
PRIOR_MEANS = (
    *(0.0003, 0.001, 0.003, 0.01, 0.02, 0.04, 0.08, 0.15, 0.25, 0.4),
    *(0.5, 0.6, 0.75, 0.85, 0.92, 0.96, 0.98, 0.99, 0.997),
)
PRIOR_CONCENTRATIONS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)


def check_prior(prior: tuple[float, float] | Literal["fit"]) -> None:
    """Raise ValueError unless ``prior`` is "fit" or a pair of finite positive numbers."""
    if prior == "fit":
        return
    if (
        isinstance(prior, str)
        or len(prior) != 2
        or not all(isinstance(p, (int, float)) and math.isfinite(p) and p > 0 for p in prior)
    ):
        raise ValueError(
            f"prior must be two finite positive numbers (a, b) of a Beta distribution, or 'fit', got {prior!r}"
        )


def _posterior_weight(successes: Any, failures: Any, target_n: float, a: Any, b: Any) -> np.ndarray:
    """The mean of N (1 - p)^(N-1) under Beta(a + successes, b + failures)."""
    a, b = a + successes, b + failures
    return target_n * np.exp(special.betaln(a, b + target_n - 1.0) - special.betaln(a, b))


def _weight_table(m: int, target_n: float, a: float, b: float) -> list[list[float]]:
    """Per number of valid rollouts 0 .. m, the weight given 0 .. m - 1 successes among the others."""
    successes = np.arange(m)
    return [
        _posterior_weight(successes, np.maximum(count - 1 - successes, 0), target_n, a, b).tolist()
        for count in range(m + 1)
    ]


def _prior_grid() -> tuple[np.ndarray, np.ndarray]:
    mean, concentration = (x.ravel() for x in np.meshgrid(PRIOR_MEANS, PRIOR_CONCENTRATIONS))
    return mean * concentration, (1.0 - mean) * concentration


def outcomes(m: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows count * (m + 1) + s: (rows, 1) each, count and s."""
    count, successes = np.divmod(np.arange((m + 1) ** 2), m + 1)
    return count[:, None], successes[:, None]


def grid_evidence_table(m: int) -> Table:
    """Row count * (m + 1) + s: log-likelihood of s successes among count rollouts, under every prior of the grid."""
    a, b = _prior_grid()
    count, successes = outcomes(m)
    return special.betaln(a + successes, b + np.maximum(count - successes, 0)) - special.betaln(a, b)


def grid_weight_table(m: int, target_n: float) -> np.ndarray:
    """Row count * (m + 1) + s: the weight given s successes among the count - 1 others, under every prior."""
    a, b = _prior_grid()
    count, successes = outcomes(m)
    return _posterior_weight(successes, np.maximum(count - 1 - successes, 0), target_n, a, b)


def grid_pass_table(m: int, target_n: float) -> np.ndarray:
    """Row count * (m + 1) + s: the mean of 1 - (1 - p)^N given s successes among count, under every prior."""
    a, b = _prior_grid()
    count, successes = outcomes(m)
    a, b = a + successes, b + np.maximum(count - successes, 0)
    return np.asarray(-np.expm1(special.betaln(a, b + target_n) - special.betaln(a, b)))


def pass_at_n_forecast(rewards: Tensor, target_n: float) -> Tensor:
    r"""pass@N of every prompt from m rollouts, m < N or not: its posterior mean under a Beta prior.

    .. math:: E[1 - (1 - p)^N \mid s] = 1 - \frac{B(a + s, b + m - s + N)}{B(a + s, b + m - s)}

    for s successes among m, with (a, b) as ``prior="fit"`` of :func:`pass_at_n_advantages` finds them: a grid of
    priors, each weighted by how well it predicts the outcomes of the whole batch. Ours.

    Args:
        rewards: (P, m), each 0 or 1, not checked; NaN marks a missing one.
        target_n: N >= 1.

    Returns:
        (P,) in [0, 1]; NaN for a prompt without rewards.

    Checked by ``tests/estimators/test_binary.py``.
    """
    check_target_n(target_n)
    group = as_group(rewards)
    m = rewards.shape[1]
    successes = (group.filled(0.0) > 0.5).sum(1)
    row = group.count.squeeze(1) * (m + 1) + successes
    dtype, device = group.rewards.dtype, rewards.device
    evidence = constant(grid_evidence_table, m, dtype=dtype, device=device)[row]  # (P, grid)
    belief = torch.softmax(evidence.sum(0), dim=0)
    passes = constant(grid_pass_table, m, target_n, dtype=dtype, device=device)[row] @ belief
    return torch.where(group.count.squeeze(1) > 0, passes, torch.nan)


def _fitted_weight(success: Tensor, group: Group, target_n: float) -> Tensor:
    """(P, m) weights under the priors of the grid, averaged by how well each predicts the other prompts.

    A prompt's own outcomes have no say in its prior: its direction stays exactly unbiased.
    """
    m = success.shape[1]
    dtype, device = success.dtype, success.device
    # Not a sum of rewards: where nobody could look they may be anything, and an index may not.
    right = success > 0.5
    row = group.count.squeeze(1) * (m + 1) + right.sum(1)
    evidence = constant(grid_evidence_table, m, dtype=dtype, device=device)[row]  # (P, grid)
    belief = torch.softmax(evidence.sum(0, keepdim=True) - evidence, dim=1)
    weights = constant(grid_weight_table, m, target_n, dtype=dtype, device=device)
    of_failure = (belief * weights[row]).sum(1, keepdim=True)
    of_success = (belief * weights[(row - 1).clamp(min=0)]).sum(1, keepdim=True)
    return where(right, of_success, of_failure)


def pass_at_n_advantages(
    rewards: Tensor,
    target_n: float,
    *,
    prior: tuple[float, float] | Literal["fit"] = (0.5, 0.5),
    mask: Tensor | None = None,
    monotone: bool = False,
    center: bool = True,
    scale: str = "none",
) -> Tensor:
    r"""pass@N for 0/1 rewards and N beyond the group.

    With success probability p, pass@N is 1 - (1 - p)^N and its gradient N (1 - p)^(N-1) grad p. The weight is
    replaced by its posterior mean under a Beta(a, b) prior, given the s successes among the other m - 1,

    .. math::
        A_i = N \frac{B(a + s, b + (m-1-s) + N-1)}{B(a + s, b + (m-1-s))} (R_i - \bar R_{-i})

    The weight does not depend on rollout i, so the direction per prompt is exactly unbiased; only the weight
    between prompts is estimated. Ours.

    Args:
        rewards: (P, m), each 0 or 1; NaN marks a missing one.
        target_n: N, samples per prompt at deployment, >= 1.
        prior: (a, b) of the Beta prior on the success probability of a prompt; or "fit", empirical Bayes over a
            grid of priors (from all but impossible to all but certain), each weighted by how well it predicts
            the outcomes of the other prompts in the batch.
        mask: (P, m) bool, True where the rollout counts.
        monotone: Project on nondecreasing functions of the reward.
        center: Subtract the group mean.
        scale: "none", or divide by the reward standard deviation + 1e-4 of the "group" or "batch".

    Returns:
        (P, m) advantages, float64 for float64 rewards, else float32.

    Raises:
        ValueError: If a reward is neither 0 nor 1 (checked on the CPU in eager mode), or on bad arguments as in
            :func:`tea.estimators.group.as_group`.

    Checked by ``tests/estimators/test_binary.py``.
    """
    check_target_n(target_n)
    check_prior(prior)
    group = as_group(rewards, mask)
    check_binary(group.rewards, group.valid)
    success = group.filled(0.0)
    others = (group.count - 1).clamp(min=1)
    s = success.sum(1, keepdim=True) - success
    m = rewards.shape[1]
    if prior == "fit":
        weight = _fitted_weight(success, group, target_n)
    else:
        table = constant(_weight_table, m, target_n, *prior, dtype=success.dtype, device=success.device)
        weight = by_count(table, group).gather(1, s.long().clamp(0, m - 1))
    raw = weight * (success - s / others)
    return finalize(raw, group, monotone=monotone, center=center, scale=scale)


def _passk_table(m: int, k: int) -> list[list[float]]:
    """Per number of valid rollouts 0 .. m: the advantage of a wrong one given 0 .. m successes, then of a right one."""
    table = []
    for count in range(m + 1):
        size = min(k, count)
        wrong, right = [0.0] * (m + 1), [0.0] * (m + 1)
        for successes in range(1, count + 1):
            fail = math.exp(log_binomial(count - successes, size) - log_binomial(count, size))  # 1 - rho
            if fail == 0.0:
                continue
            std = math.sqrt(fail * (1.0 - fail))
            right[successes] = fail / std
            fail_with = math.exp(log_binomial(count - successes - 1, size - 1) - log_binomial(count - 1, size - 1))
            wrong[successes] = (fail - fail_with) / std
        table.append(wrong + right)
    return table


def passk_binary_advantages(
    rewards: Tensor,
    k: int,
    *,
    mask: Tensor | None = None,
    monotone: bool = False,
    center: bool = True,
    scale: str = "none",
) -> Tensor:
    r"""Pass@k Training for 0/1 rewards: GRPO on groups of k whose reward is pass@k, averaged over all groups.

    With c successes among m, :math:`\rho = 1 - \binom{m-c}{k} / \binom{m}{k}` and
    :math:`\sigma = \sqrt{\rho (1 - \rho)}`,

    .. math::
        A_{right} = \frac{1 - \rho}{\sigma}, \quad
        A_{wrong} = \frac{1 - \rho - \binom{m-c-1}{k-1} / \binom{m-1}{k-1}}{\sigma}

    and zeros where every group or none has a success. Source: Pass@k Training, arXiv 2508.10751. The formula is
    centred and scaled by itself; ``center`` is accepted for the common contract.

    Args:
        rewards: (P, m), each 0 or 1; NaN marks a missing one.
        k: Size of the groups, 1 <= k <= m. A prompt with fewer than k valid rollouts uses as many as it has.
        mask: (P, m) bool, True where the rollout counts.
        monotone: Project on nondecreasing functions of the reward (it is one already).
        center: Subtract the group mean.
        scale: "none", or divide (once more) by the reward standard deviation + 1e-4 of the "group" or "batch".

    Returns:
        (P, m) advantages, float64 for float64 rewards, else float32.

    Raises:
        ValueError: If a reward is neither 0 nor 1 (checked on the CPU in eager mode), or on bad arguments as in
            :func:`tea.estimators.group.as_group`.

    Checked by ``tests/estimators/test_binary.py``, against all groups.
    """
    check_k(k, rewards.shape[-1] if isinstance(rewards, Tensor) and rewards.ndim else None)
    group = as_group(rewards, mask)
    check_binary(group.rewards, group.valid)
    success = group.filled(0.0) > 0.5
    m = rewards.shape[1]
    table = constant(_passk_table, m, k, dtype=group.rewards.dtype, device=rewards.device)
    successes = success.sum(1, keepdim=True)
    raw = by_count(table, group).gather(1, successes + (m + 1) * success)
    return finalize(raw, group, monotone=monotone, center=center, scale=scale)


def check_binary(rewards: Tensor, valid: Tensor) -> None:
    """Raise ValueError, on the CPU in eager mode, unless every valid reward is 0 or 1."""
    if not values_are_readable(rewards):
        return
    other = valid & (rewards != 0) & (rewards != 1)
    if other.any():
        prompt, rollout = other.nonzero()[0].tolist()
        raise ValueError(
            f"rewards must be 0 or 1 for this estimator, got {rewards[prompt, rollout].item()} at prompt {prompt}, "
            f"rollout {rollout}; for graded rewards use tea or ladder"
        )
