"""Refusing rewards that are none, and stopping a run that learns nothing."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tea.trainers.errors import UserError


class NoUsableReward(UserError):
    """The rewards have told no rollout from another for so long that going on is a waste."""


class UsableRewards:
    """Warns at the first batch without a usable reward, and stops the run after some of them in a row.

    A reward is usable if another rollout of its group has a different one.

    Args:
        limit: Number of batches in a row; 0: never stop.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._in_a_row = 0
        self._warned = False

    def check(self, rewards: Tensor) -> None:
        """Count a batch of rewards (P, m), the same on all processes; NaN where there is none.

        Raises:
            NoUsableReward: When there have been `limit` batches in a row without a usable reward.
        """
        high = rewards.nan_to_num(-torch.inf).amax(dim=1)
        low = rewards.nan_to_num(torch.inf).amin(dim=1)
        if (high > low).any():
            self._in_a_row = 0
            return
        self._in_a_row += 1
        values = rewards[~rewards.isnan()].unique()
        if len(values) == 0:
            what = "every reward is missing (None or NaN)"
        elif len(values) == 1:
            what = f"every reward is {values.item():g}"
        else:
            what = "in every group all rewards are equal"
        if not self._warned:
            self._warned = True
            ending = (
                f"the run stops after {self.limit} such batches in a row" if self.limit else "there is no limit set"
            )
            warnings.warn(f"nothing can be learnt from this batch: {what}; {ending}", stacklevel=3)
        if self.limit and self._in_a_row >= self.limit:
            raise NoUsableReward(
                f"nothing could be learnt from the last {self._in_a_row} batches: {what}. Look at the completions "
                "(log_completions: true) and at what the reward gives them; prompts may be too hard or too easy for "
                "this model, or completions cut off (max_completion_length). max_unusable_batches sets the limit"
            )

    def state_dict(self) -> dict[str, Any]:
        """See `tea.trainers.extra_state`."""
        return {"in_a_row": self._in_a_row, "warned": self._warned}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `tea.trainers.extra_state`."""
        self._in_a_row, self._warned = state["in_a_row"], state["warned"]
