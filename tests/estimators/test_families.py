"""Tail families: constants against quadrature, the choice against made-up batches, the slope against its family."""

import math
import warnings

import numpy as np
import pytest
import torch
from scipy import integrate, stats

import tea
from tea.estimators.families import (
    BANK_SIZE,
    SHAPES,
    _expected_profile,
    family_weights,
    fraction_weights,
    gpd_expected_max,
    gpd_tail_slope,
    spacing_profile,
)
from tea.estimators.group import BinaryRewardsWarning, as_group
from tea.estimators.normal import tail_slope

SAMPLERS = {
    "gaussian": lambda rng, size: rng.standard_normal(size),
    "exponential": lambda rng, size: rng.exponential(size=size),
    "uniform": lambda rng, size: rng.uniform(size=size),
    "heavy": lambda rng, size: stats.genpareto(0.3).rvs(size=size, random_state=rng),
}


def expected_max(distribution, n):
    """E[max of n] of a scipy distribution with support from 0, by quadrature."""
    upper = distribution.isf(1e-18)
    return integrate.quad(lambda t: -math.expm1(n * math.log1p(-distribution.sf(t))), 0, upper, limit=500)[0]


@pytest.mark.parametrize("shape", [-1.0, -0.3, 0.0, 0.2])
@pytest.mark.parametrize("n", [1, 4, 128])
def test_gpd_expected_max(shape, n):
    assert gpd_expected_max(n, shape) == pytest.approx(expected_max(stats.genpareto(shape), n), rel=2e-4)


@pytest.mark.parametrize("fraction", [0.25, 1.0])
@pytest.mark.parametrize("shape", [-0.5, 0.0, 0.3])
def test_gpd_tail_slope_recovers_the_best_of_n(shape, fraction):
    """For rewards that are GPD all the way down, mean and std of the upper fraction determine V_N."""
    distribution = stats.genpareto(shape)
    threshold = distribution.isf(fraction)
    # Above a threshold a GPD is a GPD with the same shape and another scale.
    scale = 1.0 + shape * threshold
    mean = threshold + scale / (1.0 - shape)
    std = scale / ((1.0 - shape) * math.sqrt(1.0 - 2.0 * shape))
    value = mean + gpd_tail_slope(200, fraction, shape) * std
    assert value == pytest.approx(gpd_expected_max(200, shape), rel=1e-9)


def test_harmonic_numbers():
    assert gpd_expected_max(5, 0.0) == pytest.approx(1 + 1 / 2 + 1 / 3 + 1 / 4 + 1 / 5, rel=1e-12)


@pytest.mark.parametrize(("m", "k"), [(8, 4), (16, 4), (16, 8), (64, 16)])
@pytest.mark.parametrize(("member", "sampler"), [(0, "gaussian"), (1 + SHAPES.index(0.0), "exponential")])
def test_expected_profile(m, k, member, sampler):
    """Against its definition, the centre of gravity of the mean spacings of simulated groups."""
    prompts, blocks = 4000, 20
    values = []
    for seed in range(blocks):
        rewards = SAMPLERS[sampler](np.random.default_rng(seed), (prompts, m))
        top = -np.sort(-rewards, axis=1)[:, :k]
        weights = np.arange(1, k) * (top[:, :-1] - top[:, 1:]).mean(axis=0)
        values.append(weights @ np.arange(k - 1) / weights.sum() / (k - 2))
    error = np.std(values, ddof=1) / math.sqrt(blocks)
    assert abs(np.mean(values) - _expected_profile(m, k)[member]) < 4 * error


def batch(sampler, prompts=2000, m=16, seed=1):
    return as_group(torch.tensor(sampler(np.random.default_rng(seed), (prompts, m))))


def shape_of(weights):
    assert weights.sum() == pytest.approx(1.0)
    return float(weights[1:].double() @ torch.tensor(SHAPES, dtype=torch.float64))


def test_gpd_finds_the_shape():
    """Within 0.1: the spread that a prompt is measured by is correlated with its tail."""
    for name, shape in (("uniform", -1.0), ("exponential", 0.0), ("heavy", 0.3)):
        found = shape_of(family_weights(batch(SAMPLERS[name]), "gpd", 0.5))
        assert found == pytest.approx(shape, abs=0.1), name


def test_auto_takes_the_simplest_that_fits():
    gaussian, exponential = torch.eye(BANK_SIZE)[0], torch.eye(BANK_SIZE)[1 + SHAPES.index(0.0)]
    assert torch.equal(family_weights(batch(SAMPLERS["gaussian"]), "auto", 0.5).float(), gaussian)
    assert torch.equal(family_weights(batch(SAMPLERS["exponential"]), "auto", 0.5).float(), exponential)
    assert shape_of(family_weights(batch(SAMPLERS["uniform"]), "auto", 0.5)) < -0.9


