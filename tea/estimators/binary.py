"""0/1 rewards: pass@N beyond the group."""

from __future__ import annotations

import math

import numpy as np
from scipy import special
from torch import Tensor

from tea.estimators.group import as_group, by_count, check_target_n, constant, finalize, values_are_readable
from tea.estimators.order import check_k, log_binomial


def check_prior(prior: tuple[float, float]) -> None:
    """Raise ValueError unless ``prior`` is a pair of finite positive numbers."""
    if (
        isinstance(prior, str)
        or len(prior) != 2
        or not all(isinstance(p, (int, float)) and math.isfinite(p) and p > 0 for p in prior)
    ):
        raise ValueError(f"prior must be two finite positive numbers (a, b) of a Beta distribution, got {prior!r}")


def _weight_table(m: int, target_n: float, a: float, b: float) -> list[list[float]]:
    """Per number of valid rollouts 0 .. m, the posterior mean of N (1 - p)^(N-1) given 0 .. m - 1 successes."""
    table = []
    for count in range(m + 1):
        successes = np.arange(m)
        failures = np.maximum(count - 1 - successes, 0)
        log_weight = special.betaln(a + successes, b + failures + target_n - 1.0) - special.betaln(
            a + successes, b + failures
        )
        table.append((target_n * np.exp(log_weight)).tolist())
    return table


def pass_at_n_advantages(
    rewards: Tensor,
    target_n: float,
    *,
    prior: tuple[float, float] = (0.5, 0.5),
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
        prior: (a, b) of the Beta prior on the success probability of a prompt.
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
