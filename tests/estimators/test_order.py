"""max@k, against all subsets and the published closed forms."""

import math

import pytest
import torch

import tea
from tea.estimators.order import log_binomial
from tests.reference import estimators as reference

F64 = torch.float64


@pytest.mark.parametrize(("m", "k"), [(m, k) for m in (2, 3, 5, 8) for k in range(1, m + 1)])
def test_all_subsets(m, k):
    rewards = torch.randn(4, m, generator=torch.Generator().manual_seed(10 * m + k), dtype=F64) - 20
    rewards[3] = torch.randint(0, 3, (m,), generator=torch.Generator().manual_seed(m)).to(F64)  # ties
    raw = tea.max_at_k_advantages(rewards, k, center=False)
    centred = tea.max_at_k_advantages(rewards, k)
    for p, group in enumerate(rewards.tolist()):
        expected = reference.max_at_k(group, k)
        # Uncentred, the advantage of the worst is 0 by the formula for k >= 2, and the reward itself for k = 1.
        assert raw[p].tolist() == pytest.approx(expected, rel=1e-12, abs=1e-12 * 20)
        assert centred[p].tolist() == pytest.approx(reference.centred(expected), rel=1e-11, abs=1e-11)


def test_masked_groups_are_groups_of_their_own_size():
    generator = torch.Generator().manual_seed(0)
    rewards = torch.randn(30, 8, generator=generator, dtype=F64)
    mask = torch.rand(30, 8, generator=generator) < 0.6
    raw = tea.max_at_k_advantages(rewards, 4, mask=mask, center=False)
    for p in range(30):
        group = rewards[p][mask[p]].tolist()
        if len(group) > 1:
            expected = reference.max_at_k(group, min(4, len(group)))
            assert raw[p][mask[p]].tolist() == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_k_is_m_gives_the_best_its_lead():
    rewards = torch.tensor([[0.3, 2.0, 1.25, -4.0]], dtype=F64)
    raw = tea.max_at_k_advantages(rewards, 4, center=False)
    assert raw[0].tolist() == pytest.approx([0, 4 * 0.75, 0, 0], abs=1e-14)


def test_unbiased_for_uniform_rewards():
    """Rewards U(0, 1) with density exponent theta at 1: E[max of k] = k theta / (k theta + 1), by enumeration.

    R = U^(1/theta), score d/dtheta log(theta r^(theta-1)) = 1 + log r at theta = 1; truth k / (k + 1)^2.
    """
    k, m = 5, 12
    rewards = torch.rand(200_000, m, generator=torch.Generator().manual_seed(0), dtype=F64)
    raw = tea.max_at_k_advantages(rewards, k, center=False)
    gradient = (raw * (1 + rewards.log())).mean(1)
    error = gradient.std() / math.sqrt(len(gradient))
    assert abs(gradient.mean() - k / (k + 1) ** 2) < 4 * error


def test_is_monotone_by_construction():
    rewards = torch.randn(100, 16, generator=torch.Generator().manual_seed(5), dtype=F64)
    for k in (2, 7, 16):
        plain = tea.max_at_k_advantages(rewards, k)
        assert (plain.gather(1, rewards.argsort(1)).diff(dim=1) >= 0).all()
        assert torch.equal(
            tea.max_at_k_advantages(rewards, k, monotone=True, center=False),
            tea.max_at_k_advantages(rewards, k, center=False),
        )


def test_large_groups_do_not_overflow():
    rewards = torch.randn(2, 1100, generator=torch.Generator().manual_seed(6), dtype=F64)
    raw = tea.max_at_k_advantages(rewards, 550, center=False)
    assert torch.isfinite(raw).all()
    assert raw.max() > 0


def test_log_binomial():
    for n in range(6):
        for k in range(-1, 8):
            expected = math.log(math.comb(n, k)) if 0 <= k <= n else -math.inf
            assert log_binomial(n, k) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("k", [0, -1, 2.0, True, "4"])
def test_bad_k(k):
    with pytest.raises(ValueError, match=r"k must be an integer >= 1, got"):
        tea.max_at_k_advantages(torch.zeros(2, 8), k)


def test_k_beyond_the_group_points_to_what_extrapolates():
    with pytest.raises(ValueError, match=r"at most the number of generations per prompt \(8\), got 9.*tea, prefix_tea"):
        tea.max_at_k_advantages(torch.zeros(2, 8), 9)
