"""Steps of the optimizer as large as what there is to gain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class StepSize(TrainerCallback):
    """Multiplies the learning rate of every step by the size of its batch's advantages, at most 1.

    An adaptive optimizer does not do so by itself: Adam divides by the root mean square of recent gradients, so that
    rare gradients make steps as large as frequent ones do, and where a batch has none it goes on by momentum.

    Attributes:
        factor: Of the steps on the current rollouts, in [0, 1].
    """

    def __init__(self) -> None:
        self.factor = 1.0
        self._rates: list[Any] = []

    def measure(self, advantages: Tensor, valid: Tensor) -> None:
        """Set the factor: the root mean square of advantages (P, m) where valid (P, m), 1 where that is more."""
        square = advantages.float().pow(2).sum() / valid.sum().clamp(min=1)
        self.factor = min(float(torch.sqrt(square)), 1.0)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Lower the rates for one step."""
        groups = kwargs["optimizer"].param_groups
        self._rates = [group["lr"] for group in groups]
        for group in groups:
            group["lr"] = group["lr"] * self.factor

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Restore them: the schedule and the log are of the rates as configured."""
        for group, rate in zip(kwargs["optimizer"].param_groups, self._rates, strict=True):
            group["lr"] = rate

    def state_dict(self) -> dict[str, Any]:
        """See `tea.trainers.extra_state`: a run may resume between steps on the same rollouts."""
        return {"factor": self.factor}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `tea.trainers.extra_state`."""
        self.factor = state["factor"]
