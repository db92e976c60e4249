"""Figures of a comparison, light and dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tea.report.comparison import Comparison


@dataclass(frozen=True)
class Theme:
    """Colours of a figure. Series colours are the Okabe-Ito set, told apart with colour-blind eyes too, in an order
    and brightness that stands out from the background; markers and dashes repeat the distinction.
    """

    name: str
    background: str
    text: str
    grid: str
    series: tuple[str, ...]


LIGHT = Theme(
    "light", "#ffffff", "#1f2328", "#d0d7de", ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#404040")
)
DARK = Theme(
    "dark", "#0d1117", "#e6edf3", "#30363d", ("#56b4e9", "#e69f00", "#2fc79a", "#e08fc0", "#f0e442", "#c9d1d9")
)
_MARKERS = ("o", "s", "^", "D", "v", "P")
_DASHES: tuple[Any, ...] = (
    "-",
    (0, (6, 2)),
    (0, (2, 1.5)),
    (0, (6, 2, 1.5, 2)),
    (0, (1, 1)),
    (0, (8, 1.5, 1, 1.5, 1, 1.5)),
)


def _figure(theme: Theme, title: str, xlabel: str, ylabel: str, width: float = 7.2) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, 4.3), layout="constrained", facecolor=theme.background)
    axes = figure.add_subplot(facecolor=theme.background)
    axes.set_title(title, color=theme.text, loc="left", fontsize=12)
    axes.set_xlabel(xlabel, color=theme.text)
    axes.set_ylabel(ylabel, color=theme.text)
    axes.tick_params(colors=theme.text, which="both")
    axes.grid(True, color=theme.grid, linewidth=0.7)
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.grid)
    return figure, axes


def _log2_axis(axes: Any, ns: Any) -> None:
    from matplotlib.ticker import NullLocator

    axes.set_xscale("log", base=2)
    ticks = [int(n) for n in ns if (int(n) & (int(n) - 1)) == 0] or [int(n) for n in ns]
    axes.set_xticks(ticks, [str(n) for n in ticks])
    axes.xaxis.set_minor_locator(NullLocator())


def _legend(axes: Any, theme: Theme) -> None:
    axes.legend(frameon=False, labelcolor=theme.text, fontsize=9)


def _style(theme: Theme, i: int) -> dict[str, Any]:
    return {
        "color": theme.series[i % len(theme.series)],
        "marker": _MARKERS[i % len(_MARKERS)],
        "linestyle": _DASHES[i % len(_DASHES)],
        "markersize": 5,
        "linewidth": 1.8,
    }


def curve_figure(comparison: Comparison, theme: Theme = LIGHT) -> Any:
    """Best-of-N curves with their bands."""
    level = comparison.curves[0].level
    what = "value of the selected sample" if comparison.value_differs else "reward of the best sample"
    figure, axes = _figure(theme, f"Best of N (bands: {level:.0%} over prompts)", "N, samples per prompt", what)
    for i, (name, curve) in enumerate(zip(comparison.names, comparison.curves, strict=True)):
        axes.plot(curve.ns, curve.values, label=name, **_style(theme, i))
        axes.fill_between(curve.ns, curve.ci_low, curve.ci_high, color=_style(theme, i)["color"], alpha=0.18, lw=0)
    _log2_axis(axes, comparison.curves[0].ns)
    _legend(axes, theme)
    return figure


def difference_figure(comparison: Comparison, theme: Theme = LIGHT) -> Any | None:
    """Paired differences to the first run; None where there are none."""
    if all(difference is None for difference in comparison.differences):
        return None
    base = comparison.names[0]
    figure, axes = _figure(
        theme,
        f"Difference to {base} (paired by prompt, {comparison.curves[0].level:.0%} bands)",
        "N, samples per prompt",
        "difference",
    )
    axes.axhline(0.0, color=theme.text, linewidth=1.0)
    for i, (name, difference) in enumerate(zip(comparison.names, comparison.differences, strict=True)):
        if difference is not None:
            axes.plot(difference.ns, difference.values, label=f"{name} - {base}", **_style(theme, i))
            axes.fill_between(
                difference.ns,
                difference.ci_low,
                difference.ci_high,
                color=_style(theme, i)["color"],
                alpha=0.18,
                lw=0,
            )
    _log2_axis(axes, comparison.curves[0].ns)
    _legend(axes, theme)
    return figure


def qq_figure(comparison: Comparison, theme: Theme = LIGHT) -> Any | None:
    """Normal Q-Q plot of the standardised rewards, mean over prompts with its band; None where all are 0/1."""
    if all(found.binary for found in comparison.diagnostics):
        return None
    figure, axes = _figure(
        theme,
        "Normal Q-Q plot of what selects (mean over prompts; straight = Gaussian)",
        "expected order statistic of a standard normal",
        "standardised reward",
    )
    reach = max(float(found.qq_expected[-1]) for found in comparison.diagnostics)
    axes.plot([-reach, reach], [-reach, reach], color=theme.text, linewidth=1.0, label="Gaussian")
    for i, (name, found) in enumerate(zip(comparison.names, comparison.diagnostics, strict=True)):
        if found.binary:
            continue
        style = {**_style(theme, i), "markevery": max(1, len(found.qq_expected) // 12)}
        axes.plot(found.qq_expected, found.qq_observed, label=name, **style)
        axes.fill_between(found.qq_expected, found.qq_low, found.qq_high, color=style["color"], alpha=0.18, lw=0)
    _legend(axes, theme)
    return figure


def forecast_figure(comparison: Comparison, theme: Theme = LIGHT) -> Any | None:
    """Forecasts from part of the samples against the curve from all; None where nothing could be hidden."""
    if comparison.value_differs or all(forecast is None for forecast in comparison.forecasts):
        return None
    figure, axes = _figure(
        theme,
        "Forecast (points, with intervals) against the curve from all samples (lines)",
        "N, samples per prompt",
        "reward of the best sample",
    )
    shown = max(len(comparison.names), 1)
    for i, (name, curve, forecast) in enumerate(
        zip(comparison.names, comparison.curves, comparison.forecasts, strict=True)
    ):
        style = _style(theme, i)
        axes.plot(curve.ns, curve.values, color=style["color"], linestyle=style["linestyle"], linewidth=1.8)
        if forecast is not None:
            nudge = 2.0 ** (0.12 * (i - (shown - 1) / 2))  # side by side, so that intervals do not hide each other
            axes.errorbar(
                forecast.ns * nudge,
                forecast.values,
                yerr=[forecast.values - forecast.ci_low, forecast.ci_high - forecast.values],
                fmt=style["marker"],
                color=style["color"],
                capsize=3,
                markersize=6,
                label=f"{name}, from {forecast.num_samples} samples",
            )
    _log2_axis(axes, comparison.curves[0].ns)
    _legend(axes, theme)
    return figure


def trend_figure(records: Sequence[Mapping[str, Any]], reward: str, theme: Theme = LIGHT) -> Any:
    """Best of N over a training run: one sample, best of the group, and the forecast, a point per window of steps.

    Args:
        records: one per window: last_step, num_samples, n, and value with interval (None: unknown) as `one`,
            `best_of_group` and `forecast`.
        reward: its name.
        theme: colours.
    """
    figure, axes = _figure(theme, f"Best of N over the training run, {reward}", "training step", "reward")
    steps = [record["last_step"] for record in records]
    labels = {
        "one": "one sample",
        "best_of_group": f"best of {records[0]['num_samples']}",
        "forecast": f"forecast, best of {records[0]['n']}",
    }
    for i, (key, label) in enumerate(labels.items()):
        value, low, high = np.asarray([record[key] for record in records], dtype=np.float64).T
        axes.plot(steps, value, label=label, **_style(theme, i))
        axes.fill_between(steps, low, high, color=_style(theme, i)["color"], alpha=0.18, lw=0)
    _legend(axes, theme)
    return figure


FIGURES = {
    "curves": curve_figure,
    "differences": difference_figure,
    "forecast": forecast_figure,
    "qq": qq_figure,
}

ALT = {
    "curves": "Best-of-N curves with bands",
    "differences": "Paired differences to the first run with bands",
    "forecast": "Forecasts against the curve from all samples",
    "qq": "Normal Q-Q plot of the rewards",
}
