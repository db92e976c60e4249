"""``tea demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tea.cli.output import errors


def command(
    seed: Annotated[int, typer.Option(help="Seed of everything: data, models, rollouts.")] = 1,
    output_dir: Annotated[Path, typer.Option(help="Where models and results go; reused by the next run.")] = Path(
        "outputs/demo"
    ),
) -> None:
    """Train a tiny language model with GRPO and with TEA, and show what each is worth under best-of-N."""
    from tea._extras import check_extra
    from tea.demo.run import main as run

    with errors():
        check_extra("trl", "tea demo")  # here and at once: its stages import it, in processes of their own
    run(seed=seed, output_dir=output_dir)
