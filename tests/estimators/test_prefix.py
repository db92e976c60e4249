"""Prefix-TEA, against a loop, its jackknife conditions, and its bias on Gaussian rewards."""

import math

import numpy as np
import pytest
import torch

import tea
from tea.estimators.prefix import default_prefix_sizes, prefix_weights
from tests.reference import estimators as reference

F64 = torch.float64


@pytest.mark.parametrize(
    ("sizes", "order"), [((8, 10, 12, 15), 2), ((8, 10, 12, 15), 3), ((4, 7), 2), ((32, 40, 48, 63), 4), ((5, 9), 1)]
)
def test_weights_cancel_the_bias_terms_with_minimum_norm(sizes, order):
    weights = np.array(prefix_weights(sizes, order))
    assert weights.sum() == pytest.approx(1.0, abs=1e-10)
    for power in range(1, order):
        assert (weights * (sizes[0] / np.array(sizes)) ** power).sum() == pytest.approx(0.0, abs=1e-9)
    np.testing.assert_allclose(weights, reference.jackknife_weights(sizes, order), rtol=1e-7)


def test_default_sizes():
    assert default_prefix_sizes(16) == (8, 10, 12, 15)
    assert default_prefix_sizes(64) == (32, 40, 48, 63)
    assert default_prefix_sizes(4) == (2, 3)
    assert default_prefix_sizes(3) == (2,)
    assert default_prefix_sizes(2) == ()


@pytest.mark.parametrize(
    ("m", "fraction", "sizes", "order", "shrinkage"),
    [
        (16, 0.25, None, 2, 2.0),
        (16, 0.25, None, 2, 0.0),
        (16, 0.25, None, 3, 0.5),
        (12, 0.5, (5, 7, 11), 2, 2.0),
        (9, 1.0, (4, 8), 2, 1.0),
        (8, 0.25, (3, 4, 7), 1, 2.0),
        (5, 0.25, None, 2, 2.0),
    ],
)
def test_formula(m, fraction, sizes, order, shrinkage):
    rewards = torch.randn(4, m, generator=torch.Generator().manual_seed(m), dtype=F64) * 2 + 5
    raw = tea.prefix_tea_advantages(
        rewards, 128, fraction, order=order, prefix_sizes=sizes, shrinkage=shrinkage, center=False
    )
    for row, group in zip(raw.tolist(), rewards.tolist(), strict=True):
        expected = reference.prefix_tea(group, 128, fraction, sizes or default_prefix_sizes(m), order, shrinkage)
        np.testing.assert_allclose(row, expected, rtol=1e-8, atol=1e-8 * max(map(abs, expected)))


def test_formula_with_masks_and_nans():
    """A masked group is the group of its valid rollouts, in their sampling order."""
    generator = torch.Generator().manual_seed(0)
    rewards = torch.randn(30, 16, generator=generator, dtype=F64)
    mask = torch.rand(30, 16, generator=generator) < 0.7
    rewards[torch.rand(30, 16, generator=generator) < 0.1] = math.nan
    valid = mask & ~rewards.isnan()
    raw = tea.prefix_tea_advantages(rewards, 128, mask=mask, center=False)
    for p in range(30):
        group = rewards[p][valid[p]].tolist()
        expected = reference.prefix_tea(group, 128, 0.25, default_prefix_sizes(len(group)), 2, 2.0)
        np.testing.assert_allclose(raw[p][valid[p]].numpy(), expected, rtol=1e-8, atol=1e-8)
        assert (raw[p][~valid[p]] == 0).all()


