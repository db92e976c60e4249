"""eb_bon: against a reference level by level, closed forms, and gradients that are known."""

import math

import numpy as np
import pytest
import torch
from scipy import special

import tea
from tea.estimators.binary import PRIOR_CONCENTRATIONS, PRIOR_MEANS
from tea.estimators.empirical_bayes import MAX_LEVELS
from tests.reference import estimators as reference

F64 = torch.float64
GRID = (PRIOR_MEANS, PRIOR_CONCENTRATIONS)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def centred(groups):
    return [[a - math.fsum(g) / len(g) for a in g] for g in groups]


def batch(ties):
    """Five prompts of unequal size, location and spread, with a mask; and the same as lists."""
    rewards = normal(5, 6, seed=1) * torch.tensor([[1.0], [2.0], [0.3], [1.0], [4.0]]) + normal(5, 1, seed=2)
    if ties:
        rewards = rewards.round()
    mask = torch.ones(5, 6, dtype=torch.bool)
    mask[1, 4:] = False
    mask[2, 2:] = False
    return rewards, mask, [rewards[p][mask[p]].tolist() for p in range(5)]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("target_n", [2, 30])
def test_formula_on_the_rewards_as_they_are(ties, target_n):
    rewards, mask, groups = batch(ties)
    found = tea.eb_bon_advantages(rewards, target_n, standardize=False, mask=mask)
    for p, expected in enumerate(centred(reference.eb_bon(groups, target_n, *GRID))):
        assert found[p][mask[p]].tolist() == pytest.approx(expected, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("target_n", [2, 30])
def test_formula_on_standardized_rewards(target_n):
    rewards, mask, groups = batch(False)
    values, scales = reference.standardized(groups)
    found = tea.eb_bon_advantages(rewards, target_n, mask=mask)
    expected = centred(reference.eb_bon(values, target_n, *GRID))
    for p in range(5):
        assert found[p][mask[p]].tolist() == pytest.approx([scales[p] * a for a in expected[p]], rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("shape", [(16, 16), (300, 8)])
def test_n_1_is_leave_one_out(standardize, shape):
    rewards = 3.0 * normal(*shape) + 5.0 * normal(shape[0], 1, seed=3)
    found = tea.eb_bon_advantages(rewards, 1, standardize=standardize)
    torch.testing.assert_close(found, tea.rloo_advantages(rewards), rtol=1e-9, atol=1e-9)


def test_0_1_rewards_are_pass_at_n():
    """Up to a prompt's share in its own prior, which goes as 1 / P."""
    generator = np.random.default_rng(0)
    differences = []
    for prompts in (40, 640):
        p = generator.beta(0.3, 2.0, size=(prompts, 1))
        rewards = torch.from_numpy((generator.random((prompts, 16)) < p).astype(np.float64))
        fitted = tea.pass_at_n_advantages(rewards, 128, prior="fit")
        found = tea.eb_bon_advantages(rewards, 128, standardize=False)
        differences.append(((found - fitted).norm() / fitted.norm()).item())
    assert differences[1] < differences[0] < 0.05
    assert differences[1] < 1e-3


def test_one_prompt_has_the_grid_alone():
    rewards = normal(1, 8)
    priors = [(mean * c, (1 - mean) * c) for c in PRIOR_CONCENTRATIONS for mean in PRIOR_MEANS]
    ascending = sorted(rewards[0].tolist())
    expected = [0.0]
    for rank in range(1, 8):  # so many at or below the level
        weight = [
            np.exp(special.betaln(a + s, b + 7 - s + 15) - special.betaln(a + s, b + 7 - s)) * np.array(share)
            for a, b in priors
            for s, share in ((8 - rank - 1, rank / 7), (8 - rank, (8 - rank) / 7))
        ]
        step = 16 * math.fsum(weight) / len(priors)
        expected.append(expected[-1] + step * (ascending[rank] - ascending[rank - 1]))
    found = tea.eb_bon_advantages(rewards, 16, standardize=False)[0]
    mean = math.fsum(expected) / 8
    assert found.sort().values.tolist() == pytest.approx([x - mean for x in expected], rel=1e-9)


def gradient(estimator, x, rewards):
    """(batches, 2): in the mean and the log standard deviation of a Gaussian policy, Fisher coordinates."""
    parts = []
    for latent, r in zip(x, rewards, strict=True):
        advantages = estimator(r)
        parts.append([(advantages * latent).mean(), (advantages * (latent**2 - 1)).mean() / math.sqrt(2)])
    return np.array(parts)


def test_alike_prompts_give_best_of_128_from_16():
    """Lognormal rewards; cosines of the expected gradient with that of best of 128, by quadrature."""
    z = np.linspace(-9, 9, 40001)
    density = 128 * np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi) * special.ndtr(z) ** 127
    # d/dmu and d/dlog sigma of E[exp(mu + sigma z)], z the best of 128.
    truth = np.array([np.trapezoid(density * np.exp(z) * f, z) for f in (1.0, z)]) / np.array([1, math.sqrt(2)])
    x = normal(300, 64, 16, seed=4)

    def cosine(estimator):
        parts = gradient(estimator, x, x.exp())
        mean = parts.mean(0)
        error = np.linalg.norm(parts.std(0)) / math.sqrt(len(parts)) / np.linalg.norm(mean)
        # The cosine falls with the square of the angle.
        return mean @ truth / np.linalg.norm(mean) / np.linalg.norm(truth), error**2 / 2

    found, error = cosine(lambda r: tea.eb_bon_advantages(r, 128))
    peer, peer_error = cosine(lambda r: tea.max_at_k_advantages(r, 16))
    assert found > 0.998
    assert peer < 0.994
    assert max(error, peer_error) < 0.001


def test_prompts_of_other_location_and_spread_are_compared_in_their_own_units():
    """Alike prompts, each moved and stretched: with many rollouts to know that by, the same but for units."""
    rewards = normal(32, 64, seed=5)
    shift, factor = 100 * normal(32, 1, seed=6), (2 * normal(32, 1, seed=7)).exp()
    alike = tea.eb_bon_advantages(rewards, 256)
    moved = tea.eb_bon_advantages(shift + factor * rewards, 256) / factor
    raw = tea.eb_bon_advantages(shift + factor * rewards, 256, standardize=False) / factor

    def agreement(a, b):
        return torch.corrcoef(torch.stack((a.flatten(), b.flatten())))[0, 1].item()

    assert agreement(alike, moved) > 0.95
    assert agreement(alike, raw) < 0.93
    # Without units in common the groups are on their own.
    assert agreement(tea.max_at_k_advantages(rewards, 64), raw) > 0.98


def test_many_rollouts_need_no_more_levels():
    """The levels are a grid above 256 rollouts; the integral between them is linear and loses little."""
    rewards = normal(64, 16, seed=8)
    assert rewards.numel() > MAX_LEVELS
    found = tea.eb_bon_advantages(rewards, 128, standardize=False)
    import tea.estimators.empirical_bayes as module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_LEVELS", rewards.numel())
        patch.setattr(module, "_level_positions", lambda rollouts: [np.linspace(0.0, 1.0, rollouts).tolist()])
        exact = tea.eb_bon_advantages(rewards, 128, standardize=False)
    assert not torch.equal(found, exact)
    assert (found - exact).norm() < 0.02 * exact.norm()


def test_whole_groups_are_no_special_case(monkeypatch):
    """On the CPU the tables leave out what only smaller groups need."""
    rewards = normal(20, 12, seed=11)
    found = tea.eb_bon_advantages(rewards, 128)
    monkeypatch.setattr("tea.estimators.empirical_bayes.values_are_readable", lambda tensor: False)
    torch.testing.assert_close(tea.eb_bon_advantages(rewards, 128), found, rtol=1e-12, atol=1e-12)


def test_memory_joins_the_group():
    """A prompt's remembered rewards tell it from the others, which the batch alone cannot."""
    hard, easy = normal(1, 240, seed=9) - 2.0, normal(1, 240, seed=10)
    current = torch.cat((hard[:, :16], easy[:, :16]))
    history = torch.cat((hard[:, 16:], easy[:, 16:]))
    estimator = tea.get_estimator("eb_bon", target_n=128)
    found = tea.advantages_with_memory(estimator, current, history)
    union = tea.eb_bon_advantages(torch.cat((current, history), 1), 128)[:, :16]
    torch.testing.assert_close(found, union - union.mean(1, keepdim=True), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("target_n", [0.5, math.inf, "64", True])
def test_bad_target_n(target_n):
    with pytest.raises(ValueError, match="target_n must be a finite number >= 1"):
        tea.eb_bon_advantages(torch.zeros(2, 4), target_n)
