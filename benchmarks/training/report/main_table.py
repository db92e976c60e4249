"""Every method at m = 16, N = 128."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.record import table
from benchmarks.training.methods import MAIN, ORACLE_SAMPLES, OURS, PSI_ORACLE
from benchmarks.training.report.common import NOT_RUN, SAME, Section, differences, noise, show
from benchmarks.training.report.intervals import BySeed, paired, t_interval
from benchmarks.training.report.ranks import rank, with_few
from benchmarks.training.report.results import Results
from benchmarks.training.run import N


def _balanced(values: dict[str, BySeed]) -> dict[str, BySeed]:
    """At the seeds that all have; without the ceiling where it has fewer, which the section on it compares."""
    methods = [of for name, of in values.items() if name != PSI_ORACLE]
    shared = set.intersection(*map(set, methods)) if methods else set()
    if not shared:
        return values
    return {
        name: {seed: of[seed] for seed in sorted(shared)}
        for name, of in values.items()
        if name != PSI_ORACLE or shared <= of.keys()
    }


def _fewer_table(results: Results, names: list[str], found: dict[str, Any]) -> str:
    """Of these methods the difference to max@m, on the seeds that both have."""
    rows = []
    for name in names:
        found[name], cells = differences(results, name, "max_at_m")
        seeds = {seed for task in results.tasks for seed in results.values(task, name)}
        rows.append([name, str(len(seeds)), *cells])
    return (
        f"Run on fewer seeds: best of {N} minus that of max@m, paired, bold where the interval leaves out 0.\n\n"
    ) + table(["method", "seeds", *results.tasks, "all tasks, units"], rows)


def section_main(results: Results) -> Section:
    """Every method at m = 16, N = 128."""
    methods = results.methods(["base", *MAIN, PSI_ORACLE])
    if not [name for name in methods if name not in ("base", PSI_ORACLE)]:
        return NOT_RUN, {}
    ranks = rank(results)
    best = ranks.best(OURS) if ranks else None
    columns: dict[str, dict[str, str]] = {}
    found: dict[str, Any] = {"methods": {}, "best_of_ours": best, "fewer_seeds": {}}
    few: set[str] = set()
    for task in results.tasks:
        values = {name: of for name in methods if (of := results.values(task, name))}
        fewer = with_few(values) - {PSI_ORACLE}
        few |= fewer
        values = _balanced({name: of for name, of in values.items() if name not in fewer})
        allowed = [name for name in values if name != PSI_ORACLE]
        top = max(allowed, key=lambda name: float(np.mean([*values[name].values()])), default=None)
        columns[task] = {}
        for name, of in values.items():
            mean = t_interval(of.values())
            gap = paired(values[top], of) if top else None
            assert mean is not None
            text = mean.text(results.decimals(task))
            with_best = name == top or (gap is not None and not gap.separate and gap.half is not None)
            with_best = with_best and name != PSI_ORACLE
            columns[task][name] = f"**{text}**" if with_best else text
            entry = found["methods"].setdefault(name, {"tasks": {}})
            entry["tasks"][task] = {"mean": mean, "seeds": of, "behind_best": gap, "with_best": with_best}
    rows = []
    for name in methods:
        kind = "ours" if name in OURS else "published" if "published" in name else "peer"
        kind = {"base": "", PSI_ORACLE: "ceiling"}.get(name, kind)
        cells = [columns[task].get(name, "") for task in results.tasks]
        if name in few and not any(cells):
            continue
        place = difference = ""
        if ranks is not None and name in ranks.methods:
            i = ranks.methods.index(name)
            place = f"{ranks.mean[i]:.2f}"
            entry = found["methods"][name]
            entry["mean_rank"] = ranks.mean[i]
            if ranks.low is not None and ranks.high is not None:
                place += f" [{ranks.low[i]:.2f}, {ranks.high[i]:.2f}]"
                entry["mean_rank_interval"] = [ranks.low[i], ranks.high[i]]
            if best and name != best:
                gap = entry["behind_best_of_ours_in_rank"] = ranks.difference(best, name)
                difference = show(gap)
        rows.append([name, kind, *cells, place, difference])
    if best is None:
        rows = [row[:-2] for row in rows]
    floor = noise(results)["tasks"]
    gaps = [f"{floor[task]['mean']:.{results.decimals(task)}f}" if task in floor else "" for task in results.tasks]
    rows.append([f"noise: abs({SAME[0]} - {SAME[1]})", "", *gaps, *([] if best is None else ["", ""])])
    text = (
        f"Best of {N}, mean ± half of the 95 % interval over seeds (unpaired: most of it is how tasks differ from seed "
        "to seed). Bold: the paired interval of its difference to the best of the column includes 0. `pass_at_n` is "
        "for 0/1 rewards only and not ranked."
    )
    if PSI_ORACLE in methods:
        text += (
            f" `{PSI_ORACLE}` is the ceiling of all estimators, trained with the influence of every reward from "
            f"{ORACLE_SAMPLES} further samples that are not trained on; neither bold nor ranked."
        )
    header = ["method", "", *results.tasks]
    if ranks is not None and best is not None:
        header += ["mean rank", f"rank behind {best}"]
        text += (
            f" Mean rank over the {ranks.blocks} (task, seed) with all ranked methods, in brackets its 95 % bootstrap "
            f"interval over seeds; last, how much worse the mean rank is than that of {best}, paired, Student's t over "
            "seeds, bold where that leaves out 0."
        )
    text += f"\n\n{table(header, rows)}"
    if few:
        text += "\n\n" + _fewer_table(results, [name for name in methods if name in few], found["fewer_seeds"])
    return text, found
