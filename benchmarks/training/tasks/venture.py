"""Heavy-tailed: eight decisions, each safe or a bet on one of three sectors; the reward is the wealth at the end.

Which sector wins at a stage depends on the year, which the prompt hides; how often each does, the market it shows. A
safe decision earns a little, a bet multiplies or halves: wealth is a product, its logarithm is near Gaussian.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.training.task import NUM_HELD_OUT, Task

MARKETS, SECTORS, STAGES, DIGITS = 8, 3, 8, 32
YEARS = 256
WINS = torch.tensor([0.5, 0.3, 0.2])
SAFE, WON, LOST = 1.3, 2.0, 0.5


class Venture(Task):
    """Tokens: 0 safe, 1 .. 3 sectors, then markets, then digits of the year."""

    name = "venture"
    reward_kind = "heavy-tailed"
    vocab_size = 1 + SECTORS + MARKETS + DIGITS
    completion_length = STAGES

    def setup(self) -> None:
        years = YEARS + NUM_HELD_OUT
        self.market = self.randint(MARKETS, years)
        self.odds = self.permuted_rows(WINS, MARKETS, STAGES)
        self.winner = 1 + self.categorical(self.odds[self.market])
        self.tokens = self.numbered(1 + SECTORS + self.market, DIGITS, 1 + SECTORS + MARKETS)

    def reward(self, index: Tensor, completions: Tensor) -> Tensor:
        bet = torch.where(completions == self.winner[index], WON, LOST)
        return torch.where(completions == 0, SAFE, bet).prod(1)

    def corpus(self, index: Tensor) -> Tensor:
        """Three in four safe, the rest bets on any sector."""
        bets = 1 + self.randint(SECTORS, len(index), STAGES)
        safe = torch.rand(bets.shape, generator=self.generator) < 0.75
        return torch.where(safe, 0, bets)
