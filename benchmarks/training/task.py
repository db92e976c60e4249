"""What a training task is: prompts, a reward, a gold reward, and what the base model imitates."""

from __future__ import annotations

import importlib
import pkgutil
from abc import ABC, abstractmethod
from functools import lru_cache
from typing import ClassVar

import torch
from torch import Tensor

NUM_HELD_OUT = 64


class Task(ABC):
    """A task is one file in ``tasks/`` with one subclass; it is found by being there.

    A prompt is a row of tokens and an index into the task's own tables, which may hold what the prompt does not show.
    Completions have a fixed length. Everything is a function of ``seed``: tables, prompts, corpus.

    Attributes:
        name: As on the command line.
        reward_kind: What the distribution of rewards looks like, in a few words.
        vocab_size: Number of tokens, prompts and completions together.
        version: Raised whenever an edit changes what a run gives; rows of another version are left out.
        completion_length: Tokens in a completion.
        updates: Policy updates of a full run.
        tokens: (num_prompts, prompt_length) int64; the last ``NUM_HELD_OUT`` rows are for evaluation only.
    """

    name: ClassVar[str]
    reward_kind: ClassVar[str]
    version: ClassVar[int] = 1
    vocab_size: ClassVar[int]
    completion_length: ClassVar[int]
    updates: ClassVar[int] = 100
    pretraining_steps: ClassVar[int] = 300
    pretraining_learning_rate: ClassVar[float] = 3e-3
    tokens: Tensor

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.generator = torch.Generator().manual_seed(seed + 1000 * sum(map(ord, self.name)))
        self.setup()

    @abstractmethod
    def setup(self) -> None:
        """Draw the tables and ``tokens``, with ``self.generator``."""

    @abstractmethod
    def reward(self, index: Tensor, completions: Tensor) -> Tensor:
        """What training sees and deployment selects by: (B,) float32 of prompts (B,) and completions (B, T)."""

    def gold(self, index: Tensor, completions: Tensor) -> Tensor:
        """What is really wanted, where the reward is but a model of it."""
        return self.reward(index, completions)

    @abstractmethod
    def corpus(self, index: Tensor) -> Tensor:
        """Completions (B, T) of prompts (B,) for the base model to imitate, drawn with ``self.generator``."""

    @property
    def num_train(self) -> int:
        """Number of prompts to train on: the first rows of ``tokens``."""
        return len(self.tokens) - NUM_HELD_OUT

    @staticmethod
    def numbered(kind: Tensor, digits: int, first: int) -> Tensor:
        """Prompts (n, 3) of a kind (n,), already a token, and the prompt's own number, two digits from ``first`` on."""
        number = torch.arange(len(kind))
        return torch.stack((kind, first + number // digits % digits, first + number % digits), dim=1)

    def randint(self, high: int, *shape: int) -> Tensor:
        """Uniform integers in [0, high)."""
        return torch.randint(high, shape, generator=self.generator)

    def categorical(self, probabilities: Tensor) -> Tensor:
        """One draw per row: (..., K) probabilities to (...)."""
        flat = probabilities.reshape(-1, probabilities.shape[-1])
        drawn = torch.multinomial(flat, 1, generator=self.generator)
        return drawn.view(probabilities.shape[:-1])

    def permuted_rows(self, row: Tensor, *shape: int) -> Tensor:
        """(*shape, K): ``row`` (K,) in random orders."""
        order = torch.rand(*shape, len(row), generator=self.generator).argsort(-1)
        return row[order]


@lru_cache(maxsize=1)
def tasks() -> dict[str, type[Task]]:
    """Every task in ``tasks/``, by name."""
    from benchmarks.training import tasks as package

    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"{package.__name__}.{module.name}")
    return {task.name: task for task in sorted(Task.__subclasses__(), key=lambda task: task.name)}
