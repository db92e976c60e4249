"""Ours minus GRPO, and the best of ours against each peer."""

from __future__ import annotations

from typing import Any

from benchmarks.record import table
from benchmarks.training.methods import OURS, PEERS
from benchmarks.training.report.common import NOT_RUN, Section, compare, outcome, show, show_overall
from benchmarks.training.report.ranks import RANKED, rank
from benchmarks.training.report.results import Results
from benchmarks.training.run import N


def section_gain(results: Results) -> Section:
    """Ours minus GRPO, and the best of ours against each peer."""
    ours = results.methods(OURS)
    if not ours or not results.methods(["grpo"]):
        return NOT_RUN, {}
    rows, found = [], {}
    for name in ours:
        cells = []
        found[name] = {task: compare(results, name, "grpo", task) for task in results.tasks}
        for task, of in found[name].items():
            decimals = results.decimals(task)
            cell = show(of["difference"], decimals) if of else ""
            if of and of["over_prompts"]:
                cell += f" (± {of['over_prompts'].half:.{decimals}f})"
            cells.append(cell + (" §" if of and of["separate_unpaired"] else ""))
        overall = results.normalised(name, "grpo")
        found[name]["normalised"] = overall
        rows.append([name, *cells, show_overall(results, overall) if name in RANKED else ""])
    text = (
        f"Best of {N} minus GRPO's, paired; ± half of the 95 % interval over seeds, in parentheses that over the "
        "held-out prompts within the seeds' trained policies. Bold: the interval over seeds leaves out 0; §: the "
        "unpaired intervals of what each of the two gains over its seeds' base models do not overlap either. Last, the "
        f"mean over tasks; a unit is what best of {N} gains over one sample on the task with the base model.\n\n"
    )
    text += table(["method", *results.tasks, "all tasks, units"], rows)
    ranks = rank(results)
    best = ranks.best(OURS) if ranks else None
    duels: dict[str, Any] = {}
    if best:
        rows = []
        for peer in results.methods(PEERS):
            outcomes = {task: of for task in results.tasks if (of := compare(results, best, peer, task))}
            results_of = {task: outcome(of["difference"]) for task, of in outcomes.items()}
            counts = [[*results_of.values()].count(kind) for kind in ("win", "tie", "loss")]
            ahead = sum(of["difference"].mean > 0 for of in outcomes.values())
            apart = sum(bool(of["separate_unpaired"]) and of["difference"].mean > 0 for of in outcomes.values())
            duels[peer] = {"tasks": outcomes, "outcomes": results_of, "counts": counts, "ahead": ahead, "apart": apart}
            duels[peer]["normalised"] = results.normalised(best, peer)
            listed = {kind: ", ".join(t for t, o in results_of.items() if o == kind) for kind in ("win", "loss")}
            rows.append(
                [
                    peer,
                    " / ".join(map(str, counts)),
                    listed["win"],
                    listed["loss"],
                    f"{ahead} of {len(outcomes)}",
                    str(apart),
                    show_overall(results, duels[peer]["normalised"]),
                ]
            )
        text += (
            f"\n\n{best}, which has the lowest mean rank of ours, against each other row: a win or a loss is a task on "
            "which the paired interval leaves out 0.\n\n"
        )
        header = [
            "against",
            "wins / ties / losses",
            "wins",
            "losses",
            "mean ahead",
            "separate intervals",
            "difference, units",
        ]
        text += table(header, rows)
    return text, {"over_grpo": found, "best_of_ours": best, "duels": duels}
