r"""Forecasts of the best-of-N curve beyond the samples at hand, N > n, with intervals and a verdict.

Every method but "beta-binomial" reads the curve as E[max of N] = a + b * t_N with t_N known from a tail family:

- "gaussian": mean and standard deviation of the top k = max(ceil(alpha n), 2) samples, V_N = mu_a + ct * sigma_a, the
  estimate behind TEA, with ct calibrated to n so that it is unbiased for Gaussian rewards at any n.
- "ladder": two rungs, V_N = V_{k1} + (c_N - c_{k1}) / (c_{k2} - c_{k1}) * (V_{k2} - V_{k1}); exactly unbiased there.
- "exponential": mean excess b over the (k+1)-th largest sample, V_N = x_(n-k) + b * (H_N - H_n + H_k); exactly unbiased
  for exponential tails.
- "generalized-normal", "gpd": the tail's shape is fitted to the mean curve over all prompts (each with its own
  location and scale) and averaged over its posterior.
- "beta-binomial": for 0/1 rewards, pass@N = 1 - B(a, b + N) / B(a, b), a and b by maximum likelihood.
- "auto": "beta-binomial" for 0/1 rewards, else "generalized-normal" with an allowance in the interval for tails outside
  the family ("gaussian" for a single prompt).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np
from scipy import special

from tea.bestofn._inputs import FloatArray, IntArray, check_level, is_binary, reward_matrix, sample_counts
from tea.bestofn.curve import best_of_n_curve, jsonable, mean_interval, order_weights
from tea.bestofn.diagnostics import Diagnostics, diagnose, normal_order_statistics
from tea.bestofn.tails import (
    GENERALIZED_NORMAL,
    MAX_N,
    PARETO,
    ShapeFamily,
    exponential_curve,
    fit_shape,
    normal_curve,
)

Method = Literal["auto", "gaussian", "ladder", "exponential", "generalized-normal", "gpd", "beta-binomial"]
METHODS: tuple[str, ...] = get_args(Method)

MODEL_ERROR = 0.03
"""Allowance of "auto" for tails outside its family, per doubling of N beyond n, as a share of the gain forecast beyond
n; benchmarks/coverage shows what it is worth."""

SKEW_FACTOR = 1.1
"""Factor on the standard deviations of the fitted shapes' intervals: what heavy-tailed prompts scatter is skewed, and
symmetric intervals from it cover too little (by 2 to 3 points, benchmarks/coverage)."""


@dataclass(frozen=True)
class Forecast:
    """A forecast of the best-of-N curve.

    Attributes:
        ns: (K,).
        values: (K,) forecast of the mean over prompts of E[max of N].
        per_prompt: (P, K) the forecast of each prompt (noisy one by one).
        std_error: (K,) over prompts.
        ci_low: (K,) interval over prompts (other prompts, fresh samples); NaN where it cannot be given.
        ci_high: (K,).
        level: confidence level.
        method: the method used ("auto" resolved).
        num_prompts: P.
        num_samples: n, the samples per prompt that it rests on.
        verdict: "ok", "caution" or "do not trust".
        reasons: why it is not "ok", in sentences.
        parameters: what was fitted (tail_power, xi or a and b, with intervals where there are any).
    """

    ns: IntArray
    values: FloatArray
    per_prompt: FloatArray
    std_error: FloatArray
    ci_low: FloatArray
    ci_high: FloatArray
    level: float
    method: str
    num_prompts: int
    num_samples: int
    verdict: str
    reasons: list[str] = field(default_factory=list)
    parameters: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Everything but `per_prompt`, in JSON types (NaN as None)."""
        return {
            "ns": self.ns.tolist(),
            "values": jsonable(self.values),
            "std_error": jsonable(self.std_error),
            "ci_low": jsonable(self.ci_low),
            "ci_high": jsonable(self.ci_high),
            "level": self.level,
            "method": self.method,
            "num_prompts": self.num_prompts,
            "num_samples": self.num_samples,
            "verdict": self.verdict,
            "reasons": self.reasons,
            "parameters": self.parameters,
        }


@dataclass(frozen=True)
class _Fit:
    values: FloatArray
    per_prompt: FloatArray
    std_error: FloatArray
    low: FloatArray
    high: FloatArray
    parameters: dict[str, Any] = field(default_factory=dict)


