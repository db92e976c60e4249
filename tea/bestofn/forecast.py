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

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np

from tea.bestofn._inputs import FloatArray, IntArray, check_level, is_binary, reward_matrix, sample_counts
from tea.bestofn._interval import jsonable, mean_interval
from tea.bestofn.diagnostics import Diagnostics, diagnose
from tea.bestofn.extrapolate import Fit, beta_binomial, linear_forecast, shape_fit, with_allowance
from tea.bestofn.tails import GENERALIZED_NORMAL, MAX_N, PARETO
from tea.bestofn.verdict import judge

Method = Literal["auto", "gaussian", "ladder", "exponential", "generalized-normal", "gpd", "beta-binomial"]

METHODS: tuple[str, ...] = get_args(Method)


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
        max_reward: the largest reward that there can be, where it is known; nothing is forecast above it.
        notes: what else a user should know.
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
    max_reward: float | None = None
    notes: list[str] = field(default_factory=list)

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
            "max_reward": self.max_reward,
            "notes": self.notes,
        }


def forecast_best_of_n(
    rewards: Any,
    ns: Any,
    *,
    method: Method = "auto",
    tail_fraction: float = 0.25,
    rungs: Sequence[int] | None = None,
    level: float = 0.95,
    diagnostics: Diagnostics | None = None,
    max_reward: float | None = None,
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
        max_reward: largest reward that there can be. Default: found where on more than 5 % of the prompts (and at least
            two) several samples tie at the largest reward seen. Infinity: there is none.

    Raises:
        TypeError: entries that are not numbers, or Ns that are not whole.
        ValueError: bad rewards (as in :func:`best_of_n_curve`), n < 4, an unknown method, `tail_fraction` outside
            (0, 1], rungs that are not increasing or above n, "beta-binomial" for rewards that are not 0/1, or a method
            that fits a shape with fewer than 2 prompts, or `max_reward` below a reward that was seen.
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
        fit = beta_binomial(matrix, counts, level)
    elif resolved in ("generalized-normal", "gpd"):
        if num_prompts < 2:
            raise ValueError(f"method {resolved!r} fits one shape over the prompts and needs at least 2, got 1")
        fit = shape_fit(ordered, counts, GENERALIZED_NORMAL if resolved == "generalized-normal" else PARETO, level)
        if method == "auto":
            fit = with_allowance(fit, ordered, counts)
    else:
        per_prompt = linear_forecast(ordered, counts, resolved, tail_fraction, rungs)
        values, std_error, low, high = mean_interval(per_prompt, level)
        fit = Fit(values, per_prompt, std_error, low, high)
    found = diagnostics or diagnose(matrix, level=level)
    verdict, reasons = judge(found, resolved, counts, fit, ordered, level)
    ceiling, notes = _ceiling(max_reward, matrix, found)
    if ceiling is not None and resolved != "beta-binomial" and fit.high.max() > ceiling:
        notes.append(f"what the fit puts above {ceiling:g} is cut off there")
    limit = np.inf if ceiling is None else ceiling
    return Forecast(
        ns=counts,
        values=np.minimum(fit.values, limit),
        per_prompt=np.minimum(fit.per_prompt, limit),
        std_error=fit.std_error,
        ci_low=np.minimum(fit.low, limit),
        ci_high=np.minimum(fit.high, limit),
        level=level,
        method=resolved,
        num_prompts=num_prompts,
        num_samples=n,
        verdict=verdict,
        reasons=reasons,
        parameters=fit.parameters,
        max_reward=ceiling,
        notes=notes,
    )


def _ceiling(given: float | None, matrix: FloatArray, found: Diagnostics) -> tuple[float | None, list[str]]:
    """The largest reward that there can be, as given or found, and how it is known."""
    top = float(matrix.max())
    if given is not None:
        if np.isnan(given) or given < top:
            raise ValueError(f"max_reward (--max-reward) is {given:g}, but the rewards go up to {top:g}")
        return (None, []) if np.isinf(given) else (float(given), [])
    if found.binary:
        return 1.0, []
    if found.saturated_share > 0.05 and found.saturated_share * len(matrix) >= 2:
        share = f"{found.saturated_share:.0%} of the prompts have several samples at {top:g}"
        return top, [f"the largest reward is taken to be {top:g}: {share}"]
    return None, []
