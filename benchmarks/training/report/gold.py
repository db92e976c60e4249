"""Gold against proxy."""

from __future__ import annotations

from benchmarks.record import table
from benchmarks.training.methods import MAIN
from benchmarks.training.report.common import NOT_RUN, Section, show
from benchmarks.training.report.intervals import paired, t_interval
from benchmarks.training.report.results import Results
from benchmarks.training.run import N


def section_gold(results: Results) -> Section:
    """Gold against proxy."""
    with_gold = [
        task for task in results.tasks if any("gold" in row for row in results.reported if row["task"] == task)
    ]
    ns = (1, 16, N)
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
            rows.append([name, *cells, show(gap, decimals)])
        header = ["method", f"reward, N = {N}", *(f"gold, N = {n}" for n in ns), f"gold - GRPO's, N = {N}, paired"]
        parts.append(f"`{task}`: gold of the response that the reward picks of N.\n\n{table(header, rows)}")
    return ("\n\n".join(parts), found) if parts else (NOT_RUN, {})
