"""What every importer takes and gives, and what several of them need."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np


@dataclass
class Samples:
    """Samples as columns, one entry per sample (or per prompt, with a list of the n rewards of each).

    Attributes:
        columns: the tool's own names, but `prompt`, `completion`, `answer` and `step` for what is that.
        key: column that tells prompts apart; None: the reader's own rule.
        rewards: columns that may be the reward.
        default: the one of them that is, unless another is asked for; None: the user says where there are several.
        moving: whether the samples of different steps are of different policies (a training run).
        unscored: why there is no reward per sample, where there is none.
        notes: what a user should know.
        places: the files, with their numbers of rows, to say where a bad value stands.
        origin: of each entry its row over all files; None: they are the same.
    """

    columns: dict[str, Sequence[Any]]
    key: str | None = None
    rewards: tuple[str, ...] = ()
    default: str | None = None
    moving: bool = False
    unscored: str = ""
    notes: list[str] = field(default_factory=list)
    places: list[tuple[Path, int]] = field(default_factory=list)
    origin: list[int] | None = None

    def where(self, row: int) -> str:
        """File and row (1-based within it, without a header) of entry `row`."""
        row = row if self.origin is None else self.origin[row]
        for path, rows in self.places:
            if row < rows:
                return f"{path}: row {row + 1}"
            row -= rows
        return f"row {row + 1}"


@dataclass(frozen=True)
class Importer:
    """One kind of file.

    Attributes:
        name: for ``--format``.
        tool: what is said when it is recognised.
        looks_for: what is looked for, said when nothing is recognised.
        recognises: whether a file is of this kind, by its content.
        read: the files of one directory (one file, unless `several`), and whether completions are wanted.
        several: whether several files beside each other make one data set.
    """

    name: str
    tool: str
    looks_for: str
    recognises: Callable[[Peek], bool]
    read: Callable[[Sequence[Path], bool], Samples]
    several: bool = False


class Peek:
    """The beginning of a file: enough to tell what it is."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.suffix = path.suffix.lower()

    @cached_property
    def record(self) -> Mapping[str, Any]:
        """First object of a JSONL file; empty for anything else."""
        if self.suffix not in (".jsonl", ".ndjson"):
            return {}
        with self.path.open(encoding="utf-8", errors="replace") as file:
            line = file.readline()
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            return {}
        return record if isinstance(record, dict) else {}

    @cached_property
    def keys(self) -> set[str]:
        """Fields of the first record of a JSONL file, or columns of a Parquet file."""
        if self.suffix != ".parquet":
            return set(self.record)
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            return set(pq.read_schema(self.path).names)
        except (pa.ArrowInvalid, OSError):
            return set()

    @cached_property
    def start(self) -> str:
        """The first 2,000 characters."""
        with self.path.open(encoding="utf-8", errors="replace") as file:
            return file.read(2000)


def read_jsonl(path: Path, notes: list[str]) -> list[dict[str, Any]]:
    """The objects of a JSONL file; a last line that was cut short is left out, and said in `notes`.

    Raises:
        ValueError: a line that is empty, not valid JSON, or not an object (naming file and line), or no line at all.
    """
    text = path.read_text(encoding="utf-8")
    lines = text.split("\n")
    finished = lines[-1] == ""
    if finished:
        lines.pop()
    records = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            raise ValueError(f"{path}: line {number} is empty")
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            if number == len(lines) > 1 and not finished:
                notes.append(f"{path}: line {number}, the last, is cut short and was left out")
                continue
            raise ValueError(f"{path}: line {number}: not valid JSON ({error.msg})") from error
        if not isinstance(record, dict):
            raise ValueError(f"{path}: row {number}: expected an object with named fields, got {type(record).__name__}")
        records.append(record)
    if not records:
        raise ValueError(f"{path}: there are no rows")
    return records


def columns_of(records: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    """Records as columns, None where a record lacks one."""
    names = dict.fromkeys(key for record in records for key in record)
    return {name: [record.get(name) for record in records] for name in names}


def jsonl_records(paths: Sequence[Path], samples: Samples) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The objects of all files in order, noted in ``samples.places``."""
    for path in paths:
        records = read_jsonl(path, samples.notes)
        samples.places.append((path, len(records)))
        for record in records:
            yield path, record


def text_of(messages: Any) -> str:
    """The text of a completion or prompt: itself, or the contents of its messages joined by line breaks."""
    if messages is None:
        return ""
    if isinstance(messages, str):
        return messages
    if isinstance(messages, Mapping):
        return text_of(messages.get("content"))
    if isinstance(messages, Iterable):
        return "\n".join(text_of(message) for message in messages)
    return str(messages)


def is_number(value: Any) -> bool:
    """Whether a field can be a reward: a number or a boolean."""
    return isinstance(value, (bool, int, float, np.number))


def numeric(columns: Mapping[str, Sequence[Any]], exclude: Iterable[str] = ()) -> tuple[str, ...]:
    """Columns of numbers, in their order: of all entries but missing ones."""
    left_out = set(exclude)
    return tuple(
        name
        for name, values in columns.items()
        if name not in left_out
        and all(value is None or is_number(value) for value in values)
        and any(value is not None for value in values)
    )
