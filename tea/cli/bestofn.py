"""The best-of-N commands of the command line; :func:`register` mounts them on an app.

torch, transformers, scipy and matplotlib are imported inside the commands, so that help is instant.
"""

from __future__ import annotations

import json as json_module
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Optional

import typer

_JSON = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
_FILE = Annotated[
    Path, typer.Argument(help="JSONL, Parquet, CSV or .npy file of rewards, or a directory written by `tea eval`.")
]
_REWARD_COLUMN = Annotated[
    Optional[str],  # noqa: UP045 - typer evaluates the annotation, on Python 3.10 too
    typer.Option("--reward", help='Reward column; default "reward", or the only one of an evaluation.'),
]
_PROMPT_COLUMN = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--prompt", help='Column that tells prompts apart; default "prompt_id", else "prompt".'),
]
_MODEL_FILTER = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--model", help="Use only rows whose `model` column is this."),
]
_NUM_SAMPLES = Annotated[
    Optional[int],  # noqa: UP045
    typer.Option("--samples", help="Use only the first this many samples of each prompt."),
]
_NS = Annotated[
    Optional[str],  # noqa: UP045
    typer.Option("--ns", help="Values of N, separated by commas."),
]
_LEVEL = Annotated[float, typer.Option(help="Confidence level of the intervals.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to `app`."""
    app.command("eval")(eval_command)
    app.command("score")(score_command)
    app.command("curve")(curve_command)
    app.command("forecast")(forecast_command)
    app.command("diagnose")(diagnose_command)
    app.command("plan")(plan_command)
    app.command("compare")(compare_command)


def eval_command(
    model: Annotated[str, typer.Argument(help="Causal language model: hub id or local directory.")],
    dataset: Annotated[str, typer.Option(help="Prompts: JSONL, CSV or Parquet file, saved data set, or hub id.")],
    output_dir: Annotated[Path, typer.Option(help="New directory, or that of an interrupted run to resume.")],
    reward: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            help="Reward model (path or hub id), verifier, module:function or URL; repeat for several; "
            "name=... renames. Without one, completions are only stored (see `tea score`)."
        ),
    ] = None,
    adapter: Annotated[Optional[str], typer.Option(help="LoRA adapter to put on the model.")] = None,  # noqa: UP045
    split: Annotated[Optional[str], typer.Option(help="Split of the data set.")] = None,  # noqa: UP045
    prompt_column: Annotated[str, typer.Option(help="Column of prompts, text or conversations.")] = "prompt",
    limit: Annotated[Optional[int], typer.Option(help="Only the first this many prompts.")] = None,  # noqa: UP045
    num_samples: Annotated[int, typer.Option("--num-samples", "-n", help="Completions per prompt.")] = 64,
    max_completion_length: Annotated[int, typer.Option(help="Most new tokens per completion.")] = 256,
    temperature: Annotated[float, typer.Option(help="0 is greedy, for one sample.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="Nucleus mass.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="Most probable tokens kept; 0 keeps all.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the samples.")] = 42,
    engine: Annotated[str, typer.Option(help='"transformers" or "vllm".')] = "transformers",
    max_batch_tokens: Annotated[
        int, typer.Option(help="Rows times tokens of one batch (transformers): lower it when memory runs out.")
    ] = 65536,
    dtype: Annotated[str, typer.Option(help="Weights' dtype, or auto.")] = "auto",
    device: Annotated[Optional[str], typer.Option(help="Default: CUDA if present.")] = None,  # noqa: UP045
    reward_batch_size: Annotated[int, typer.Option(help="Texts per forward pass of a reward model.")] = 32,
    ns: _NS = None,
    select_by: Annotated[Optional[str], typer.Option(help="Reward that selects; default: each its own.")] = None,  # noqa: UP045
    level: _LEVEL = 0.95,
    trust_remote_code: Annotated[bool, typer.Option(help="Run code that comes with a checkpoint.")] = False,
    json: _JSON = False,
) -> None:
    """Sample n completions per prompt, score and store them, and print the best-of-N curve.

    Run it again after it was killed and it goes on where it stopped. Under `accelerate launch -m tea.cli eval ...`
    the processes share the prompts.
    """
    with _errors():
        if engine not in ("transformers", "vllm"):
            raise ValueError(f'engine must be "transformers" or "vllm", got {engine!r}')
        from tea.rewards import load_reward
        from tea.rollouts.generate import Generator, SamplingConfig, TransformersGenerator, VLLMGenerator
        from tea.rollouts.sample import evaluate, load_prompts

        config = SamplingConfig(
            num_samples=num_samples,
            max_completion_length=max_completion_length,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            seed=seed,
        )
        counts = _parse_ns(ns)
        if counts and max(counts) > num_samples:
            raise ValueError(f"--ns asks for N = {max(counts)} but --num-samples is {num_samples}; see `tea forecast`")
        prompts = load_prompts(dataset, split=split, prompt_column=prompt_column, limit=limit)
        rewards = [
            load_reward(spec, batch_size=reward_batch_size, device=device, trust_remote_code=trust_remote_code)
            for spec in reward or []
        ]
        names = [function.__name__ for function in rewards]
        if select_by is not None and select_by not in names:
            raise ValueError(
                f"--select-by {select_by!r} is none of the rewards: {', '.join(names) or 'there are none'}"
            )
        generator: Generator
        if engine == "vllm":
            generator = VLLMGenerator(model, adapter=adapter, dtype=dtype, trust_remote_code=trust_remote_code)
        else:
            generator = TransformersGenerator(
                model,
                adapter=adapter,
                max_batch_tokens=max_batch_tokens,
                device=device,
                dtype=dtype,
                trust_remote_code=trust_remote_code,
            )
        run = evaluate(generator, prompts, rewards, output_dir=output_dir, config=config)
        if int(os.environ.get("RANK", "0")) != 0:
            return
        if run is None:
            typer.echo(f"stored {len(prompts.prompts)} x {num_samples} completions in {output_dir}", err=True)
            return
        _print_run(run, counts, select_by, level, json)


