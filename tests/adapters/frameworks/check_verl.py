"""On verl: its command line, its trainer's way to advantages, and its workers on a running Ray cluster."""

import os
import uuid
from pathlib import Path

import hydra
import numpy as np
import pytest
import ray
import torch
import verl
from omegaconf import OmegaConf
from ray.cluster_utils import Cluster
from tensordict import TensorDict
from verl import DataProto
from verl.trainer.ppo import core_algos
from verl.trainer.ppo.ray_trainer import compute_advantage

from tea.adapters.verl import VerlAdvantages, register
from tests.adapters.reference import grouped_advantages, shuffled_groups

PLUGIN = "tea.adapters.verl_plugin"


def algorithm(*overrides):
    """The section ``algorithm`` as ``verl.trainer.main_ppo`` makes it of its command line."""
    with hydra.initialize_config_dir(str(Path(verl.__file__).parent / "trainer" / "config"), version_base=None):
        return hydra.compose("ppo_trainer", list(overrides)).algorithm


def batch(rewards, ids, padding=3, length=6):
    """Rollouts with the reward on their last token, and rows of another uid with nothing in them at the end."""
    lengths = torch.randint(1, length + 1, (len(ids),), generator=torch.Generator().manual_seed(0))
    token_level_rewards = torch.zeros(len(ids) + padding, length, dtype=rewards.dtype)
    token_level_rewards[torch.arange(len(ids)), lengths - 1] = rewards
    mask = (torch.arange(length) < torch.cat((lengths, torch.zeros(padding, dtype=torch.int64)))[:, None]).long()
    uids = {key: str(uuid.uuid4()) for key in sorted(set(ids))}
    index = np.array([uids[key] for key in ids] + ["pad"] * padding, dtype=object)
    tensors = TensorDict({"token_level_rewards": token_level_rewards, "response_mask": mask}, len(mask))
    return DataProto(batch=tensors, non_tensor_batch={"uid": index})


def test_the_entry_point_registered_it():
    assert isinstance(core_algos.ADV_ESTIMATOR_REGISTRY["tea"], VerlAdvantages)


@pytest.mark.parametrize(
    ("overrides", "name", "options"),
    [
        ([], "tea", {}),
        (["+algorithm.tea.estimator=ladder", "+algorithm.tea.target_n=256"], "ladder", {"target_n": 256}),
        (
            ["+algorithm.tea={estimator: max_at_k, k: 2, normalize_advantages: true}"],
            "max_at_k",
            {"k": 2, "normalize": True},
        ),
    ],
)
def test_the_trainers_way_to_advantages(overrides, name, options):
    config = algorithm("algorithm.adv_estimator=tea", *overrides)
    rewards, ids = shuffled_groups(0, [8, 5, 3, 8])
    data = compute_advantage(
        batch(rewards, ids), config.adv_estimator, gamma=config.gamma, lam=config.lam, num_repeat=8, config=config
    )
    expected = torch.tensor(grouped_advantages(rewards.tolist(), ids, name, **options), dtype=torch.float64)
    mask = data.batch["response_mask"]
    torch.testing.assert_close(data.batch["advantages"][: len(ids)], expected[:, None] * mask[: len(ids)])
    assert (data.batch["advantages"][len(ids) :] == 0).all()
    assert torch.equal(data.batch["advantages"], data.batch["returns"])


def test_the_newer_trainers_way():
    utils = pytest.importorskip("verl.trainer.ppo.v1.utils", exc_type=ImportError)
    config = algorithm("algorithm.adv_estimator=tea")
    rewards, ids = shuffled_groups(1, [4, 6])
    keys = [f"{key}_{i}_0" for i, key in enumerate(ids)]
    data = utils.compute_advantage_for_multi_trajectories(
        batch(rewards, ids, padding=0), keys, config.adv_estimator, config=config
    )
    expected = torch.tensor(grouped_advantages(rewards.tolist(), ids), dtype=torch.float64)
    torch.testing.assert_close(data.batch["advantages"], expected[:, None] * data.batch["response_mask"])


def test_grpo_of_verl_and_ours_agree():
    """Its own estimator through the same door, as a check of the door."""
    rewards, ids = shuffled_groups(2, [8, 5, 8])
    register("grpo", register_as="tea_grpo")
    config = OmegaConf.create({"gamma": 1.0})
    theirs = compute_advantage(batch(rewards, ids, padding=0), "grpo", config=config).batch["advantages"]
    ours = compute_advantage(batch(rewards, ids, padding=0), "tea_grpo", config=config).batch["advantages"]
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)  # 1e-4 and 1e-6 beside the standard deviation


def known_on_a_worker():
    import verl.trainer.ppo.core_algos as on_worker

    try:
        return repr(on_worker.get_adv_estimator_fn("tea"))
    except ValueError as error:
        return str(error)


@pytest.fixture(scope="module")
def cluster():
    """A Ray cluster that runs already, with nothing of ours in its environment but the installed packages."""
    options = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 10**8}
    running = Cluster(initialize_head=True, head_node_args=options)
    os.environ["VERL_USE_EXTERNAL_MODULES"] = PLUGIN  # of the driver: nobody forwards it
    ray.init(address=running.address, log_to_driver=False)
    yield
    ray.shutdown()
    del os.environ["VERL_USE_EXTERNAL_MODULES"]
    running.shutdown()


@pytest.mark.parametrize(
    ("environment", "known"),
    [
        ({}, True),  # by the entry point
        ({"VERL_USE_EXTERNAL_PLUGINS": "none"}, False),
        ({"VERL_USE_EXTERNAL_PLUGINS": "none", "VERL_USE_EXTERNAL_MODULES": PLUGIN}, True),  # by runtime_env
    ],
    ids=["entry point", "neither", "runtime_env"],
)
def test_workers_of_a_running_ray(cluster, environment, known):
    remote = ray.remote(num_cpus=1, runtime_env={"env_vars": environment})(known_on_a_worker)
    answer = ray.get(remote.remote(), timeout=900)
    assert answer.startswith("VerlAdvantages(" if known else "Unknown advantage estimator simply: tea")
