"""A total number of samples, split over prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tea.bestofn._inputs import FloatArray, IntArray, reward_matrix
from tea.bestofn._interval import mean_interval
from tea.bestofn.curve import order_weights
from tea.bestofn.forecast import Forecast, Method, forecast_best_of_n


@dataclass(frozen=True)
class BudgetSplit:
    """Samples per prompt under a fixed total.

    Attributes:
        samples: (P,) samples for each prompt, those already taken included.
        budget: the total asked for; `samples` sums to it.
        expected: mean over prompts of the value forecast under this split.
        expected_uniform: the same when every prompt gets as many.
    """

    samples: IntArray
    budget: int
    expected: float
    expected_uniform: float


def split_budget(rewards: Any, budget: int, *, method: Method = "auto") -> BudgetSplit:
    """Split `budget` samples over the prompts so that the mean best-of-N_p forecast is largest.

    Each prompt's curve is a_p + b_p t_N with the t_N of the common tail; b_p follows the prompt's standard deviation,
    shrunk towards the mean over prompts by as much as n samples leave uncertain. For 0/1 rewards, each prompt's
    beta-binomial posterior. The curves are concave, so taking the steepest steps first is optimal.

    Args:
        rewards: (P, n) rewards of a pilot, n >= 4.
        budget: total number of samples, those of the pilot included.
        method: of the forecast.

    Raises:
        ValueError: bad rewards, or a budget below the P * n samples already taken.
    """
    matrix = reward_matrix(rewards, min_samples=4)
    num_prompts, n = matrix.shape
    if budget < num_prompts * n:
        raise ValueError(f"budget must be at least the {num_prompts * n} samples already taken, got {budget}")
    most = min(budget - n * (num_prompts - 1), 10**9)
    steps = np.unique(np.concatenate([[n], np.ceil(n * 2.0 ** np.arange(0.0, np.log2(most / n) + 0.25, 0.25)), [most]]))
    grid = steps[steps <= most].astype(np.int64)
    forecast = forecast_best_of_n(matrix, grid, method=method)
    gains = _prompt_curves(matrix, forecast)

    width = np.diff(grid)
    slopes = np.minimum.accumulate(np.diff(gains, axis=1) / width, axis=1)  # noise must not make them convex
    # Steps that gain nothing (constant rewards, every sample correct) are not worth a preference between prompts.
    steepest = np.argsort(-slopes, axis=None, kind="stable")
    order = steepest[slopes.ravel()[steepest] > 0]
    cost = np.broadcast_to(width, slopes.shape).ravel()[order]
    left = budget - num_prompts * n
    stop = int(np.searchsorted(np.cumsum(cost), left, side="right"))
    samples = n + np.bincount(order[:stop] // len(width), weights=cost[:stop], minlength=num_prompts).astype(np.int64)
    rest = left - int(cost[:stop].sum())
    if rest and stop < len(order):
        samples[order[stop] // len(width)] += rest
    elif rest:
        samples += rest // num_prompts
        samples[: rest % num_prompts] += 1

    def expected(counts: FloatArray) -> float:
        return float(np.mean([np.interp(c, grid, row) for c, row in zip(counts, gains, strict=True)]))

    uniform = np.full(num_prompts, budget / num_prompts)
    return BudgetSplit(samples, budget, expected(samples.astype(np.float64)), expected(uniform))


def _prompt_curves(matrix: FloatArray, forecast: Forecast) -> FloatArray:
    """(P, K) value of each prompt at the forecast's Ns, noise in the scales shrunk."""
    if forecast.method == "beta-binomial":
        return forecast.per_prompt
    n = matrix.shape[1]
    mean_curve = forecast.per_prompt.mean(axis=0)
    deviation = matrix.std(axis=1, ddof=1)
    average = deviation.mean()
    if average == 0.0:
        return np.tile(matrix[:, [0]], (1, len(mean_curve)))
    # Var of a sample standard deviation is about sigma^2 / (2 (n - 1)); what is left is between prompts.
    noise = float((deviation**2).mean()) / (2 * (n - 1))
    total = float(deviation.var(ddof=1)) if len(deviation) > 1 else 0.0
    kept = max(0.0, 1.0 - noise / total) if total > 0 else 0.0
    scale = (average + kept * (deviation - average)) / average
    start = matrix.max(axis=1).mean()
    return np.asarray(matrix.max(axis=1, keepdims=True) + scale[:, None] * (mean_curve - start)[None, :])


def backtest_split(
    rewards: Any, pilot: int, budget: int, *, method: Method = "auto", repeats: int = 20, seed: int = 0
) -> dict[str, float]:
    """Compare :func:`split_budget` with a uniform split on rewards that are known in full.

    Each repeat takes a random pilot of every prompt, splits the budget by it, and credits each prompt with the
    expected maximum of its pilot and of fresh samples (exactly, over all subsets of the hidden ones).

    Args:
        rewards: (P, n).
        pilot: samples per prompt that the split is decided on.
        budget: total number of samples, pilots included; no prompt gets more than n.
        method: of the forecast.
        repeats: random pilots.
        seed: of the pilots.

    Returns:
        value, value_uniform: mean best-of-N value of both splits; gain, gain_se, gain_ci_low, gain_ci_high: their
        difference over the repeats (these prompts, new samples).

    Raises:
        ValueError: a uniform split needs more than n samples per prompt, or as :func:`split_budget`.
    """
    matrix = reward_matrix(rewards)
    num_prompts, n = matrix.shape
    if budget > num_prompts * n:
        raise ValueError(f"budget {budget} is more than the {num_prompts * n} samples there are")
    if repeats < 2:
        raise ValueError(f"repeats must be at least 2, got {repeats}")
    rng = np.random.default_rng(seed)
    uniform = np.full(num_prompts, budget // num_prompts)
    uniform[: budget % num_prompts] += 1
    values = []
    for _ in range(repeats):
        columns = rng.random((num_prompts, n)).argsort(axis=1)
        shuffled = np.take_along_axis(matrix, columns, axis=1)
        samples = np.minimum(split_budget(shuffled[:, :pilot], budget, method=method).samples, n)
        spare = budget - int(samples.sum())  # what the cap at n gives back goes to the prompts below it, in turn
        while spare > 0:
            room = np.flatnonzero(samples < n)[:spare]
            samples[room] += 1
            spare -= len(room)
        values.append([_credited(shuffled, pilot, samples), _credited(shuffled, pilot, uniform)])
    both = np.asarray(values)
    gain, error, low, high = mean_interval(both[:, [0]] - both[:, [1]], 0.95)
    return {
        "value": float(both[:, 0].mean()),
        "value_uniform": float(both[:, 1].mean()),
        "gain": float(gain[0]),
        "gain_se": float(error[0]),
        "gain_ci_low": float(low[0]),
        "gain_ci_high": float(high[0]),
    }


def _credited(shuffled: FloatArray, pilot: int, samples: IntArray) -> float:
    best = shuffled[:, :pilot].max(axis=1)
    hidden = np.sort(np.maximum(shuffled[:, pilot:], best[:, None]), axis=1)
    fresh = samples - pilot
    result = best.copy()
    for count in np.unique(fresh[fresh > 0]):
        rows = fresh == count
        result[rows] = hidden[rows] @ order_weights(hidden.shape[1], int(count))[0]
    return float(result.mean())
