"""One thing changed at a time."""

from __future__ import annotations

from benchmarks.record import table
from benchmarks.training.methods import ABLATIONS, METHODS
from benchmarks.training.report.common import NOT_RUN, Section, show, show_overall
from benchmarks.training.report.intervals import paired
from benchmarks.training.report.results import Results, parent_of
from benchmarks.training.run import M, N


def section_ablations(results: Results) -> Section:
    """One thing changed at a time."""
    rows, found = [], {}
    for why in dict.fromkeys(METHODS[name].why for name in ABLATIONS):
        for name in results.methods([x for x in ABLATIONS if METHODS[x].why == why]):
            parent = parent_of(name)
            gaps = {task: paired(results.values(task, name), results.values(task, parent)) for task in results.tasks}
            overall = results.normalised(name, parent)
            found[name] = {"why": why, "parent": parent, "tasks": gaps, "normalised": overall}
            cells = [show(gap, results.decimals(task)) for task, gap in gaps.items()]
            rows.append([why, name, parent, *cells, show_overall(results, overall)])
    if not rows:
        return NOT_RUN, {}
    text = (
        f"Best of {N} minus the parent's, paired, ± half of the 95 % interval over seeds, bold where it leaves out 0; "
        f"m = {M}, at the parent's learning rate.\n\n"
    )
    return text + table(["what", "method", "parent", *results.tasks, "all tasks, units"], rows), found
