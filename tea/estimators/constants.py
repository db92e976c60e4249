"""Tables of constants as tensors: computed and uploaded once, also under ``torch.compile``."""

from __future__ import annotations

import operator
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

Table = Sequence[Sequence[float]] | np.ndarray


@lru_cache(maxsize=1024)
def _cached_tensor(build: Callable[..., Table], args: tuple, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(build(*args), dtype=dtype, device=device)


# The compiler cannot trace a quadrature: it calls these while tracing and keeps what they return. It tells constants
# apart by the name of the function that gave them, hence one function for each; a graph has a handful.
def _constant_source(name: str) -> Callable[..., Tensor]:
    def source(build: Callable[..., Table], args: tuple, dtype: torch.dtype, device: torch.device) -> Tensor:
        return _cached_tensor(build, args, dtype, device)

    source.__name__ = name
    source.__code__ = source.__code__.replace(co_name=name)
    return torch.compiler.assume_constant_result(source)


_CONSTANT_SOURCES = tuple(_constant_source(f"tea_constant_{i}") for i in range(256))

_source_numbers: dict[Hashable, int] = {}


@torch.compiler.assume_constant_result
def _source_number(*key: Hashable) -> int:
    return _source_numbers.setdefault(key, len(_source_numbers)) % len(_CONSTANT_SOURCES)


def constant(
    build: Callable[..., Table], size: int, *args: Hashable, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """``torch.tensor(build(size, *args))``, computed and uploaded once per dtype and device.

    Compiled, it makes one graph for each ``size``, the only argument that may come from a shape.
    """
    arguments = (operator.index(size), *args)
    if torch.compiler.is_compiling():
        number = _source_number(build, arguments, dtype, device)
        return _CONSTANT_SOURCES[number](build, arguments, dtype, device)
    return _cached_tensor(build, arguments, dtype, device)
