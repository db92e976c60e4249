"""How much of what there is to win a method wins, in training and by the efficiency that `tea plan` reports.

    python -m benchmarks.training.ceiling   # minutes on one core; results/ceiling.json and README.md, "The ceiling"

In training: best of N minus that of max@m or GRPO, over the same of `psi_oracle`, from the rows of
`benchmarks.training.run`.
`tea plan` measures without training, on the base model's rewards of the held-out prompts, as a user would:
:func:`tea.bestofn.plan_training`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from benchmarks.record import describe, environment, replace_section, table, write_json
from benchmarks.training.loop import sampled_rewards
from benchmarks.training.methods import METHODS, PSI_ORACLE
from benchmarks.training.policy import base_policy
from benchmarks.training.report.common import show
from benchmarks.training.report.intervals import LEVEL, BySeed, paired
from benchmarks.training.report.results import Results, as_json
from benchmarks.training.run import MISMATCH, ROLLOUTS, read_rows
from benchmarks.training.stack import Stack
from benchmarks.training.task import tasks
from tea.bestofn.group_size import plan_training
from tea.estimators import get_estimator_spec
from tea.estimators.group import BinaryRewardsWarning

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "ceiling.json"
SAMPLES = 512
COMPARED = ("grpo", "max_at_m", "tea_projected", "tea_published", "eb_bon", "max_at_2m_memory", "ladder_memory")


def ratio_interval(over: Sequence[float], under: Sequence[float]) -> tuple[float, float] | None:
    """Fieller's interval for mean(over) / mean(under), paired; None where mean(under) may be 0: there is no bound."""
    x, y = np.asarray(over, float), np.asarray(under, float)
    if len(x) < 2:
        return None
    t = float(stats.t.ppf((1 + LEVEL) / 2, len(x) - 1))
    xx, xy, yy = (np.cov(x, y) / len(x))[[0, 0, 1], [0, 1, 1]] * t**2
    a, b, c = y.mean() ** 2 - yy, x.mean() * y.mean() - xy, x.mean() ** 2 - xx
    if a <= 0:
        return None
    root = math.sqrt(max(b * b - a * c, 0.0))
    return float((b - root) / a), float((b + root) / a)


def share(values: BySeed, top: BySeed, floor: BySeed) -> dict[str, Any] | None:
    """What values win over the floor, of what the top wins: ``mean``, and ``interval`` by :func:`ratio_interval`.

    None where it is not known that there is anything to win.
    """
    there = paired(top, floor)
    seeds = sorted(values.keys() & top.keys() & floor.keys())
    if not seeds or there is None or not there.separate or there.mean <= 0:
        return None
    won, winnable = ([of[seed] - floor[seed] for seed in seeds] for of in (values, top))
    return {"mean": float(np.mean(won) / np.mean(winnable)), "interval": ratio_interval(won, winnable)}


def efficiency(name: str, rewards: np.ndarray, m: int, n: int) -> float | None:
    """As `tea plan` measures it; None for methods that remember, which single groups do not show."""
    method = METHODS[name]
    if method.memory(m, n):
        return None
    spec = get_estimator_spec(method.estimator)
    options = dict(method.options(m, n))
    if "monotone" in spec.parameters:
        options.setdefault("monotone", spec.monotone_in_training)
    if spec.own_scale:
        options.setdefault("scale", spec.scale_in_training or "group")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", BinaryRewardsWarning)
        (record,) = plan_training(rewards, ROLLOUTS, n, estimator=method.estimator, group_sizes=(m,), **options)
    return float(record["efficiency"])


def base_rewards(task_name: str, seed: int) -> np.ndarray:
    """(64, SAMPLES) of the base model on the held-out prompts."""
    task, base = base_policy(tasks()[task_name], seed)
    index = torch.arange(task.num_train, len(task.tokens))
    generator = torch.Generator().manual_seed(seed + 20_000)
    rewards = sampled_rewards(task, Stack.of([base]), index, SAMPLES, generator, at_once=4 * SAMPLES)
    return rewards.double().numpy()


