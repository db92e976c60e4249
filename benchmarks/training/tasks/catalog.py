"""Where GRPO should win: deployed with one sample, a reward with a ceiling, and nothing hidden.

The prompt's kind has one right entry of eight fields; the reward is the share of fields that are right, at most 1. Once
some response in the group is perfect, what aims at the best of several has nothing left to learn, and one sample still
has. No method and no default was chosen on it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.training.task import NUM_HELD_OUT, Task

KINDS, OPTIONS, FIELDS, DIGITS = 8, 4, 8, 32
ITEMS = 256
RIGHT = 0.7


class Catalog(Task):
    """Tokens: 0 .. 3 options, then kinds, then digits of the item's number."""

    name = "catalog"
    reward_kind = "bounded, one sample deployed"
    vocab_size = OPTIONS + KINDS + DIGITS
    completion_length = FIELDS

    def setup(self) -> None:
        items = ITEMS + NUM_HELD_OUT
        self.kind = self.randint(KINDS, items)
        self.entry = self.randint(OPTIONS, KINDS, FIELDS)
        self.tokens = self.numbered(OPTIONS + self.kind, DIGITS, OPTIONS + KINDS)

    def reward(self, index: Tensor, completions: Tensor) -> Tensor:
        return (completions == self.entry[self.kind[index]]).float().mean(1)

    def corpus(self, index: Tensor) -> Tensor:
        """Each field right with probability 0.7, else any."""
        right = torch.rand(len(index), FIELDS, generator=self.generator) < RIGHT
        return torch.where(right, self.entry[self.kind[index]], self.randint(OPTIONS, len(index), FIELDS))
