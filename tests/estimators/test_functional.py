"""Influence functions by backward pass: against finite differences, closed forms and the estimators."""

import math
from itertools import product

import numpy as np
import pytest
import torch

import tea
from tea.estimators import functional
from tests.reference import estimators as reference

F64 = torch.float64


def gen(seed):
    return torch.Generator().manual_seed(seed)


def normal(p, m, seed=0):
    return torch.randn(p, m, generator=gen(seed), dtype=F64)


def influence(value, rewards, step):
    """d/de F((1 - e) uniform + e delta_i) at e = 0, by forward differences of a plain function of numpy arrays."""
    m = len(rewards)
    uniform = np.full(m, 1 / m)
    base = value(rewards, uniform)
    return np.array([(value(rewards, (1 - step) * uniform + step * np.eye(m)[i]) - base) / step for i in range(m)])


def weighted_tail_mean(rewards, weights, fraction):
    """Walk down from the largest reward until the mass is used up."""
    left, total = fraction, 0.0
    for i in np.argsort(-rewards):
        part = min(weights[i], left)
        total += part * rewards[i]
        left -= part
    return total / fraction


def weighted_best_of_n(rewards, weights, n):
    """Every n-tuple of the weighted sample."""
    return sum(
        math.prod(weights[i] for i in chosen) * max(rewards[i] for i in chosen)
        for chosen in product(range(len(rewards)), repeat=n)
    )


def weighted_quantile_band(rewards, weights, low, high):
    """Mean of the quantile function over a band, from many levels."""
    order = np.argsort(rewards)
    below = np.cumsum(weights[order])
    levels = low + (high - low) * (np.arange(200_000) + 0.5) / 200_000
    index = np.minimum(np.searchsorted(below, levels), len(rewards) - 1)
    return rewards[order][index].mean()


def weighted_entropic(rewards, weights, beta):
    return math.log(sum(w * math.exp(beta * r) for w, r in zip(weights, rewards, strict=True))) / beta


CASES = {
    "mean": (functional.mean, lambda r, w: float(r @ w), 1e-6),
    "best_of_3": (functional.best_of_n(3), lambda r, w: weighted_best_of_n(r, w, 3), 1e-6),
    "median": (functional.quantile(0.5, 0.13), lambda r, w: weighted_quantile_band(r, w, 0.37, 0.63), 1e-3),
    "upper": (functional.quantile(0.93, 0.1), lambda r, w: weighted_quantile_band(r, w, 0.83, 1.0), 1e-3),
    "cvar": (functional.cvar(0.3), lambda r, w: weighted_tail_mean(r, w, 0.3), 1e-6),
    "entropic": (functional.entropic_risk(1.7), lambda r, w: weighted_entropic(r, w, 1.7), 1e-6),
    "averse": (functional.entropic_risk(-0.8), lambda r, w: weighted_entropic(r, w, -0.8), 1e-6),
}


@pytest.mark.parametrize("name", CASES)
def test_is_the_influence_function(name):
    fn, value, step = CASES[name]
    rewards = normal(4, 6, seed=1)
    advantages = tea.functional_advantages(fn, rewards)
    values = fn(rewards, torch.full((4, 6), 1 / 6, dtype=F64))
    for p in range(4):
        group = rewards[p].numpy()
        assert values[p].item() == pytest.approx(value(group, np.full(6, 1 / 6)), abs=1e-4)
        expected = influence(value, group, step)
        np.testing.assert_allclose(advantages[p].numpy(), expected - expected.mean(), rtol=2e-2, atol=2e-2 * step**0.5)


@pytest.mark.parametrize("name", CASES)
def test_masked_groups_are_groups_of_their_own(name):
    fn = CASES[name][0]
    rewards = normal(20, 9, seed=2)
    mask = torch.rand(20, 9, generator=gen(3)) < 0.7
    together = tea.functional_advantages(fn, rewards, mask=mask)
    missing = torch.where(mask, rewards, math.nan)
    assert torch.equal(tea.functional_advantages(fn, missing), together)
    assert (together[~mask] == 0).all()
    for p in range(20):
        if mask[p].sum() > 1:
            alone = tea.functional_advantages(fn, rewards[p][mask[p]][None])
            torch.testing.assert_close(together[p][mask[p]], alone[0], rtol=1e-9, atol=1e-9)
    rewards[0] = math.nan
    assert (tea.functional_advantages(fn, rewards)[0] == 0).all()


