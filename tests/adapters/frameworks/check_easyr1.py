"""On EasyR1: its trainer's way to advantages, and a Ray worker that its hook prepared."""

import contextlib
import uuid

import numpy as np
import ray
import torch
import transformers.modeling_utils
from tensordict import TensorDict
from verl.protocol import DataProto
from verl.trainer import core_algos

from tea.adapters import easyr1
from tea.adapters.easyr1 import register
from tests.adapters.frameworks import engines
from tests.adapters.reference import grouped_advantages, shuffled_groups

engines.stand_in("vllm", "flash_attn", "qwen_vl_utils", "mathruler", "torchdata", "peft")
# Of the transformers that EasyR1 pins; it loads models with it.
transformers.modeling_utils.no_init_weights = contextlib.nullcontext


def test_the_trainers_way_to_advantages():
    from verl.trainer.ray_trainer import compute_advantage

    register("tea", target_n=64)
    rewards, ids = shuffled_groups(0, [8, 5, 8])
    uids = {key: str(uuid.uuid4()) for key in set(ids)}
    mask = (torch.arange(4) < torch.arange(21)[:, None] % 4 + 1).long()
    token_level_rewards = rewards[:, None] * torch.nn.functional.one_hot(mask.sum(1) - 1, 4)
    data = DataProto(
        batch=TensorDict({"token_level_rewards": token_level_rewards, "response_mask": mask}, 21),
        non_tensor_batch={"uid": np.array([uids[key] for key in ids], dtype=object)},
    )
    data = compute_advantage(data, adv_estimator="grpo", gamma=1.0, lam=1.0)
    expected = torch.tensor(grouped_advantages(rewards.tolist(), ids, target_n=64), dtype=torch.float64)
    torch.testing.assert_close(data.batch["advantages"], expected[:, None] * mask)
    assert core_algos.AdvantageEstimator("grpo") in list(core_algos.AdvantageEstimator)  # what the trainer lets pass


def on_a_worker():
    from verl.trainer import core_algos as on_worker

    return repr(on_worker.ADV_ESTIMATOR_MAP["grpo"].__wrapped__)


def prepare():
    easyr1.register("tea", target_n=64)


def test_the_hook_of_ray():
    ray.init(
        num_cpus=1,
        include_dashboard=False,
        object_store_memory=10**8,
        log_to_driver=False,
        runtime_env={"worker_process_setup_hook": prepare},
    )
    try:
        answer = ray.get(ray.remote(num_cpus=1)(on_a_worker).remote(), timeout=900)
    finally:
        ray.shutdown()
    assert answer.startswith("VerlAdvantages(estimator=GroupAdvantages(name='tea', options={'target_n': 64}")
