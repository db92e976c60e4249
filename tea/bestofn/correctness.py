"""For 0/1 rewards: the law of pass@N, and how far samples help when the verifier errs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import special

from tea.bestofn._inputs import is_binary, reward_matrix
from tea.bestofn._interval import mean_interval
from tea.bestofn.curve import best_of_n_curve
from tea.bestofn.forecast import forecast_best_of_n
from tea.bestofn.plan import planning_ns


def fit_pass_at_n_law(correct: Any, ns: Sequence[int] | None = None, *, level: float = 0.95) -> dict[str, Any]:
    """Exponentiated power law of the mean pass@N: pass@N = exp(-a N^(-b)).

    Least squares of log(-log pass@N) on log N over N <= n; intervals by the delta method over prompts.

    Args:
        correct: (P, n) of 0 and 1.
        ns: the Ns to fit on; default powers of two up to n/2, whose estimates are steady.
        level: confidence level.

    Returns:
        a, b with their intervals, the Ns, and `residual`, the largest error of log(-log pass@N) on them.

    Raises:
        ValueError: not 0/1, or a mean pass@N of exactly 0 or 1 at one of the Ns.
    """
    matrix = reward_matrix(correct, "correct", min_samples=4)
    if not is_binary(matrix):
        raise ValueError("correct must hold only 0 and 1")
    if ns is None:
        ns = [2**i for i in range(int(np.log2(matrix.shape[1])))]
    curve = best_of_n_curve(matrix, ns, level=level)
    if len(curve.ns) < 2:
        raise ValueError(f"the law needs at least 2 values of N, got {curve.ns.tolist()}")
    for k, value in zip(curve.ns.tolist(), curve.values, strict=True):
        if not 0.0 < value < 1.0:
            raise ValueError(f"pass@{k} is {value:g}: the law needs values strictly between 0 and 1")
    design = np.stack([np.ones(len(curve.ns)), -np.log(curve.ns)], axis=1)
    solve = np.linalg.pinv(design)
    transformed = np.log(-np.log(curve.values))
    log_a, b = solve @ transformed
    # d log(-log v) / dv = 1 / (v log v)
    influence = (curve.per_prompt - curve.values) / (curve.values * np.log(curve.values)) @ solve.T
    _, _, low, high = mean_interval(influence + np.array([log_a, b]), level)
    return {
        "a": float(np.exp(log_a)),
        "a_ci": [float(np.exp(low[0])), float(np.exp(high[0]))],
        "b": float(b),
        "b_ci": [float(low[1]), float(high[1])],
        "ns": curve.ns.tolist(),
        "residual": float(np.abs(transformed - design @ np.array([log_a, b])).max()),
    }


def imperfect_verifier(
    correct: Any,
    false_positive_rate: float,
    *,
    true_positive_rate: float = 1.0,
    wrong_cost: float = 1.0,
    max_n: int = 4096,
) -> dict[str, Any]:
    """How far more samples help when the verifier that accepts one of them errs.

    Samples are drawn until the verifier accepts one or N are spent (then nothing is answered). On a prompt with
    success probability p a sample is accepted with q = p * tpr + (1 - p) * fpr, and

        value(N) = E_p[ (1 - (1 - q)^N) * (p * tpr - wrong_cost * (1 - p) * fpr) / q ]

    with p following the beta distribution fitted to `correct`. Late acceptances come from hard prompts, where they
    are mostly false: the value turns down.

    Args:
        correct: (P, n) of 0 and 1, the truth of the samples.
        false_positive_rate: share of wrong samples that the verifier accepts, in [0, 1].
        true_positive_rate: share of correct ones that it accepts, in (0, 1].
        wrong_cost: what a wrong answer costs, relative to what a correct one is worth.
        max_n: largest N considered.

    Returns:
        ns, value, correct (share of prompts answered correctly), wrong (answered wrongly), and `best_n`, the N beyond
        which more samples hurt (`max_n` if none does).

    Raises:
        ValueError: not 0/1, or rates outside their range.
    """
    matrix = reward_matrix(correct, "correct", min_samples=4)
    if not is_binary(matrix):
        raise ValueError("correct must hold only 0 and 1")
    if not 0.0 <= false_positive_rate <= 1.0:
        raise ValueError(f"false_positive_rate must be in [0, 1], got {false_positive_rate}")
    if not 0.0 < true_positive_rate <= 1.0:
        raise ValueError(f"true_positive_rate must be in (0, 1], got {true_positive_rate}")
    if not (np.isfinite(wrong_cost) and wrong_cost >= 0):
        raise ValueError(f"wrong_cost must be at least 0, got {wrong_cost}")
    fit = forecast_best_of_n(matrix, [matrix.shape[1]], method="beta-binomial").parameters
    # Mid-points of equal probability: an even sample of the population of prompts.
    p = special.betaincinv(fit["a"], fit["b"], (np.arange(4000) + 0.5) / 4000)[:, None]
    accepted = p * true_positive_rate + (1 - p) * false_positive_rate
    ns = np.asarray(planning_ns(max_n), dtype=np.int64)
    with np.errstate(divide="ignore", invalid="ignore"):
        # (1 - (1-q)^N) / q, which is N at q = 0
        tries = np.where(accepted > 0, -np.expm1(ns * np.log1p(-np.minimum(accepted, 1 - 1e-16))) / accepted, ns)
    right = (tries * p * true_positive_rate).mean(axis=0)
    wrong = (tries * (1 - p) * false_positive_rate).mean(axis=0)
    value = right - wrong_cost * wrong
    return {
        "ns": ns.tolist(),
        "value": value.tolist(),
        "correct": right.tolist(),
        "wrong": wrong.tolist(),
        "best_n": int(ns[int(np.argmax(value))]),
        "a": fit["a"],
        "b": fit["b"],
    }
