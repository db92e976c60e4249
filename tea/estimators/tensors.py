"""Operations on tensors that every estimator uses: selection, sorting, exact scaling, blocks of prompts."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor


def values_are_readable(tensor: Tensor) -> bool:
    """Whether looking at values costs nothing: eager mode and a device that shares the host's memory."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


@lru_cache(maxsize=256)
def _scalar(value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(value, dtype=dtype, device=device)


def where(condition: Tensor, yes: float | Tensor, no: float | Tensor) -> Tensor:
    """``torch.where`` without the kernel that it launches to make a tensor of a number; one of the two is a tensor."""
    if not torch.compiler.is_compiling():
        if not isinstance(yes, Tensor) and isinstance(no, Tensor):
            yes = _scalar(yes, no.dtype, no.device)
        elif not isinstance(no, Tensor) and isinstance(yes, Tensor):
            no = _scalar(no, yes.dtype, yes.device)
    return torch.where(condition, yes, no)


def power_of_two_below(x: Tensor) -> Tensor:
    """The largest power of two not above ``x`` (x >= 0), within the normal numbers: dividing by it is exact."""
    # The exponent's bits alone; neither 0 nor infinity, so that whatever is divided by it stays what it was.
    if x.dtype == torch.float32:
        return (x.view(torch.int32) & 0x7F800000).clamp(0x00800000, 0x7F000000).view(torch.float32)
    return (x.view(torch.int64) & 0x7FF0000000000000).clamp(0x0010000000000000, 0x7FE0000000000000).view(torch.float64)


def _numpy_sorts(x: Tensor) -> bool:
    # numpy sorts short rows with the vector instructions of the processor, many times faster than torch on the CPU.
    return values_are_readable(x) and x.dtype in (torch.float32, torch.float64)


def sort_groups(x: Tensor) -> tuple[Tensor, Tensor]:
    """``x.sort(dim=1)`` of numbers without NaN, equal ones in any order."""
    if _numpy_sorts(x):
        order = torch.from_numpy(np.argsort(x.detach().numpy(), axis=1))
        return x.gather(1, order), order
    values, order = x.sort(dim=1)
    return values, order


def largest(x: Tensor, k: int) -> Tensor:
    """The ``k`` >= 1 largest of each row of numbers without NaN, descending: (P, k)."""
    if _numpy_sorts(x):
        return torch.from_numpy(np.sort(x.detach().numpy(), axis=1))[:, -k:].flip(1)
    return x.topk(k, dim=1).values


# On the CPU the intermediate results of a block of prompts are to stay in the cache.
_BLOCK_ELEMENTS = 1 << 20

_BLOCK_MULTIPLE = 64  # whole cache lines of any dtype


def in_blocks(function: Callable[..., Tensor], size: int, *tensors: Tensor) -> Tensor:
    """``function(*tensors)``, prompts first in all of them; on the CPU one block of prompts after the other.

    Args:
        function: Treats every prompt by itself.
        size: Elements per prompt of its largest intermediate result.
        tensors: (P, ...) each.
    """
    prompts = len(tensors[0])
    block = max(_BLOCK_ELEMENTS // (size * _BLOCK_MULTIPLE), 1) * _BLOCK_MULTIPLE
    if not values_are_readable(tensors[0]) or prompts <= block:
        return function(*tensors)
    return torch.cat([function(*(x[i : i + block] for x in tensors)) for i in range(0, prompts, block)])


def scatter_sorted(values: Tensor, order: Tensor) -> Tensor:
    """Undo a sort along dim 1: put ``values[:, j]`` at ``order[:, j]``."""
    return torch.empty_like(values).scatter(1, order, values)
