import json
import re

import numpy as np
import pytest

from tea.bestofn import best_of_n_curve, paired_difference
from tea.report import RunRewards, compare, format_interval, markdown_report, write_report
from tea.report.figures import DARK, LIGHT
from tea.report.tables import format_p, markdown_table


@pytest.fixture(scope="module")
def runs():
    rng = np.random.default_rng(0)
    base = rng.normal(size=(20, 1))
    return [
        RunRewards("base", base + rng.normal(size=(20, 64)), prompts=[f"p{i}" for i in range(20)]),
        RunRewards("better", base + 0.5 + rng.normal(size=(20, 64)), prompts=[f"p{i}" for i in range(20)]),
    ]


def test_runs_are_paired_by_prompt_whatever_their_order(runs):
    base, better = runs
    shuffle = np.random.default_rng(1).permutation(20)
    moved = RunRewards("better", better.rewards[shuffle], prompts=[better.prompts[i] for i in shuffle])
    found = compare([base, moved], [1, 16]).differences[1]
    expected = paired_difference(best_of_n_curve(better.rewards, [1, 16]), best_of_n_curve(base.rewards, [1, 16]))
    np.testing.assert_allclose(found.values, expected.values)
    np.testing.assert_allclose(found.p_value, expected.p_value)


def test_different_prompts_are_not_paired_and_that_is_said(runs):
    base, better = runs
    other = RunRewards("better", better.rewards, prompts=[f"q{i}" for i in range(20)])
    fewer = RunRewards("fewer", better.rewards[:5])
    found = compare([base, other, fewer])
    assert found.differences == [None, None, None]
    assert "better and base have no prompt in common: no paired difference" in found.notes
    assert "no prompt in common" in write_like(found)


def write_like(comparison):
    from tea.report.page import _html

    return _html(comparison, "t", {})


def test_report_files_stand_alone_and_hold_the_numbers(runs, tmp_path):
    comparison = compare(runs, [1, 8, 64])
    path = write_report(comparison, tmp_path / "report", "A & B <test>")
    text = path.read_text()
    assert "A &amp; B &lt;test&gt;" in text
    assert not re.findall(r'(?:src|srcset|href)="(?!data:)', text)  # nothing is fetched
    assert "<script" not in text
    assert text.count("prefers-color-scheme: dark") == 1 + 4  # the page and each of the four figures
    curve = comparison.curves[1]
    cell = format_interval(curve.values[2], curve.ci_low[2], curve.ci_high[2])
    assert cell in text
    assert cell in (tmp_path / "report" / "report.md").read_text()
    assert cell in markdown_report(comparison)
    assert "At N = 64, better is above base" in text
    stored = json.loads((tmp_path / "report" / "report.json").read_text())
    assert stored["runs"][1]["curve"]["values"] == curve.values.tolist()
    assert {p.name for p in (tmp_path / "report").iterdir()} == {
        "report.html",
        "report.md",
        "report.json",
        *(f"{name}-{theme}.png" for name in ("curves", "differences", "forecast", "qq") for theme in ("light", "dark")),
    }


def test_over_optimisation_is_reported():
    rng = np.random.default_rng(2)
    score = rng.uniform(size=(300, 256))
    gold = np.where(score < 0.99, score, -1.0)
    text = write_like(compare([RunRewards("policy", score, gold)]))
    assert "over-optimised: its value peaks at N = " in text


def test_zero_one_rewards_have_no_qq_plot(tmp_path):
    correct = np.random.default_rng(3).random((20, 64)) < 0.2
    write_report(compare([RunRewards("a", correct)]), tmp_path)
    assert not (tmp_path / "qq-light.png").exists()
    assert not (tmp_path / "differences-light.png").exists()
    assert (tmp_path / "curves-light.png").exists()


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_colours_have_contrast_and_survive_colour_blindness(theme):
    def linear(colour):
        channels = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
        return np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)

    def luminance(colour):
        return linear(colour) @ [0.2126, 0.7152, 0.0722]

    def contrast(a, b):
        high, low = sorted([luminance(a), luminance(b)], reverse=True)
        return (high + 0.05) / (low + 0.05)

    assert contrast(theme.text, theme.background) > 7  # WCAG AAA for text
    # The first three series, the usual case, under deuteranopia and protanopia (Machado et al. 2009, severity 1).
    blind = {
        "none": np.eye(3),
        "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
        "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    }
    for matrix in blind.values():
        seen = [np.clip(np.asarray(matrix) @ linear(c), 0, 1) ** (1 / 2.2) for c in theme.series[:3]]
        for i in range(3):
            for j in range(i):
                assert np.linalg.norm(seen[i] - seen[j]) > 0.2
    for colour in theme.series:
        assert contrast(colour, theme.background) > 2.9  # WCAG: 3 for graphics


def test_numbers_are_rounded_to_their_interval():
    assert format_interval(1.23456, 1.2, 1.27) == "1.235 [1.200, 1.270]"
    assert format_interval(123.456, 100.0, 150.0) == "123 [100, 150]"
    assert format_interval(0.5, float("nan"), float("nan")) == "0.5"
    assert format_p(1e-9) == "p < 0.0001"
    assert format_p(0.04) == "p = 0.0400"


def test_markdown_table_escapes_bars():
    assert markdown_table(["a", "b"], [["x|y", "1"]]).splitlines() == ["| a | b |", "|---|--:|", "| x\\|y | 1 |"]


def test_bad_comparisons_are_refused(runs):
    with pytest.raises(ValueError, match="no runs"):
        compare([])
    with pytest.raises(ValueError, match="names must differ"):
        compare([runs[0], runs[0]])
    with pytest.raises(ValueError, match="rewards of broken must be finite"):
        compare([runs[0], RunRewards("broken", [[1.0, float("inf")]])])
