"""Continuous, a learned reward model with a hidden gold reward: six ingredients for an occasion and a guest.

Gold: how well each ingredient suits the occasion and the guest, how pairs go together, less for repeats. Half of the
ingredients are plain, half are bold: those suit less, but some guests love them. The reward model is a small network
fitted to a judge's preferences between pairs of blends (Bradley-Terry with the gold rule's margin). It knows the
guest's taste, as a judge does; the policy sees the guest's number. The base model keeps to what suits the occasion.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.training.task import NUM_HELD_OUT, Task

OCCASIONS, INGREDIENTS, SLOTS, DIGITS = 8, 24, 6, 32
GUESTS = 256
TOGETHER, REPEAT = 0.5, -1.0
BOLD_COSTS, BOLD_TASTE, PLAIN_TASTE = 1.5, 2.5, 0.3
JUDGE = 2.0  # the margin in gold at which a judge is 73 % sure
PAIRS, HIDDEN, STEPS, BATCH = 16384, 96, 800, 256


class Blend(Task):
    """Tokens: ingredients, then occasions, then digits of the guest's number."""

    name = "blend"
    reward_kind = "learned reward model"
    version = 2
    vocab_size = INGREDIENTS + OCCASIONS + DIGITS
    completion_length = SLOTS

    def setup(self) -> None:
        guests = GUESTS + NUM_HELD_OUT
        self.occasion = self.randint(OCCASIONS, guests)
        self.tokens = self.numbered(INGREDIENTS + self.occasion, DIGITS, INGREDIENTS + OCCASIONS)
        bold = self.permuted_rows(torch.arange(INGREDIENTS) < INGREDIENTS // 2)
        self.suits = torch.randn(OCCASIONS, INGREDIENTS, generator=self.generator) - BOLD_COSTS * bold
        love = -torch.rand(guests, INGREDIENTS, generator=self.generator).log() - 1.0  # exponential, of mean 0
        self.taste = love * torch.where(bold, BOLD_TASTE, PLAIN_TASTE)
        together = torch.randn(INGREDIENTS, INGREDIENTS, generator=self.generator)
        self.together = TOGETHER * (together + together.T) / 2
        self.together.fill_diagonal_(REPEAT)
        self.network = self._fit_reward_model()

    def _counts(self, completions: Tensor) -> Tensor:
        return functional.one_hot(completions, self.vocab_size)[..., :INGREDIENTS].sum(1).float()

    def gold(self, index: Tensor, completions: Tensor) -> Tensor:
        counts = self._counts(completions)
        liked = self.suits[self.occasion[index]] + self.taste[index]
        pairs = torch.einsum("bi,ij,bj->b", counts, self.together, counts) - counts @ self.together.diagonal()
        return (counts * liked).sum(1) + pairs - (SLOTS - counts.sum(1))

    def _features(self, index: Tensor, completions: Tensor) -> Tensor:
        counts, taste = self._counts(completions), self.taste[index]
        occasion = functional.one_hot(self.occasion[index], OCCASIONS).float()
        return torch.cat((occasion, counts, counts * taste), dim=1)

    def _fit_reward_model(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = nn.Sequential(
                nn.Linear(OCCASIONS + 2 * INGREDIENTS, HIDDEN),
                nn.GELU(),
                nn.Linear(HIDDEN, HIDDEN),
                nn.GELU(),
                nn.Linear(HIDDEN, 1),
            )
            index = self.randint(self.num_train, PAIRS)
            first, second = self.corpus(index), self.corpus(index)
            margin = (self.gold(index, first) - self.gold(index, second)) / JUDGE
            better = torch.rand(PAIRS, generator=self.generator) < margin.sigmoid()
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
        """Ingredients as likely as exp(1.5 times how well they suit the occasion)."""
        likely = (1.5 * self.suits[self.occasion[index]]).softmax(1)
        return torch.multinomial(likely, SLOTS, replacement=True, generator=self.generator)
