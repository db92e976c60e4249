"""lighteval's details: ``details/{model}/{time}/details_{task}_{time}.parquet``.

A row per document: doc, model_response with `text`, a list of responses, and metric, one value per metric for all of
them together (``DetailsLogger.Detail``, read in lighteval 0.13): every response has to be scored again. Details pushed
to the hub name the same columns ``__doc__``, ``__model_response__``, ``__metric__``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tea.rollouts.formats import read_parquet
from tea.rollouts.importers.base import Importer, Peek, Samples, columns_of

_NAMES = ({"doc", "model_response", "metric"}, {"__doc__", "__model_response__", "__metric__"})


def _recognises(peek: Peek) -> bool:
    return peek.suffix == ".parquet" and any(names <= peek.keys for names in _NAMES)


def _read(paths: Sequence[Path], texts: bool) -> Samples:
    (path,) = paths
    table = {name.strip("_"): values for name, values in read_parquet(path).items()}
    samples = Samples({}, key="doc_id", unscored="lighteval keeps one value per document, not one per response")
    rows: list[dict[str, Any]] = []
    for number, (doc, response) in enumerate(zip(table["doc"], table["model_response"], strict=True)):
        gold = doc["gold_index"]
        first = gold[0] if isinstance(gold, list) else gold
        choices = doc.get("choices") or []
        answer = choices[first] if isinstance(first, int) and 0 <= first < len(choices) else None
        rows += [
            {"doc_id": number, "prompt": doc["query"], "completion": text, "answer": answer}
            for text in response["text"]
        ]
    if not rows:
        raise ValueError(f"{path}: no document has a response: the task has likelihoods of choices, not samples")
    samples.columns = dict(columns_of(rows))
    samples.places = [(path, len(rows))]
    return samples


IMPORTER = Importer(
    name="lighteval",
    tool="details of lighteval",
    looks_for="Parquet with doc, model_response and metric",
    recognises=_recognises,
    read=_read,
)
