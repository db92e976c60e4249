"""``tea curve``."""

from __future__ import annotations

from typing import Annotated, Optional

import typer

from tea.cli.options import FILE, JSON, LEVEL, MODEL_FILTER, NS, NUM_SAMPLES, PROMPT_COLUMN, REWARD_COLUMN
from tea.cli.output import errors, parse_ns, print_curves, print_json, say_how_read, without_nan


def command(
    file: FILE,
    reward: REWARD_COLUMN = None,
    value: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Column whose value counts, while --reward selects (a gold reward, a judge)."),
    ] = None,
    ns: NS = None,
    over: Annotated[str, typer.Option(help='Interval over new "prompts", or over new "samples" of these.')] = "prompts",
    prompt: PROMPT_COLUMN = None,
    model: MODEL_FILTER = None,
    samples: NUM_SAMPLES = None,
    level: LEVEL = 0.95,
    json: JSON = False,
) -> None:
    """The best-of-N curve of a file of rewards, unbiased, with intervals."""
    with errors():
        from tea.bestofn import best_of_n_curve
        from tea.report import format_interval
        from tea.rollouts import read_rewards

        columns = None if reward is None else [reward]
        table = read_rewards(file, columns, prompt=prompt, model=model, num_samples=samples)
        picks = next(iter(table.rewards.values()))
        counted = None
        if value is not None:
            other = read_rewards(file, [value], prompt=prompt, model=model, num_samples=samples)
            counted = next(iter(other.rewards.values()))
        if over not in ("prompts", "samples"):
            raise ValueError(f'--over must be "prompts" or "samples", got {over!r}')
        curve = best_of_n_curve(
            picks,
            parse_ns(ns),
            value=counted,
            over=over,  # type: ignore[arg-type]
            level=level,
        )
        say_how_read(table)
        selecting = next(iter(table.rewards))
        if json:
            names = {"file": str(file), "selected_by": selecting, "value": value or selecting}
            print_json({**names, **curve.to_dict(), "peak": without_nan(curve.peak())})
        else:
            print_curves({value or selecting: curve}, f"selected by {selecting}")
            peak = curve.peak()
            if value is not None and peak["drop"] > 0:
                sure = "has turned down" if peak["drop_ci_low"] > 0 else "may have turned down"
                drop = format_interval(peak["drop"], peak["drop_ci_low"], peak["drop_ci_high"])
                typer.echo(f"{value} {sure}: highest at N = {peak['n']}, lower by {drop} at N = {curve.ns.max()}")