def score_command(
    run_dir: Annotated[Path, typer.Argument(help="Directory written by `tea eval`.")],
    reward: Annotated[list[str], typer.Option(help="As for `tea eval`; repeat for several.")],
    replace: Annotated[bool, typer.Option(help="Replace scores of the same name.")] = False,
    device: Annotated[Optional[str], typer.Option(help="Default: CUDA if present.")] = None,  # noqa: UP045
    reward_batch_size: Annotated[int, typer.Option(help="Texts per forward pass of a reward model.")] = 32,
    ns: _NS = None,
    select_by: Annotated[Optional[str], typer.Option(help="Reward that selects; default: each its own.")] = None,  # noqa: UP045
    level: _LEVEL = 0.95,
    trust_remote_code: Annotated[bool, typer.Option(help="Run code that comes with a checkpoint.")] = False,
    json: _JSON = False,
) -> None:
    """Score the stored completions of a run with more reward functions."""
    with _errors():
        from tea.rewards import load_reward
        from tea.rollouts.sample import score_run

        rewards = [
            load_reward(spec, batch_size=reward_batch_size, device=device, trust_remote_code=trust_remote_code)
            for spec in reward
        ]
        run = score_run(run_dir, rewards, replace=replace)
        if run is not None:
            _print_run(run, _parse_ns(ns), select_by, level, json)


