"""Compare runs: curves, paired differences, Q-Q plots, forecasts against what came; as Markdown and one HTML file.

The HTML stands alone (figures inside, no scripts, nothing fetched) and follows the reader's light or dark setting.
"""

from __future__ import annotations

import base64
import html
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tea.bestofn._inputs import default_ns, reward_matrix
from tea.bestofn.curve import BestOfNCurve, PairedDifference, best_of_n_curve, paired_difference
from tea.bestofn.diagnostics import Diagnostics, diagnose
from tea.bestofn.forecast import Forecast, forecast_best_of_n


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


# Tables ---------------------------------------------------------------------------------------------------------


def curve_rows(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of curves."""
    rows = [
        [str(n), *(format_interval(c.values[i], c.ci_low[i], c.ci_high[i]) for c in comparison.curves)]
        for i, n in enumerate(comparison.curves[0].ns)
    ]
    return ["N", *comparison.names], rows


def difference_rows(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of paired differences; no rows where there are none."""
    known = [(n, d) for n, d in zip(comparison.names, comparison.differences, strict=True) if d is not None]
    if not known:
        return ["N"], []
    rows = [
        [
            str(n),
            *(f"{format_interval(d.values[i], d.ci_low[i], d.ci_high[i])}, {format_p(d.p_value[i])}" for _, d in known),
        ]
        for i, n in enumerate(comparison.curves[0].ns)
    ]
    return ["N", *(f"{name} - {comparison.names[0]}" for name, _ in known)], rows


def forecast_rows(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of forecasts against what came."""
    rows = []
    for name, curve, forecast in zip(comparison.names, comparison.curves, comparison.forecasts, strict=True):
        if forecast is None or comparison.value_differs:
            continue
        for i, n in enumerate(forecast.ns):
            rows.append(
                [
                    name,
                    f"{forecast.num_samples} -> {n}",
                    format_interval(forecast.values[i], forecast.ci_low[i], forecast.ci_high[i]),
                    f"{curve[int(n)]:.4g}",
                    forecast.verdict,
                ]
            )
    return ["run", "samples -> N", "forecast", "from all samples", "verdict"], rows


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, every column but the first aligned to the right."""
    lines = ["| " + " | ".join(header) + " |", "|" + "|".join(["---"] + ["--:"] * (len(header) - 1)) + "|"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines)


def format_interval(value: float, low: float, high: float) -> str:
    """Value and interval with as many decimals as the interval's width makes worth printing."""
    half = (high - low) / 2
    if not np.isfinite(half):
        return f"{value:.4g}"
    decimals = 4 if half <= 0 else int(np.clip(1 - np.floor(np.log10(half)), 0, 8))
    return f"{value:.{decimals}f} [{low:.{decimals}f}, {high:.{decimals}f}]"


def format_p(p: float) -> str:
    """A p-value with its relation sign."""
    return "p < 0.0001" if p < 1e-4 else ("p unknown" if np.isnan(p) else f"p = {p:.4f}")


# Figures --------------------------------------------------------------------------------------------------------


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


FIGURES = {
    "curves": curve_figure,
    "differences": difference_figure,
    "forecast": forecast_figure,
    "qq": qq_figure,
}

_ALT = {
    "curves": "Best-of-N curves with bands",
    "differences": "Paired differences to the first run with bands",
    "forecast": "Forecasts against the curve from all samples",
    "qq": "Normal Q-Q plot of the rewards",
}


# Reports --------------------------------------------------------------------------------------------------------


def write_report(
    comparison: Comparison, output_dir: str | os.PathLike[str], title: str = "Best-of-N comparison"
) -> Path:
    """Write report.html (stands alone), report.md, its PNG figures (light and dark) and report.json.

    Returns:
        The path of report.html.
    """
    import json

    directory = Path(output_dir)
    directory.mkdir(parents=True, exist_ok=True)
    pictures: dict[str, str] = {}
    sections: dict[str, str] = {}
    for name, draw in FIGURES.items():
        light, dark = draw(comparison, LIGHT), draw(comparison, DARK)
        if light is None or dark is None:
            continue
        for theme, figure in ((LIGHT, light), (DARK, dark)):
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png", dpi=150)
            _write_bytes(directory / f"{name}-{theme.name}.png", buffer.getvalue())
        pictures[name] = _picture(light, dark, _ALT[name])
        sections[name] = (
            f'<picture><source media="(prefers-color-scheme: dark)" srcset="{name}-dark.png">'
            f'<img alt="{_ALT[name]}" src="{name}-light.png" width="720"></picture>'
        )
    _write_bytes(directory / "report.md", _markdown(comparison, title, sections).encode())
    _write_bytes(directory / "report.json", json.dumps(comparison.to_dict(), indent=2, allow_nan=False).encode())
    target = directory / "report.html"
    _write_bytes(target, _html(comparison, title, pictures).encode())
    return target


def markdown_report(comparison: Comparison) -> str:
    """The tables alone, as Markdown."""
    parts = []
    for heading, (header, rows) in _tables(comparison).items():
        if rows:
            parts += [f"### {heading}", "", markdown_table(header, rows), ""]
    return "\n".join(parts)


def _tables(comparison: Comparison) -> dict[str, tuple[list[str], list[list[str]]]]:
    level = f"{comparison.curves[0].level:.0%}"
    found: list[list[str]] = [
        [name, f"{curve.num_prompts} x {curve.num_samples}", "; ".join(diagnostics.notes)]
        for name, curve, diagnostics in zip(comparison.names, comparison.curves, comparison.diagnostics, strict=True)
    ]
    return {
        f"Best of N, {level} intervals over prompts": curve_rows(comparison),
        f"Difference to {comparison.names[0]}, paired by prompt, {level} intervals, two-sided p for each N by itself": (
            difference_rows(comparison)
        ),
        "Forecast from part of the samples, against all": forecast_rows(comparison),
        "What the rewards look like": (["run", "prompts x samples", "findings"], found),
    }


_FIGURE_OF_TABLE = ("curves", "differences", "forecast", "qq")


def _summary(comparison: Comparison) -> list[str]:
    """The comparison in sentences, at the largest N."""
    n = int(comparison.curves[0].ns[-1])
    sentences = []
    for name, difference in zip(comparison.names, comparison.differences, strict=True):
        if difference is None or not np.isfinite(difference.ci_low[-1]):
            continue
        low, high, value = difference.ci_low[-1], difference.ci_high[-1], difference.values[-1]
        what = "above" if low > 0 else ("below" if high < 0 else "not distinguishable from")
        sentences.append(
            f"At N = {n}, {name} is {what} {comparison.names[0]}: {format_interval(value, low, high)}, "
            f"{format_p(difference.p_value[-1])}."
        )
    for name, curve in zip(comparison.names, comparison.curves, strict=True):
        peak = curve.peak()
        if comparison.value_differs and peak["drop_ci_low"] > 0:
            sentences.append(
                f"{name} is over-optimised: its value peaks at N = {peak['n']} and falls by {peak['drop']:.4g} "
                f"[{peak['drop_ci_low']:.4g}, {peak['drop_ci_high']:.4g}] by N = {n}."
            )
    return sentences + comparison.notes


def _markdown(comparison: Comparison, title: str, figures: dict[str, str]) -> str:
    parts = [f"# {title}", ""]
    parts += [f"- {sentence}" for sentence in _summary(comparison)]
    for (heading, (header, rows)), name in zip(_tables(comparison).items(), _FIGURE_OF_TABLE, strict=True):
        if not rows and name not in figures:
            continue
        parts += ["", f"## {heading}", ""]
        if name in figures:
            parts += [figures[name], ""]
        if rows:
            parts += [markdown_table(header, rows)]
    return "\n".join(parts) + "\n"


_CSS = """
:root { color-scheme: light dark; --bg: #ffffff; --text: #1f2328; --muted: #59636e; --line: #d0d7de; }
@media (prefers-color-scheme: dark) {
  :root { --bg: #0d1117; --text: #e6edf3; --muted: #9198a1; --line: #30363d; }
}
body { background: var(--bg); color: var(--text); font: 16px/1.5 system-ui, sans-serif; margin: 0; }
main { max-width: 60rem; margin: 0 auto; padding: 2rem 1rem 4rem; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.2rem; margin-top: 2.5rem; }
img { max-width: 100%; height: auto; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.9rem; margin-top: 1rem; }
th, td { padding: 0.3rem 0.8rem; border-bottom: 1px solid var(--line); text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
td.long { text-align: left; white-space: normal; min-width: 24rem; }
th.long { text-align: left; }
footer { color: var(--muted); font-size: 0.85rem; margin-top: 3rem; }
"""


def _html(comparison: Comparison, title: str, pictures: dict[str, str]) -> str:
    body = [f"<h1>{html.escape(title)}</h1>"]
    sentences = _summary(comparison)
    if sentences:
        body.append("<ul>" + "".join(f"<li>{html.escape(s)}</li>" for s in sentences) + "</ul>")
    for (heading, (header, rows)), name in zip(_tables(comparison).items(), _FIGURE_OF_TABLE, strict=True):
        if not rows and name not in pictures:
            continue
        body.append(f"<section><h2>{html.escape(heading)}</h2>")
        body.append(pictures.get(name, ""))
        if rows:
            body.append(_html_table(header, rows))
        body.append("</section>")
    sources = "; ".join(f"{n}: {s}" for n, s in zip(comparison.names, comparison.sources, strict=True) if s)
    curve = comparison.curves[0]
    body.append(
        f"<footer>Curves are unbiased over all subsets of the samples; intervals are Student-t over prompts, "
        f"{curve.level:.0%} for each N by itself. {html.escape(sources)}</footer>"
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_CSS}</style></head><body><main>"
        + "\n".join(body)
        + "</main></body></html>\n"
    )


def _html_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def cell(tag: str, text: str, column: int) -> str:
        long = any(len(row[column]) > 80 for row in rows)
        return f"<{tag}{' class=long' if long else ''}>{html.escape(text)}</{tag}>"

    head = "".join(cell("th", text, i) for i, text in enumerate(header))
    body = "".join("<tr>" + "".join(cell("td", text, i) for i, text in enumerate(row)) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _picture(light: Any, dark: Any, alt: str) -> str:
    sources = []
    for figure in (light, dark):
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
        sources.append("data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode())
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{sources[1]}">'
        f'<img alt="{html.escape(alt)}" src="{sources[0]}" width="720"></picture>'
    )


def _write_bytes(path: Path, content: bytes) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(content)
    os.replace(temporary, path)
