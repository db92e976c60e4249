"""The A/A check: the same estimator twice."""

from __future__ import annotations

import numpy as np

from benchmarks.record import table
from benchmarks.training.methods import OTHER_ROLLOUTS
from benchmarks.training.report.common import NOT_RUN, SAME, Section, compare, noise
from benchmarks.training.report.intervals import LEVEL
from benchmarks.training.report.ranks import rank
from benchmarks.training.report.results import Results
from benchmarks.training.run import N


def section_aa(results: Results) -> Section:
    """The A/A check."""
    if len(results.methods(SAME)) < 2:
        return NOT_RUN, {}
    found = noise(results)
    found["differences"] = {}
    parts, decided = [], []
    for other, why in (
        (
            SAME[1],
            "the same estimator up to a factor, which the division by the run's largest root mean square removes",
        ),
        (OTHER_ROLLOUTS, "the same method on the same tasks, base models and prompts, with another seed of sampling"),
    ):
        rows = []
        for task in results.tasks:
            of = compare(results, SAME[0], other, task)
            if of is None:
                continue
            found["differences"].setdefault(other, {})[task] = of
            decimals, gap = results.decimals(task), of["difference"]
            a, b = results.values(task, SAME[0]), results.values(task, other)
            sizes = [abs(a[seed] - b[seed]) for seed in sorted(a.keys() & b.keys())]
            if gap.half is not None:
                decided.append(gap)
            rows.append(
                [
                    task,
                    gap.text(decimals, True),
                    "" if of["over_prompts"] is None else f"± {of['over_prompts'].half:.{decimals}f}",
                    f"{np.mean(sizes):.{decimals}f}",
                    f"{max(sizes):.{decimals}f}",
                    "?" if gap.half is None else "no" if gap.separate else "yes",
                ]
            )
        if rows:
            header = ["task", f"best of {N}, paired", "over prompts", "mean abs", "largest abs", "includes 0"]
            parts.append(f"{SAME[0]} minus {other}: {why}.\n\n{table(header, rows)}")
    inside = sum(not gap.separate for gap in decided)
    found["includes_0"] = [inside, len(decided)]
    text = (
        f"{inside} of {len(decided)} intervals over seeds include 0; of intervals of {LEVEL:.0%} that are right, "
        f"{LEVEL * len(decided):.1f} do on average."
    )
    ranks = rank(results)
    if found.get("rank") and ranks:
        gap = found["rank"]
        says = "one seed has no interval" if gap.half is None else f"{'leaves out' if gap.separate else 'includes'} 0"
        text += (
            f" Mean ranks: {SAME[0]} {ranks.of(SAME[0]):.2f}, {SAME[1]} {ranks.of(SAME[1]):.2f}; difference "
            f"{gap.text(2, True)}, which {says}."
        )
    return "\n\n".join([*parts, text]), found