def forecast_best_of_n(
    rewards: Any,
    ns: Any,
    *,
    method: Method = "auto",
    tail_fraction: float = 0.25,
    rungs: Sequence[int] | None = None,
    level: float = 0.95,
    diagnostics: Diagnostics | None = None,
) -> Forecast:
    """Forecast the best-of-N curve for N beyond the n samples at hand.

    Args:
        rewards: (P, n), n >= 4: torch tensor, NumPy array or nested lists.
        ns: the Ns, up to 1e12. For N <= n prefer :func:`best_of_n_curve`, which assumes nothing.
        method: see the module's description.
        tail_fraction: alpha of "gaussian" and "exponential", in (0, 1].
        rungs: k1 < k2 <= n of "ladder"; default (n/4, n).
        level: confidence level of the interval over prompts. It holds where the method's family does; only "auto"
            makes an allowance for others. What the rewards say against the family stands in `reasons`.
        diagnostics: those of the same rewards, where they are at hand already.

    Raises:
        TypeError: entries that are not numbers, or Ns that are not whole.
        ValueError: bad rewards (as in :func:`best_of_n_curve`), n < 4, an unknown method, `tail_fraction` outside
            (0, 1], rungs that are not increasing or above n, "beta-binomial" for rewards that are not 0/1, or a method
            that fits a shape with fewer than 2 prompts.
    """
    matrix = reward_matrix(rewards, min_samples=4)
    counts = sample_counts(ns, largest=MAX_N, hint=" at most that forecasts go up to")
    check_level(level)
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if not 0.0 < tail_fraction <= 1.0:
        raise ValueError(f"tail_fraction must be in (0, 1], got {tail_fraction!r}")
    num_prompts, n = matrix.shape
    binary = is_binary(matrix)
    if method == "beta-binomial" and not binary:
        raise ValueError("method 'beta-binomial' needs rewards of 0 and 1 only")
    resolved = method
    if method == "auto":
        resolved = "beta-binomial" if binary else ("generalized-normal" if num_prompts >= 2 else "gaussian")

    ordered = np.sort(matrix, axis=1)
    if resolved == "beta-binomial":
        fit = _beta_binomial(matrix, counts, level)
    elif resolved in ("generalized-normal", "gpd"):
        if num_prompts < 2:
            raise ValueError(f"method {resolved!r} fits one shape over the prompts and needs at least 2, got 1")
        fit = _shape_fit(ordered, counts, GENERALIZED_NORMAL if resolved == "generalized-normal" else PARETO, level)
        if method == "auto":
            fit = _with_allowance(fit, ordered, counts)
    else:
        per_prompt = _linear_forecast(ordered, counts, resolved, tail_fraction, rungs)
        fit = _Fit(*_reorder(mean_interval(per_prompt, level), per_prompt))
    found = diagnostics or diagnose(matrix, level=level)
    verdict, reasons = _verdict(found, resolved, counts, fit, ordered, level)
    return Forecast(
        ns=counts,
        values=fit.values,
        per_prompt=fit.per_prompt,
        std_error=fit.std_error,
        ci_low=fit.low,
        ci_high=fit.high,
        level=level,
        method=resolved,
        num_prompts=num_prompts,
        num_samples=n,
        verdict=verdict,
        reasons=reasons,
        parameters=fit.parameters,
    )


def _reorder(
    interval: tuple[FloatArray, FloatArray, FloatArray, FloatArray], per_prompt: FloatArray
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray, FloatArray]:
    values, std_error, low, high = interval
    return values, per_prompt, std_error, low, high


