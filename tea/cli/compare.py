"""``tea compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from tea.cli.options import JSON, LEVEL, NS, NUM_SAMPLES, PROMPT_COLUMN, REWARD_COLUMN
from tea.cli.output import errors, parse_ns, print_json, say_how_read


def command(
    runs: Annotated[
        list[str], typer.Argument(help="Files or `tea eval` directories; name=PATH names one. The first is the base.")
    ],
    reward: REWARD_COLUMN = None,
    value: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Column whose value counts, while --reward selects (a gold reward, a judge)."),
    ] = None,
    output_dir: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Write report.html (stands alone), report.md, its figures and report.json here."),
    ] = None,
    title: Annotated[str, typer.Option(help="Title of the report.")] = "Best-of-N comparison",
    ns: NS = None,
    prompt: PROMPT_COLUMN = None,
    samples: NUM_SAMPLES = None,
    level: LEVEL = 0.95,
    json: JSON = False,
) -> None:
    """Compare runs: curves, paired differences, Q-Q plots, forecasts against what came."""
    with errors():
        from tea.report import RunRewards, compare, markdown_report, write_report
        from tea.rollouts import read_rewards

        loaded = []
        for spec in runs:
            name, separator, path = spec.partition("=")
            if not separator or Path(spec).exists():
                name, path = Path(spec).stem if Path(spec).is_file() else Path(spec).name, spec
            columns = None if reward is None else [reward]
            table = read_rewards(path, columns, prompt=prompt, num_samples=samples)
            counted = None
            if value is not None:
                other = read_rewards(path, [value], prompt=prompt, num_samples=samples)
                counted = next(iter(other.rewards.values()))
            say_how_read(table)
            loaded.append(RunRewards(name, next(iter(table.rewards.values())), counted, table.prompts, str(path)))
        comparison = compare(loaded, parse_ns(ns), level=level)
        if json:
            print_json(comparison.to_dict())
        else:
            typer.echo(markdown_report(comparison))
        if output_dir is not None:
            typer.echo(f"wrote {write_report(comparison, output_dir, title)}", err=True)
