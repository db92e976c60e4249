"""``tea train``."""

from __future__ import annotations

import typer

from tea.cli.output import errors

# Flags are those of the configuration, which the training script parses itself.
SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True}
HELP = "Train from a YAML file: tea train --config FILE [--flag value ...]; tea train --help lists the flags."


def command(context: typer.Context) -> None:
    """Run the training script in this process; for several, `accelerate launch -m tea.cli train --config ...`."""
    with errors():
        from tea.trainers.script import command as run

    run(context.args, prog="tea train")
