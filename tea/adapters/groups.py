"""Flat rollouts with group ids, as RL frameworks hand them over, to one padded row per prompt and back."""

from __future__ import annotations

import reprlib
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

Singletons = Literal["error", "zero"]

_short = reprlib.Repr()
_short.maxstring = 60  # a UUID fits


class GroupLayout(NamedTuple):
    """Where each rollout stands in a (P, m) tensor with one row per group.

    Attributes:
        rollout: (K,) int64, the rollouts that have a place, as positions among all B.
        row: (K,) int64, the group.
        column: (K,) int64, the place in the group, in the order in which the rollouts were given.
        shape: (P, m), m being the size of the largest group, at least 2.
        num_rollouts: B.
    """

    rollout: Tensor
    row: Tensor
    column: Tensor
    shape: tuple[int, int]
    num_rollouts: int

    def to(self, device: torch.device) -> GroupLayout:
        """The same on another device."""
        return self._replace(rollout=self.rollout.to(device), row=self.row.to(device), column=self.column.to(device))

    def pad(self, values: Tensor, fill: float | bool) -> Tensor:
        """(B,) to (P, m), with ``fill`` where a group has fewer than m rollouts."""
        return values.new_full(self.shape, fill).index_put((self.row, self.column), values[self.rollout])

    def flatten(self, padded: Tensor) -> Tensor:
        """(P, m) to (B,), in the order in which the rollouts were given; 0 for those without a place."""
        values = padded.new_zeros(self.num_rollouts)
        return values.index_put((self.rollout,), padded[self.row, self.column])


def check_singletons(singletons: str) -> None:
    """Raise ValueError unless ``singletons`` is "error" or "zero"."""
    if singletons not in get_args(Singletons):
        raise ValueError(f"singletons must be 'error' or 'zero', got {singletons!r}")


def _factorize(ids: Any) -> tuple[Any, Tensor]:
    """The distinct ids, and for each rollout the position of its own among them: (P, ...), (B,) int64."""
    if isinstance(ids, Tensor):
        if ids.ndim not in (1, 2):
            raise ValueError(f"group ids must have shape (B,), or (B, S) for prompt tokens, got {tuple(ids.shape)}")
        if ids.is_floating_point() and bool(torch.isnan(ids).any()):
            raise ValueError("group ids must not be NaN")
        return torch.unique(ids, dim=0, return_inverse=True)
    array = np.asarray(ids)
    if array.ndim != 1:
        raise ValueError(f"group ids must be one per rollout, got an array of shape {array.shape}")
    if array.dtype == object or not isinstance(ids, np.ndarray):
        # numpy would turn [1, "1"] into one group, and cannot sort what has no order.
        types = sorted({kind.__name__ for kind in map(type, ids)})
        if "NoneType" in types or len(types) > 1:
            raise TypeError(f"group ids must all be given and of one type, got {', '.join(types)}")
    if array.dtype.kind == "f" and np.isnan(array).any():
        raise ValueError("group ids must not be NaN")
    unique, inverse = np.unique(array, return_inverse=True)
    return unique, torch.from_numpy(inverse.reshape(-1).astype(np.int64))


def group_layout(ids: Any, *, counted: Tensor | None = None, singletons: Singletons = "error") -> GroupLayout:
    """Lay out rollouts by group.

    Args:
        ids: One per rollout, equal within a group: a sequence or numpy array of strings or numbers, a tensor (B,),
            or a tensor (B, S) of prompt tokens. Any order, groups of any size.
        counted: (B,) bool, False for rows that are no rollouts, such as padding: they get no place.
        singletons: "error" refuses groups of one rollout; "zero" lets them through (an estimator gives them
            advantage 0, having nothing to compare them with).

    Returns:
        The layout, on the device of ``ids`` (the CPU if they are no tensor). Groups are sorted by id.

    Raises:
        ValueError, TypeError: On singletons, naming them; on ids that are missing, of mixed types or a wrong shape.

    Checked by ``tests/adapters/test_groups.py``, against a loop.
    """
    check_singletons(singletons)
    unique, code = _factorize(ids)
    rollout = torch.arange(len(code), device=code.device)
    if counted is not None:
        rollout = rollout[counted.to(code.device)]
    group, row, size = torch.unique(code[rollout], return_inverse=True, return_counts=True)
    alone = group[size == 1].tolist()
    if singletons == "error" and len(alone) > 0:
        named = ", ".join(_short.repr(i) for i in unique[alone[:5]].tolist())
        raise ValueError(
            f"{len(alone)} of {len(group)} groups have a single rollout: ids {named}"
            f"{', ...' if len(alone) > 5 else ''}. An advantage compares rollouts of one prompt, so this mostly "
            "means wrong ids (one per rollout where one per prompt is meant); if it is intended, "
            "singletons='zero' gives these rollouts advantage 0"
        )
    order = row.argsort(stable=True)
    start = size.cumsum(0) - size
    place = torch.arange(len(row), device=row.device) - start[row[order]]
    column = torch.empty_like(row).scatter(0, order, place)
    largest = int(size.max()) if len(size) > 0 else 0
    return GroupLayout(rollout, row, column, (len(group), max(2, largest)), len(code))


def any_in_group(ids: Any, flags: Tensor) -> Tensor:
    """(B,) bool: whether any rollout of the same group has its flag set. ``flags``: (B,) bool."""
    if len(ids) != len(flags):
        raise ValueError(f"there must be one group id per rollout, got {len(flags)} rollouts, {len(ids)} group ids")
    unique, code = _factorize(ids)
    code = code.to(flags.device)
    return flags.new_zeros(len(unique), dtype=torch.int64).index_add(0, code, flags.long())[code] > 0
