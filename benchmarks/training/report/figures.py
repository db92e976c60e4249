"""The figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.training.report.common import REFERENCE
from benchmarks.training.report.efficiency import efficiency_values, shared_seeds
from benchmarks.training.report.intervals import Interval, paired, t_interval
from benchmarks.training.report.results import Results
from benchmarks.training.run import M, N

# Okabe and Ito's palette, told apart with any colour vision; markers as well, for print without colour.
_STYLE = {
    "base": ("#777777", "o", "--", "base model"),
    "grpo": ("#D55E00", "s", "-", "GRPO"),
    "max_at_m": ("#CC79A7", "P", "-", "max@m"),
    "tea_published": ("#0072B2", "^", "-", "TEA"),
    "eb_bon": ("#009E73", "D", "-", "empirical Bayes"),
    "ladder_memory": ("#E69F00", "v", "-", "ladder with memory"),
    "oracle": ("#000000", "x", ":", f"oracle, m = {N}"),
}


def _axes_grid(count: int, height: float = 3.0) -> tuple[Any, list[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(count, 3)
    rows = -(-count // columns)
    picture = Figure(figsize=(3.7 * columns + 0.3, height * rows + 0.5), dpi=100, layout="constrained")
    FigureCanvasAgg(picture)
    axes = [*picture.subplots(rows, columns, squeeze=False).flat]
    for extra in axes[count:]:
        extra.remove()
    for each in axes[:count]:
        each.grid(axis="y", color="#DDDDDD", linewidth=0.6)
        each.set_axisbelow(True)
        each.spines[["top", "right"]].set_visible(False)
        each.tick_params(labelsize=8)
    return picture, axes[:count]


def _line(axes: Any, name: str, points: Mapping[int, Interval]) -> None:
    colour, marker, line, label = _STYLE[name]
    x = [*points]
    means = np.array([points[i].mean for i in x])
    halves = np.array([points[i].half or 0.0 for i in x])
    axes.plot(x, means, line, color=colour, marker=marker, markersize=4, linewidth=1.3, label=label)
    axes.fill_between(x, means - halves, means + halves, color=colour, alpha=0.13, linewidth=0)


def _log_axis(axes: Any, ticks: Sequence[int], label: str) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel(label, fontsize=9)


def _save(picture: Any, path: Path) -> None:
    handles: dict[str, Any] = {}
    for axes in picture.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    columns = 6 if picture.get_figwidth() > 9 else 3
    picture.legend(
        [*handles.values()], [*handles], loc="outside lower center", ncols=columns, frameon=False, fontsize=9
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    # Without matplotlib's version in it, the same rows give the same bytes.
    picture.savefig(path, metadata={"Software": None})


def _drawn_seeds(results: Results, task: str) -> set[int]:
    """Those that all lines of a panel have: the oracle is run on fewer."""
    lines = (results.values(task, name, **({"m": N} if name == "oracle" else {})) for name in _STYLE)
    return shared_seeds(of for of in lines if of)


def _curve(results: Results, task: str, name: str, key: str, minus: str | None = None) -> dict[int, Interval]:
    where = {"m": N} if name == "oracle" else {}
    found: dict[int, Interval] = {}
    seeds = _drawn_seeds(results, task)
    for n in (2**i for i in range(10)):

        def value(row: dict[str, Any], n: int = n) -> float:
            return float(row[key].get(str(n), math.nan))

        of = results.by_seed(task, name, value, **where)
        if minus is None:
            interval = t_interval(x for seed, x in of.items() if seed in seeds)
        else:
            interval = paired(of, results.by_seed(task, minus, value))
        if interval is not None and math.isfinite(interval.mean):
            found[n] = interval
    return found


def draw_curves(results: Results, path: Path, minus: str | None = None) -> bool:
    """Best-of-N by N for every task, or its paired difference to a method's."""
    drawn = [name for name in _STYLE if results.methods([name], **({"m": N} if name == "oracle" else {}))]
    if len(drawn) < 2 or (minus is not None and minus not in drawn):
        return False
    picture, grid = _axes_grid(len(results.tasks))
    for axes, task in zip(grid, results.tasks, strict=True):
        axes.axvline(N, color="#BBBBBB", linewidth=1, zorder=0)
        if minus is not None:
            axes.axhline(0.0, color=_STYLE[minus][0], linewidth=1, zorder=0)
        for name in drawn:
            curve = _curve(results, task, name, "curve", minus) if name != minus else {}
            if curve:
                _line(axes, name, curve)
        _log_axis(axes, [1, 4, 16, 64, 256], "N")
        seeds = len(_drawn_seeds(results, task))
        axes.set_title(task if minus is not None else f"{task}, {seeds} seeds", fontsize=10)
    grid[0].set_ylabel("best of N" if minus is None else f"best of N minus {_STYLE[minus][3]}'s", fontsize=9)
    _save(picture, path)
    return True


