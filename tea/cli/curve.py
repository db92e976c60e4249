"""``tea curve``."""

from __future__ import annotations

from typing import Annotated, Any, Optional

import typer

from tea.cli.options import (
    FILE,
    FORMAT,
    JSON,
    LEVEL,
    MISSING,
    MODEL_FILTER,
    NS,
    NUM_SAMPLES,
    PROMPT_COLUMN,
    REWARD_COLUMN,
    SCORE_WITH,
    STEPS,
)
from tea.cli.output import errors, parse_ns, print_curves, print_json, without_nan
from tea.cli.reading import read_table


def command(
    file: FILE,
    reward: REWARD_COLUMN = None,
    value: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Column whose value counts, while --reward selects (a gold reward, a judge)."),
    ] = None,
    ns: NS = None,
    over: Annotated[str, typer.Option(help='Interval over new "prompts", or over new "samples" of these.')] = "prompts",
    answer: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="Also majority vote, weighted and soft best-of-N. How the answer is taken from a completion: boxed, "
            "last_number, last_line, text, or a regular expression (its first group)."
        ),
    ] = None,
    beta: Annotated[float, typer.Option(help="With --answer: inverse temperature of soft best-of-N.")] = 1.0,
    weights: Annotated[
        str, typer.Option(help='With --answer: what weighted best-of-N adds up, "reward" or its "sigmoid".')
    ] = "reward",
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
    """The best-of-N curve of a file of rewards, unbiased, with intervals."""
    with errors():
        from tea.bestofn import best_of_n_curve
        from tea.report import format_interval

        if over not in ("prompts", "samples"):
            raise ValueError(f'--over must be "prompts" or "samples", got {over!r}')
        table = read_table(
            file,
            [reward] if value is None else [reward, value],
            prompt=prompt,
            model=model,
            samples=samples,
            format=format,
            steps=steps,
            missing=missing,
            score_with=score_with,
            texts=answer is not None,
        )
        selecting, counting = table.columns[0], table.columns[-1]
        picks, counted = table.rewards[selecting], table.rewards[counting]
        wanted = parse_ns(ns)
        curve = best_of_n_curve(
            select_by=picks,
            value=counted,
            ns=wanted,
            over=over,  # type: ignore[arg-type]
            level=level,
            missing="skip",
        )
        votes = _votes(table, picks, counted, curve.ns, answer, beta, weights, level)
        if json:
            names = {"file": str(file), "selected_by": selecting, "value": counting}
            more = {} if votes is None else {"deployments": {k: c.to_dict() for k, c in votes.curves.items()}}
            print_json({**names, **curve.to_dict(), "peak": without_nan(curve.peak()), **more})
            return
        print_curves({counting: curve}, f"selected by {selecting}")
        peak = curve.peak()
        if value is not None and peak["drop"] > 0:
            sure = "has turned down" if peak["drop_ci_low"] > 0 else "may have turned down"
            drop = format_interval(peak["drop"], peak["drop_ci_low"], peak["drop_ci_high"])
            typer.echo(f"{value} {sure}: highest at N = {peak['n']}, lower by {drop} at N = {curve.ns.max()}")
        if votes is not None:
            names = {"majority": "majority vote", "weighted": "weighted best-of-N", "soft": f"soft, beta = {beta:g}"}
            print_curves({names[rule]: one for rule, one in votes.curves.items()}, f"{counting} of what is returned")
            error = max(float(e.max()) for e in votes.drawing_error.values())
            typer.echo(
                f"from {votes.draws} subsets per prompt and N (drawing them adds at most ±{2 * error:.1g}, which the "
                f"intervals include); {votes.unanswered:.1%} of the samples have no answer"
            )


def _votes(
    table: Any, picks: Any, counted: Any, ns: Any, answer: str | None, beta: float, weights: str, level: float
) -> Any:
    """Curves of the deployments that look at answers; None without ``--answer``."""
    if answer is None:
        return None
    from tea.bestofn.vote import vote_curves
    from tea.rewards.answers import extract_answers

    if table.completions is None:
        raise ValueError(f"{table.path}: --answer needs the completions, of which the file has none")
    answers = [extract_answers(texts, answer) for texts in table.completions]
    if all(found is None for row in answers for found in row):
        raise ValueError(f"{table.path}: --answer {answer} finds no answer in any completion")
    rules = ["majority", "weighted", "soft"]
    if weights == "reward" and bool((picks < 0).any()):
        rules.remove("weighted")
        typer.echo("note: weighted best-of-N adds rewards up, and some are negative: see --weights sigmoid", err=True)
    return vote_curves(
        picks,
        answers,
        ns,
        value=counted,
        rules=rules,
        beta=beta,
        weights=weights,  # type: ignore[arg-type]
        level=level,
        missing="skip",
    )
