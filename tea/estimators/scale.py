"""The scale of the advantages, from the run instead of from the batch.

Where a prompt is solved already, the gradient of best-of-N is nearly zero, and rightly so. Dividing a batch of such
prompts by its own root mean square would make a full step of it, towards whatever answer is frequent already.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor


class RunningScale:
    """Divides advantages by the largest root mean square that they have had, averaged over recent batches.

    The mean square is an exponential average over batches, corrected for its start as Adam's is. The scale is the
    square root of its largest value so far: it grows with the advantages and never shrinks with them, so that steps
    get smaller as there is less to gain, and a batch without a signal stays one.

    Args:
        decay: Weight of the past per batch in the average, in [0, 1). 0: the scale is that of the largest batch.

    Raises:
        ValueError: If ``decay`` is out of range.
    """

    def __init__(self, decay: float = 0.9) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be in [0, 1), got {decay}")
        self.decay = decay
        self._sum = torch.zeros(())  # of the batches' mean squares, weighted
        self._weight = torch.zeros(())
        self._peak = torch.zeros(())  # the largest average

    def update(self, advantages: Tensor, valid: Tensor) -> None:
        """Take a batch into the average.

        Args:
            advantages: Float, any shape, 0 where not valid. The same on all processes.
            valid: Bool, the same shape: the entries that count. A batch without any changes nothing.
        """
        device = advantages.device
        square = advantages.float().pow(2).sum() / valid.sum().clamp(min=1)
        new = (1 - self.decay) * valid.any().float()
        self._sum = (1 - new) * self._sum.to(device) + new * square
        self._weight = (1 - new) * self._weight.to(device) + new
        tiny = torch.finfo(torch.float32).tiny
        self._peak = torch.maximum(self._peak.to(device), self._sum / self._weight.clamp(min=tiny))

    def scale(self, device: torch.device) -> Tensor:
        """What advantages are divided by: a float32 scalar, 1 as long as all that was seen is zero."""
        scale = self._peak.to(device).sqrt()
        return torch.where(scale > 0, scale, 1.0)

    def state_dict(self) -> dict[str, Any]:
        """Three float32 scalars."""
        return {"sum": self._sum.cpu(), "weight": self._weight.cpu(), "peak": self._peak.cpu()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state_dict()``."""
        self._sum, self._weight, self._peak = state["sum"], state["weight"], state["peak"]
