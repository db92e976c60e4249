"""The command line: one module per command, whose ``command`` is mounted here.

Commands import what they need when they run, so that help is instant.
"""

from __future__ import annotations

import typer

from tea.cli import compare, curve, demo, diagnose, estimators, eval, explain, forecast, merge, plan, score, train

app = typer.Typer(
    name="tea",
    help="Train language models for best-of-N deployment, and measure what it gives.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

app.command("train", context_settings=train.SETTINGS, add_help_option=False, help=train.HELP)(train.command)
app.command("merge")(merge.command)
app.command("estimators")(estimators.command)
app.command("demo")(demo.command)
app.command("eval")(eval.command)
app.command("score")(score.command)
app.command("curve")(curve.command)
app.command("forecast")(forecast.command)
app.command("diagnose")(diagnose.command)
app.command("plan")(plan.command)
app.command("explain")(explain.command)
app.command("compare")(compare.command)


def main() -> None:
    """Entry point of the `tea` command."""
    app()
