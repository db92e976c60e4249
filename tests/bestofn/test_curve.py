import json
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from scipy import special, stats

from tea.bestofn import best_of_n_curve, order_weights, paired_difference, pass_at_n
from tests.reference.bestofn import curve_over_subsets, product_over_disjoint_subsets


@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 11])
def test_equals_brute_force_over_all_subsets(n):
    rewards = np.random.default_rng(0).normal(size=(3, 11))
    curve = best_of_n_curve(rewards, [n])
    expected = [curve_over_subsets(row, row, n) for row in rewards]
    np.testing.assert_allclose(curve.per_prompt[:, 0], expected, rtol=1e-12)
    np.testing.assert_allclose(curve[n], np.mean(expected), rtol=1e-12)


@pytest.mark.parametrize("n", [1, 2, 4, 7])
def test_selection_by_another_score_with_ties_equals_brute_force(n):
    rng = np.random.default_rng(1)
    select_by = rng.integers(0, 3, size=(4, 7)).astype(float)
    value = rng.normal(size=(4, 7))
    expected = [curve_over_subsets(s, v, n) for s, v in zip(select_by, value, strict=True)]
    for curve in (
        best_of_n_curve(select_by=select_by, value=value, ns=[n]),
        best_of_n_curve(value, [n], select_by=select_by),
        best_of_n_curve(select_by, [n], value=value),
    ):
        np.testing.assert_allclose(curve.per_prompt[:, 0], expected, rtol=1e-12)


def test_weights_at_ten_thousand_samples_match_exact_integers():
    from fractions import Fraction
    from math import comb

    size, n = 10_000, 137
    weights = order_weights(size, [1, n, 5000, size])
    assert np.isfinite(weights).all()
    np.testing.assert_allclose(weights.sum(axis=1), 1.0, rtol=1e-10)
    for rank in (n, 5000, 9000, 9990, size):
        exact = float(Fraction(comb(rank - 1, n - 1), comb(size, n)))
        np.testing.assert_allclose(weights[1, rank - 1], exact, rtol=1e-11)
    np.testing.assert_array_equal(weights[3, :-1], 0.0)


@pytest.mark.parametrize(
    ("distribution", "closed_form"),
    [
        (stats.uniform(), lambda n: n / (n + 1)),
        (stats.expon(), lambda n: special.digamma(n + 1) + np.euler_gamma),
        (stats.norm(), lambda n: {4: 1.0293753730, 16: 1.7659913931, 128: 2.5945970430}[n]),
    ],
    ids=["uniform", "exponential", "gaussian"],
)
def test_unbiased_against_closed_forms(distribution, closed_form):
    rewards = distribution.rvs(size=(4000, 160), random_state=2)
    curve = best_of_n_curve(rewards, [4, 16, 128])
    z = (curve.values - [closed_form(n) for n in (4, 16, 128)]) / curve.std_error
    assert np.abs(z).max() < 4.0  # standard errors