@pytest.mark.parametrize("name", CASES)
def test_ties_and_constants(name):
    fn = CASES[name][0]
    rewards = torch.randint(0, 3, (50, 8), generator=gen(4)).to(F64)
    rewards[0] = 7.0
    advantages = tea.functional_advantages(fn, rewards)
    assert advantages[0].abs().max() < 1e-12
    equal = rewards.unsqueeze(2) == rewards.unsqueeze(1)
    difference = (advantages.unsqueeze(2) - advantages.unsqueeze(1)).abs()
    assert difference[equal].max() < 1e-12


# --- Reductions ---


def test_mean_is_dr_grpo():
    rewards = normal(10, 8)
    for scale in ("none", "group", "batch"):
        torch.testing.assert_close(
            tea.functional_advantages(functional.mean, rewards, scale=scale),
            tea.dr_grpo_advantages(rewards, scale=scale),
        )


@pytest.mark.parametrize(("m", "fraction"), [(16, 0.25), (16, 1.0), (8, 0.5), (20, 0.1), (10, 0.3)])
@pytest.mark.parametrize("target_n", [1, 128])
def test_gaussian_tail_is_tea(m, fraction, target_n):
    rewards = normal(10, m, seed=5) * 3 + 40
    fn = functional.gaussian_tail(target_n, fraction)
    advantages = tea.functional_advantages(fn, rewards)
    torch.testing.assert_close(advantages, tea.tea_advantages(rewards, target_n, fraction), rtol=1e-9, atol=1e-9)
    # Uncentred too: nothing below the threshold.
    raw = tea.functional_advantages(fn, rewards, center=False)
    lifted = raw - raw.gather(1, rewards.argmin(1, keepdim=True))
    expected = tea.tea_advantages(rewards, target_n, fraction, center=False)
    torch.testing.assert_close(lifted, expected, rtol=1e-9, atol=1e-9)
    values = fn(rewards, torch.full_like(rewards, 1 / m))
    torch.testing.assert_close(values, tea.tail_statistics(rewards, target_n, fraction).best_of_n)


def test_gaussian_tail_is_tea_with_masks_ties_and_float32():
    rewards = torch.randint(0, 6, (60, 16), generator=gen(6)).float()
    mask = torch.ones(60, 16, dtype=torch.bool)
    mask[20:40, 12:] = False  # 12 valid: 3 in the tail
    mask[40:, 8:] = False
    advantages = tea.functional_advantages(functional.gaussian_tail(64), rewards, mask=mask)
    torch.testing.assert_close(advantages, tea.tea_advantages(rewards, 64, mask=mask), rtol=1e-4, atol=1e-4)


def test_gaussian_tail_between_two_integers_lies_between():
    """Of 16 rollouts, alpha from 4/16 to 5/16: the advantages go from the one TEA to the other without a jump."""
    rewards = normal(1, 16, seed=7)
    fractions = np.linspace(4 / 16, 5 / 16, 200)
    path = torch.cat([tea.functional_advantages(functional.gaussian_tail(128, float(a)), rewards) for a in fractions])
    # Inside the interval the threshold is the fifth reward: continuous from the second point on.
    steps = path[1:].diff(dim=0).abs().amax(1)
    assert steps.max() < 0.05 * path.abs().max()
    torch.testing.assert_close(path[-1:], tea.tea_advantages(rewards, 128, 5 / 16), rtol=1e-9, atol=1e-9)


def test_entropic_risk_is_rs_grpo():
    rewards = normal(10, 8, seed=8) * 5
    for beta in (2.0, 0.1, -1.0):
        fn = functional.entropic_risk(beta)
        torch.testing.assert_close(tea.functional_advantages(fn, rewards), tea.rs_grpo_advantages(rewards, beta))
    huge = tea.functional_advantages(functional.entropic_risk(2.0), rewards.float() * 1e30)
    torch.testing.assert_close(huge, tea.rs_grpo_advantages(rewards.float() * 1e30, 2.0))


