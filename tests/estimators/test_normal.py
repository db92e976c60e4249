"""Constants of the standard normal, against scipy."""

import math

import numpy as np
import pytest
from scipy import stats

import tea
from tea.estimators.normal import tail_slope, truncated_normal_constants
from tests.reference import estimators as reference


@pytest.mark.parametrize(
    ("n", "value"), [(2, 0.564190), (4, 1.029375), (16, 1.765991), (128, 2.594597), (512, 3.043903)]
)
def test_expected_max_normal_published_values(n, value):
    assert tea.expected_max_normal(n) == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize("n", [1.5, 2, 3, 5, 16, 64.5, 128, 1000, 10_000])
def test_expected_max_normal_is_the_integral(n):
    assert tea.expected_max_normal(n) == pytest.approx(reference.expected_max_normal(n), abs=1e-11)


def test_expected_max_normal_closed_forms():
    assert tea.expected_max_normal(1) == 0.0
    assert tea.expected_max_normal(2) == pytest.approx(1 / math.sqrt(math.pi), abs=1e-14)
    assert tea.expected_max_normal(3) == pytest.approx(1.5 / math.sqrt(math.pi), abs=1e-14)


def test_expected_max_normal_of_a_million_is_finite_and_near_its_asymptote():
    n = 10**6
    # Fisher-Tippett: the mean of the maximum is b + gamma / b up to O(1 / b^3), b = the 1 - 1/n quantile.
    b = stats.norm.isf(1 / n)
    assert tea.expected_max_normal(n) == pytest.approx(b + np.euler_gamma / b, abs=2 / b**3)


@pytest.mark.parametrize("n", [0, 0.99, -1, math.nan, math.inf, True])
def test_expected_max_normal_refuses(n):
    with pytest.raises(ValueError, match=r"n must be a finite number >= 1, got"):
        tea.expected_max_normal(n)


@pytest.mark.parametrize("fraction", [1e-6, 0.01, 0.1, 0.25, 0.5, 0.75, 0.999])
def test_truncated_normal_constants(fraction):
    z, h, s = truncated_normal_constants(fraction)
    tail = stats.truncnorm(stats.norm.isf(fraction), np.inf)
    assert z == pytest.approx(stats.norm.isf(fraction), abs=1e-12)
    assert h == pytest.approx(tail.mean(), rel=1e-10)
    assert s == pytest.approx(tail.std(), rel=1e-6 if fraction < 1e-3 else 1e-9)


def test_truncated_normal_constants_of_everything():
    assert truncated_normal_constants(1.0) == (-math.inf, 0.0, 1.0)
    h, s = truncated_normal_constants(1 - 1e-12)[1:]
    assert h == pytest.approx(0.0, abs=1e-10)
    assert s == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.0001, math.nan])
def test_truncated_normal_constants_refuse(fraction):
    with pytest.raises(ValueError, match=r"fraction must be in \(0, 1\]"):
        truncated_normal_constants(fraction)


def test_tail_slope_recovers_best_of_n_of_a_normal():
    # mean + slope * std of the true tail is c_N, for every fraction.
    for fraction in (0.05, 0.25, 0.6, 1.0):
        tail = stats.truncnorm(stats.norm.isf(fraction), np.inf) if fraction < 1 else stats.norm
        value = tail.mean() + tail_slope(128, fraction) * tail.std()
        assert value == pytest.approx(2.594597, abs=1e-6)
