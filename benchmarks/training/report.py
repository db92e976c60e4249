"""The tables and figures of README.md, from the rows that `benchmarks.training.run` has stored: `make bench-report`.

    python -m benchmarks.training.report                      # README.md, figures/, results/summary.json
    python -m benchmarks.training.report --rows FILE --print  # on the screen, nothing is written

The replicate is the seed. All methods share a seed's task, base model, order of prompts and held-out prompts, so that
methods are compared within (task, seed), and an interval is Student's t over the seeds' differences.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.record import replace_section, table, write_json
from benchmarks.training.methods import ABLATIONS, MAIN, METHODS, OTHER_ROLLOUTS, OURS, PEERS
from benchmarks.training.run import (
    EFFICIENCY,
    LEARNING_RATES,
    MISMATCH,
    MISMATCH_METHODS,
    PROMPTS,
    ROLLOUTS,
    ROWS,
    VALIDATION_SEED,
    M,
    N,
    chosen_rates,
    key_of,
    read_rows,
    tuned_as,
)
from benchmarks.training.task import tasks

HERE = Path(__file__).resolve().parent
LEVEL = 0.95
RESAMPLES = 10_000
RANKED = [name for name in MAIN if not METHODS[name].binary_only]
# The same estimator up to a factor, which the division by the batch's root mean square takes out.
SAME = ("max_at_m", "bon_max_second")
REFERENCE = "eb_bon"  # of ours, in the plans that do not run every method
NOT_RUN = "Not run yet."

BySeed = dict[int, float]
Section = tuple[str, dict[str, Any]]


# --- Intervals. ---


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


# --- The rows. ---


class Results:
    """Rows by what they are, at the learning rate that was chosen; remembers which were asked for."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = list({key_of(row): row for row in rows}.values())
        self.reported = [row for row in self.rows if row["seed"] != VALIDATION_SEED]
        self.tasks = sorted({row["task"] for row in self.reported})
        self.seeds = sorted({row["seed"] for row in self.reported})
        self.chosen = chosen_rates(self.rows, LEARNING_RATES)
        self.updates = {task: self._updates(task) for task in self.tasks}
        self.used: dict[int, dict[str, Any]] = {}
        self._index: dict[tuple[Any, ...], dict[float | None, dict[str, Any]]] = {}
        for row in self.rows:
            key = (row["task"], row["method"], row["m"], row["n"], row["prompts"], row["updates"], row["seed"])
            self._index.setdefault(key, {})[row["learning_rate"]] = row

    def _updates(self, task: str) -> int:
        """Those of the full run, else the most there are."""
        found = {row["updates"] for row in self.reported if row["task"] == task}
        full = tasks()[task].updates if task in tasks() else -1
        return full if full in found else max(found)

    def row(
        self, task: str, method: str, seed: int, m: int = M, n: int = N, prompts: int = PROMPTS
    ) -> dict[str, Any] | None:
        """The run, whatever plan it was run for; None if it was not."""
        updates = self.updates[task]
        if method == "base":
            m = n = prompts = updates = 0
        by_rate = self._index.get((task, method, m, n, prompts, updates, seed), {})
        rate = None
        if method != "base":
            rate = self.chosen.get((task, parent_of(method, own=True), updates))
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


def parent_of(method: str, own: bool = False) -> str:
    """The row of the main table that an ablation varies; with ``own`` that whose learning rate a method takes."""
    return tuned_as(method) if own or method != "oracle" else method


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


def _show(interval: Interval | None, decimals: int = 2, sign: bool = True) -> str:
    """Bold where it leaves out 0."""
    if interval is None:
        return ""
    text = interval.text(decimals, sign)
    return f"**{text}**" if interval.separate else text


def _show_overall(results: Results, interval: Interval | None) -> str:
    """Of what is averaged over tasks, with their number if some are missing."""
    if interval is None:
        return ""
    some = "" if interval.tasks == len(results.tasks) else f" ({interval.tasks} tasks)"
    return _show(interval, 3) + some


# --- Ranks. ---


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
    most = max(map(len, found.values()), default=0)
    methods = [name for name, of in found.items() if 2 * len(of) > most]
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


# --- What every table carries. ---


def provenance(used: Iterable[dict[str, Any]], command: str) -> str:
    """Command, runs, seeds, commits, versions and hardware of the rows behind a table."""
    rows = [*used]

    def several(values: Iterable[str]) -> str:
        return ", ".join(sorted(set(values)))

    seeds = ", ".join(map(str, sorted({row["seed"] for row in rows})))
    versions = several(f"{k} {v}" for row in rows for k, v in row["versions"].items())
    python = several(row["python"] for row in rows)
    hardware = several(f"{row['processor']}, {row['machine']}" for row in rows)
    return (
        f"`{command}`, then `make bench-report`; {len(rows)} runs, seeds {seeds}; commit "
        f"{several(row['commit'] for row in rows)}, Python {python}, {versions}; {hardware}, one core per run."
    )


def noise(results: Results) -> dict[str, Any]:
    """What two runs of the same method differ by: with other rollouts, or by rounding where that was not run."""
    pair = (SAME[0], OTHER_ROLLOUTS) if results.methods([OTHER_ROLLOUTS]) else SAME
    found: dict[str, Any] = {"pair": pair, "tasks": {}}
    for task in results.tasks:
        a, b = (results.values(task, name) for name in pair)
        gaps = [abs(a[seed] - b[seed]) for seed in sorted(a.keys() & b.keys())]
        if gaps:
            found["tasks"][task] = {"mean": float(np.mean(gaps)), "largest": max(gaps), "gaps": gaps}
    ranks = rank(results)
    if ranks is not None and set(SAME) <= set(ranks.methods):
        found["rank"] = ranks.difference(*SAME)
    found["normalised"] = results.normalised(*pair)
    return found


