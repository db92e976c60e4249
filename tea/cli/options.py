"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

JSON = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
FILE = Annotated[
    Path,
    typer.Argument(
        help="File or directory of rewards: of `tea eval`, TRL, verl, verifiers, inspect, evalscope, lm-eval, "
        "lighteval or scorio, or a table (JSONL, Parquet, CSV, .npy). Recognised by content."
    ),
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
FORMAT = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--format", help="What wrote the file, where it shall not be recognised: tea, trl, verl, ..."),
]
STEPS = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option(
        "--steps", help="Training steps to use: FIRST:LAST (either may be left out), or one; default the last."
    ),
]
MISSING = Annotated[
    str,
    typer.Option("--missing", help='Samples without a reward: "skip" leaves them out and counts them, "fail" refuses.'),
]
SCORE_WITH = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--score-with", help="Score the completions in the file with this reward, as for `tea score`."),
]
MAX_REWARD = Annotated[
    Optional[float],  # noqa: UP045
    typer.Option("--max-reward", help="Largest reward there can be; default: found where many prompts tie at the top."),
]
