"""0/1 rewards: pass@N beyond the group."""

from __future__ import annotations

import math

import numpy as np
from scipy import special
from torch import Tensor

from tea.estimators.group import as_group, by_count, check_target_n, constant, finalize, values_are_readable


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
