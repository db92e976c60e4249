"""Off-policy max@k against all subsets, exactly unbiased by enumeration, and max@k where nothing has moved."""

import itertools
import math

import pytest
import torch

import tea
from tea.estimators.off_policy import max_at_k_off_policy_advantages

F64 = torch.float64


def by_subsets(rewards, ratios, k):
    m = len(rewards)
    result = []
    for i in range(m):
        others = [j for j in range(m) if j != i]
        total = 0.0
        for subset in itertools.combinations(others, k - 1):
            weight = ratios[i] * math.prod(ratios[j] for j in subset)
            base = max((rewards[j] for j in subset), default=0.0)
            total += weight * (max([rewards[i], *(rewards[j] for j in subset)]) - base)
        result.append(k * total / math.comb(m - 1, k - 1))
    return result


def random(m, seed=0):
    generator = torch.Generator().manual_seed(seed)
    rewards = torch.randn(3, m, generator=generator, dtype=F64)
    rewards[2] = rewards[2].round()  # ties
    return rewards, torch.rand(3, m, generator=generator, dtype=F64) * 2


@pytest.mark.parametrize(("m", "k"), [(m, k) for m in (2, 4, 6) for k in range(2, m + 1)])
def test_all_subsets(m, k):
    rewards, ratios = random(m)
    found = max_at_k_off_policy_advantages(rewards, ratios, k)
    without = max_at_k_off_policy_advantages(rewards, ratios, k, own_ratio=False)
    for p in range(3):
        expected = by_subsets(rewards[p].tolist(), ratios[p].tolist(), k)
        assert found[p].tolist() == pytest.approx(expected, rel=1e-10, abs=1e-12)
    torch.testing.assert_close(without * ratios, found)


@pytest.mark.parametrize("k", [1, 2, 5, 8])
def test_where_nothing_has_moved_it_is_max_at_k(k):
    rewards, _ = random(8, seed=1)
    found = max_at_k_off_policy_advantages(rewards, torch.ones_like(rewards), k)
    torch.testing.assert_close(found, tea.max_at_k_advantages(rewards, k, center=False), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("k", [2, 3, 4])
def test_exactly_unbiased_for_the_current_policy(k):
    """Sampled from q, weighed by p / q: the sum over all groups is the gradient of best of k at p."""
    levels = torch.tensor([0.0, 1.0, 2.5], dtype=F64)
    theta = torch.tensor([0.3, -0.2, -0.9], dtype=F64, requires_grad=True)
    p, q = torch.softmax(theta, 0), torch.tensor([0.6, 0.3, 0.1], dtype=F64)
    below = torch.cat((torch.zeros(1, dtype=F64), p.cumsum(0)))
    (truth,) = torch.autograd.grad((levels * (below[1:] ** k - below[:-1] ** k)).sum(), theta)
    p = p.detach()
    groups = torch.tensor(list(itertools.product(range(3), repeat=4)))
    advantages = max_at_k_off_policy_advantages(levels[groups], (p / q)[groups], k)
    scores = torch.nn.functional.one_hot(groups, 3) - p
    estimate = (q[groups].prod(1)[:, None] * (advantages[:, :, None] * scores).mean(1)).sum(0)
    torch.testing.assert_close(estimate, truth, rtol=1e-10, atol=1e-12)


def test_missing_rollouts_are_in_no_subset():
    rewards, ratios = random(6, seed=2)
    mask = torch.tensor([[True, True, False, True, True, False]] * 3)
    found = max_at_k_off_policy_advantages(rewards, ratios, 3, mask=mask)
    for p in range(3):
        expected = by_subsets(rewards[p][mask[p]].tolist(), ratios[p][mask[p]].tolist(), 3)
        assert found[p][mask[p]].tolist() == pytest.approx(expected, rel=1e-9, abs=1e-12)
        assert (found[p][~mask[p]] == 0).all()
    few = torch.tensor([[True, True, False, False, False, False]] * 3)
    assert (max_at_k_off_policy_advantages(rewards, ratios, 3, mask=few) == 0).all()


@pytest.mark.parametrize("bad", [math.inf, math.nan, -0.5])
def test_bad_ratios(bad):
    rewards, ratios = random(4)
    ratios[1, 2] = bad
    with pytest.raises(ValueError, match=r"importance ratios must be finite and not negative.*prompt 1, rollout 2"):
        max_at_k_off_policy_advantages(rewards, ratios, 2)
    mask = torch.ones_like(rewards, dtype=torch.bool)
    mask[1, 2] = False
    assert torch.isfinite(max_at_k_off_policy_advantages(rewards, ratios, 2, mask=mask)).all()
    with pytest.raises(ValueError, match=r"ratios must have the shape of rewards \(3, 4\), got \(3, 3\)"):
        max_at_k_off_policy_advantages(rewards, ratios[:, :3], 2)


def test_compiles_to_one_graph():
    rewards, ratios = random(8)
    torch.compiler.reset()
    compiled = torch.compile(lambda r, w: max_at_k_off_policy_advantages(r, w, 4), fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(rewards, ratios), max_at_k_off_policy_advantages(rewards, ratios, 4))
