"""Several rewards as one, weighted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tea.rewards.base import RewardFunction, Text, reward_fingerprint, reward_source, score_completions


class WeightedReward:
    """The weighted sum of several rewards; missing where any of them is.

    In a trainer `reward_funcs` with `reward_weights` does the same and logs each of them. This is for where one reward
    is asked for, such as ``tea eval`` and best-of-N.

    Args:
        rewards: the rewards.
        weights: their weights; default: 1 each.
        name: name of the sum.

    Raises:
        ValueError: no rewards, or another number of weights.
    """

    def __init__(
        self,
        rewards: Sequence[RewardFunction],
        weights: Sequence[float] | None = None,
        *,
        name: str = "weighted_reward",
    ) -> None:
        if not rewards:
            raise ValueError("there are no rewards to add")
        self.rewards = list(rewards)
        self.weights = [1.0] * len(self.rewards) if weights is None else [float(weight) for weight in weights]
        if len(self.weights) != len(self.rewards):
            raise ValueError(f"there are {len(self.rewards)} rewards and {len(self.weights)} weights")
        parts = zip(self.weights, self.rewards, strict=True)
        self.source = " + ".join(f"{weight:g} * {reward_source(reward)}" for weight, reward in parts)
        self.__name__ = name

    @property
    def fingerprint(self) -> str:
        """Of all parts."""
        return "+".join(str(reward_fingerprint(reward)) for reward in self.rewards)

    def __call__(self, prompts: Sequence[Text], completions: Sequence[Text], **kwargs: Any) -> list[float | None]:
        """Score each completion; see :class:`tea.rewards.RewardFunction`."""
        columns = [score_completions(reward, prompts, completions, kwargs) for reward in self.rewards]
        totals: list[float | None] = []
        for row in zip(*columns, strict=True):
            present = [score for score in row if score is not None]
            complete = len(present) == len(row)
            totals.append(sum(w * s for w, s in zip(self.weights, present, strict=True)) if complete else None)
        return totals
