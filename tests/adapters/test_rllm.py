"""On a stand-in for rllm.trainer.algorithms.advantage; frameworks/check_rllm.py is on rLLM's own."""

import enum
import pickle
import sys
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import tea
from tea.adapters.rllm import make_rllm_estimator, register
from tests.adapters import standin
from tests.adapters.reference import grouped_advantages


class Names(str, enum.Enum):
    """rLLMAdvantageEstimator, as far as it matters."""

    GRPO = "grpo"
    OTHER = "other"


def rllm_grpo(rewards, algorithm_config, **kwargs):
    return [group - group.mean() for group in rewards], rewards


@pytest.fixture(params=["rllm.trainer.algorithms.advantage", "rllm.experimental.common.advantage"])
def advantage(request, monkeypatch):
    registry = {Names.GRPO: rllm_grpo}

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
    registry = advantage.RLLM_ADV_ESTIMATOR_REGISTRY
    assert register("ladder", register_as="mine") == "mine"
    # What rllm.algorithm.adv_estimator is looked up as when rLLM does not know the name.
    assert registry["mine"] is registry[Names.OTHER]
    with pytest.raises(ValueError, match="rLLM has an estimator 'grpo' of its own"):
        register("grpo")
    registry["other"] = print  # somebody else's
    register("tea")
    assert registry["other"] is print


def test_the_name_registers_where_it_arrives(advantage):
    name = register("tea", target_n=64)
    travelling = pickle.dumps({"solver": name})
    function = advantage.RLLM_ADV_ESTIMATOR_REGISTRY["tea"]
    advantage.RLLM_ADV_ESTIMATOR_REGISTRY.clear()  # another process
    arrived = pickle.loads(travelling)
    assert arrived == {"solver": "tea"}
    assert advantage.RLLM_ADV_ESTIMATOR_REGISTRY[arrived["solver"]] == function


def test_roles_that_get_grpo_are_told(advantage):
    name = register("tea")
    grpo = advantage.RLLM_ADV_ESTIMATOR_REGISTRY[Names.GRPO]
    config = SimpleNamespace(estimator_map={"solver": name})
    trajectory_groups = [SimpleNamespace(group_role="judge")] * 2
    with pytest.warns(UserWarning, match="the trajectories named 'judge' are trained with rLLM's 'grpo'.*'solver'"):
        by_group, _ = grpo(rewards=groups(0, [3, 4]), algorithm_config=config, traj_groups=trajectory_groups)
    np.testing.assert_allclose(np.concatenate(by_group), np.concatenate(rllm_grpo(groups(0, [3, 4]), None)[0]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once is enough, and a role that was given grpo knows
        grpo(rewards=groups(0, [3, 4]), algorithm_config=config, traj_groups=trajectory_groups)
        config.estimator_map["critic"] = "grpo"
        grpo(rewards=groups(0, [3]), algorithm_config=config, traj_groups=[SimpleNamespace(group_role="critic")])


@pytest.mark.parametrize("options", [{"normalize_advantages": "batch"}, {"scale": "batch"}])
def test_one_prompt_at_a_time_is_no_batch(options):
    function = make_rllm_estimator("tea", **options)
    function(groups(0, [8, 8]))
    with pytest.raises(ValueError, match="handed over a single prompt's group, and there is no batch to scale by"):
        function(groups(0, [8]))


def test_memory_goes_by_the_task():
    function = make_rllm_estimator("max_at_k", k=6, scale="none", reward_memory=4)
    memory, estimator = tea.RewardMemory(4), tea.get_estimator("max_at_k", k=6, scale="none")
    tasks = [{"question": "1 + 1"}, {"question": "2 + 2"}]
    for visit, order in enumerate(([0, 1], [1, 0])):
        rewards = np.random.default_rng(visit).normal(size=(2, 4))
        trajectory_groups = [SimpleNamespace(trajectories=[SimpleNamespace(task=tasks[i])] * 4) for i in order]
        by_group, _ = function([rewards[i] for i in order], traj_groups=trajectory_groups)
        expected = tea.advantages_with_memory(estimator, torch.tensor(rewards), memory.recall([0, 1]).double())
        memory.update([0, 1], torch.tensor(rewards))
        np.testing.assert_allclose(np.stack(by_group), expected[order].numpy(), atol=1e-9)
    trajectory_groups[0].trajectories[0].task = None
    with pytest.raises(ValueError, match="reward_memory goes by the task of a trajectory, and some have none"):
        function(list(rewards), traj_groups=trajectory_groups)


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
