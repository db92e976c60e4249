"""Where nothing should separate what aims at the best of several: luck that cannot be learned, on what can.

The first token picks one of four dice, of which each kind of prompt has its own best; the rest of the completion is the
throw, Gaussian by a hash of all tokens. The die moves a prompt's whole distribution, so that one response and the best
of any N want the same one. No method and no default was chosen on it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.training.task import NUM_HELD_OUT, Task

KINDS, DICE, FACES, LENGTH, DIGITS = 8, 4, 6, 6, 32
GAMES = 256
BONUS = torch.tensor([0.0, 1.0, 2.0, 3.0])  # in standard deviations of a throw
LIKED = torch.tensor([0.4, 0.3, 0.2, 0.1])  # by the base model: the best die least
TABLE = 1 << 16


class Dice(Task):
    """Tokens: 0 .. 3 dice, then faces, then kinds, then digits of the game's number."""

    name = "dice"
    reward_kind = "Gaussian, shifted"
    vocab_size = DICE + FACES + KINDS + DIGITS
    completion_length = LENGTH

    def setup(self) -> None:
        games = GAMES + NUM_HELD_OUT
        self.kind = self.randint(KINDS, games)
        self.bonus = self.permuted_rows(BONUS, KINDS)
        self.throws = torch.randn(TABLE, generator=self.generator)
        self.factors = 2 * self.randint(TABLE, LENGTH + 1) + 1
        self.tokens = self.numbered(DICE + FACES + self.kind, DIGITS, DICE + FACES + KINDS)

    def reward(self, index: Tensor, completions: Tensor) -> Tensor:
        mixed = (torch.cat((index[:, None], completions), dim=1) + 1) * self.factors
        hashed = mixed[:, 0]
        for column in mixed[:, 1:].unbind(1):
            hashed = (hashed * 31 + column) % (TABLE * 257)
        throw = self.throws[hashed % TABLE]
        die = completions[:, 0]
        bonus = self.bonus[self.kind[index], die.clamp(max=DICE - 1)]
        return throw + torch.where(die < DICE, bonus, 0.0)

    def corpus(self, index: Tensor) -> Tensor:
        """The worse a die the likelier, and any faces."""
        worst_first = self.bonus[self.kind[index]].long()
        die = self.categorical(LIKED[worst_first])
        faces = DICE + self.randint(FACES, len(index), LENGTH - 1)
        return torch.cat((die[:, None], faces), dim=1)
