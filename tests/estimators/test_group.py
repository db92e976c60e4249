"""Validation, masking, the monotone projection against scipy, centring and scaling."""

import math

import numpy as np
import pytest
import torch
from scipy import optimize

import tea
from tea.estimators.group import as_group, reward_std
from tea.estimators.tensors import power_of_two_below
from tests.reference import estimators as reference

F64 = torch.float64


def gen(seed):
    return torch.Generator().manual_seed(seed)


# --- The projection ---


@pytest.mark.parametrize("m", [2, 3, 5, 8, 13, 16, 31, 64, 100])
def test_projection_is_isotonic_regression(m):
    rewards = torch.randn(20, m, generator=gen(m), dtype=F64)
    advantages = torch.randn(20, m, generator=gen(m + 1), dtype=F64)
    projected = tea.monotone_projection(advantages, rewards)
    for p in range(20):
        order = rewards[p].argsort()
        expected = optimize.isotonic_regression(advantages[p][order].numpy()).x
        np.testing.assert_allclose(projected[p][order].numpy(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("m", [4, 7, 16, 33])
@pytest.mark.parametrize("levels", [1, 2, 4])
def test_projection_with_ties_and_masks(m, levels):
    rewards = torch.randint(0, levels, (30, m), generator=gen(m), dtype=torch.int64).to(F64)
    advantages = torch.randn(30, m, generator=gen(m + 1), dtype=F64)
    valid = torch.rand(30, m, generator=gen(m + 2)) < 0.7
    projected = tea.monotone_projection(advantages, rewards, valid)
    assert (projected[~valid] == 0).all()
    for p in range(30):
        a, r = advantages[p][valid[p]].tolist(), rewards[p][valid[p]].tolist()
        if r:
            np.testing.assert_allclose(projected[p][valid[p]].numpy(), reference.isotonic(a, r), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("m", [2, 6, 16, 64])
def test_projection_leaves_monotone_groups_to_the_last_bit(dtype, m):
    # Few levels of reward, and an increasing function of them (with a plateau) that no sum represents exactly.
    level = torch.randint(0, 9, (50, m), generator=gen(m))
    table = torch.exp(torch.tensor([0, 1, 2, 2, 2, 5, 6, 6, 8], dtype=dtype) / 7) * 1e3 + 0.1
    assert torch.equal(tea.monotone_projection(table[level], level.to(dtype)), table[level])
    rewards = torch.randn(50, m, generator=gen(m), dtype=dtype)
    assert torch.equal(tea.monotone_projection(rewards * 3, rewards), rewards * 3)


def test_projection_keeps_the_sum_and_is_idempotent():
    rewards, advantages = torch.randn(2, 50, 24, generator=gen(0), dtype=F64)
    projected = tea.monotone_projection(advantages, rewards)
    torch.testing.assert_close(projected.sum(1), advantages.sum(1), rtol=0, atol=1e-12)
    torch.testing.assert_close(tea.monotone_projection(projected, rewards), projected, rtol=0, atol=1e-12)


def test_projection_is_nondecreasing_in_float32():
    rewards = torch.randn(500, 64, generator=gen(1))
    advantages = torch.randn(500, 64, generator=gen(2)) * torch.logspace(-6, 6, 500)[:, None]
    projected = tea.monotone_projection(advantages, rewards)
    assert (projected.gather(1, rewards.argsort(1)).diff(dim=1) >= 0).all()


def test_projection_only_nears_any_monotone_truth():
    rewards = torch.randn(100, 16, generator=gen(3), dtype=F64)
    truth = rewards**3 + rewards
    noisy = truth + torch.randn(100, 16, generator=gen(4), dtype=F64)
    projected = tea.monotone_projection(noisy, rewards)
    assert ((projected - truth).norm(dim=1) <= (noisy - truth).norm(dim=1) + 1e-12).all()


# --- Masking, centring, scaling ---


def test_as_group_folds_mask_and_nan():
    rewards = torch.tensor([[1.0, math.nan, 3.0], [4.0, 5.0, 6.0]])
    mask = torch.tensor([[True, True, True], [True, False, True]])
    group = as_group(rewards, mask)
    assert group.valid.tolist() == [[True, False, True], [True, False, True]]
    assert group.count.tolist() == [[2], [2]]
    assert torch.isnan(group.rewards[1, 1])
    assert not math.isnan(rewards[1, 1])  # the input is left alone


def test_reward_std_is_trl_to_the_last_bit():
    nanstd = pytest.importorskip("trl.trainer.utils").nanstd
    rewards = torch.randn(64, 16, generator=gen(5)) * 10
    rewards[torch.rand(64, 16, generator=gen(6)) < 0.2] = math.nan
    group = as_group(rewards)
    assert torch.equal(reward_std(group).squeeze(1), nanstd(rewards, dim=1))
    assert torch.equal(reward_std(group, "batch").squeeze(), nanstd(rewards))


def test_reward_std_in_float64_is_numpy():
    rewards = torch.randn(64, 16, generator=gen(5), dtype=F64) * 10
    rewards[torch.rand(64, 16, generator=gen(6)) < 0.2] = math.nan
    expected = [np.std([r for r in row if not math.isnan(r)], ddof=1) for row in rewards.tolist()]
    np.testing.assert_allclose(reward_std(as_group(rewards)).squeeze(1).numpy(), expected, rtol=1e-14)


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_reward_std_neither_overflows_nor_underflows(size):
    rewards = torch.tensor([[0.0, 1.0, 2.0, 5.0]]) * size
    expected = np.std([0, 1, 2, 5], ddof=1) * size
    assert reward_std(as_group(rewards)).item() == pytest.approx(expected, rel=1e-6)


def test_power_of_two_below():
    x = torch.tensor([0.0, 1.0, 1.999, 2.0, 3e38, 2e-38, 0.3])
    powers = power_of_two_below(x)
    for value, power in zip(x.tolist()[1:], powers.tolist()[1:], strict=True):
        assert power <= value < 2 * power
        assert math.frexp(power)[0] == 0.5
    # Whatever is divided by it stays what it was: 0, and no reward becomes infinite by it.
    assert powers[0] == torch.finfo(torch.float32).tiny


def test_scale_divides_by_the_reward_standard_deviation():
    rewards = torch.randn(8, 16, generator=gen(7), dtype=F64) * torch.linspace(0.1, 4, 8, dtype=F64)[:, None]
    plain = tea.tea_advantages(rewards, 128)
    by_group = tea.tea_advantages(rewards, 128, scale="group")
    by_batch = tea.tea_advantages(rewards, 128, scale="batch")
    torch.testing.assert_close(by_group, plain / (rewards.std(1, keepdim=True) + 1e-4))
    torch.testing.assert_close(by_batch, plain / (rewards.std() + 1e-4))


def test_normalize_advantages():
    advantages = torch.randn(8, 4, generator=gen(8), dtype=F64) * 37
    normalized = tea.normalize_advantages(advantages)
    assert (normalized**2).mean().sqrt().item() == pytest.approx(1.0, abs=1e-12)
    torch.testing.assert_close(normalized * (advantages**2).mean().sqrt(), advantages)
    mask = torch.rand(8, 4, generator=gen(9)) < 0.5
    masked = tea.normalize_advantages(torch.where(mask, advantages, 0.0), mask)
    assert (masked[mask] ** 2).mean().sqrt().item() == pytest.approx(1.0, abs=1e-12)
    assert torch.equal(tea.normalize_advantages(torch.zeros(3, 4)), torch.zeros(3, 4))
    for size in (1e-30, 1e30):
        big = tea.normalize_advantages(advantages.float() * size)
        assert (big**2).mean().sqrt().item() == pytest.approx(1.0, abs=1e-5)


# --- Bad input ---


@pytest.mark.parametrize(
    ("rewards", "error", "message"),
    [
        ([[1.0, 2.0]], TypeError, r"rewards must be a torch.Tensor of shape"),
        (torch.zeros(8), ValueError, r"must have shape \(num_prompts, num_generations\), got \(8,\).*view"),
        (torch.zeros(2, 2, 2), ValueError, r"got \(2, 2, 2\)"),
        (torch.zeros(4, 1), ValueError, r"at least 2 generations per prompt.*\(4, 1\)"),
        (torch.zeros(2, 2, dtype=torch.complex64), TypeError, r"must be real"),
        (torch.tensor([[0.0, 1.0], [2.0, math.inf]]), ValueError, r"finite.*inf at prompt 1, rollout 1 \(1 infinite"),
        (torch.tensor([[0.0, -math.inf]]), ValueError, r"got -inf at prompt 0, rollout 1"),
    ],
)
def test_bad_rewards(rewards, error, message):
    for function in (tea.grpo_advantages, tea.rloo_advantages):
        with pytest.raises(error, match=message):
            function(rewards)
    for function in (tea.tea_advantages, tea.ladder_advantages, tea.prefix_tea_advantages):
        with pytest.raises(error, match=message):
            function(rewards, 16)
    with pytest.raises(error, match=message):
        tea.tail_statistics(rewards, 16)


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (torch.ones(2, 4), TypeError, r"mask must be a bool tensor, got torch.float32"),
        ([[True] * 4] * 2, TypeError, r"mask must be a bool tensor"),
        (torch.ones(4, 2, dtype=torch.bool), ValueError, r"shape of rewards \(2, 4\), got \(4, 2\)"),
    ],
)
def test_bad_mask(mask, error, message):
    with pytest.raises(error, match=message):
        tea.tea_advantages(torch.zeros(2, 4), 16, mask=mask)


def test_masked_infinity_is_no_reward():
    rewards = torch.tensor([[0.0, 1.0, math.inf, 2.0]])
    mask = torch.tensor([[True, True, False, True]])
    expected = tea.grpo_advantages(torch.tensor([[0.0, 1.0, 2.0]]))
    assert tea.grpo_advantages(rewards, mask=mask)[0, [0, 1, 3]].tolist() == expected[0].tolist()


@pytest.mark.parametrize("target_n", [0, 0.5, -3, math.nan, math.inf, True, "8"])
def test_bad_target_n(target_n):
    rewards = torch.zeros(2, 8)
    for function in (
        tea.tea_advantages,
        tea.prefix_tea_advantages,
        tea.ladder_advantages,
        tea.pass_at_n_advantages,
        tea.tail_statistics,
    ):
        with pytest.raises(ValueError, match=r"target_n must be a finite number >= 1, got"):
            function(rewards, target_n)


@pytest.mark.parametrize("fraction", [0, 0.0, -0.25, 1.01, math.nan, True, "0.25"])
def test_bad_tail_fraction(fraction):
    for function in (tea.tea_advantages, tea.prefix_tea_advantages, tea.tail_statistics):
        with pytest.raises(ValueError, match=r"tail_fraction must be in \(0, 1\]( or 'auto')?, got"):
            function(torch.zeros(2, 8), 16, fraction)


def test_bad_scale():
    with pytest.raises(ValueError, match=r"scale must be one of 'none', 'group', 'batch', got 'std'"):
        tea.grpo_advantages(torch.zeros(2, 8), scale="std")


def test_integer_and_bool_rewards():
    counts = torch.tensor([[0, 3, 1, 2]])
    assert tea.rloo_advantages(counts).tolist() == tea.rloo_advantages(counts.float()).tolist()
    passed = torch.tensor([[True, False, False, True]])
    assert tea.rloo_advantages(passed).tolist() == tea.rloo_advantages(passed.float()).tolist()


def test_gradients_do_not_flow():
    rewards = torch.randn(2, 8, generator=gen(1), requires_grad=True)
    assert not tea.tea_advantages(rewards, 16).requires_grad


def test_projection_of_pairs():
    """Two rollouts: in order they stay, out of order they meet in the middle."""
    rewards = torch.tensor([[0.0, 1.0], [0.0, 1.0], [1.0, 1.0]])
    advantages = torch.tensor([[1.0, 2.0], [2.0, 1.0], [3.0, 1.0]])
    assert tea.monotone_projection(advantages, rewards).tolist() == [[1.0, 2.0], [1.5, 1.5], [2.0, 2.0]]
