"""The ladder: unbiased under a Gaussian, best linear where it has a choice, exact where it must be."""

import math

import numpy as np
import pytest
import torch

import tea
from tea.estimators.ladder import _spacing_moments, default_rungs, ladder_coefficients
from tests.reference import estimators as reference

F64 = torch.float64


def test_default_rungs():
    assert [default_rungs(16, n) for n in (1, 2, 7.5, 16, 17)] == [(1, 2), (2, 3), (7, 8), (15, 16), (4, 16)]
    assert [default_rungs(m) for m in (2, 3, 8, 12, 16, 64)] == [(1, 2), (2, 3), (2, 8), (3, 12), (4, 16), (16, 64)]


@pytest.mark.parametrize("rungs", [(2, 4), (4, 8), (2, 4, 8), (2, 3, 5, 8, 16), tuple(range(2, 17))])
@pytest.mark.parametrize("target_n", [1, 16, 128, 4096])
def test_coefficients_extrapolate_a_line(rungs, target_n):
    beta = ladder_coefficients(target_n, rungs, 16)
    c = [reference.expected_max_normal(k) for k in rungs]
    assert math.fsum(beta) == pytest.approx(1.0, abs=1e-8)
    assert math.fsum(b * x for b, x in zip(beta, c, strict=True)) == pytest.approx(
        reference.expected_max_normal(target_n), abs=1e-7
    )


@pytest.mark.parametrize(("m", "rungs"), [(8, (2, 8)), (8, (2, 3, 6)), (6, (1, 2)), (6, (3, 4))])
def test_formula_from_all_subsets(m, rungs):
    rewards = torch.randn(3, m, generator=torch.Generator().manual_seed(m), dtype=F64)
    raw = tea.ladder_advantages(rewards, 64, rungs, monotone=False, center=False)
    beta = ladder_coefficients(64, rungs, m)
    for row, group in zip(raw.tolist(), rewards.tolist(), strict=True):
        expected = sum(b * np.array(reference.max_at_k(group, k)) for b, k in zip(beta, rungs, strict=True))
        assert row == pytest.approx(expected.tolist(), rel=1e-10, abs=1e-10)


def test_two_rungs_by_hand():
    beta = ladder_coefficients(128, (2, 4), 16)
    c2, c4, c128 = 0.5641895835, 1.0293753730, 2.594597
    slope = (c128 - c2) / (c4 - c2)
    assert beta == pytest.approx([1 - slope, slope], rel=1e-6)


@pytest.mark.parametrize(
    ("m", "rungs"),
    [
        (8, (2, 8)),
        (16, (2, 4)),
        (16, (4, 8)),
        (16, None),
        (16, (2, 4, 8, 16)),
        (12, tuple(range(2, 13))),
        (32, (8, 32)),
    ],
)
def test_unbiased_on_gaussian_rewards(m, rungs):
    def estimator(rewards):
        rewards = torch.from_numpy(rewards)
        return tea.ladder_advantages(rewards, 128, rungs, monotone=False, center=False).numpy()

    bias, error, _ = reference.gaussian_bias(estimator, m, 128, 100_000, seed=m, chunk=20_000)
    assert (np.abs(bias) < 4 * error).all(), (bias, error)
    assert (error < 0.06).all()


def test_spacing_moments_against_monte_carlo():
    m = 6
    draws = np.sort(np.random.default_rng(0).standard_normal((400_000, m)), axis=1)
    spacings = np.diff(draws, axis=1)
    products = spacings[:, :, None] * spacings[:, None, :]
    error = products.std(axis=0) / math.sqrt(len(products))
    assert (
        np.abs(products.mean(axis=0) - _spacing_moments(m)) < 4.5 * error + 2e-3 * np.abs(_spacing_moments(m))
    ).all()


@pytest.mark.parametrize("m", [2, 8])
def test_spacing_moments_sum_to_the_range(m):
    """All spacings together are the range, so all moments E[range^2]; 2 at m = 2. The coarse grid is good to 1e-3."""
    moments = _spacing_moments(m)
    draws = np.random.default_rng(1).standard_normal((400_000, m))
    squares = (draws.max(axis=1) - draws.min(axis=1)) ** 2
    error = squares.std() / math.sqrt(len(squares))
    assert abs(moments.sum() - squares.mean()) < 4.5 * error + 1e-3 * moments.sum()
    if m == 2:
        assert moments[0, 0] == pytest.approx(2.0, rel=1e-3)


