"""``tea explain``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from tea.cli.options import FILE, FORMAT, JSON, MISSING, MODEL_FILTER, PROMPT_COLUMN, REWARD_COLUMN, STEPS
from tea.cli.output import errors, print_json, print_table
from tea.cli.reading import read_table


def command(
    file: FILE,
    output_dir: Annotated[Path, typer.Option(help="Where explain.html and explain.png go.")] = Path("outputs/explain"),
    row: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Which prompt, counted from 0; default: the one with the median spread of rewards."),
    ] = None,
    num_generations: Annotated[
        int, typer.Option("-m", "--num-generations", help="Rewards shown: the first this many of the prompt.")
    ] = 16,
    target_n: Annotated[int, typer.Option(help="Samples per prompt at deployment.")] = 128,
    tail_fraction: Annotated[float, typer.Option(help="Tail fraction of TEA.")] = 0.25,
    reward: REWARD_COLUMN = None,
    prompt: PROMPT_COLUMN = None,
    model: MODEL_FILTER = None,
    format: FORMAT = None,
    steps: STEPS = None,
    missing: MISSING = "skip",
    json: JSON = False,
) -> None:
    """The advantage that each estimator gives to each reward of a prompt: a table, a figure, a page to play with."""
    with errors():
        from tea.report.explain import explain, explanation_rows, group_of, typical_prompt, write_explanation

        if num_generations < 2:
            raise ValueError(f"--num-generations must be at least 2, got {num_generations}")
        if target_n < 1:
            raise ValueError(f"--target-n must be at least 1, got {target_n}")
        if not 0.0 < tail_fraction <= 1.0:
            raise ValueError(f"--tail-fraction must be in (0, 1], got {tail_fraction}")
        table = read_table(file, [reward], prompt=prompt, model=model, format=format, steps=steps, missing=missing)
        matrix = table.rewards[table.columns[0]]
        if row is None:
            row = typical_prompt(matrix, num_generations)
        if not 0 <= row < len(matrix):
            raise ValueError(f"--row must be from 0 to {len(matrix) - 1}, got {row}")
        rewards = group_of(matrix, row, num_generations)
        shown = table.prompts[row]
        shown = f"Prompt {shown}" if shown.isdigit() else shown
        found = explain(rewards, target_n, tail_fraction=tail_fraction, prompt=shown)
        paths = write_explanation(found, output_dir)
        for path in paths:
            typer.echo(f"wrote {path}", err=True)
        if json:
            advantages = {name: values.tolist() for name, values in found.advantages.items()}
            print_json(
                {
                    "file": str(file),
                    "row": row,
                    "target_n": target_n,
                    "rewards": found.rewards.tolist(),
                    "advantages": advantages,
                }
            )
            return
        header, rows = explanation_rows(found)
        title = f"Advantage over its root mean square, prompt {row}, N = {target_n}"
        for start in range(1, len(header), 5):  # as many columns as a terminal of 80 shows
            columns = [0, *range(start, min(start + 5, len(header)))]
            print_table(title, [header[i] for i in columns], [[line[i] for i in columns] for line in rows])