def noise_line(results: Results) -> str:
    """For under a table: nothing smaller than this is an effect."""
    found = noise(results)
    if not found["tasks"]:
        return f"Noise floor: {SAME[0]} and {SAME[1]} were not both run."
    gaps = ", ".join(f"{task} {of['mean']:.{results.decimals(task)}f}" for task, of in found["tasks"].items())
    ranks = f"; in mean rank, {SAME[0]} and {SAME[1]}: {found['rank'].text(2, True)}" if found.get("rank") else ""
    overall = f"; over tasks {found['normalised'].text(3, True)} units"
    return (
        f"Noise floor, {found['pair'][0]} against {found['pair'][1]}, which are the same estimator: mean of "
        f"|difference| over seeds at m = {M}, N = {N}: {gaps}{overall if found['normalised'] else ''}{ranks}."
    )


# --- The sections. Each gives its Markdown and the numbers behind it; {} where nothing was run. ---


def section_tasks(results: Results) -> Section:
    """Tasks, base models and headroom."""
    rows, found = [], {}
    for task in results.tasks:
        kind = tasks()[task].reward_kind if task in tasks() else "?"
        decimals = results.decimals(task)
        base = {n: t_interval(results.values(task, "base", n).values()) for n in (1, 16, 128)}
        oracle = results.values(task, "oracle", m=N)
        cells, headroom = [], {}
        for m in (M, 4):
            gap = paired(oracle, results.values(task, "max_at_m", m=m))
            error = gap.error if gap else None
            ratio = gap.mean / error if gap and error else None
            headroom[m] = {"difference": gap, "standard_error": error, "ratio": ratio}
            cells += [_show(gap, decimals), "" if ratio is None else f"{ratio:.1f}"]
        found[task] = {"kind": kind, "base": base, "headroom": headroom}
        rows.append([task, kind, *(b.text(decimals) if b else "" for b in base.values()), *cells])
    if not rows:
        return NOT_RUN, {}
    header = ["task", "reward", *(f"base, best of {n}" for n in (1, 16, 128))]
    for m in (M, 4):
        header += [f"headroom over max@{m}", "÷ standard error"]
    text = (
        f"Headroom: best of {N} of the oracle, max@{N} with m = {N} rollouts per prompt, minus that of max@m with m "
        f"rollouts, all with {PROMPTS} prompts per update and as many updates; ± half of the 95 % interval over seeds, "
        "paired; bold leaves out 0; the standard error is that of the difference from seed to seed.\n\n"
    )
    return text + table(header, rows), {"tasks": found}


def section_rates(results: Results) -> Section:
    """The chosen learning rates."""
    if not results.chosen:
        return NOT_RUN, {}
    grid = sorted(LEARNING_RATES)
    names = sorted({task for task, _, _ in results.chosen})
    updates = {task: results.updates.get(task, tasks()[task].updates if task in tasks() else 0) for task in names}
    tried: dict[tuple[str, str], int] = {}
    for row in results.rows:
        if row["seed"] == VALIDATION_SEED and row["learning_rate"] in grid and (row["m"], row["n"]) == (M, N):
            results.used[id(row)] = row
            if row["updates"] == updates[row["task"]]:
                key = row["task"], row["method"]
                tried[key] = tried.get(key, 0) + 1
    rows, found = [], {}
    for method in MAIN:
        rates = {task: results.chosen.get((task, method, updates[task])) for task in names}
        if any(rate is not None for rate in rates.values()):
            found[method] = rates
            cells = []
            for task, rate in rates.items():
                mark = {grid[0]: " ↓", grid[-1]: " ↑"}.get(rate, "") if rate is not None else ""
                partial = f" ({tried[task, method]} tried)" if 0 < tried.get((task, method), 0) < len(grid) else ""
                cells.append("" if rate is None else f"{rate:g}{mark}{partial}")
            rows.append([method, *cells])
    text = (
        f"Of {', '.join(f'{rate:g}' for rate in grid)}, the one with the highest best of {N} on the held-out prompts "
        f"of seed {VALIDATION_SEED}, which no other table uses; ↓ and ↑: at an end of the grid.\n\n"
    )
    return text + table(["method", *names], rows), {"rates": found}


def section_main(results: Results) -> Section:
    """Every method at m = 16, N = 128."""
    methods = results.methods(["base", *MAIN])
    if not [name for name in methods if name != "base"]:
        return NOT_RUN, {}
    ranks = rank(results)
    best = ranks.best(OURS) if ranks else None
    columns: dict[str, dict[str, str]] = {}
    found: dict[str, Any] = {"methods": {}, "best_of_ours": best}
    for task in results.tasks:
        values = {name: of for name in methods if (of := results.values(task, name))}
        top = max(values, key=lambda name: float(np.mean([*values[name].values()])), default=None)
        columns[task] = {}
        for name, of in values.items():
            mean = t_interval(of.values())
            gap = paired(values[top], of) if top else None
            assert mean is not None
            text = mean.text(results.decimals(task))
            with_best = name == top or (gap is not None and not gap.separate and gap.half is not None)
            columns[task][name] = f"**{text}**" if with_best else text
            entry = found["methods"].setdefault(name, {"tasks": {}})
            entry["tasks"][task] = {"mean": mean, "seeds": of, "behind_best": gap, "with_best": with_best}
    rows = []
    for name in methods:
        kind = "" if name == "base" else "ours" if name in OURS else "published" if "published" in name else "peer"
        cells = [columns[task].get(name, "") for task in results.tasks]
        place = difference = ""
        if ranks is not None and name in ranks.methods:
            i = ranks.methods.index(name)
            place = f"{ranks.mean[i]:.2f}"
            entry = found["methods"][name]
            entry["mean_rank"] = ranks.mean[i]
            if ranks.low is not None and ranks.high is not None:
                place += f" [{ranks.low[i]:.2f}, {ranks.high[i]:.2f}]"
                entry["mean_rank_interval"] = [ranks.low[i], ranks.high[i]]
            if best and name != best:
                gap = entry["behind_best_of_ours_in_rank"] = ranks.difference(best, name)
                difference = _show(gap)
        rows.append([name, kind, *cells, place, difference])
    if best is None:
        rows = [row[:-2] for row in rows]
    floor = noise(results)["tasks"]
    gaps = [f"{floor[task]['mean']:.{results.decimals(task)}f}" if task in floor else "" for task in results.tasks]
    rows.append([f"noise: abs({SAME[0]} - {SAME[1]})", "", *gaps, *([] if best is None else ["", ""])])
    text = (
        f"Best of {N}, mean ± half of the 95 % interval over seeds (unpaired: most of it is how tasks differ from seed "
        "to seed). Bold: the paired interval of its difference to the best of the column includes 0. `pass_at_n` is "
        "for 0/1 rewards only and not ranked."
    )
    header = ["method", "", *results.tasks]
    if ranks is not None and best is not None:
        header += ["mean rank", f"rank behind {best}"]
        text += (
            f" Mean rank over the {ranks.blocks} (task, seed) with all ranked methods, in brackets its 95 % bootstrap "
            f"interval over seeds; last, how much worse the mean rank is than that of {best}, paired, Student's t over "
            "seeds, bold where that leaves out 0."
        )
    return f"{text}\n\n{table(header, rows)}", found


