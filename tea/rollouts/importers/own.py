"""Our own: the directory that ``tea eval`` writes, and plain tables of rewards in any of the common kinds of file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tea.rollouts.formats import SUFFIXES, read_table
from tea.rollouts.importers.base import Importer, Peek, Samples

REWARD_PREFIX = "rewards/"
"""``tea eval`` writes the rewards of function `f` in the column ``rewards/f``; both spellings are accepted."""


def _is_run(peek: Peek) -> bool:
    return peek.path.name == "samples.parquet" and "prompt_id" in peek.keys


def _is_table(peek: Peek) -> bool:
    return peek.suffix in SUFFIXES


def _read(paths: Sequence[Path], texts: bool) -> Samples:
    (path,) = paths
    samples = Samples({})
    samples.columns = read_table(path, samples.notes, texts)
    length = len(next(iter(samples.columns.values())))
    samples.places = [(path, length)]
    samples.rewards = tuple(name for name in samples.columns if name.startswith(REWARD_PREFIX))
    for name in ("reward", "rewards", "score"):
        if name in samples.columns and samples.default is None:
            samples.default = name
    return samples


RUN = Importer(
    name="tea",
    tool="an evaluation by tea",
    looks_for="samples.parquet of `tea eval`",
    recognises=_is_run,
    read=_read,
)

TABLE = Importer(
    name="table",
    tool="a table of rewards",
    looks_for=f"a file ({', '.join(SUFFIXES)}) with a reward column; not looked for in directories",
    recognises=_is_table,
    read=_read,
)
