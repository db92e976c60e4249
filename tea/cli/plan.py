"""``tea plan``."""

from __future__ import annotations

import math
from typing import Annotated, Optional

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
    cost: Annotated[float, typer.Option(help="Cost of one sample, in the unit of --value times reward.")] = 0.0,
    cost_per_token: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Cost of one token instead; the mean length is read from the file's num_tokens column."),
    ] = None,
    value: Annotated[float, typer.Option(help="Worth of one unit of reward, per prompt.")] = 1.0,
    target: Annotated[Optional[float], typer.Option(help="Best-of-N value to reach.")] = None,  # noqa: UP045
    min_gain: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Least gain in reward that makes a doubling of N worth while."),
    ] = None,
    max_n: Annotated[Optional[int], typer.Option(help="Largest N considered; default 16 n.")] = None,  # noqa: UP045
    budget: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Total number of samples to split over the prompts, those in the file included."),
    ] = None,
    rollouts: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Rollouts per training step: say which group size to train --train-n with."),
    ] = None,
    train_n: Annotated[int, typer.Option(help="N to train for, with --rollouts.")] = 128,
    estimator: Annotated[str, typer.Option(help="Estimator to train with, with --rollouts.")] = "tea",
    false_positive_rate: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="For 0/1 rewards: share of wrong samples that the verifier in use accepts."),
    ] = None,
    wrong_cost: Annotated[float, typer.Option(help="Cost of a wrong answer, a correct one being worth 1.")] = 1.0,
    method: Annotated[str, typer.Option(help="Method of the forecast, as for `tea forecast`.")] = "auto",
    reward: REWARD_COLUMN = None,
    prompt: PROMPT_COLUMN = None,
    model: MODEL_FILTER = None,
    samples: NUM_SAMPLES = None,
    format: FORMAT = None,
    steps: STEPS = None,
    missing: MISSING = "skip",
    score_with: SCORE_WITH = None,
    level: LEVEL = 0.95,
    json: JSON = False,
) -> None:
    """Weigh what more samples give against what they cost; split a budget over prompts."""
    with errors():
        from tea.bestofn import imperfect_verifier, plan_samples, plan_training, split_budget
        from tea.report import format_interval

        for flag, given in (("--cost", cost), ("--cost-per-token", cost_per_token or 0.0), ("--value", value)):
            if not (math.isfinite(given) and given >= 0):
                raise ValueError(f"{flag} must be finite and at least 0, got {given}")
        if max_n is not None and max_n < 1:
            raise ValueError(f"--max-n must be at least 1, got {max_n}")
        name, matrix, table = one_reward(
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
        if cost_per_token is not None:
            if table.mean_tokens is None:
                raise ValueError(f"{file}: no column 'num_tokens', which --cost-per-token needs; give --cost")
            cost += cost_per_token * table.mean_tokens
        if budget is not None and budget < matrix.size:
            raise ValueError(f"--budget must be at least the {matrix.size} samples already taken, got {budget}")
        if rollouts is not None and train_n > matrix.shape[1]:
            raise ValueError(
                f"--rollouts needs at least --train-n samples per prompt to measure with: {train_n}, and there are "
                f"{matrix.shape[1]}; give a smaller --train-n"
            )
        plan = plan_samples(
            matrix,
            cost_per_sample=cost,
            value_per_reward=value,
            target=target,
            min_gain_per_doubling=min_gain,
            max_n=max_n,
            method=method,  # type: ignore[arg-type]
            level=level,
        )
        split = None if budget is None else split_budget(matrix, budget, method=method)  # type: ignore[arg-type]
        training = None if rollouts is None else plan_training(matrix, rollouts, train_n, estimator=estimator)
        verifier = None
        if false_positive_rate is not None:
            verifier = imperfect_verifier(matrix, false_positive_rate, wrong_cost=wrong_cost)
        if json:
            result = {"file": str(file), "reward": name, **plan.to_dict(), "training": training, "verifier": verifier}
            if split is not None:
                result["split"] = {
                    "budget": split.budget,
                    "expected": split.expected,
                    "expected_uniform": split.expected_uniform,
                    "samples": dict(zip(table.prompts, split.samples.tolist(), strict=True)),
                }
            print_json(result)
            return
        rows = [
            [
                f"{n}{'' if n <= plan.num_samples else ' (forecast)'}",
                format_interval(plan.values[i], plan.ci_low[i], plan.ci_high[i]),
                f"{plan.gain_per_doubling[i]:.4g}" if plan.gain_per_doubling[i] == plan.gain_per_doubling[i] else "",
                f"{plan.net[i]:.4g}",
            ]
            for i, n in enumerate(plan.ns.tolist())
        ]
        print_table(f"Samples per prompt, {name}", ["N", "best of N", "gain of doubling", "value - cost"], rows)
        low, high = plan.best_n_range
        if cost == 0:
            typer.echo(
                "no cost was given (--cost, --cost-per-token): more samples never lose, so there is no best N "
                "here. What can be read off is what a doubling gains; --min-gain and --target turn that into an N"
            )
        if cost > 0:
            alike = "" if low == high else f" (not distinguishable from it: N = {low} to {high})"
            typer.echo(f"largest value minus cost: N = {plan.best_n}{alike}")
        if min_gain is not None:
            reached = f"from N = {plan.doubling_n}" if plan.doubling_n else f"nowhere up to N = {plan.ns[-1]}"
            typer.echo(f"doubling gains less than {min_gain:g}: {reached}")
        if target is not None:
            ends = [str(n) if n else f"beyond {plan.ns[-1]}" for n in plan.target_n_range]
            reached = f"N = {plan.target_n}" if plan.target_n else f"not up to N = {plan.ns[-1]}"
            typer.echo(f"target {target:g} reached: {reached} (interval: {ends[0]} to {ends[1]})")
        if split is not None:
            typer.echo(
                f"splitting {budget} samples by what each prompt gains: mean {split.expected:.4g} expected, against "
                f"{split.expected_uniform:.4g} when split evenly; {split.samples.min()} to {split.samples.max()} "
                "samples per prompt (--json lists them)"
            )
        if verifier is not None:
            typer.echo(
                f"with a verifier that accepts {false_positive_rate:.1%} of the wrong samples, and a wrong answer "
                f"costing {wrong_cost:g}: more than N = {verifier['best_n']} samples hurt"
            )
        if training is not None:
            training_rows = [
                [
                    f"{r['group_size']}{' (recommended)' if r['recommended'] else ''}",
                    str(r["prompts_per_step"]),
                    f"{r['efficiency']:.1%} ± {r['efficiency_se']:.1%}",
                    f"{r['effective_rollouts']:.0f}",
                ]
                for r in training
            ]
            header = ["m", "prompts per step", "efficiency", "effective rollouts"]
            print_table(f"Training for N = {train_n} with {estimator}, {rollouts} rollouts", header, training_rows)
        if plan.verdict != "ok":
            typer.echo(f"the forecast: {plan.verdict}")
            for reason in plan.reasons:
                typer.echo(f"  - {reason}")
