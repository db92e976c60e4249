"""max@k and L-statistics against all subsets, TailRL against the integral that it differentiates."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch

import tea
from tea.estimators.order import log_binomial, max_at_k_spacing_weights
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


@pytest.mark.parametrize(
    ("m", "k"), [(1, 1), (2, 1), (5, 3), (128, 112), (512, 2), (512, 128), (512, 512), (1100, 550)]
)
def test_spacing_weights_against_exact_binomials(m, k):
    weights = max_at_k_spacing_weights(m, k)
    assert len(weights) == m
    for i, weight in enumerate(weights, start=1):
        exact = Fraction(k * math.comb(i - 1, k - 1), math.comb(m - 1, k - 1))
        # What is smaller than the smallest float with all its digits counts for nothing.
        assert abs(Fraction(weight) - exact) <= exact * Fraction(1e-13) + Fraction(1e-300)


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


# --- order_stat_advantages ---

MAX, MEDIAN, TOP_TWO, MIXED = (1, 0, 0, 0), (0, 1, 0), (0.5, 0.5, 0, 0, 0), (0.7, -0.2, 1.1)


@pytest.mark.parametrize("rank_weights", [MAX, MEDIAN, TOP_TWO, MIXED, (1.0,), (0, 0, 1)])
@pytest.mark.parametrize("m", [6, 8])
def test_order_stat_over_all_subsets(m, rank_weights):
    rewards = torch.randn(3, m, generator=torch.Generator().manual_seed(m), dtype=F64) + 30
    rewards[2] = torch.randint(0, 3, (m,), generator=torch.Generator().manual_seed(m)).to(F64)
    for center in (False, True):
        raw = tea.order_stat_advantages(rewards, rank_weights, center=center)
        for row, group in zip(raw.tolist(), rewards.tolist(), strict=True):
            assert row == pytest.approx(reference.order_stat(group, rank_weights), rel=1e-9, abs=1e-10)


def test_order_stat_of_masked_groups():
    rewards = torch.randn(20, 9, generator=torch.Generator().manual_seed(0), dtype=F64)
    mask = torch.rand(20, 9, generator=torch.Generator().manual_seed(1)) < 0.6
    raw = tea.order_stat_advantages(rewards, MEDIAN, mask=mask)
    for p in range(20):
        group = rewards[p][mask[p]].tolist()
        expected = reference.order_stat(group, MEDIAN) if len(group) > 3 else [0.0] * len(group)
        assert raw[p][mask[p]].tolist() == pytest.approx(expected, rel=1e-9, abs=1e-10)


def test_order_stat_with_the_top_rank_is_max_at_k_up_to_its_baseline():
    """Both are k E[max of I | i in I] less something, and estimate the same gradient without bias."""
    k, m = 4, 10
    rewards = torch.randn(5, m, generator=torch.Generator().manual_seed(2), dtype=F64)
    order_stat = tea.order_stat_advantages(rewards, MAX)
    for p, group in enumerate(rewards.tolist()):
        with_baseline = np.array(reference.max_at_k(group, k))
        baseline = []
        for i in range(m):
            others = group[:i] + group[i + 1 :]
            # Mean of the maximum over subsets of k - 1 of the others, from the order statistics.
            ranked = sorted(others)
            weights = [math.comb(j, k - 2) / math.comb(m - 1, k - 1) for j in range(m - 1)]
            baseline.append(k * math.fsum(w * r for w, r in zip(weights, ranked, strict=True)))
        inside = with_baseline + baseline
        # E[L | out] follows from E[L | in] and the overall mean.
        expected = (inside - inside.mean()) * m / (m - k)
        np.testing.assert_allclose(order_stat[p].numpy(), expected, rtol=1e-9, atol=1e-9)


def test_order_stat_is_unbiased():
    """Gradient of E[median of 3] of N(mu, sigma): 1 for mu, 0 for log sigma; of best-of-4: 1 and c_4."""
    for rank_weights, truth in ((MEDIAN, (1.0, 0.0)), (MAX, (1.0, reference.expected_max_normal(4)))):

        def estimator(rewards, rank_weights=rank_weights):
            return tea.order_stat_advantages(torch.from_numpy(rewards), rank_weights).numpy()

        generator = np.random.default_rng(0)
        rewards = generator.standard_normal((60_000, 8))
        gradients = reference.gaussian_gradient(estimator(rewards), rewards)
        error = gradients.std(axis=0) / math.sqrt(len(gradients))
        assert (np.abs(gradients.mean(axis=0) - truth) < 4 * error).all()


def test_order_stat_of_one_is_rloo():
    rewards = torch.randn(5, 8, generator=torch.Generator().manual_seed(3), dtype=F64)
    torch.testing.assert_close(tea.order_stat_advantages(rewards, (1.0,)), tea.rloo_advantages(rewards))


@pytest.mark.parametrize("weights", [(), "1", 1.0, (math.nan,), (True, 0), (math.inf, 1), None])
def test_bad_rank_weights(weights):
    with pytest.raises(ValueError, match=r"rank_weights must be a sequence of finite numbers, the weight of the best"):
        tea.order_stat_advantages(torch.zeros(2, 8), weights)


def test_as_many_rank_weights_as_rollouts():
    with pytest.raises(ValueError, match=r"rank_weights must be fewer than the generations per prompt \(4\), got 4"):
        tea.order_stat_advantages(torch.zeros(2, 4), MAX)


# --- bon_max_second_advantages, tail_rl_advantages ---


def test_bon_max_second_is_the_lead_of_the_best():
    rewards = torch.tensor([[0.3, 2.0, 1.25, -4.0], [1.0, 3.0, 3.0, 0.0]], dtype=F64)
    raw = tea.bon_max_second_advantages(rewards, center=False)
    assert raw.tolist() == [[0, 0.75, 0, 0], [0, 0, 0, 0]]


def test_bon_max_second_is_max_at_m_over_m():
    rewards = torch.randn(30, 16, generator=torch.Generator().manual_seed(4), dtype=F64)
    expected = tea.max_at_k_advantages(rewards, 16) / 16
    torch.testing.assert_close(tea.bon_max_second_advantages(rewards), expected, rtol=1e-12, atol=1e-13)


def test_tail_rl_by_its_recursion():
    rewards = torch.randn(5, 7, generator=torch.Generator().manual_seed(5), dtype=F64)
    advantages = tea.tail_rl_advantages(rewards)
    for p in range(5):
        ranked = sorted(rewards[p].tolist())
        w = [0.0]
        for i in range(2, 8):
            w.append(w[-1] + (ranked[i - 1] - ranked[i - 2]) / (7 - i + 1))
        expected = dict(zip(ranked, reference.centred(w), strict=True))
        assert advantages[p].tolist() == pytest.approx([expected[r] for r in rewards[p].tolist()], abs=1e-13)


def test_tail_rl_differentiates_the_log_tail_probability():
    """The advantage times m is the influence on the integral of log P(R >= t), by finite differences."""
    rewards = np.random.default_rng(6).standard_normal(9)

    def integral(weights):
        order = np.argsort(rewards)
        reach = np.cumsum(weights[order][::-1])[::-1] / weights.sum()
        return (np.diff(rewards[order]) * np.log(reach[1:])).sum()

    uniform = np.full(9, 1 / 9)
    step = 1e-6
    influence = [
        (integral(uniform + step * np.eye(9)[i]) - integral(uniform - step * np.eye(9)[i])) / (2 * step)
        for i in range(9)
    ]
    advantages = tea.tail_rl_advantages(torch.tensor(rewards)[None])[0].numpy()
    np.testing.assert_allclose(9 * advantages, influence, rtol=1e-6, atol=1e-7)
