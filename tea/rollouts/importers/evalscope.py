"""evalscope's reviews: ``outputs/{time}/reviews/{model}/{benchmark}_{subset}.jsonl``.

A line per sample, with sample_score.group_id (the prompt), generation_index and score.value, a number per metric, of
which main_score_name is the first to be taken (``ReviewResult``, read in evalscope 1.14.1). A score whose status says
that it is not usable has no value: the reward is missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tea.rollouts.importers.base import Importer, Peek, Samples, columns_of, jsonl_records, text_of


def _recognises(peek: Peek) -> bool:
    score = peek.record.get("sample_score")
    return isinstance(score, dict) and "score" in score


def _read(paths: Sequence[Path], texts: bool) -> Samples:
    samples = Samples({}, key="group_id")
    rows: list[dict[str, Any]] = []
    metrics: dict[str, None] = {}
    for path, record in jsonl_records(sorted(paths), samples):
        scored = record["sample_score"]
        score = scored["score"]
        group = scored.get("group_id")
        if group is None:
            group = scored.get("sample_id")
        values = score.get("value") or {}
        metrics.update(dict.fromkeys(values))
        samples.default = samples.default or score.get("main_score_name")
        messages = record.get("messages") or []
        said = [message for message in messages if message.get("role") == "assistant"]
        rows.append(
            {
                **values,
                "group_id": f"{path.stem}/{group}" if len(paths) > 1 else group,
                "prompt": text_of([message for message in messages if message.get("role") != "assistant"]),
                "completion": score.get("prediction") or text_of(said[-1:]),
                "answer": (record.get("target") or [None])[0],
            }
        )
    samples.columns = dict(columns_of(rows))
    samples.rewards = tuple(metrics)
    if len(paths) > 1:
        samples.notes.append(f"{len(paths)} files together: {', '.join(path.name for path in sorted(paths))}")
    return samples


IMPORTER = Importer(
    name="evalscope",
    tool="reviews of evalscope",
    looks_for="JSONL with sample_score (group_id, score)",
    recognises=_recognises,
    read=_read,
    several=True,
)
