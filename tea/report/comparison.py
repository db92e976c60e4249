"""Runs side by side: curves, paired differences, diagnostics, forecasts against what came."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tea.bestofn._inputs import complete_rewards, default_ns, reward_matrix
from tea.bestofn.curve import BestOfNCurve, best_of_n_curve
from tea.bestofn.diagnostics import Diagnostics, diagnose
from tea.bestofn.forecast import Forecast, forecast_best_of_n
from tea.bestofn.paired import PairedDifference, paired_difference


@dataclass(frozen=True)
class RunRewards:
    """One run to compare.

    Attributes:
        name: its name in tables and legends.
        rewards: (P, n) what selects.
        value: (P, n) what counts; default `rewards`.
        prompts: P prompts, to pair the runs by; default: by position.
        source: where it comes from.
        settings: how it was sampled: name -> value.
        completions: (P, n) texts, to show a few.
    """

    name: str
    rewards: Any
    value: Any = None
    prompts: Sequence[str] | None = None
    source: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    completions: Sequence[Sequence[str]] | None = None


@dataclass(frozen=True)
class Pick:
    """What one run returns for one prompt.

    Attributes:
        run: its name.
        prompt: the prompt.
        one: a single sample (the first).
        one_reward: its selecting reward.
        best: the best of all n samples by that reward.
        best_reward: its reward.
        num_samples: n.
    """

    run: str
    prompt: str
    one: str
    one_reward: float
    best: str
    best_reward: float
    num_samples: int


@dataclass(frozen=True)
class Comparison:
    """What :func:`compare` found, one entry per run in each list.

    Attributes:
        names: of the runs.
        sources: where they come from.
        curves: best-of-N curves at common Ns.
        differences: run minus the first run, paired by prompt; None for the first and where the prompts differ.
        diagnostics: of what selects.
        forecasts: from the first `forecast_from` samples of each prompt, for the Ns of the curve beyond; None where
            there are too few samples to hide some.
        notes: what a reader should know.
        value_differs: whether something other than the selecting reward counts.
        settings: how each run was sampled, where that is known.
        picks: what a few prompts get, from every run that has completions.
    """

    names: list[str]
    sources: list[str]
    curves: list[BestOfNCurve]
    differences: list[PairedDifference | None]
    diagnostics: list[Diagnostics]
    forecasts: list[Forecast | None]
    notes: list[str] = field(default_factory=list)
    value_differs: bool = False
    settings: list[Mapping[str, Any]] = field(default_factory=list)
    picks: list[Pick] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Everything in JSON types."""
        return {
            "runs": [
                {
                    "name": name,
                    "source": source,
                    "curve": curve.to_dict(),
                    "difference_to_first": None if difference is None else difference.to_dict(),
                    "diagnostics": {k: v for k, v in diagnostics.to_dict().items() if k != "linearity"},
                    "forecast": None if forecast is None else forecast.to_dict(),
                }
                for name, source, curve, difference, diagnostics, forecast in zip(
                    self.names,
                    self.sources,
                    self.curves,
                    self.differences,
                    self.diagnostics,
                    self.forecasts,
                    strict=True,
                )
            ],
            "notes": self.notes,
        }


