"""Ranks of the methods within (task, seed)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass

import numpy as np
from scipy import stats

from benchmarks.training.methods import MAIN, METHODS
from benchmarks.training.report.intervals import Interval, bootstrap_interval, t_interval
from benchmarks.training.report.results import Results
from benchmarks.training.run import N

RANKED = [name for name in MAIN if not METHODS[name].binary_only]


@dataclass(frozen=True)
class Ranks:
    """Ranks within blocks (task, seed), 1 for the highest best-of-N.

    Attributes:
        methods: K names.
        by_seed: Seed to the ranks (blocks, K).
        mean: (K,) over blocks.
        low, high: (K,) 95 % bootstrap interval of the mean, seeds resampled; None with one seed.
    """

    methods: list[str]
    by_seed: dict[int, np.ndarray]
    mean: np.ndarray
    low: np.ndarray | None
    high: np.ndarray | None

    @property
    def blocks(self) -> int:
        """Number of (task, seed)."""
        return sum(map(len, self.by_seed.values()))

    def of(self, method: str) -> float:
        """Mean rank."""
        return float(self.mean[self.methods.index(method)])

    def best(self, among: Iterable[str]) -> str | None:
        """The one with the lowest mean rank."""
        return min((name for name in among if name in self.methods), key=self.of, default=None)

    def difference(self, ours: str, other: str) -> Interval | None:
        """Rank of the other minus ours, > 0 where ours is better: Student's t over the seeds' means."""
        i, j = self.methods.index(ours), self.methods.index(other)
        return t_interval((ranks[:, j] - ranks[:, i]).mean() for ranks in self.by_seed.values())


def with_few(found: Mapping[str, Sized]) -> set[str]:
    """Methods with at most half as many runs as the one with most: what all have in common would be what they have."""
    most = max(map(len, found.values()), default=0)
    return {name for name, of in found.items() if 2 * len(of) <= most}


def rank(results: Results, seeds: Sequence[int] | None = None) -> Ranks | None:
    """Over the blocks in which every ranked method was run; a method with few of the blocks is not ranked."""
    seeds = results.seeds if seeds is None else seeds
    found: dict[str, dict[tuple[str, int], float]] = {}
    for method in RANKED:
        for task in results.tasks:
            for seed in seeds:
                row = results.row(task, method, seed)
                if row is not None:
                    found.setdefault(method, {})[task, seed] = row["curve"][str(N)]
    few = with_few(found)
    methods = [name for name in found if name not in few]
    if len(methods) < 2:
        return None
    shared = set.intersection(*(set(found[name]) for name in methods))
    by_seed = {}
    for seed in seeds:
        blocks = [[-found[name][task, seed] for name in methods] for task in results.tasks if (task, seed) in shared]
        if blocks:
            by_seed[seed] = stats.rankdata(np.array(blocks), axis=1)
    if not by_seed:
        return None
    low, high = bootstrap_interval([*by_seed.values()]) or (None, None)
    return Ranks(methods, by_seed, np.concatenate([*by_seed.values()]).mean(0), low, high)