def test_auto_seldom_leaves_the_gaussian_without_reason():
    """Two standard errors: about one batch in twenty, not more than one in eight of 400."""
    stays = [
        family_weights(batch(SAMPLERS["gaussian"], prompts=8, seed=seed), "auto", 0.5)[0].item() for seed in range(400)
    ]
    assert np.mean(stays) > 0.875


def test_small_batches_are_shrunk_towards_the_gaussian():
    few = shape_of(family_weights(batch(SAMPLERS["heavy"], prompts=4), "gpd", 0.5))
    many = shape_of(family_weights(batch(SAMPLERS["heavy"]), "gpd", 0.5))
    gaussian = shape_of(family_weights(batch(SAMPLERS["gaussian"]), "gpd", 0.5))
    assert gaussian < few < many


def test_nothing_to_judge_by_leaves_the_gaussian():
    constant = as_group(torch.ones(3, 8))
    for tail in ("gpd", "auto"):
        assert torch.equal(family_weights(constant, tail, 0.5), torch.eye(BANK_SIZE)[0])
    assert spacing_profile(constant, 0.5).prompts == 0


def test_auto_fraction_is_the_largest_that_fits():
    assert fraction_weights(batch(SAMPLERS["gaussian"], m=64), "gaussian").tolist() == [1, 0, 0]
    assert fraction_weights(batch(SAMPLERS["uniform"], m=64), "gaussian").tolist() == [0, 0, 1]
    assert fraction_weights(batch(SAMPLERS["exponential"], m=64), "exponential").tolist() == [1, 0, 0]
    assert fraction_weights(batch(SAMPLERS["uniform"], m=64), "auto").tolist() == [1, 0, 0]


def test_auto_fraction_gives_that_fractions_advantages():
    rewards = batch(SAMPLERS["gaussian"], prompts=50).rewards
    assert torch.equal(tea.tea_advantages(rewards, 128, "auto"), tea.tea_advantages(rewards, 128, 0.5))
    rewards = batch(SAMPLERS["uniform"], prompts=500, m=64).rewards
    torch.testing.assert_close(tea.tea_advantages(rewards, 128, "auto"), tea.tea_advantages(rewards, 128, 0.125))


def test_tea_with_a_family_has_its_slope():
    """T is linear in the slope, so the family's slope can be read off two published ones."""
    rewards = batch(SAMPLERS["gaussian"], prompts=20).rewards
    low, high = (tea.tea_advantages(rewards, n, center=False) for n in (16, 256))
    share = (gpd_tail_slope(128, 0.25, 0.0) - tail_slope(16, 0.25)) / (tail_slope(256, 0.25) - tail_slope(16, 0.25))
    expected = low + share * (high - low)
    torch.testing.assert_close(tea.tea_advantages(rewards, 128, tail="exponential", center=False), expected)


def test_exponential_ladder_is_unbiased_for_the_exponential():
    """R = theta E: the gradient of V_N = theta H_N, with score R - 1 at theta = 1."""
    rewards = batch(SAMPLERS["exponential"], prompts=200_000, m=8).rewards
    advantages = tea.ladder_advantages(rewards, 100, (2, 4), tail="exponential", monotone=False, center=False)
    gradient = (advantages * (rewards - 1.0)).mean(1)
    harmonic = sum(1 / j for j in range(1, 101))
    assert abs(gradient.mean() - harmonic) < 4 * gradient.std() / math.sqrt(len(gradient))


@pytest.mark.parametrize("function", [tea.tea_advantages, tea.prefix_tea_advantages, tea.ladder_advantages])
def test_unknown_family(function):
    with pytest.raises(ValueError, match="tail must be one of 'gaussian', 'exponential', 'gpd', 'auto', got 'gumbel'"):
        function(torch.randn(2, 8), 128, tail="gumbel")
    with pytest.raises(ValueError, match="got 'gumbel'"):
        tea.get_estimator("tea", target_n=128, tail="gumbel")


@pytest.mark.parametrize("function", [tea.tea_advantages, tea.prefix_tea_advantages, tea.ladder_advantages])
def test_binary_rewards_are_warned_about_with_the_alternative(function):
    binary = torch.tensor([[0.0, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, math.nan]])
    with pytest.warns(BinaryRewardsWarning, match="use 'pass_at_n'") as caught:
        function(binary, 128)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        function(torch.zeros(2, 8), 128)  # nothing has succeeded yet: that says nothing about the kind of reward
        function(binary + torch.linspace(0.0, 1.0, 8), 128)
