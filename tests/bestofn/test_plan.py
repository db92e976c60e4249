import json

import numpy as np
import pytest
from scipy import integrate, stats

from tea.bestofn import (
    backtest_split,
    best_of_n_curve,
    fit_pass_at_n_law,
    forecast_best_of_n,
    imperfect_verifier,
    plan_samples,
    plan_training,
    split_budget,
)


def test_best_n_maximises_value_minus_cost():
    rewards = np.random.default_rng(0).exponential(size=(500, 64))
    plan = plan_samples(rewards, cost_per_sample=0.1, value_per_reward=2.0, max_n=64)
    # Exponential rewards: 2 H_N - N/10 is largest where 2 / N = 1 / 10.
    assert plan.best_n in (16, 24)
    assert plan.best_n_range[0] <= 20 <= plan.best_n_range[1]
    np.testing.assert_allclose(plan.net, 2 * best_of_n_curve(rewards, plan.ns).values - 0.1 * plan.ns)
    assert plan.verdict == "ok"
    json.dumps(plan.to_dict(), allow_nan=False)


def test_targets_and_doublings_reach_into_the_forecast():
    rewards = np.random.default_rng(1).normal(size=(1000, 64))
    plan = plan_samples(rewards, target=2.8, min_gain_per_doubling=0.3)
    forecast = forecast_best_of_n(rewards, [192, 256])
    assert plan.target_n == 256  # c_192 = 2.73, c_256 = 2.82
    assert plan.values[plan.ns.tolist().index(256)] == pytest.approx(forecast.values[1])
    assert plan.target_n_range[0] <= 256 <= plan.target_n_range[1]
    assert plan.doubling_n == 24  # c_32 - c_16 = 0.304, c_48 - c_24 = 0.284
    assert plan_samples(rewards, target=9.0).target_n is None


def test_plan_of_three_samples_does_not_forecast():
    plan = plan_samples(np.random.default_rng(2).normal(size=(5, 3)))
    assert plan.ns.tolist() == [1, 2, 3]


def test_bad_costs_are_refused():
    with pytest.raises(ValueError, match="cost_per_sample must be finite"):
        plan_samples([[1.0, 2.0, 3.0, 4.0]], cost_per_sample=-1.0)
    with pytest.raises(ValueError, match="max_n must be at least 1"):
        plan_samples([[1.0, 2.0, 3.0, 4.0]], max_n=0)


def test_split_spends_the_budget_on_the_prompts_that_gain_most():
    rng = np.random.default_rng(3)
    scale = np.exp(rng.normal(size=(200, 1)))
    split = split_budget(scale * rng.normal(size=(200, 16)), 200 * 64)
    assert split.samples.sum() == 200 * 64
    assert split.samples.min() >= 16
    assert np.corrcoef(split.samples, scale[:, 0])[0, 1] > 0.9
    assert split.expected > split.expected_uniform


def test_split_of_alike_prompts_is_about_uniform():
    rewards = np.random.default_rng(4).normal(size=(100, 16))
    samples = split_budget(rewards, 100 * 64).samples
    assert samples.sum() == 6400
    assert samples.max() < 3 * 64


@pytest.mark.parametrize("constant", [0.0, 1.0, 2.5])
def test_split_of_constant_rewards_prefers_nobody(constant):
    samples = split_budget(np.full((5, 8), constant), 102).samples
    assert samples.sum() == 102
    assert samples.max() - samples.min() <= 2  # one step of the allocation may be cut short by the budget


@pytest.mark.parametrize("extra", [0, 1, 7, 333])
def test_split_sums_to_any_budget(extra):
    rewards = np.random.default_rng(5).gumbel(size=(10, 8))
    assert split_budget(rewards, 80 + extra).samples.sum() == 80 + extra


def test_backtest_of_the_split_beats_uniform_where_prompts_differ():
    rng = np.random.default_rng(6)
    rewards = np.exp(rng.normal(size=(100, 1))) * rng.normal(size=(100, 512))
    gained = backtest_split(rewards, 16, 100 * 48, repeats=8)
    assert gained["gain_ci_low"] > 0
    correct = rng.random((100, 256)) < rng.beta(0.3, 2.0, size=(100, 1))
    assert backtest_split(correct, 16, 100 * 48, repeats=8)["gain_ci_low"] > 0


