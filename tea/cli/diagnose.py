"""``tea diagnose``."""

from __future__ import annotations

import typer

from tea.cli.options import FILE, JSON, LEVEL, MODEL_FILTER, NUM_SAMPLES, PROMPT_COLUMN, REWARD_COLUMN
from tea.cli.output import errors, one_reward, print_json, print_table


def command(
    file: FILE,
    reward: REWARD_COLUMN = None,
    prompt: PROMPT_COLUMN = None,
    model: MODEL_FILTER = None,
    samples: NUM_SAMPLES = None,
    level: LEVEL = 0.95,
    json: JSON = False,
) -> None:
    """Say what the rewards in a file look like in the upper tail, and what they support."""
    with errors():
        from tea.bestofn import diagnose

        name, matrix = one_reward(file, reward, prompt, model, samples)
        found = diagnose(matrix, level=level)
        if json:
            print_json({"file": str(file), "reward": name, **found.to_dict()})
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
