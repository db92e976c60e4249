"""The figures of the README and of docs/concepts.md, from what `make demo` leaves in outputs/demo/seed1.

    make demo && .venv/bin/python -m benchmarks.demo.figures      # seconds; docs/assets/*.svg and explain.json

- idea: the reward model's rewards of every policy's samples on the held-out prompts as a density, with the values that
  `make demo` prints for one sample and for the best of N;
- extrapolation: best of N of the untrained model from 16 samples per prompt, beside the one from all 512;
- weights: what each estimator gives to 16 rewards of one prompt, as `tea explain` draws it, and the rewards, from which
  `make docs` makes its page.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tea.report.figures import DARK, LIGHT, Theme

ROOT = Path(__file__).resolve().parents[2]
ASSETS = ROOT / "docs" / "assets"
POLICIES = {
    "base": "untrained",
    "grpo": "trained for the mean (GRPO)",
    "tea": "trained for the best of {n} (TEA)",
}


class Policy(NamedTuple):
    """What is drawn of one policy: rewards (P, n) of its samples, their mean, and the best of N."""

    rewards: NDArray[np.float64]
    one: float
    best: float


def read(directory: Path) -> tuple[dict[str, Policy], int]:
    """The policies of a finished demo, and N."""
    from tea.rollouts import load_run

    results = json.loads((directory / "results.json").read_text(encoding="utf-8"))
    n = results["target_n"]
    policies = {}
    for name in POLICIES:
        curve = results["policies"][name]["reward_model"]
        values = dict(zip(curve["ns"], curve["values"], strict=True))
        rewards = load_run(directory / f"samples_{name}").rewards["reward_model"]
        policies[name] = Policy(np.asarray(rewards, dtype=np.float64), values[1], values[n])
    return policies, n


def draw(policies: Mapping[str, Policy], n: int, theme: Theme) -> Any:
    """One density above the other, each with its value at one sample and at the best of `n`."""
    from matplotlib.figure import Figure
    from scipy.stats import gaussian_kde

    figure = Figure(figsize=(7.2, 3.7), layout="constrained", facecolor=theme.background)
    axes = figure.add_subplot(facecolor=theme.background)
    low = min(float(np.quantile(p.rewards, 0.002)) for p in policies.values())
    high = max(max(float(p.rewards.max()), p.best) for p in policies.values()) + 0.5
    grid = np.linspace(low, high, 300)
    densities = {name: gaussian_kde(policy.rewards.ravel())(grid) for name, policy in policies.items()}
    tallest = max(float(d.max()) for d in densities.values())
    for i, (name, policy) in enumerate(policies.items()):
        height = 2.0 * (len(policies) - 1 - i)
        color = theme.series[{"base": 5, "grpo": 1, "tea": 0}[name]]
        axes.fill_between(grid, height, height + 1.5 * (densities[name] / tallest) ** 0.7, color=color, alpha=0.4, lw=0)
        axes.axhline(height, color=color, lw=1.0)
        axes.annotate(
            POLICIES[name].format(n=n), (low, height + 0.9), color=theme.text, fontsize=10, va="bottom", ha="left"
        )
        for value, marker in ((policy.one, "o"), (policy.best, "D")):
            axes.plot(value, height, marker, color=color, ms=8, mec=theme.background, clip_on=False, zorder=3)
            axes.annotate(
                f"{value:.1f}",
                (value, height - 0.2),
                color=theme.text,
                fontsize=10,
                ha="center",
                va="top",
                weight="bold" if marker == "D" else "normal",
            )
    for marker, label in (("o", "one sample, on average"), ("D", f"best of {n}, on average")):
        axes.plot([], [], marker, color=theme.text, ms=7, label=label)
    axes.legend(
        frameon=False, labelcolor=theme.text, fontsize=10, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2
    )
    axes.set_xlim(low, high)
    axes.set_ylim(-0.7, 2.0 * len(policies) - 0.2)
    axes.set_yticks([])
    axes.set_xlabel("reward of a response", color=theme.text)
    axes.tick_params(colors=theme.text)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(theme.grid)
    return figure


def draw_extrapolation(rewards: NDArray[np.float64], theme: Theme, m: int = 16) -> Any:
    """Best of N from the first `m` of each prompt's samples, carried on by their upper tails, and from all (P, n)."""
    import torch
    from matplotlib.figure import Figure

    import tea

    n = rewards.shape[1]
    grid = [2**i for i in range(n.bit_length()) if 2**i <= n]
    truth = tea.best_of_n_curve(rewards, grid)
    few = tea.best_of_n_curve(rewards[:, :m], [k for k in grid if k <= m])
    beyond = [k for k in grid if k >= m]
    tails = [
        float(tea.tail_statistics(torch.tensor(rewards[:, :m]), target_n=k, tail_fraction=0.25).best_of_n.mean())
        for k in beyond
    ]
    figure = Figure(figsize=(7.2, 3.4), layout="constrained", facecolor=theme.background)
    axes = figure.add_subplot(facecolor=theme.background)
    axes.plot(grid, truth.values, "o", color=theme.text, ms=6, label=f"measured with all {n} samples per prompt")
    axes.plot(few.ns, few.values, color=theme.series[0], lw=2.5, label=f"from {m} samples: counted")
    axes.plot(
        beyond, tails, "--", color=theme.series[1], lw=2.5, label="from the same 16: carried on by their upper tail"
    )
    axes.set_xscale("log", base=2)
    axes.set_xticks(grid, [str(k) for k in grid])
    axes.minorticks_off()
    axes.set_xlabel("N", color=theme.text)
    axes.set_ylabel("reward of the best of N", color=theme.text)
    axes.legend(frameon=False, labelcolor=theme.text, fontsize=10)
    axes.tick_params(colors=theme.text)
    axes.grid(True, color=theme.grid, linewidth=0.6)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.grid)
    return figure


def write(policies: Mapping[str, Policy], n: int, folder: Path) -> list[Path]:
    """Every figure for a light and for a dark page, the same bytes for the same numbers; and the explained rewards."""
    import matplotlib

    from tea.report.explain import explain, explanation_figure, group_of, typical_prompt

    base = policies["base"].rewards
    group = np.round(group_of(base, typical_prompt(base, 16), 16), 2)
    found = explain(group, n)
    paths = [folder / "explain.json"]
    paths[0].write_text(json.dumps({"rewards": found.rewards.tolist(), "target_n": n}) + "\n", encoding="utf-8")
    for theme in (LIGHT, DARK):
        with matplotlib.rc_context({"svg.hashsalt": "tea", "path.simplify_threshold": 1.0}):
            figures = {
                "idea": draw(policies, n, theme),
                "extrapolation": draw_extrapolation(base, theme),
                "weights": explanation_figure(found, theme),
            }
            for name, figure in figures.items():
                paths.append(folder / f"{name}-{theme.name}.svg")
                figure.savefig(paths[-1], metadata={"Date": None})
    return paths


def main() -> None:
    """Read outputs/demo, write into docs/assets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo-dir", type=Path, default=ROOT / "outputs" / "demo" / "seed1")
    for path in write(*read(parser.parse_args().demo_dir), ASSETS):
        print(f"wrote {path}")


if __name__ == "__main__":
    main()
