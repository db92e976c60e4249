"""On tunix: its registry, and its GRPO learner's way to advantages with a stand-in for generation."""

from contextlib import contextmanager
from types import SimpleNamespace
from unittest.mock import MagicMock

import jax
import numpy as np
import pytest
from tunix.rl import function_registry
from tunix.rl.grpo.grpo_learner import GRPOConfig, GRPOLearner

from tea.adapters.tunix import register
from tests.adapters.reference import grouped_advantages


@contextmanager
def span(*_, **__):
    yield MagicMock()


def train_example(config, rewards):
    """GRPOLearner._generate_and_compute_advantage on made-up completions with these rewards."""
    size = len(rewards)
    rollout = SimpleNamespace(
        tokens=[np.array([7, 8, 9])] * size,
        text=[f"completion {i}" for i in range(size)],
        left_padded_prompt_tokens=np.ones((size, 4), dtype=np.int32),
    )
    cluster = MagicMock()
    cluster.generate.return_value = rollout
    cluster.rollout.pad_id.return_value = 0
    cluster.rollout.eos_id.return_value = 2
    cluster.perf.span = cluster.perf_v2.span = span
    cluster.cluster_config.rollout_config = SimpleNamespace(max_tokens_to_generate=5)
    learner = MagicMock()
    learner.algo_config = config
    learner.rl_cluster = cluster
    learner.metric_fns = []
    learner._rollout_micro_batch_size = learner._compute_logps_micro_batch_size = 1
    learner._compute_rewards.return_value = rewards
    return GRPOLearner._generate_and_compute_advantage(learner, {"prompts": ["p"] * size})


@pytest.mark.parametrize("as_jax", [False, True])
def test_the_learners_way_to_advantages(as_jax):
    register("tea", target_n=64)
    config = GRPOConfig(num_generations=4, beta=0.0, num_iterations=1, advantage_estimator="tea")
    rewards = np.random.default_rng(0).normal(size=12).astype(np.float32)
    example = train_example(config, jax.numpy.asarray(rewards) if as_jax else rewards)
    expected = grouped_advantages(rewards.tolist(), [i // 4 for i in range(12)], target_n=64)
    assert isinstance(example.advantages, jax.Array)
    np.testing.assert_allclose(example.advantages, expected, rtol=1e-4, atol=1e-5)


def test_grpo_of_tunix_and_ours_agree():
    """Its own estimator through the same door, as a check of the door."""
    register("grpo", register_as="ours")
    rewards = np.random.default_rng(1).normal(size=12).astype(np.float32)
    made = [
        train_example(
            GRPOConfig(num_generations=4, beta=0.0, num_iterations=1, advantage_estimator=name), rewards
        ).advantages
        for name in ("grpo", "ours")
    ]
    np.testing.assert_allclose(made[0], made[1], rtol=1e-3, atol=1e-3)


def test_names():
    register("tea")
    again = register("tea", target_n=16)
    assert function_registry.get_advantage_estimator("tea") is again
    with pytest.raises(ValueError, match="tunix has an estimator 'rloo' already"):
        register("rloo")
