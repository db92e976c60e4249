"""Warnings while a run goes wrong, once each, and a figure of the run at its end."""

from __future__ import annotations

import os
import re
import warnings
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
        found = []
        degenerate = _series(history, "tea/frac_degenerate_groups")
        if len(degenerate) >= _WINDOW and (share := _late(degenerate)) > 0.5:
            found.append(
                (
                    "degenerate",
                    f"in {share:.0%} of the groups all advantages are zero: these rollouts teach nothing. Rewards may "
                    "be tied or saturated (`tea diagnose`); harder prompts, more generations or a smaller N help",
                )
            )
        spread = _series(history, "reward_std")
        if len(spread) >= 2 * _WINDOW and _late(spread) < 0.1 * _early(spread):
            found.append(
                (
                    "spread",
                    f"the standard deviation of rewards has fallen from {_early(spread):.3g} to {_late(spread):.3g}: "
                    "responses have become alike, and best of N has nothing left to choose from. Lower learning_rate, "
                    "or raise beta or temperature",
                )
            )
        kl = _series(history, "kl")
        if len(kl) >= 2 * _WINDOW and (_late(kl) > 10 or _late(kl) > max(100 * _early(kl), 1)):
            found.append(
                ("kl", f"KL to the reference model is {_late(kl):.3g} per token: lower learning_rate or raise beta")
            )
        found += self._forecast(history, spread)
        reward = _series(history, "reward")
        for name in self.watched:
            gold, gold_std = _series(history, f"rewards/{name}/mean"), _series(history, f"rewards/{name}/std")
            if min(len(gold), len(gold_std), len(reward), len(spread)) < 2 * _WINDOW:
                continue
            rises = _late(reward) - _early(reward) > 0.5 * _early(spread)
            if rises and _early(gold) - _late(gold) > 0.5 * _early(gold_std):
                found.append(
                    (
                        f"gold {name}",
                        f"{name} has fallen from {_early(gold):.3g} to {_late(gold):.3g} while the reward rose from "
                        f"{_early(reward):.3g} to {_late(reward):.3g}: the reward is being gamed. Stop, or raise beta",
                    )
                )
        return found

    @staticmethod
    def _forecast(history: list[dict[str, Any]], spread: list[float]) -> list[tuple[str, str]]:
        forecast, curves = _series(history, "tea/best_of_n"), measured_curves(history)
        if not curves or len(forecast) < _WINDOW or len(spread) < _WINDOW:
            return []
        step, curve = curves[-1]
        true, said, std = curve.get("n", next(reversed(curve.values()))), _late(forecast), _late(spread)
        if step == 0 or abs(said - true) <= 3 * std:
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
        if state.is_world_process_zero and _series(state.log_history, "reward"):
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


def _series(history: list[dict[str, Any]], key: str) -> list[float]:
    # TRL logs None where there was nothing to average.
    return [float(entry[key]) for entry in history if entry.get(key) is not None]


def _early(series: list[float]) -> float:
    return float(np.mean(series[:_WINDOW]))


def _late(series: list[float]) -> float:
    return float(np.mean(series[-_WINDOW:]))
