"""One thing changed at a time."""

from __future__ import annotations

from benchmarks.record import table
from benchmarks.training.methods import ABLATIONS, METHODS
from benchmarks.training.report.common import NOT_RUN, Section, differences
from benchmarks.training.report.results import Results, parent_of
from benchmarks.training.run import M, N


def section_ablations(results: Results) -> Section:
    """One thing changed at a time."""
    rows, found = [], {}
    for why in dict.fromkeys(METHODS[name].why for name in ABLATIONS):
        for name in results.methods([x for x in ABLATIONS if METHODS[x].why == why]):
            parent = parent_of(name)
            of, cells = differences(results, name, parent)
            found[name] = {"why": why, "parent": parent, **of}
            rows.append([why, name, parent, *cells])
    if not rows:
        return NOT_RUN, {}
    text = (
        f"Best of {N} minus the parent's, paired, ± half of the 95 % interval over seeds, bold where it leaves out 0; "
        f"m = {M}, at the parent's learning rate.\n\n"
    )
    return text + table(["what", "method", "parent", *results.tasks, "all tasks, units"], rows), found
