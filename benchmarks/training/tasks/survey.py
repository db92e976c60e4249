"""Bounded, with ties: guess a user's ten answers from the kind of user; the reward is the share that is right.

The prompt shows the kind of user and who it is; what kind of user gives which answers can be learned, what this user
answers can not. Best-of-1 wants the likeliest answers, best-of-N a spread around them: the larger N, the wider. The
base model is too sure of itself, as instruction-tuned models are.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.training.task import NUM_HELD_OUT, Task

KINDS, OPTIONS, QUESTIONS, DIGITS = 8, 4, 10, 32
USERS = 256
ANSWERS = torch.tensor([0.55, 0.25, 0.15, 0.05])
SHARPNESS = 4.0


class Survey(Task):
    """Tokens: 0 .. 3 options, then kinds, then digits of the user's number."""

    name = "survey"
    reward_kind = "bounded, tied"
    vocab_size = OPTIONS + KINDS + DIGITS
    completion_length = QUESTIONS

    def setup(self) -> None:
        users = USERS + NUM_HELD_OUT
        self.kind = self.randint(KINDS, users)
        self.population = self.permuted_rows(ANSWERS, KINDS, QUESTIONS)
        self.answers = self.categorical(self.population[self.kind])
        self.tokens = self.numbered(OPTIONS + self.kind, DIGITS, OPTIONS + KINDS)

    def reward(self, index: Tensor, completions: Tensor) -> Tensor:
        return (completions == self.answers[index]).float().mean(1)

    def corpus(self, index: Tensor) -> Tensor:
        """What others of that kind answer, the likely answers more often than they do."""
        return self.categorical(self.population[self.kind[index]] ** SHARPNESS)
