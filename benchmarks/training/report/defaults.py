"""TEA's default: projected or as published, its tail, the scale; on blind seeds, and on those of the development."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.record import table
from benchmarks.training.report.common import NOT_RUN, Section, differences, show
from benchmarks.training.report.intervals import paired
from benchmarks.training.report.results import Results
from benchmarks.training.run import DEFAULTS, LONG_TASKS, LONGER, ROLLOUTS, SEEDS, M, N

SIZES = (8, M, 64)


def section_defaults(results: Results) -> Section:
    """What TEA's default is to be; ``summary["blind"]`` is of the blind seeds, the rest of the others."""
    texts, summary = [], {}
    for title, part in (
        ("Blind seeds", results.blind()),
        ("The seeds of the development", results.only(lambda row: row["seed"] in SEEDS)),
    ):
        part.used = results.used
        text, found = _tables(part)
        if text != NOT_RUN:
            texts.append(f"### {title}\n\n{text}")
        if title == "Blind seeds":
            summary["blind"] = found
        else:
            summary |= found
    return ("\n\n".join(texts), summary) if texts else (NOT_RUN, {})


def _tables(results: Results) -> Section:
    """Both tables, of these seeds."""
    found: dict[str, Any] = {"defaults": [], "longer": []}
    header = ["method", *results.tasks, "all tasks, units"]
    rows = []
    for m in SIZES:
        where = {"m": m, "n": N, "prompts": ROLLOUTS // m}
        for name in results.methods([x for x in DEFAULTS if x != "max_at_m"], **where):
            of, cells = differences(results, name, "max_at_m", **where)
            found["defaults"].append({"m": m, "method": name, **of})
            rows.append([str(m), name, *cells])
    if not rows:
        return NOT_RUN, {}
    text = (
        f"Best of {N} minus that of max@m, paired, ± half of the 95 % interval over seeds, bold where it leaves out 0; "
        f"m * prompts = {ROLLOUTS} rollouts per update for all. At m = 8 a quarter of the rollouts is two, and TEA, "
        "projected or not, is max@m.\n\n"
    ) + table(["m", *header], rows)
    rows = []
    for task in (name for name in LONG_TASKS if name in results.tasks):
        for updates in (results.updates[task], *LONGER):
            for name in results.methods(DEFAULTS[:3], updates=updates):
                pairs = [
                    (row, base)
                    for seed in results.seeds
                    if (row := results.row(task, name, seed, updates=updates)) is not None
                    and (base := results.row(task, "base", seed)) is not None
                ]
                if not pairs:
                    continue
                decimals = results.decimals(task)
                cells = [f"{np.mean([row['curve'][str(k)] for row, _ in pairs]):.{decimals}f}" for k in (1, N)]
                cells.append(f"{np.mean([row['reward_std'] / base['reward_std'] for row, base in pairs]):.2f}")
                cells.append(f"{np.mean([row['bimodality'] for row, _ in pairs]):.2f}")
                gap = None
                if name == "tea_projected":
                    gap = paired(
                        *(results.values(task, of, updates=updates) for of in ("tea_projected", "tea_published"))
                    )
                    found["longer"].append({"task": task, "updates": updates, "difference": gap})
                rows.append([task, str(updates), name, *cells, show(gap, decimals)])
    if rows:
        text += (
            f"\n\nFor longer, m = {M}: a policy that makes bad responses on purpose has a low best of 1, and a high "
            "standard deviation and bimodality. Last, projected minus published, best of 128.\n\n"
        )
        names = [
            "task",
            "updates",
            "method",
            "best of 1",
            f"best of {N}",
            "reward std ÷ base",
            "bimodality",
            "projected",
        ]
        text += table(names, rows)
    return text, found
