"""What ``advantage_estimator="auto"`` has to know of a run before it starts: whether prompts come back."""

from __future__ import annotations

from collections.abc import Sized
from typing import Any

from trl import GRPOConfig

from tea.estimators.auto import FEW_ROLLOUTS


def visits_per_prompt(args: GRPOConfig, dataset: Any) -> float:
    """How often a run visits a row of the dataset on average; 1 where the dataset does not know its length."""
    if not isinstance(dataset, Sized) or len(dataset) == 0:
        return 1.0
    if args.max_steps <= 0:
        return float(args.num_train_epochs)
    completions = args.max_steps * args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    return completions / (args.num_generations * args.num_iterations) / len(dataset)


def memory_for_auto(args: GRPOConfig, dataset: Any, target_n: float) -> int:
    """Past rewards of a prompt for "auto" to remember if prompts come back.

    What makes N with the group, in small groups; in larger ones as many as the group has.
    """
    beyond = max(int(target_n) - args.num_generations, 0)
    if visits_per_prompt(args, dataset) < 2.0:
        return 0
    return beyond if args.num_generations <= FEW_ROLLOUTS else min(args.num_generations, beyond)
