"""Forecasts from some of the samples against the curve from all."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tea.bestofn._inputs import FloatArray, IntArray, reward_matrix, sample_counts
from tea.bestofn.curve import best_of_n_curve
from tea.bestofn.forecast import Forecast, forecast_best_of_n

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
