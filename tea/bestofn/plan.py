"""How many samples per prompt: what more of them give against what they cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tea.bestofn._inputs import FloatArray, IntArray, check_level, reward_matrix
from tea.bestofn._interval import jsonable, mean_interval
from tea.bestofn.curve import BestOfNCurve, best_of_n_curve
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
