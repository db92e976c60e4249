"""``tea demo``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    seed: Annotated[int, typer.Option(help="Seed of everything: data, models, rollouts.")] = 1,
    output_dir: Annotated[Path, typer.Option(help="Where models and results go; reused by the next run.")] = Path(
        "outputs/demo"
    ),
) -> None:
    """Train a tiny language model with GRPO and with TEA, and show what each is worth under best-of-N."""
    from tea.demo.run import main as run

    run(seed=seed, output_dir=output_dir)
