"""MaxPO against its definition over all subsets, and against what it collapses to."""

import itertools
import math

import pytest
import torch

import tea
from tests.reference import estimators as reference

F64 = torch.float64


@pytest.mark.parametrize(("m", "k"), [(m, k) for m in (2, 3, 5, 7) for k in range(1, m)])
def test_all_subsets_and_centred_in_every_group(m, k):
    rewards = torch.randn(4, m, generator=torch.Generator().manual_seed(10 * m + k), dtype=F64)
    rewards[3] = torch.randint(0, 3, (m,), generator=torch.Generator().manual_seed(m)).to(F64)  # ties
    advantages = tea.max_po_advantages(rewards, k, center=False)
    for p, group in enumerate(rewards.tolist()):
        expected = reference.max_po(group, k)
        assert advantages[p].tolist() == pytest.approx(expected, rel=1e-11, abs=1e-12)
        assert math.fsum(expected) == pytest.approx(0.0, abs=1e-11)  # the definition itself, nothing subtracted


@pytest.mark.parametrize(("m", "k"), [(3, 2), (5, 1), (8, 4), (16, 15)])
def test_is_best_of_k_of_order_stat(m, k):
    rewards = torch.randn(6, m, generator=torch.Generator().manual_seed(m), dtype=F64)
    best = tea.order_stat_advantages(rewards, [1.0] + [0.0] * (k - 1))
    torch.testing.assert_close(tea.max_po_advantages(rewards, k), best, rtol=1e-9, atol=1e-10)
    if k == 1:
        torch.testing.assert_close(tea.max_po_advantages(rewards, 1), tea.rloo_advantages(rewards))


@pytest.mark.parametrize(("m", "k"), [(4, 2), (5, 3), (5, 4)])
def test_exactly_unbiased_by_enumeration(m, k):
    """Three rewards with probabilities from a softmax of theta: the sum over all 3^m groups is the gradient."""
    levels = torch.tensor([0.0, 1.0, 2.5], dtype=F64)
    theta = torch.tensor([0.3, -0.2, -0.9], dtype=F64, requires_grad=True)
    p = torch.softmax(theta, 0)
    below = torch.cat((torch.zeros(1, dtype=F64), p.cumsum(0)))
    value = (levels * (below[1:] ** k - below[:-1] ** k)).sum()  # E[max of k]
    (truth,) = torch.autograd.grad(value, theta)
    outcomes = torch.tensor(list(itertools.product(range(3), repeat=m)))
    probability = p.detach()[outcomes].prod(1)
    scores = torch.nn.functional.one_hot(outcomes, 3) - p.detach()  # d log p / d theta
    for estimator in (tea.max_po_advantages, tea.max_at_k_advantages):
        advantages = estimator(levels[outcomes], k, center=False)
        estimate = (probability[:, None] * (advantages[:, :, None] * scores).mean(1)).sum(0)
        torch.testing.assert_close(estimate, truth, rtol=1e-10, atol=1e-12)


def test_variance_beside_max_at_k():
    """Centring max_at_k afterwards biases it by (m - k) / m on the spacings' scale; max_po needs none.

    Both unbiased: uncentred, max_at_k is the noisier one with many scores; recorded in docs/estimators.md.
    """
    generator = torch.Generator().manual_seed(0)
    rewards = torch.randn(40_000, 8, generator=generator, dtype=F64)
    k = 4
    po = tea.max_po_advantages(rewards, k).square().mean()
    at_k = tea.max_at_k_advantages(rewards, k, center=False).square().mean()
    assert po < at_k


def test_masked_groups_use_the_largest_k_they_have():
    rewards = torch.randn(1, 8, generator=torch.Generator().manual_seed(1), dtype=F64)
    mask = torch.tensor([[True] * 3 + [False] * 5])
    advantages = tea.max_po_advantages(rewards, 4, mask=mask)
    assert advantages[0, :3].tolist() == pytest.approx(reference.max_po(rewards[0, :3].tolist(), 2))


def test_k_must_leave_one_out():
    with pytest.raises(ValueError, match=r"k must be less than the generations per prompt \(8\), got 8.*max_at_k"):
        tea.max_po_advantages(torch.zeros(2, 8), 8)
