"""From a curve or its forecast to decisions: how many samples, for which prompts, and how to train for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import special

from tea.bestofn._inputs import FloatArray, IntArray, check_level, is_binary, reward_matrix
from tea.bestofn.curve import BestOfNCurve, best_of_n_curve, jsonable, mean_interval, order_weights
from tea.bestofn.forecast import Forecast, Method, forecast_best_of_n


@dataclass(frozen=True)
class Plan:
    """How many samples per prompt to take.

    Attributes:
        ns: (K,) candidate Ns: 1, 2, 3, 4, 6, 8, 12, ...; up to n from the curve, beyond it from the forecast.
        values: (K,) best-of-N value.
        ci_low: (K,) its interval over prompts.
        ci_high: (K,)
        net: (K,) value_per_reward * value - cost_per_sample * N.
        num_samples: n; larger Ns are forecasts.
        best_n: the N of the largest net value.
        best_n_range: smallest and largest N whose net value is not distinguishable from the best (paired over prompts).
        gain_per_doubling: (K,) V_2N - V_N; NaN where 2N is beyond the largest N.
        doubling_n: smallest N from which a doubling gains less than `min_gain_per_doubling`; None if not reached.
        target_n: smallest N whose value reaches `target`; None if not reached.
        target_n_range: the same for the upper and the lower end of the interval; None where not reached.
        verdict: of the forecast ("ok" where none was needed).
        reasons: of the verdict.
        settings: the arguments.
    """

    ns: IntArray
    values: FloatArray
    ci_low: FloatArray
    ci_high: FloatArray
    net: FloatArray
    num_samples: int
    best_n: int
    best_n_range: tuple[int, int]
    gain_per_doubling: FloatArray
    doubling_n: int | None
    target_n: int | None
    target_n_range: tuple[int | None, int | None]
    verdict: str
    reasons: list[str]
    settings: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Everything in JSON types (NaN as None)."""
        return {
            "ns": self.ns.tolist(),
            "values": jsonable(self.values),
            "ci_low": jsonable(self.ci_low),
            "ci_high": jsonable(self.ci_high),
            "net": jsonable(self.net),
            "num_samples": self.num_samples,
            "best_n": self.best_n,
            "best_n_range": list(self.best_n_range),
            "gain_per_doubling": jsonable(self.gain_per_doubling),
            "doubling_n": self.doubling_n,
            "target_n": self.target_n,
            "target_n_range": list(self.target_n_range),
            "verdict": self.verdict,
            "reasons": self.reasons,
            "settings": self.settings,
        }


def planning_ns(max_n: int) -> list[int]:
    """1, 2, 3, 4, 6, 8, 12, ... up to `max_n`: doubling an entry gives an entry."""
    ns = {1, *(2**i for i in range(1, 64)), *(3 * 2**i for i in range(63))}
    return sorted(n for n in ns if n <= max_n)


def curve_with_forecast(
    rewards: Any, ns: Sequence[int], *, method: Method = "auto", level: float = 0.95
) -> tuple[BestOfNCurve, Forecast | None]:
    """The unbiased curve for the Ns up to n and the forecast for those above (None if there are none)."""
    matrix = reward_matrix(rewards)
    below = [n for n in ns if n <= matrix.shape[1]]
    above = [n for n in ns if n > matrix.shape[1]]
    curve = best_of_n_curve(matrix, below or [matrix.shape[1]], level=level)
    return curve, forecast_best_of_n(matrix, above, method=method, level=level) if above else None


def plan_samples(
    rewards: Any,
    *,
    cost_per_sample: float = 0.0,
    value_per_reward: float = 1.0,
    target: float | None = None,
    min_gain_per_doubling: float | None = None,
    max_n: int | None = None,
    method: Method = "auto",
    level: float = 0.95,
) -> Plan:
    """Weigh what more samples per prompt give against what they cost.

    Args:
        rewards: (P, n): torch tensor, NumPy array or nested lists.
        cost_per_sample: of one completion (tokens, seconds, money), in the unit of `value_per_reward` * reward.
        value_per_reward: worth of one unit of reward, per prompt answered.
        target: a value of the best-of-N curve to reach.
        min_gain_per_doubling: reward below which doubling N is not worth while.
        max_n: largest N considered; default 16 n.
        method: of the forecast beyond n.
        level: confidence level.

    Raises:
        ValueError: bad rewards, negative or infinite cost or value, `max_n` below 1.
    """
    matrix = reward_matrix(rewards)
    check_level(level)
    for name, given in (("cost_per_sample", cost_per_sample), ("value_per_reward", value_per_reward)):
        if not np.isfinite(given) or given < 0:
            raise ValueError(f"{name} must be finite and at least 0, got {given}")
    n = matrix.shape[1]
    limit = 16 * n if max_n is None else max_n
    if limit < 1:
        raise ValueError(f"max_n must be at least 1, got {max_n}")
    if n < 4:  # too few to forecast from
        limit = min(limit, n)
    ns = planning_ns(limit)
    curve, forecast = curve_with_forecast(matrix, ns, method=method, level=level)
    parts: list[Any] = [curve] if forecast is None else [curve, forecast]
    values, low, high = (np.concatenate([getattr(p, a) for p in parts]) for a in ("values", "ci_low", "ci_high"))
    per_prompt = np.concatenate([p.per_prompt for p in parts], axis=1)
    grid = np.asarray(ns, dtype=np.int64)

    net_per_prompt = value_per_reward * per_prompt - cost_per_sample * grid
    net = value_per_reward * values - cost_per_sample * grid
    best = int(np.argmax(net))
    _, _, _, gap_high = mean_interval(net_per_prompt - net_per_prompt[:, [best]], level)
    alike = np.flatnonzero((gap_high >= 0) | (np.arange(len(grid)) == best) | np.isnan(gap_high))
    position = {int(k): i for i, k in enumerate(grid)}
    gain = np.asarray(
        [values[position[2 * k]] - values[i] if 2 * k in position else np.nan for k, i in position.items()]
    )

    def first(condition: Any) -> int | None:
        found = np.flatnonzero(condition)
        return int(grid[found[0]]) if found.size else None

    return Plan(
        ns=grid,
        values=values,
        ci_low=low,
        ci_high=high,
        net=net,
        num_samples=n,
        best_n=int(grid[best]),
        best_n_range=(int(grid[alike[0]]), int(grid[alike[-1]])),
        gain_per_doubling=gain,
        doubling_n=None if min_gain_per_doubling is None else first(gain < min_gain_per_doubling),
        target_n=None if target is None else first(values >= target),
        target_n_range=(None, None) if target is None else (first(high >= target), first(low >= target)),
        verdict="ok" if forecast is None else forecast.verdict,
        reasons=[] if forecast is None else forecast.reasons,
        settings={
            "cost_per_sample": cost_per_sample,
            "value_per_reward": value_per_reward,
            "target": target,
            "min_gain_per_doubling": min_gain_per_doubling,
            "method": None if forecast is None else forecast.method,
        },
    )


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


