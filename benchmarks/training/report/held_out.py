"""Tasks that were written after everything was decided: where GRPO should win, and where nothing should separate."""

from __future__ import annotations

from benchmarks.record import table
from benchmarks.training.methods import MAIN, OTHER_ROLLOUTS
from benchmarks.training.report.common import NOT_RUN, Section, show
from benchmarks.training.report.intervals import paired, t_interval
from benchmarks.training.report.results import Results
from benchmarks.training.run import N


def section_held_out(results: Results) -> Section:
    """Best of 1 and of N, and the differences to GRPO and to max@m."""
    rows, found = [], {}
    for task in results.tasks:
        for name in ("base", *MAIN, OTHER_ROLLOUTS):
            cells = [task, name]
            for at in (1, N):
                values = results.values(task, name, at)
                mean = t_interval(values.values())
                cells.append("" if mean is None else mean.text(results.decimals(task)))
                for other in ("grpo", "max_at_m"):
                    gap = None if other == name else paired(values, results.values(task, other, at))
                    found[f"{task}, {name} - {other}, {at}"] = gap
                    cells.append(show(gap, results.decimals(task)))
            if cells[2]:
                rows.append(cells)
    if not rows:
        return NOT_RUN, {}
    text = (
        "Mean ± half of the 95 % interval over seeds; differences paired, bold where they leave out 0. Learning rates "
        "of all but GRPO as chosen for max@m.\n\n"
    )
    header = ["task", "method"]
    for at in (1, N):
        header += [f"best of {at}", "- grpo", "- max_at_m"]
    return text + table(header, rows), found
