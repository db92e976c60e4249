"""Continuous, bounded above: visit seven towns on a grid once each and return; reward minus the length of the tour."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.training.task import NUM_HELD_OUT, Task

TOWNS, GRID = 7, 8
MAPS = 512
DETOUR = 4.0  # what a town that is left out costs


class Tour(Task):
    """Tokens: 0 .. 6 the first to the last town of the prompt, then the squares of the grid."""

    name = "tour"
    reward_kind = "continuous"
    vocab_size = TOWNS + GRID * GRID
    completion_length = TOWNS

    def setup(self) -> None:
        maps = MAPS + NUM_HELD_OUT
        squares = torch.rand(maps, GRID * GRID, generator=self.generator).argsort(1)[:, :TOWNS]
        self.tokens = TOWNS + squares
        self.places = torch.stack((squares // GRID, squares % GRID), dim=-1).float()
        self.distances = torch.cdist(self.places, self.places)

    def reward(self, index: Tensor, completions: Tensor) -> Tensor:
        stops = completions.clamp(max=TOWNS - 1)
        nexts = stops.roll(-1, dims=1)
        length = self.distances[index[:, None], stops, nexts].sum(1)
        visited = torch.zeros(len(index), self.vocab_size).scatter(1, completions, 1.0)[:, :TOWNS].sum(1)
        return -(length + DETOUR * (TOWNS - visited))

    def corpus(self, index: Tensor) -> Tensor:
        """Tours that go to a near town next, as likely as exp(-distance / 2)."""
        distances = self.distances[index]
        rows = torch.arange(len(index))
        here = self.randint(TOWNS, len(index))
        seen = torch.zeros(len(index), TOWNS, dtype=torch.bool)
        stops = [here]
        for _ in range(TOWNS - 1):
            seen[rows, here] = True
            likely = torch.exp(-distances[rows, here] / 2.0).masked_fill(seen, 0.0)
            here = self.categorical(likely)
            stops.append(here)
        return torch.stack(stops, dim=1)