def test_with_ties():
    groups = torch.randint(0, 3, (20, 12), generator=torch.Generator().manual_seed(4)).to(F64)
    raw = tea.prefix_tea_advantages(groups, 64, 0.5, center=False)
    for row, group in zip(raw.tolist(), groups.tolist(), strict=True):
        expected = reference.prefix_tea(group, 64, 0.5, default_prefix_sizes(12), 2, 2.0)
        np.testing.assert_allclose(row, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_a_prefix_of_equal_rewards_gives_nothing(dtype):
    """The variance of equal rewards is 0, not a rounding error to divide by, wherever the others lie."""
    outcomes = torch.cartesian_prod(*[torch.tensor([0.0, 1.0, 3.0], dtype=dtype)] * 5)
    mask = torch.tensor([True, False, True, True, True])
    for fraction in (0.25, 1.0):
        raw = tea.prefix_tea_advantages(outcomes, 64, fraction, mask=mask.expand(len(outcomes), -1), center=False)
        for row, group in zip(raw[:, mask].tolist(), outcomes[:, mask].tolist(), strict=True):
            expected = reference.prefix_tea(group, 64, fraction, default_prefix_sizes(4), 2, 2.0)
            np.testing.assert_allclose(row, expected, rtol=2e-5, atol=2e-5)


def test_a_rollout_is_not_in_its_own_tail():
    """Raising one reward within the others' gaps leaves the statistics that judge it as they were."""
    rewards = torch.linspace(0, 1, 16, dtype=F64)[torch.randperm(16, generator=torch.Generator().manual_seed(1))]
    best = int(rewards.argmax())
    values = []
    for own in (1.0, 2.0, 3.0, 4.0):
        changed = rewards.clone()
        changed[best] = own
        values.append(tea.prefix_tea_advantages(changed[None], 128, center=False)[0, best].item())
    # With fixed statistics the advantage is a quadratic of the own reward: third differences vanish.
    assert np.diff(values, 3)[0] == pytest.approx(0.0, abs=1e-9 * max(map(abs, values)))
    assert abs(np.diff(values, 2)[0]) > 1e-3


def _bias(m, shrinkage, num_prompts, seed=0):
    def estimator(rewards):
        rewards = torch.from_numpy(rewards).float()
        return tea.prefix_tea_advantages(rewards, 128, shrinkage=shrinkage, center=False).double().numpy()

    return reference.gaussian_bias(estimator, m, 128, num_prompts, seed, chunk=1000)


def test_bias_falls_to_second_order():
    """Without shrinkage the bias falls faster than m^-1.5 once the tail has enough points."""
    small, small_error, _ = _bias(32, 0.0, 20_000)
    large, large_error, _ = _bias(64, 0.0, 12_000)
    small_norm, large_norm = np.linalg.norm(small), np.linalg.norm(large)
    small_error, large_error = np.linalg.norm(small_error), np.linalg.norm(large_error)
    # An independent construction of the same order measured 0.79 and 0.06; ours has 0.95 and 0.13.
    assert small_norm - 4 * small_error > 0.6
    assert large_norm + 4 * large_error < small_norm / 2**1.5


@pytest.mark.slow
def test_bias_is_gone_at_128():
    bias, error, _ = _bias(128, 0.0, 8_000)
    assert np.linalg.norm(bias) < 0.02 + 4 * np.linalg.norm(error)


@pytest.mark.parametrize(("m", "num_prompts"), [(16, 40_000), (32, 12_000)])
def test_default_shrinkage_has_small_bias_and_does_not_diverge(m, num_prompts):
    bias, error, std = _bias(m, 2.0, num_prompts)
    tea_bias, _, _ = reference.gaussian_bias(
        lambda r: tea.tea_advantages(torch.from_numpy(r), 128, center=False).numpy(), m, 128, num_prompts, 0
    )
    # A third of TEA's bias at most.
    assert np.linalg.norm(bias) < np.linalg.norm(tea_bias) / 3 + 4 * np.linalg.norm(error)
    assert np.linalg.norm(std) < 15


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"order": 0}, r"order must be an integer >= 1, got 0"),
        ({"order": True}, r"order must be an integer >= 1"),
        ({"order": 2.0}, r"order must be an integer >= 1"),
        ({"order": 5}, r"order=5 needs 5 distinct prefix sizes"),
        ({"prefix_sizes": (8,)}, r"at least 2 \(the order\) strictly increasing integers >= 2, got \[8\]"),
        ({"prefix_sizes": (8, 8)}, r"strictly increasing"),
        ({"prefix_sizes": (1, 8)}, r">= 2"),
        ({"prefix_sizes": (8, 16)}, r"below the number of generations per prompt \(16\).*own prefix"),
        ({"prefix_sizes": 8}, r"sequence of integers"),
        ({"prefix_sizes": (4.0, 8.0)}, r"sequence of integers"),
        ({"shrinkage": -1.0}, r"shrinkage must be a finite number >= 0, got -1.0"),
        ({"shrinkage": math.nan}, r"shrinkage must be a finite number"),
        ({"shrinkage": "2"}, r"shrinkage must be a finite number"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        tea.prefix_tea_advantages(torch.zeros(2, 16), 128, **options)


def test_two_rollouts_cannot_be_cross_fitted():
    with pytest.raises(ValueError, match=r"order=2 needs 2 distinct prefix sizes between 2 and m - 1, which 2 gen"):
        tea.prefix_tea_advantages(torch.zeros(2, 2), 128)
