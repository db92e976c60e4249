"""How many rollouts others need for what ours reaches with 16."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.record import table
from benchmarks.training.report.common import NOT_RUN, REFERENCE, Section, show
from benchmarks.training.report.intervals import BySeed, Interval, paired, t_interval
from benchmarks.training.report.results import Results
from benchmarks.training.run import EFFICIENCY, PROMPTS, M, N


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
    shared = {task: shared_seeds(efficiency_values(results, task).values()) for task in names}
    for name, sizes in EFFICIENCY.items():
        for m in sizes:
            cells, entry = [], {}
            for task in names:
                values, decimals = results.values(task, name, m=m), results.decimals(task)
                mean = t_interval(value for seed, value in values.items() if seed in shared[task])
                gap = None if (name, m) == (REFERENCE, M) else paired(values, results.values(task, REFERENCE))
                entry[task] = {"mean": mean, "difference": gap}
                cells.append(f"{mean.mean:.{decimals}f}" if mean else "")
                cells[-1] += f" ({show(gap, decimals)})" if mean and gap else ""
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


def shared_seeds(of: Iterable[BySeed]) -> set[int]:
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
