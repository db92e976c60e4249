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
    columns = columns_of([record for _, record in jsonl_records(ordered, samples)])
    samples.columns = {
        "prompt": columns.pop("input"),
        "completion": columns.pop("output"),
        "answer": columns.pop("gts"),
        **columns,
    }
    parts = [str(uid).rsplit("_", 2) for uid in columns.get("uid", [])]
    if parts and all(len(part) == 3 for part in parts):
        samples.columns["group"] = [part[0] for part in parts]
        samples.key = "group"
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