def test_best_of_two_is_max_at_two_with_replacement():
    """Drawing with replacement pairs a rollout with itself one time in m: a factor (m - 1) / m, and nothing else."""
    rewards = normal(10, 12, seed=9)
    advantages = tea.functional_advantages(functional.best_of_n(2), rewards)
    torch.testing.assert_close(advantages, tea.max_at_k_advantages(rewards, 2) * 11 / 12)


def test_best_of_n_nears_max_at_k_in_large_groups():
    rewards = normal(8, 800, seed=10)
    advantages = tea.functional_advantages(functional.best_of_n(4), rewards)
    exact = tea.max_at_k_advantages(rewards, 4)
    assert (advantages - exact).norm() < 0.02 * exact.norm()


def test_best_of_n_with_a_cost_per_sample():
    rewards, cost = normal(5, 8, seed=11), torch.rand(5, 8, generator=gen(12), dtype=F64)
    free = tea.functional_advantages(functional.best_of_n(16), rewards)
    paid = tea.functional_advantages(functional.best_of_n(16, cost), rewards)
    torch.testing.assert_close(paid, free - 16 * (cost - cost.mean(1, keepdim=True)))
    missing = cost.clone()
    missing[0, 3] = math.nan
    mask = torch.ones(5, 8, dtype=torch.bool)
    mask[0, 3] = False
    assert torch.isfinite(tea.functional_advantages(functional.best_of_n(16, missing), rewards, mask=mask)).all()
    with pytest.raises(ValueError, match=r"cost must have the shape of rewards \(5, 8\), got \(5, 7\)"):
        tea.functional_advantages(functional.best_of_n(16, cost[:, 1:]), rewards)


def test_cvar_of_everything_is_the_mean():
    rewards = normal(5, 8, seed=13)
    advantages = tea.functional_advantages(functional.cvar(1.0), rewards)
    torch.testing.assert_close(advantages, tea.dr_grpo_advantages(rewards))


def test_median_of_a_normal_is_unbiased():
    """Its gradient is 1 for mu and 0 for log sigma; the band of levels around it has the same by symmetry."""
    rewards = np.random.default_rng(0).standard_normal((40_000, 32))
    advantages = tea.functional_advantages(functional.quantile(0.5, 0.2), torch.from_numpy(rewards)).numpy()
    gradients = reference.gaussian_gradient(advantages, rewards)
    error = gradients.std(axis=0) / math.sqrt(len(gradients))
    bias = gradients.mean(axis=0) - [1.0, 0.0]
    assert abs(bias[1]) < 4 * error[1]
    # A plug-in: O(1 / m) of the truth.
    assert abs(bias[0]) < 2 / 32 + 4 * error[0]


# --- A functional of one's own, monotone, under no_grad, compiled; bad ones ---


def test_own_functional():
    """Mean minus half the variance, whose influence is known."""

    def mean_variance(rewards, weights):
        mean = (weights * rewards).sum(1)
        return mean - 0.5 * (weights * (rewards - mean.unsqueeze(1)) ** 2).sum(1)

    rewards = normal(6, 8, seed=14)
    deviation = rewards - rewards.mean(1, keepdim=True)
    expected = deviation - 0.5 * (deviation**2 - (deviation**2).mean(1, keepdim=True))
    with torch.no_grad():
        advantages = tea.functional_advantages(mean_variance, rewards)
    torch.testing.assert_close(advantages, expected)
    assert not advantages.requires_grad
    projected = tea.functional_advantages(mean_variance, rewards, monotone=True)
    for p in range(6):
        fit = reference.isotonic(expected[p].tolist(), rewards[p].tolist())
        assert projected[p].tolist() == pytest.approx(fit, abs=1e-12)


def test_gradient_counts_each_prompt_once():
    rewards = normal(6, 8, seed=15)
    together = tea.functional_advantages(functional.best_of_n(5), rewards)
    apart = torch.cat([tea.functional_advantages(functional.best_of_n(5), row[None]) for row in rewards])
    torch.testing.assert_close(together, apart, rtol=1e-12, atol=1e-12)


FUNCTIONALS = {name: case[0] for name, case in CASES.items()} | {"gaussian_tail": functional.gaussian_tail(64)}