def measure(results: Results) -> list[dict[str, Any]]:
    """Per (m, N), task and method the share, and the efficiencies."""
    found = []
    rewards: dict[tuple[str, int], np.ndarray] = {}
    for m, n in MISMATCH:
        where = {"m": m, "n": n, "prompts": ROLLOUTS // m}
        for task in results.tasks:
            top = results.values(task, PSI_ORACLE, n, **where)
            floors = {name: results.values(task, name, n, **where) for name in ("max_at_m", "grpo")}
            known = {name: paired(top, floor) for name, floor in floors.items()}
            if known["max_at_m"] is None:
                continue
            for name in COMPARED:
                values = results.values(task, name, n, **where)
                seeds = sorted(values.keys() & top.keys() & floors["max_at_m"].keys())
                if not seeds:
                    continue
                for seed in seeds:
                    if (task, seed) not in rewards:
                        rewards[task, seed] = base_rewards(task, seed)
                measured = [efficiency(name, rewards[task, seed], m, n) for seed in seeds]
                entry = {"m": m, "n": n, "task": task, "method": name, "seeds": seeds, "there_is": known["max_at_m"]}
                entry["won"] = float(np.mean([values[seed] - floors["max_at_m"][seed] for seed in seeds]))
                entry["share"] = {other: share(values, top, floor) for other, floor in floors.items() if other != name}
                entry["efficiency"] = (
                    None if None in measured else float(np.mean([x for x in measured if x is not None]))
                )
                found.append(entry)
    return found


def agreement(entries: list[dict[str, Any]]) -> tuple[int, int]:
    """Of pairs of methods on one task and size, how many both measures put in the same order."""
    same = pairs = 0
    for i, a in enumerate(entries):
        for b in entries[i + 1 :]:
            if any(a[key] != b[key] for key in ("m", "n", "task")) or None in (a["efficiency"], b["efficiency"]):
                continue
            pairs += 1
            same += (a["won"] - b["won"]) * (a["efficiency"] - b["efficiency"]) > 0
    return same, pairs


def render(entries: list[dict[str, Any]], results: Results, where: dict[str, Any]) -> str:
    """The section."""
    rows = []
    for entry in entries:
        decimals = results.decimals(entry["task"])
        there = entry["there_is"]
        shares = []
        for other in ("max_at_m", "grpo"):
            of = entry["share"].get(other)
            low_high = of and of["interval"]
            shares.append(
                f"{of['mean']:.2f}" + (f" [{low_high[0]:.2f}, {low_high[1]:.2f}]" if low_high else "") if of else ""
            )
        worth = "" if entry["efficiency"] is None else f"{entry['efficiency']:.2f}"
        size, won = f"{entry['m']}, {entry['n']}", f"{entry['won']:+.{decimals}f}"
        rows.append([size, entry["task"], show(there, decimals), entry["method"], won, *shares, worth])
    same, pairs = agreement(entries)
    seeds = sorted({seed for entry in entries for seed in entry["seeds"]})
    text = (
        "Best of N minus that of max@m for `psi_oracle`, which is what there is to win, and for each method, with its "
        "share of it, and the share of what the ceiling wins over GRPO (Fieller's intervals; left out where what there "
        "is to win is not separate from 0), beside the "
        "efficiency that `tea plan` measures on the base model's rewards before any training (none for methods that "
        f"remember). Of {pairs} pairs of methods with an efficiency, the two put {same} in the same order.\n\n"
    )
    header = ["m, N", "task", "there is", "method", "won", "share", "share over GRPO", "efficiency"]
    tail = f"\n\n`python -m benchmarks.training.ceiling`; seeds {', '.join(map(str, seeds))}; {describe(where)}"
    return text + table(header, rows) + tail


def main() -> None:
    """The command."""
    torch.set_num_threads(1)
    results = Results(read_rows()).blind()
    entries = measure(results)
    where = environment()
    write_json(RESULTS, {"environment": where, "samples": SAMPLES, "entries": as_json(entries)})
    replace_section(HERE / "README.md", "ceiling", "\n" + render(entries, results, where) + "\n")


if __name__ == "__main__":
    main()
