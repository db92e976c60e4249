"""On SkyRL, or skyrl-train before it: registered in the driver, used by its trainer, known to Ray's workers."""

import importlib.util
import sys
import typing
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest
import ray
import ray.util.placement_group
import ray.util.scheduling_strategies
import torch
import typing_extensions

from tests.adapters.frameworks import engines

typing.TypedDict = typing_extensions.TypedDict  # SkyRL is for Python 3.12, where pydantic takes the former
engines.stand_in("vllm", "vllm_router", "flash_attn", "peft", "skyrl_gym")


# skyrl-train is for an older Ray, where this had another place.
sys.modules[
    "ray.util.placement_group"
].PlacementGroupSchedulingStrategy = ray.util.scheduling_strategies.PlacementGroupSchedulingStrategy


def first(*names):
    """The one whose package is installed."""
    return importlib.import_module(next(name for name in names if importlib.util.find_spec(name.partition(".")[0])))


ppo_utils = first("skyrl.backends.skyrl_train.utils.ppo_utils", "skyrl_train.utils.ppo_utils")
trainer = first("skyrl.train.trainer", "skyrl_train.trainer")

from tea.adapters.skyrl import register  # noqa: E402
from tests.adapters.reference import grouped_advantages, shuffled_groups  # noqa: E402


@pytest.fixture(autouse=True)
def registry():
    before = dict(ppo_utils.AdvantageEstimatorRegistry._functions)
    yield ppo_utils.AdvantageEstimatorRegistry
    ppo_utils.AdvantageEstimatorRegistry._functions.clear()
    ppo_utils.AdvantageEstimatorRegistry._functions.update(before)


class Batch(dict):
    """TrainingInputBatch, as far as the method sees it."""

    batch_size = 0

    def to(self, device):
        return self


def configuration(name, step_wise=False, tea=None):
    algorithm = SimpleNamespace(
        advantage_estimator=name, gamma=1.0, lambd=1.0, grpo_norm_by_std=True, advantage_batch_normalize=False, tea=tea
    )
    return SimpleNamespace(
        trainer=SimpleNamespace(algorithm=algorithm), generator=SimpleNamespace(step_wise_trajectories=step_wise)
    )


def rollouts(rewards, ids, length=5):
    mask = torch.ones(len(ids), length, dtype=torch.int64)
    mask[::2, 3:] = 0
    token_level_rewards = torch.zeros(len(ids), length, dtype=rewards.dtype)
    token_level_rewards[torch.arange(len(ids)), mask.sum(1) - 1] = rewards
    data = Batch(rewards=token_level_rewards, response_mask=mask, loss_mask=mask.float(), values=None)
    data.metadata = {"uids": list(ids), "pad_size": 0, "avg_response_length": 0.0, "response_length": length}
    return data


def advantages_of(config, data):
    worker = SimpleNamespace(cfg=config, all_metrics={}, tokenizer=None)
    return trainer.RayPPOTrainer.compute_advantages_and_returns(worker, data)["advantages"]


@pytest.mark.parametrize("tea", [None, {"estimator": "ladder", "target_n": 256}])
def test_the_trainers_way_to_advantages(tea):
    register("tea", target_n=64)
    rewards, ids = shuffled_groups(0, [8, 5, 8])
    data = rollouts(rewards, ids)
    advantages = advantages_of(configuration("tea", tea=tea), data)
    options = dict(tea or {"target_n": 64})
    expected = grouped_advantages(rewards.tolist(), ids, options.pop("estimator", "tea"), **options)
    expected = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(advantages, expected[:, None] * data["response_mask"])


def test_step_wise():
    """Of several steps of a trajectory the last one's reward counts, and all get its advantage."""
    if trainer.__name__.startswith("skyrl_train"):
        pytest.skip("skyrl-train has another way of taking steps apart")
    register("rloo", register_as="ours", scale="none")
    ids = ["a"] * 4 + ["b"] * 5
    last = [False, True, True, True, True, False, False, True, True]
    rewards = torch.tensor([9.0, 1, 2, 3, 1, 9, 9, 4, 1], dtype=torch.float64)
    data = rollouts(rewards, ids)
    data.metadata["is_last_step"] = last
    advantages = advantages_of(configuration("ours", step_wise=True), data)
    expected = torch.tensor([-1.5, -1.5, 0, 1.5, -1.5, 3, 3, 3, -1.5], dtype=torch.float64)
    torch.testing.assert_close(advantages, expected[:, None] * data["response_mask"])


def known_on_a_worker(registry):
    import typing

    import typing_extensions

    from tests.adapters.frameworks import engines

    typing.TypedDict = typing_extensions.TypedDict
    engines.stand_in("vllm", "vllm_router", "flash_attn", "peft", "skyrl_gym")
    module = importlib.import_module(registry)
    return repr(module.AdvantageEstimatorRegistry.get("tea"))


def test_workers_know_what_the_driver_registered():
    register("tea", target_n=64)
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=10**8, log_to_driver=False)
    try:
        ppo_utils.sync_registries()  # initialize_ray does
        answer = ray.get(ray.remote(num_cpus=1)(known_on_a_worker).remote(ppo_utils.__name__), timeout=900)
    finally:
        ray.shutdown()
    assert answer.startswith("SkyRLAdvantages(estimator=GroupAdvantages(name='tea', options={'target_n': 64}")


def test_options_on_the_command_line():
    config = pytest.importorskip("skyrl.train.config", exc_type=ImportError)
    overrides = ["trainer.algorithm.advantage_estimator=tea", "trainer.algorithm.tea.target_n=256"]
    with pytest.raises(ValueError, match="tea"):
        config.SkyRLTrainConfig.from_cli_overrides(overrides)

    @dataclass
    class TEAAlgorithmConfig(config.AlgorithmConfig):
        tea: dict = field(default_factory=dict)

    parsed = config.make_config(algorithm_cls=TEAAlgorithmConfig).from_cli_overrides(overrides)
    assert dict(parsed.trainer.algorithm.tea) == {"target_n": 256}
