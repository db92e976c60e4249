import itertools
import math
from collections import defaultdict

import numpy as np
import pytest

from tea.bestofn.vote import vote_curves

RNG = np.random.default_rng(0)
ANSWERS = RNG.choice(["a", "b", "c", None], size=(5, 9)).tolist()
REWARDS = RNG.random((5, 9)).round(1)
VALUE = (RNG.random((5, 9)) < 0.4).astype(float)


def slow(rule, answers, rewards, value, n, beta):
    """Mean over all subsets, with dictionaries."""
    results = []
    for subset in itertools.combinations(range(len(answers)), n):
        if rule == "soft":
            share = [math.exp(beta * rewards[i]) for i in subset]
            results.append(sum(s * value[i] for s, i in zip(share, subset, strict=True)) / sum(share))
            continue
        score, members = defaultdict(float), defaultdict(list)
        for i in subset:
            if answers[i] is not None:
                score[answers[i]] += 1 if rule == "majority" else rewards[i]
                members[answers[i]].append(value[i])
        if not score:
            results.append(np.mean([value[i] for i in subset]))
            continue
        best = max(score.values())
        results.append(np.mean([np.mean(members[a]) for a in score if abs(score[a] - best) < 1e-9]))
    return np.mean(results)


@pytest.mark.parametrize("rule", ["majority", "weighted", "soft"])
def test_every_subset_against_a_slow_reference(rule):
    ns = [1, 2, 3, 5, 9]
    rewards = REWARDS * 8  # multiples of 0.8 whose sums do not tie by rounding only
    rewards = np.round(rewards * 10)  # whole numbers: ties are exact
    found = vote_curves(rewards, ANSWERS, ns, value=VALUE, rules=[rule], beta=0.1, draws=200)
    expected = [
        np.mean([slow(rule, ANSWERS[p], rewards[p].tolist(), VALUE[p].tolist(), n, 0.1) for p in range(5)]) for n in ns
    ]
    np.testing.assert_allclose(found.curves[rule].values, expected, atol=1e-12)
    assert found.drawing_error[rule].max() == 0.0


@pytest.mark.parametrize("rule", ["majority", "weighted", "soft"])
def test_drawn_subsets_are_within_the_error_that_is_said(rule):
    exact = vote_curves(REWARDS, ANSWERS, [3, 4], value=VALUE, rules=[rule], draws=500)
    drawn = vote_curves(REWARDS, ANSWERS, [3, 4], value=VALUE, rules=[rule], draws=60, seed=1)
    assert exact.drawing_error[rule].max() == 0.0 < drawn.drawing_error[rule].min()
    gap = np.abs(drawn.curves[rule].values - exact.curves[rule].values)
    assert np.all(gap < 4 * drawn.drawing_error[rule])


def test_one_sample_is_the_mean_and_missing_ones_do_not_count():
    rewards = REWARDS.copy()
    rewards[0, 0] = np.nan
    found = vote_curves(rewards, ANSWERS, [1], missing="skip")
    expected = np.mean([np.nanmean(row) for row in rewards])
    for curve in found.curves.values():
        np.testing.assert_allclose(curve.values, [expected])
        assert curve.num_missing == 1


def test_a_majority_that_is_right_wins_and_its_interval_stays_a_share():
    answers = [["x"] * 6 + ["y"] * 3] * 4
    value = [[1.0] * 6 + [0.0] * 3] * 4
    curve = vote_curves(value, answers, [1, 9], rules=["majority"]).curves["majority"]
    np.testing.assert_allclose(curve.values, [2 / 3, 1.0])
    assert curve.ci_high[1] == 1.0
    np.testing.assert_allclose(curve.ci_low[1], 0.025 ** (1 / 4))


def test_bad_input():
    with pytest.raises(ValueError, match=r"must not be negative: .*--weights sigmoid"):
        vote_curves(REWARDS - 1, ANSWERS)
    assert vote_curves(REWARDS - 1, ANSWERS, weights="sigmoid", draws=8).curves["weighted"].num_prompts == 5
    with pytest.raises(ValueError, match="same shape"):
        vote_curves(REWARDS, [row[1:] for row in ANSWERS])
    with pytest.raises(ValueError, match="rules must be of"):
        vote_curves(REWARDS, ANSWERS, rules=["best"])
    with pytest.raises(ValueError, match="beta must be"):
        vote_curves(REWARDS, ANSWERS, beta=-1.0)
