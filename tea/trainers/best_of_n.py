"""What training does to best-of-N on held-out prompts, measured rather than forecast: the base model's first.

Training for best-of-N that ends below the untrained model's best-of-N has failed, whatever the training reward says.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tea.bestofn import best_of_n_curve
from tea.bestofn._interval import mean_interval

# Where the base model's 0/1 rewards reach this share at N, training has next to nothing to win.
_SATURATED = 0.95


@dataclass
class Measurement:
    """One measured curve.

    Args:
        step: Optimizer steps taken before it.
        ns: N's, the last one deployed.
        per_prompt: (num_prompts, len(ns)) unbiased best-of-N of each prompt.
        metrics: As logged, without a prefix.
    """

    step: int
    ns: list[int]
    per_prompt: list[list[float]]
    metrics: dict[str, float] = field(default_factory=dict)


class BestOfNTracker:
    """Curves of a run on the same held-out prompts: the base model's, the best one's and the last one's.

    Args:
        target_n: N at deployment; with fewer samples than that per prompt, all of them.
    """

    def __init__(self, target_n: int) -> None:
        self.target_n = target_n
        self.history: list[Measurement] = []

    @property
    def base(self) -> Measurement | None:
        """The untrained model's, if this run has measured it."""
        return self.history[0] if self.history and self.history[0].step == 0 else None

    @property
    def best(self) -> Measurement | None:
        """The one with the highest mean at the deployed N."""
        return max(self.history, key=lambda m: m.metrics["best_of_n"], default=None)

    def measure(self, rewards: NDArray[np.floating[Any]], step: int) -> dict[str, float]:
        """Take in the rewards of this step's model, and say what they come to.

        Args:
            rewards: (num_prompts, n), the same prompts in the same order every time; NaN where there is none, which
                is never picked.
            step: Optimizer steps so far.

        Returns:
            ``best_of_n`` at the deployed N with the ends of its 95 % interval over prompts, ``best_of_1`` and powers
            of four between, ``best_of_n_gain`` over the base model with the ends of its paired interval, and
            ``best_of_n_missing``, the share of samples without a reward (if there are any).

        Raises:
            ValueError: If a prompt has no reward at all.
        """
        missing = np.isnan(rewards)
        if missing.all(axis=1).any():
            prompt = int(missing.all(axis=1).argmax())
            raise ValueError(f"no sample of held-out prompt {prompt} has a reward")
        rewards = np.where(missing, np.nanmin(rewards, axis=1, keepdims=True), rewards)
        deployed = min(self.target_n, rewards.shape[1])
        ns = sorted({deployed, *(4**i for i in range(10) if 4**i < deployed)})
        curve = best_of_n_curve(rewards, ns)
        metrics = {f"best_of_{n}": float(value) for n, value in zip(ns[:-1], curve.values[:-1], strict=True)}
        metrics |= {"best_of_n": float(curve.values[-1])}
        metrics |= {"best_of_n_low": float(curve.ci_low[-1]), "best_of_n_high": float(curve.ci_high[-1])}
        if missing.any():
            metrics["best_of_n_missing"] = float(missing.mean())
        now = Measurement(step, ns, curve.per_prompt.tolist(), metrics)
        base = self.base
        if base is not None:
            gain, low, high = compare(now, base)
            metrics |= {"best_of_n_gain": gain, "best_of_n_gain_low": low, "best_of_n_gain_high": high}
        elif step == 0:
            metrics |= dict.fromkeys(("best_of_n_gain", "best_of_n_gain_low", "best_of_n_gain_high"), 0.0)
            self._warn_saturated(rewards, metrics["best_of_n"], deployed)
        self.history.append(now)
        return metrics

    def fallen(self) -> str | None:
        """What to say if the last curve lies below the best one by more than the paired interval; else None."""
        best, now = self.best, self.history[-1] if self.history else None
        if best is None or now is None or now is best:
            return None
        change, low, high = compare(now, best)
        if high >= 0:
            return None
        whose = "the base model's" if best.step == 0 else f"that of step {best.step}"
        return (
            f"best of {now.ns[-1]} on held-out prompts has fallen below {whose}: {now.metrics['best_of_n']:.4g} after "
            f"{now.step} steps, {change:.4g} [{low:.4g}, {high:.4g}] from {best.metrics['best_of_n']:.4g}"
        )

    @staticmethod
    def _warn_saturated(rewards: NDArray[np.floating[Any]], value: float, n: int) -> None:
        if np.isin(rewards, (0.0, 1.0)).all() and value >= _SATURATED:
            warnings.warn(
                f"the base model solves {value:.1%} of the held-out prompts in {n} samples: there is little to "
                "win by training for that N: use harder prompts, or a smaller target_n",
                stacklevel=2,
            )

    def state_dict(self) -> dict[str, Any]:
        """Numbers and lists."""
        return {"history": [asdict(measurement) for measurement in self.history]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from ``state_dict()``."""
        self.history = [Measurement(**measurement) for measurement in state["history"]]


def compare(now: Measurement, before: Measurement) -> tuple[float, float, float]:
    """Mean difference at the deployed N, and its paired 95 % interval over prompts.

    Raises:
        ValueError: If they are of different prompts.
    """
    if len(now.per_prompt) != len(before.per_prompt):
        raise ValueError(
            f"best-of-N was measured on {len(before.per_prompt)} held-out prompts before and on {len(now.per_prompt)} "
            "now: evaluate on the same ones, or start a new run"
        )
    difference = np.asarray(now.per_prompt)[:, -1:] - np.asarray(before.per_prompt)[:, -1:]
    values, _, low, high = mean_interval(difference, 0.95)
    return float(values[0]), float(low[0]), float(high[0])
