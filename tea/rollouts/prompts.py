"""Prompts with the other columns of their data set."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tea._extras import needs_extra
from tea.rollouts.base import Prompt


@dataclass(frozen=True)
class PromptSet:
    """Prompts with the other columns of their data set.

    Attributes:
        prompts: plain text, or conversations (lists of {"role", "content"}).
        columns: name -> one JSON-able value per prompt; handed to the reward functions.
        source: where they come from, for the record.
    """

    prompts: list[Prompt]
    columns: dict[str, list[Any]] = field(default_factory=dict)
    source: str = "memory"

    def __post_init__(self) -> None:
        if not self.prompts:
            raise ValueError(f"there are no prompts in {self.source}")
        for name, values in self.columns.items():
            if len(values) != len(self.prompts):
                raise ValueError(f"column {name!r} has {len(values)} values for {len(self.prompts)} prompts")

    def lines(self) -> list[str]:
        """One JSON object per prompt: prompt_id, prompt, columns."""
        return [
            json.dumps(
                {"prompt_id": i, "prompt": prompt, "columns": {k: v[i] for k, v in self.columns.items()}},
                ensure_ascii=False,
            )
            for i, prompt in enumerate(self.prompts)
        ]


def load_prompts(
    dataset: str, *, split: str | None = None, prompt_column: str = "prompt", limit: int | None = None
) -> PromptSet:
    """Prompts from a JSONL, JSON, CSV or Parquet file, a directory written by `save_to_disk`, or a hub data set.

    Args:
        dataset: path or hub id.
        split: which split; needed where there are several, ignored for plain files.
        prompt_column: the column of prompts, text or conversations.
        limit: use only the first `limit` prompts.

    Raises:
        ValueError: no such column (with those that are), several splits and none chosen, or no prompts.
    """
    with needs_extra("trl", "loading prompts"):
        import datasets

    path = Path(dataset)
    kinds = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
    if path.is_file():
        if path.suffix not in kinds:
            raise ValueError(f"{dataset}: unknown kind of file {path.suffix!r}; known: {', '.join(kinds)}")
        if path.stat().st_size == 0:
            raise ValueError(f"{dataset}: the file is empty")
        loaded = datasets.load_dataset(kinds[path.suffix], data_files=str(path), split="train")
    elif path.is_dir() and ((path / "state.json").is_file() or (path / "dataset_dict.json").is_file()):
        loaded = datasets.load_from_disk(dataset)
        if isinstance(loaded, datasets.DatasetDict):
            loaded = _split(loaded, dataset, split)
    else:
        loaded = datasets.load_dataset(dataset, split=split)
        if isinstance(loaded, datasets.DatasetDict):
            loaded = _split(loaded, dataset, split)
    if prompt_column not in loaded.column_names:
        raise ValueError(f"{dataset}: no column {prompt_column!r}; it has: {', '.join(loaded.column_names)}")
    if limit is not None:
        if limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}")
        loaded = loaded.select(range(min(limit, len(loaded))))
    columns = {name: list(loaded[name]) for name in loaded.column_names if name != prompt_column}
    return PromptSet(list(loaded[prompt_column]), columns, dataset + (f"[{split}]" if split else ""))


def _split(loaded: Mapping[str, Any], dataset: str, split: str | None) -> Any:
    if split is None and len(loaded) == 1:
        return next(iter(loaded.values()))
    if split is None or split not in loaded:
        raise ValueError(f"{dataset}: choose a split of {', '.join(loaded)}, got {split!r}")
    return loaded[split]


def read_prompts(directory: Path) -> PromptSet:
    """The prompts of a run, from its ``prompts.jsonl``."""
    records = [json.loads(line) for line in (directory / "prompts.jsonl").read_text(encoding="utf-8").splitlines()]
    names = records[0]["columns"]
    return PromptSet(
        [record["prompt"] for record in records],
        {name: [record["columns"][name] for record in records] for name in names},
        str(directory),
    )
