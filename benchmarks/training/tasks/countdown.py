"""0/1, verifiable arithmetic: combine four numbers with +, - and * from left to right into a target.

The base model prefers additions and larger numbers first, whatever the target: too sure of one kind of solution.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.training.task import NUM_HELD_OUT, Task

NUMBERS, LARGEST, LOWEST_TARGET, HIGHEST_TARGET = 4, 9, 0, 60
PLUS, MINUS, TIMES = 10, 11, 12
PROBLEMS = 512
OPERATORS = torch.tensor([0.8, 0.12, 0.08])  # +, -, *
LARGER_FIRST = 0.7


def evaluate(numbers: Tensor, operators: Tensor) -> Tensor:
    """(B, 4) numbers and (B, 3) operators, from left to right."""
    value = numbers[:, 0]
    for i in range(NUMBERS - 1):
        right, operator = numbers[:, i + 1], operators[:, i]
        value = torch.where(
            operator == PLUS, value + right, torch.where(operator == MINUS, value - right, value * right)
        )
    return value


class Countdown(Task):
    """Tokens: 1 .. 9 numbers, 10 .. 12 operators, then targets."""

    name = "countdown"
    reward_kind = "0/1"
    version = 2
    vocab_size = 13 + HIGHEST_TARGET - LOWEST_TARGET + 1
    completion_length = 2 * NUMBERS - 1
    pretraining_steps = 600

    def setup(self) -> None:
        needed = PROBLEMS + NUM_HELD_OUT
        numbers = 1 + self.randint(LARGEST, 16 * needed, NUMBERS)
        operators = PLUS + self.randint(3, 16 * needed, NUMBERS - 1)
        target = evaluate(numbers, operators)
        # In another order than that of the solution.
        problems = torch.cat((numbers.sort(dim=1).values, target[:, None]), dim=1)
        problems = problems[(target >= LOWEST_TARGET) & (target <= HIGHEST_TARGET)]
        # No problem twice, or some that are held out would be trained on.
        problems = problems.unique(dim=0)
        problems = problems[torch.randperm(len(problems), generator=self.generator)[:needed]]
        self.numbers, self.target = problems[:, :NUMBERS], problems[:, NUMBERS]
        self.tokens = torch.cat((self.numbers, 13 + self.target[:, None] - LOWEST_TARGET), dim=1)

    def reward(self, index: Tensor, completions: Tensor) -> Tensor:
        numbers, operators = completions[:, 0::2], completions[:, 1::2]
        right = (numbers.sort(dim=1).values == self.numbers[index]).all(1)
        right &= ((operators >= PLUS) & (operators <= TIMES)).all(1)
        return (right & (evaluate(numbers, operators) == self.target[index])).float()

    def corpus(self, index: Tensor) -> Tensor:
        """Well-formed expressions, whatever their value."""
        noise = torch.randn(len(index), NUMBERS, generator=self.generator)
        order = (noise - LARGER_FIRST * torch.arange(NUMBERS)).argsort(1)
        completions = torch.empty(len(index), self.completion_length, dtype=torch.long)
        completions[:, 0::2] = self.numbers[index].gather(1, order)
        completions[:, 1::2] = PLUS + self.categorical(OPERATORS.expand(len(index), NUMBERS - 1, 3))
        return completions
