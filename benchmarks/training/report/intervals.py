"""Intervals over seeds, over prompts, and of ranks."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95
RESAMPLES = 10_000
BySeed = dict[int, float]


@dataclass(frozen=True)
class Interval:
    """A mean and half of its 95 % interval; no half from a single value.

    ``tasks`` is the number of tasks that each value is a mean of, where it is one.
    """

    mean: float
    half: float | None
    count: int
    tasks: int = 1

    @property
    def separate(self) -> bool:
        """Whether it leaves out 0."""
        return self.half is not None and abs(self.mean) > self.half

    @property
    def error(self) -> float | None:
        """The standard error."""
        return None if self.half is None else self.half / float(stats.t.ppf((1 + LEVEL) / 2, self.count - 1))

    def text(self, decimals: int = 2, sign: bool = False) -> str:
        """``mean ± half``."""
        mean = f"{self.mean:{'+' if sign else ''}.{decimals}f}"
        return mean if self.half is None else f"{mean} ± {self.half:.{decimals}f}"


def t_interval(values: Iterable[float]) -> Interval | None:
    """Student's interval for the mean; None of nothing."""
    x = np.asarray(list(values), dtype=float)
    if len(x) == 0:
        return None
    if len(x) == 1:
        return Interval(float(x[0]), None, 1)
    half = stats.t.ppf((1 + LEVEL) / 2, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x))
    return Interval(float(x.mean()), float(half), len(x))


def paired(ours: BySeed, other: BySeed) -> Interval | None:
    """Of the differences ours - other, over the seeds that have both."""
    return t_interval(ours[seed] - other[seed] for seed in sorted(ours.keys() & other.keys()))


def over_prompts(ours: Mapping[int, Sequence[float]], other: Mapping[int, Sequence[float]]) -> Interval | None:
    """Of ours - other over the held-out prompts within seeds: what other prompts would change, not other training."""
    gaps = [np.subtract(ours[seed], other[seed]) for seed in sorted(ours.keys() & other.keys())]
    if not gaps:
        return None
    error = math.sqrt(sum(gap.var(ddof=1) / len(gap) for gap in gaps)) / len(gaps)
    freedom = sum(len(gap) - 1 for gap in gaps)
    half = float(stats.t.ppf((1 + LEVEL) / 2, freedom)) * error
    return Interval(float(np.mean([gap.mean() for gap in gaps])), half, freedom + 1)


def bootstrap_interval(clusters: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray] | None:
    """Percentile interval of the mean over rows (blocks, K), whole clusters resampled; None of one cluster."""
    if len(clusters) < 2:
        return None
    sums = np.stack([cluster.sum(0) for cluster in clusters])
    counts = np.array([len(cluster) for cluster in clusters])
    drawn = np.random.default_rng(0).integers(len(clusters), size=(RESAMPLES, len(clusters)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)[:, None]
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return low, high
