"""Rewards from the files people have: JSONL, JSON, Parquet, CSV, NumPy, or the directory of a ``tea eval`` run."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from tea.rollouts.formats import read_columns

FloatArray: TypeAlias = npt.NDArray[np.float64]
REWARD_PREFIX = "rewards/"
"""``tea eval`` writes the rewards of function `f` in the column ``rewards/f``; both spellings are accepted."""


@dataclass(frozen=True)
class RewardTable:
    """Rewards of n samples for each of P prompts, read from one file.

    Attributes:
        path: the file.
        prompts: P prompts (or their ids), in order of first appearance.
        rewards: reward column -> (P, n) float64.
        num_tokens: (P, n) completion lengths in tokens where the file has a `num_tokens` column, else None.
        dropped: samples left out because `num_samples` asked for fewer than the file has.
        notes: what a user should know about how the file was read.
    """

    path: str
    prompts: list[str]
    rewards: dict[str, FloatArray]
    num_tokens: FloatArray | None = None
    dropped: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, int]:
        """(P, n)."""
        first = next(iter(self.rewards.values()))
        return int(first.shape[0]), int(first.shape[1])


def read_rewards(
    path: str | os.PathLike[str],
    columns: str | Sequence[str] | None = None,
    *,
    prompt: str | None = None,
    model: str | None = None,
    num_samples: int | None = None,
) -> RewardTable:
    """Read reward columns into (P, n) matrices.

    One row per sample (columns: prompt, reward, ...; rows of a prompt need not be adjacent and keep their order), or
    one row per prompt with a list of n rewards in the reward column. `.npy` holds a (P, n) array.

    Args:
        path: .jsonl, .json, .parquet, .csv, .tsv or .npy file, or the output directory of ``tea eval``.
        columns: reward column(s); default: "reward" if there is one, else the only ``rewards/...`` column.
        prompt: column that tells prompts apart; default: "prompt_id" if there is one, else "prompt".
        model: keep the rows whose `model` column is this; required where the file mixes models.
        num_samples: use only the first `num_samples` of each prompt (the rest is counted in `dropped`).

    Raises:
        FileNotFoundError: no such file.
        ValueError: empty or broken file, a column that is not there (with those that are), prompts with unequal
            numbers of samples, mixed models, a reward that is missing, NaN, infinite or no number. Messages name the
            file, the row (1-based, without the header; for JSONL the line) and the column.
    """
    source = Path(path)
    if source.is_dir():
        source = source / "samples.parquet"
        if not source.is_file():
            raise FileNotFoundError(
                f"{path} is a directory without samples.parquet: not the output of `tea eval`, or an evaluation that "
                "has not finished (run the same command again to resume it)"
            )
    if not source.is_file():
        raise FileNotFoundError(f"{source}: no such file")
    if source.stat().st_size == 0:
        raise ValueError(f"{source}: the file is empty")
    if source.suffix.lower() == ".npy":
        return _from_npy(source, columns, num_samples)

    table = read_columns(source)
    available = list(table)
    wanted = _reward_columns(source, available, columns)
    rows = np.arange(len(table[wanted[0]]))
    if rows.size == 0:
        raise ValueError(f"{source}: there are no rows")
    rows = _one_model(source, table, rows, model)

    if all(isinstance(table[wanted[0]][i], list) for i in rows[:1]):
        return _wide(source, table, wanted, prompt, rows, num_samples)
    key = prompt or ("prompt_id" if "prompt_id" in table else "prompt")
    if key not in table:
        raise ValueError(f"{source}: no column {key!r} to tell prompts apart; it has: {', '.join(available)}")
    ids = [_hashable(table[key][i]) for i in rows]
    first_seen: dict[str, int] = {}
    group = np.asarray([first_seen.setdefault(value, len(first_seen)) for value in ids])
    counts = np.bincount(group)
    names = list(first_seen)
    keep = _samples_per_prompt(source, counts, names, num_samples)
    order = np.argsort(group, kind="stable")
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    chosen = order[(starts[:, None] + np.arange(keep)[None, :])]  # (P, keep) positions in `rows`
    labels = names
    if key == "prompt_id" and "prompt" in table:
        labels = [_hashable(table["prompt"][rows[i]]) for i in chosen[:, 0]]
    return RewardTable(
        path=str(source),
        prompts=labels,
        rewards={name: _numbers(source, name, table[name], rows)[chosen] for name in wanted},
        num_tokens=_numbers(source, "num_tokens", table["num_tokens"], rows)[chosen] if "num_tokens" in table else None,
        dropped=int(rows.size - chosen.size),
        notes=_notes(rows.size - chosen.size, keep),
    )


def _notes(dropped: int, keep: int) -> list[str]:
    return [f"{dropped} samples beyond the first {keep} of each prompt were left out, as asked"] if dropped else []


def _samples_per_prompt(source: Path, counts: Any, names: list[str], num_samples: int | None) -> int:
    low, high = int(counts.min()), int(counts.max())
    if num_samples is not None and num_samples < 1:
        raise ValueError(f"num_samples must be at least 1, got {num_samples}")
    if num_samples is not None and num_samples > low:
        short = names[int(np.argmin(counts))]
        raise ValueError(f"{source}: num_samples={num_samples}, but prompt {_shorten(short)} has only {low} samples")
    if num_samples is None and low != high:
        ragged = int((counts != high).sum())
        raise ValueError(
            f"{source}: prompts have unequal numbers of samples, from {low} (prompt "
            f"{_shorten(names[int(np.argmin(counts))])}) to {high}; {ragged} of {len(counts)} prompts have fewer than "
            f"{high}. Complete them, or pass num_samples={low} to use the first {low} of each"
        )
    return num_samples or low


def _reward_columns(source: Path, available: list[str], columns: str | Sequence[str] | None) -> list[str]:
    found = [name for name in available if name.startswith(REWARD_PREFIX)]
    if columns is None:
        for name in ("reward", "rewards", "score"):
            if name in available:
                return [name]
        if len(found) == 1:
            return found
        what = f"several rewards ({', '.join(found)})" if found else 'no column "reward"'
        raise ValueError(f"{source}: {what}; name the reward column. It has: {', '.join(available)}")
    wanted = []
    for name in [columns] if isinstance(columns, str) else columns:
        if name in available:
            wanted.append(name)
        elif REWARD_PREFIX + name in available:
            wanted.append(REWARD_PREFIX + name)
        else:
            raise ValueError(f"{source}: no column {name!r}; it has: {', '.join(available)}")
    return wanted


def _one_model(source: Path, table: dict[str, Sequence[Any]], rows: Any, model: str | None) -> Any:
    if "model" not in table:
        if model is not None:
            raise ValueError(f"{source}: model={model!r} was asked for, but there is no column 'model'")
        return rows
    models = [str(value) for value in table["model"]]
    present = sorted(set(models))
    if model is None:
        if len(present) > 1:
            raise ValueError(f"{source}: rows of several models ({', '.join(present)}); say which one with model=")
        return rows
    if model not in present:
        raise ValueError(f"{source}: no rows of model {model!r}; there are: {', '.join(present)}")
    return rows[np.asarray([value == model for value in models])]


def _wide(
    source: Path,
    table: dict[str, Sequence[Any]],
    wanted: list[str],
    prompt: str | None,
    rows: Any,
    num_samples: int | None,
) -> RewardTable:
    key = prompt or ("prompt_id" if "prompt_id" in table else "prompt")
    if prompt is not None and prompt not in table:
        raise ValueError(f"{source}: no column {prompt!r}; it has: {', '.join(table)}")
    names = [_hashable(table[key][i]) if key in table else str(i + 1) for i in rows]
    if len(set(names)) < len(names):
        repeated = next(name for i, name in enumerate(names) if name in names[:i])
        raise ValueError(f"{source}: prompt {_shorten(repeated)} has several rows, each with a list of rewards")
    rewards, dropped, keep = {}, 0, 0
    for name in wanted:
        lists = [table[name][i] for i in rows]
        for position, entry in enumerate(lists):
            if not isinstance(entry, list):
                raise ValueError(f"{source}: row {rows[position] + 1}, column {name!r}: expected a list, got {entry!r}")
        counts = np.asarray([len(entry) for entry in lists])
        keep = _samples_per_prompt(source, counts, names, num_samples)
        flat = [value for entry in lists for value in entry[:keep]]
        owner = np.repeat(rows, keep)
        rewards[name] = _numbers(source, name, flat, np.arange(len(flat)), owner).reshape(len(lists), keep)
        dropped = int((counts - keep).sum())
    shapes = {matrix.shape for matrix in rewards.values()}
    if len(shapes) > 1:
        raise ValueError(f"{source}: columns {wanted} hold different numbers of samples: {sorted(shapes)}")
    return RewardTable(str(source), names, rewards, dropped=dropped, notes=_notes(dropped, keep))


def _numbers(source: Path, column: str, values: Sequence[Any], rows: Any, owner: Any = None) -> FloatArray:
    """`values[rows]` as float64; `owner` gives the row to blame for each where that is not the index itself."""
    array: FloatArray | None = None
    if isinstance(values, np.ndarray) and values.dtype.kind in "biuf":
        array = values[rows].astype(np.float64)
        if np.isfinite(array).all():
            return array
    result = np.empty(len(rows), dtype=np.float64)
    for position, index in enumerate(rows):
        value = values[index]
        try:
            number = float(value)
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            row = int((rows if owner is None else owner)[position]) + 1
            what = "missing" if value is None or value == "" else f"{value!r}"
            raise ValueError(f"{source}: row {row}, column {column!r}: the value is {what}, not a finite number")
        result[position] = number
    return result


def _from_npy(source: Path, columns: str | Sequence[str] | None, num_samples: int | None) -> RewardTable:
    try:
        array = np.load(source, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{source}: not a readable .npy file ({error})") from error
    if array.ndim != 2 or array.size == 0 or array.dtype.kind not in "biuf":
        raise ValueError(
            f"{source}: expected numbers of shape (num_prompts, num_samples), got {array.dtype} {array.shape}"
        )
    name = "reward" if columns is None else (columns if isinstance(columns, str) else columns[0])
    bad = np.argwhere(~np.isfinite(array))
    if bad.size:
        row, column = bad[0]
        raise ValueError(f"{source}: row {row + 1}, sample {column + 1}: the value is {array[row, column]}")
    keep = _samples_per_prompt(
        source, np.full(len(array), array.shape[1]), [str(i + 1) for i in range(len(array))], num_samples
    )
    dropped = array.size - array[:, :keep].size
    matrix = array[:, :keep].astype(np.float64)
    return RewardTable(
        str(source),
        [str(i + 1) for i in range(len(array))],
        {name: matrix},
        dropped=dropped,
        notes=_notes(dropped, keep),
    )


def _hashable(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)


def _shorten(text: str, width: int = 60) -> str:
    return repr(text if len(text) <= width else text[: width - 3] + "...")