def test_pass_at_n_is_the_closed_form():
    correct = np.zeros((3, 20), dtype=bool)
    correct[0, :1] = correct[1, 5:12] = True
    curve = pass_at_n(correct, [1, 4, 16])
    for row, successes in enumerate([1, 7, 0]):
        for column, n in enumerate([1, 4, 16]):
            expected = 1.0 - special.comb(20 - successes, n, exact=True) / special.comb(20, n, exact=True)
            np.testing.assert_allclose(curve.per_prompt[row, column], expected, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_variance_over_samples_equals_disjoint_subsets(n):
    rewards = np.random.default_rng(3).normal(loc=50.0, size=(2, 7))
    curve = best_of_n_curve(rewards, [n], over="samples")
    variances = [curve_over_subsets(row, row, n) ** 2 - product_over_disjoint_subsets(row, row, n) for row in rewards]
    np.testing.assert_allclose(curve.std_error[0], np.sqrt(np.mean(variances) / 2), rtol=1e-8)


def test_variance_over_samples_is_the_sample_variance_at_one():
    rewards = np.random.default_rng(4).normal(size=(5, 30))
    curve = best_of_n_curve(rewards, [1], over="samples")
    expected = np.sqrt(rewards.var(axis=1, ddof=1).sum() / 30) / 5
    np.testing.assert_allclose(curve.std_error[0], expected, rtol=1e-12)


@pytest.mark.parametrize("n", [5, 8, 9])
def test_jackknife_over_samples_equals_leaving_each_out(n):
    rewards = np.random.default_rng(5).normal(size=(1, 9))
    curve = best_of_n_curve(rewards, [n], over="samples")
    kept = [np.delete(rewards[0], i) for i in range(9)]
    if n == 9:
        expected = sum((rewards.max() - k.max()) ** 2 for k in kept)
    else:
        expected = 8 * np.var([curve_over_subsets(k, k, n) for k in kept])
    np.testing.assert_allclose(curve.std_error[0] ** 2, expected, rtol=1e-10)


def test_interval_over_prompts_is_students_t_over_prompts():
    rewards = np.random.default_rng(6).normal(size=(12, 16))
    curve = best_of_n_curve(rewards, [1, 8], level=0.9)
    low, high = stats.t.interval(0.9, 11, loc=curve.values, scale=stats.sem(curve.per_prompt, axis=0))
    np.testing.assert_allclose(curve.ci_low, low)
    np.testing.assert_allclose(curve.ci_high, high)


def test_paired_difference_is_the_paired_t_test():
    rng = np.random.default_rng(7)
    base = rng.normal(size=(20, 1)) * 5
    first, second = base + rng.normal(0.3, 1.0, size=(20, 32)), base + rng.normal(size=(20, 64))
    difference = paired_difference(best_of_n_curve(first, [1, 16]), best_of_n_curve(second, [1, 16]))
    for column, n in enumerate([1, 16]):
        test = stats.ttest_rel(
            best_of_n_curve(first, [n]).per_prompt[:, 0], best_of_n_curve(second, [n]).per_prompt[:, 0]
        )
        interval = test.confidence_interval(0.95)
        np.testing.assert_allclose(difference.p_value[column], test.pvalue)
        np.testing.assert_allclose([difference.ci_low[column], difference.ci_high[column]], interval)


def test_paired_difference_of_a_curve_with_itself_has_p_value_one():
    curve = best_of_n_curve(np.random.default_rng(8).normal(size=(5, 8)), [1, 4])
    np.testing.assert_array_equal(paired_difference(curve, curve).p_value, 1.0)


def test_peak_finds_over_optimisation():
    # The selector prefers high scores; the gold value falls once the score is in its top hundredth.
    rng = np.random.default_rng(9)
    score = rng.uniform(size=(200, 256))
    gold = np.where(score < 0.99, score, -1.0)
    ns = np.array([1, 2, 4, 8, 16, 32, 64, 128, 256])
    truth = ns / (ns + 1) * 0.99 ** (ns + 1) - (1 - 0.99**ns)
    peak = best_of_n_curve(select_by=score, value=gold).peak()
    assert peak["n"] == ns[truth.argmax()] == 8
    assert peak["drop_ci_low"] < truth.max() - truth[-1] < peak["drop_ci_high"]
    assert best_of_n_curve(score).peak()["drop"] == 0.0


def test_inputs_of_every_kind_agree():
    rewards = np.random.default_rng(10).integers(-4, 4, size=(3, 6)).astype(np.float64)
    expected = best_of_n_curve(rewards, [1, 3]).values
    for given in (
        torch.tensor(rewards),
        torch.tensor(rewards, dtype=torch.bfloat16, requires_grad=True),
        rewards.tolist(),
        rewards.astype(np.int32),
        [torch.tensor(row) for row in rewards],
    ):
        np.testing.assert_array_equal(best_of_n_curve(given, torch.tensor([1, 3])).values, expected)
    assert best_of_n_curve(rewards, 3).values.shape == (1,)
    assert best_of_n_curve(rewards).ns.tolist() == [1, 2, 4, 6]


def test_one_prompt_has_no_interval_over_prompts():
    curve = best_of_n_curve(np.random.default_rng(11).normal(size=(1, 8)), [2])
    assert np.isfinite(curve.values).all()
    assert np.isnan(curve.ci_low).all()
    assert json.loads(json.dumps(curve.to_dict()))["ci_low"] == [None]


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"rewards": [[1.0, 2.0], [1.0]]}, ValueError, "row 0 has 2, row 1 has 1"),
        ({"rewards": [[1.0, float("nan")]]}, ValueError, r"rewards\[0, 1\] is nan"),
        ({"rewards": [[1.0, 2.0], [float("-inf"), 0.0]]}, ValueError, r"rewards\[1, 0\] is -inf"),
        ({"rewards": [1.0, 2.0]}, ValueError, r"shape \(num_prompts, num_samples\)"),
        ({"rewards": [["a", "b"]]}, TypeError, "must hold numbers"),
        ({"rewards": np.zeros((0, 4))}, ValueError, "empty"),
        ({"rewards": [[1.0, 2.0]], "ns": [4]}, ValueError, "forecast_best_of_n"),
        ({"rewards": [[1.0, 2.0]], "ns": [0]}, ValueError, "at least 1, got 0"),
        ({"rewards": [[1.0, 2.0]], "ns": [1.5]}, TypeError, "whole numbers"),
        ({"rewards": [[1.0, 2.0]], "ns": []}, ValueError, "non-empty"),
        ({"rewards": [[1.0, 2.0]], "level": 95}, ValueError, "level"),
        ({"rewards": [[1.0, 2.0]], "over": "seeds"}, ValueError, "over must be"),
        ({"select_by": [[1.0, 2.0]]}, ValueError, "value is missing"),
        ({}, ValueError, "rewards is missing"),
        ({"select_by": [[1.0, 2.0]], "value": [[1.0]]}, ValueError, "same shape"),
    ],
)
def test_bad_input_is_named(kwargs, error, message):
    with pytest.raises(error, match=message):
        best_of_n_curve(**kwargs)


def test_pass_at_n_refuses_what_is_not_binary():
    with pytest.raises(ValueError, match=r"correct\[0, 1\] is 0.5"):
        pass_at_n([[1, 0.5]])


def test_a_million_rewards_take_under_three_seconds():
    rewards = np.random.default_rng(12).normal(size=(1000, 1000))
    started = time.perf_counter()
    for over in ("prompts", "samples"):
        assert np.isfinite(best_of_n_curve(rewards, over=over).ci_low).all()
    assert time.perf_counter() - started < 3.0  # 0.4 s on one core of a 2024 server


def test_statistics_of_a_file_need_no_torch():
    code = "import sys, tea.bestofn.plan, tea.report, tea.rollouts.io; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_package_import_loads_neither_torch_nor_scipy():
    code = "import sys, tea.bestofn; assert not {'torch', 'scipy', 'trl'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