def curve_command(
    file: _FILE,
    reward: _REWARD_COLUMN = None,
    value: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Column whose value counts, while --reward selects (a gold reward, a judge)."),
    ] = None,
    ns: _NS = None,
    over: Annotated[str, typer.Option(help='Interval over new "prompts", or over new "samples" of these.')] = "prompts",
    prompt: _PROMPT_COLUMN = None,
    model: _MODEL_FILTER = None,
    samples: _NUM_SAMPLES = None,
    level: _LEVEL = 0.95,
    json: _JSON = False,
) -> None:
    """The best-of-N curve of a file of rewards, unbiased, with intervals."""
    with _errors():
        from tea.bestofn.curve import best_of_n_curve
        from tea.report.page import format_interval
        from tea.rollouts.io import read_rewards

        columns = None if reward is None else [reward]
        table = read_rewards(file, columns, prompt=prompt, model=model, num_samples=samples)
        picks = next(iter(table.rewards.values()))
        counted = None
        if value is not None:
            other = read_rewards(file, [value], prompt=prompt, model=model, num_samples=samples)
            counted = next(iter(other.rewards.values()))
        if over not in ("prompts", "samples"):
            raise ValueError(f'--over must be "prompts" or "samples", got {over!r}')
        curve = best_of_n_curve(
            picks,
            _parse_ns(ns),
            value=counted,
            over=over,  # type: ignore[arg-type]
            level=level,
        )
        _say_how_read(table)
        selecting = next(iter(table.rewards))
        if json:
            names = {"file": str(file), "selected_by": selecting, "value": value or selecting}
            _print_json({**names, **curve.to_dict(), "peak": _without_nan(curve.peak())})
        else:
            _print_curves({value or selecting: curve}, f"selected by {selecting}")
            peak = curve.peak()
            if value is not None and peak["drop"] > 0:
                sure = "has turned down" if peak["drop_ci_low"] > 0 else "may have turned down"
                drop = format_interval(peak["drop"], peak["drop_ci_low"], peak["drop_ci_high"])
                typer.echo(f"{value} {sure}: highest at N = {peak['n']}, lower by {drop} at N = {curve.ns.max()}")


def forecast_command(
    file: _FILE,
    ns: _NS = None,
    method: Annotated[
        str,
        typer.Option(help="auto, gaussian, ladder, exponential, generalized-normal, gpd or beta-binomial (0/1)."),
    ] = "auto",
    tail_fraction: Annotated[float, typer.Option(help="Tail fraction of gaussian and exponential.")] = 0.25,
    backtest: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Do not forecast beyond the file, but hide all samples but this many and see what comes."),
    ] = None,
    reward: _REWARD_COLUMN = None,
    prompt: _PROMPT_COLUMN = None,
    model: _MODEL_FILTER = None,
    samples: _NUM_SAMPLES = None,
    level: _LEVEL = 0.95,
    json: _JSON = False,
) -> None:
    """Forecast the best-of-N curve beyond the samples in a file, with intervals and a verdict."""
    with _errors():
        from tea.bestofn.forecast import forecast_best_of_n
        from tea.report.page import format_interval

        name, matrix = _one_reward(file, reward, prompt, model, samples)
        if backtest is not None:
            _backtest(file, name, matrix, _parse_ns(ns), backtest, level, json)
            return
        counts = _parse_ns(ns) or [matrix.shape[1] * 2**i for i in (1, 2, 3, 4)]
        result = forecast_best_of_n(
            matrix,
            counts,
            method=method,  # type: ignore[arg-type]
            tail_fraction=tail_fraction,
            level=level,
        )
        if json:
            _print_json({"file": str(file), "reward": name, **result.to_dict()})
            return
        rows = [
            [str(n), format_interval(v, low, high)]
            for n, v, low, high in zip(result.ns, result.values, result.ci_low, result.ci_high, strict=True)
        ]
        title = f"Best of N of {name}, forecast by {result.method} from {result.num_samples} samples"
        _print_table(title, ["N", f"value, {level:.0%} interval over prompts"], rows)
        typer.echo(f"verdict: {result.verdict}")
        for reason in result.reasons:
            typer.echo(f"  - {reason}")


