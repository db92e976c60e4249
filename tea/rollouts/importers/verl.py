"""verl's ``trainer.rollout_data_dir`` and ``validation_data_dir``: ``{step}.jsonl``.

Fields input, output, gts, score, step, and what the reward function returned besides (``_write_generations`` and
``_log_rollout_data``, read in verl 0.9.1). Newer trainers add `uid`, ``{prompt}_{rollout}_{turn}``; without it prompts
are told apart by their text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tea.rollouts.importers.base import Importer, Peek, Samples, columns_of, jsonl_records, numeric


def _recognises(peek: Peek) -> bool:
    return {"input", "output", "gts", "score", "step"} <= peek.keys


def _read(paths: Sequence[Path], texts: bool) -> Samples:
    ordered = sorted(paths, key=lambda path: (len(path.stem), path.stem))
    samples = Samples({}, key="prompt", default="score", moving=True)
    records = [record for _, record in jsonl_records(ordered, samples)]
    parts = [str(record.get("uid", "")).rsplit("_", 2) for record in records]
    if all(len(part) == 3 for part in parts):
        samples.key = "group"
        # A rollout of several turns has a row for each, all with its score: the last stands for it.
        last = {(record["step"], *part[:2]): i for i, (record, part) in enumerate(zip(records, parts, strict=True))}
        if len(last) < len(records):
            samples.notes.append(f"{len(records) - len(last)} rows are earlier turns of a rollout: its last one counts")
            first: dict[tuple[int, str], str] = {}  # a later turn's input holds the turns before it
            for record, part in zip(records, parts, strict=True):
                record["input"] = first.setdefault((record["step"], part[0]), record["input"])
        samples.origin = sorted(last.values())
        records = [{**records[i], "group": parts[i][0]} for i in samples.origin]
    columns = columns_of(records)
    samples.columns = {
        "prompt": columns.pop("input"),
        "completion": columns.pop("output"),
        "answer": columns.pop("gts"),
        **columns,
    }
    samples.rewards = numeric(columns, ("step",))
    return samples


IMPORTER = Importer(
    name="verl",
    tool="rollout or validation data of verl",
    looks_for="JSONL with input, output, gts, score and step",
    recognises=_recognises,
    read=_read,
    several=True,
)
