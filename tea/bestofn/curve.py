r"""The best-of-N curve from n samples per prompt, N <= n: unbiased, with intervals.

For samples sorted ascending, x_(1) <= ... <= x_(n), the mean over all C(n, N) subsets of the subset's maximum is

    V_N = sum_j C(j-1, N-1) / C(n, N) * x_(j)

which is the minimum-variance unbiased estimate of E[max of N]. With 0/1 rewards it is pass@N.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import special

from tea.bestofn._inputs import (
    FloatArray,
    IntArray,
    Missing,
    check_level,
    default_ns,
    is_binary,
    reward_matrix,
    sample_counts,
)
from tea.bestofn._interval import jsonable, mean_interval, share_interval

Over = Literal["prompts", "samples"]


@dataclass(frozen=True)
class BestOfNCurve:
    """A best-of-N curve with its intervals.

    Attributes:
        ns: (K,) the Ns, as given.
        values: (K,) mean over prompts of the unbiased estimate of E[value of the selected one of N].
        per_prompt: (P, K) the estimate of each prompt.
        std_error: (K,) standard error of `values`, of the kind named by `over`.
        ci_low: (K,) lower end of the interval; NaN where one prompt (or sample) is too few for an interval.
        ci_high: (K,) upper end.
        level: confidence level of the interval, pointwise in N.
        over: "prompts" (new prompts and new samples) or "samples" (these prompts, new samples).
        num_prompts: P.
        num_samples: n, samples per prompt.
        num_missing: rewards that are missing, among the P n.
    """

    ns: IntArray
    values: FloatArray
    per_prompt: FloatArray
    std_error: FloatArray
    ci_low: FloatArray
    ci_high: FloatArray
    level: float
    over: str
    num_prompts: int
    num_samples: int
    num_missing: int = 0

    def __getitem__(self, n: int) -> float:
        """The curve's value at N = `n`, which must be one of `ns`."""
        return float(self.values[self._column(n)])

    def _column(self, n: int) -> int:
        found = np.flatnonzero(self.ns == n)
        if found.size == 0:
            raise KeyError(f"N = {n} is not on this curve, which has N = {self.ns.tolist()}")
        return int(found[0])

    def peak(self) -> dict[str, float]:
        """Where the curve is highest, and whether it has turned down by its largest N (reward over-optimisation).

        Returns:
            `n` and `value` of the highest point; `drop`, the value there minus that at the largest N, with the
            paired interval over prompts `drop_ci_low`, `drop_ci_high`. The curve has turned down where
            `drop_ci_low > 0`. (The peak is chosen on the same data, so a drop near its own standard error is noise.)
        """
        best = int(np.argmax(self.values))
        last = int(np.argmax(self.ns))
        drop, _, low, high = mean_interval(self.per_prompt[:, [best]] - self.per_prompt[:, [last]], self.level)
        return {
            "n": int(self.ns[best]),
            "value": float(self.values[best]),
            "drop": float(drop[0]),
            "drop_ci_low": float(low[0]),
            "drop_ci_high": float(high[0]),
        }

    def to_dict(self) -> dict[str, Any]:
        """Everything but `per_prompt`, in JSON types (NaN as None)."""
        return {
            "ns": self.ns.tolist(),
            "values": jsonable(self.values),
            "std_error": jsonable(self.std_error),
            "ci_low": jsonable(self.ci_low),
            "ci_high": jsonable(self.ci_high),
            "level": self.level,
            "over": self.over,
            "num_prompts": self.num_prompts,
            "num_samples": self.num_samples,
            "num_missing": self.num_missing,
        }


def order_weights(num_samples: int, ns: Any) -> FloatArray:
    """Weights of the sorted samples (ascending) in the unbiased estimate of E[max of N].

    Args:
        num_samples: n.
        ns: the Ns, each from 1 to n; K of them.

    Returns:
        (K, n) float64; row i, column j (0-based) is C(j, N_i - 1) / C(n, N_i). Rows sum to 1.
    """
    counts = sample_counts(ns, largest=num_samples)[:, None].astype(np.float64)
    rank = np.arange(num_samples, 0, -1, dtype=np.float64)[None, :]  # j = n, n-1, ..., 1
    # w_n = N/n and w_{j-1} = w_j (j-N)/(j-1), from the largest down: a product of factors <= 1, so nothing overflows,
    # the relative error is a few n eps, and what underflows to 0 is negligible. (Summing logs instead loses digits.)
    ratio = np.clip(rank[:, :-1] - counts, 0.0, None) / (rank[:, :-1] - 1.0)
    weights = np.cumprod(np.concatenate([counts / num_samples, ratio], axis=1), axis=1)
    return np.ascontiguousarray(weights[:, ::-1])


