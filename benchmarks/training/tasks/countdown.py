"""0/1, verifiable arithmetic: combine four numbers with +, - and * from left to right into a target."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.training.task import NUM_HELD_OUT, Task

NUMBERS, LARGEST, LOWEST_TARGET, HIGHEST_TARGET = 4, 9, 0, 60
PLUS, MINUS, TIMES = 10, 11, 12
PROBLEMS = 512


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
    vocab_size = 13 + HIGHEST_TARGET - LOWEST_TARGET + 1
    completion_length = 2 * NUMBERS - 1
    pretraining_steps = 600

    def setup(self) -> None:
        needed = PROBLEMS + NUM_HELD_OUT
        numbers = 1 + self.randint(LARGEST, 16 * needed, NUMBERS)
        operators = PLUS + self.randint(3, 16 * needed, NUMBERS - 1)
        target = evaluate(numbers, operators)
        kept = ((target >= LOWEST_TARGET) & (target <= HIGHEST_TARGET)).nonzero()[:needed, 0]
        # In another order than that of the solution.
        self.numbers = numbers[kept].sort(dim=1).values
        self.target = target[kept]
        self.tokens = torch.cat((self.numbers, 13 + self.target[:, None] - LOWEST_TARGET), dim=1)

    def reward(self, index: Tensor, completions: Tensor) -> Tensor:
        numbers, operators = completions[:, 0::2], completions[:, 1::2]
        right = (numbers.sort(dim=1).values == self.numbers[index]).all(1)
        right &= ((operators >= PLUS) & (operators <= TIMES)).all(1)
        return (right & (evaluate(numbers, operators) == self.target[index])).float()

    def corpus(self, index: Tensor) -> Tensor:
        """Well-formed expressions, whatever their value; half of them may use a number twice and another not at all."""
        order = torch.rand(len(index), NUMBERS, generator=self.generator).argsort(1)
        careless = torch.rand(len(index), 1, generator=self.generator) < 0.5
        order = torch.where(careless, self.randint(NUMBERS, len(index), NUMBERS), order)
        completions = torch.empty(len(index), self.completion_length, dtype=torch.long)
        completions[:, 0::2] = self.numbers[index].gather(1, order)
        completions[:, 1::2] = PLUS + self.randint(3, len(index), NUMBERS - 1)
        return completions