def test_best_linear_is_best():
    """E[A^2] of the chosen combination, after centring, is below that of any other that satisfies the constraints."""
    m, rungs = 8, (2, 3, 5, 8)
    beta = np.array(ladder_coefficients(64, rungs, m))
    rewards = torch.randn(100_000, m, generator=torch.Generator().manual_seed(0), dtype=F64)
    parts = np.stack([tea.max_at_k_advantages(rewards, k).numpy() for k in rungs])  # (K, P, m), centred
    gram = np.einsum("kpi,lpi->kl", parts, parts) / parts[0].size
    constraints = np.stack([np.ones(4), [reference.expected_max_normal(k) for k in rungs]])
    free = np.linalg.svd(constraints)[2][2:]
    # The empirical optimum lowers E[A^2] by no more than Monte-Carlo noise.
    optimum = beta - np.linalg.solve(free @ gram @ free.T, free @ gram @ beta) @ free
    best, ours = optimum @ gram @ optimum, beta @ gram @ beta
    assert best <= ours <= best * 1.002
    for direction in free:
        for step in (-0.3, 0.3):
            other = beta + step * direction
            assert other @ gram @ other > ours


def test_default_is_monotone_and_the_plain_ladder_is_not():
    rewards = torch.randn(100, 16, generator=torch.Generator().manual_seed(1), dtype=F64)
    order = rewards.argsort(1)
    assert (tea.ladder_advantages(rewards, 128).gather(1, order).diff(dim=1) >= 0).all()
    plain = tea.ladder_advantages(rewards, 128, (2, 4), monotone=False).gather(1, order).diff(dim=1)
    assert (plain < 0).any(1).all()


def test_fewer_valid_rollouts_than_a_rung():
    """The rungs within the group stay; where fewer than two do, the group's own default takes over."""
    rewards = torch.randn(2, 8, generator=torch.Generator().manual_seed(2), dtype=F64)
    mask = torch.ones(2, 8, dtype=torch.bool)
    mask[0, 5:] = False
    mask[1, 3:] = False
    raw = tea.ladder_advantages(rewards, 64, (2, 4, 8), mask=mask, monotone=False)
    five = tea.ladder_advantages(rewards[:1, :5], 64, (2, 4), monotone=False)
    three = tea.ladder_advantages(rewards[1:, :3], 64, default_rungs(3), monotone=False)
    torch.testing.assert_close(raw[:1, :5], five)
    torch.testing.assert_close(raw[1:, :3], three)


@pytest.mark.parametrize(
    ("rungs", "message"),
    [
        ((4,), r"at least two strictly increasing integers >= 1, got \[4\]"),
        ((8, 4), r"strictly increasing"),
        ((4, 4), r"strictly increasing"),
        ((0, 4), r">= 1"),
        ((2, 17), r"at most the number of generations per prompt \(16\), got \[2, 17\]"),
        ((2.0, 4.0), r"sequence of integers"),
        ("24", r"sequence of integers"),
        (4, r"sequence of integers"),
    ],
)
def test_bad_rungs(rungs, message):
    with pytest.raises(ValueError, match=message):
        tea.ladder_advantages(torch.zeros(2, 16), 128, rungs)


@pytest.mark.parametrize("target_n", [2, 4, 15, 16])
@pytest.mark.parametrize("tail", ["gaussian", "gpd"])
def test_within_the_group_it_is_max_at_n(target_n, tail):
    generator = torch.Generator().manual_seed(3)
    rewards = torch.randn(5, 16, generator=generator, dtype=torch.float64).exp()
    rewards[0, 12:] = torch.nan  # 12 valid ones: from 12 on it extrapolates by itself
    found = tea.ladder_advantages(rewards, target_n, tail=tail)
    expected = tea.max_at_k_advantages(rewards, target_n)
    torch.testing.assert_close(found[1:], expected[1:], rtol=1e-9, atol=1e-9)
    if target_n <= 12:
        torch.testing.assert_close(found[0], expected[0], rtol=1e-9, atol=1e-9)
    else:
        assert not torch.allclose(found[0], expected[0])


def test_a_tied_best_leaves_nothing_within_the_group():
    rewards = torch.tensor([[0.0] * 14 + [1.0, 1.0]])
    assert (tea.ladder_advantages(rewards, 16) == 0).all()
