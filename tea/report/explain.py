"""What advantage each estimator gives to each reward of one prompt: a figure, and a page to move the rewards on."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from tea.bestofn._inputs import FloatArray, is_binary, reward_matrix
from tea.bestofn.group_size import advantages_of
from tea.report.figures import LIGHT, Theme
from tea.report.page import write_bytes

SHOWN: dict[str, tuple[str, str, dict[str, Any]]] = {
    "grpo": ("GRPO", "aims at the mean, in units of the group's spread", {}),
    "dr_grpo": ("Dr. GRPO", "aims at the mean", {}),
    "max_at_k": ("max@m", "best of the m at hand, unbiased", {}),
    "tea": ("TEA, as published", "best of N from a Gaussian upper tail", {"monotone": False}),
    "tea_monotone": ("TEA, monotone", "the same, never against a better reward", {"monotone": True}),
    "ladder": ("ladder", "best of N, linear in c_k", {"monotone": True}),
    "eb_bon": ("eb_bon", "best of N, each level of reward with a prior", {}),
    "bon_max_second": ("BoN, max minus second", "all for the best one", {}),
    "cat_bon": ("CAT-BoN", "deviation from the mean, weighted by rank", {}),
    "tail_rl": ("TailRL", "gaps weighted by how few are above", {}),
    "pass_at_n": ("pass_at_n", "pass@N for 0/1 rewards", {}),
}
"""Estimators in the order they are drawn: title, what it is, options."""

_BINARY_ONLY = {"pass_at_n"}
_TAIL_ONLY = {"tea", "tea_monotone", "ladder"}
_NOT_ON_THE_PAGE = {"eb_bon", "pass_at_n"}
"""Not written a second time in the page's JavaScript; their weights stand still there."""


@dataclass(frozen=True)
class Explanation:
    """Advantages of one group.

    Attributes:
        rewards: (m,) ascending.
        advantages: name in :data:`SHOWN` -> (m,) advantages as the estimator gives them, centred.
        target_n: N.
        tail_fraction: alpha of TEA.
        prompt: of which the rewards are.
    """

    rewards: FloatArray
    advantages: dict[str, FloatArray]
    target_n: int
    tail_fraction: float
    prompt: str = ""


def explain(rewards: Any, target_n: int = 128, *, tail_fraction: float = 0.25, prompt: str = "") -> Explanation:
    """The advantage that each estimator gives to each reward of a prompt.

    Args:
        rewards: (m,) rewards of one prompt, m >= 2.
        target_n: N, samples per prompt at deployment.
        tail_fraction: alpha of TEA.
        prompt: shown as a title.

    Raises:
        ValueError: fewer than 2 rewards, NaN or infinite, N < 1, alpha outside (0, 1].
    """
    matrix = np.sort(reward_matrix(np.asarray(rewards, dtype=np.float64)[None], min_samples=2))
    m = matrix.shape[1]
    binary = is_binary(matrix)
    advantages = {}
    for name, (_, _, options) in SHOWN.items():
        if name in (_TAIL_ONLY if binary else _BINARY_ONLY):
            continue
        estimator = name.removesuffix("_monotone")
        given: dict[str, Any] = dict(options)
        if estimator == "tea":
            given["tail_fraction"] = tail_fraction
        if estimator == "max_at_k":
            given["k"] = min(m, target_n)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about one group being few to learn a prior from: said on the page
            advantages[name] = advantages_of(estimator, matrix, target_n, **given)[0]
    return Explanation(matrix[0], advantages, target_n, tail_fraction, prompt)


def relative(advantages: FloatArray) -> FloatArray:
    """Advantages over their root mean square: what is left when the step size is set apart."""
    size = float(np.sqrt((advantages**2).mean()))
    return advantages / size if size > 0 else advantages