def _backtest(file: Path, name: str, matrix: Any, ns: list[int] | None, hidden: int, level: float, json: bool) -> None:
    from tea.bestofn._inputs import is_binary
    from tea.bestofn.forecast import backtest

    counts = ns or [matrix.shape[1] // 2**i for i in (2, 1) if matrix.shape[1] // 2**i > hidden]
    if not counts:
        raise ValueError(
            f"{matrix.shape[1]} samples are too few to hide all but {hidden} and have some to compare with"
        )
    methods = ["beta-binomial"] if is_binary(matrix) else ["auto", "gaussian", "ladder", "exponential", "gpd"]
    records = backtest(matrix, counts, hidden, methods=methods, level=level)
    if json:
        _print_json({"file": str(file), "reward": name, "records": records})
        return
    rows = [
        [
            r["method"],
            str(r["n"]),
            f"{r['truth']:.4g}",
            f"{r['bias']:+.3g} ± {r['bias_se']:.1g}",
            f"{r['rmse']:.3g}",
            "" if r["coverage"] is None else f"{r['coverage']:.0%}",
        ]
        for r in records
    ]
    header = ["method", "N", "from all", "bias", "RMSE", "coverage"]
    _print_table(f"Forecasts of {name} from {hidden} of {matrix.shape[1]} samples, 100 draws", header, rows)


def diagnose_command(
    file: _FILE,
    reward: _REWARD_COLUMN = None,
    prompt: _PROMPT_COLUMN = None,
    model: _MODEL_FILTER = None,
    samples: _NUM_SAMPLES = None,
    level: _LEVEL = 0.95,
    json: _JSON = False,
) -> None:
    """Say what the rewards in a file look like in the upper tail, and what they support."""
    with _errors():
        from tea.bestofn.diagnostics import diagnose

        name, matrix = _one_reward(file, reward, prompt, model, samples)
        found = diagnose(matrix, level=level)
        if json:
            _print_json({"file": str(file), "reward": name, **found.to_dict()})
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
        _print_table(f"Diagnostics of {name}", ["finding", "value"], rows)
        for note in found.notes:
            typer.echo(f"  - {note}")


def plan_command(
    file: _FILE,
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
    reward: _REWARD_COLUMN = None,
    prompt: _PROMPT_COLUMN = None,
    model: _MODEL_FILTER = None,
    samples: _NUM_SAMPLES = None,
    level: _LEVEL = 0.95,
    json: _JSON = False,
) -> None:
    """Weigh what more samples give against what they cost; split a budget over prompts."""
    with _errors():
        from tea.bestofn.plan import imperfect_verifier, plan_samples, plan_training, split_budget
        from tea.report.page import format_interval

        name, matrix, table = _one_reward_table(file, reward, prompt, model, samples)
        if cost_per_token is not None:
            if table.num_tokens is None:
                raise ValueError(f"{file}: no column 'num_tokens', which --cost-per-token needs; give --cost")
            cost += cost_per_token * float(table.num_tokens.mean())
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
            _print_json(result)
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
        _print_table(f"Samples per prompt, {name}", ["N", "best of N", "gain of doubling", "value - cost"], rows)
        low, high = plan.best_n_range
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
            _print_table(f"Training for N = {train_n} with {estimator}, {rollouts} rollouts", header, training_rows)
        if plan.verdict != "ok":
            typer.echo(f"the forecast: {plan.verdict}")
            for reason in plan.reasons:
                typer.echo(f"  - {reason}")


def compare_command(
    runs: Annotated[
        list[str], typer.Argument(help="Files or `tea eval` directories; name=PATH names one. The first is the base.")
    ],
    reward: _REWARD_COLUMN = None,
    value: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Column whose value counts, while --reward selects (a gold reward, a judge)."),
    ] = None,
    output_dir: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Write report.html (stands alone), report.md, its figures and report.json here."),
    ] = None,
    title: Annotated[str, typer.Option(help="Title of the report.")] = "Best-of-N comparison",
    ns: _NS = None,
    prompt: _PROMPT_COLUMN = None,
    samples: _NUM_SAMPLES = None,
    level: _LEVEL = 0.95,
    json: _JSON = False,
) -> None:
    """Compare runs: curves, paired differences, Q-Q plots, forecasts against what came."""
    with _errors():
        from tea.report.page import RunRewards, compare, markdown_report, write_report
        from tea.rollouts.io import read_rewards

        loaded = []
        for spec in runs:
            name, separator, path = spec.partition("=")
            if not separator or Path(spec).exists():
                name, path = Path(spec).stem if Path(spec).is_file() else Path(spec).name, spec
            columns = None if reward is None else [reward]
            table = read_rewards(path, columns, prompt=prompt, num_samples=samples)
            counted = None
            if value is not None:
                other = read_rewards(path, [value], prompt=prompt, num_samples=samples)
                counted = next(iter(other.rewards.values()))
            _say_how_read(table)
            loaded.append(RunRewards(name, next(iter(table.rewards.values())), counted, table.prompts, str(path)))
        comparison = compare(loaded, _parse_ns(ns), level=level)
        if json:
            _print_json(comparison.to_dict())
        else:
            typer.echo(markdown_report(comparison))
        if output_dir is not None:
            typer.echo(f"wrote {write_report(comparison, output_dir, title)}", err=True)


