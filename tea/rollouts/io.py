"""Rewards as (P, n) matrices from the files people have: our own, plain tables, and those of other tools."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from tea.rewards.base import RewardFunction
from tea.rollouts.grouping import Missing, RewardTable, build_table
from tea.rollouts.importers import load_samples
from tea.rollouts.importers.base import Samples
from tea.rollouts.importers.own import REWARD_PREFIX as REWARD_PREFIX


def read_rewards(
    path: str | os.PathLike[str],
    columns: str | Sequence[str | None] | None = None,
    *,
    prompt: str | None = None,
    model: str | None = None,
    num_samples: int | None = None,
    format: str | None = None,
    steps: tuple[int | None, int | None] | None = None,
    missing: Missing = "skip",
    score_with: Sequence[RewardFunction] = (),
    texts: bool = False,
) -> RewardTable:
    """Read reward columns into (P, n) matrices.

    One row per sample (columns: prompt, reward, ...; rows of a prompt need not be adjacent and keep their order), or
    one row per prompt with a list of n rewards in the reward column. `.npy` holds a (P, n) array. Files of other tools
    are recognised by their content: see :mod:`tea.rollouts.importers`.

    Args:
        path: a file, or a directory with the files of one evaluation or training run.
        columns: reward column(s); None: "reward" if there is one, the tool's main one, or the only one.
        prompt: column that tells prompts apart; default: the tool's, or "prompt_id" if there is one, else "prompt".
        model: keep the rows whose `model` column is this; required where the file mixes models.
        num_samples: use only the first `num_samples` of each prompt (the rest is counted in `dropped`).
        format: which importer, if it shall not be recognised.
        steps: first and last training step to use (either may be None), where the file has steps. Default: the last
            step there is. Samples of one prompt from several steps are of several policies and stay apart.
        missing: "skip" leaves samples without a reward out, as NaN, and counts them in `notes`; prompts with rewards
            for fewer than half of their samples are left out altogether. "fail" makes them an error; "keep" leaves
            NaN where they are, in each column by itself, and says nothing.
        score_with: reward functions that score the completions in the file (by their names as columns), for files
            that hold no reward per sample, or another one.
        texts: whether to keep the completions.

    Raises:
        FileNotFoundError: no such file.
        ValueError: as :func:`tea.rollouts.importers.load_samples`; a column that is not there (with those that are),
            several rewards and none chosen, prompts with unequal numbers of samples, different prompts under one id,
            mixed models, a reward that is infinite or no number (or missing, with "fail"). Messages name the file,
            the row (1-based, without the header; for JSONL the line) and the column.
    """
    importer, samples = load_samples(path, format, texts=texts or bool(score_with))
    rows = _rows_of_steps(path, samples, steps)
    return build_table(path, importer, samples, rows, columns, prompt, model, num_samples, missing, score_with, texts)


def read_windows(
    path: str | os.PathLike[str],
    columns: str | Sequence[str | None] | None = None,
    *,
    window: int,
    prompt: str | None = None,
    num_samples: int | None = None,
    format: str | None = None,
    missing: Missing = "skip",
) -> list[tuple[int, int, RewardTable]]:
    """Rollouts of a training run, cut into windows of consecutive logged steps: (first step, last step, rewards).

    Args:
        path: the run's rollouts (TRL's completions, verl's rollout data).
        columns: as for :func:`read_rewards`, which the other arguments are of too.
        window: logged steps per window; the last window may be shorter.
        prompt: column that tells prompts apart.
        num_samples: use only the first of each prompt.
        format: which importer.
        missing: what to do about missing rewards.

    Raises:
        ValueError: no steps in the file, `window` below 1, or as :func:`read_rewards`.
    """
    importer, samples = load_samples(path, format)
    if "step" not in samples.columns:
        raise ValueError(f"{path}: {importer.tool} has no steps: --window is for rollouts of a training run")
    if window < 1:
        raise ValueError(f"--window must be at least 1, got {window}")
    step = np.asarray(samples.columns["step"])
    present = sorted(set(step.tolist()))
    windows = []
    for start in range(0, len(present), window):
        first, last = present[start], present[start : start + window][-1]
        rows = np.flatnonzero((step >= first) & (step <= last))
        table = build_table(path, importer, samples, rows, columns, prompt, None, num_samples, missing, (), False)
        windows.append((int(first), int(last), table))
    return windows


def _rows_of_steps(path: Any, samples: Samples, steps: tuple[int | None, int | None] | None) -> Any:
    length = len(next(iter(samples.columns.values())))
    if not samples.moving:
        if steps is not None and "step" not in samples.columns:
            raise ValueError(f"{path}: there are no training steps to choose from with --steps")
        if steps is None:
            return np.arange(length)
    step = np.asarray(samples.columns["step"])
    present = sorted(set(step.tolist()))
    first, last = (present[-1], present[-1]) if steps is None else steps
    rows = np.flatnonzero(
        (step >= (present[0] if first is None else first)) & (step <= (present[-1] if last is None else last))
    )
    if rows.size == 0:
        raise ValueError(
            f"{path}: no samples of steps {first} to {last}; there are steps {present[0]} to {present[-1]}"
        )
    used = sorted(set(step[rows].tolist()))
    if len(present) > 1:
        which = f"step {used[0]}, the last" if steps is None else f"{len(used)} steps, {used[0]} to {used[-1]}"
        samples.notes.append(
            f"of {len(present)} training steps, {present[0]} to {present[-1]}, this is {which}; --steps FIRST:LAST "
            "takes others, tea forecast --window the trend over all"
        )
    return rows
