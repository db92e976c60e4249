"""Which prompts are trained on and which are held out: counted, reproducible, and never both."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import Dataset, IterableDataset
from trl import DatasetMixtureConfig

from tea.trainers.arguments import TrainArguments
from tea.trainers.data import load_splits, prompts_of
from tea.trainers.errors import UserError

HELD_OUT_FILE = "held_out.jsonl"
DATA_FILE = "data.json"

# Of a streamed test split, which may have no end.
_MOST_STREAMED = 10_000


@dataclass
class TrainingData:
    """What a run trains on.

    Args:
        train: The rows to train on, with column "prompt".
        held_out: Rows whose prompts are not among them, or None.
        notes: What was done to get there, a line each, with counts.
        summary: The same for `data.json`: source, seed, counts and a fingerprint of the prompts.
    """

    train: Any
    held_out: Any
    notes: list[str] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)


def load_training_data(
    script_args: TrainArguments,
    dataset_args: DatasetMixtureConfig,
    *,
    seed: int = 42,
    evaluated: bool = False,
    length: Callable[[Any], int] | None = None,
) -> TrainingData:
    """Load, deduplicate, filter and split.

    Args:
        script_args: What to load and how to choose from it.
        dataset_args: TRL's mixture of datasets, instead of ``script_args.dataset_name``.
        seed: Decides which prompts are held out, whatever the order of the rows.
        evaluated: Held-out data is needed: from the test split, unless ``script_args.held_out`` takes it from training.
        length: Tokens of a prompt, for ``script_args.max_prompt_length``.

    Raises:
        UserError: If the data cannot be found or understood, a split or column is missing, nothing is left, or a
            held-out prompt is in the training data.
    """
    splits = load_splits(script_args, dataset_args)
    notes: list[str] = []
    train = _chosen(splits, script_args.dataset_train_split, script_args, notes, length)
    held_out = None
    if script_args.held_out is not None:
        train, held_out = _hold_out(train, script_args.held_out, seed)
        notes.append(f"held out by seed {seed}: {len(held_out):,} prompts")
    elif evaluated or dataset_args.test_split_size is not None:
        held_out = _chosen(splits, script_args.dataset_test_split, script_args, notes, length)
        if isinstance(held_out, IterableDataset):
            held_out = _read(held_out, script_args.dataset_test_split, script_args.deduplicate, notes)
    if held_out is not None:
        train = _without_leaks(train, held_out, script_args.held_out_overlap, notes)
    if isinstance(train, Dataset):
        notes.append(f"training prompts: {len(train):,}")
    else:
        notes.append("training prompts: streamed, neither counted nor deduplicated")
    summary = {
        "dataset_name": script_args.dataset_name or [d.path for d in dataset_args.datasets],
        "dataset_config": script_args.dataset_config,
        "dataset_data_dir": script_args.dataset_data_dir,
        "split": script_args.dataset_train_split,
        "seed": seed,
        "training_prompts": len(train) if isinstance(train, Dataset) else None,
        "training_fingerprint": fingerprint(train["prompt"]) if isinstance(train, Dataset) else None,
        "held_out_prompts": len(held_out) if isinstance(held_out, Dataset) else None,
        "held_out_fingerprint": fingerprint(held_out["prompt"]) if isinstance(held_out, Dataset) else None,
        "notes": notes,
    }
    return TrainingData(train, held_out, notes, summary)


def save_data_record(data: TrainingData, output_dir: str, resumed: bool) -> None:
    """Write `held_out.jsonl` and `data.json` into the run's directory; a resumed run must have the same held-out data.

    Raises:
        UserError: If the run was started with other held-out data.
    """
    folder = Path(output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    if resumed and (folder / DATA_FILE).is_file():
        before = json.loads((folder / DATA_FILE).read_text())
        # Of the training data the checkpoint itself knows.
        if before.get("held_out_fingerprint") != data.summary["held_out_fingerprint"]:
            raise UserError(
                f"the run in {output_dir!r} was started with other held-out prompts, see {HELD_OUT_FILE} there; resume "
                "with the same data, seed and held_out"
            )
        return
    if isinstance(data.held_out, Dataset):
        rows = (json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in data.held_out)
        _write(folder / HELD_OUT_FILE, rows)
    _write(folder / DATA_FILE, [json.dumps(data.summary, indent=2, ensure_ascii=False) + "\n"])


def prompt_fingerprint(prompt: Any) -> str:
    """What makes two prompts the same: their text, or the roles and contents of their messages, but for white space.

    A system message is not part of it, so that a prompt does not count as another one because of it.
    """
    if not isinstance(prompt, str):
        turns = [m for m in prompt if m.get("role") != "system"]
        prompt = "\x00".join(f"{m.get('role')}\x01{_text(m.get('content'))}" for m in turns)
        # One user turn is the same prompt as its text alone.
        if len(turns) == 1 and turns[0].get("role") == "user":
            prompt = _text(turns[0].get("content"))
    return hashlib.blake2b(re.sub(r"\s+", " ", prompt).strip().encode(), digest_size=16).hexdigest()


def fingerprint(prompts: Iterable[Any]) -> str:
    """A hash of prompts in their order."""
    digest = hashlib.blake2b(digest_size=16)
    for prompt in prompts:
        digest.update(prompt_fingerprint(prompt).encode())
    return digest.hexdigest()


def _text(content: Any) -> str:
    return content if isinstance(content, str) else json.dumps(content, sort_keys=True, default=str)


def _chosen(
    splits: dict[str, Any],
    split: str,
    script_args: TrainArguments,
    notes: list[str],
    length: Callable[[Any], int] | None,
) -> Any:
    """The rows of a split that have a prompt, are no duplicates and are short enough."""
    if split not in splits:
        flag = "dataset_train_split" if split == script_args.dataset_train_split else "dataset_test_split"
        held = ", or set held_out to take prompts from training" if flag == "dataset_test_split" else ""
        raise UserError(f"there is no split {split!r} in the dataset, which has: {', '.join(splits)}; set {flag}{held}")
    rows, made = prompts_of(splits[split], split, script_args)
    notes += [f"{split}: {note}" for note in made]
    limit = script_args.max_prompt_length if length is not None else None
    if isinstance(rows, IterableDataset):
        rows = rows.filter(lambda row: bool(row["prompt"]))
        return rows.filter(lambda row: length(row["prompt"]) <= limit) if length is not None and limit else rows
    count = len(rows)
    lost = []
    kept = [i for i, prompt in enumerate(rows["prompt"]) if prompt]
    if len(kept) < count:
        lost.append(f"{count - len(kept):,} without a prompt")
        rows = rows.select(kept)
    if script_args.deduplicate != "none":
        before = len(rows)
        rows = _deduplicated(rows, whole_row=script_args.deduplicate == "row")
        if len(rows) < before:
            lost.append(f"{before - len(rows):,} duplicates")
    if length is not None and limit is not None:
        before = len(rows)
        rows = rows.filter(lambda row: length(row["prompt"]) <= limit)
        if len(rows) < before:
            lost.append(f"{before - len(rows):,} longer than {limit} tokens")
    if lost:
        notes.append(f"{split}: of {count:,} rows {', '.join(lost)} are left out, {len(rows):,} stay")
    if len(rows) == 0:
        raise UserError(f"nothing is left of split {split!r}: of {count:,} rows, {', '.join(lost)}")
    return rows


def _deduplicated(rows: Dataset, *, whole_row: bool) -> Dataset:
    seen: set[str] = set()
    first = []
    prompts = rows if whole_row else rows["prompt"]
    for index, item in enumerate(prompts):
        key = json.dumps(item, sort_keys=True, default=repr) if whole_row else prompt_fingerprint(item)
        if key not in seen:
            seen.add(key)
            first.append(index)
    return rows if len(first) == len(rows) else rows.select(first)


def _hold_out(train: Any, wanted: float, seed: int) -> tuple[Any, Dataset]:
    if isinstance(train, IterableDataset):
        return _hold_out_of_stream(train, wanted)
    keys = [prompt_fingerprint(prompt) for prompt in train["prompt"]]
    unique = sorted(set(keys), key=lambda key: hashlib.blake2b(f"{seed}:{key}".encode()).digest())
    count = int(wanted) if wanted >= 1 else max(round(wanted * len(unique)), 1)
    if count >= len(unique):
        raise UserError(
            f"held_out = {wanted:g} leaves nothing to train on: there are {len(unique):,} different prompts"
        )
    chosen = set(unique[:count])
    first: dict[str, int] = {}
    for index, key in enumerate(keys):
        if key in chosen:
            first.setdefault(key, index)
    return train.select([i for i, key in enumerate(keys) if key not in chosen]), train.select(list(first.values()))


def _hold_out_of_stream(train: IterableDataset, wanted: float) -> tuple[IterableDataset, Dataset]:
    """The first different prompts of the stream, and the stream without them."""
    if wanted < 1:
        raise UserError(f"held_out = {wanted:g} is a share, but streamed data has no length; set a number of prompts")
    held: dict[str, Any] = {}
    for row in train:
        held.setdefault(prompt_fingerprint(row["prompt"]), row)
        if len(held) == int(wanted):
            break
    else:
        raise UserError(f"held_out = {wanted:g}, but the stream has {len(held):,} different prompts")
    keys = set(held)
    return train.filter(lambda row: prompt_fingerprint(row["prompt"]) not in keys), Dataset.from_list(
        list(held.values())
    )


def _read(stream: IterableDataset, split: str, deduplicate: str, notes: list[str]) -> Dataset:
    """The rows of a streamed test split: they are looked for among the training data, and written to the run."""
    rows = list(itertools.islice(stream, _MOST_STREAMED + 1))
    if not rows:
        raise UserError(f"nothing is left of split {split!r}")
    cut = len(rows) > _MOST_STREAMED
    held_out = Dataset.from_list(rows[:_MOST_STREAMED])
    if deduplicate != "none":
        held_out = _deduplicated(held_out, whole_row=deduplicate == "row")
    first = f"of the first {_MOST_STREAMED:,} rows of the stream, " if cut else ""
    notes.append(f"{split}: {first}{len(held_out):,} held-out prompts")
    return held_out


def _without_leaks(train: Any, held_out: Dataset, overlap: str, notes: list[str]) -> Any:
    held = {prompt_fingerprint(prompt) for prompt in held_out["prompt"]}
    if isinstance(train, IterableDataset):
        notes.append("held-out prompts are left out of the training data as it comes")
        return train.filter(lambda row: prompt_fingerprint(row["prompt"]) not in held)
    leaked = [i for i, prompt in enumerate(train["prompt"]) if prompt_fingerprint(prompt) in held]
    if not leaked:
        return train
    if overlap == "fail":
        raise UserError(
            f"{len(leaked):,} training prompts are in the held-out data too, such as row {leaked[0]}: "
            f"{str(train[leaked[0]]['prompt'])[:80]!r}; --held_out_overlap drop leaves them out of training"
        )
    notes.append(f"{len(leaked):,} training prompts are left out because they are in the held-out data")
    out = set(leaked)
    return train.select([i for i in range(len(train)) if i not in out])


def _write(path: Path, lines: Iterable[str]) -> None:
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.writelines(lines)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
