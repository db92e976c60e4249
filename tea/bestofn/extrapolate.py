"""How each method of :func:`forecast_best_of_n` carries the curve beyond n, with its uncertainty."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import special

from tea.bestofn._inputs import FloatArray, IntArray
from tea.bestofn.curve import order_weights
from tea.bestofn.diagnostics import normal_order_statistics
from tea.bestofn.tails import GENERALIZED_NORMAL, ShapeFamily, exponential_curve, fit_shape, normal_curve

MODEL_ERROR = 0.03
"""Allowance of "auto" for tails outside its family, per doubling of N beyond n, as a share of the gain forecast beyond
n; benchmarks/coverage shows what it is worth."""

SKEW_FACTOR = 1.1
"""Factor on the standard deviations of the fitted shapes' intervals: what heavy-tailed prompts scatter is skewed, and
symmetric intervals from it cover too little (by 2 to 3 points, benchmarks/coverage)."""


@dataclass(frozen=True)
class Fit:
    """A forecast (K,) with its interval, each prompt's (P, K), and what was fitted."""

    values: FloatArray
    per_prompt: FloatArray
    std_error: FloatArray
    low: FloatArray
    high: FloatArray
    parameters: dict[str, Any] = field(default_factory=dict)


def linear_forecast(
    ordered: FloatArray, ns: IntArray, method: str, tail_fraction: float, rungs: Sequence[int] | None
) -> FloatArray:
    """(P, K) forecasts of the methods that treat each prompt by itself."""
    n = ordered.shape[1]
    count = min(n, max(int(np.ceil(tail_fraction * n)), 2))
    if method == "ladder":
        return _ladder(ordered, ns, rungs)
    tail = ordered[:, n - count :]
    if method == "gaussian":
        mean, deviation = _gaussian_tail_moments(n, count)
        factor = (normal_curve(ns) - mean) / deviation
        return np.asarray(tail.mean(axis=1, keepdims=True) + factor * tail.std(axis=1, ddof=1, keepdims=True))
    # Exponential. With the tail taking in everything, the smallest sample is the threshold.
    count = min(count, n - 1)
    threshold = ordered[:, n - count - 1][:, None]
    excess = ordered[:, n - count :].mean(axis=1, keepdims=True) - threshold
    factor = exponential_curve(ns) - exponential_curve([n]) + exponential_curve([count])
    return np.asarray(threshold + factor * excess)