def best_of_n_curve(
    rewards: Any = None,
    ns: Any = None,
    *,
    select_by: Any = None,
    value: Any = None,
    over: Over = "prompts",
    level: float = 0.95,
    missing: Missing = "fail",
) -> BestOfNCurve:
    """The best-of-N curve, unbiased over all subsets of the n samples, with intervals.

    Either give `rewards`, which then both selects and counts, or `select_by` and `value`: of N samples the one with
    the largest `select_by` is deployed and its `value` counts (the reward model picks, the gold reward or a judge
    scores). Ties in `select_by` are broken uniformly at random, in expectation: tied samples share their weight
    equally, which is also what taking the first of the tied ones gives on average.

    Args:
        rewards: (P, n) rewards of n samples for each of P prompts: torch tensor, NumPy array or nested lists.
        ns: the Ns to evaluate, each from 1 to n; default: powers of two up to n, and n.
        select_by: (P, n) what selects, in place of `rewards`.
        value: (P, n) what counts, in place of `rewards`. With `rewards` and one of the two, `rewards` is the other.
        over: what the interval is over.
            "prompts": other prompts from the same source, each with fresh samples: Student-t over the P per-prompt
            estimates (they are independent whatever n and N). For claims about a task.
            "samples": these P prompts, fresh samples: from the variance of each prompt's estimate, which is itself
            estimated without bias where 2N <= n, and by the jackknife, which errs to the wide side, above that. For
            claims about a fixed benchmark.
        level: confidence level, for each N by itself.
        missing: "skip" takes NaN as a reward that is missing: each prompt's estimate is of those that it has, unbiased
            still if rewards are missing by chance, and N goes up to the smallest number that a prompt has.

    Returns:
        :class:`BestOfNCurve`; with 0/1 values the interval stays within [0, 1] (:func:`share_interval`). Interval
        ends are NaN with one prompt (over="prompts") or one sample (over="samples").

    Raises:
        TypeError: entries that are not numbers, or Ns that are not whole.
        ValueError: not (P, n), ragged, NaN or infinite (with the position), N < 1, N > n, or shapes that differ.
    """
    picks, counts = _select_and_value(rewards, select_by, value, missing)
    num_prompts, num_samples = picks.shape
    gone = np.isnan(picks) | np.isnan(counts)
    present = num_samples - gone.sum(axis=1)
    n_array = _ns_up_to(ns, int(present.min()), num_samples)
    check_level(level)
    if over not in ("prompts", "samples"):
        raise ValueError(f'over must be "prompts" or "samples", got {over!r}')

    per_prompt = np.empty((num_prompts, len(n_array)))
    variance = np.zeros_like(per_prompt)
    for count in np.unique(present):
        rows = present == count
        chosen = ~gone[rows]
        some = picks[rows][chosen].reshape(-1, count)
        ordered, averaged = _sorted_values(some, some if picks is counts else counts[rows][chosen].reshape(-1, count))
        per_prompt[rows] = averaged @ order_weights(int(count), n_array).T
        if over == "samples":
            for i, n in enumerate(n_array):
                variance[rows, i] = _sample_variance(ordered, per_prompt[rows, i], int(n))
    if over == "prompts":
        values, std_error, low, high = mean_interval(per_prompt, level)
    else:
        values = per_prompt.mean(axis=0)
        std_error = np.sqrt(np.clip(variance.mean(axis=0), 0.0, None) / num_prompts)
        half = special.ndtri(0.5 + level / 2) * std_error
        low, high = values - half, values + half
    if is_binary(counts[~gone]):
        low, high = share_interval(values, low, high, num_prompts, level)
    return BestOfNCurve(
        ns=n_array,
        values=values,
        per_prompt=per_prompt,
        std_error=std_error,
        ci_low=low,
        ci_high=high,
        level=level,
        over=over,
        num_prompts=num_prompts,
        num_samples=num_samples,
        num_missing=int(gone.sum()),
    )


def pass_at_n(correct: Any, ns: Any = None, *, over: Over = "prompts", level: float = 0.95) -> BestOfNCurve:
    """pass@N, the probability that at least one of N samples is correct: 1 - C(n-c, N)/C(n, N), mean over prompts.

    The same as :func:`best_of_n_curve`, after checking that `correct` (P, n) holds only 0 and 1 (or booleans).

    Raises:
        ValueError: an entry other than 0 and 1 (with its position), or as :func:`best_of_n_curve`.
    """
    array = reward_matrix(correct, "correct")
    if not is_binary(array):
        row, column = np.argwhere((array != 0.0) & (array != 1.0))[0]
        raise ValueError(f"correct must hold only 0 and 1, but correct[{row}, {column}] is {array[row, column]}")
    return best_of_n_curve(array, ns, over=over, level=level)