def explanation_rows(found: Explanation) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a table: a row per reward, a column per estimator, relative advantages."""
    columns = [relative(values) for values in found.advantages.values()]
    rows = [[f"{r:.4g}", *(f"{c[i]:+.2f}" for c in columns)] for i, r in enumerate(found.rewards)]
    return ["reward", *(name.replace("_monotone", ", monotone") for name in found.advantages)], rows


def explanation_figure(found: Explanation, theme: Theme = LIGHT) -> Any:
    """Side by side, the relative advantage of each reward under each estimator."""
    from matplotlib.figure import Figure

    columns = 3
    lines = -(-len(found.advantages) // columns)
    figure = Figure(figsize=(9.6, 2.5 * lines + 0.5), layout="constrained", facecolor=theme.background)
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False)
    for axes in grid.flat[len(found.advantages) :]:
        axes.set_visible(False)
    for axes, (name, values) in zip(grid.flat, found.advantages.items(), strict=False):
        share = relative(values)
        colors = [theme.series[0] if value >= 0 else theme.series[1] for value in share]
        axes.set_facecolor(theme.background)
        axes.axhline(0.0, color=theme.text, linewidth=0.8)
        axes.vlines(found.rewards, 0.0, share, color=colors, linewidth=2.0)
        axes.scatter(found.rewards, share, color=colors, s=16, zorder=3)
        axes.set_title(SHOWN[name][0], color=theme.text, loc="left", fontsize=10)
        axes.tick_params(colors=theme.text)
        axes.grid(True, color=theme.grid, linewidth=0.6)
        axes.set_axisbelow(True)
        for side, spine in axes.spines.items():
            spine.set_visible(side in ("left", "bottom"))
            spine.set_color(theme.grid)
    figure.supxlabel(f"reward ({len(found.rewards)} of one prompt)", color=theme.text, fontsize=10)
    figure.supylabel("advantage / its RMS", color=theme.text, fontsize=10)
    figure.suptitle(f"What each estimator makes of these rewards, N = {found.target_n}", color=theme.text, fontsize=11)
    return figure


def explanation_page(found: Explanation) -> str:
    """A page that stands alone: move the rewards or N, and every estimator's weights move."""
    code = Path(__file__).with_name("explain.js").read_text(encoding="utf-8")
    environment = Environment(
        loader=PackageLoader("tea.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    moving = {n: t for n, t in SHOWN.items() if n not in _NOT_ON_THE_PAGE}
    return environment.get_template("explain.html.j2").render(
        code=code,
        data={
            "rewards": found.rewards.tolist(),
            "n": found.target_n,
            "fraction": found.tail_fraction,
            "estimators": [{"name": n, "title": title, "summary": what} for n, (title, what, _) in moving.items()],
        },
        prompt=found.prompt if len(found.prompt) <= 300 else found.prompt[:300] + " ...",
    )


def write_explanation(found: Explanation, output_dir: str | os.PathLike[str]) -> list[Path]:
    """Write explain.html, which stands alone, and explain.png; returns both paths."""
    directory = Path(output_dir)
    directory.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    explanation_figure(found).savefig(buffer, format="png", dpi=150)
    paths = [directory / "explain.html", directory / "explain.png"]
    write_bytes(paths[0], explanation_page(found).encode())
    write_bytes(paths[1], buffer.getvalue())
    return paths


def group_of(rewards: Any, row: int, size: int) -> FloatArray:
    """The first `size` rewards of prompt `row` that are there; `rewards` is (P, n), NaN where missing."""
    line = np.asarray(rewards, dtype=np.float64)[row]
    return np.asarray(line[~np.isnan(line)][:size])


def typical_prompt(rewards: Any, size: int) -> int:
    """Row whose first `size` rewards have the median spread among the prompts that have any.

    Args:
        rewards: (P, n), NaN where missing.
        size: rewards looked at.

    Raises:
        ValueError: no prompt has different rewards.
    """
    with np.errstate(invalid="ignore"):
        spread = np.nanmax(np.asarray(rewards)[:, :size], axis=1) - np.nanmin(np.asarray(rewards)[:, :size], axis=1)
    rows: Sequence[int] = np.flatnonzero(spread > 0).tolist()
    if not rows:
        raise ValueError("no prompt has different rewards: every estimator gives zeros")
    return sorted(rows, key=lambda row: float(spread[row]))[len(rows) // 2]
