"""The table of docs/benchmarks.md."""

from __future__ import annotations

from benchmarks.record import table
from benchmarks.training.report.common import NOT_RUN, provenance
from benchmarks.training.report.intervals import LEVEL, paired, t_interval
from benchmarks.training.report.ranks import rank
from benchmarks.training.report.results import Results
from benchmarks.training.run import M, N

SHORT = (
    "base",
    "grpo",
    "max_at_m",
    "tea_published",
    "tea_projected",
    "eb_bon",
    "max_at_2m_memory",
    "ladder_memory",
)


def short(results: Results) -> str:
    """The table of docs/benchmarks.md."""
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