def compare(results: Results, ours: str, other: str, task: str, **where: int) -> dict[str, Any] | None:
    """Everything about one difference at N = 128."""
    a, b = results.values(task, ours, **where), results.values(task, other, **where)
    gap = paired(a, b)
    if gap is None:
        return None
    prompts = over_prompts(
        *(
            {
                seed: row["per_prompt"]
                for seed in results.seeds
                if (row := results.row(task, name, seed, **where)) is not None and "per_prompt" in row
            }
            for name in (ours, other)
        )
    )
    # Of the gain over the base model: how hard a seed's task is says nothing about a method.
    base = results.values(task, "base")
    one, two = (t_interval(x[seed] - base[seed] for seed in x.keys() & base.keys()) for x in (a, b))
    apart = None
    if one and two and one.half is not None and two.half is not None:
        apart = abs(one.mean - two.mean) > one.half + two.half
    return {"difference": gap, "over_prompts": prompts, "separate_unpaired": apart}


def outcome(gap: Interval) -> str:
    """Win or loss where the paired interval leaves out 0."""
    return "tie" if not gap.separate else "win" if gap.mean > 0 else "loss"


def section_gain(results: Results) -> Section:
    """Ours minus GRPO, and the best of ours against each peer."""
    ours = results.methods(OURS)
    if not ours or not results.methods(["grpo"]):
        return NOT_RUN, {}
    rows, found = [], {}
    for name in ours:
        cells = []
        found[name] = {task: compare(results, name, "grpo", task) for task in results.tasks}
        for task, of in found[name].items():
            decimals = results.decimals(task)
            cell = _show(of["difference"], decimals) if of else ""
            if of and of["over_prompts"]:
                cell += f" (± {of['over_prompts'].half:.{decimals}f})"
            cells.append(cell + (" §" if of and of["separate_unpaired"] else ""))
        overall = results.normalised(name, "grpo")
        found[name]["normalised"] = overall
        rows.append([name, *cells, _show_overall(results, overall) if name in RANKED else ""])
    text = (
        f"Best of {N} minus GRPO's, paired; ± half of the 95 % interval over seeds, in parentheses that over the "
        "held-out prompts within the seeds' trained policies. Bold: the interval over seeds leaves out 0; §: the "
        "unpaired intervals of what each of the two gains over its seeds' base models do not overlap either. Last, the "
        f"mean over tasks; a unit is what best of {N} gains over one sample on the task with the base model.\n\n"
    )
    text += table(["method", *results.tasks, "all tasks, units"], rows)
    ranks = rank(results)
    best = ranks.best(OURS) if ranks else None
    duels: dict[str, Any] = {}
    if best:
        rows = []
        for peer in results.methods(PEERS):
            outcomes = {task: of for task in results.tasks if (of := compare(results, best, peer, task))}
            results_of = {task: outcome(of["difference"]) for task, of in outcomes.items()}
            counts = [[*results_of.values()].count(kind) for kind in ("win", "tie", "loss")]
            ahead = sum(of["difference"].mean > 0 for of in outcomes.values())
            apart = sum(bool(of["separate_unpaired"]) and of["difference"].mean > 0 for of in outcomes.values())
            duels[peer] = {"tasks": outcomes, "outcomes": results_of, "counts": counts, "ahead": ahead, "apart": apart}
            duels[peer]["normalised"] = results.normalised(best, peer)
            listed = {kind: ", ".join(t for t, o in results_of.items() if o == kind) for kind in ("win", "loss")}
            rows.append(
                [
                    peer,
                    " / ".join(map(str, counts)),
                    listed["win"],
                    listed["loss"],
                    f"{ahead} of {len(outcomes)}",
                    str(apart),
                    _show_overall(results, duels[peer]["normalised"]),
                ]
            )
        text += (
            f"\n\n{best}, which has the lowest mean rank of ours, against each other row: a win or a loss is a task on "
            "which the paired interval leaves out 0.\n\n"
        )
        header = [
            "against",
            "wins / ties / losses",
            "wins",
            "losses",
            "mean ahead",
            "separate intervals",
            "difference, units",
        ]
        text += table(header, rows)
    return text, {"over_grpo": found, "best_of_ours": best, "duels": duels}


