"""reasoning-gym's tasks: rows to train or evaluate on, and their score, by one name (extra ``gym``).

A name is what follows ``reasoning_gym:`` in a data set's or a reward's name:

    chain_sum                                   one of reasoning-gym's tasks
    chain_sum,min_terms=2,max_terms=3           with options of the task
    chain_sum:3+leg_counting:1                  a mixture, three to one
    mixture.yaml                                a mixture in reasoning-gym's own file format, options included
    chain_sum,size=2000,seed=1                  number of rows (default 500) and seed (default 0) of the data

Every row carries what its score needs, so that the same reward serves rows of any size, seed or mixture, and several of
them at once.
"""

from __future__ import annotations

import ast
import difflib
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from tea.rewards.base import Text, completion_texts

INSTRUCTION = "Think step by step. Then give only the final answer between <answer> and </answer> tags."
"""Follows every question: the score reads the last pair of tags."""

DEFAULT_SIZE = 500
DEFAULT_SEED = 0


def gym_tasks() -> list[str]:
    """The names of reasoning-gym's tasks, sorted.

    Raises:
        ImportError: reasoning-gym is not installed.
    """
    _require()
    from reasoning_gym.factory import DATASETS

    return sorted(set(DATASETS) - {"composite"})  # that one is the mixture


