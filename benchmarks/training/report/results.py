"""The stored rows, found by what they are."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from benchmarks.training.loop import VERSION
from benchmarks.training.report.intervals import BySeed, Interval, t_interval
from benchmarks.training.run import (
    HELD_OUT,
    LEARNING_RATES,
    PROMPTS,
    SEEDS,
    VALIDATION_SEED,
    M,
    N,
    chosen_rates,
    key_of,
    tuned_as,
)
from benchmarks.training.task import tasks


class Results:
    """Rows by what they are, at the learning rate that was chosen; remembers which were asked for."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = list({key_of(row): row for row in rows}.values())
        self.reported = [row for row in self.rows if row["seed"] != VALIDATION_SEED]
        self.tasks = sorted({row["task"] for row in self.reported})
        self.seeds = sorted({row["seed"] for row in self.reported})
        self.chosen = chosen_rates(self.rows, LEARNING_RATES)  # some by an earlier loop, whose rows nothing else uses
        self.updates = {task: self._updates(task) for task in self.tasks}
        self.used: dict[int, dict[str, Any]] = {}
        self._index: dict[tuple[Any, ...], dict[float | None, dict[str, Any]]] = {}
        for row in self.rows:
            if row["loop"] != VERSION:
                continue
            key = (row["task"], row["method"], row["m"], row["n"], row["prompts"], row["updates"], row["seed"])
            self._index.setdefault(key, {})[row["learning_rate"]] = row

    def only(self, wanted: Callable[[dict[str, Any]], bool]) -> Results:
        """The rows that are wanted, and all that chose the learning rates."""
        return Results([row for row in self.rows if row["seed"] == VALIDATION_SEED or wanted(row)])

    def blind(self) -> Results:
        """Of seeds that nobody looked at while anything was developed, on the tasks that it was developed on."""
        return self.only(lambda row: row["seed"] not in SEEDS and row["task"] not in HELD_OUT)

    def _updates(self, task: str) -> int:
        """Those of the full run, else the most there are."""
        found = {row["updates"] for row in self.reported if row["task"] == task}
        full = tasks()[task].updates if task in tasks() else -1
        return full if full in found else max(found)

    def row(
        self,
        task: str,
        method: str,
        seed: int,
        m: int = M,
        n: int = N,
        prompts: int = PROMPTS,
        updates: int | None = None,
    ) -> dict[str, Any] | None:
        """The run, whatever plan it was run for; None if it was not."""
        full = self.updates[task]
        updates = full if updates is None else updates
        if method == "base":
            m = n = prompts = updates = 0
        by_rate = self._index.get((task, method, m, n, prompts, updates, seed), {})
        rate = None
        if method != "base":
            rate = self.chosen.get((task, tuned_as(method, task), min(updates, full)))
            if rate is None and len(by_rate) == 1:  # where none was chosen, as with --quick
                rate = next(iter(by_rate))
        found = by_rate.get(rate)
        if found is not None:
            self.used[id(found)] = found
        return found

    def by_seed(self, task: str, method: str, of: Callable[[dict[str, Any]], float], **where: int) -> BySeed:
        """A number of every reported seed's run."""
        rows = {seed: self.row(task, method, seed, **where) for seed in self.seeds}
        return {seed: of(row) for seed, row in rows.items() if row is not None}

    def values(self, task: str, method: str, at: int = N, **where: int) -> BySeed:
        """Best-of-N of every reported seed."""
        return self.by_seed(task, method, lambda row: row["curve"][str(at)], **where)

    def unit(self, task: str) -> BySeed:
        """What makes tasks comparable: see :func:`unit_of`."""
        return self.by_seed(task, "base", unit_of)

    def decimals(self, task: str) -> int:
        """So many that a hundredth of the unit shows, 3 at most."""
        unit = float(np.mean([*self.unit(task).values()] or [1.0]))
        return min(max(2 - math.floor(math.log10(max(unit, 1e-6))), 0), 3)

    def methods(self, candidates: Iterable[str], **where: int) -> list[str]:
        """Those that were run anywhere."""
        return [name for name in candidates if any(self.values(task, name, **where) for task in self.tasks)]

    def normalised(self, ours: str, other: str, at: int = N, **where: int) -> Interval | None:
        """Difference in each task's unit, the mean over tasks, over seeds."""
        by_seed: dict[int, list[float]] = {}
        for task in self.tasks:
            a, b, unit = self.values(task, ours, at, **where), self.values(task, other, at, **where), self.unit(task)
            for seed in a.keys() & b.keys() & unit.keys():
                by_seed.setdefault(seed, []).append((a[seed] - b[seed]) / unit[seed])
        whole = self._whole(by_seed)
        interval = t_interval(np.mean(of) for of in whole.values())
        return None if interval is None else replace(interval, tasks=len(next(iter(whole.values()))))

    def _whole(self, by_seed: dict[int, list[float]]) -> dict[int, list[float]]:
        """The seeds with the most tasks: a seed that is still running is not compared with whole ones."""
        most = max(map(len, by_seed.values()), default=0)
        return {seed: of for seed, of in sorted(by_seed.items()) if len(of) == most}


def unit_of(base: Mapping[str, Any]) -> float:
    """What best-of-N gains on the base model over one sample.

    Not the standard deviation of its rewards: next to that of a 0/1 reward which hardly ever is 1, other tasks vanish.
    """
    return max(base["curve"][str(N)] - base["curve"]["1"], 1e-9)


def parent_of(method: str) -> str:
    """The row of the main table that an ablation varies."""
    return method.split(", ")[0]


def as_json(value: Any) -> Any:
    """Intervals as dictionaries, arrays as lists, NaN as None."""
    if isinstance(value, Interval):
        return {**asdict(value), "separate": value.separate}
    if isinstance(value, Mapping):
        return {str(key): as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [as_json(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