def draw_gold(results: Results, path: Path) -> bool:
    """Gold of the pick against the reward that picked it, a point for every N."""
    with_gold = [
        task for task in results.tasks if any("gold" in row for row in results.reported if row["task"] == task)
    ]
    if not with_gold:
        return False
    picture, grid = _axes_grid(2 * len(with_gold), height=3.4)
    for i, task in enumerate(with_gold):
        by_n, by_reward = grid[2 * i : 2 * i + 2]
        for name in _STYLE:
            reward, gold = _curve(results, task, name, "curve"), _curve(results, task, name, "gold")
            if not gold:
                continue
            _line(by_n, name, gold)
            colour, marker, line, label = _STYLE[name]
            shared = [n for n in gold if n in reward]
            x, y = [reward[n].mean for n in shared], [gold[n].mean for n in shared]
            by_reward.plot(x, y, line, color=colour, marker=marker, markersize=4, linewidth=1.3, label=label)
        by_n.axvline(N, color="#BBBBBB", linewidth=1, zorder=0)
        _log_axis(by_n, [1, 4, 16, 64, 256], "N")
        by_n.set_ylabel("gold of the pick", fontsize=9)
        by_reward.set_xlabel("reward of the pick, N = 1 .. 512", fontsize=9)
        by_reward.set_ylabel("gold of the pick", fontsize=9)
        by_n.set_title(task, fontsize=10)
    _save(picture, path)
    return True


def draw_efficiency(results: Results, path: Path) -> bool:
    """Best-of-N by rollouts per prompt, minus what ours reaches with 16: paired, as seeds differ more than methods."""
    points: dict[str, dict[str, dict[int, Interval]]] = {}
    for task in results.tasks:
        reference = results.values(task, REFERENCE)
        for (name, m), of in efficiency_values(results, task).items():
            gap = paired(of, reference)
            if gap is not None:
                points.setdefault(task, {}).setdefault(name, {})[m] = gap
    if not any(len(of) > 1 for by_name in points.values() for of in by_name.values()):
        return False
    picture, grid = _axes_grid(len(points))
    for axes, (task, by_name) in zip(grid, points.items(), strict=True):
        axes.axhline(0.0, color=_STYLE[REFERENCE][0], linewidth=0.8, linestyle="--", zorder=0)
        for name, of in by_name.items():
            _line(axes, name, of)
        _log_axis(axes, [4, 8, 16, 32, 64, 128], "m, rollouts per prompt")
        axes.set_title(task, fontsize=10)
    grid[0].set_ylabel(f"best of {N} minus that of\n{_STYLE[REFERENCE][3]} with m = {M}", fontsize=9)
    _save(picture, path)
    return True


FIGURES: dict[str, Callable[[Results, Path], bool]] = {
    "curves": draw_curves,
    "gain": lambda results, path: draw_curves(results, path, minus="grpo"),
    "gold": draw_gold,
    "efficiency": draw_efficiency,
}
