"""What several tables share: how a cell is written, the noise floor, a comparison of two methods, provenance."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from benchmarks.training.methods import OTHER_ROLLOUTS
from benchmarks.training.report.intervals import Interval, over_prompts, paired, t_interval
from benchmarks.training.report.ranks import rank
from benchmarks.training.report.results import Results
from benchmarks.training.run import M, N

# The same estimator up to a factor, which the division by the run's scale takes out.
SAME = ("max_at_m", "bon_max_second")
REFERENCE = "eb_bon"  # of ours, in the plans that do not run every method
NOT_RUN = "Not run yet."
Section = tuple[str, dict[str, Any]]


def show(interval: Interval | None, decimals: int = 2, sign: bool = True) -> str:
    """Bold where it leaves out 0."""
    if interval is None:
        return ""
    text = interval.text(decimals, sign)
    return f"**{text}**" if interval.separate else text


def show_overall(results: Results, interval: Interval | None) -> str:
    """Of what is averaged over tasks, with their number if some are missing."""
    if interval is None:
        return ""
    some = "" if interval.tasks == len(results.tasks) else f" ({interval.tasks} tasks)"
    return show(interval, 3) + some


def differences(results: Results, name: str, other: str, at: int = N, **where: int) -> tuple[dict[str, Any], list[str]]:
    """Best-of-N of a method minus another's, paired: what the summary has of it, and the cells of its row.

    ``tasks``, and ``normalised`` over them, which is the last cell.
    """
    gaps = {
        task: paired(results.values(task, name, at, **where), results.values(task, other, at, **where))
        for task in results.tasks
    }
    overall = results.normalised(name, other, at, **where)
    cells = [*(show(gap, results.decimals(task)) for task, gap in gaps.items()), show_overall(results, overall)]
    return {"tasks": gaps, "normalised": overall}, cells


def listed(items: Iterable[str]) -> str:
    return ", ".join(items) or "none"


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
