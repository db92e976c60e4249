"""benchmarks/estimators/binary.py: exact sums against sampling, and the truth against a difference quotient."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import tea
from benchmarks.estimators.binary import RATES, estimators, moments, truth


@pytest.mark.parametrize("name", ["grpo", "max_rl", "pass_at_n"])
def test_moments_are_those_of_sampled_groups(name: str) -> None:
    m, rates = 8, np.array([0.03, 0.3])
    estimator = estimators(m, 128)[name]
    mean, square = moments(estimator, m, rates)
    for i, p in enumerate(rates):
        draws = np.random.default_rng(i).random((400_000, m)) < p
        advantages = estimator(torch.from_numpy(draws.astype(np.float64))).double().numpy()
        gradient = (advantages * (draws - p)).mean(1)
        assert mean[i] == pytest.approx(gradient.mean(), abs=5 * gradient.std() / np.sqrt(len(gradient)))
        assert square[i] == pytest.approx((gradient**2).mean(), rel=0.03)


def test_the_truth_is_the_slope_of_pass_at_n_in_the_log_odds() -> None:
    p, step = np.array([0.001, 0.01, 0.2]), 1e-5
    odds = np.log(p / (1 - p))
    up, down = (1 - (1 - 1 / (1 + np.exp(-(odds + h)))) ** 128 for h in (step, -step))
    np.testing.assert_allclose(truth(p, 128), (up - down) / (2 * step), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(("name", "options"), [("max_po", {}), ("max_at_k", {"center": False})])
def test_what_is_unbiased_for_the_best_of_k_has_its_gradient(name: str, options: dict[str, bool]) -> None:
    mean, _ = moments(tea.get_estimator(name, k=8, **options), 16, RATES)
    np.testing.assert_allclose(mean, truth(RATES, 8), atol=1e-9)