def gym_rows(name: str, *, size: int | None = None, seed: int | None = None) -> list[dict[str, str]]:
    """Rows of a task or mixture, the same for the same arguments.

    Args:
        name: see the module's docstring; "reasoning_gym:" before it is allowed.
        size: number of rows; default: the one in `name`, else 500.
        seed: seed of the rows; default: the one in `name`, else 0. Held-out rows are those of another seed.

    Returns:
        One dictionary of strings per row: "prompt" (question and instruction), "answer" (reasoning-gym's own; empty for
        tasks that check answers without having one), "task", and "gym_source" and "gym_entry" for the score.

    Raises:
        ImportError: reasoning-gym is not installed.
        ValueError: there is no such task or option, or a size below 1.
    """
    encoded = json.dumps(_parse(name, size, seed), sort_keys=True)
    if os.environ.get("PYTHONHASHSEED") == "0":
        return _generate(encoded)
    # Some tasks draw from sets, whose order changes with every process. All processes of a run must see the same rows.
    result = subprocess.run(
        [sys.executable, "-c", "from tea.rewards import gym; gym._print_rows()"],
        input=encoded,
        env={**os.environ, "PYTHONHASHSEED": "0", "PYTHONPATH": os.pathsep.join(path or "." for path in sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        raise RuntimeError(f"reasoning_gym:{name}: rows could not be generated:\n{result.stderr[-2000:]}")
    return list(json.loads(result.stdout))


def _generate(encoded: str) -> list[dict[str, str]]:
    source = json.loads(encoded)
    dataset = _dataset(encoded)
    rows = []
    for index in range(source["size"]):
        entry = _plain(dataset[index])
        rows.append(
            {
                "prompt": f"{entry['question']}\n\n{INSTRUCTION}",
                "answer": "" if entry["answer"] is None else str(entry["answer"]),
                "task": str(entry["metadata"].get("source_dataset", source["tasks"][0]["name"])),
                "gym_source": encoded,
                "gym_entry": repr(entry),  # not JSON: entries hold tuples, sets and keys that are numbers
            }
        )
    return rows


def _print_rows() -> None:
    rows = _generate(sys.stdin.read())
    sys.__stdout__.write(json.dumps(rows))  # type: ignore[union-attr]


def _plain(value: Any) -> Any:
    """`value` such that :func:`ast.literal_eval` reads back its ``repr``."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set)):
        return type(value)(_plain(item) for item in value)
    if hasattr(value, "item"):  # a numpy scalar
        return value.item()
    if value is None or isinstance(value, (str, bytes, bool, int, float, complex)):
        return value
    return [_plain(item) for item in value]  # a dictionary's keys


class GymReward:
    """Scores completions of :func:`gym_rows`' prompts as reasoning-gym does, in [0, 1].

    The answer is what stands between the last <answer> and </answer>; a completion without them gets 0.

    Args:
        name: as for :func:`gym_rows`; rows of other tasks are refused. "": rows of any task.

    Raises:
        ImportError: reasoning-gym is not installed.
        ValueError: there is no such task or option.
    """

    def __init__(self, name: str = "") -> None:
        _require()
        self._tasks: set[str] | None = None
        if name:
            self._tasks = {task["name"] for task in _parse(name)["tasks"]}
        self.source = f"reasoning_gym:{name}" if name else "reasoning_gym"
        self.fingerprint = f"reasoning_gym-{_version()}"
        self.__name__ = "reasoning_gym"

    def __call__(
        self,
        prompts: Sequence[Text],
        completions: Sequence[Text],
        gym_source: Sequence[str] | None = None,
        gym_entry: Sequence[str] | None = None,
        **kwargs: Any,
    ) -> list[float | None]:
        """Score each completion; see :class:`tea.rewards.RewardFunction`.

        Raises:
            ValueError: the rows do not come from :func:`gym_rows`, or are of a task that the reward was not made for.
        """
        from reasoning_gym.utils import extract_answer

        if gym_source is None or gym_entry is None:
            raise ValueError(
                f"reward {self.source!r} scores rows of reasoning-gym and needs their columns gym_source and "
                f"gym_entry: name the same task as data set ({self.source!r})"
            )
        scores: list[float | None] = []
        for text, source, encoded in zip(completion_texts(completions), gym_source, gym_entry, strict=True):
            entry = _entry(encoded)
            task = entry["metadata"].get("source_dataset")
            if self._tasks is not None and task is not None and task not in self._tasks:
                raise ValueError(f"reward {self.source!r} is given a row of task {task!r}; use reward 'reasoning_gym'")
            scores.append(_score(_dataset(source), extract_answer(text), entry))
        return scores


def _score(dataset: Any, answer: str | None, entry: dict[str, Any]) -> float:
    if answer is None:
        return 0.0
    try:
        return float(dataset.score_answer(answer, entry))
    except Exception:  # several tasks raise on an answer that they cannot read, whatever a policy may write
        return 0.0


def _require() -> None:
    try:
        import reasoning_gym  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"reasoning_gym tasks need the package reasoning-gym: pip install 'tea-rl[gym]' ({error})"
        ) from None


def _version() -> str:
    from importlib.metadata import version

    return version("reasoning-gym")


def _parse(name: str, size: int | None = None, seed: int | None = None) -> dict[str, Any]:
    """The tasks, size and seed that `name` stands for: {"tasks": [{"name", "weight", "config"}], "size", "seed"}."""
    import yaml

    _require()
    head, *settings = name.removeprefix("reasoning_gym:").split(",")
    options: dict[str, Any] = {}
    for setting in settings:
        key, separator, value = setting.partition("=")
        if not separator or not key.strip():
            raise ValueError(f"reasoning_gym:{name}: {setting!r} should read option=value")
        options[key.strip()] = yaml.safe_load(value)
    named: dict[str, Any] = {"size": options.pop("size", None), "seed": options.pop("seed", None)}
    if head.endswith((".yaml", ".yml")):
        tasks, file_values = _from_yaml(Path(head))
        named = {key: file_values.get(key) if value is None else value for key, value in named.items()}
    else:
        tasks = []
        for part in head.split("+"):
            label, separator, weight = part.strip().partition(":")
            try:
                tasks.append({"name": label, "weight": float(weight) if separator else 1.0, "config": {}})
            except ValueError:
                raise ValueError(f"reasoning_gym:{name}: the weight of {label!r} is {weight!r}, not a number") from None
    if options:
        if len(tasks) > 1:
            raise ValueError(
                f"reasoning_gym:{name}: options ({', '.join(options)}) of a mixture's tasks go into a YAML file, "
                "reasoning_gym:FILE.yaml, with datasets: [{name: ..., weight: ..., config: {...}}]"
            )
        tasks[0]["config"].update(options)
    _check_tasks(name, tasks)
    chosen_size = next(value for value in (size, named["size"], DEFAULT_SIZE) if value is not None)
    chosen_seed = next(value for value in (seed, named["seed"], DEFAULT_SEED) if value is not None)
    for key, number, least in (("size", chosen_size, 1), ("seed", chosen_seed, 0)):
        if not isinstance(number, int) or number < least:
            raise ValueError(f"reasoning_gym:{name}: {key} must be a whole number of at least {least}, got {number!r}")
    source = {"tasks": tasks, "size": chosen_size, "seed": chosen_seed}
    try:
        _dataset(json.dumps(source, sort_keys=True))
    except (TypeError, ValueError, AssertionError) as error:
        raise ValueError(f"reasoning_gym:{name}: {_option_error(tasks, error)}") from error
    return source


def _check_tasks(name: str, tasks: list[dict[str, Any]]) -> None:
    known = gym_tasks()
    names = [task["name"] for task in tasks]
    for task in tasks:
        if task["name"] not in known:
            near = difflib.get_close_matches(task["name"], known, n=3)
            hint = f"did you mean {', '.join(near)}?" if near else f"there are: {', '.join(known)}"
            raise ValueError(f"reasoning-gym has no task {task['name']!r}; {hint}")
        if not task["weight"] > 0:
            raise ValueError(f"reasoning_gym:{name}: weights must be positive, got {task['weight']} of {task['name']}")
    if len(set(names)) < len(names):
        raise ValueError(f"reasoning_gym:{name}: a task is named twice")


def _option_error(tasks: list[dict[str, Any]], error: Exception) -> str:
    from dataclasses import fields

    from reasoning_gym.factory import DATASETS

    for task in tasks:
        have = [field.name for field in fields(DATASETS[task["name"]][1])]
        unknown = sorted(set(task["config"]) - set(have))
        if unknown:
            return f"task {task['name']} has no option {unknown[0]!r}; it has: {', '.join(have)}"
    return str(error)


def _from_yaml(path: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    import yaml

    if not path.is_file():
        raise ValueError(f"there is no file {str(path)!r} with a reasoning-gym mixture")
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    datasets = content.get("datasets") if isinstance(content, dict) else None
    if not isinstance(datasets, list) or not all(isinstance(item, dict) and "name" in item for item in datasets):
        raise ValueError(f"{path}: expected datasets: [{{name: ..., weight: ..., config: {{...}}}}, ...]")
    tasks = [
        {"name": item["name"], "weight": float(item.get("weight", 1.0)), "config": dict(item.get("config") or {})}
        for item in datasets
    ]
    return tasks, {key: content.get(key) for key in ("size", "seed")}


@lru_cache(maxsize=64)
def _dataset(encoded: str) -> Any:
    """The data set of an encoded source; kept, since some tasks load files."""
    import reasoning_gym
    from reasoning_gym.composite import DatasetSpec

    source = json.loads(encoded)
    if len(source["tasks"]) == 1:
        task = source["tasks"][0]
        return reasoning_gym.create_dataset(task["name"], size=source["size"], seed=source["seed"], **task["config"])
    specs = [DatasetSpec(**task) for task in source["tasks"]]
    return reasoning_gym.create_dataset("composite", size=source["size"], seed=source["seed"], datasets=specs)


@lru_cache(maxsize=256)
def _entry(encoded: str) -> dict[str, Any]:
    """A row's entry; kept, since a prompt's completions are scored together."""
    return dict(ast.literal_eval(encoded))