def section_aa(results: Results) -> Section:
    """The A/A check."""
    if len(results.methods(SAME)) < 2:
        return NOT_RUN, {}
    found = noise(results)
    found["differences"] = {}
    parts, decided = [], []
    for other, why in (
        (SAME[1], "the same estimator up to a factor, which the division by the batch's root mean square removes"),
        (OTHER_ROLLOUTS, "the same method on the same tasks, base models and prompts, with another seed of sampling"),
    ):
        rows = []
        for task in results.tasks:
            of = compare(results, SAME[0], other, task)
            if of is None:
                continue
            found["differences"].setdefault(other, {})[task] = of
            decimals, gap = results.decimals(task), of["difference"]
            a, b = results.values(task, SAME[0]), results.values(task, other)
            sizes = [abs(a[seed] - b[seed]) for seed in sorted(a.keys() & b.keys())]
            if gap.half is not None:
                decided.append(gap)
            rows.append(
                [
                    task,
                    gap.text(decimals, True),
                    "" if of["over_prompts"] is None else f"± {of['over_prompts'].half:.{decimals}f}",
                    f"{np.mean(sizes):.{decimals}f}",
                    f"{max(sizes):.{decimals}f}",
                    "?" if gap.half is None else "no" if gap.separate else "yes",
                ]
            )
        if rows:
            header = ["task", f"best of {N}, paired", "over prompts", "mean abs", "largest abs", "includes 0"]
            parts.append(f"{SAME[0]} minus {other}: {why}.\n\n{table(header, rows)}")
    inside = sum(not gap.separate for gap in decided)
    found["includes_0"] = [inside, len(decided)]
    text = (
        f"{inside} of {len(decided)} intervals over seeds include 0; of intervals of {LEVEL:.0%} that are right, "
        f"{LEVEL * len(decided):.1f} do on average."
    )
    ranks = rank(results)
    if found.get("rank") and ranks:
        gap = found["rank"]
        says = "one seed has no interval" if gap.half is None else f"{'leaves out' if gap.separate else 'includes'} 0"
        text += (
            f" Mean ranks: {SAME[0]} {ranks.of(SAME[0]):.2f}, {SAME[1]} {ranks.of(SAME[1]):.2f}; difference "
            f"{gap.text(2, True)}, which {says}."
        )
    return "\n\n".join([*parts, text]), found


DIVERSITY = {
    "entropy": ("entropy per token ÷ base", lambda row, base: row["entropy"] / max(base["entropy"], 1e-9)),
    "distinct": ("distinct of 128", lambda row, base: row["distinct"]),
    "reward_std": ("reward std ÷ base", lambda row, base: row["reward_std"] / max(base["reward_std"], 1e-9)),
    "bimodality": ("bimodality", lambda row, base: row["bimodality"]),
    **{
        f"best_of_{n}": (
            f"best of {n} - base, units",
            lambda row, base, n=n: (row["curve"][str(n)] - base["curve"][str(n)]) / unit_of(base),
        )
        for n in (1, N)
    },
}


def section_diversity(results: Results) -> Section:
    """How diverse the trained policies are."""
    rows, found = [], {}
    for name in results.methods(["base", *RANKED]) + results.methods(["oracle"], m=N):
        where = {"m": N} if name == "oracle" else {}
        columns: dict[str, Any] = {}
        per_task: dict[str, Any] = {}
        for key, (_, of) in DIVERSITY.items():
            by_seed: dict[int, list[float]] = {}
            for task in results.tasks:
                for seed in results.seeds:
                    row, base = results.row(task, name, seed, **where), results.row(task, "base", seed)
                    if row is not None and base is not None:
                        by_seed.setdefault(seed, []).append(of(row, base))
                        per_task.setdefault(task, {}).setdefault(key, []).append(of(row, base))
            columns[key] = t_interval(np.mean(v) for v in results._whole(by_seed).values())
        if columns["entropy"] is not None:
            found[name] = {
                "all": columns,
                "tasks": {t: {k: t_interval(v) for k, v in o.items()} for t, o in per_task.items()},
            }
            rows.append([name, *(of.text(2) for of in columns.values())])
    if not rows:
        return NOT_RUN, {}
    text = (
        "Mean over tasks ± half of the 95 % interval over seeds. Bimodality is Sarle's coefficient, (skewness² + 1) / "
        "kurtosis of a prompt's rewards: 0.33 for a Gaussian, 1 for two points. A policy that gives bad responses on "
        "purpose has a low best of 1 and a high bimodality and standard deviation beside its base. Per task in "
        "[results/summary.json](results/summary.json).\n\n"
    )
    return text + table(["method", *(title for title, _ in DIVERSITY.values())], rows), found


def section_gold(results: Results) -> Section:
    """Gold against proxy."""
    with_gold = [
        task for task in results.tasks if any("gold" in row for row in results.reported if row["task"] == task)
    ]
    ns = (1, 16, N, 512)
    parts, found = [], {}
    for task in with_gold:
        rows, decimals = [], results.decimals(task)
        found[task] = {}
        grpo = {n: results.by_seed(task, "grpo", lambda row, n=n: row["gold"][str(n)]) for n in ns}
        for name in results.methods(["base", *MAIN]) + results.methods(["oracle"], m=N):
            where = {"m": N} if name == "oracle" else {}
            gold = {n: results.by_seed(task, name, lambda row, n=n: row["gold"][str(n)], **where) for n in ns}
            if not gold[N]:
                continue
            proxy = t_interval(results.values(task, name, **where).values())
            gap = paired(gold[N], grpo[N]) if name != "grpo" else None
            means = {n: t_interval(of.values()) for n, of in gold.items()}
            found[task][name] = {"proxy": proxy, "gold": means, "gold_over_grpo": gap}
            cells = [of.text(decimals) if of else "" for of in (proxy, *means.values())]
            rows.append([name, *cells, _show(gap, decimals)])
        header = ["method", f"reward, N = {N}", *(f"gold, N = {n}" for n in ns), f"gold - GRPO's, N = {N}, paired"]
        parts.append(f"`{task}`: gold of the response that the reward picks of N.\n\n{table(header, rows)}")
    return ("\n\n".join(parts), found) if parts else (NOT_RUN, {})


