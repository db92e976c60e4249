"""GRPO to TRL's last bit, the others by their definitions, and the special cases that tie the estimators together."""

import math

import numpy as np
import pytest
import torch

import tea

F64 = torch.float64


def gen(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("missing", [False, True])
def test_grpo_is_trl_to_the_last_bit(scale, missing):
    nanstd = pytest.importorskip("trl.trainer.utils").nanstd
    rewards = torch.randn(64, 8, generator=gen(0)) * 3 + 1
    if missing:
        rewards[torch.rand(64, 8, generator=gen(1)) < 0.15] = math.nan
    # What TRL's GRPOTrainer computes, with its own nanstd.
    advantages = rewards - torch.nanmean(rewards, dim=1, keepdim=True)
    if scale != "none":
        std = nanstd(rewards, dim=1, keepdim=True) if scale == "group" else nanstd(rewards)
        advantages = advantages / (std + 1e-4)
    expected = torch.nan_to_num(advantages, nan=0.0)
    assert torch.equal(tea.grpo_advantages(rewards, scale=scale), expected)


def test_rloo_is_the_reward_minus_the_mean_of_the_others():
    rewards = torch.randn(5, 7, generator=gen(2), dtype=F64)
    mask = torch.rand(5, 7, generator=gen(3)) < 0.7
    advantages = tea.rloo_advantages(rewards, mask=mask)
    for p in range(5):
        group = rewards[p][mask[p]].tolist()
        expected = [r - (sum(group) - r) / (len(group) - 1) for r in group]
        assert advantages[p][mask[p]].tolist() == pytest.approx(expected, abs=1e-13)


def test_dr_grpo_is_the_reward_minus_the_mean():
    rewards = torch.randn(5, 7, generator=gen(10), dtype=F64) + 100
    mask = torch.rand(5, 7, generator=gen(11)) < 0.7
    advantages = tea.dr_grpo_advantages(rewards, mask=mask)
    for p in range(5):
        group = rewards[p][mask[p]].tolist()
        expected = [r - math.fsum(group) / len(group) for r in group]
        assert advantages[p][mask[p]].tolist() == pytest.approx(expected, abs=1e-12)
    plain = tea.grpo_advantages(rewards, mask=mask, scale="none")
    torch.testing.assert_close(advantages, plain, rtol=0, atol=1e-12)


def test_bon_max_mean():
    rewards = torch.tensor([[0.0, 1.0, 5.0, 2.0], [3.0, 0.0, 3.0, -2.0]], dtype=F64)
    raw = tea.bon_max_mean_advantages(rewards, center=False)
    # Two best ones: half of 3 - 1 each.
    assert raw.tolist() == [[0, 0, 3, 0], [1, 0, 1, 0]]
    assert tea.bon_max_mean_advantages(rewards)[0].tolist() == [-0.75, -0.75, 2.25, -0.75]


@pytest.mark.parametrize("target_n", [1, 4, 128, 2.5])
def test_cat_bon(target_n):
    rewards = torch.randn(4, 9, generator=gen(12), dtype=F64)
    rewards[3] = torch.randint(0, 3, (9,), generator=gen(13)).to(F64)
    mask = torch.ones(4, 9, dtype=torch.bool)
    mask[1, 5:] = False
    raw = tea.cat_bon_advantages(rewards, target_n, mask=mask, center=False)
    for p in range(4):
        group = rewards[p][mask[p]].tolist()
        mean = math.fsum(group) / len(group)
        shares = [sum(other < r for other in group) / (len(group) - 1) for r in group]
        expected = [target_n * q ** (target_n - 1) * (r - mean) for q, r in zip(shares, group, strict=True)]
        assert raw[p][mask[p]].tolist() == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("beta", [2.0, 0.3, 50.0, -1.5])
def test_rs_grpo(beta):
    rewards = torch.randn(4, 9, generator=gen(14), dtype=F64) + 5
    mask = torch.ones(4, 9, dtype=torch.bool)
    mask[1, 5:] = False
    raw = tea.rs_grpo_advantages(rewards, beta, mask=mask, center=False)
    for p in range(4):
        group = np.array(rewards[p][mask[p]].tolist())
        exponentials = np.exp(beta * group)
        expected = (exponentials / exponentials.mean() - 1) / beta
        np.testing.assert_allclose(raw[p][mask[p]].numpy(), expected, rtol=1e-9, atol=1e-12)


def test_rs_grpo_does_not_overflow_and_tends_to_the_mean_objective():
    rewards = torch.randn(4, 8, generator=gen(15)) * 1e30
    saturated = tea.rs_grpo_advantages(rewards, 2.0)
    # All weight on the best: (m - 1) / beta for it, -1 / beta for the others.
    expected = torch.full((4, 8), -0.5).scatter(1, rewards.argmax(1, keepdim=True), 3.5)
    torch.testing.assert_close(saturated, expected)
    rewards = torch.randn(4, 8, generator=gen(16), dtype=F64)
    small = tea.rs_grpo_advantages(rewards, 1e-9)
    torch.testing.assert_close(small, tea.dr_grpo_advantages(rewards), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("beta", [0, 0.0, math.nan, math.inf, True, "2"])
def test_bad_beta(beta):
    with pytest.raises(ValueError, match=r"beta must be a finite number other than 0 .*dr_grpo"):
        tea.rs_grpo_advantages(torch.zeros(2, 4), beta)


# --- Reduction tests: a general estimator at a special argument is a special one ---


def test_ladder_with_n_at_its_upper_rung_is_max_at_k():
    rewards = torch.randn(20, 16, generator=gen(4), dtype=F64)
    for k in (4, 8, 16):
        ladder = tea.ladder_advantages(rewards, k, (2, k), monotone=False, center=False)
        torch.testing.assert_close(ladder, tea.max_at_k_advantages(rewards, k, center=False), rtol=0, atol=1e-12)


def test_ladder_with_rung_one_at_n_one_is_the_mean_objective():
    rewards = torch.randn(20, 16, generator=gen(5), dtype=F64)
    ladder = tea.ladder_advantages(rewards, 1, (1, 16), monotone=False)
    torch.testing.assert_close(ladder, tea.grpo_advantages(rewards, scale="none"), rtol=0, atol=1e-12)


def test_max_at_one_is_the_mean_objective():
    rewards = torch.randn(20, 16, generator=gen(6), dtype=F64)
    dr_grpo = tea.grpo_advantages(rewards, scale="none")
    torch.testing.assert_close(tea.max_at_k_advantages(rewards, 1), dr_grpo, rtol=0, atol=1e-12)


def test_tea_of_everything_at_n_one_is_the_mean_objective():
    rewards = torch.randn(20, 16, generator=gen(7), dtype=F64)
    dr_grpo = tea.grpo_advantages(rewards, scale="none")
    torch.testing.assert_close(tea.tea_advantages(rewards, 1, 1.0), dr_grpo, rtol=0, atol=1e-12)


def test_pass_at_one_is_rloo():
    rewards = torch.randint(0, 2, (20, 8), generator=gen(8)).to(F64)
    torch.testing.assert_close(tea.pass_at_n_advantages(rewards, 1), tea.rloo_advantages(rewards), rtol=0, atol=1e-12)


def test_a_tail_of_two_rewards_the_lead_of_the_best():
    """TEA on two rollouts gives the best a constant times its lead over the second, and the others nothing."""
    rewards = torch.randn(50, 16, generator=gen(9), dtype=F64)
    raw = tea.tea_advantages(rewards, 128, 2 / 16, center=False)
    top = rewards.topk(2, dim=1)
    lead = top.values[:, 0] - top.values[:, 1]
    best = raw.gather(1, top.indices[:, :1]).squeeze(1)
    ratio = best / lead
    torch.testing.assert_close(ratio, ratio[:1].expand(50), rtol=1e-12, atol=0)
    assert (raw.scatter(1, top.indices[:, :1], 0.0) == 0).all()


def test_cat_bon_at_n_one_is_the_mean_objective():
    rewards = torch.randn(20, 8, generator=gen(17), dtype=F64)
    torch.testing.assert_close(tea.cat_bon_advantages(rewards, 1), tea.dr_grpo_advantages(rewards))


def test_passk_of_one_is_grpo_with_the_population_standard_deviation():
    rewards = torch.randint(0, 2, (20, 8), generator=gen(18)).to(F64)
    rewards[:, 0], rewards[:, 1] = 0, 1
    expected = tea.dr_grpo_advantages(rewards) / rewards.std(1, keepdim=True, correction=0)
    torch.testing.assert_close(tea.passk_binary_advantages(rewards, 1), expected)


def test_tea_with_a_tail_of_two_is_bon_max_second_up_to_a_constant():
    rewards = torch.randn(50, 16, generator=gen(19), dtype=F64)
    raw = tea.tea_advantages(rewards, 128, 2 / 16)
    peer = tea.bon_max_second_advantages(rewards)
    ratio = (raw / peer)[0, 0]
    torch.testing.assert_close(raw, ratio * peer, rtol=1e-10, atol=1e-12)


# --- max_rl_advantages ---


@pytest.mark.parametrize("m", [2, 3, 5])
@pytest.mark.parametrize("p", [0.1, 0.5, 0.8])
@pytest.mark.parametrize("center", [True, False])
def test_max_rl_is_unbiased_for_the_truncated_log_likelihood(m, p, center):
    """By enumeration of the number of successes: d/dp of -sum_{k<=K} (1-p)^k / k is sum_{k<K} (1-p)^k."""
    expected = math.fsum((1 - p) ** k for k in range(m - 1 if center else m))
    estimate = 0.0
    for successes in range(m + 1):
        rewards = torch.tensor([[1.0] * successes + [0.0] * (m - successes)], dtype=F64)
        scores = torch.tensor([1 / p] * successes + [-1 / (1 - p)] * (m - successes), dtype=F64)
        probability = math.comb(m, successes) * p**successes * (1 - p) ** (m - successes)
        estimate += probability * (tea.max_rl_advantages(rewards, center=center)[0] * scores).mean().item()
    assert estimate == pytest.approx(expected, rel=1e-12)


def test_max_rl_of_graded_rewards_and_of_none():
    rewards = torch.tensor([[0.0, 0.5, 1.0, 0.5], [0.0] * 4], dtype=F64)
    assert tea.max_rl_advantages(rewards).tolist() == [[-1.0, 0.0, 1.0, 0.0], [0.0] * 4]


def test_max_rl_refuses_negative_rewards(monkeypatch):
    rewards = torch.tensor([[0.0, 1.0, -0.25], [1.0, 0.0, 0.0]])
    with pytest.raises(
        ValueError, match=r"must not be negative for max_rl.*got -0.25 at prompt 0, rollout 2 \(1 in all\)"
    ):
        tea.max_rl_advantages(rewards)
    mask = torch.tensor([[True, True, False], [True] * 3])
    assert torch.isfinite(tea.max_rl_advantages(rewards, mask=mask)).all()
    monkeypatch.setattr("tea.estimators.baselines.values_are_readable", lambda tensor: False)
    unseen = tea.max_rl_advantages(rewards)
    assert unseen[0].isnan().all()
    assert torch.isfinite(unseen[1]).all()