def compare(runs: Sequence[RunRewards], ns: Any = None, *, level: float = 0.95) -> Comparison:
    """Compare runs on their best-of-N curves.

    Runs of the same prompts are paired (in whatever order each has them); the first run is what the others are
    compared with.

    Args:
        runs: at least one.
        ns: the Ns; default powers of two up to the smallest n of the runs, and that n.
        level: confidence level.

    Raises:
        ValueError: no run, two of one name, or bad rewards (the message names the run).
    """
    if not runs:
        raise ValueError("there are no runs to compare")
    names = [run.name for run in runs]
    if len(set(names)) < len(names):
        raise ValueError(f"run names must differ, got {', '.join(names)}")
    rewards = [reward_matrix(run.rewards, f"rewards of {run.name}", min_samples=2, missing="skip") for run in runs]
    values = [
        picks if run.value is None else reward_matrix(run.value, f"value of {run.name}", missing="skip")
        for run, picks in zip(runs, rewards, strict=True)
    ]
    notes: list[str] = []
    complete = [
        complete_rewards(matrix, f"rewards of {run.name}")[0] for run, matrix in zip(runs, rewards, strict=True)
    ]
    smallest = min(
        int((~np.isnan(picks + counted)).sum(axis=1).min()) for picks, counted in zip(rewards, values, strict=True)
    )
    counts = default_ns(smallest) if ns is None else ns
    curves, differences = [], []
    base: BestOfNCurve | None = None
    for i, run in enumerate(runs):
        curve = best_of_n_curve(select_by=rewards[i], value=values[i], ns=counts, level=level, missing="skip")
        curves.append(curve)
        difference = None
        if base is not None:
            pairs = _pairing(runs[0], run, len(rewards[0]), len(rewards[i]))
            if not pairs:
                notes.append(f"{run.name} and {runs[0].name} have no prompt in common: no paired difference")
            else:
                if len(pairs) < max(len(rewards[0]), len(rewards[i])):
                    notes.append(
                        f"{run.name} and {runs[0].name} are compared on the {len(pairs)} prompts that both have"
                    )
                ours, theirs = (list(side) for side in zip(*pairs, strict=True))
                other, first = (
                    best_of_n_curve(
                        select_by=rewards[k][rows], value=values[k][rows], ns=counts, level=level, missing="skip"
                    )
                    for k, rows in ((i, theirs), (0, ours))
                )
                difference = paired_difference(other, first)
        else:
            base = curve
        differences.append(difference)
    return Comparison(
        names=names,
        sources=[run.source for run in runs],
        curves=curves,
        differences=differences,
        diagnostics=[diagnose(matrix, level=level) for matrix in complete],
        forecasts=[_held_out_forecast(matrix, curve, level) for matrix, curve in zip(complete, curves, strict=True)],
        notes=notes,
        value_differs=any(run.value is not None for run in runs),
        settings=[run.settings for run in runs],
        picks=_picks(runs, rewards),
    )


def _picks(runs: Sequence[RunRewards], rewards: Sequence[Any], most: int = 4) -> list[Pick]:
    """A single sample beside the best of all, for the first prompts that every run with completions has."""
    told = [
        (run, matrix, {prompt: i for i, prompt in enumerate(run.prompts or [])})
        for run, matrix in zip(runs, rewards, strict=True)
        if run.completions is not None
    ]
    if not told:
        return []
    common = [prompt for prompt in told[0][2] if all(prompt in position for _, _, position in told)]
    picks = []
    for prompt in common[:most]:
        for run, matrix, position in told:
            row = matrix[position[prompt]]
            assert run.completions is not None
            texts = run.completions[position[prompt]]
            one, best = int(np.flatnonzero(~np.isnan(row))[0]), int(np.nanargmax(row))
            count = int((~np.isnan(row)).sum())
            picks.append(Pick(run.name, prompt, texts[one], float(row[one]), texts[best], float(row[best]), count))
    return picks


def _pairing(first: RunRewards, other: RunRewards, first_size: int, other_size: int) -> list[tuple[int, int]]:
    """Rows of the prompts that both have: (in the first run, in the other)."""
    unnamed = first.prompts is None or other.prompts is None
    if unnamed or all(prompt.isdigit() for run in (first, other) for prompt in run.prompts or []):
        # Mere numbers say which prompt is meant only where there are as many.
        return [(i, i) for i in range(first_size)] if first_size == other_size else []
    position = {prompt: i for i, prompt in enumerate(other.prompts or [])}
    return [(i, position[prompt]) for i, prompt in enumerate(first.prompts or []) if prompt in position]


def _held_out_forecast(matrix: Any, curve: BestOfNCurve, level: float) -> Forecast | None:
    hidden = matrix[:, : min(64, matrix.shape[1] // 4)]
    beyond = [int(n) for n in curve.ns if n > hidden.shape[1]]
    if hidden.shape[1] < 8 or not beyond or len(matrix) < 2:
        return None
    return forecast_best_of_n(hidden, beyond, level=level)
