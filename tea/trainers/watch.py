"""Warnings while a run goes wrong, once each, and a figure of the run at its end."""

from __future__ import annotations

import os
import re
import warnings
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerCallback

FIGURE_FILE = "training.png"

_CURVE_KEY = re.compile(r"^(?P<prefix>.*?)best_of_(?P<n>\d+|n)$")

_WINDOW = 5  # logs that are averaged, so that one odd batch warns of nothing


def measured_curves(history: list[dict[str, Any]], target_n: int | None = None) -> list[tuple[int, dict[Any, float]]]:
    """The best-of-N curves that were measured during a run.

    Args:
        history: `TrainerState.log_history`.
        target_n: What to call the last N, which is logged as ``best_of_n``; None: "n".

    Returns:
        (step, {N: value}) in the order of the steps. The forecast ``tea/best_of_n`` is none of them: it comes alone.
    """
    curves: list[tuple[int, dict[Any, float]]] = []
    for entry in history:
        found: dict[str, dict[Any, float]] = {}
        for key, value in entry.items():
            match = _CURVE_KEY.match(key)
            if match and isinstance(value, (int, float)):
                n = target_n or "n" if match["n"] == "n" else int(match["n"])
                found.setdefault(match["prefix"], {})[n] = float(value)
        step = int(entry.get("step", 0))
        curves += [(step, curve) for curve in found.values() if 1 in curve and len(curve) > 1]
    return sorted(curves, key=lambda item: item[0])


class RunWarning(UserWarning):
    """A run goes wrong."""


@dataclass
class _Series:
    """Both ends of what has been logged under one name."""

    count: int = 0
    first: list[float] = field(default_factory=list)
    last: deque[float] = field(default_factory=lambda: deque(maxlen=_WINDOW))

    def add(self, value: float) -> None:
        self.count += 1
        self.last.append(value)
        if self.count <= _WINDOW:
            self.first.append(value)

    @property
    def early(self) -> float:
        return float(np.mean(self.first))

    @property
    def late(self) -> float:
        return float(np.mean(self.last))


