"""How commands read files of rewards."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from tea.cli.output import print_curves, print_json, say_how_read


def parse_steps(steps: str | None) -> tuple[int | None, int | None] | None:
    """The value of ``--steps`` as first and last step; None where it was not given."""
    if steps is None:
        return None
    first, colon, last = steps.partition(":")
    try:
        low = int(first) if first else None
        high = (int(last) if last else None) if colon else low
    except ValueError:
        raise ValueError(f"--steps must be FIRST:LAST or one step, in whole numbers, got {steps!r}") from None
    return low, high


def check_missing(missing: str) -> Any:
    """The value of ``--missing``, if it is one."""
    if missing not in ("fail", "skip"):
        raise ValueError(f'--missing must be "fail" or "skip", got {missing!r}')
    return missing


def read_table(
    file: Path | str,
    columns: Sequence[str | None],
    *,
    prompt: str | None = None,
    model: str | None = None,
    samples: int | None = None,
    format: str | None = None,
    steps: str | None = None,
    missing: str = "skip",
    score_with: Sequence[str] | None = None,
    texts: bool = False,
) -> Any:
    """The table of some columns (None: the default reward); says how the file was read."""
    from tea.rewards import load_reward
    from tea.rollouts.io import read_rewards

    table = read_rewards(
        file,
        columns,
        prompt=prompt,
        model=model,
        num_samples=samples,
        format=format,
        steps=parse_steps(steps),
        missing=check_missing(missing),
        score_with=[load_reward(spec) for spec in score_with or []],
        texts=texts,
    )
    say_how_read(table)
    return table


def one_reward(file: Path, reward: str | None, **options: Any) -> tuple[str, Any, Any]:
    """Name of the one reward asked for, its complete matrix (P, k), and the table; options as of `read_table`.

    Forecasts, diagnostics and plans want as many rewards on every prompt: the first k, k the fewest that one has.
    """
    from tea.bestofn._inputs import complete_rewards

    table = read_table(file, [reward], **options)
    name = next(iter(table.rewards))
    matrix, left_out = complete_rewards(table.rewards[name])
    if left_out:
        typer.echo(f"note: {left_out} rewards more are left out, so that all prompts have {matrix.shape[1]}", err=True)
    return name, matrix, table


def print_run(run: Any, ns: list[int] | None, select_by: str | None, level: float, missing: str, json: bool) -> None:
    """Print the best-of-N curves of an evaluation, one per reward function, each of the samples that have it."""
    from tea.bestofn import best_of_n_curve
    from tea.rollouts import read_rewards

    curves = {}
    for name in run.rewards:
        table = read_rewards(run.path, [select_by or name, name], missing=check_missing(missing))
        for note in table.notes:
            typer.echo(f"note: {name}: {note}", err=True)
        picks, counted = (table.rewards[column] for column in table.columns)
        curves[name] = best_of_n_curve(select_by=picks, value=counted, ns=ns, level=level, missing="skip")
    if not json:
        how = f"selected by {select_by or 'itself'}"
        groups: dict[tuple[int, ...], dict[str, Any]] = {}
        for name, curve in curves.items():  # one table for all that go equally far
            groups.setdefault((curve.num_prompts, *curve.ns.tolist()), {})[name] = curve
        for group in groups.values():
            print_curves(group, how)
        return
    print_json(
        {
            "run": str(run.path),
            "settings": run.settings,
            "curves": {name: {"selected_by": select_by or name, **curve.to_dict()} for name, curve in curves.items()},
        }
    )