def test_backtest_credits_pilot_and_fresh_samples():
    # With a pilot of n - 1 and one fresh sample, the credited value is the maximum of all n.
    rewards = np.random.default_rng(7).normal(size=(5, 8))
    result = backtest_split(rewards, 7, 40, repeats=2)
    assert result["value"] == pytest.approx(rewards.max(axis=1).mean())
    assert result["value_uniform"] == pytest.approx(rewards.max(axis=1).mean())


def test_training_plan_measures_the_correlation_with_the_true_influence():
    rewards = np.random.default_rng(8).normal(size=(64, 2048))
    grpo = plan_training(rewards, 512, 32, estimator="rloo", group_sizes=(4, 64))
    tea = plan_training(rewards, 512, 32, estimator="tea", group_sizes=(4, 16))
    # Independent: for large m RLOO's advantage is the reward itself; psi(u) = integral of N Phi^(N-1).
    x = np.linspace(-8, 8, 4001)
    psi = integrate.cumulative_trapezoid(32 * stats.norm.cdf(x) ** 31, x, initial=0)
    density = stats.norm.pdf(x)
    mean = np.trapezoid(psi * density, x)
    correlation = np.trapezoid(psi * x * density, x) / np.sqrt(np.trapezoid((psi - mean) ** 2 * density, x))
    assert grpo[1]["efficiency"] == pytest.approx(correlation**2, rel=0.06)
    assert tea[1]["efficiency"] > 1.5 * grpo[1]["efficiency"]
    assert tea[1]["recommended"]
    assert grpo[0]["prompts_per_step"] == 128
    with pytest.raises(ValueError, match="at least as many samples"):
        plan_training(rewards, 512, 4096)
    with pytest.raises(ValueError, match="none of the group sizes"):
        plan_training(rewards, 2, 128)


def test_power_law_is_recovered():
    # Prompts whose success probabilities make pass@N an exact mean of 1 - (1-p)^N; the fit must pass through it.
    rng = np.random.default_rng(9)
    correct = rng.random((5000, 64)) < rng.beta(0.4, 3.0, size=(5000, 1))
    law = fit_pass_at_n_law(correct)
    ns = np.array(law["ns"])
    fitted = np.exp(-law["a"] * ns ** -law["b"])
    np.testing.assert_allclose(fitted, best_of_n_curve(correct, ns).values, atol=0.03)
    assert law["a_ci"][0] < law["a"] < law["a_ci"][1]
    assert law["b_ci"][0] < law["b"] < law["b_ci"][1]
    with pytest.raises(ValueError, match="pass@1 is 0"):
        fit_pass_at_n_law(np.zeros((3, 8)))
    with pytest.raises(ValueError, match="only 0 and 1"):
        fit_pass_at_n_law(np.full((3, 8), 0.5))


def test_imperfect_verifier_against_simulation():
    rng = np.random.default_rng(10)
    correct = rng.random((3000, 32)) < rng.beta(0.5, 2.0, size=(3000, 1))
    result = imperfect_verifier(correct, 0.1, true_positive_rate=0.9, wrong_cost=1.0, max_n=256)
    p = rng.beta(result["a"], result["b"], size=200_000)
    for n in (1, 8, 64):
        i = result["ns"].index(n)
        # Draw until accepted, at most n times: accepted at all, and then correct?
        q = 0.9 * p + 0.1 * (1 - p)
        answered = rng.random(len(p)) < 1 - (1 - q) ** n
        right = answered & (rng.random(len(p)) < 0.9 * p / q)
        for name, observed in (("correct", right.mean()), ("wrong", (answered & ~right).mean())):
            assert abs(result[name][i] - observed) < 4 * np.sqrt(observed / len(p)) + 1e-3
    # More samples hurt beyond some N, earlier the worse the verifier.
    assert 1 < result["best_n"] < 256
    assert imperfect_verifier(correct, 0.02)["best_n"] > imperfect_verifier(correct, 0.2)["best_n"]
    assert imperfect_verifier(correct, 0.0, max_n=64)["best_n"] == 64
    with pytest.raises(ValueError, match="false_positive_rate must be in"):
        imperfect_verifier(correct, 1.5)