def plan_training(
    rewards: Any,
    rollouts_per_step: int,
    target_n: int,
    *,
    estimator: str = "tea",
    group_sizes: Sequence[int] = (4, 8, 16, 32, 64),
    groups: int = 4096,
    seed: int = 0,
    **options: Any,
) -> list[dict[str, float]]:
    r"""Which group size m to train with, under a budget of rollouts per step.

    The gradient of best-of-N is E[psi(R) * score] with the influence function psi(u), the integral up to u of
    N F^(N-1). Scores in a large model are nearly orthogonal between rollouts, so what an advantage A is worth is
    its correlation with psi: `efficiency` = corr(A, psi)^2 is the share of the rollouts that would do as well with psi
    known. Measured on groups drawn from the given rewards, F from all n samples of a prompt.

    Args:
        rewards: (P, n) of the policy to train, n >= target_n; n should be several times target_n, since the noise of
            F at the top lowers every efficiency (at n = 4 N by a quarter).
        rollouts_per_step: prompts per step times m.
        target_n: N.
        estimator: name in :func:`tea.list_estimators`.
        group_sizes: candidates for m; those above `rollouts_per_step` or n are left out.
        groups: groups drawn per candidate.
        seed: of the draws.
        **options: further arguments of the estimator.

    Returns:
        A record per m: group_size, prompts_per_step, efficiency, efficiency_se, effective_rollouts. The first with
        `recommended` true is the smallest m within 5 % of the best: more prompts per step at the same worth.

    Raises:
        ValueError: n < target_n, or no candidate left.
    """
    import torch

    from tea.estimators import get_estimator, get_estimator_spec

    matrix = reward_matrix(rewards)
    num_prompts, n = matrix.shape
    if target_n > n:
        raise ValueError(f"target_n = {target_n} needs at least as many samples per prompt, got {n}")
    sizes = [m for m in group_sizes if 2 <= m <= min(n, rollouts_per_step)]
    if not sizes:
        raise ValueError(f"none of the group sizes {tuple(group_sizes)} fits {rollouts_per_step} rollouts and n = {n}")
    takes_target = "target_n" in get_estimator_spec(estimator).parameters
    function = get_estimator(estimator, **({"target_n": target_n} if takes_target else {}), **options)
    influence = _influence(matrix, target_n)
    rng = np.random.default_rng(seed)
    records: list[dict[str, Any]] = []
    for m in sizes:
        rows = rng.integers(num_prompts, size=groups)
        columns = rng.random((groups, n)).argpartition(m - 1, axis=1)[:, :m]
        advantages = function(torch.from_numpy(matrix[rows[:, None], columns])).numpy()
        psi = influence[rows[:, None], columns]
        psi = psi - psi.mean(axis=1, keepdims=True)
        halves = [_efficiency(advantages[i::8], psi[i::8]) for i in range(8)]
        value = _efficiency(advantages, psi)
        records.append(
            {
                "group_size": m,
                "prompts_per_step": rollouts_per_step // m,
                "efficiency": value,
                "efficiency_se": float(np.std(halves, ddof=1) / np.sqrt(8)),
                "effective_rollouts": value * (rollouts_per_step // m) * m,
            }
        )
    best = max(record["effective_rollouts"] for record in records)
    chosen = next(record for record in records if record["effective_rollouts"] >= 0.95 * best)
    for record in records:
        record["recommended"] = record is chosen
    return records


def _influence(matrix: FloatArray, n: int) -> FloatArray:
    """Psi at every sample, F the empirical distribution of its prompt's samples; (P, n)."""
    order = np.argsort(matrix, axis=1)
    ordered = np.take_along_axis(matrix, order, axis=1)
    below = np.arange(1, matrix.shape[1]) / matrix.shape[1]
    steps = n * below ** (n - 1) * np.diff(ordered, axis=1)
    psi = np.concatenate([np.zeros((len(matrix), 1)), np.cumsum(steps, axis=1)], axis=1)
    result = np.empty_like(psi)
    np.put_along_axis(result, order, psi, axis=1)
    return result


def _efficiency(advantages: FloatArray, psi: FloatArray) -> float:
    norm = float((advantages**2).sum() * (psi**2).sum())
    product = float((advantages * psi).sum())
    return max(product, 0.0) ** 2 / norm if norm > 0 else 0.0


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
