"""The ladder: best-of-N read off unbiased max@k values, and extrapolated linearly in c_k."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy import special
from torch import Tensor

from tea.estimators.families import BANK_SIZE, check_tail, expected_max_bank
from tea.estimators.group import check_target_n
from tea.estimators.order import check_rungs, max_at_k_spacing_weights, spacing_advantages


def default_rungs(num_generations: int, target_n: float = math.inf) -> tuple[int, int]:
    """Two rungs, (m/4, m): the lower one plays the part of 1 / tail fraction; (2, m) below m = 12, (1, 2) at 2.

    With N within the group there is nothing to extrapolate: the integers on either side of N, hence max@N itself.
    """
    if target_n <= num_generations:
        low = min(math.floor(target_n), num_generations - 1)
        return low, low + 1
    return max(num_generations // 4, min(2, num_generations - 1)), num_generations


@lru_cache(maxsize=64)
def _spacing_moments(m: int) -> np.ndarray:
    """E[D_i D_j] of the spacings D_i = g_(i) - g_(i-1), i = 2 .. m, of m standard normals; (m - 1, m - 1).

    D_i is the length of the set of t with exactly i - 1 samples below, so the moment is the integral over (s, t)
    of the probability that this holds for i at s and for j at t: a multinomial, all terms positive. The grid is
    coarse because the moments only say which unbiased combination varies least.
    """
    t = np.linspace(-6.0, 6.0, 121)
    log_below, log_above = special.log_ndtr(t), special.log_ndtr(-t)
    below = special.ndtr(t)
    with np.errstate(divide="ignore"):
        log_between = np.log(np.clip(below[None, :] - below[:, None], 0.0, None))  # (s, t)
    ranks = np.arange(2, m + 1)
    log_factorial = special.gammaln(np.arange(m + 2) + 1.0)
    moments = np.zeros((m - 1, m - 1))
    for i in ranks:
        j = np.arange(i, m + 1)
        between = (j - i)[:, None, None]
        # 0 * log(0) is 0 here: nothing is to lie in between, so that the interval may be empty.
        middle = np.where(between == 0, 0.0, between * np.where(between == 0, 0.0, log_between))
        upper = np.tri(t.size).T.astype(bool)
        constant = log_factorial[m] - log_factorial[i - 1] - log_factorial[j - i] - log_factorial[m - j + 1]
        log_probability = (
            constant[:, None, None]
            + (i - 1) * log_below[:, None]
            + middle
            + (m - j + 1)[:, None, None] * log_above[None, :]
        )
        probability = np.where(upper, np.exp(log_probability), 0.0)
        integral = probability.sum(axis=(1, 2))
        # For i = j both orders of (s, t) count, and the diagonal once.
        integral[0] = 2.0 * integral[0] - np.trace(probability[0])
        moments[i - 2, j - 2] = moments[j - 2, i - 2] = integral
    return moments * (t[1] - t[0]) ** 2


def ladder_coefficients(target_n: float, rungs: Sequence[int], num_generations: int, member: int = 0) -> list[float]:
    r"""Coefficients beta of V_N ~ sum_k beta_k V_k.

    .. math:: \sum_k \beta_k = 1, \quad \sum_k \beta_k c_k = c_N

    Two rungs leave no choice. With more, the combination with the smallest E[A^2] over groups of m standard
    normal rewards, after centring ("best linear unbiased").

    Args:
        target_n: N >= 1.
        rungs: Increasing k's within the group.
        num_generations: m.
        member: Of the bank of tail families, whose e_k takes the place of c_k; 0 is the Gaussian.
    """
    c = np.array([expected_max_bank(k)[member] for k in rungs])
    c_target = expected_max_bank(target_n)[member]
    if len(rungs) == 2:
        # By hand: where N is a rung the other gets exactly 0, or rounding would be all that is left of a tied group.
        return [float((c[1] - c_target) / (c[1] - c[0])), float((c_target - c[0]) / (c[1] - c[0]))]
    constraints = np.stack((np.ones_like(c), c))
    particular = np.linalg.lstsq(constraints, np.array([1.0, c_target]), rcond=None)[0]
    m = num_generations
    weights = np.array([max_at_k_spacing_weights(m, k)[1:] for k in rungs])  # (K, m - 1)
    at_least = (m - np.arange(1, m)) / m  # share of rollouts at or above rank i, i = 2 .. m
    centring = np.minimum.outer(at_least, at_least) - np.outer(at_least, at_least)
    gram = weights @ (_spacing_moments(m) * centring) @ weights.T
    free = np.linalg.svd(constraints)[2][2:]  # what the constraints leave free
    reduced = free @ gram @ free.T
    scale = np.trace(reduced) / len(reduced)
    # Neighbouring rungs are nearly collinear; the ridge costs a hair of variance and no bias.
    step = np.linalg.solve(reduced + 1e-10 * scale * np.eye(len(reduced)), free @ gram @ particular)
    return (particular - step @ free).tolist()


def _ladder_table(m: int, target_n: float, rungs: tuple[int, ...] | None) -> list[list[float]]:
    """Per number of valid rollouts 0 .. m, the weights d_1 .. d_m of every member of the bank, one after the other."""
    table: list[list[float]] = [[0.0] * (m * BANK_SIZE), ([1.0] + [0.0] * (m - 1)) * BANK_SIZE]
    for count in range(2, m + 1):
        steps = () if rungs is None else tuple(k for k in rungs if k <= count)
        if len(steps) < 2:
            steps = default_rungs(count, target_n)
        beta = np.array([ladder_coefficients(target_n, steps, count, member) for member in range(BANK_SIZE)])
        weights = np.array([max_at_k_spacing_weights(count, k) for k in steps])
        table.append(np.pad(beta @ weights, ((0, 0), (0, m - count))).ravel().tolist())
    return table


def ladder_advantages(
    rewards: Tensor,
    target_n: float,
    rungs: Sequence[int] | None = None,
    *,
    tail: str = "gaussian",
    mask: Tensor | None = None,
    monotone: bool = True,
    center: bool = True,
    scale: str = "none",
) -> Tensor:
    r"""The ladder: V_k for k within the group, unbiased, extrapolated to N where V_k is linear in c_k.

    .. math:: V_N \approx V_{k_1} + \frac{c_N - c_{k_1}}{c_{k_2} - c_{k_1}} (V_{k_2} - V_{k_1})

    and each V_k has the unbiased gradient of :func:`tea.max_at_k_advantages`. Linear in the sorted rewards, no
    standard deviation in a denominator, and without the projection exactly unbiased wherever V_k is linear in
    c_k, as under a Gaussian. Ours.

    ``monotone`` is on by default. Without it the ladder rewards spread as such, the far lower end included, and
    a policy learns to produce bad responses on purpose.

    Args:
        rewards: (P, m) float; higher is better; NaN marks a missing one.
        target_n: N, samples per prompt at deployment, >= 1.
        rungs: At least two increasing k's, 1 <= k <= m; with more than two, the best linear unbiased combination
            against a Gaussian. Default (m/4, m), (2, m) below m = 12; for N <= m max@N alone, which needs no
            extrapolation. A prompt with fewer valid rollouts uses the rungs within them, or its own default where
            fewer than two are. Rung 1 is best left out: its baseline is the centring alone, which biases it by 1/m
            of its coefficient.
        tail: Family of the upper tail, whose expected maxima take the place of c_k: "gaussian", "exponential", "gpd"
            or "auto", see :mod:`tea.estimators.families`.
        mask: (P, m) bool, True where the rollout counts.
        monotone: Project on nondecreasing functions of the reward, see :func:`tea.monotone_projection`.
        center: Subtract the group mean.
        scale: "none", or divide by the reward standard deviation + 1e-4 of the "group" or "batch".

    Returns:
        (P, m) advantages, float64 for float64 rewards, else float32.

    Raises:
        TypeError, ValueError: On bad arguments, see :func:`tea.estimators.group.as_group`.

    Checked by ``tests/estimators/test_ladder.py``.
    """
    check_target_n(target_n)
    check_rungs(rungs, rewards.shape[-1] if isinstance(rewards, Tensor) and rewards.ndim else None)
    check_tail(tail)
    steps = None if rungs is None else tuple(rungs)
    return spacing_advantages(
        rewards, _ladder_table, target_n, steps, mask=mask, monotone=monotone, center=center, scale=scale, tail=tail
    )
