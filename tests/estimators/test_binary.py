"""pass@N for 0/1 rewards, against quadrature over the Beta posterior."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

import tea
from tea.estimators.binary import PRIOR_CONCENTRATIONS, PRIOR_MEANS, pass_at_n_forecast
from tests.reference import estimators as reference

F64 = torch.float64


@pytest.mark.parametrize(
    ("target_n", "prior"), [(1, (0.5, 0.5)), (16, (0.5, 0.5)), (128, (0.5, 0.5)), (128, (1, 4)), (7.5, (2, 0.7))]
)
def test_formula(target_n, prior):
    m = 8
    rewards = torch.tensor([[1.0] * s + [0.0] * (m - s) for s in range(m + 1)], dtype=F64)
    raw = tea.pass_at_n_advantages(rewards, target_n, prior=prior, center=False)
    for row, group in zip(raw.tolist(), rewards.tolist(), strict=True):
        assert row == pytest.approx(reference.pass_at_n(group, target_n, *prior), rel=1e-7, abs=1e-12)


def test_masked_groups():
    rewards = torch.randint(0, 2, (20, 8), generator=torch.Generator().manual_seed(0)).to(F64)
    mask = torch.rand(20, 8, generator=torch.Generator().manual_seed(1)) < 0.7
    raw = tea.pass_at_n_advantages(rewards, 32, mask=mask, center=False)
    for p in range(20):
        group = rewards[p][mask[p]].tolist()
        if len(group) > 1:
            expected = reference.pass_at_n(group, 32, 0.5, 0.5)
            assert raw[p][mask[p]].tolist() == pytest.approx(expected, rel=1e-7, abs=1e-12)


def test_direction_is_unbiased():
    """E[mean A S] is E[w] times the gradient of p, with w independent of rollout i: exactly, over all outcomes."""
    m, target_n, p = 6, 50, 0.3
    outcomes = torch.tensor([[(i >> j) & 1 for j in range(m)] for i in range(2**m)], dtype=F64)
    probability = torch.prod(torch.where(outcomes == 1, p, 1 - p), dim=1)
    raw = tea.pass_at_n_advantages(outcomes, target_n, center=False)
    score = (outcomes - p) / (p * (1 - p))
    gradient = (probability * (raw * score).mean(1)).sum().item()
    s = np.arange(m)  # successes among the other m - 1
    binomial = np.array([math.comb(m - 1, k) * p**k * (1 - p) ** (m - 1 - k) for k in s])
    table = [reference.pass_at_n([1.0] * (k + 1) + [0.0] * (m - 1 - k), target_n, 0.5, 0.5)[0] for k in s]
    weights = np.array([t / (1 - k / (m - 1)) if k < m - 1 else 0.0 for k, t in zip(s, table, strict=True)])
    # k = m - 1: every other one is right, the success has advantage 0 but a failure has not.
    weights[-1] = -reference.pass_at_n([0.0] + [1.0] * (m - 1), target_n, 0.5, 0.5)[0]
    assert gradient == pytest.approx((binomial * weights).sum(), rel=1e-7)
    assert gradient > 0


def test_hard_prompts_weigh_more():
    rewards = torch.tensor([[1.0] + [0.0] * 15, [1.0] * 8 + [0.0] * 8, [1.0] * 15 + [0.0]], dtype=F64)
    spread = tea.pass_at_n_advantages(rewards, 128).abs().sum(1)
    assert spread[0] > spread[1] > spread[2]


def test_huge_target_does_not_overflow():
    rewards = torch.randint(0, 2, (16, 16), generator=torch.Generator().manual_seed(0)).float()
    assert torch.isfinite(tea.pass_at_n_advantages(rewards, 10**9)).all()


def test_graded_rewards_are_refused():
    rewards = torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.5, 1.0]])
    with pytest.raises(ValueError, match=r"must be 0 or 1.*got 0.5 at prompt 1, rollout 1; .*tea or ladder"):
        tea.pass_at_n_advantages(rewards, 16)
    mask = torch.tensor([[True] * 3, [True, False, True]])
    assert torch.isfinite(tea.pass_at_n_advantages(rewards, 16, mask=mask)).all()


@pytest.mark.parametrize("prior", [(0, 1), (1, -1), (math.nan, 1), (1,), (1, 2, 3), "ab", (math.inf, 1)])
def test_bad_prior(prior):
    with pytest.raises(ValueError, match=r"prior must be two finite positive numbers .*, or 'fit', got"):
        tea.pass_at_n_advantages(torch.zeros(2, 4), 16, prior=prior)


# --- prior="fit" ---


def test_fitted_prior_formula():
    """Mixture over the grid of priors by what the other prompts say of each; unequal group sizes."""
    rewards = torch.randint(0, 2, (5, 6), generator=torch.Generator().manual_seed(2)).to(F64)
    rewards[0] = 0
    mask = torch.ones(5, 6, dtype=torch.bool)
    mask[1, 4:] = False
    mask[2, 2:] = False
    raw = tea.pass_at_n_advantages(rewards, 32, prior="fit", mask=mask, center=False)
    groups = [rewards[p][mask[p]].tolist() for p in range(5)]
    expected = reference.pass_at_n_fitted(groups, 32, PRIOR_MEANS, PRIOR_CONCENTRATIONS)
    for p in range(5):
        assert raw[p][mask[p]].tolist() == pytest.approx(expected[p], rel=1e-9, abs=1e-12)


def test_fitted_prior_finds_the_prior():
    """On many prompts with p ~ Beta(0.3, 6) the weights are those under that prior, where (1/2, 1/2) is far off."""
    generator = np.random.default_rng(0)
    p = generator.beta(0.3, 6.0, size=(4000, 1))
    rewards = torch.from_numpy((generator.random((4000, 16)) < p).astype(np.float64))
    fitted = tea.pass_at_n_advantages(rewards, 128, prior="fit")
    oracle = tea.pass_at_n_advantages(rewards, 128, prior=(0.3, 6.0))
    default = tea.pass_at_n_advantages(rewards, 128)
    assert (fitted - oracle).norm() < 0.15 * oracle.norm()
    assert (default - oracle).norm() > 3 * (fitted - oracle).norm()


def test_fitted_prior_keeps_the_direction_unbiased():
    """For each outcome of the other prompt, E[mean A S] over all outcomes of this one is a positive multiple of 1.

    With the other rollouts held, a success and a failure have the same weight, so that flipping one rollout changes
    A by that weight times 1: for all i at once that is what unbiasedness of the direction needs.
    """
    m = 4
    other = torch.tensor([1.0, 0.0, 0.0, 1.0], dtype=F64)
    for outcome in range(2**m):
        group = torch.tensor([(outcome >> j) & 1 for j in range(m)], dtype=F64)
        for i in range(m):
            pair = []
            for own in (0.0, 1.0):
                changed = group.clone()
                changed[i] = own
                batch = torch.stack((changed, other))
                raw = tea.pass_at_n_advantages(batch, 64, prior="fit", center=False)
                share = (changed.sum() - own) / (m - 1)
                if own != share:
                    pair.append((raw[0, i] / (own - share)).item())
            assert len(set(np.round(pair, 12))) == 1
            assert pair[0] > 0


# --- passk_binary_advantages ---


@pytest.mark.parametrize(("m", "k"), [(m, k) for m in (4, 7) for k in range(1, m + 1)])
def test_passk_over_all_groups(m, k):
    rewards = torch.tensor([[1.0] * s + [0.0] * (m - s) for s in range(m + 1)], dtype=F64)
    raw = tea.passk_binary_advantages(rewards, k, center=False)
    for row, group in zip(raw.tolist(), rewards.tolist(), strict=True):
        assert row == pytest.approx(reference.pass_at_k_binary(group, k), rel=1e-10, abs=1e-12)
    torch.testing.assert_close(tea.passk_binary_advantages(rewards, k), raw, rtol=0, atol=1e-12)


def test_passk_of_masked_groups():
    rewards = torch.randint(0, 2, (20, 8), generator=torch.Generator().manual_seed(0)).to(F64)
    mask = torch.rand(20, 8, generator=torch.Generator().manual_seed(1)) < 0.6
    raw = tea.passk_binary_advantages(rewards, 3, mask=mask, center=False)
    for p in range(20):
        group = rewards[p][mask[p]].tolist()
        if len(group) > 1:
            expected = reference.pass_at_k_binary(group, min(3, len(group)))
            assert raw[p][mask[p]].tolist() == pytest.approx(expected, rel=1e-10, abs=1e-12)


def test_passk_refuses_graded_rewards_and_k_beyond_the_group():
    with pytest.raises(ValueError, match="must be 0 or 1"):
        tea.passk_binary_advantages(torch.full((2, 4), 0.5), 2)
    with pytest.raises(ValueError, match="k must be at most the number of generations"):
        tea.passk_binary_advantages(torch.zeros(2, 4), 5)


# --- The forecast of pass@N ---


def test_forecast_is_the_posterior_mean_over_the_grid_of_priors():
    """Against E[(1 - p)^N] as a product of N fractions, and scipy's beta-binomial."""
    m, target_n = 6, 20
    successes, counts = [0, 1, 4, 6, 0], [6, 6, 6, 6, 3]
    rewards = torch.tensor([[1.0] * s + [0.0] * (m - s) for s in successes], dtype=F64)
    rewards[4, :3] = torch.nan
    priors = [(mean * size, (1 - mean) * size) for mean in PRIOR_MEANS for size in PRIOR_CONCENTRATIONS]
    evidence = np.array(
        [np.prod([stats.betabinom.pmf(s, n, a, b) for s, n in zip(successes, counts, strict=True)]) for a, b in priors]
    )
    belief = evidence / evidence.sum()
    expected = []
    for s, n in zip(successes, counts, strict=True):
        fail = [math.prod((b + n - s + i) / (a + b + n + i) for i in range(target_n)) for a, b in priors]
        expected.append(float(belief @ (1 - np.array(fail))))
    forecast = pass_at_n_forecast(rewards, target_n)
    assert forecast.tolist() == pytest.approx(expected, rel=1e-9)
    empty = torch.cat((rewards, torch.full((1, m), torch.nan, dtype=F64)))
    torch.testing.assert_close(pass_at_n_forecast(empty, target_n)[:-1], forecast)
    assert pass_at_n_forecast(empty, target_n)[-1].isnan()


@pytest.mark.parametrize(("a", "b"), [(0.5, 3.0), (2.0, 12.0), (0.2, 0.3), (0.5, 10.0)])
def test_forecast_is_near_the_truth(a, b):
    """pass@128 of 64 prompts from 8 rollouts each, over 50 batches: within 0.04 of the truth on average."""
    rng = np.random.default_rng(0)
    p = rng.beta(a, b, size=(50, 64))
    rewards = torch.tensor(rng.random((50, 64, 8)) < p[:, :, None]).double()
    forecast = torch.stack([pass_at_n_forecast(batch, 128).mean() for batch in rewards])
    truth = (1 - (1 - p) ** 128).mean()
    assert forecast.mean().item() == pytest.approx(truth, abs=0.04)
    assert forecast.max() <= 1
    # Nothing at all is not half of everything.
    assert pass_at_n_forecast(torch.zeros(16, 8), 128).max() < 0.1
