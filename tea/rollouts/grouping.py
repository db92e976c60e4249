"""Samples to (P, n) matrices: which column is the reward, which samples are of one prompt, which are missing."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tea.rewards.base import RewardFunction, score_completions
from tea.rollouts.importers.base import Importer, Samples
from tea.rollouts.importers.own import REWARD_PREFIX

FloatArray = npt.NDArray[np.float64]
Missing = Literal["fail", "skip", "keep"]


@dataclass(frozen=True)
class RewardTable:
    """Rewards of n samples for each of P prompts, read from one file or directory.

    Attributes:
        path: the file.
        prompts: P prompts (or their ids), in order of first appearance.
        rewards: reward column -> (P, n) float64; NaN where a reward is missing (with "skip" then in every column).
        num_tokens: (P, n) completion lengths in tokens where the file has a `num_tokens` column, else None.
        dropped: samples left out because `num_samples` asked for fewer than the file has.
        notes: what a user should know about how the file was read.
        tool: what it was recognised as.
        num_missing: missing rewards among those in `rewards`.
        completions: (P, n) texts, where they were asked for and the file has them.
        columns: the keys of `rewards` in the order asked for, a name twice where it was asked for twice.
    """

    path: str
    prompts: list[str]
    rewards: dict[str, FloatArray]
    num_tokens: FloatArray | None = None
    dropped: int = 0
    notes: list[str] = field(default_factory=list)
    tool: str = ""
    num_missing: int = 0
    completions: list[list[str]] | None = None
    columns: list[str] = field(default_factory=list)

    @property
    def shape(self) -> tuple[int, int]:
        """(P, n)."""
        first = next(iter(self.rewards.values()))
        return int(first.shape[0]), int(first.shape[1])

    @property
    def mean_tokens(self) -> float | None:
        """Mean length of a completion in tokens, where the file has them."""
        return None if self.num_tokens is None else float(np.nanmean(self.num_tokens))


def build_table(
    path: Any,
    importer: Importer,
    samples: Samples,
    rows: Any,
    columns: str | Sequence[str | None] | None,
    prompt: str | None,
    model: str | None,
    num_samples: int | None,
    missing: Missing,
    score_with: Sequence[RewardFunction],
    texts: bool,
) -> RewardTable:
    """The rows asked for as matrices, one row per prompt; arguments as of :func:`tea.rollouts.read_rewards`."""
    table = samples.columns
    rows = _one_model(path, table, rows, model)
    given = [columns] if columns is None or isinstance(columns, str) else list(columns)
    if score_with:
        table = _scored(path, table, rows, score_with)
        given = [score_with[0].__name__ if name is None else name for name in given]
    elif samples.unscored:
        raise ValueError(
            f"{path}: {samples.unscored}: score the responses again with --score-with, a verifier such as last_number "
            "or any reward that `tea score` takes"
        )
    chosen_columns = _reward_columns(path, table, samples, given)
    wanted = list(dict.fromkeys(chosen_columns))
    notes = list(samples.notes)
    key = prompt or samples.key or ("prompt_id" if "prompt_id" in table else "prompt")
    where: Callable[[int], str] = samples.where
    if isinstance(table[wanted[0]][int(rows[0])], list):
        table, rows, where = _one_row_per_sample(path, samples, table, wanted, key, prompt is not None, rows)
    if key not in table:
        raise ValueError(f"{path}: no column {key!r} to tell prompts apart; it has: {', '.join(table)}")

    ids: list[Any] = [_hashable(table[key][i]) for i in rows]
    stepped = "step" in table and samples.moving
    if stepped and len({table["step"][i] for i in rows}) > 1:
        ids = [(int(table["step"][i]), name) for i, name in zip(rows, ids, strict=True)]
    first_seen: dict[Any, int] = {}
    group = np.asarray([first_seen.setdefault(value, len(first_seen)) for value in ids])
    counts = np.bincount(group)
    names = [name if isinstance(name, str) else f"step {name[0]}: {name[1]}" for name in first_seen]
    if prompt is None and key != "prompt" and "prompt" in table:
        _check_one_prompt(path, key, names, group, [table["prompt"][i] for i in rows])
    keep = _samples_per_prompt(path, counts, names, num_samples)
    order = np.argsort(group, kind="stable")
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    chosen = order[(starts[:, None] + np.arange(keep)[None, :])]  # (P, keep) positions in `rows`
    labels = names
    if key != "prompt" and "prompt" in table and not isinstance(next(iter(first_seen)), tuple):
        labels = [_hashable(table["prompt"][rows[i]]) for i in chosen[:, 0]]
        labels = labels if len(set(labels)) == len(labels) else names
    rewards = {name: _numbers(name, table[name], rows, where, missing)[chosen] for name in wanted}
    dropped = int(rows.size - chosen.size)
    if dropped:
        notes.append(f"{dropped} samples beyond the first {keep} of each prompt were left out, as asked")
    if missing == "keep":
        used = np.ones(len(chosen), dtype=bool)
        lost = sum(int(np.isnan(matrix).sum()) for matrix in rewards.values())
    else:
        rewards, used, lost = _leave_out(path, rewards, notes)
    chosen = chosen[used]
    tokens = None
    if "num_tokens" in table:
        tokens = _numbers("num_tokens", table["num_tokens"], rows, where, "keep")[chosen]
    completions = None
    if texts and "completion" in table:
        completions = [[str(table["completion"][rows[i]]) for i in line] for line in chosen]
    return RewardTable(
        path=str(path),
        prompts=[label for label, keep_it in zip(labels, used, strict=True) if keep_it],
        rewards=rewards,
        num_tokens=tokens,
        dropped=dropped,
        notes=notes,
        tool=importer.tool,
        num_missing=lost,
        completions=completions,
        columns=chosen_columns,
    )


def _leave_out(
    path: Any, rewards: dict[str, FloatArray], notes: list[str]
) -> tuple[dict[str, FloatArray], npt.NDArray[np.bool_], int]:
    """Missing rewards as NaN in every column, and prompts that have too few left out; both said in `notes`."""
    gone = np.logical_or.reduce([np.isnan(matrix) for matrix in rewards.values()])
    used = gone.mean(axis=1) <= 0.5
    if not gone.any():
        return rewards, used, 0
    if not used.any():
        raise ValueError(
            f"{path}: {int(gone.sum())} of {gone.size} rewards are missing, and no prompt has rewards for half of its "
            f"samples (column {', '.join(rewards)})"
        )
    within = gone[used]
    if within.any():
        affected = int(within.any(axis=1).sum())
        notes.append(
            f"{int(within.sum())} of {within.size} rewards are missing, on {affected} of {len(within)} prompts (at "
            f"most {int(within.sum(axis=1).max())} of {gone.shape[1]} on one): left out. What is said is of the "
            "samples that have a reward"
        )
    if not used.all():
        notes.append(
            f"{int((~used).sum())} prompts have rewards for fewer than half of their samples and are left out "
            "altogether: what is said is of the others"
        )
    return (
        {name: np.where(within, np.nan, matrix[used]) for name, matrix in rewards.items()},
        used,
        int(within.sum()),
    )


def _check_one_prompt(path: Any, key: str, names: list[str], group: Any, prompts: list[Any]) -> None:
    seen: dict[int, Any] = {}
    for index, prompt in zip(group.tolist(), prompts, strict=True):
        if seen.setdefault(index, prompt) != prompt and prompt is not None:
            raise ValueError(
                f"{path}: different prompts under one id: {key} {_shorten(names[index])} has "
                f"{_shorten(_hashable(seen[index]))} and {_shorten(_hashable(prompt))}. If they are one (choices in "
                f"another order, say), --prompt {key} takes them as one; --prompt prompt goes by the text"
            )


def _scored(
    path: Any, table: Mapping[str, Sequence[Any]], rows: Any, rewards: Sequence[RewardFunction]
) -> dict[str, Sequence[Any]]:
    """The columns, with one more per reward function: the scores of the completions in `rows`."""
    missing = [name for name in ("prompt", "completion") if name not in table]
    if missing:
        raise ValueError(f"{path}: --score-with needs a column {missing[0]!r}; it has: {', '.join(table)}")
    prompts, completions = ([table[name][i] for i in rows] for name in ("prompt", "completion"))
    if "answer" not in table and any("answer" in _parameters(reward) for reward in rewards):
        raise ValueError(f"{path}: this verifier needs a column 'answer'; it has: {', '.join(table)}")
    others = {k: [v[i] for i in rows] for k, v in table.items() if k not in ("prompt", "completion")}
    result = dict(table)
    length = len(next(iter(table.values())))
    for reward in rewards:
        scores: list[float | None] = [None] * length
        for row, score in zip(rows, score_completions(reward, prompts, completions, others), strict=True):
            scores[row] = score
        result[reward.__name__] = scores
    return result


def _parameters(reward: RewardFunction) -> set[str]:
    return set(inspect.signature(reward).parameters)


def _samples_per_prompt(path: Any, counts: Any, names: list[str], num_samples: int | None) -> int:
    low, high = int(counts.min()), int(counts.max())
    if num_samples is not None and num_samples < 1:
        raise ValueError(f"--samples must be at least 1, got {num_samples}")
    if num_samples is not None and num_samples > low:
        short = names[int(np.argmin(counts))]
        raise ValueError(f"{path}: --samples {num_samples}, but prompt {_shorten(short)} has only {low} samples")
    if num_samples is None and low != high:
        ragged = int((counts != high).sum())
        raise ValueError(
            f"{path}: prompts have unequal numbers of samples, from {low} (prompt "
            f"{_shorten(names[int(np.argmin(counts))])}) to {high}; {ragged} of {len(counts)} prompts have fewer than "
            f"{high}. Complete them, or give --samples {low} to use the first {low} of each"
        )
    return num_samples or low


def _reward_columns(
    path: Any, table: Mapping[str, Sequence[Any]], samples: Samples, given: list[str | None]
) -> list[str]:
    wanted = []
    for name in given:
        if name is None:
            wanted.append(_default_reward(path, table, samples))
        elif name in table:
            wanted.append(name)
        elif REWARD_PREFIX + name in table:
            wanted.append(REWARD_PREFIX + name)
        else:
            raise ValueError(f"{path}: no column {name!r}; it has: {', '.join(table)}")
    return wanted


def _default_reward(path: Any, table: Mapping[str, Sequence[Any]], samples: Samples) -> str:
    if samples.default is not None:
        return samples.default
    if len(samples.rewards) == 1:
        return samples.rewards[0]
    if samples.rewards:
        names = [name.removeprefix(REWARD_PREFIX) for name in samples.rewards]
        raise ValueError(f"{path}: several rewards: {', '.join(names)}. Say which: --reward {names[0]}")
    raise ValueError(f'{path}: no column "reward"; name the reward column with --reward. It has: {", ".join(table)}')


def _one_model(path: Any, table: Mapping[str, Sequence[Any]], rows: Any, model: str | None) -> Any:
    if "model" not in table:
        if model is not None:
            raise ValueError(f"{path}: --model {model} was given, but there is no column 'model'")
        return rows
    models = [str(value) for value in table["model"]]
    present = sorted({models[i] for i in rows})
    if model is None:
        if len(present) > 1:
            raise ValueError(f"{path}: rows of several models ({', '.join(present)}); say which one with --model")
        return rows
    if model not in present:
        raise ValueError(f"{path}: no rows of model {model!r}; there are: {', '.join(present)}")
    return rows[np.asarray([models[i] == model for i in rows])]


def _one_row_per_sample(
    path: Any,
    samples: Samples,
    table: Mapping[str, Sequence[Any]],
    wanted: list[str],
    key: str,
    key_given: bool,
    rows: Any,
) -> tuple[dict[str, Sequence[Any]], Any, Callable[[int], str]]:
    """Rows of prompts with lists of rewards, as rows of samples; with their rows, and what to call one in a message."""
    if key_given and key not in table:
        raise ValueError(f"{path}: no column {key!r}; it has: {', '.join(table)}")
    names = [_hashable(table[key][i]) if key in table else str(i + 1) for i in rows]
    if len(set(names)) < len(names):
        repeated = next(name for i, name in enumerate(names) if name in names[:i])
        raise ValueError(f"{path}: prompt {_shorten(repeated)} has several rows, each with a list of rewards")
    columns: dict[str, list[Any]] = {key: [], **{column: [] for column in wanted}}
    owners: list[tuple[int, int]] = []
    for name, i in zip(names, rows.tolist(), strict=True):
        for column in wanted:
            if not isinstance(table[column][i], list):
                raise ValueError(f"{path}: row {i + 1}, column {column!r}: expected a list, got {table[column][i]!r}")
        lengths = [len(table[column][i]) for column in wanted]
        if len(set(lengths)) > 1:
            raise ValueError(f"{path}: row {i + 1}: columns {wanted} hold different numbers of samples: {lengths}")
        columns[key] += [name] * lengths[0]
        for column in wanted:
            columns[column] += table[column][i]
        owners += [(i, j + 1) for j in range(lengths[0])]

    def where(row: int) -> str:
        return f"{samples.where(owners[row][0])}, sample {owners[row][1]}"

    return dict(columns), np.arange(len(owners)), where


def _numbers(
    column: str, values: Sequence[Any], rows: Any, where: Callable[[int], str], missing: Missing
) -> FloatArray:
    """`values[rows]` as float64, NaN where missing."""
    try:
        array = np.asarray(values, dtype=np.float64)[rows]  # None becomes NaN
        if np.isfinite(array).all() or (missing != "fail" and not np.isinf(array).any()):
            return np.asarray(array)
    except (TypeError, ValueError):
        pass  # something is no number: find it
    result = np.empty(len(rows), dtype=np.float64)
    for position, index in enumerate(rows):
        value = values[index]
        gone = value is None or value == ""
        try:
            number = math.nan if gone else float(value)
        except (TypeError, ValueError):
            number = math.inf
        gone = gone or math.isnan(number)
        if math.isinf(number) or (gone and missing == "fail"):
            what = "missing" if value is None or value == "" else f"{value!r}"
            hint = "; --missing skip leaves such samples out" if gone else ""
            raise ValueError(f"{where(int(index))}, column {column!r}: the value is {what}, not a finite number{hint}")
        result[position] = number
    return result


def _hashable(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)


def _shorten(text: str, width: int = 60) -> str:
    return repr(text if len(text) <= width else text[: width - 3] + "...")
