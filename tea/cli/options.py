"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

JSON = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
FILE = Annotated[
    Path, typer.Argument(help="JSONL, Parquet, CSV or .npy file of rewards, or a directory written by `tea eval`.")
]
REWARD_COLUMN = Annotated[
    Optional[str],  # noqa: UP045 - typer evaluates the annotation, on Python 3.10 too
    typer.Option("--reward", help='Reward column; default "reward", or the only one of an evaluation.'),
]
PROMPT_COLUMN = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--prompt", help='Column that tells prompts apart; default "prompt_id", else "prompt".'),
]
MODEL_FILTER = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--model", help="Use only rows whose `model` column is this."),
]
NUM_SAMPLES = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option("--samples", help="Use only the first this many samples of each prompt."),
]
NS = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--ns", help="Values of N, separated by commas."),
]
LEVEL = Annotated[float, typer.Option(help="Confidence level of the intervals.")]