def _ns_up_to(ns: Any, fewest: int, num_samples: int) -> IntArray:
    if fewest == 0:
        raise ValueError("a prompt has no reward at all: leave it out")
    if ns is None:
        return default_ns(fewest)
    if fewest < num_samples:
        hint = f" at the least: of {num_samples} samples, some have no reward"
        return sample_counts(ns, largest=fewest, hint=hint)
    return sample_counts(
        ns,
        largest=num_samples,
        hint=": the curve only goes up to n. For N > n there is the forecast (tea forecast, forecast_best_of_n)",
    )


def _select_and_value(rewards: Any, select_by: Any, value: Any, missing: Missing) -> tuple[FloatArray, FloatArray]:
    if rewards is not None and select_by is not None and value is not None:
        raise ValueError("give rewards, or select_by and value, not all three")
    picks_from = ("select_by", select_by) if select_by is not None else ("rewards", rewards)
    counts_from = ("value", value) if value is not None else ("rewards", rewards)
    if picks_from[1] is None or counts_from[1] is None:
        lacking = "rewards" if select_by is None and value is None else ("select_by" if select_by is None else "value")
        raise ValueError(f"{lacking} is missing: give rewards, or both select_by and value")
    picks = reward_matrix(picks_from[1], picks_from[0], missing=missing)
    counts = (
        picks if counts_from[0] == picks_from[0] else reward_matrix(counts_from[1], counts_from[0], missing=missing)
    )
    if picks.shape != counts.shape:
        raise ValueError(
            f"{picks_from[0]} and {counts_from[0]} must have the same shape, got {picks.shape} and {counts.shape}"
        )
    return picks, counts


def _sorted_values(picks: FloatArray, counts: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Values in ascending order of what selects: as they are, and averaged over ties in what selects."""
    if picks is counts:
        ordered = np.sort(picks, axis=1)
        return ordered, ordered
    order = np.argsort(picks, axis=1, kind="stable")
    ordered = np.take_along_axis(counts, order, axis=1)
    keys = np.take_along_axis(picks, order, axis=1)
    starts = np.ones(keys.shape, dtype=bool)
    starts[:, 1:] = keys[:, 1:] != keys[:, :-1]
    if starts.all():
        return ordered, ordered
    group = np.cumsum(starts.ravel()) - 1  # every row starts a new group, so groups never span two prompts
    averaged = (np.bincount(group, weights=ordered.ravel()) / np.bincount(group))[group].reshape(keys.shape)
    return ordered, averaged


def _sample_variance(ordered: FloatArray, estimates: FloatArray, n: int) -> FloatArray:
    """Estimated variance of each prompt's estimate over fresh samples, (P,).

    Where 2N <= n: U^2 minus the mean over pairs of disjoint subsets of the product of their maxima, which is unbiased
    for E[U^2] - (E U)^2 (and may come out negative for a single prompt). The pairs' weight is separable: with the
    lower of the two maxima of rank i and the higher of rank j, C(i-1, N-1)/C(n, N) * C(j-1-N, N-1)/C(n-N, N).
    Above that no unbiased estimate exists; the jackknife over samples errs upwards (Efron-Stein inequality).
    """
    num_samples = ordered.shape[1]
    if num_samples == 1:
        return np.full(ordered.shape[0], np.nan)
    if 2 * n <= num_samples:
        # Centred, so that a large common offset does not cost the digits of the difference of squares.
        offset = ordered.mean(axis=1, keepdims=True)
        lower = order_weights(num_samples, n)[0] * (ordered - offset)
        higher = np.zeros_like(lower)
        higher[:, n:] = order_weights(num_samples - n, n)[0] * (ordered - offset)[:, n:]
        below = np.cumsum(lower, axis=1) - lower
        return (estimates - offset[:, 0]) ** 2 - 2.0 * (below * higher).sum(axis=1)
    if n == num_samples:  # no subset of N without the left-out sample: compare with the value selected from n - 1
        return (ordered[:, -1] - ordered[:, -2]) ** 2
    weights = order_weights(num_samples - 1, n)[0]
    kept_rank = np.zeros_like(ordered)
    kept_rank[:, :-1] = weights * ordered[:, :-1]
    moved_down = np.zeros_like(ordered)
    moved_down[:, 1:] = weights * ordered[:, 1:]
    left_out = np.cumsum(kept_rank, axis=1) - kept_rank
    left_out += np.cumsum(moved_down[:, ::-1], axis=1)[:, ::-1] - moved_down
    return (num_samples - 1) * left_out.var(axis=1)
