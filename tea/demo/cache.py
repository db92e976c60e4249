"""Stages whose results are kept: reused when nothing that they depend on has changed, never half written."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

RECORD = "stage.json"


@dataclass(frozen=True)
class Stage:
    """One step of the demo and what its result depends on.

    Attributes:
        name: its directory.
        kind: the function in :data:`tea.demo.stages.STAGES` that does it.
        label: how the progress bar calls it.
        settings: what the function gets; JSON types.
        needs: role -> name of the stage whose directory the function reads.
    """

    name: str
    kind: str
    label: str
    settings: dict[str, Any]
    needs: dict[str, str] = field(default_factory=dict)


def stage_keys(stages: list[Stage], seed: int, fingerprints: dict[str, Any]) -> dict[str, str]:
    """A hash for each stage of all that decides its result: settings, seed, its kind's entry of
    `fingerprints`, and the stages it needs.

    Args:
        stages: each after those that it needs.
        seed: the run's.
        fingerprints: kind -> what all stages of that kind depend on, such as the versions of libraries; JSON types.
    """
    keys: dict[str, str] = {}
    for stage in stages:
        content = {
            "kind": stage.kind,
            "settings": stage.settings,
            "seed": seed,
            "needs": {role: keys[name] for role, name in stage.needs.items()},
            "fingerprint": fingerprints[stage.kind],
        }
        keys[stage.name] = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return keys


def read_record(directory: Path) -> dict[str, Any] | None:
    """The record of the finished stage in `directory`, or None."""
    try:
        record: dict[str, Any] = json.loads((directory / RECORD).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return None
    return record


def run_cached(root: Path, stage: Stage, key: str, seed: int, work: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Do the stage's `work` in a directory of its own that takes the stage's name once all is written.

    A stage that was killed leaves a hidden directory behind, which `work` gets again, with whatever it had written,
    if the key is the same; those of other keys are removed.

    Args:
        root: holds the stages' directories.
        stage: what to do.
        key: from :func:`stage_keys`.
        seed: for the record.
        work: fills the directory that it is given and returns metrics; JSON types.

    Returns:
        The record, as stored: name, key, seed, settings, seconds, metrics.
    """
    partial = root / f".{stage.name}.{key[:12]}.partial"
    for leftover in root.glob(f".{stage.name}.*.partial"):
        if leftover != partial:
            shutil.rmtree(leftover)
    partial.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    metrics = work(partial)
    record = {
        "stage": stage.name,
        "key": key,
        "seed": seed,
        "settings": stage.settings,
        "seconds": time.perf_counter() - start,
        "metrics": metrics,
    }
    (partial / RECORD).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    final = root / stage.name
    if final.exists():  # of another key: moved away whole, so that no mixture of the two is ever under the name
        outdated = root / f".{stage.name}.outdated.partial"
        shutil.rmtree(outdated, ignore_errors=True)
        os.replace(final, outdated)
        os.replace(partial, final)
        shutil.rmtree(outdated)
    else:
        os.replace(partial, final)
    return record