@contextmanager
def _errors() -> Iterator[None]:
    """Errors that are the user's to fix end with their message and status 2, without a traceback."""
    try:
        yield
    except (ValueError, OSError, ImportError) as error:
        if os.environ.get("TEA_TRACEBACK"):
            raise
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(2) from None


def _parse_ns(ns: str | None) -> list[int] | None:
    if ns is None:
        return None
    try:
        return [int(part) for part in ns.split(",")]
    except ValueError:
        raise ValueError(f"--ns must be whole numbers separated by commas, got {ns!r}") from None


def _one_reward_table(
    file: Path, reward: str | None, prompt: str | None, model: str | None, samples: int | None
) -> tuple[str, Any, Any]:
    from tea.rollouts.io import read_rewards

    columns = None if reward is None else [reward]
    table = read_rewards(file, columns, prompt=prompt, model=model, num_samples=samples)
    _say_how_read(table)
    name = next(iter(table.rewards))
    return name, table.rewards[name], table


def _one_reward(
    file: Path, reward: str | None, prompt: str | None, model: str | None, samples: int | None
) -> tuple[str, Any]:
    return _one_reward_table(file, reward, prompt, model, samples)[:2]


def _say_how_read(table: Any) -> None:
    prompts, samples = table.shape
    typer.echo(f"{table.path}: {prompts} prompts x {samples} samples", err=True)
    for note in table.notes:
        typer.echo(f"note: {note}", err=True)


def _print_json(value: dict[str, Any]) -> None:
    typer.echo(json_module.dumps(value, indent=2, allow_nan=False))


def _without_nan(values: dict[str, float]) -> dict[str, float | None]:
    return {key: value if value == value else None for key, value in values.items()}


def _print_run(run: Any, ns: list[int] | None, select_by: str | None, level: float, json: bool) -> None:
    from tea.bestofn.curve import best_of_n_curve

    picks = None if select_by is None else run.rewards[select_by]
    curves = {
        name: best_of_n_curve(select_by=matrix if picks is None else picks, value=matrix, ns=ns, level=level)
        for name, matrix in run.rewards.items()
    }
    if json:
        _print_json(
            {
                "run": str(run.path),
                "settings": run.settings,
                "curves": {
                    name: {"selected_by": select_by or name, **curve.to_dict()} for name, curve in curves.items()
                },
            }
        )
    else:
        _print_curves(curves, f"selected by {select_by or 'itself'}")


def _print_curves(curves: dict[str, Any], how: str) -> None:
    from tea.report.page import format_interval

    first = next(iter(curves.values()))
    rows = [
        [str(n), *(format_interval(c.values[i], c.ci_low[i], c.ci_high[i]) for c in curves.values())]
        for i, n in enumerate(first.ns)
    ]
    _print_table(
        f"Best of N, {how}: {first.num_prompts} prompts x {first.num_samples} samples, "
        f"{first.level:.0%} intervals over {first.over}",
        ["N", *curves],
        rows,
    )


def _print_table(title: str, header: list[str], rows: list[list[str]]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    # Intervals stand in brackets, which rich would otherwise read as markup.
    table = Table(title=escape(title), title_justify="left")
    for i, name in enumerate(header):
        table.add_column(escape(name), justify="left" if i == 0 and not rows[0][0].isdigit() else "right")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    Console().print(table)
