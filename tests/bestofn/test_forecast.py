import json

import numpy as np
import pytest
from scipy import special, stats

from tea.bestofn import backtest, best_of_n_curve, forecast_best_of_n
from tea.bestofn.forecast import METHODS
from tea.bestofn.tails import generalized_normal_curve, normal_curve, pareto_curve
from tests.reference.bestofn import expected_max

CONTINUOUS = [m for m in METHODS if m != "beta-binomial"]


def _rewards(distribution, prompts, samples, seed=0):
    rng = np.random.default_rng(seed)
    shift, scale = rng.normal(size=(prompts, 1)), rng.uniform(0.5, 1.5, size=(prompts, 1))
    return shift + scale * distribution.rvs(size=(prompts, samples), random_state=rng), shift.mean(), scale.mean()


@pytest.mark.parametrize("samples", [16, 33])
@pytest.mark.parametrize("method", ["gaussian", "ladder"])
def test_unbiased_for_gaussian_rewards_at_any_n(method, samples):
    rewards, shift, scale = _rewards(stats.norm(), 20_000, samples)
    forecast = forecast_best_of_n(rewards, [128, 512, 10**6], method=method)
    # The prompts' own locations and scales are known here, so only the sampling error is left.
    error = forecast.values - (shift + scale * normal_curve([128, 512, 10**6]))
    assert np.abs(error / forecast.std_error).max() < 4.0


def test_exponential_is_unbiased_for_exponential_tails():
    rewards, shift, scale = _rewards(stats.expon(), 20_000, 16)
    for fraction in (0.25, 1.0):
        forecast = forecast_best_of_n(rewards, [128, 512], method="exponential", tail_fraction=fraction)
        harmonic = special.digamma(np.array([129.0, 513.0])) + np.euler_gamma
        assert np.abs((forecast.values - shift - scale * harmonic) / forecast.std_error).max() < 4.0


@pytest.mark.parametrize(
    ("distribution", "truth"),
    [
        (stats.gennorm(1.0), lambda n: generalized_normal_curve(n, 0.0)),
        (stats.norm(), normal_curve),
        (stats.uniform(), lambda n: np.asarray(n) / (np.asarray(n) + 1)),
        (stats.genpareto(-0.2), lambda n: pareto_curve(n, -0.2)),
    ],
    ids=["laplace", "gaussian", "uniform", "pareto"],
)
@pytest.mark.parametrize("method", ["auto", "generalized-normal", "gpd"])
def test_a_fitted_shape_recovers_other_tails(method, distribution, truth):
    rewards, shift, scale = _rewards(distribution, 3000, 64)
    forecast = forecast_best_of_n(rewards, [256, 1024], method=method)
    target = shift + scale * truth([256, 1024])
    gain = target - np.sort(rewards)[:, -1].mean()
    gaussian = forecast_best_of_n(rewards, [256, 1024], method="gaussian").values
    # Within a fifth of the extrapolated gain, or an eighth of what a Gaussian tail gets wrong.
    assert (np.abs(forecast.values - target) < np.maximum(0.2 * np.abs(gain), np.abs(gaussian - target) / 8)).all()


def test_gaussian_is_the_tail_formula_with_calibrated_constants():
    rewards = np.random.default_rng(0).normal(size=(3, 16))
    tail = np.sort(rewards)[:, -4:]
    at_two = forecast_best_of_n(rewards, [2, 50], method="gaussian").per_prompt
    # V_N = mean + factor_N * std with one factor for all prompts, linear in c_N.
    factor = (at_two - tail.mean(axis=1, keepdims=True)) / tail.std(axis=1, ddof=1, keepdims=True)
    np.testing.assert_allclose(factor, np.tile(factor[0], (3, 1)))
    simulated = np.sort(np.random.default_rng(5).normal(size=(200_000, 16)))[:, -4:]
    expected = (normal_curve([2, 50]) - simulated.mean()) / simulated.std(axis=1, ddof=1).mean()
    np.testing.assert_allclose(factor[0], expected, rtol=0.01)


