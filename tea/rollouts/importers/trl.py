"""TRL with ``log_completions=True``: ``{output_dir}/completions/completions_{step:05d}.parquet``.

Columns step, prompt, completion, one per reward function, advantage (``GRPOTrainer.log``, read in TRL 1.16); each file
holds the last batch before it was logged. A reward function that does not apply to a sample leaves it without one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tea.rollouts.formats import read_parquet
from tea.rollouts.importers.base import Importer, Peek, Samples, numeric, text_of


def _recognises(peek: Peek) -> bool:
    return peek.suffix == ".parquet" and {"step", "prompt", "completion", "advantage"} <= peek.keys


def _read(paths: Sequence[Path], texts: bool) -> Samples:
    samples = Samples({}, key="prompt", moving=True)
    tables = [read_parquet(path) for path in sorted(paths)]
    names = dict.fromkeys(name for table in tables for name in table)
    for path, table in zip(sorted(paths), tables, strict=True):
        samples.places.append((path, len(table["step"])))
    samples.columns = {
        name: [value for table in tables for value in table.get(name, [None] * len(table["step"]))] for name in names
    }
    samples.columns["completion"] = [text_of(completion) for completion in samples.columns["completion"]]
    samples.rewards = numeric(samples.columns, ("step", "prompt", "completion", "advantage"))
    return samples


IMPORTER = Importer(
    name="trl",
    tool="completions logged by TRL",
    looks_for="Parquet with step, prompt, completion, a column per reward function and advantage",
    recognises=_recognises,
    read=_read,
    several=True,
)