class Watcher(TrainerCallback):
    """Warns, once each, of what makes going on with a run a waste; writes `training.png` at the end.

    The warnings, each over the last five logs against the first five:

    - in most groups all advantages are zero (``tea/frac_degenerate_groups`` above one half);
    - the spread of rewards has collapsed (``reward_std`` below a tenth of its start);
    - KL to the reference explodes (``kl`` above 10 nats per token, or a hundred times its start and above 1);
    - the forecast ``tea/best_of_n`` and the best of N measured on held-out prompts are apart by more than three
      times the spread of rewards;
    - a second reward with weight 0 (a gold reward, only watched) falls while the reward rises, each by more than
      half its spread.
    """

    def __init__(self, watched: tuple[str, ...] = ()) -> None:
        self.watched = watched  # names of rewards with weight 0
        self._warned: set[str] = set()
        self._forget()

    def _forget(self) -> None:
        self._seen = 0  # entries of the log that have been looked at: a log of 100,000 is not read again every step
        self._series: dict[str, _Series] = {}
        self._curve: tuple[int, dict[Any, float]] | None = None  # the last one measured

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Look at what has been logged so far."""
        if not state.is_world_process_zero:
            return
        for name, message in self.findings(state.log_history):
            if name not in self._warned:
                self._warned.add(name)
                warnings.warn(f"step {state.global_step}: {message}", RunWarning, stacklevel=2)

    def findings(self, history: list[dict[str, Any]]) -> list[tuple[str, str]]:
        """(name, message) of everything that is wrong with a log so far."""
        if len(history) < self._seen:
            self._forget()
        self._take_in(history[self._seen :])
        self._seen = len(history)
        found = []
        degenerate = self._of("tea/frac_degenerate_groups")
        if degenerate.count >= _WINDOW and degenerate.late > 0.5:
            found.append(
                (
                    "degenerate",
                    f"in {degenerate.late:.0%} of the groups all advantages are zero: these rollouts teach nothing. "
                    "Rewards may be tied or saturated (`tea diagnose`); harder prompts, more generations or a smaller "
                    "N help",
                )
            )
        spread = self._of("reward_std")
        if spread.count >= 2 * _WINDOW and spread.late < 0.1 * spread.early:
            found.append(
                (
                    "spread",
                    f"the standard deviation of rewards has fallen from {spread.early:.3g} to {spread.late:.3g}: "
                    "responses have become alike, and best of N has nothing left to choose from. Lower learning_rate, "
                    "or raise beta or temperature",
                )
            )
        kl = self._of("kl")
        if kl.count >= 2 * _WINDOW and (kl.late > 10 or kl.late > max(100 * kl.early, 1)):
            found.append(
                ("kl", f"KL to the reference model is {kl.late:.3g} per token: lower learning_rate or raise beta")
            )
        found += self._forecast(spread)
        reward = self._of("reward")
        for name in self.watched:
            gold, gold_std = self._of(f"rewards/{name}/mean"), self._of(f"rewards/{name}/std")
            if min(gold.count, gold_std.count, reward.count, spread.count) < 2 * _WINDOW:
                continue
            rises = reward.late - reward.early > 0.5 * spread.early
            if rises and gold.early - gold.late > 0.5 * gold_std.early:
                found.append(
                    (
                        f"gold {name}",
                        f"{name} has fallen from {gold.early:.3g} to {gold.late:.3g} while the reward rose from "
                        f"{reward.early:.3g} to {reward.late:.3g}: the reward is being gamed. Stop, or raise beta",
                    )
                )
        return found

    def _of(self, key: str) -> _Series:
        return self._series.setdefault(key, _Series())

    def _take_in(self, entries: list[dict[str, Any]]) -> None:
        gold = [f"rewards/{name}/{what}" for name in self.watched for what in ("mean", "std")]
        for key in ("tea/frac_degenerate_groups", "tea/best_of_n", "reward", "reward_std", "kl", *gold):
            for entry in entries:
                if entry.get(key) is not None:  # TRL logs None where there was nothing to average
                    self._of(key).add(float(entry[key]))
        for step, curve in measured_curves(entries):
            if self._curve is None or step >= self._curve[0]:
                self._curve = step, curve

    def _forecast(self, spread: _Series) -> list[tuple[str, str]]:
        forecast = self._of("tea/best_of_n")
        if self._curve is None or min(forecast.count, spread.count) < _WINDOW:
            return []
        step, curve = self._curve
        true, said = curve.get("n", next(reversed(curve.values()))), forecast.late
        if step == 0 or abs(said - true) <= 3 * spread.late:
            return []
        return [
            (
                "forecast",
                f"the rollouts forecast a best of N of {said:.3g}, but {true:.3g} was measured on held-out prompts: "
                "their upper tail is not what the estimator takes it for (`tea diagnose`), or training and held-out "
                "prompts differ",
            )
        ]

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Write the figure, if anything was logged."""
        if state.is_world_process_zero and any(e.get("reward") is not None for e in state.log_history):
            write_figure(state.log_history, Path(args.output_dir) / FIGURE_FILE, getattr(args, "target_n", None))


def write_figure(history: list[dict[str, Any]], path: Path, target_n: int | None = None) -> None:
    """Reward, its spread and the forecast by step; and the curves measured at start, middle and end, if any were."""
    from matplotlib.figure import Figure  # without pyplot: no state, no display

    curves = measured_curves(history, target_n)
    figure = Figure(figsize=(10 if curves else 6, 4), layout="constrained")
    axes = figure.subplots(1, 2 if curves else 1, squeeze=False)[0]
    for key, label in (("reward", "one response"), ("tea/best_of_n", f"best of {target_n or 'N'}, forecast")):
        points = [(e["step"], e[key]) for e in history if key in e and "step" in e]
        if points:
            axes[0].plot(*zip(*points, strict=True), label=label)
    spread = [
        (e["step"], e["reward"], e["reward_std"]) for e in history if {"step", "reward", "reward_std"} <= e.keys()
    ]
    if spread:
        steps, mean, std = map(np.array, zip(*spread, strict=True))
        axes[0].fill_between(steps, mean - std, mean + std, alpha=0.2, label="± standard deviation")
    axes[0].set(xlabel="step", ylabel="reward of training prompts")
    axes[0].legend(frameon=False)
    if curves:
        chosen = sorted({0, len(curves) // 2, len(curves) - 1})
        for index in chosen:
            step, curve = curves[index]
            axes[1].plot([str(n) for n in curve], list(curve.values()), marker="o", label=f"step {step}")
        axes[1].set(xlabel="N", ylabel="best of N of held-out prompts")
        axes[1].legend(frameon=False)
    partial = path.with_name(f"{path.stem}.partial.png")
    figure.savefig(partial, dpi=120)
    os.replace(partial, path)
