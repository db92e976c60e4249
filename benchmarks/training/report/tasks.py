"""Tasks, base models and headroom."""

from __future__ import annotations

from benchmarks.record import table
from benchmarks.training.report.common import NOT_RUN, Section, show
from benchmarks.training.report.intervals import paired, t_interval
from benchmarks.training.report.results import Results
from benchmarks.training.run import PROMPTS, M, N
from benchmarks.training.task import tasks


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
            cells += [show(gap, decimals), "" if ratio is None else f"{ratio:.1f}"]
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
