"""Columns from Parquet, JSON lines, JSON and CSV."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any


def read_columns(source: Path) -> dict[str, Sequence[Any]]:
    """Columns of a .parquet, .jsonl, .json, .csv or .tsv file, by name and of equal length.

    Raises:
        ValueError: another kind of file, or a broken or empty one; the message names the line or row.
    """
    suffix = source.suffix.lower()
    if suffix == ".parquet":
        return _read_parquet(source)
    if suffix in (".jsonl", ".ndjson", ".json"):
        return _read_json(source)
    if suffix in (".csv", ".tsv"):
        return _read_csv(source, "\t" if suffix == ".tsv" else ",")
    raise ValueError(f"{source}: unknown kind of file {suffix!r}; known: .parquet, .jsonl, .json, .csv, .tsv, .npy")


def _read_parquet(source: Path) -> dict[str, Sequence[Any]]:
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
        if name in ("completion", "completions"):  # long, and no statistic needs it
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


def _read_json(source: Path) -> dict[str, Sequence[Any]]:
    text = source.read_text(encoding="utf-8")
    records: list[Any]
    if text.lstrip().startswith("["):
        try:
            records = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"{source}: line {error.lineno}: not valid JSON ({error.msg})") from error
    else:
        records = []
        for number, line in enumerate(text.splitlines(), start=1):
            if not line.strip():
                raise ValueError(f"{source}: line {number} is empty")
            try:
                records.append(json.loads(line))
            except json.JSONDecodeError as error:
                raise ValueError(f"{source}: line {number}: not valid JSON ({error.msg})") from error
    for number, record in enumerate(records, start=1):
        if not isinstance(record, dict):
            raise ValueError(
                f"{source}: row {number}: expected an object with named fields, got {type(record).__name__}"
            )
    names: dict[str, None] = dict.fromkeys(key for record in records for key in record)
    return {name: [record.get(name) for record in records] for name in names}


def _read_csv(source: Path, delimiter: str) -> dict[str, Sequence[Any]]:
    with source.open(newline="", encoding="utf-8-sig") as file:
        reader: Iterable[list[str]] = csv.reader(file, delimiter=delimiter)
        rows = list(reader)
    if not rows or not rows[0]:
        raise ValueError(f"{source}: there is no header row")
    header, body = rows[0], rows[1:]
    for number, row in enumerate(body, start=1):
        if len(row) != len(header):
            raise ValueError(f"{source}: row {number} has {len(row)} fields, the header {len(header)}")
    if not body:
        raise ValueError(f"{source}: there are no rows; columns: {', '.join(header)}")
    return {name: [row[i] for row in body] for i, name in enumerate(header)}