def section_mismatch(results: Results) -> Section:
    """Where N is beyond what max@k can look at."""
    rows, found = [], []
    for m, n in MISMATCH:
        where = {"m": m, "n": n, "prompts": ROLLOUTS // m}
        for name in results.methods([x for x in MISMATCH_METHODS if x != "max_at_m"], **where):
            gaps = {
                task: paired(results.values(task, name, n, **where), results.values(task, "max_at_m", n, **where))
                for task in results.tasks
            }
            if not any(gaps.values()):
                continue
            overall = results.normalised(name, "max_at_m", n, **where)
            wins = sum(gap is not None and gap.separate and gap.mean > 0 for gap in gaps.values())
            losses = sum(gap is not None and gap.separate and gap.mean < 0 for gap in gaps.values())
            counts = f"{wins} / {sum(gap is not None for gap in gaps.values()) - wins - losses} / {losses}"
            found.append({"m": m, "n": n, "method": name, "tasks": gaps, "normalised": overall, "counts": counts})
            cells = [_show(gap, results.decimals(task)) for task, gap in gaps.items()]
            rows.append([f"{m}, {n}", name, *cells, _show_overall(results, overall), counts])
    if not rows:
        return NOT_RUN, {}
    text = (
        f"Best of N minus that of max@m, paired, ± half of the 95 % interval over seeds, bold where it leaves out 0; "
        f"m * prompts = {ROLLOUTS} rollouts per update for all. Learning rates as chosen for m = {M}, N = {N}.\n\n"
    )
    header = ["m, N", "method", *results.tasks, "all tasks, units", "wins / ties / losses"]
    return text + table(header, rows), {"differences": found}


def section_efficiency(results: Results) -> Section:
    """How many rollouts others need for what ours reaches with 16."""
    found: dict[str, Any] = {"values": {}}
    rows = []
    # Where nothing was run with more rollouts there is nothing to say of how many it takes.
    names = [
        task
        for task in results.tasks
        if any(results.values(task, name, m=m) for name, sizes in EFFICIENCY.items() for m in sizes if m > M)
    ]
    shared = {task: _shared_seeds(efficiency_values(results, task).values()) for task in names}
    for name, sizes in EFFICIENCY.items():
        for m in sizes:
            cells, entry = [], {}
            for task in names:
                values, decimals = results.values(task, name, m=m), results.decimals(task)
                mean = t_interval(value for seed, value in values.items() if seed in shared[task])
                gap = None if (name, m) == (REFERENCE, M) else paired(values, results.values(task, REFERENCE))
                entry[task] = {"mean": mean, "difference": gap}
                cells.append(f"{mean.mean:.{decimals}f}" if mean else "")
                cells[-1] += f" ({_show(gap, decimals)})" if mean and gap else ""
            if any(cells):
                found["values"].setdefault(name, {})[m] = entry
                rows.append([name, str(m), *cells])
    if not rows:
        return NOT_RUN, {}
    text = (
        f"Best of {N} by rollouts per prompt m, with {PROMPTS} prompts per update and as many updates for all, mean "
        f"over the seeds that all have; in parentheses minus that of {REFERENCE} with m = {M}, paired, ± half of the "
        "95 % interval over seeds, bold where it leaves out 0. Learning rates as chosen for "
        f"m = {M}.\n\n{table(['method', 'm', *names], rows)}"
    )
    needed_rows, needed_by = [], {}
    for name, sizes in EFFICIENCY.items():
        if name == REFERENCE:
            continue
        cells = []
        needed_by[name] = {}
        for task in names:
            gaps = {
                m: gap
                for m in sizes
                if (gap := paired(results.values(task, name, m=m), results.values(task, REFERENCE))) is not None
            }
            needed = needed_by[name][task] = rollouts_needed(gaps)
            needed["total"] = None if needed["mean"] is None else needed["mean"] * PROMPTS * results.updates[task]
            cells.append(_needed_text(needed))
        needed_rows.append([name, *cells])
    found["needed"] = needed_by
    total = ", ".join(f"{task} {M * PROMPTS * results.updates[task]:,}" for task in names)
    text += (
        f"\n\nRollouts per prompt at which a method's mean is at least that of {REFERENCE} with m = {M}, and in "
        "parentheses those from which on the paired interval of the difference is not below 0; 'none' is none of those "
        f"that were run. Total rollouts of a training run are m * {PROMPTS} * updates: their ratio is that of m; "
        f"{REFERENCE} with m = {M} has {total}.\n\n"
    )
    return text + table(["method", *names], needed_rows), found


def efficiency_values(results: Results, task: str) -> dict[tuple[str, int], BySeed]:
    """(method, m) to what was run."""
    runs = {(name, m): results.values(task, name, m=m) for name, sizes in EFFICIENCY.items() for m in sizes}
    return {key: of for key, of in runs.items() if of}


def _shared_seeds(of: Iterable[BySeed]) -> set[int]:
    """The seeds that all have, so that means can be compared; all there are if none is shared."""
    seeds = [set(by_seed) for by_seed in of]
    return set.intersection(*seeds) or set.union(*seeds) if seeds else set()


def rollouts_needed(gaps: Mapping[int, Interval]) -> dict[str, Any]:
    """Of differences to the reference by m: the smallest m whose mean is >= 0, and whose interval is not below 0."""
    return {
        "tried": sorted(gaps),
        "mean": min((m for m, gap in gaps.items() if gap.mean >= 0), default=None),
        "interval": min((m for m, gap in gaps.items() if gap.mean >= 0 or not gap.separate), default=None),
        "differences": dict(gaps),
    }


def _needed_text(needed: dict[str, Any]) -> str:
    if not needed["tried"]:
        return ""
    none = f"none up to {max(needed['tried'])}"
    return f"{needed['mean'] or none} ({needed['interval'] or none})"


def section_ablations(results: Results) -> Section:
    """One thing changed at a time."""
    rows, found = [], {}
    for why in dict.fromkeys(METHODS[name].why for name in ABLATIONS):
        for name in results.methods([x for x in ABLATIONS if METHODS[x].why == why]):
            parent = parent_of(name)
            gaps = {task: paired(results.values(task, name), results.values(task, parent)) for task in results.tasks}
            overall = results.normalised(name, parent)
            found[name] = {"why": why, "parent": parent, "tasks": gaps, "normalised": overall}
            cells = [_show(gap, results.decimals(task)) for task, gap in gaps.items()]
            rows.append([why, name, parent, *cells, _show_overall(results, overall)])
    if not rows:
        return NOT_RUN, {}
    text = (
        f"Best of {N} minus the parent's, paired, ± half of the 95 % interval over seeds, bold where it leaves out 0; "
        f"m = {M}, at the parent's learning rate.\n\n"
    )
    return text + table(["what", "method", "parent", *results.tasks, "all tasks, units"], rows), found


def _list(items: Iterable[str]) -> str:
    return ", ".join(items) or "none"


def section_verdict(results: Results, summary: Mapping[str, Any]) -> Section:
    """The questions that the benchmark is for, answered by the numbers above."""
    lines: list[str] = []
    found: dict[str, Any] = {}
    headroom = {
        task: of["headroom"][M]["ratio"]
        for task, of in summary["tasks"].get("tasks", {}).items()
        if of["headroom"][M]["ratio"] is not None
    }
    if headroom:
        large = [task for task, ratio in headroom.items() if ratio >= 3]
        found["headroom_over_3"] = large
        lines.append(
            f"Headroom over max@{M} of 3 standard errors or more: {len(large)} of {len(headroom)} tasks (asked: 3): "
            f"{_list(large)}."
        )
    best = summary["gain"].get("best_of_ours")
    ranks = rank(results)
    if best and ranks:
        lines += _verdict_against(results, ranks, best, found)
        validation = rank(results, [VALIDATION_SEED])
        chosen = validation.best(OURS) if validation else None
        if chosen and chosen in ranks.methods:
            found["best_on_validation_seed"] = chosen
            if chosen == best:
                lines.append(f"Chosen on seed {VALIDATION_SEED} instead, which is not reported, it is the same one.")
            else:
                lines.append(
                    f"It was chosen with hindsight on these seeds. Chosen on seed {VALIDATION_SEED}, which is not "
                    f"reported, it is {chosen}:"
                )
                lines += [f"  {line}" for line in _verdict_against(results, ranks, chosen, found, "validation")]
    inside = summary["aa"].get("includes_0")
    if inside:
        gap = summary["aa"].get("rank")
        says = f"; difference in mean rank {gap.text(2, True)}" if gap else ""
        lines.append(f"A/A check: {inside[0]} of {inside[1]} intervals of the same estimator twice include 0{says}.")
    for of in summary["mismatch"].get("differences", []):
        if of["method"] == REFERENCE and of["normalised"]:
            lines.append(
                f"m = {of['m']}, N = {of['n']}: {REFERENCE} minus max@m {of['normalised'].text(3, True)} units "
                f"over tasks; wins / ties / losses {of['counts']}."
            )
    for name, by_task in summary["efficiency"].get("needed", {}).items():
        # A single size, as in the main table, says nothing about how many it takes.
        tried = {task: of for task, of in by_task.items() if len(of["tried"]) > 1}
        if tried:
            factors = [
                f"{task} > {max(of['tried']) / M:g}" if of["mean"] is None else f"{task} {of['mean'] / M:g}"
                for task, of in tried.items()
            ]
            at_least = sum((of["mean"] or max(of["tried"]) + 1) >= 4 * M for of in tried.values())
            lines.append(
                f"Rollouts that {name} needs for what {REFERENCE} reaches with m = {M}, divided by those: "
                f"{_list(factors)}; 4 or more on {at_least} of {len(tried)} tasks."
            )
    if not lines:
        return NOT_RUN, {}
    return "\n".join(line if line.startswith("  ") else f"- {line}" for line in _indented(lines)), found


def _indented(lines: Iterable[str]) -> Iterable[str]:
    for line in lines:
        yield f"  - {line.strip()}" if line.startswith("  ") else line


def _verdict_against(
    results: Results, ranks: Ranks, best: str, found: dict[str, Any], prefix: str = "best"
) -> list[str]:
    """The best of ours against GRPO and every peer."""
    lines = []
    mean = f"{ranks.of(best):.2f}"
    lines.append(
        f"Of ours, {best} has mean rank {mean} of {len(ranks.methods)} over {ranks.blocks} (task, seed), "
        f"{len(ranks.by_seed)} seeds."
    )
    over = {task: of for task in results.tasks if (of := compare(results, best, "grpo", task))}
    if over:
        above = [task for task, of in over.items() if of["difference"].mean > 0]
        wins = [task for task, of in over.items() if outcome(of["difference"]) == "win"]
        losses = [task for task, of in over.items() if outcome(of["difference"]) == "loss"]
        apart = [task for task in above if over[task]["separate_unpaired"]]
        found[f"{prefix}_over_grpo"] = {"above": above, "wins": wins, "losses": losses, "apart": apart}
        lines.append(
            f"{best} over GRPO: higher mean on {len(above)} of {len(over)} tasks; paired 95 % interval above 0 on "
            f"{len(wins)} ({_list(wins)}), below 0 on {len(losses)} ({_list(losses)}); separate 95 % intervals "
            f"of their gains over the base model on {len(apart)} ({_list(apart)}). Asked: every task, separate "
            "intervals on four of five."
        )
    gaps = {peer: gap for peer in PEERS if peer in ranks.methods and (gap := ranks.difference(best, peer))}
    won = [peer for peer, gap in gaps.items() if outcome(gap) == "win"]
    lost = [peer for peer, gap in gaps.items() if outcome(gap) == "loss"]
    tied = [f"{peer} ({gap.text(2, True)})" for peer, gap in gaps.items() if outcome(gap) == "tie"]
    found[f"{prefix}_in_rank"] = {"wins": won, "losses": lost, "gaps": gaps}
    lines.append(
        f"{best} against {len(gaps)} others in mean rank: better with 0 outside the interval than {len(won)} "
        f"({_list(won)}); worse so than {len(lost)} ({_list(lost)}); not separated from {_list(tied)}."
    )
    behind = []
    for peer in gaps:
        for task in results.tasks:
            gap = paired(results.values(task, best), results.values(task, peer))
            if gap is not None and outcome(gap) == "loss":
                behind.append(f"{peer} on {task} ({gap.text(results.decimals(task), True)})")
    lines.append(f"Tasks on which one of them is ahead of {best} with 0 outside the paired interval: {_list(behind)}.")
    return lines


# --- Figures. ---

# Okabe and Ito's palette, told apart with any colour vision; markers as well, for print without colour.
_STYLE = {
    "base": ("#777777", "o", "--", "base model"),
    "grpo": ("#D55E00", "s", "-", "GRPO"),
    "max_at_m": ("#CC79A7", "P", "-", "max@m"),
    "tea": ("#0072B2", "^", "-", "TEA"),
    "eb_bon": ("#009E73", "D", "-", "empirical Bayes"),
    "ladder_memory": ("#E69F00", "v", "-", "ladder with memory"),
    "oracle": ("#000000", "x", ":", f"oracle, m = {N}"),
}


def _axes_grid(count: int, height: float = 3.0) -> tuple[Any, list[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(count, 3)
    rows = -(-count // columns)
    picture = Figure(figsize=(3.7 * columns + 0.3, height * rows + 0.5), dpi=100, layout="constrained")
    FigureCanvasAgg(picture)
    axes = [*picture.subplots(rows, columns, squeeze=False).flat]
    for extra in axes[count:]:
        extra.remove()
    for each in axes[:count]:
        each.grid(axis="y", color="#DDDDDD", linewidth=0.6)
        each.set_axisbelow(True)
        each.spines[["top", "right"]].set_visible(False)
        each.tick_params(labelsize=8)
    return picture, axes[:count]


def _line(axes: Any, name: str, points: Mapping[int, Interval]) -> None:
    colour, marker, line, label = _STYLE[name]
    x = [*points]
    means = np.array([points[i].mean for i in x])
    halves = np.array([points[i].half or 0.0 for i in x])
    axes.plot(x, means, line, color=colour, marker=marker, markersize=4, linewidth=1.3, label=label)
    axes.fill_between(x, means - halves, means + halves, color=colour, alpha=0.13, linewidth=0)


def _log_axis(axes: Any, ticks: Sequence[int], label: str) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel(label, fontsize=9)


def _save(picture: Any, path: Path) -> None:
    handles: dict[str, Any] = {}
    for axes in picture.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    columns = 6 if picture.get_figwidth() > 9 else 3
    picture.legend(
        [*handles.values()], [*handles], loc="outside lower center", ncols=columns, frameon=False, fontsize=9
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without matplotlib's version in it, the same rows give the same bytes.
    picture.savefig(path, metadata={"Software": None})


def _drawn_seeds(results: Results, task: str) -> set[int]:
    """Those that all lines of a panel have: the oracle is run on fewer."""
    lines = (results.values(task, name, **({"m": N} if name == "oracle" else {})) for name in _STYLE)
    return _shared_seeds(of for of in lines if of)


def _curve(results: Results, task: str, name: str, key: str, minus: str | None = None) -> dict[int, Interval]:
    where = {"m": N} if name == "oracle" else {}
    found: dict[int, Interval] = {}
    seeds = _drawn_seeds(results, task)
    for n in (2**i for i in range(10)):

        def value(row: dict[str, Any], n: int = n) -> float:
            return float(row[key].get(str(n), math.nan))

        of = results.by_seed(task, name, value, **where)
        if minus is None:
            interval = t_interval(x for seed, x in of.items() if seed in seeds)
        else:
            interval = paired(of, results.by_seed(task, minus, value))
        if interval is not None and math.isfinite(interval.mean):
            found[n] = interval
    return found


def draw_curves(results: Results, path: Path, minus: str | None = None) -> bool:
    """Best-of-N by N for every task, or its paired difference to a method's."""
    drawn = [name for name in _STYLE if results.methods([name], **({"m": N} if name == "oracle" else {}))]
    if len(drawn) < 2 or (minus is not None and minus not in drawn):
        return False
    picture, grid = _axes_grid(len(results.tasks))
    for axes, task in zip(grid, results.tasks, strict=True):
        axes.axvline(N, color="#BBBBBB", linewidth=1, zorder=0)
        if minus is not None:
            axes.axhline(0.0, color=_STYLE[minus][0], linewidth=1, zorder=0)
        for name in drawn:
            curve = _curve(results, task, name, "curve", minus) if name != minus else {}
            if curve:
                _line(axes, name, curve)
        _log_axis(axes, [1, 4, 16, 64, 256], "N")
        seeds = len(_drawn_seeds(results, task))
        axes.set_title(task if minus is not None else f"{task}, {seeds} seeds", fontsize=10)
    grid[0].set_ylabel("best of N" if minus is None else f"best of N minus {_STYLE[minus][3]}'s", fontsize=9)
    _save(picture, path)
    return True


def draw_gold(results: Results, path: Path) -> bool:
    """Gold of the pick against the reward that picked it, a point for every N."""
    with_gold = [
        task for task in results.tasks if any("gold" in row for row in results.reported if row["task"] == task)
    ]
    if not with_gold:
        return False
    picture, grid = _axes_grid(2 * len(with_gold), height=3.4)
    for i, task in enumerate(with_gold):
        by_n, by_reward = grid[2 * i : 2 * i + 2]
        for name in _STYLE:
            reward, gold = _curve(results, task, name, "curve"), _curve(results, task, name, "gold")
            if not gold:
                continue
            _line(by_n, name, gold)
            colour, marker, line, label = _STYLE[name]
            shared = [n for n in gold if n in reward]
            x, y = [reward[n].mean for n in shared], [gold[n].mean for n in shared]
            by_reward.plot(x, y, line, color=colour, marker=marker, markersize=4, linewidth=1.3, label=label)
        by_n.axvline(N, color="#BBBBBB", linewidth=1, zorder=0)
        _log_axis(by_n, [1, 4, 16, 64, 256], "N")
        by_n.set_ylabel("gold of the pick", fontsize=9)
        by_reward.set_xlabel("reward of the pick, N = 1 .. 512", fontsize=9)
        by_reward.set_ylabel("gold of the pick", fontsize=9)
        by_n.set_title(task, fontsize=10)
    _save(picture, path)
    return True


def draw_efficiency(results: Results, path: Path) -> bool:
    """Best-of-N by rollouts per prompt, minus what ours reaches with 16: paired, as seeds differ more than methods."""
    points: dict[str, dict[str, dict[int, Interval]]] = {}
    for task in results.tasks:
        reference = results.values(task, REFERENCE)
        for (name, m), of in efficiency_values(results, task).items():
            gap = paired(of, reference)
            if gap is not None:
                points.setdefault(task, {}).setdefault(name, {})[m] = gap
    if not any(len(of) > 1 for by_name in points.values() for of in by_name.values()):
        return False
    picture, grid = _axes_grid(len(points))
    for axes, (task, by_name) in zip(grid, points.items(), strict=True):
        axes.axhline(0.0, color=_STYLE[REFERENCE][0], linewidth=0.8, linestyle="--", zorder=0)
        for name, of in by_name.items():
            _line(axes, name, of)
        _log_axis(axes, [4, 8, 16, 32, 64, 128], "m, rollouts per prompt")
        axes.set_title(task, fontsize=10)
    grid[0].set_ylabel(f"best of {N} minus that of\n{_STYLE[REFERENCE][3]} with m = {M}", fontsize=9)
    _save(picture, path)
    return True


FIGURES: dict[str, Callable[[Results, Path], bool]] = {
    "curves": draw_curves,
    "gain": lambda results, path: draw_curves(results, path, minus="grpo"),
    "gold": draw_gold,
    "efficiency": draw_efficiency,
}

# Section to what makes it, the plan of `benchmarks.training.run` that its rows come from, and its figures.
SECTIONS: dict[str, tuple[Callable[[Results], Section], str, tuple[str, ...]]] = {
    "tasks": (section_tasks, "main headroom", ()),
    "rates": (section_rates, "main", ()),
    "main": (section_main, "main", ("curves",)),
    "gain": (section_gain, "main", ("gain",)),
    "aa": (section_aa, "main", ()),
    "diversity": (section_diversity, "main headroom", ()),
    "gold": (section_gold, "main headroom", ("gold",)),
    "mismatch": (section_mismatch, "mismatch", ()),
    "efficiency": (section_efficiency, "efficiency", ("efficiency",)),
    "ablations": (section_ablations, "main ablations", ()),
}
_NOISE_ELSEWHERE = ("rates", "aa")


def report(results: Results) -> tuple[dict[str, str], dict[str, Any]]:
    """Every section's Markdown, without figures, and the numbers behind them."""
    texts: dict[str, str] = {}
    summary: dict[str, Any] = {}
    line = noise_line(results)
    for name, (section, plans, _) in SECTIONS.items():
        results.used.clear()
        texts[name], summary[name] = section(results)
        if texts[name] != NOT_RUN:
            under = provenance(results.used.values(), f"python -m benchmarks.training.run {plans}")
            texts[name] += f"\n\n{under}" if name in _NOISE_ELSEWHERE else f"\n\n{line}\n\n{under}"
    results.used.clear()
    texts["verdict"], summary["verdict"] = section_verdict(results, summary)
    if texts["verdict"] != NOT_RUN:
        texts["verdict"] += f"\n\n{line}"
    summary["runs"] = {"reported": len(results.reported), "seeds": results.seeds, "tasks": results.tasks}
    return texts, summary


SHORT = (
    "base",
    "grpo",
    "max_at_m",
    "tea_published",
    "prefix_tea_published",
    "tea",
    "eb_bon",
    "max_at_2m_memory",
    "ladder_memory",
)


def short(results: Results) -> str:
    """The table for the project's README."""
    methods = results.methods(SHORT)
    if "grpo" not in methods:
        return NOT_RUN
    results.used.clear()
    ranks = rank(results)
    rows = []
    for name in methods:
        cells = []
        for task in results.tasks:
            mean = t_interval(results.values(task, name).values())
            gap = paired(results.values(task, name), results.values(task, "grpo"))
            text = "" if mean is None else f"{mean.mean:.{results.decimals(task)}f}"
            if name != "grpo" and gap is not None:
                text += f" ({gap.text(results.decimals(task), True)})"
            cells.append(text)
        place = f"{ranks.of(name):.1f}" if ranks is not None and name in ranks.methods else ""
        rows.append([f"`{name}`", *cells, place])
    ranked = f", of {len(ranks.methods)} methods" if ranks else ""
    text = (
        f"Best of {N} on held-out prompts after training with m = {M} rollouts per prompt; in brackets the difference "
        f"to GRPO with its paired {LEVEL:.0%} interval over seeds; last the mean rank over tasks and seeds{ranked}.\n\n"
    )
    text += table(["", *results.tasks, "mean rank"], rows)
    return f"{text}\n\n{provenance(results.used.values(), 'python -m benchmarks.training.run main')}"


def write(results: Results, folder: Path) -> None:
    """Fill ``folder``'s README.md, and write its figures and results/summary.json; the project's README at home."""
    if folder == HERE:
        replace_section(HERE.parents[1] / "README.md", "training", short(results))
    texts, summary = report(results)
    for name, (_, _, figures) in SECTIONS.items():
        for figure in figures:
            path = folder / "figures" / f"{figure}.png"
            if texts[name] != NOT_RUN and FIGURES[figure](results, path):
                texts[name] += f"\n\n![{figure}](figures/{path.name})"
            else:
                path.unlink(missing_ok=True)  # of other rows
    for name, text in texts.items():
        replace_section(folder / "README.md", name, text)
    (folder / "results").mkdir(exist_ok=True)
    write_json(folder / "results" / "summary.json", as_json(summary))


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, default=ROWS, help="the JSONL file of benchmarks.training.run")
    parser.add_argument("--folder", type=Path, default=HERE, help="with the README.md to fill")
    parser.add_argument("--print", action="store_true", dest="show", help="print the tables, write nothing")
    options = parser.parse_args(arguments)
    results = Results(read_rows(options.rows))
    if options.show:
        texts, _ = report(results)
        print("\n\n".join(f"## {name}\n\n{text}" for name, text in texts.items() if text != NOT_RUN) or NOT_RUN)
    else:
        write(results, options.folder)


if __name__ == "__main__":
    main()
