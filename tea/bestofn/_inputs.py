"""Validation of reward matrices and of the Ns asked for; shared by everything in :mod:`tea.bestofn`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

FloatArray: TypeAlias = npt.NDArray[np.float64]
IntArray: TypeAlias = npt.NDArray[np.int64]
Missing = Literal["fail", "skip"]


def reward_matrix(rewards: Any, name: str = "rewards", min_samples: int = 1, missing: Missing = "fail") -> FloatArray:
    """Return `rewards` as a float64 array of shape (num_prompts, num_samples), or say what is wrong with it.

    Args:
        rewards: torch tensor (any device and dtype), NumPy array or nested sequence, shape (P, n).
        name: what to call it in error messages.
        min_samples: smallest allowed n.
        missing: "skip" lets NaN through, as a reward that is missing.

    Raises:
        TypeError: the entries are not numbers.
        ValueError: not two-dimensional, ragged, empty, fewer than `min_samples` samples, infinite, or NaN with "fail".
    """
    if hasattr(rewards, "detach"):  # a torch tensor, recognised without importing torch
        # Through float64 on the tensor's side: NumPy has no bfloat16.
        rewards = rewards.detach().double().cpu().numpy()
    elif isinstance(rewards, Sequence) and not isinstance(rewards, str):
        rewards = [row.detach().double().cpu().numpy() if hasattr(row, "detach") else row for row in rewards]
        lengths = [len(row) if hasattr(row, "__len__") else -1 for row in rewards]
        if lengths and -1 not in lengths and len(set(lengths)) > 1:
            row = next(i for i, length in enumerate(lengths) if length != lengths[0])
            raise ValueError(
                f"{name} must hold the same number of samples for every prompt: row 0 has {lengths[0]}, "
                f"row {row} has {lengths[row]} (the range is {min(lengths)} to {max(lengths)})"
            )
    array = np.asarray(rewards)
    if array.dtype.kind not in "bfiu":
        try:
            array = array.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise TypeError(f"{name} must hold numbers, got {array.dtype} entries: {error}") from None
    if array.ndim != 2:
        raise ValueError(f"{name} must have shape (num_prompts, num_samples), got shape {array.shape}")
    if array.shape[0] == 0 or array.shape[1] == 0:
        raise ValueError(f"{name} is empty: shape {array.shape}")
    if array.shape[1] < min_samples:
        raise ValueError(f"{name} needs at least {min_samples} samples per prompt, got shape {array.shape}")
    array = array.astype(np.float64)
    if missing not in ("fail", "skip"):
        raise ValueError(f'missing must be "fail" or "skip", got {missing!r}')
    finite = np.isfinite(array) | (np.isnan(array) & (missing == "skip"))
    if not finite.all():
        row, column = np.argwhere(~finite)[0]
        raise ValueError(
            f"{name} must be finite: {name}[{row}, {column}] is {array[row, column]} "
            f"({int((~finite).sum())} of {array.size} entries are NaN or infinite)"
        )
    return array


def complete_rewards(rewards: Any, name: str = "rewards") -> tuple[FloatArray, int]:
    """The first k rewards of each prompt, k the smallest number that a prompt has: a matrix without missing ones.

    Samples are exchangeable, so which of them are used does not matter for what is estimated, only how many.

    Args:
        rewards: (P, n), NaN where a reward is missing.
        name: what to call it in error messages.

    Returns:
        (P, k) rewards, and how many that were there are left out.

    Raises:
        ValueError: a prompt without any reward, or as :func:`reward_matrix`.
    """
    matrix = reward_matrix(rewards, name, missing="skip")
    there = ~np.isnan(matrix)
    counts = there.sum(axis=1)
    fewest = int(counts.min())
    if fewest == 0:
        raise ValueError(f"{name}: prompt {int(np.argmin(counts))} has no reward at all: leave it out")
    order = np.argsort(~there, axis=1, kind="stable")[:, :fewest]  # those that are there, in their order
    return np.take_along_axis(matrix, order, axis=1), int((counts - fewest).sum())


def is_binary(rewards: FloatArray) -> bool:
    """Whether every entry of `rewards` is 0 or 1."""
    return bool(((rewards == 0.0) | (rewards == 1.0)).all())


def sample_counts(ns: Any, *, name: str = "ns", largest: int | None = None, hint: str = "") -> IntArray:
    """Return `ns` (an int or a sequence of ints) as a 1-D int64 array, each at least 1 and at most `largest`.

    Raises:
        TypeError: an entry is not a whole number.
        ValueError: empty, an entry below 1, or an entry above `largest` (the message ends with `hint`).
    """
    if hasattr(ns, "detach"):
        ns = ns.detach().cpu().numpy()
    array = np.atleast_1d(np.asarray(ns))
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name} must be a number or a non-empty list of numbers, got {ns!r}")
    if array.dtype.kind == "f" and bool(np.all(array == np.floor(array))):
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must hold whole numbers, got {ns!r}")
    if array.min() < 1:
        raise ValueError(f"{name} must be at least 1, got {int(array.min())}")
    if largest is not None and array.max() > largest:
        raise ValueError(f"{name} asks for N = {int(array.max())} but there are {largest} samples per prompt{hint}")
    return array.astype(np.int64)


def default_ns(num_samples: int) -> IntArray:
    """Powers of two up to `num_samples`, and `num_samples` itself."""
    powers = [2**i for i in range(int(np.log2(num_samples)) + 1)]
    return np.asarray(sorted({*powers, num_samples}), dtype=np.int64)


def check_level(level: float) -> float:
    """Return `level` if it is a confidence level, strictly between 0 and 1.

    Raises:
        ValueError: otherwise.
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must be strictly between 0 and 1, got {level!r}")
    return float(level)
