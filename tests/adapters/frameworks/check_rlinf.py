"""On RLinf: its extension module, and its way to advantages for embodied and for reasoning tasks."""

import os

import pytest
import torch
from rlinf.algorithms.registry import ADV_REGISTRY, calculate_adv_and_returns
from rlinf.scheduler.cluster.utils import load_user_extension_module

from tea.adapters.rlinf import register
from tests.adapters.reference import grouped_advantages


@pytest.fixture(autouse=True)
def extension():
    before = dict(ADV_REGISTRY)
    os.environ["RLINF_EXT_MODULE"] = "tea.adapters.rlinf"
    load_user_extension_module()  # as every worker does
    yield
    ADV_REGISTRY.clear()
    ADV_REGISTRY.update(before)


def test_embodied():
    """The score of an episode is the sum of its rewards up to its end; groups in a row."""
    generator = torch.Generator().manual_seed(0)
    chunks, envs, actions, group = 4, 12, 2, 4
    rewards = torch.randn(chunks, envs, actions, generator=generator)
    dones = torch.zeros(chunks + 1, envs, actions, dtype=torch.bool)
    dones[-1, :, -1] = True
    mask = torch.ones(chunks, envs, actions, dtype=torch.bool)
    mask[2:, ::3] = False
    result = calculate_adv_and_returns(
        task_type="embodied",
        adv_type="tea",
        rewards=rewards,
        dones=dones,
        values=None,
        gamma=1,
        gae_lambda=1,
        group_size=group,
        reward_type="action_level",
        loss_mask=mask,
        loss_mask_sum=None,
    )
    scores = rewards.sum(dim=(0, 2))
    expected = torch.tensor(grouped_advantages(scores.tolist(), [i // group for i in range(envs)]))
    torch.testing.assert_close(result["advantages"], expected[None, :, None] * mask, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("adv_type", ["grpo", "tea"])
def test_reasoning(adv_type):
    rewards = torch.randn(12, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    mask = (torch.arange(5) < torch.arange(12)[:, None] % 5 + 1).double()
    arguments = {"rewards": rewards, "loss_mask": mask, "group_size": 4, "logprob": torch.zeros(12, 5)}
    if adv_type == "tea":
        with pytest.raises(AssertionError, match="Unsupported adv_type tea"):  # RLinf's own; hence the name grpo
            calculate_adv_and_returns(task_type="reasoning", adv_type="tea", **arguments)
        return
    register("tea", register_as="grpo", target_n=64)
    advantages, returns = calculate_adv_and_returns(task_type="reasoning", adv_type="grpo", **arguments)
    expected = torch.tensor(grouped_advantages(rewards.tolist(), [i // 4 for i in range(12)], target_n=64))
    assert returns is None
    torch.testing.assert_close(advantages, expected[:, None].double() * mask)
