"""Where N is beyond what max@k can look at."""

from __future__ import annotations

from benchmarks.record import table
from benchmarks.training.report.common import NOT_RUN, Section, show, show_overall
from benchmarks.training.report.intervals import paired
from benchmarks.training.report.results import Results
from benchmarks.training.run import MISMATCH, MISMATCH_METHODS, ROLLOUTS, M, N


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
            cells = [show(gap, results.decimals(task)) for task, gap in gaps.items()]
            rows.append([f"{m}, {n}", name, *cells, show_overall(results, overall), counts])
    if not rows:
        return NOT_RUN, {}
    text = (
        f"Best of N minus that of max@m, paired, ± half of the 95 % interval over seeds, bold where it leaves out 0; "
        f"m * prompts = {ROLLOUTS} rollouts per update for all. Learning rates as chosen for m = {M}, N = {N}.\n\n"
    )
    header = ["m, N", "method", *results.tasks, "all tasks, units", "wins / ties / losses"]
    return text + table(header, rows), {"differences": found}
