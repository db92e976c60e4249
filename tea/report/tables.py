"""A comparison as tables and sentences, and how numbers are written."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tea.report.comparison import Comparison


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


def tables(comparison: Comparison) -> dict[str, tuple[list[str], list[list[str]]]]:
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


def absent(comparison: Comparison) -> dict[str, str]:
    """Figure's name -> what to say in place of its section, where there is nothing to show."""
    if len(comparison.names) > 1 and all(difference is None for difference in comparison.differences):
        return {"differences": " ".join(note + "." for note in comparison.notes if "no paired difference" in note)}
    return {}


def settings_rows(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Header and rows of how the runs were sampled; no rows where it is not known of any."""
    names = list(dict.fromkeys(name for settings in comparison.settings for name in settings))
    if not names:
        return [], []
    rows = [
        [name.replace("_", " "), *(str(settings.get(name, "")) for settings in comparison.settings)] for name in names
    ]
    return ["", *comparison.names], rows


def summary(comparison: Comparison) -> list[str]:
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
