"""``tea compare``."""

from __future__ import annotations

import json as json_module
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from tea.cli.options import (
    FORMAT,
    JSON,
    LEVEL,
    MISSING,
    NS,
    NUM_SAMPLES,
    PROMPT_COLUMN,
    REWARD_COLUMN,
    SCORE_WITH,
    STEPS,
)
from tea.cli.output import errors, parse_ns, print_json
from tea.cli.reading import read_table


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
    format: FORMAT = None,
    steps: STEPS = None,
    missing: MISSING = "skip",
    score_with: SCORE_WITH = None,
    level: LEVEL = 0.95,
    json: JSON = False,
) -> None:
    """Compare runs: curves, paired differences, Q-Q plots, forecasts against what came."""
    with errors():
        from tea.report import RunRewards, compare, markdown_report, write_report

        loaded = []
        for spec in runs:
            name, separator, path = spec.partition("=")
            if not separator or Path(spec).exists():
                name, path = Path(spec).stem if Path(spec).is_file() else Path(spec).name, spec
            table = read_table(
                path,
                [reward] if value is None else [reward, value],
                prompt=prompt,
                samples=samples,
                format=format,
                steps=steps,
                missing=missing,
                score_with=score_with,
                texts=output_dir is not None,
            )
            picks, counted = table.rewards[table.columns[0]], table.rewards[table.columns[-1]]
            loaded.append(
                RunRewards(
                    name,
                    picks,
                    None if value is None else counted,
                    table.prompts,
                    str(path),
                    settings=_settings(Path(path)),
                    completions=table.completions,
                )
            )
        comparison = compare(loaded, parse_ns(ns), level=level)
        if json:
            print_json(comparison.to_dict())
        else:
            typer.echo(markdown_report(comparison))
        if output_dir is not None:
            typer.echo(f"wrote {write_report(comparison, output_dir, title)}", err=True)


def _settings(path: Path) -> dict[str, Any]:
    """How an evaluation of ours was sampled; nothing of other files, which do not say."""
    record = (path if path.is_dir() else path.parent) / "run.json"
    if not record.is_file():
        return {}
    run = json_module.loads(record.read_text(encoding="utf-8"))
    return {"model": run["model"].get("model", ""), "prompts": run["dataset"]["source"], **run["sampling"]}
