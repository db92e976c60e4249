"""Continuous, a learned reward model with a hidden gold reward: six ingredients for an occasion.

Gold: how well each ingredient suits the occasion, how pairs go together, less for repeats. The reward model is a small
network fitted to preferences between pairs of blends that the gold rule has judged (Bradley-Terry).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.training.task import Task

OCCASIONS, INGREDIENTS, SLOTS = 24, 24, 6
TOGETHER = 1.5  # against how well an ingredient suits
PAIRS, HIDDEN, STEPS, BATCH = 16384, 96, 800, 256


class Blend(Task):
    """Tokens: ingredients, then occasions. A prompt is two occasions at once."""

    name = "blend"
    reward_kind = "learned reward model"
    vocab_size = INGREDIENTS + OCCASIONS
    completion_length = SLOTS
    updates = 150

    def setup(self) -> None:
        pairs = torch.combinations(torch.arange(OCCASIONS), 2)
        self.tokens = INGREDIENTS + pairs[torch.rand(len(pairs), generator=self.generator).argsort()]
        self.suits = torch.randn(OCCASIONS, INGREDIENTS, generator=self.generator)
        together = torch.randn(INGREDIENTS, INGREDIENTS, generator=self.generator)
        self.together = (together + together.T) / 2
        self.together.fill_diagonal_(-3.0)
        self.network = self._fit_reward_model()

    def _suits(self, index: Tensor) -> Tensor:
        return self.suits[self.tokens[index] - INGREDIENTS].mean(1)

    def _counts(self, completions: Tensor) -> Tensor:
        return functional.one_hot(completions, self.vocab_size)[..., :INGREDIENTS].sum(1).float()

    def gold(self, index: Tensor, completions: Tensor) -> Tensor:
        counts = self._counts(completions)
        pairs = torch.einsum("bi,ij,bj->b", counts, self.together, counts)
        pairs = pairs - counts @ self.together.diagonal()
        return (counts * self._suits(index)).sum(1) + TOGETHER * pairs - (SLOTS - counts.sum(1))

    def _features(self, index: Tensor, completions: Tensor) -> Tensor:
        occasions = functional.one_hot(self.tokens[index] - INGREDIENTS, OCCASIONS).sum(1).float()
        return torch.cat((occasions, self._counts(completions)), dim=1)

    def _fit_reward_model(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = nn.Sequential(
                nn.Linear(OCCASIONS + INGREDIENTS, HIDDEN),
                nn.GELU(),
                nn.Linear(HIDDEN, HIDDEN),
                nn.GELU(),
                nn.Linear(HIDDEN, 1),
            )
            index = self.randint(self.num_train, PAIRS)
            first, second = self.corpus(index), self.corpus(index)
            better = self.gold(index, first) > self.gold(index, second)
            first, second = self._features(index, first), self._features(index, second)
            chosen, rejected = torch.where(better[:, None], first, second), torch.where(better[:, None], second, first)
            optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3, weight_decay=0.1)
            for _ in range(STEPS):
                rows = self.randint(PAIRS, BATCH)
                margin = network(chosen[rows]) - network(rejected[rows])
                optimizer.zero_grad()
                functional.softplus(-margin).mean().backward()
                optimizer.step()
        return network.requires_grad_(False)

    def reward(self, index: Tensor, completions: Tensor) -> Tensor:
        return self.network(self._features(index, completions)).squeeze(1)

    def corpus(self, index: Tensor) -> Tensor:
        """Ingredients as likely as exp(how well they suit)."""
        likely = self._suits(index).softmax(1)
        return torch.multinomial(likely, SLOTS, replacement=True, generator=self.generator)
