"""On a stand-in for rllm.trainer.algorithms.advantage."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest

from tea.adapters.rllm import make_rllm_estimator, register
from tests.adapters import standin
from tests.adapters.reference import grouped_advantages


@pytest.fixture(params=["rllm.trainer.algorithms.advantage", "rllm.experimental.common.advantage"])
def advantage(request, monkeypatch):
    registry = {}

    def register_rllm_adv_estimator(name):
        def decorator(function):
            registry[name] = function
            return function

        return decorator

    return standin.install(
        monkeypatch,
        request.param,
        RLLM_ADV_ESTIMATOR_REGISTRY=registry,
        register_rllm_adv_estimator=register_rllm_adv_estimator,
    )


def groups(seed, sizes):
    rng = np.random.default_rng(seed)
    return [rng.normal(size=size) for size in sizes]


@pytest.mark.parametrize("sizes", [[8, 8], [8, 3, 5, 2]])
def test_contract(advantage, sizes):
    rewards = groups(0, sizes)
    register("tea", target_n=64)
    function = advantage.RLLM_ADV_ESTIMATOR_REGISTRY["tea"]
    # As collect_reward_and_advantage_from_trajectory_groups calls it.
    by_group, returns = function(
        rewards=rewards, algorithm_config=SimpleNamespace(norm_adv_by_std_in_grpo=True), traj_groups=[None] * len(sizes)
    )
    ids = [i for i, size in enumerate(sizes) for _ in range(size)]
    expected = grouped_advantages(np.concatenate(rewards).tolist(), ids, target_n=64)
    assert [a.shape for a in by_group] == [(size,) for size in sizes]
    np.testing.assert_allclose(np.concatenate(by_group), expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_array_equal(np.concatenate(returns), np.concatenate(by_group))


def test_integer_rewards_and_many_groups():
    rewards = [np.array([0, 1, 1]), np.array([1, 0]), *[np.array([0, 2])] * 12]
    by_group, _ = make_rllm_estimator("rloo", scale="none")(rewards, None)
    assert by_group[0].tolist() == pytest.approx([-1.0, 0.5, 0.5])
    assert by_group[1].tolist() == [1.0, -1.0]
    assert all(a.tolist() == [-2.0, 2.0] for a in by_group[2:])  # group 10 sorts after group 9


def test_options_from_the_config():
    rewards = groups(1, [6, 6])
    config = SimpleNamespace(tea={"estimator": "max_at_k", "k": 2})
    by_group, _ = make_rllm_estimator()(rewards=rewards, algorithm_config=config)
    expected = grouped_advantages(np.concatenate(rewards).tolist(), [0] * 6 + [1] * 6, "max_at_k", k=2)
    np.testing.assert_allclose(np.concatenate(by_group), expected, rtol=1e-9, atol=1e-12)


def test_names(advantage):
    register("ladder", register_as="other")
    assert set(advantage.RLLM_ADV_ESTIMATOR_REGISTRY) == {"other"}


def test_bad_input():
    function = make_rllm_estimator()
    assert function([], None) == ([], [])
    with pytest.raises(ValueError, match="1 of 2 groups have a single rollout: ids 1"):
        function([np.zeros(3), np.zeros(1)], None)
    by_group, _ = make_rllm_estimator(singletons="zero")([np.arange(3.0), np.ones(1)], None)
    assert by_group[1].tolist() == [0.0]
    with pytest.raises(ValueError, match="infinite, the first for rollout 4"):
        function([np.zeros(3), np.array([0.0, np.inf])], None)


def test_without_rllm(monkeypatch):
    monkeypatch.setitem(sys.modules, "rllm", None)
    with pytest.raises(ImportError, match="this needs rLLM, which cannot be imported"):
        register()
