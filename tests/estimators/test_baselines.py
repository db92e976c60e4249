"""GRPO to TRL's last bit, RLOO by its definition, and the special cases that tie the estimators together."""

import math

import pytest
import torch
from trl.trainer.utils import nanstd

import tea

F64 = torch.float64


def gen(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
@pytest.mark.parametrize("missing", [False, True])
def test_grpo_is_trl_to_the_last_bit(scale, missing):
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