def _linear_forecast(
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


def _shape_fit(ordered: FloatArray, ns: IntArray, family: ShapeFamily, level: float) -> _Fit:
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
    return _Fit(values, per_prompt, std_error, low, high, parameters)


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


def _with_allowance(fit: _Fit, ordered: FloatArray, ns: IntArray) -> _Fit:
    """Widen by what tails outside the family cost, which grows with the distance of the extrapolation."""
    n = ordered.shape[1]
    doublings = np.maximum(np.log2(ns / n), 0.0)
    allowance = MODEL_ERROR * doublings * np.maximum(fit.values - ordered[:, -1].mean(), 0.0)
    return _Fit(fit.values, fit.per_prompt, fit.std_error, fit.low - allowance, fit.high + allowance, fit.parameters)


def _beta_binomial(matrix: FloatArray, ns: IntArray, level: float) -> _Fit:
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
    return _Fit(
        values,
        per_prompt,
        deviation * values * (1 - values),
        special.expit(centre - half),
        special.expit(centre + half),
        {"a": float(a), "b": float(b)},
    )


def _verdict(
    found: Diagnostics, method: str, ns: IntArray, fit: _Fit, ordered: FloatArray, level: float
) -> tuple[str, list[str]]:
    """What speaks against the forecast: bad reasons make it "do not trust", doubts "caution"."""
    bad: list[str] = []
    doubts: list[str] = []
    n, reach = found.num_samples, int(ns.max())
    if method == "beta-binomial":
        if ordered.min() == ordered.max():
            bad.append("every sample has the same outcome: nothing is known about the other one")
        elif ordered.sum() < 5 or (1 - ordered).sum() < 5:
            doubts.append("fewer than 5 samples have one of the two outcomes")
    elif found.binary:
        bad.append(f"rewards are 0/1: {method!r} has no meaning for them, use method='beta-binomial' (or 'auto')")
    else:
        if found.saturated_share > 0.5:
            bad.append(f"{found.saturated_share:.0%} of the prompts are saturated at the largest reward seen")
        elif found.saturated_share > 0.05:
            doubts.append(
                f"{found.saturated_share:.0%} of the prompts are saturated at the largest reward seen: bounded rewards"
            )
        if found.tied_share > 0.9:
            bad.append(f"{found.tied_share:.0%} of the prompts have ties in the upper quarter: discrete rewards")
        elif found.tied_share > 0.25:
            doubts.append(f"{found.tied_share:.0%} of the prompts have ties in the upper quarter")
        if found.constant_share > 0.1:
            doubts.append(f"{found.constant_share:.0%} of the prompts have constant rewards, forecast as they are")
        doubts += _wrong_tail(found, method, ns, fit, ordered, level)
    if n < 8:
        bad.append(f"{n} samples per prompt are too few for a tail: at least 8, better 16")
    elif n < 16:
        doubts.append(f"{n} samples per prompt are few for a tail: better 16 or more")
    if reach > 1024 * n:
        bad.append(f"N = {reach} is {reach / n:.0f} times the {n} samples it rests on")
    elif reach > 64 * n:
        doubts.append(f"N = {reach} is {reach / n:.0f} times the {n} samples it rests on")
    if found.num_prompts == 1:
        doubts.append("one prompt gives no interval over prompts")
    elif found.num_prompts < 20:
        doubts.append(f"the interval rests on {found.num_prompts} prompts")
    verdict = "do not trust" if bad else ("caution" if doubts else "ok")
    return verdict, bad + doubts


def _wrong_tail(
    found: Diagnostics, method: str, ns: IntArray, fit: _Fit, ordered: FloatArray, level: float
) -> list[str]:
    """Does the tail that the prompts share contradict the method's, by enough to matter at the largest N?"""
    reasons = []
    furthest = int(np.argmax(ns))
    if ns[furthest] <= found.num_samples or found.tail_power is None:
        return []
    if found.tail_shape is not None and found.tail_shape[0] > 0.15:
        reasons.append(
            f"heavy tail (generalised Pareto xi = {found.tail_shape[0]:.2f}): maxima are dominated by rare samples"
        )
    if method in ("gaussian", "ladder", "exponential"):
        other = _shape_fit(ordered, ns[[furthest]], GENERALIZED_NORMAL, level)
        value = fit.values[furthest]
        gain = max(float(other.values[0] - ordered[:, -1].mean()), 1e-300)
        power, low, high = found.tail_power
        assumed = 1.0 if method == "exponential" else 2.0
        if not low <= assumed <= high and abs(value - other.values[0]) > 0.1 * gain:
            direction = "low" if value < other.values[0] else "high"
            reasons.append(
                f"the tail is not what {method!r} assumes (exp(-|x|^p) with p = {power:.2f} [{low:.2f}, {high:.2f}]): "
                f"this forecast is probably too {direction}; 'auto' gives {other.values[0]:.4g} at N = {ns[furthest]}"
            )
    return reasons


ForecastFunction = Callable[[FloatArray, IntArray], "Forecast | FloatArray"]


def backtest(
    rewards: Any,
    ns: Any,
    num_samples: int | Sequence[int] = 16,
    *,
    methods: Sequence[str] | Mapping[str, ForecastFunction] = ("auto", "gaussian", "ladder", "exponential", "gpd"),
    repeats: int = 100,
    num_prompts: int | None = None,
    level: float = 0.95,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Hide all but m of the n samples, forecast, and compare with the curve from all n.

    Each repeat draws prompts with replacement from those given (they stand for the population, whose true value is
    the mean of their curves) and m of each one's samples without replacement.

    Args:
        rewards: (P, n); the truth at N is read off the unbiased curve, so n should be well above the largest N.
        ns: the Ns to forecast, each at most n.
        num_samples: m, or several.
        methods: names for :func:`forecast_best_of_n`, or name -> function of (rewards (P, m), ns) giving a
            :class:`Forecast` or the bare (K,) values.
        repeats: draws per m.
        num_prompts: prompts per draw; default P.
        level: confidence level whose coverage is counted.
        seed: of the draws.

    Returns:
        One record per (m, N, method): truth, bias, rmse and their Monte-Carlo standard errors, coverage and its error
        (None for functions without intervals), mean interval width, shares of verdicts.

    Raises:
        ValueError: as :func:`best_of_n_curve` and :func:`forecast_best_of_n`; m above n/2; `repeats` < 2.
    """
    matrix = reward_matrix(rewards)
    sizes = sample_counts(num_samples, name="num_samples")
    if sizes.max() > matrix.shape[1] // 2:
        raise ValueError(
            f"num_samples must leave at least half of the {matrix.shape[1]} samples hidden, got {sizes.max()}"
        )
    if repeats < 2:
        raise ValueError(f"repeats must be at least 2, got {repeats}")
    truth = best_of_n_curve(matrix, ns)
    counts = truth.ns
    functions: dict[str, ForecastFunction]
    functions = dict(methods) if isinstance(methods, Mapping) else {name: _by_name(name, level) for name in methods}
    rng = np.random.default_rng(seed)
    population, n = matrix.shape
    draws = num_prompts or population
    records = []
    for m in sizes.tolist():
        errors: dict[str, list[FloatArray]] = {name: [] for name in functions}
        covered: dict[str, list[Any]] = {name: [] for name in functions}
        widths: dict[str, list[FloatArray]] = {name: [] for name in functions}
        verdicts: dict[str, list[str]] = {name: [] for name in functions}
        for _ in range(repeats):
            rows = rng.integers(population, size=draws)
            columns = rng.random((draws, n)).argpartition(m, axis=1)[:, :m]
            sample = matrix[rows[:, None], columns]
            for name, function in functions.items():
                result = function(sample, counts)
                if isinstance(result, Forecast):
                    covered[name].append((result.ci_low <= truth.values) & (truth.values <= result.ci_high))
                    widths[name].append(result.ci_high - result.ci_low)
                    verdicts[name].append(result.verdict)
                    result = result.values
                errors[name].append(np.asarray(result) - truth.values)
        for name in functions:
            error = np.stack(errors[name])
            for i, count in enumerate(counts.tolist()):
                records.append(
                    {
                        "num_samples": m,
                        "n": count,
                        "method": name,
                        "truth": float(truth.values[i]),
                        **_error_statistics(error[:, i]),
                        **_coverage_statistics(covered[name], widths[name], i),
                        "verdicts": {v: verdicts[name].count(v) / repeats for v in sorted(set(verdicts[name]))},
                    }
                )
    return records


def _by_name(name: str, level: float) -> ForecastFunction:
    def run(sample: FloatArray, ns: IntArray) -> Forecast:
        return forecast_best_of_n(sample, ns, method=name, level=level)  # type: ignore[arg-type]

    return run


def _error_statistics(error: FloatArray) -> dict[str, float]:
    repeats = len(error)
    mean_square = float((error**2).mean())
    rmse = np.sqrt(mean_square)
    return {
        "bias": float(error.mean()),
        "bias_se": float(error.std(ddof=1) / np.sqrt(repeats)),
        "rmse": float(rmse),
        "rmse_se": float((error**2).std(ddof=1) / np.sqrt(repeats) / (2 * rmse)) if rmse > 0 else 0.0,
    }


def _coverage_statistics(covered: list[Any], widths: list[FloatArray], column: int) -> dict[str, float | None]:
    if not covered:
        return {"coverage": None, "coverage_se": None, "width": None}
    share = float(np.mean([c[column] for c in covered]))
    return {
        "coverage": share,
        "coverage_se": float(np.sqrt(share * (1 - share) / len(covered))),
        "width": float(np.mean([w[column] for w in widths])),
    }
