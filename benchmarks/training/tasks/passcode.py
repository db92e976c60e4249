"""0/1, low success: guess four digits whose likely values the prompt hints at; 1 for all right, else 0.

The hint is about the distribution of the code, not the code. pass@1 wants the likeliest code every time, pass@N as many
codes as N guesses can cover. The base model is too sure of itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.training.task import NUM_HELD_OUT, Task

KINDS, OPTIONS, LENGTH, DIGITS = 8, 4, 6, 32
USERS = 256
CODES = torch.tensor([0.6, 0.2, 0.15, 0.05])
SHARPNESS = 3.0


class Passcode(Task):
    """Tokens: 0 .. 3 options, then kinds, then digits of the safe's number."""

    name = "passcode"
    reward_kind = "0/1"
    vocab_size = OPTIONS + KINDS + DIGITS
    completion_length = LENGTH

    def setup(self) -> None:
        safes = USERS + NUM_HELD_OUT
        self.kind = self.randint(KINDS, safes)
        self.habits = self.permuted_rows(CODES, KINDS, LENGTH)
        self.code = self.categorical(self.habits[self.kind])
        self.tokens = self.numbered(OPTIONS + self.kind, DIGITS, OPTIONS + KINDS)

    def reward(self, index: Tensor, completions: Tensor) -> Tensor:
        return (completions == self.code[index]).all(1).float()

    def corpus(self, index: Tensor) -> Tensor:
        """Codes of other safes of that kind, the likely ones more often than they are."""
        return self.categorical(self.habits[self.kind[index]] ** SHARPNESS)
