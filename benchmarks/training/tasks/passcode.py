"""Rare successes beside partial credit: guess a code from a hint; 1 if right, 0.4 for passing, 0 for a wrong guess.

The hint is about the distribution of the code, not the code. One response had better pass, N had better guess as many
codes as they can cover. The base model passes two times in five and is too sure of its guesses.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.training.task import NUM_HELD_OUT, Task

KINDS, OPTIONS, LENGTH, DIGITS = 8, 4, 4, 32
PASS, CREDIT, PASSES = OPTIONS, 0.4, 0.4
SAFES = 896
CODES = torch.tensor([0.5, 0.25, 0.15, 0.1])
SHARPNESS = 2.5


class Passcode(Task):
    """Tokens: 0 .. 3 options, 4 to pass, then kinds, then digits of the safe's number."""

    name = "passcode"
    reward_kind = "0, 0.4 or 1"
    version = 2
    vocab_size = OPTIONS + 1 + KINDS + DIGITS
    completion_length = LENGTH

    def setup(self) -> None:
        safes = SAFES + NUM_HELD_OUT
        self.kind = self.randint(KINDS, safes)
        self.habits = self.permuted_rows(CODES, KINDS, LENGTH)
        self.code = self.categorical(self.habits[self.kind])
        self.tokens = self.numbered(OPTIONS + 1 + self.kind, DIGITS, OPTIONS + 1 + KINDS)

    def reward(self, index: Tensor, completions: Tensor) -> Tensor:
        right = (completions == self.code[index]).all(1).float()
        return torch.where(completions[:, 0] == PASS, CREDIT, right)

    def corpus(self, index: Tensor) -> Tensor:
        """Codes of other safes of that kind, the likely ones more often than they are; or passes."""
        codes = self.categorical(self.habits[self.kind[index]] ** SHARPNESS)
        passes = torch.rand(len(index), 1, generator=self.generator) < PASSES
        return torch.where(passes, PASS, codes)
