"""Files to columns: JSONL, JSON, Parquet, CSV, TSV and NumPy arrays."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tea.rollouts.importers.base import columns_of, read_jsonl

SUFFIXES = (".parquet", ".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".npy")


def read_table(source: Path, notes: list[str], texts: bool = True) -> dict[str, Sequence[Any]]:
    """Column name -> values. A last line of JSONL that was cut short is left out, and said in `notes`.

    Args:
        source: the file.
        notes: what a user should know is appended.
        texts: whether to read the columns completion(s), which are long, and which most statistics do not need.

    Raises:
        ValueError: an unknown kind of file, or a broken or empty one (naming the file, and the row or line).
    """
    suffix = source.suffix.lower()
    if suffix == ".parquet":
        return read_parquet(source, texts)
    if suffix in (".jsonl", ".ndjson", ".json"):
        return _read_json(source, notes)
    if suffix in (".csv", ".tsv"):
        return _read_csv(source, "\t" if suffix == ".tsv" else ",")
    if suffix == ".npy":
        return read_npy(source)
    raise ValueError(f"{source}: unknown kind of file {suffix!r}; known: {', '.join(SUFFIXES)}")


def read_parquet(source: Path, texts: bool = True) -> dict[str, Sequence[Any]]:
    """Columns of a Parquet file; `texts` as for :func:`read_table`."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(source)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{source}: not a readable Parquet file, perhaps cut short ({error})") from error
    if table.num_rows == 0:
        raise ValueError(f"{source}: there are no rows; columns: {', '.join(table.column_names)}")
    columns: dict[str, Sequence[Any]] = {}
    for name in table.column_names:
        if name in ("completion", "completions") and not texts:
            columns[name] = _Absent(table.num_rows)
            continue
        column = table[name]
        plain = pa.types.is_floating(column.type) or pa.types.is_integer(column.type)
        columns[name] = column.to_numpy() if plain and column.null_count == 0 else column.to_pylist()
    return columns


class _Absent(Sequence[Any]):
    """A column that is known to be there but was not read."""

    def __init__(self, length: int) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: Any) -> Any:
        return None


def _read_json(source: Path, notes: list[str]) -> dict[str, Sequence[Any]]:
    with source.open(encoding="utf-8") as file:
        start = file.read(200)
    if not start.lstrip().startswith("["):
        return dict(columns_of(read_jsonl(source, notes)))
    try:
        records = json.loads(source.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{source}: line {error.lineno}: not valid JSON ({error.msg})") from error
    for number, record in enumerate(records, start=1):
        if not isinstance(record, dict):
            raise ValueError(
                f"{source}: row {number}: expected an object with named fields, got {type(record).__name__}"
            )
    if not records:
        raise ValueError(f"{source}: there are no rows")
    return dict(columns_of(records))


def _read_csv(source: Path, delimiter: str) -> dict[str, Sequence[Any]]:
    with source.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.reader(file, delimiter=delimiter))
    if not rows or not rows[0]:
        raise ValueError(f"{source}: there is no header row")
    header, body = rows[0], rows[1:]
    for number, row in enumerate(body, start=1):
        if len(row) != len(header):
            raise ValueError(f"{source}: row {number} has {len(row)} fields, the header {len(header)}")
    if not body:
        raise ValueError(f"{source}: there are no rows; columns: {', '.join(header)}")
    return {name: [row[i] for row in body] for i, name in enumerate(header)}


def read_npy(source: Path) -> dict[str, Sequence[Any]]:
    """A (num_prompts, num_samples) array as one list of rewards per prompt."""
    try:
        array = np.load(source, allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise ValueError(f"{source}: not a readable .npy file ({error})") from error
    if array.ndim != 2 or array.size == 0 or array.dtype.kind not in "biuf":
        raise ValueError(
            f"{source}: expected numbers of shape (num_prompts, num_samples), got {array.dtype} {array.shape}"
        )
    return {"reward": array.tolist()}
