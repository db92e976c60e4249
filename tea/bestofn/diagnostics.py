"""What the rewards of n samples per prompt look like in the upper tail, and which assumptions they support."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import special

from tea.bestofn._inputs import FloatArray, check_level, is_binary, reward_matrix
from tea.bestofn._interval import jsonable, mean_interval
from tea.bestofn.curve import order_weights
from tea.bestofn.tails import GENERALIZED_NORMAL, PARETO, fit_shape, normal_curve

TAIL_SHARE = 0.25
"""Share of the samples that counts as the upper tail of a prompt (TEA's default tail fraction)."""

TIED = 0.1
"""Share of the upper tail in ties that makes a prompt's rewards discrete."""


@dataclass(frozen=True)
class Diagnostics:
    """What :func:`diagnose` found.

    Attributes:
        num_prompts: P.
        num_samples: n.
        binary: all rewards are 0 or 1.
        constant_share: share of prompts whose rewards are all equal.
        tied_share: share of prompts where a tenth or more of the upper quarter of the samples share their reward with
            another (a language model repeats itself: a few ties among many samples mean nothing).
        saturated_share: share of prompts where two or more samples reach the largest reward of the whole file.
        linearity: (P,) correlation of the normal Q-Q plot of each prompt's upper quarter; NaN where it is constant.
        critical_linearity: 5 % quantile of that correlation for Gaussian rewards of the same n.
        gaussian_share: share of prompts whose linearity is above it (0.95 is what Gaussian rewards give).
        tail_power: p of the tail exp(-|x|^p) shared by all prompts, with its interval: 2 is Gaussian, 1 exponential,
            large bounded. None where it cannot be told (one prompt, fewer than 8 samples, no spread).
        tail_shape: the generalised Pareto shape xi in the same way: 0 exponential, below 0 bounded, above 0 heavy.
        slopes: how the curve's slope per unit of c_N changes towards the tail, one entry per (k, 2k, 4k): a Gaussian
            tail keeps it, `change` is the relative change with its interval over prompts.
        supported_tail_fraction: the largest tail fraction alpha above which the tail looks Gaussian; None if none does.
        qq_expected: (n,) expected order statistics of n standard normals.
        qq_observed: (n,) mean over prompts of the standardised sorted rewards.
        qq_low: (n,) lower end of its interval over prompts.
        qq_high: (n,) upper end.
        notes: the findings in sentences.
        level: confidence level.
    """

    num_prompts: int
    num_samples: int
    binary: bool
    constant_share: float
    tied_share: float
    saturated_share: float
    linearity: FloatArray
    critical_linearity: float
    gaussian_share: float
    tail_power: tuple[float, float, float] | None
    tail_shape: tuple[float, float, float] | None
    slopes: list[dict[str, float]]
    supported_tail_fraction: float | None
    qq_expected: FloatArray
    qq_observed: FloatArray
    qq_low: FloatArray
    qq_high: FloatArray
    level: float
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the Q-Q points, in JSON types (NaN as None)."""
        return {
            "num_prompts": self.num_prompts,
            "num_samples": self.num_samples,
            "binary": self.binary,
            "constant_share": self.constant_share,
            "tied_share": self.tied_share,
            "saturated_share": self.saturated_share,
            "linearity": jsonable(self.linearity),
            "critical_linearity": self.critical_linearity,
            "gaussian_share": self.gaussian_share,
            "tail_power": None if self.tail_power is None else list(self.tail_power),
            "tail_shape": None if self.tail_shape is None else list(self.tail_shape),
            "slopes": self.slopes,
            "supported_tail_fraction": self.supported_tail_fraction,
            "level": self.level,
            "notes": self.notes,
        }


def diagnose(rewards: Any, *, level: float = 0.95) -> Diagnostics:
    """Describe the upper tail of the rewards, per prompt and pooled.

    Args:
        rewards: (P, n), n >= 2: torch tensor, NumPy array or nested lists.
        level: confidence level of the intervals.

    Raises:
        TypeError: entries that are not numbers.
        ValueError: not (P, n), ragged, fewer than 2 samples, NaN or infinite (with the position).
    """
    matrix = reward_matrix(rewards, min_samples=2)
    check_level(level)
    num_prompts, n = matrix.shape
    ordered = np.sort(matrix, axis=1)
    tail = ordered[:, n - _tail_count(n) :]
    constant = ordered[:, -1] == ordered[:, 0]
    repeats = tail[:, 1:] == tail[:, :-1]
    in_a_tie = np.zeros(tail.shape, dtype=bool)
    in_a_tie[:, 1:] |= repeats
    in_a_tie[:, :-1] |= repeats
    tied = in_a_tie.mean(axis=1) >= TIED
    saturated = (ordered[:, -2] == ordered.max()) if n > 1 else np.zeros(num_prompts, dtype=bool)
    binary = is_binary(matrix)

    expected = normal_order_statistics(n)
    linearity = _correlation(tail, expected[-tail.shape[1] :])
    critical = _critical_linearity(n)
    with np.errstate(invalid="ignore"):
        gaussian_share = float(np.mean(linearity >= critical))

    power = shape = None
    if num_prompts >= 2 and n >= 8 and not binary and (~constant).sum() >= 2:
        power = fit_shape(ordered, GENERALIZED_NORMAL).parameter(level)
        shape = fit_shape(ordered, PARETO).parameter(level)
    slopes = _slopes(ordered, level)
    supported = None
    for entry in reversed(slopes):  # from the deepest tail outwards, as far as nothing contradicts
        if not entry["consistent"]:
            break
        supported = entry["tail_fraction"]

    spread = ordered.std(axis=1, ddof=1)[~constant, None]
    standardized = (ordered[~constant] - ordered[~constant].mean(axis=1, keepdims=True)) / spread
    if len(standardized):
        observed, _, low, high = mean_interval(standardized, level)
    else:
        observed = low = high = np.full(n, np.nan)
    result = Diagnostics(
        num_prompts=num_prompts,
        num_samples=n,
        binary=binary,
        constant_share=float(constant.mean()),
        tied_share=float(tied.mean()),
        saturated_share=float(saturated.mean()),
        linearity=linearity,
        critical_linearity=critical,
        gaussian_share=gaussian_share,
        tail_power=power,
        tail_shape=shape,
        slopes=slopes,
        supported_tail_fraction=None if binary else supported,
        qq_expected=expected,
        qq_observed=observed,
        qq_low=low,
        qq_high=high,
        level=level,
    )
    result.notes.extend(_notes(result))
    return result


def normal_order_statistics(n: int) -> FloatArray:
    """E of the sorted sample of n standard normals, ascending; (n,), by quadrature.

    E X_(j) = integral of x * C(n; j) * Phi^(j-1) * (1 - Phi)^(n-j) * phi dx.
    """
    return _normal_order_statistics(n).copy()


@lru_cache(maxsize=16)
def _normal_order_statistics(n: int) -> FloatArray:
    x = np.linspace(-9.0, 9.0, 1801)
    rank = np.arange(n // 2 + 1, n + 1, dtype=np.float64)[:, None]  # the upper half; the lower is its mirror image
    log_density = special.gammaln(n + 1) - special.gammaln(rank) - special.gammaln(n - rank + 1)
    upper = np.empty(len(rank))
    for start in range(0, len(rank), 256):  # in blocks, to bound the memory for large n
        block = slice(start, start + 256)
        log_f = (
            log_density[block]
            + (rank[block] - 1) * special.log_ndtr(x)
            + (n - rank[block]) * special.log_ndtr(-x)
            - 0.5 * x**2
        )
        upper[block] = np.exp(log_f) @ x
    upper *= (x[1] - x[0]) / np.sqrt(2 * np.pi)
    if n % 2 == 1:
        return np.concatenate([-upper[:0:-1], [0.0], upper[1:]])
    return np.concatenate([-upper[::-1], upper])


def _tail_count(n: int) -> int:
    return min(n, max(int(np.ceil(TAIL_SHARE * n)), 4))


def _correlation(tail: FloatArray, expected: FloatArray) -> FloatArray:
    centred = tail - tail.mean(axis=1, keepdims=True)
    reference = expected - expected.mean()
    norm = np.sqrt((centred**2).sum(axis=1) * (reference**2).sum())
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(norm > 0, centred @ reference / norm, np.nan))


@lru_cache(maxsize=64)
def _critical_linearity(n: int) -> float:
    """5 % quantile of the correlation under Gaussian rewards, simulated with a fixed seed."""
    repeats = 4000 if n <= 256 else 1000
    rng = np.random.default_rng(0)
    count = _tail_count(n)
    tails = [np.sort(rng.standard_normal((250, n)), axis=1)[:, n - count :] for _ in range(repeats // 250)]
    return float(np.quantile(_correlation(np.concatenate(tails), normal_order_statistics(n)[-count:]), 0.05))


def _slopes(ordered: FloatArray, level: float) -> list[dict[str, float]]:
    n = ordered.shape[1]
    rungs = [2**i for i in range(int(np.log2(n)) + 1)]
    at_rungs = ordered @ order_weights(n, rungs).T
    c = normal_curve(rungs)
    local = np.diff(at_rungs, axis=1) / np.diff(c)  # (P, R-1)
    entries: list[dict[str, float]] = []
    for i, k in enumerate(rungs[:-2]):
        lower = float(local[:, i].mean())
        if lower <= 0 or len(local) < 2:
            continue
        change = (local[:, i + 1] - local[:, i]) / lower
        # Ratio of two means: linearised, so that the interval carries the uncertainty of the denominator too.
        mean = float(change.mean())
        _, _, low, high = mean_interval((change - mean * (local[:, i] / lower - 1.0))[:, None], level)
        entries.append(
            {
                "k": k,
                # V_k puts 95 % of its weight, k F^(k-1) dF, on the upper 1 - 0.05^(1/k) of the distribution.
                "tail_fraction": 1.0 if k == 1 else float(1.0 - 0.05 ** (1.0 / k)),
                "change": mean,
                "ci_low": float(low[0]),
                "ci_high": float(high[0]),
                "consistent": bool(low[0] <= 0.0 <= high[0] or abs(mean) < 0.1),
            }
        )
    return entries


def _notes(found: Diagnostics) -> list[str]:
    notes = []
    if found.binary:
        return ["rewards are 0/1: a tail fit is meaningless, use pass@N and the beta-binomial forecast"]
    if found.constant_share > 0:
        notes.append(f"{found.constant_share:.0%} of the prompts have the same reward for every sample")
    if found.tied_share > 0.05:
        notes.append(
            f"{found.tied_share:.0%} of the prompts have ties in the upper quarter: rounded or clipped rewards"
        )
    if found.saturated_share > 0.01:
        notes.append(
            f"on {found.saturated_share:.0%} of the prompts several samples reach the largest reward seen anywhere: "
            "a ceiling, above which more samples gain nothing"
        )
    if found.tail_power is not None:
        power, low, high = found.tail_power
        if low <= 2.0 <= high:
            kind = "consistent with a Gaussian tail" if found.supported_tail_fraction else "too few samples to tell"
        else:
            kind = "lighter than Gaussian, perhaps bounded" if power > 2 else "heavier than Gaussian"
        notes.append(f"extreme tail exp(-|x|^p) with p = {power:.2f} [{low:.2f}, {high:.2f}]: {kind}")
    if found.supported_tail_fraction is not None:
        notes.append(
            f"your rewards support a Gaussian tail up to alpha = {found.supported_tail_fraction:.2f}: the upper "
            f"{found.supported_tail_fraction:.0%} of the samples look Gaussian (alpha is tea's tail_fraction)"
        )
    elif found.slopes:
        notes.append("your rewards do not support a Gaussian tail at any fraction that can be checked")
    else:
        notes.append("too few samples or prompts to check the tail: at least 4 samples and 2 prompts are needed")
    return notes
