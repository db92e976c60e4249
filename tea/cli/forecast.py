"""``tea forecast``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from tea.cli.options import FILE, JSON, LEVEL, MODEL_FILTER, NS, NUM_SAMPLES, PROMPT_COLUMN, REWARD_COLUMN
from tea.cli.output import errors, one_reward, parse_ns, print_json, print_table


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
    reward: REWARD_COLUMN = None,
    prompt: PROMPT_COLUMN = None,
    model: MODEL_FILTER = None,
    samples: NUM_SAMPLES = None,
    level: LEVEL = 0.95,
    json: JSON = False,
) -> None:
    """Forecast the best-of-N curve beyond the samples in a file, with intervals and a verdict."""
    with errors():
        from tea.bestofn import forecast_best_of_n
        from tea.report import format_interval

        name, matrix = one_reward(file, reward, prompt, model, samples)
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
        )
        if json:
            print_json({"file": str(file), "reward": name, **result.to_dict()})
            return
        rows = [
            [str(n), format_interval(v, low, high)]
            for n, v, low, high in zip(result.ns, result.values, result.ci_low, result.ci_high, strict=True)
        ]
        title = f"Best of N of {name}, forecast by {result.method} from {result.num_samples} samples"
        print_table(title, ["N", f"value, {level:.0%} interval over prompts"], rows)
        typer.echo(f"verdict: {result.verdict}")
        for reason in result.reasons:
            typer.echo(f"  - {reason}")


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
