"""``tea diagnose``."""

from __future__ import annotations

import textwrap
from typing import Annotated

import typer

from tea.cli.options import (
    FILE,
    FORMAT,
    JSON,
    LEVEL,
    MISSING,
    MODEL_FILTER,
    NUM_SAMPLES,
    PROMPT_COLUMN,
    REWARD_COLUMN,
    SCORE_WITH,
    STEPS,
)
from tea.cli.output import errors, print_json, print_table
from tea.cli.reading import one_reward


def command(
    file: FILE,
    reward: REWARD_COLUMN = None,
    prompt: PROMPT_COLUMN = None,
    model: MODEL_FILTER = None,
    samples: NUM_SAMPLES = None,
    format: FORMAT = None,
    steps: STEPS = None,
    missing: MISSING = "skip",
    score_with: SCORE_WITH = None,
    num_generations: Annotated[
        int, typer.Option("-m", "--num-generations", help="Rollouts per prompt in training.")
    ] = 16,
    target_n: Annotated[int, typer.Option(help="Samples per prompt at deployment.")] = 128,
    epochs: Annotated[float, typer.Option(help="How often training comes back to a prompt.")] = 1.0,
    level: LEVEL = 0.95,
    json: JSON = False,
) -> None:
    """Say what the rewards in a file look like in the upper tail, and which estimator to train with on them."""
    with errors():
        from tea.bestofn import diagnose, recommend

        name, matrix, _ = one_reward(
            file,
            reward,
            prompt=prompt,
            model=model,
            samples=samples,
            format=format,
            steps=steps,
            missing=missing,
            score_with=score_with,
        )
        for flag, given in (("--num-generations", num_generations - 1), ("--target-n", target_n), ("--epochs", epochs)):
            if given < 1:
                raise ValueError(f"{flag} is too small: --num-generations is at least 2, the others at least 1")
        found = diagnose(matrix, level=level)
        advice = recommend(matrix, num_generations=num_generations, target_n=target_n, visits=epochs, diagnostics=found)
        if json:
            print_json({"file": str(file), "reward": name, **found.to_dict(), "recommendation": advice.to_dict()})
            return
        rows = [
            ["all rewards 0 or 1", "yes" if found.binary else "no"],
            ["prompts with constant rewards", f"{found.constant_share:.1%}"],
            ["prompts with ties in the upper quarter", f"{found.tied_share:.1%}"],
            ["prompts saturated at the largest reward", f"{found.saturated_share:.1%}"],
        ]
        if not found.binary:
            rows.append(["prompts with a Gaussian upper quarter (95% if all)", f"{found.gaussian_share:.1%}"])
        for label, entry in (
            ("tail power p (2 Gaussian, 1 exponential)", found.tail_power),
            ("Pareto shape xi (0 exponential, < 0 bounded)", found.tail_shape),
        ):
            if entry is not None:
                rows.append([label, f"{entry[0]:.2f} [{entry[1]:.2f}, {entry[2]:.2f}]"])
        print_table(f"Diagnostics of {name}", ["finding", "value"], rows)
        for note in found.notes:
            typer.echo(f"  - {note}")
        if advice.measured is not None:
            table = [
                [
                    ", ".join([row["estimator"], *(f"{k}={v}" for k, v in row["options"].items() if k != "target_n")]),
                    f"{row['efficiency']:.1%} ± {2 * row['efficiency_se']:.1%}",
                ]
                for row in advice.efficiencies
            ]
            m, n = advice.measured
            print_table(f"Estimators on these rewards, m = {m}, N = {n}", ["estimator", "efficiency"], table)
        typer.echo("\nRecommended, for a trainer's YAML:\n")
        typer.echo(textwrap.indent(advice.yaml(), "    "))
        typer.echo("because")
        for reason in advice.reasons:
            typer.echo(f"  - {reason}")
