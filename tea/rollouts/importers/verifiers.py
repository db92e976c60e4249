"""verifiers' ``vf-eval``: ``results.jsonl`` (0.1) or ``traces.jsonl`` (v1, since 0.2).

0.1 has a line per rollout with example_id (earlier: id), prompt, completion, reward and each metric
(``state_to_output``, read in 0.1.14). v1 has a line per episode with its traces; a trace's reward is the sum of its
weighted rewards, and None where scoring did not run (``Trace``, read in 0.4.0).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tea.rollouts.importers.base import Importer, Peek, Samples, columns_of, jsonl_records, numeric, text_of


def _recognises(peek: Peek) -> bool:
    keys = peek.keys
    if {"prompt", "completion", "reward"} <= keys and ({"example_id"} <= keys or {"id", "metrics"} <= keys):
        return True
    return _is_episode(peek.record)


def _is_episode(record: Mapping[str, Any]) -> bool:
    return isinstance(record.get("traces"), list) and isinstance(record.get("task"), Mapping)


def _read(paths: Sequence[Path], texts: bool) -> Samples:
    samples = Samples({}, key="example_id", default="reward")
    rows = []
    for path, record in jsonl_records(paths, samples):
        if _is_episode(record):
            rows.append(_of_episode(path, record))
            continue
        record.setdefault("example_id", record.pop("id", None))
        scored = None if record.get("error") else record["reward"]
        rows.append({**record, "reward": scored, "completion": text_of(record["completion"])})
    samples.columns = dict(columns_of(rows))
    samples.rewards = numeric(columns_of(rows), ("example_id", "is_completed", "is_truncated"))
    return samples


def _of_episode(path: Path, episode: Mapping[str, Any]) -> dict[str, Any]:
    task = episode["task"]
    identity = task.get("key") or task.get("hash") or task.get("data", {}).get("idx")
    if identity is None:
        raise ValueError(f"{path}: a task has neither key, hash nor idx: its samples cannot be put together")
    row = {"example_id": identity, "prompt": task.get("data", {}).get("prompt"), "reward": None, "completion": ""}
    traces = [trace for trace in episode["traces"] if trace.get("agent", {}).get("trainable", True)]
    if len(traces) > 1:
        raise ValueError(
            f"{path}: an episode has {len(traces)} trainable agents; which one's reward counts is not known here. "
            "Export prompt and reward of that agent as JSONL"
        )
    for trace in traces:
        rewards = trace.get("rewards", {})
        values = {name: None if reward is None else reward["score"] for name, reward in rewards.items()}
        if rewards and trace.get("ok") and None not in values.values():
            row["reward"] = sum(reward["score"] * reward.get("weight", 1.0) for reward in rewards.values())
        said = [node["message"] for node in trace.get("nodes", []) if node.get("sampled")]
        row = {**values, **row, "completion": text_of(said)}
    return row


IMPORTER = Importer(
    name="verifiers",
    tool="an evaluation by verifiers",
    looks_for="JSONL with example_id (or id and metrics), prompt, completion and reward, or episodes with traces",
    recognises=_recognises,
    read=_read,
)
