"""The chosen learning rates."""

from __future__ import annotations

from benchmarks.record import table
from benchmarks.training.methods import MAIN
from benchmarks.training.report.common import NOT_RUN, Section
from benchmarks.training.report.results import Results
from benchmarks.training.run import LEARNING_RATES, VALIDATION_SEED, M, N
from benchmarks.training.task import tasks


def section_rates(results: Results) -> Section:
    """The chosen learning rates."""
    if not results.chosen:
        return NOT_RUN, {}
    grid = sorted(LEARNING_RATES)
    names = sorted({task for task, _, _ in results.chosen})
    updates = {task: results.updates.get(task, tasks()[task].updates if task in tasks() else 0) for task in names}
    tried: dict[tuple[str, str], int] = {}
    for row in results.rows:
        if row["seed"] == VALIDATION_SEED and row["learning_rate"] in grid and (row["m"], row["n"]) == (M, N):
            results.used[id(row)] = row
            if row["updates"] == updates[row["task"]]:
                key = row["task"], row["method"]
                tried[key] = tried.get(key, 0) + 1
    rows, found = [], {}
    for method in MAIN:
        rates = {task: results.chosen.get((task, method, updates[task])) for task in names}
        if any(rate is not None for rate in rates.values()):
            found[method] = rates
            cells = []
            for task, rate in rates.items():
                mark = {grid[0]: " ↓", grid[-1]: " ↑"}.get(rate, "") if rate is not None else ""
                partial = f" ({tried[task, method]} tried)" if 0 < tried.get((task, method), 0) < len(grid) else ""
                cells.append("" if rate is None else f"{rate:g}{mark}{partial}")
            rows.append([method, *cells])
    text = (
        f"Of {', '.join(f'{rate:g}' for rate in grid)}, the one with the highest best of {N} on the held-out prompts "
        f"of seed {VALIDATION_SEED}, which no other table uses; ↓ and ↑: at an end of the grid.\n\n"
    )
    return text + table(["method", *names], rows), {"rates": found}