@pytest.mark.parametrize("rungs", [(1, 8), (3, 7)])
def test_ladder_reads_the_line_off_its_rungs(rungs):
    rewards = np.random.default_rng(1).normal(size=(4, 8))
    curve = best_of_n_curve(rewards, rungs)
    expected = np.polynomial.Polynomial.fit(normal_curve(rungs), curve.values, 1)(normal_curve([100]))
    np.testing.assert_allclose(forecast_best_of_n(rewards, 100, method="ladder", rungs=rungs).values, expected)


def test_beta_binomial_recovers_the_population():
    rng = np.random.default_rng(2)
    p = rng.beta(0.4, 3.0, size=(20_000, 1))
    correct = rng.random((20_000, 16)) < p
    ns = np.array([8, 64, 1024])
    forecast = forecast_best_of_n(correct, ns)
    assert forecast.method == "beta-binomial"
    truth = 1 - np.exp(special.betaln(0.4, 3.0 + ns) - special.betaln(0.4, 3.0))
    assert np.abs((forecast.values - truth) / forecast.std_error).max() < 4.0
    fit = forecast.parameters
    # scipy's beta-binomial agrees that no neighbouring (a, b) is likelier.
    counts = correct.sum(axis=1)
    best = stats.betabinom(16, fit["a"], fit["b"]).logpmf(counts).sum()
    for a, b in [(1.02, 1), (0.98, 1), (1, 1.02), (1, 0.98)]:
        assert stats.betabinom(16, fit["a"] * a, fit["b"] * b).logpmf(counts).sum() < best
    np.testing.assert_allclose(forecast.per_prompt.mean(axis=0), forecast.values, rtol=0.02)


def test_shift_and_scale_equivariance():
    rewards = np.random.default_rng(3).gumbel(size=(30, 32))
    for method in CONTINUOUS:
        base = forecast_best_of_n(rewards, [64, 300], method=method)
        moved = forecast_best_of_n(5.0 - 2.0 * -rewards, [64, 300], method=method)
        for name in ("values", "per_prompt", "ci_low", "ci_high"):
            np.testing.assert_allclose(getattr(moved, name), 5.0 + 2.0 * getattr(base, name), rtol=1e-6)


def test_auto_is_wider_than_its_family_only_beyond_n():
    rewards = np.random.default_rng(4).normal(size=(40, 16))
    auto = forecast_best_of_n(rewards, [16, 32, 512])
    plain = forecast_best_of_n(rewards, [16, 32, 512], method="generalized-normal")
    np.testing.assert_array_equal(auto.values, plain.values)
    extra = (auto.ci_high - auto.ci_low) - (plain.ci_high - plain.ci_low)
    assert extra[0] == pytest.approx(0.0, abs=1e-12)
    assert 0 < extra[1] < extra[2]


@pytest.mark.parametrize(
    ("rewards", "method", "verdict", "reason"),
    [
        (stats.norm().rvs((100, 32), random_state=0), "auto", "ok", None),
        (stats.norm().rvs((100, 32), random_state=0), "gaussian", "ok", None),
        (stats.expon().rvs((400, 64), random_state=0), "gaussian", "caution", "probably too low"),
        (stats.uniform().rvs((400, 64), random_state=0), "ladder", "caution", "probably too high"),
        (stats.norm().rvs((400, 64), random_state=0), "exponential", "caution", "probably too high"),
        (stats.t(3).rvs((2000, 64), random_state=0), "auto", "caution", "heavy tail"),
        (np.round(stats.norm().rvs((100, 32), random_state=0)), "auto", "do not trust", "ties"),
        (np.minimum(stats.norm().rvs((100, 32), random_state=0), 0.5), "auto", "do not trust", "saturated"),
        (stats.bernoulli(0.3).rvs((100, 32), random_state=0), "gaussian", "do not trust", "0/1"),
        (np.zeros((100, 32)), "auto", "do not trust", "same outcome"),
        (stats.norm().rvs((100, 6), random_state=0), "auto", "do not trust", "too few"),
        (stats.norm().rvs((1, 32), random_state=0), "auto", "caution", "one prompt"),
        (stats.norm().rvs((5, 32), random_state=0), "auto", "caution", "5 prompts"),
    ],
)
def test_verdicts(rewards, method, verdict, reason):
    forecast = forecast_best_of_n(rewards, [256], method=method)
    assert forecast.verdict == verdict, forecast.reasons
    assert not forecast.reasons if reason is None else any(reason in r for r in forecast.reasons)
    json.dumps(forecast.to_dict(), allow_nan=False)


