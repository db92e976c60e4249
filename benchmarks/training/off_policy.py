"""What iterations on the same rollouts cost, and what weighing subsets by importance ratios gives back.

    python -m benchmarks.training.off_policy   # minutes on one core; results/off_policy.json and docs/estimators.md

max@4 on one task at 1, 2, 4 and 8 gradient steps per batch of rollouts (PPO's clipping at 0.2 in all), as it comes and
with :func:`tea.max_at_k_off_policy_advantages` from the second step on, its sequence ratios bounded to [1/2, 2]. The
learning rate is that of max@4 with one step, divided by the number of steps: as much movement for each batch.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import tea
from benchmarks.record import describe, environment, replace_section, table, write_json
from benchmarks.training.loop import Member, Settings, run_stack
from benchmarks.training.report.intervals import paired
from benchmarks.training.run import PROMPTS, M
from benchmarks.training.task import tasks
from tea.estimators import normalize_advantages
from tea.estimators.group import STD_EPSILON

RESULTS = Path(__file__).resolve().parent / "results" / "off_policy.json"
PAGE = Path(__file__).resolve().parents[2] / "docs" / "estimators.md"
TASK, UPDATES, K, BOUND, LEARNING_RATE = "survey", 40, 4, 2.0, 1e-3
ITERATIONS = (1, 2, 4, 8)
SEEDS = (1, 2, 3)


class MaxAtK:
    """max@4 as the trainer gives it; :meth:`off_policy` is what the loop calls from the second step on."""

    def __call__(self, rewards: Tensor, index: Tensor) -> Tensor:
        return normalize_advantages(tea.max_at_k_advantages(rewards, K, scale="group"))


class Corrected(MaxAtK):
    """The same, for the policy as it is after the first steps."""

    def off_policy(self, rewards: Tensor, ratios: Tensor) -> Tensor:
        """(P, m) advantages, without a rollout's own ratio, by which the loss multiplies."""
        bounded = ratios.clamp(1.0 / BOUND, BOUND)
        raw = tea.max_at_k_off_policy_advantages(rewards, bounded, K, own_ratio=False, center=True)
        return normalize_advantages(raw / (rewards.std(1, keepdim=True) + STD_EPSILON))


def render(result: dict[str, Any]) -> str:
    found = {(r["iterations"], r["corrected"], r["seed"]): r["curve"] for r in result["rows"]}
    rows = []
    for iterations in ITERATIONS:
        kinds = [corrected for corrected in (False, True) if (iterations, corrected, SEEDS[0]) in found]
        values = [{seed: found[iterations, kind, seed]["128"] for seed in SEEDS} for kind in kinds]
        cells = [f"{np.mean([*v.values()]):.3f}" for v in values]
        gap = "" if len(values) < 2 else paired(values[1], values[0]).text(3)
        rows.append([str(iterations), *cells, *[""] * (2 - len(cells)), gap])
    header = ["steps per batch", "max@4", "corrected", "corrected minus plain"]
    return table(header, rows) + (
        f"\n\nBest of 128 on {TASK}, {len(SEEDS)} seeds, {UPDATES} updates; ± half of the 95 % interval, paired. "
        f"{describe(result['environment'])}"
    )


def main() -> None:
    torch.set_num_threads(1)
    rows = []
    for seed in SEEDS:
        for iterations in ITERATIONS:
            for corrected in (False, True) if iterations > 1 else (False,):
                settings = Settings(M, PROMPTS, UPDATES, LEARNING_RATE / iterations, num_iterations=iterations)
                member = Member(Corrected() if corrected else MaxAtK(), settings)
                found = run_stack(tasks()[TASK], [member], seed)[0]
                rows.append({"iterations": iterations, "corrected": corrected, "seed": seed, "curve": found["curve"]})
                print(json.dumps(rows[-1]), flush=True)
    result = {"environment": environment(), "rows": rows}
    write_json(RESULTS, result)
    replace_section(PAGE, "off_policy", "\n" + render(result) + "\n")


if __name__ == "__main__":
    main()