def _ladder(ordered: FloatArray, ns: IntArray, rungs: Sequence[int] | None) -> FloatArray:
    n = ordered.shape[1]
    if rungs is None:
        rungs = (max(1, n // 4), n)
    if len(rungs) != 2 or not 1 <= rungs[0] < rungs[1] <= n:
        raise ValueError(f"rungs must be two increasing numbers from 1 to n = {n}, got {tuple(rungs)}")
    low, high = (ordered @ order_weights(n, rungs).T).T[:, :, None]
    c_low, c_high = normal_curve(rungs)
    return np.asarray(low + (normal_curve(ns) - c_low) / (c_high - c_low) * (high - low))


@lru_cache(maxsize=128)
def _gaussian_tail_moments(n: int, count: int) -> tuple[float, float]:
    """E of mean and standard deviation of the `count` largest of n standard normals.

    The mean by exact weights, the standard deviation by simulation with a fixed seed (relative error below 0.3 %).
    """
    rng = np.random.default_rng(0)
    rows = max(2_000, min(100_000, 4_000_000 // n))
    total, done = 0.0, 0
    while done < rows:
        block = min(4_000, rows - done)
        tails = np.partition(rng.standard_normal((block, n)), n - count, axis=1)[:, n - count :]
        total += float(tails.std(axis=1, ddof=1).sum())
        done += block
    return float(normal_order_statistics(n)[n - count :].mean()), total / rows


def shape_fit(ordered: FloatArray, ns: IntArray, family: ShapeFamily, level: float) -> Fit:
    """One tail shape for all prompts, averaged over its posterior; `ordered` (P, n) ascending."""
    n = ordered.shape[1]
    posterior = fit_shape(ordered, family)
    at_rungs = ordered @ order_weights(n, posterior.rungs).T
    curves = family.curves(tuple(int(k) for k in ns))  # (G, K)
    forms = np.stack([np.ones_like(curves), curves], axis=2)  # (G, K, 2)
    maps = np.einsum("gki,gir->gkr", forms, posterior.coefficients)
    centres = maps @ at_rungs.mean(axis=0)  # (G, K)
    variance = np.einsum("gki,gij,gkj->gk", forms, posterior.covariance, forms)
    weights = posterior.weights[:, None]
    per_prompt = at_rungs @ np.einsum("g,gkr->kr", posterior.weights, maps).T
    values = (weights * centres).sum(axis=0)
    std_error = np.sqrt((weights * (variance + (centres - values) ** 2)).sum(axis=0))
    deviations = SKEW_FACTOR * np.sqrt(variance)
    low, high = _mixture_quantiles(posterior.weights, centres, deviations, posterior.dof, level)
    middle, shape_low, shape_high = posterior.parameter(level)
    name = "tail_power" if family is GENERALIZED_NORMAL else "xi"
    parameters = {name: middle, f"{name}_ci": [shape_low, shape_high], "rungs": list(posterior.rungs)}
    return Fit(values, per_prompt, std_error, low, high, parameters)


def _mixture_quantiles(
    weights: FloatArray, centres: FloatArray, deviations: FloatArray, dof: int, level: float
) -> tuple[FloatArray, FloatArray]:
    """Quantiles of a mixture of Student-t, one mixture per column, by bisection on all columns at once."""
    used = weights > 1e-12
    weights, centres, deviations = weights[used], centres[used], np.maximum(deviations[used], 1e-300)
    reach = float(special.stdtrit(dof, 1 - (1 - level) / 1e3)) * deviations
    ends = []
    for probability in (0.5 - level / 2, 0.5 + level / 2):
        low, high = (centres - reach).min(axis=0), (centres + reach).max(axis=0)
        for _ in range(60):
            middle = (low + high) / 2
            below = weights @ special.stdtr(dof, (middle - centres) / deviations) < probability
            low, high = np.where(below, middle, low), np.where(below, high, middle)
        ends.append((low + high) / 2)
    return ends[0], ends[1]


def with_allowance(fit: Fit, ordered: FloatArray, ns: IntArray) -> Fit:
    """Widen by what tails outside the family cost, which grows with the distance of the extrapolation."""
    n = ordered.shape[1]
    doublings = np.maximum(np.log2(ns / n), 0.0)
    allowance = MODEL_ERROR * doublings * np.maximum(fit.values - ordered[:, -1].mean(), 0.0)
    return Fit(fit.values, fit.per_prompt, fit.std_error, fit.low - allowance, fit.high + allowance, fit.parameters)


def beta_binomial(matrix: FloatArray, ns: IntArray, level: float) -> Fit:
    """Maximum likelihood of a and b over prompts; interval by the delta method on the logit, robust to misfit."""
    from scipy import optimize  # half of this module's import time, and only needed here

    num_prompts, n = matrix.shape
    successes = matrix.sum(axis=1)
    unique, group = np.unique(successes, return_inverse=True)
    frequency = np.bincount(group).astype(np.float64)

    def log_likelihood(logs: FloatArray) -> FloatArray:
        a, b = np.exp(logs)
        return np.asarray(special.betaln(a + unique, b + n - unique) - special.betaln(a, b))

    def objective(logs: FloatArray) -> float:
        # A prior of standard deviation 3 on the logs keeps the fit finite where the likelihood has no maximum
        # (equal counts on all prompts, or no success at all); with data it moves nothing.
        return float(-(frequency @ log_likelihood(logs)) + 0.5 * ((logs / 3.0) ** 2).sum())

    starts = [np.array([0.0, 0.0]), np.array([-1.0, 1.0]), np.array([-2.0, 0.0]), np.array([2.0, 2.0])]
    bounds = [(-12.0, 12.0)] * 2
    best = min((optimize.minimize(objective, s, method="L-BFGS-B", bounds=bounds) for s in starts), key=lambda r: r.fun)
    logs = np.asarray(best.x)

    def log_fail(values: FloatArray) -> FloatArray:
        a, b = np.exp(values)
        return np.asarray(special.betaln(a, b + ns) - special.betaln(a, b))

    def logit(values: FloatArray) -> FloatArray:
        fail = log_fail(values)
        return np.asarray(np.log(-np.expm1(fail)) - fail)

    step = 1e-4
    directions = np.eye(2) * step
    scores = np.stack([(log_likelihood(logs + d) - log_likelihood(logs - d)) / (2 * step) for d in directions], axis=1)
    gradient = np.stack([(logit(logs + d) - logit(logs - d)) / (2 * step) for d in directions], axis=1)
    hessian = np.empty((2, 2))
    for i, d in enumerate(directions):
        for j, e in enumerate(directions):
            hessian[i, j] = (
                objective(logs + d + e) - objective(logs + d - e) - objective(logs - d + e) + objective(logs - d - e)
            ) / (4 * step**2)
    inverse = np.linalg.pinv(hessian)
    scores = scores - (frequency @ scores) / num_prompts
    meat = (scores * frequency[:, None]).T @ scores * (num_prompts / max(num_prompts - 1, 1))
    # The larger of the robust and the likelihood's own variance: the first collapses when few counts occur.
    robust = np.einsum("ki,ij,kj->k", gradient, inverse @ meat @ inverse, gradient)
    plain = np.einsum("ki,ij,kj->k", gradient, inverse, gradient)
    deviation = np.sqrt(np.maximum(robust, plain))
    a, b = np.exp(logs)
    centre = logit(logs)
    values = -np.expm1(log_fail(logs))
    half = special.ndtri(0.5 + level / 2) * deviation
    failures = n - successes
    per_prompt = -np.expm1(
        special.betaln(a + successes[:, None], b + failures[:, None] + ns)
        - special.betaln(a + successes, b + failures)[:, None]
    )
    return Fit(
        values,
        per_prompt,
        deviation * values * (1 - values),
        special.expit(centre - half),
        special.expit(centre + half),
        {"a": float(a), "b": float(b)},
    )