def test_far_extrapolation_is_doubted():
    rewards = stats.norm().rvs((100, 16), random_state=0)
    assert forecast_best_of_n(rewards, [10**4]).verdict == "caution"
    assert forecast_best_of_n(rewards, [10**6]).verdict == "do not trust"


def test_backtest_counts_errors_and_coverage_by_hand():
    rewards = np.random.default_rng(6).normal(size=(20, 256))
    truth = best_of_n_curve(rewards, [64]).values[0]
    seen = []

    def fixed(sample, ns):
        seen.append(sample)
        return np.array([truth + (-1.0) ** len(seen)])

    (record,) = backtest(rewards, [64], 8, methods={"fixed": fixed}, repeats=6)
    assert record["bias"] == pytest.approx(0.0, abs=1e-12)
    assert record["rmse"] == pytest.approx(1.0)
    assert record["coverage"] is None
    rows = [set(row) for row in rewards]
    for sample in seen:
        assert sample.shape == (20, 8)
        assert all(any(set(draw) <= row for row in rows) and len(set(draw)) == 8 for draw in sample)


def test_backtest_of_the_gaussian_method_covers():
    rewards = np.random.default_rng(7).normal(size=(200, 1024))
    records = backtest(rewards, [64], [16], methods=["gaussian", "exponential"], repeats=200, num_prompts=40)
    gaussian, exponential = records
    assert abs(gaussian["bias"]) < 4 * gaussian["bias_se"]
    assert abs(gaussian["coverage"] - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 200)
    assert exponential["bias"] > 10 * exponential["bias_se"]
    assert exponential["verdicts"].get("ok", 0.0) < 1.0


def test_expected_max_reference_agrees_with_closed_form():
    assert expected_max(stats.uniform(), 9) == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"method": "magic"}, "method must be one of auto"),
        ({"tail_fraction": 0.0}, "tail_fraction must be in"),
        ({"method": "ladder", "rungs": (4, 2)}, "two increasing numbers"),
        ({"method": "ladder", "rungs": (4, 64)}, "from 1 to n = 8"),
        ({"method": "beta-binomial"}, "0 and 1 only"),
        ({"ns": [10**13]}, "forecasts go up to"),
        ({"ns": [0]}, "at least 1"),
        ({"rewards": [[1.0, 2.0, 3.0]]}, "at least 4 samples"),
        ({"rewards": [[1.0, 2.0, 3.0, 5.0]], "method": "gpd"}, "at least 2, got 1"),
    ],
)
def test_bad_input_is_named(kwargs, message):
    given = {"rewards": np.random.default_rng(0).normal(size=(3, 8)), "ns": [64], **kwargs}
    with pytest.raises(ValueError, match=message):
        forecast_best_of_n(**given)


def test_bad_backtests_are_refused():
    rewards = np.random.default_rng(0).normal(size=(3, 8))
    with pytest.raises(ValueError, match="leave at least half of the 8"):
        backtest(rewards, [4], 5)
    with pytest.raises(ValueError, match="repeats must be at least 2"):
        backtest(rewards, [4], 4, repeats=1)
    with pytest.raises(ValueError, match="forecast_best_of_n"):
        backtest(rewards, [16], 4)