@pytest.mark.parametrize("name", FUNCTIONALS)
def test_compiles_to_one_graph(name):
    torch.compiler.reset()

    def function(rewards, mask):
        return tea.functional_advantages(FUNCTIONALS[name], rewards, mask=mask)

    rewards, mask = normal(5, 8, seed=16), torch.rand(5, 8, generator=gen(17)) < 0.8
    compiled = torch.compile(function, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(rewards, mask), function(rewards, mask), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("name", FUNCTIONALS)
@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_extreme_scales_in_float32(name, size):
    rewards = normal(50, 16, seed=18) * size
    advantages = tea.functional_advantages(FUNCTIONALS[name], rewards.float()).double()
    expected = tea.functional_advantages(FUNCTIONALS[name], rewards)
    if name in ("entropic", "averse") and size < 1:
        expected = tea.dr_grpo_advantages(rewards)  # and too small for float32 beside 1
        assert (advantages - expected).abs().max() < 1e-6
    else:
        error = (advantages - expected).abs().amax(1) / expected.abs().amax(1)
        assert error.quantile(0.9) < 1e-4


def test_no_prompts():
    assert tea.functional_advantages(functional.mean, torch.zeros(0, 8)).shape == (0, 8)


@pytest.mark.parametrize(
    ("fn", "error", "message"),
    [
        (lambda r, w: 1.0, TypeError, r"fn must return a tensor of shape \(num_prompts,\), got <class 'float'>"),
        (lambda r, w: (r * w).sum(), ValueError, r"shape \(num_prompts,\) = \(3,\), got \(\)"),
        (lambda r, w: r * w, ValueError, r"got \(3, 4\)"),
        (lambda r, w: r.sum(1), ValueError, r"fn must depend on the weights"),
        (lambda r, w: (r * w.detach()).sum(1), ValueError, r"fn must depend on the weights"),
        (lambda r, w: (w - w.detach()).sqrt().sum(1), ValueError, r"finite derivatives, got (inf|nan) at prompt 0"),
    ],
)
def test_bad_functional(fn, error, message):
    with pytest.raises(error, match=message):
        tea.functional_advantages(fn, normal(3, 4))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: functional.best_of_n(0), "target_n must be"),
        (lambda: functional.quantile(0.0), r"q must be in \(0, 1\), got 0.0"),
        (lambda: functional.quantile(0.5, 0.0), r"bandwidth must be in \(0, 1\], got 0.0"),
        (lambda: functional.cvar(1.5), r"fraction must be in \(0, 1\], got 1.5"),
        (lambda: functional.entropic_risk(0), r"beta must be a finite number other than 0"),
        (lambda: functional.gaussian_tail(64, 0), r"tail_fraction must be in"),
    ],
)
def test_bad_options(build, message):
    with pytest.raises(ValueError, match=message):
        build()


@pytest.mark.parametrize(("n", "beta"), [(1, 1.0), (2, 1.5), (3, 0.0), (4, 3.0)])
def test_soft_best_of_n_over_all_draws(n, beta):
    generator = torch.Generator().manual_seed(0)
    rewards = torch.randn(2, 4, dtype=torch.float64, generator=generator)
    weights = torch.rand(2, 4, dtype=torch.float64, generator=generator)
    weights /= weights.sum(1, keepdim=True)
    expected = torch.zeros(2, dtype=torch.float64)
    for draw in product(range(4), repeat=n):
        chance = weights[:, list(draw)].prod(1)
        drawn = rewards[:, list(draw)]
        expected += chance * (drawn.mul(beta).softmax(1) * drawn).sum(1)
    torch.testing.assert_close(functional.soft_best_of_n(n, beta)(rewards, weights), expected, atol=1e-9, rtol=0)


def test_soft_best_of_n_lies_between_the_mean_and_the_best():
    rewards = torch.randn(3, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    soft = [tea.functional_advantages(functional.soft_best_of_n(4, beta), rewards) for beta in (0.0, 1.0, 12.0)]
    torch.testing.assert_close(soft[0], tea.dr_grpo_advantages(rewards))
    best = tea.functional_advantages(functional.best_of_n(4), rewards)
    distance = [(one - best).norm() for one in soft]
    assert distance[0] > distance[1] > distance[2]
    with pytest.raises(ValueError, match="beta must be"):
        functional.soft_best_of_n(4, -1.0)
