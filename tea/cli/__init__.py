"""The command line. Commands import what they need when they run, so that help is instant."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tea.cli import bestofn

app = typer.Typer(
    name="tea",
    help="Train language models for best-of-N deployment, and measure what it gives.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


@app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    add_help_option=False,
    help="Train from a YAML file: tea train --config FILE [--flag value ...]; tea train --help lists the flags.",
)
def train(context: typer.Context) -> None:
    """Run the training script in this process; for several, `accelerate launch -m tea.cli train --config ...`."""
    from tea.trainers.script import main as run
    from tea.trainers.script import parse

    try:
        arguments = parse(context.args, prog="tea train")
    except (ValueError, TypeError, OSError) as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from error
    run(*arguments).end()


@app.command()
def estimators() -> None:
    """List the advantage estimators, with what they are and where they are from."""
    from rich.console import Console
    from rich.table import Table

    from tea.estimators import list_estimators

    table = Table("name", "what it is", "source", "options")
    for spec in list_estimators():
        options = [name for name in spec.parameters if name not in ("monotone", "center", "scale")]
        table.add_row(spec.name, spec.summary, spec.source, ", ".join(options))
    Console().print(table)


@app.command()
def demo(
    seed: Annotated[int, typer.Option(help="Seed of everything: data, models, rollouts.")] = 1,
    output_dir: Annotated[Path, typer.Option(help="Where models and results go; reused by the next run.")] = Path(
        "outputs/demo"
    ),
) -> None:
    """Train a tiny language model with GRPO and with TEA, and show what each is worth under best-of-N."""
    from tea.demo.run import main as run

    run(seed=seed, output_dir=output_dir)


bestofn.register(app)


def main() -> None:
    """Entry point of the `tea` command."""
    app()
