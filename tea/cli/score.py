"""``tea score``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from tea.cli.options import JSON, LEVEL, MISSING, NS
from tea.cli.output import errors, parse_ns
from tea.cli.reading import check_missing, print_run


def command(
    run_dir: Annotated[Path, typer.Argument(help="Directory written by `tea eval`.")],
    reward: Annotated[list[str], typer.Option(help="As for `tea eval`; repeat for several.")],
    replace: Annotated[bool, typer.Option(help="Replace scores of the same name.")] = False,
    device: Annotated[Optional[str], typer.Option(help="Default: CUDA if present.")] = None,  # noqa: UP045
    reward_batch_size: Annotated[int, typer.Option(help="Texts per forward pass of a reward model.")] = 32,
    ns: NS = None,
    select_by: Annotated[Optional[str], typer.Option(help="Reward that selects; default: each its own.")] = None,  # noqa: UP045
    level: LEVEL = 0.95,
    missing: MISSING = "skip",
    trust_remote_code: Annotated[bool, typer.Option(help="Run code that comes with a checkpoint.")] = False,
    json: JSON = False,
) -> None:
    """Score the stored completions of a run with more reward functions."""
    with errors():
        check_missing(missing)  # before anything is paid for
        from tea.rewards import load_reward
        from tea.rollouts import score_run

        rewards = [
            load_reward(spec, batch_size=reward_batch_size, device=device, trust_remote_code=trust_remote_code)
            for spec in reward
        ]
        run = score_run(run_dir, rewards, replace=replace)
        if run is not None:
            print_run(run, parse_ns(ns), select_by, level, missing, json)
