"""Where N is beyond what max@k can look at."""

from __future__ import annotations

from benchmarks.record import table
from benchmarks.training.report.common import NOT_RUN, Section, differences
from benchmarks.training.report.results import Results
from benchmarks.training.run import MISMATCH, MISMATCH_METHODS, ROLLOUTS, M, N


def section_mismatch(results: Results) -> Section:
    """Where N is beyond what max@k can look at."""
    rows, found = [], []
    for m, n in MISMATCH:
        where = {"m": m, "n": n, "prompts": ROLLOUTS // m}
        for name in results.methods([x for x in MISMATCH_METHODS if x != "max_at_m"], **where):
            of, cells = differences(results, name, "max_at_m", n, **where)
            gaps = [gap for gap in of["tasks"].values() if gap is not None]
            if not gaps:
                continue
            wins = sum(gap.separate and gap.mean > 0 for gap in gaps)
            losses = sum(gap.separate and gap.mean < 0 for gap in gaps)
            counts = f"{wins} / {len(gaps) - wins - losses} / {losses}"
            found.append({"m": m, "n": n, "method": name, **of, "counts": counts})
            rows.append([f"{m}, {n}", name, *cells, counts])
    if not rows:
        return NOT_RUN, {}
    text = (
        f"Best of N minus that of max@m, paired, ± half of the 95 % interval over seeds, bold where it leaves out 0; "
        f"m * prompts = {ROLLOUTS} rollouts per update for all. Learning rates as chosen for m = {M}, N = {N}.\n\n"
    )
    header = ["m, N", "method", *results.tasks, "all tasks, units", "wins / ties / losses"]
    return text + table(header, rows), {"differences": found}
