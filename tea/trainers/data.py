"""From what a user names as data to prompts that TRL trains on; `docs/data.md` says what is understood."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datasets import (
    Dataset,
    DatasetDict,
    IterableDataset,
    IterableDatasetDict,
    load_dataset,
    load_from_disk,
)
from datasets.exceptions import DatasetsError
from trl import DatasetMixtureConfig, get_dataset

from tea.trainers.arguments import TrainArguments
from tea.trainers.errors import UserError, told_to_user

GYM = "reasoning_gym:"

_FILE_FORMATS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}

# Where prompts are, in this order. `instruction`: UltraFeedback's original columns; `question`: GSM8K;
# `chosen`: preference pairs without a prompt column, such as hh-rlhf.
_PROMPT_COLUMNS = ("prompt", "messages", "question", "instruction", "chosen")

# TRL takes some of these for the prompt's twin (a row with `messages` counts as a conversation, whatever its prompt)
# and passes others to reward functions itself.
_RESERVED = ("messages", "chosen", "rejected", "completion", "completions", "completion_ids", "prompts")

_TURN = re.compile(r"\n\n(Human|Assistant):")

Messages = list[dict[str, Any]]


def load_splits(script_args: TrainArguments, dataset_args: DatasetMixtureConfig) -> dict[str, Any]:
    """The splits of the dataset that the arguments name, as they come.

    Raises:
        UserError: If no dataset or two are named, or it cannot be found or read.
    """
    if bool(script_args.dataset_name) == bool(dataset_args.datasets):
        given = "both are given" if script_args.dataset_name else "neither is given"
        raise UserError(f"name the data in exactly one of dataset_name and datasets; {given}")
    if dataset_args.datasets:
        with told_to_user(OSError, ValueError, DatasetsError, what="datasets"):
            data = get_dataset(dataset_args)
    else:
        data = _load_one(script_args)
    if not isinstance(data, (DatasetDict, IterableDatasetDict)):
        return {script_args.dataset_train_split: data}
    return dict(data)


def _load_one(script_args: TrainArguments) -> Any:
    name = str(script_args.dataset_name)
    if name.startswith(GYM):
        from tea.rewards.gym import gym_rows

        with told_to_user(ValueError, ImportError, what=f"dataset_name {name!r}"):
            return Dataset.from_list(gym_rows(name.removeprefix(GYM)))
    path = Path(name).expanduser()
    options: dict[str, Any] = {"streaming": script_args.dataset_streaming}
    what = f"dataset_name {name!r}"
    if (path.suffix in _FILE_FORMATS or name.startswith((".", "/", "~"))) and not path.exists():
        raise UserError(f"{what}: there is no such file or directory, seen from {Path.cwd()}")
    if path.is_file():
        if path.suffix not in _FILE_FORMATS:
            raise UserError(f"{what}: files are read if they end in {', '.join(_FILE_FORMATS)}")
        if path.stat().st_size == 0:
            raise UserError(f"{what}: the file is empty")
        return _loaded(what, path, lambda: load_dataset(_FILE_FORMATS[path.suffix], data_files=str(path), **options))
    if (path / "state.json").exists() or (path / "dataset_dict.json").exists():
        return _loaded(what, path, lambda: load_from_disk(str(path)))
    if script_args.dataset_config is not None:
        options["name"] = script_args.dataset_config
    if script_args.dataset_data_dir is not None:
        options["data_dir"] = script_args.dataset_data_dir
    return _loaded(what, path, lambda: load_dataset(str(path) if path.is_dir() else name, **options))


def _loaded(what: str, path: Path, load: Callable[[], Any]) -> Any:
    try:
        return load()
    # RuntimeError: a dataset that is a Python script, which `datasets` no longer runs.
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        if path.suffix in (".jsonl", ".json") and path.is_file() and (broken := _broken_line(path)):
            raise UserError(f"{what}: {broken}") from error
        cause = error.__cause__ or error
        text = " ".join(str(cause).split())
        if isinstance(error, ConnectionError) or "Couldn't reach" in text:
            raise UserError(
                f"{what} is neither a file or directory here nor can the hub be asked for it: {text}"
            ) from error
        raise UserError(f"{what} cannot be loaded: {text}") from error


def _broken_line(path: Path) -> str | None:
    """What is wrong with the first line that is not JSON, if the file has a row to a line."""
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            if number == 1 and line.lstrip().startswith("["):
                return None  # one JSON array
            try:
                if line.strip() and not isinstance(json.loads(line), dict):
                    return f"line {number} is not a JSON object: {line.strip()[:60]!r}"
            except json.JSONDecodeError as error:
                cut = "" if line.endswith("\n") else ", and the file ends in it: was it cut off?"
                return f"line {number} is not JSON ({error.msg} at column {error.colno}){cut}"
    return None


def prompts_of(rows: Any, split: str, script_args: TrainArguments) -> tuple[Any, list[str]]:
    """Rows with their prompts, text or messages, in the column "prompt", and what was done to get there.

    Raises:
        UserError: If there are no rows, or no column holds prompts.
    """
    rows, columns, example = _look_at(rows, split)
    column = script_args.prompt_column or next((name for name in _PROMPT_COLUMNS if name in columns), None)
    if column is None:
        raise UserError(
            f"no column of split {split!r} looks like prompts ({', '.join(_PROMPT_COLUMNS)}); "
            f"set prompt_column to one of: {', '.join(columns)}"
        )
    if column not in columns:
        raise UserError(f"prompt_column {column!r} is not in split {split!r}, which has: {', '.join(columns)}")
    kind = type(example[column]).__name__
    if not isinstance(example[column], (str, list)):
        raise UserError(f"prompt_column {column!r} holds {kind}, not text or messages, in split {split!r}")
    chat = script_args.chat_prompts or script_args.system_prompt is not None
    system = [{"role": "system", "content": script_args.system_prompt}] if script_args.system_prompt else []
    gsm8k = isinstance(example.get("answer"), str) and "\n#### " in example["answer"] and "rationale" not in columns

    def convert(row: dict[str, Any]) -> dict[str, Any]:
        prompt = to_prompt(row[column], answered=column in ("messages", "chosen"))
        if isinstance(prompt, str) and chat:
            prompt = [{"role": "user", "content": prompt}]
        if isinstance(prompt, list) and prompt:
            prompt = [*system, *prompt]
        out = {"prompt": prompt or None}
        if gsm8k:
            rationale, _, final = str(row["answer"]).rpartition("\n#### ")
            number = final.replace(",", "").strip()
            out |= {"answer": number, "solution": number, "rationale": rationale}
        return out

    dropped = [name for name in columns if name in _RESERVED]
    # All of them at once, so that a column of another type can take the name "prompt".
    replaced = sorted({*dropped, column, *(["prompt"] if "prompt" in columns else [])} - {"answer"})
    notes = [] if column == "prompt" else [f"prompts are column {column!r}"]
    lost = [name for name in dropped if name != column]
    if lost:
        notes.append(
            f"columns that TRL would misread are left out: {', '.join(lost)} (rename one to pass it to a reward)"
        )
    if gsm8k:
        notes.append("columns 'answer' and 'solution' are the number after ####; the text before it is 'rationale'")
    unchanged = column == "prompt" and not lost and not gsm8k and not chat and isinstance(example["prompt"], str)
    if unchanged and not example["prompt"].startswith("\n\nHuman:"):
        return rows, notes
    return rows.map(convert, remove_columns=replaced), notes


def to_prompt(value: Any, *, answered: bool = False) -> str | Messages | None:
    r"""Text or messages to be answered: a dialogue's last answer is taken off where there is one.

    Args:
        value: Text, a list of messages, or a dialogue in the form of hh-rlhf (``"\n\nHuman: ...\n\nAssistant: "``).
        answered: Messages end with the answer of a dataset; otherwise they are left as they are.

    Returns:
        None where nothing is asked.
    """
    if value is None:
        return None
    if isinstance(value, str):
        if not value.startswith("\n\nHuman:"):
            return value if value.strip() else None
        turns = _TURN.split(value)[1:]
        value = [
            {"role": "user" if speaker == "Human" else "assistant", "content": content.strip()}
            for speaker, content in zip(turns[::2], turns[1::2], strict=True)
        ]
        answered = True
    messages = [{key: item for key, item in message.items() if item is not None} for message in value]
    while answered and messages and messages[-1].get("role") == "assistant":
        messages.pop()
    return messages or None


def _look_at(rows: Any, split: str) -> tuple[Any, list[str], dict[str, Any]]:
    """The rows, the names of their columns and one of them."""
    if isinstance(rows, IterableDataset):
        with told_to_user(OSError, ValueError, DatasetsError, what=f"split {split!r}"):
            example = next(iter(rows), None)
    else:
        example = rows[0] if len(rows) else None
    if example is None:
        raise UserError(f"split {split!r} of the dataset has no rows")
    return rows, list(example), dict(example)
