"""The questions that the benchmark is for, answered by the tables' numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from benchmarks.training.methods import OURS, PEERS
from benchmarks.training.report.common import NOT_RUN, REFERENCE, Section, compare, listed, outcome
from benchmarks.training.report.intervals import paired
from benchmarks.training.report.ranks import Ranks, rank
from benchmarks.training.report.results import Results
from benchmarks.training.run import VALIDATION_SEED, M


def section_verdict(results: Results, summary: Mapping[str, Any]) -> Section:
    """The questions that the benchmark is for, answered by the numbers above."""
    lines: list[str] = []
    found: dict[str, Any] = {}
    headroom = {
        task: of["headroom"][M]["ratio"]
        for task, of in summary["tasks"].get("tasks", {}).items()
        if of["headroom"][M]["ratio"] is not None
    }
    if headroom:
        large = [task for task, ratio in headroom.items() if ratio >= 3]
        found["headroom_over_3"] = large
        lines.append(
            f"Headroom over max@{M} of 3 standard errors or more: {len(large)} of {len(headroom)} tasks (asked: 3): "
            f"{listed(large)}."
        )
    best = summary["gain"].get("best_of_ours")
    ranks = rank(results)
    if best and ranks:
        lines += _verdict_against(results, ranks, best, found)
        validation = rank(results, [VALIDATION_SEED])
        chosen = validation.best(OURS) if validation else None
        whole = validation is not None and validation.blocks == len(results.tasks)
        if chosen and whole and chosen in ranks.methods:
            found["best_on_validation_seed"] = chosen
            if chosen == best:
                lines.append(f"Chosen on seed {VALIDATION_SEED} instead, which is not reported, it is the same one.")
            else:
                lines.append(
                    f"It was chosen with hindsight on these seeds. Chosen on seed {VALIDATION_SEED}, which is not "
                    f"reported, it is {chosen}:"
                )
                lines += [f"  {line}" for line in _verdict_against(results, ranks, chosen, found, "validation")]
    inside = summary["aa"].get("includes_0")
    if inside:
        gap = summary["aa"].get("rank")
        says = f"; difference in mean rank {gap.text(2, True)}" if gap else ""
        lines.append(f"A/A check: {inside[0]} of {inside[1]} intervals of the same estimator twice include 0{says}.")
    for of in summary["mismatch"].get("differences", []):
        if of["method"] == REFERENCE and of["normalised"]:
            lines.append(
                f"m = {of['m']}, N = {of['n']}: {REFERENCE} minus max@m {of['normalised'].text(3, True)} units "
                f"over tasks; wins / ties / losses {of['counts']}."
            )
    for name, by_task in summary["efficiency"].get("needed", {}).items():
        # A single size, as in the main table, says nothing about how many it takes.
        tried = {task: of for task, of in by_task.items() if len(of["tried"]) > 1}
        if tried:
            factors = [
                f"{task} > {max(of['tried']) / M:g}" if of["mean"] is None else f"{task} {of['mean'] / M:g}"
                for task, of in tried.items()
            ]
            at_least = sum((of["mean"] or max(of["tried"]) + 1) >= 4 * M for of in tried.values())
            lines.append(
                f"Rollouts that {name} needs for what {REFERENCE} reaches with m = {M}, divided by those: "
                f"{listed(factors)}; 4 or more on {at_least} of {len(tried)} tasks."
            )
    if not lines:
        return NOT_RUN, {}
    return "\n".join(line if line.startswith("  ") else f"- {line}" for line in _indented(lines)), found


def _indented(lines: Iterable[str]) -> Iterable[str]:
    for line in lines:
        yield f"  - {line.strip()}" if line.startswith("  ") else line


def _verdict_against(
    results: Results, ranks: Ranks, best: str, found: dict[str, Any], prefix: str = "best"
) -> list[str]:
    """The best of ours against GRPO and every peer."""
    lines = []
    mean = f"{ranks.of(best):.2f}"
    lines.append(
        f"Of ours, {best} has mean rank {mean} of {len(ranks.methods)} over {ranks.blocks} (task, seed), "
        f"{len(ranks.by_seed)} seeds."
    )
    over = {task: of for task in results.tasks if (of := compare(results, best, "grpo", task))}
    if over:
        above = [task for task, of in over.items() if of["difference"].mean > 0]
        wins = [task for task, of in over.items() if outcome(of["difference"]) == "win"]
        losses = [task for task, of in over.items() if outcome(of["difference"]) == "loss"]
        apart = [task for task in above if over[task]["separate_unpaired"]]
        found[f"{prefix}_over_grpo"] = {"above": above, "wins": wins, "losses": losses, "apart": apart}
        lines.append(
            f"{best} over GRPO: higher mean on {len(above)} of {len(over)} tasks; paired 95 % interval above 0 on "
            f"{len(wins)} ({listed(wins)}), below 0 on {len(losses)} ({listed(losses)}); separate 95 % intervals "
            f"of their gains over the base model on {len(apart)} ({listed(apart)}). Asked: every task, separate "
            "intervals on four of five."
        )
    gaps = {peer: gap for peer in PEERS if peer in ranks.methods and (gap := ranks.difference(best, peer))}
    won = [peer for peer, gap in gaps.items() if outcome(gap) == "win"]
    lost = [peer for peer, gap in gaps.items() if outcome(gap) == "loss"]
    tied = [f"{peer} ({gap.text(2, True)})" for peer, gap in gaps.items() if outcome(gap) == "tie"]
    found[f"{prefix}_in_rank"] = {"wins": won, "losses": lost, "gaps": gaps}
    lines.append(
        f"{best} against {len(gaps)} others in mean rank: better with 0 outside the interval than {len(won)} "
        f"({listed(won)}); worse so than {len(lost)} ({listed(lost)}); not separated from {listed(tied)}."
    )
    behind = []
    for peer in gaps:
        for task in results.tasks:
            gap = paired(results.values(task, best), results.values(task, peer))
            if gap is not None and outcome(gap) == "loss":
                behind.append(f"{peer} on {task} ({gap.text(results.decimals(task), True)})")
    lines.append(f"Tasks on which one of them is ahead of {best} with 0 outside the paired interval: {listed(behind)}.")
    return lines
