"""All sections of the README, in its order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.training.report.aa import section_aa
from benchmarks.training.report.ablations import section_ablations
from benchmarks.training.report.common import NOT_RUN, Section, noise_line, provenance
from benchmarks.training.report.defaults import section_defaults
from benchmarks.training.report.diversity import section_diversity
from benchmarks.training.report.efficiency import section_efficiency
from benchmarks.training.report.gain import section_gain
from benchmarks.training.report.gold import section_gold
from benchmarks.training.report.held_out import section_held_out
from benchmarks.training.report.main_table import section_main
from benchmarks.training.report.mismatch import section_mismatch
from benchmarks.training.report.rates import section_rates
from benchmarks.training.report.results import Results
from benchmarks.training.report.tasks import section_tasks
from benchmarks.training.report.verdict import section_verdict
from benchmarks.training.run import HELD_OUT

# Section to what makes it, the plan of `benchmarks.training.run` that its rows come from, and its figures.
SECTIONS: dict[str, tuple[Callable[[Results], Section], str, tuple[str, ...]]] = {
    "tasks": (section_tasks, "main headroom", ()),
    "rates": (section_rates, "main", ()),
    "main": (section_main, "main", ("curves",)),
    "gain": (section_gain, "main", ("gain",)),
    "aa": (section_aa, "main", ()),
    "diversity": (section_diversity, "main headroom", ()),
    "gold": (section_gold, "main headroom", ("gold",)),
    "mismatch": (section_mismatch, "mismatch", ()),
    "efficiency": (section_efficiency, "efficiency", ("efficiency",)),
    "ablations": (section_ablations, "main ablations", ()),
    "defaults": (section_defaults, "main defaults longer", ()),
    "held_out": (section_held_out, "main", ()),
}
_NOISE_ELSEWHERE = ("rates", "aa", "held_out")


def reported(results: Results) -> Results:
    """Those of blind seeds, where there are any."""
    blind = results.blind()
    return blind if blind.reported else results


def report(results: Results) -> tuple[dict[str, str], dict[str, Any]]:
    """Every section's Markdown, without figures, and the numbers behind them."""
    texts: dict[str, str] = {}
    summary: dict[str, Any] = {}
    everything, results = results, reported(results)
    others = {
        "defaults": everything.only(lambda row: row["task"] not in HELD_OUT),
        "held_out": everything.only(lambda row: row["task"] in HELD_OUT),
    }
    line = noise_line(results)
    for name, (section, plans, _) in SECTIONS.items():
        of = others.get(name, results)
        of.used.clear()
        texts[name], summary[name] = section(of)
        if texts[name] != NOT_RUN:
            under = provenance(of.used.values(), f"python -m benchmarks.training.run {plans}")
            texts[name] += f"\n\n{under}" if name in _NOISE_ELSEWHERE else f"\n\n{line}\n\n{under}"
    results.used.clear()
    texts["verdict"], summary["verdict"] = section_verdict(results, summary)
    if texts["verdict"] != NOT_RUN:
        texts["verdict"] += f"\n\n{line}"
    summary["runs"] = {"reported": len(results.reported), "seeds": results.seeds, "tasks": results.tasks}
    return texts, summary
