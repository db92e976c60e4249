"""What iterations on the same rollouts cost, and what weighing subsets by importance ratios gives back.

    python -m benchmarks.training.off_policy   # minutes on one core; results/off_policy.json and docs/estimators.md

max@4 on one task at 1, 2, 4 and 8 gradient steps per batch of rollouts (PPO's clipping at 0.2 in all), as it comes and
as the trainer's `off_policy_correction` does it: :func:`tea.max_at_k_off_policy_advantages` from the second step on,
the ratios of whole completions clipped to [1/2, 2]. The formulas and scales are the trainer's, the loop is the suite's
(benchmarks/training/loop.py). The learning rate is that of max@4 with one step, divided by the number of steps (as much
movement for each batch), and, in the last row of the table, not divided: where the policy moves far from its samples.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import tea
from benchmarks.record import describe, environment, replace_section, table, write_json
from benchmarks.training.loop import Member, Settings, run_stack
from benchmarks.training.methods import scaled
from benchmarks.training.report.intervals import paired
from benchmarks.training.run import PROMPTS, M
from benchmarks.training.task import tasks
from tea.estimators.scale import RunningScale

RESULTS = Path(__file__).resolve().parent / "results" / "off_policy.json"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "estimators.md"
TASK, UPDATES, K, CLIP, LEARNING_RATE = "survey", 40, 4, 2.0, 1e-3
# Is the learning rate divided by the number of steps per batch? And how many are they?
CELLS = ((True, 1), (True, 2), (True, 4), (True, 8), (False, 8))
SEEDS = (1, 2, 3)


class MaxAtK:
    """max@4 with the trainer's defaults; :meth:`off_policy` is what the loop calls from the second step on."""

    def __init__(self) -> None:
        self.scale = RunningScale()

    def __call__(self, rewards: Tensor, index: Tensor) -> Tensor:
        return scaled(tea.max_at_k_advantages(rewards, K), self.scale)


class Corrected(MaxAtK):
    """The same, for the policy as it is after the first steps."""

    def off_policy(self, rewards: Tensor, ratios: Tensor) -> Tensor:
        """(P, m) advantages, without a rollout's own ratio, by which the loss multiplies."""
        clipped = ratios.clamp(1.0 / CLIP, CLIP)
        advantages = tea.max_at_k_off_policy_advantages(rewards, clipped, K, own_ratio=False, center=True)
        return advantages / self.scale.scale(rewards.device)


def rate_of(divided: bool, iterations: int) -> float:
    return LEARNING_RATE / iterations if divided else LEARNING_RATE


def render(result: dict[str, Any]) -> str:
    found = {(r["divided"], r["iterations"], r["corrected"], r["seed"]): r["curve"] for r in result["rows"]}
    rows = []
    for divided, iterations in CELLS:
        kinds = [corrected for corrected in (False, True) if (divided, iterations, corrected, SEEDS[0]) in found]
        values = [{seed: found[divided, iterations, kind, seed]["128"] for seed in SEEDS} for kind in kinds]
        cells = [f"{np.mean([*v.values()]):.3f}" for v in values]
        gap = "" if len(values) < 2 else paired(values[1], values[0]).text(3)
        rows.append([str(iterations), f"{rate_of(divided, iterations):.3g}", *cells, *[""] * (2 - len(cells)), gap])
    header = ["steps per batch", "learning rate", "max@4", "corrected", "corrected minus plain"]
    return table(header, rows) + (
        f"\n\nBest of 128 on {TASK}, {len(SEEDS)} seeds, {UPDATES} updates; ± half of the 95 % interval, paired. "
        f"{describe(result['environment'])}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for seed in SEEDS:
        for iterations in dict.fromkeys(
            iterations for _, iterations in CELLS
        ):  # runs of one stack differ in no other way
            cells = [
                (divided, corrected)
                for divided, steps in CELLS
                for corrected in ((False, True) if iterations > 1 else (False,))
                if steps == iterations
            ]
            members = [
                Member(
                    Corrected() if corrected else MaxAtK(),
                    Settings(M, PROMPTS, UPDATES, rate_of(divided, iterations), num_iterations=iterations),
                )
                for divided, corrected in cells
            ]
            for (divided, corrected), found in zip(cells, run_stack(tasks()[TASK], members, seed), strict=True):
                cell = {"divided": divided, "iterations": iterations, "corrected": corrected, "seed": seed}
                rows.append({**cell, "curve": found["curve"]})
                print(json.dumps(rows[-1]), flush=True)
    result = {"environment": environment(), "rows": rows}
    write_json(RESULTS, result)
    replace_section(PAGE, "off_policy", "\n" + render(result) + "\n")


if __name__ == "__main__":
    main()
