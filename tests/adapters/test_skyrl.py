"""On a stand-in for the registry of SkyRL 0.3.0."""

import pickle
import sys
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

import tea
from tea.adapters.skyrl import make_skyrl_estimator, register
from tests.adapters import standin
from tests.adapters.reference import grouped_advantages, shuffled_groups


class Registry:
    """AdvantageEstimatorRegistry without Ray: functions travel as bytes."""

    def __init__(self):
        self.functions = {"grpo": print}

    def register(self, name, func):
        if name in self.functions:
            raise ValueError(f"advantage estimator '{name}' already registered")
        self.functions[name] = pickle.loads(pickle.dumps(func))


@pytest.fixture(params=["skyrl.backends.skyrl_train.utils.ppo_utils", "skyrl_train.utils.ppo_utils"])
def ppo_utils(request, monkeypatch):
    monkeypatch.setitem(sys.modules, "skyrl", None)
    module = standin.install(monkeypatch, request.param, AdvantageEstimatorRegistry=Registry())

    def compute_advantages_and_returns(token_level_rewards, response_mask, index, adv_estimator, config, **kwargs):
        function = module.AdvantageEstimatorRegistry.functions[adv_estimator]
        arguments = {"values": None, "grpo_norm_by_std": True, "gamma": 1.0, "lambd": 1.0, "config": config}
        return function(
            token_level_rewards=token_level_rewards, response_mask=response_mask, index=index, **arguments, **kwargs
        )

    module.compute_advantages_and_returns = compute_advantages_and_returns
    return module


@dataclass
class AlgorithmConfig:
    advantage_estimator: str = "tea"


@dataclass
class TEAAlgorithmConfig(AlgorithmConfig):
    tea: dict = field(default_factory=lambda: {"estimator": "max_at_k", "k": 3})


def batch(rewards, length=5):
    mask = torch.ones(len(rewards), length, dtype=torch.int64)
    mask[::2, 3:] = 0
    token_level_rewards = torch.zeros(len(rewards), length, dtype=rewards.dtype)
    token_level_rewards[torch.arange(len(rewards)), mask.sum(1) - 1] = rewards
    return token_level_rewards, mask


@pytest.mark.parametrize("as_array", [False, True])
def test_contract(ppo_utils, as_array):
    rewards, ids = shuffled_groups(0, [8, 5, 8])
    token_level_rewards, mask = batch(rewards)
    register("tea", target_n=64)
    for config, expected in (
        (AlgorithmConfig(), grouped_advantages(rewards.tolist(), ids, "tea", target_n=64)),
        (TEAAlgorithmConfig(), grouped_advantages(rewards.tolist(), ids, "max_at_k", k=3)),
    ):
        advantages, returns = ppo_utils.compute_advantages_and_returns(
            token_level_rewards, mask, np.array(ids) if as_array else ids, "tea", config
        )
        expected = torch.tensor(expected, dtype=torch.float64)
        torch.testing.assert_close(advantages, expected[:, None] * mask, rtol=1e-10, atol=1e-12)
        assert torch.equal(advantages, returns)


@pytest.mark.parametrize("rows", [1, 2, 11])
def test_padding_rows_are_left_out(rows):
    """pad_training_input_batch: copies of row 0, also under the mask of ones of step-wise training."""
    rewards, ids = shuffled_groups(1, [6, 6])
    rewards[0] = 100.0
    token_level_rewards, mask = batch(rewards)
    function = make_skyrl_estimator("tea", target_n=64)
    advantages, _ = function(token_level_rewards, mask, ids)
    padded_rewards = torch.cat((token_level_rewards, token_level_rewards[:1].expand(rows, -1)))
    padded_mask = torch.cat((mask, mask[:1].expand(rows, -1)))
    result, _ = function(padded_rewards, padded_mask, ids + [f"pad{i}" for i in range(rows)])
    torch.testing.assert_close(result[:12], advantages)
    assert (result[12:] == 0).all()


def test_only_padding_is_taken_for_padding():
    rewards = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    mask = torch.ones(4, 1)
    function = make_skyrl_estimator("rloo", scale="none")
    for index in (["pad1", "pad1", "x", "x"], ["x", "x", "pad1", "pad1"], ["x", "x", "pad", "pad"]):
        advantages, _ = function(rewards, mask, index)
        assert advantages.flatten().tolist() == [-1.0, 1.0, -1.0, 1.0]
    with pytest.raises(ValueError, match="1 of 2 groups have a single rollout: ids 'pad1'"):
        function(rewards, mask, ["x", "x", "x", "pad1"])


def test_registering(ppo_utils):
    register("tea")
    with pytest.raises(ValueError, match="already registered"):
        register("tea")
    with pytest.raises(ValueError, match="already registered"):
        register("grpo")
    register("grpo", register_as="tea_grpo")
    assert set(ppo_utils.AdvantageEstimatorRegistry.functions) == {"grpo", "tea", "tea_grpo"}


def test_without_skyrl(monkeypatch):
    monkeypatch.setitem(sys.modules, "skyrl", None)
    monkeypatch.setitem(sys.modules, "skyrl_train", None)
    with pytest.raises(ImportError, match="this needs SkyRL, which cannot be imported"):
        register("tea")


def test_bad_input():
    rewards = torch.zeros(4, 3)
    with pytest.raises(ValueError, match="got 4 rewards, 3 group ids"):
        make_skyrl_estimator()(rewards, torch.ones(4, 3), ["a"] * 3)
    with pytest.raises(ValueError, match=r"got \(4, 3\) and \(4, 2\)"):
        make_skyrl_estimator()(rewards, torch.ones(4, 2), ["a"] * 4)


def test_memory_goes_by_the_uid():
    """A uid is a row of the dataset; the padding rows of a batch are nobody's past."""
    function = make_skyrl_estimator("max_at_k", k=6, scale="none", reward_memory=4)
    memory, estimator = tea.RewardMemory(4), tea.get_estimator("max_at_k", k=6, scale="none")
    for visit, order in enumerate(([0, 1], [1, 0], [0, 1])):
        rewards = torch.randn(2, 4, generator=torch.Generator().manual_seed(visit), dtype=torch.float64)
        flat = torch.cat((rewards[order].flatten(), torch.tensor([9.0], dtype=torch.float64)))
        uids = [str(i) for i in order for _ in range(4)] + ["pad0"]
        advantages, _ = function(flat[:, None], torch.ones(9, 1), uids)
        expected = tea.advantages_with_memory(estimator, rewards, memory.recall([0, 1]).double())
        memory.update([0, 1], rewards)
        torch.testing.assert_close(advantages[:8, 0], expected[order].flatten())
    assert len(function.estimator.memory) == 2
