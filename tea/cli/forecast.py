"""``tea forecast``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from tea.cli.options import (
    FILE,
    FORMAT,
    JSON,
    LEVEL,
    MAX_REWARD,
    MISSING,
    MODEL_FILTER,
    NS,
    NUM_SAMPLES,
    PROMPT_COLUMN,
    REWARD_COLUMN,
    SCORE_WITH,
    STEPS,
)
from tea.cli.output import errors, parse_ns, print_json, print_table
from tea.cli.reading import check_missing, one_reward


def command(
    file: FILE,
    ns: NS = None,
    method: Annotated[
        str,
        typer.Option(help="auto, gaussian, ladder, exponential, generalized-normal, gpd or beta-binomial (0/1)."),
    ] = "auto",
    tail_fraction: Annotated[float, typer.Option(help="Tail fraction of gaussian and exponential.")] = 0.25,
    backtest: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Do not forecast beyond the file, but hide all samples but this many and see what comes."),
    ] = None,
    window: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Rollouts of a training run: a forecast for every this many logged steps, the trend of it."),
    ] = None,
    figure: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="With --window: write the trend's figure here (.png, .svg or .pdf)."),
    ] = None,
    max_reward: MAX_REWARD = None,
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
    """Forecast the best-of-N curve beyond the samples in a file, with intervals and a verdict."""
    with errors():
        from tea.bestofn import forecast_best_of_n
        from tea.report import format_interval

        if figure is not None and window is None:
            raise ValueError("--figure is of the trend: give --window too")
        if window is not None:
            if backtest is not None or steps is not None or model is not None or score_with:
                raise ValueError(
                    "--window goes through all steps as they are: not with --backtest, --steps, --model, --score-with"
                )
            options = {"prompt": prompt, "num_samples": samples, "format": format, "missing": check_missing(missing)}
            _trend(file, reward, window, parse_ns(ns), method, max_reward, level, figure, json, options)
            return
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
        if backtest is not None:
            _backtest(file, name, matrix, parse_ns(ns), backtest, level, json)
            return
        counts = parse_ns(ns) or [matrix.shape[1] * 2**i for i in (1, 2, 3, 4)]
        result = forecast_best_of_n(
            matrix,
            counts,
            method=method,  # type: ignore[arg-type]
            tail_fraction=tail_fraction,
            level=level,
            max_reward=max_reward,
        )
        if json:
            print_json({"file": str(file), "reward": name, **result.to_dict()})
            return
        typer.echo(f"verdict: {result.verdict}")
        for line in [*result.reasons, *result.notes]:
            typer.echo(f"  - {line}")
        rows = [
            [str(n), format_interval(v, low, high)]
            for n, v, low, high in zip(result.ns, result.values, result.ci_low, result.ci_high, strict=True)
        ]
        title = f"Best of N of {name}, forecast by {result.method} from {result.num_samples} samples"
        print_table(title, ["N", f"value, {level:.0%} interval over prompts"], rows)


def _trend(
    file: Path,
    reward: str | None,
    window: int,
    ns: list[int] | None,
    method: str,
    max_reward: float | None,
    level: float,
    figure: Path | None,
    json: bool,
    options: dict[str, Any],
) -> None:
    """A forecast per window of training steps, with the interval over its prompts."""
    from tea.bestofn import best_of_n_curve, complete_rewards, forecast_best_of_n
    from tea.report import format_interval, trend_figure
    from tea.rollouts import read_windows

    windows = read_windows(file, reward, window=window, **options)
    records: list[dict[str, Any]] = []
    for first, last, table in windows:
        name = table.columns[0]
        matrix, _ = complete_rewards(table.rewards[name])
        n = matrix.shape[1]
        (target,) = (ns or [8 * n])[:1]
        one = best_of_n_curve(matrix, [1, n], level=level)
        ahead = forecast_best_of_n(
            matrix,
            [target],
            method=method,  # type: ignore[arg-type]
            level=level,
            max_reward=max_reward,
        )
        records.append(
            {
                "first_step": first,
                "last_step": last,
                "num_prompts": one.num_prompts,
                "num_samples": n,
                "num_missing": table.num_missing,
                "n": target,
                "one": _interval_of(one, 0),
                "best_of_group": _interval_of(one, 1),
                "forecast": _interval_of(ahead, 0),
                "verdict": ahead.verdict,
                "reasons": ahead.reasons,
            }
        )
    if ns is not None and len(ns) > 1:
        raise ValueError(f"--window forecasts one N, got --ns {','.join(map(str, ns))}")
    n, target = records[0]["num_samples"], records[0]["n"]
    if figure is not None:
        trend_figure(records, windows[0][2].columns[0]).savefig(figure, dpi=150)
        typer.echo(f"wrote {figure}", err=True)
    if json:
        print_json({"file": str(file), "reward": windows[0][2].columns[0], "windows": records})
        return
    typer.echo("Each window is of other policies and other prompts: its forecast is of the policies of its steps.")
    rows = [
        [
            str(r["first_step"]) if r["first_step"] == r["last_step"] else f"{r['first_step']} to {r['last_step']}",
            str(r["num_prompts"]),
            *(format_interval(*(float("nan") if x is None else x for x in r[k])) for k in ("one", "best_of_group")),
            format_interval(*(float("nan") if x is None else x for x in r["forecast"])),
            r["verdict"],
        ]
        for r in records
    ]
    header = ["steps", "prompts", "one sample", f"best of {n}", f"forecast, best of {target}", "verdict"]
    print_table(f"Best of N of {windows[0][2].columns[0]} over the training run, {level:.0%} intervals", header, rows)
    for reason in dict.fromkeys(reason for r in records[-1:] for reason in r["reasons"]):
        typer.echo(f"  - last window: {reason}")


def _interval_of(curve: Any, i: int) -> list[float | None]:
    """Value and interval at one N, None for NaN."""
    return [float(x) if x == x else None for x in (curve.values[i], curve.ci_low[i], curve.ci_high[i])]


def _backtest(file: Path, name: str, matrix: Any, ns: list[int] | None, hidden: int, level: float, json: bool) -> None:
    from tea.bestofn import backtest
    from tea.bestofn._inputs import is_binary

    counts = ns or [matrix.shape[1] // 2**i for i in (2, 1) if matrix.shape[1] // 2**i > hidden]
    if not counts:
        raise ValueError(
            f"{matrix.shape[1]} samples are too few to hide all but {hidden} and have some to compare with"
        )
    methods = ["beta-binomial"] if is_binary(matrix) else ["auto", "gaussian", "ladder", "exponential", "gpd"]
    records = backtest(matrix, counts, hidden, methods=methods, level=level)
    if json:
        print_json({"file": str(file), "reward": name, "records": records})
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
    print_table(f"Forecasts of {name} from {hidden} of {matrix.shape[1]} samples, 100 draws", header, rows)
