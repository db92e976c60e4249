import numpy as np
import pytest
from scipy import stats

from tea.bestofn.diagnostics import normal_order_statistics
from tea.bestofn.tails import (
    GENERALIZED_NORMAL,
    PARETO,
    exponential_curve,
    fit_shape,
    generalized_normal_curve,
    normal_curve,
    pareto_curve,
)
from tea.estimators import expected_max_normal
from tests.reference.bestofn import expected_max

NS = [1, 2, 16, 512]


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0, 6.0])
def test_generalized_normal_against_quadrature(power):
    expected = [expected_max(stats.gennorm(power), n) for n in NS]
    np.testing.assert_allclose(generalized_normal_curve(NS, np.log(power)), expected, rtol=1e-4, atol=1e-6)


def test_generalized_normal_of_power_two_is_the_gaussian_to_a_million():
    ns = [2, 128, 10**6]
    np.testing.assert_allclose(generalized_normal_curve(ns, np.log(2.0)) * np.sqrt(2), normal_curve(ns), rtol=1e-9)


def test_normal_curve_is_the_estimators_constant():
    ns = [1, 2, 3, 128, 512, 10**6, 10**12]
    np.testing.assert_allclose(normal_curve(ns), [expected_max_normal(n) for n in ns], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("shape", [-0.5, -0.1, 0.0, 0.3])
def test_pareto_against_quadrature(shape):
    expected = [expected_max(stats.genpareto(shape), n) for n in NS]
    np.testing.assert_allclose(pareto_curve(NS, shape), expected, rtol=1e-4)


def test_exponential_is_the_harmonic_numbers():
    np.testing.assert_allclose(exponential_curve([1, 2, 3, 10]), [1, 1.5, 11 / 6, sum(1 / i for i in range(1, 11))])


def test_normal_order_statistics_against_quadrature_and_simulation():
    np.testing.assert_allclose(normal_order_statistics(5)[4], expected_max(stats.norm(), 5), rtol=1e-6)
    simulated = np.sort(np.random.default_rng(0).standard_normal((40_000, 9)), axis=1)
    z = (simulated.mean(axis=0) - normal_order_statistics(9)) / (simulated.std(axis=0) / 200)
    assert np.abs(z).max() < 4.5


@pytest.mark.parametrize(
    ("distribution", "family", "truth"),
    [
        (stats.norm(), GENERALIZED_NORMAL, 2.0),
        (stats.gennorm(1), GENERALIZED_NORMAL, 1.0),
        (stats.gennorm(4), GENERALIZED_NORMAL, 4.0),
        (stats.genpareto(-0.3), PARETO, -0.3),
        (stats.genpareto(0.1), PARETO, 0.1),
    ],
)
def test_the_posterior_finds_the_shape_across_prompts_of_different_scale(distribution, family, truth):
    rng = np.random.default_rng(1)
    scale, shift = rng.uniform(0.5, 2.0, size=(2000, 1)), rng.normal(size=(2000, 1)) * 3
    ordered = np.sort(shift + scale * distribution.rvs(size=(2000, 64), random_state=rng), axis=1)
    posterior = fit_shape(ordered, family)
    _, low, high = posterior.parameter(0.999)
    assert low < truth < high
    assert high - low < 2.5 * truth if truth > 1 else high - low < 0.7
    np.testing.assert_allclose(posterior.weights.sum(), 1.0)
    # Shift and scale of the rewards say nothing about the shape.
    np.testing.assert_allclose(
        fit_shape(7.0 + 100.0 * ordered, family).parameter(0.95)[0], posterior.parameter(0.95)[0]
    )
