"""Runs side by side: curves, paired differences, diagnostics, forecasts against what came."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from tea.bestofn._inputs import default_ns, reward_matrix
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
    """

    name: str
    rewards: Any
    value: Any = None
    prompts: Sequence[str] | None = None
    source: str = ""


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
    """

    names: list[str]
    sources: list[str]
    curves: list[BestOfNCurve]
    differences: list[PairedDifference | None]
    diagnostics: list[Diagnostics]
    forecasts: list[Forecast | None]
    notes: list[str] = field(default_factory=list)
    value_differs: bool = False

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
    rewards = [reward_matrix(run.rewards, f"rewards of {run.name}", min_samples=2) for run in runs]
    values = [
        picks if run.value is None else reward_matrix(run.value, f"value of {run.name}")
        for run, picks in zip(runs, rewards, strict=True)
    ]
    notes: list[str] = []
    smallest = min(matrix.shape[1] for matrix in rewards)
    counts = default_ns(smallest) if ns is None else ns
    curves, differences = [], []
    base: BestOfNCurve | None = None
    for i, run in enumerate(runs):
        curve = best_of_n_curve(select_by=rewards[i], value=values[i], ns=counts, level=level)
        curves.append(curve)
        difference = None
        if base is not None:
            order = _pairing(runs[0], run, len(rewards[0]), len(rewards[i]))
            if order is None:
                notes.append(f"{run.name} and {runs[0].name} have different prompts: no paired difference")
            else:
                aligned = best_of_n_curve(select_by=rewards[i][order], value=values[i][order], ns=counts, level=level)
                difference = paired_difference(aligned, base)
        else:
            base = curve
        differences.append(difference)
    return Comparison(
        names=names,
        sources=[run.source for run in runs],
        curves=curves,
        differences=differences,
        diagnostics=[diagnose(matrix, level=level) for matrix in rewards],
        forecasts=[_held_out_forecast(matrix, curve, level) for matrix, curve in zip(rewards, curves, strict=True)],
        notes=notes,
        value_differs=any(run.value is not None for run in runs),
    )


def _pairing(first: RunRewards, other: RunRewards, first_size: int, other_size: int) -> list[int] | None:
    """Order of the other run's prompts that matches the first run's, or None."""
    if first_size != other_size:
        return None
    if first.prompts is None or other.prompts is None or list(first.prompts) == list(other.prompts):
        return list(range(first_size))
    position = {prompt: i for i, prompt in enumerate(other.prompts)}
    if len(position) < other_size or any(prompt not in position for prompt in first.prompts):
        return None
    return [position[prompt] for prompt in first.prompts]


def _held_out_forecast(matrix: Any, curve: BestOfNCurve, level: float) -> Forecast | None:
    hidden = matrix[:, : min(64, matrix.shape[1] // 4)]
    beyond = [int(n) for n in curve.ns if n > hidden.shape[1]]
    if hidden.shape[1] < 8 or not beyond or len(matrix) < 2:
        return None
    return forecast_best_of_n(hidden, beyond, level=level)
