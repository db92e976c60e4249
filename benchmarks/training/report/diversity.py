"""How diverse the trained policies are."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.record import table
from benchmarks.training.report.common import NOT_RUN, Section
from benchmarks.training.report.intervals import t_interval
from benchmarks.training.report.ranks import RANKED
from benchmarks.training.report.results import Results, unit_of
from benchmarks.training.run import N

DIVERSITY = {
    "entropy": ("entropy per token ÷ base", lambda row, base: row["entropy"] / max(base["entropy"], 1e-9)),
    "distinct": ("distinct of 128", lambda row, base: row["distinct"]),
    "reward_std": ("reward std ÷ base", lambda row, base: row["reward_std"] / max(base["reward_std"], 1e-9)),
    "bimodality": ("bimodality", lambda row, base: row["bimodality"]),
    **{
        f"best_of_{n}": (
            f"best of {n} - base, units",
            lambda row, base, n=n: (row["curve"][str(n)] - base["curve"][str(n)]) / unit_of(base),
        )
        for n in (1, N)
    },
}


def section_diversity(results: Results) -> Section:
    """How diverse the trained policies are."""
    rows, found = [], {}
    for name in results.methods(["base", *RANKED]) + results.methods(["oracle"], m=N):
        where = {"m": N} if name == "oracle" else {}
        columns: dict[str, Any] = {}
        per_task: dict[str, Any] = {}
        for key, (_, of) in DIVERSITY.items():
            by_seed: dict[int, list[float]] = {}
            for task in results.tasks:
                for seed in results.seeds:
                    row, base = results.row(task, name, seed, **where), results.row(task, "base", seed)
                    if row is not None and base is not None:
                        by_seed.setdefault(seed, []).append(of(row, base))
                        per_task.setdefault(task, {}).setdefault(key, []).append(of(row, base))
            columns[key] = t_interval(np.mean(v) for v in results._whole(by_seed).values())
        if columns["entropy"] is not None:
            found[name] = {
                "all": columns,
                "tasks": {t: {k: t_interval(v) for k, v in o.items()} for t, o in per_task.items()},
            }
            rows.append([name, *(of.text(2) for of in columns.values())])
    if not rows:
        return NOT_RUN, {}
    text = (
        "Mean over tasks ± half of the 95 % interval over seeds. Bimodality is Sarle's coefficient, (skewness² + 1) / "
        "kurtosis of a prompt's rewards: 0.33 for a Gaussian, 1 for two points. A policy that gives bad responses on "
        "purpose has a low best of 1 and a high bimodality and standard deviation beside its base. Per task in "
        "[results/summary.json](results/summary.json).\n\n"
    )
    return text + table(["method", *(title for title, _ in DIVERSITY.values())], rows), found
