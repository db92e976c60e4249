"""lm-eval with ``--log_samples``: ``samples_{task}_{date}.jsonl``.

A line per document and filter, with `resps`, the responses of each of its requests (``repeats`` many), and one value
per metric for all of them together (read in lm-eval 0.4.13): every response has to be scored again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tea.rollouts.importers.base import Importer, Peek, Samples, columns_of, jsonl_records


def _recognises(peek: Peek) -> bool:
    return {"doc_id", "resps", "filtered_resps"} <= peek.keys


def _read(paths: Sequence[Path], texts: bool) -> Samples:
    (path,) = paths
    samples = Samples({}, key="doc_id")
    samples.unscored = "lm-eval keeps one value per document, not one per response"
    rows: list[dict[str, Any]] = []
    filters: dict[str, None] = {}
    for _, record in jsonl_records(paths, samples):
        filters[str(record.get("filter"))] = None
        if record.get("filter") != next(iter(filters)):
            continue  # the same responses, seen through another filter
        if len(record["resps"]) != 1 or not all(isinstance(response, str) for response in record["resps"][0]):
            raise ValueError(
                f"{path}: document {record['doc_id']} has likelihoods of choices, not responses: only generate_until "
                "tasks have samples to choose from"
            )
        arguments = (record.get("arguments") or {}).get("gen_args_0", {})
        document = {key: value for key, value in record.get("doc", {}).items() if key not in ("prompt", "completion")}
        rows += [
            {
                **document,
                "doc_id": record["doc_id"],
                "prompt": arguments.get("arg_0", ""),
                "completion": response,
                "answer": record.get("target"),
            }
            for response in record["resps"][0]
        ]
    samples.places = [(path, len(rows))]
    samples.columns = dict(columns_of(rows))
    return samples


IMPORTER = Importer(
    name="lm-eval",
    tool="samples of lm-eval",
    looks_for="JSONL with doc_id, resps and filtered_resps",
    recognises=_recognises,
    read=_read,
)
