"""On rLLM: from trajectory groups to the advantages of their steps, in a process that the name was sent to."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
from omegaconf import OmegaConf

from tests.adapters.frameworks import engines

ENGINES = ("litellm", "openai", "polars", "vllm", "sglang", "rllm_model_gateway", "fireworks", "wandb")
engines.stand_in(*ENGINES)

from rllm.trainer.algorithms.advantage import (  # noqa: E402
    collect_reward_and_advantage_from_trajectory_groups,
)
from rllm.trainer.algorithms.config import AlgorithmConfig  # noqa: E402
from rllm.types import Step, Trajectory, TrajectoryGroup  # noqa: E402

from tea.adapters import rllm  # noqa: E402
from tests.adapters.reference import grouped_advantages  # noqa: E402


def trajectory_groups(rewards, role="solver"):
    return [
        TrajectoryGroup(
            trajectories=[Trajectory(name=role, reward=float(r), steps=[Step(), Step()]) for r in group],
            group_id=f"task{i}:{role}",
        )
        for i, group in enumerate(rewards)
    ]


def advantages_of(groups):
    return [[step.advantage for step in traj.steps] for group in groups for traj in group.trajectories]


def configuration(adv_estimator="grpo", **estimator_map):
    return AlgorithmConfig.from_config(OmegaConf.create({"adv_estimator": adv_estimator}), estimator_map=estimator_map)


@pytest.mark.parametrize("how", ["map", "other"])
def test_the_trainers_way_to_advantages(how):
    name = rllm.register("tea", target_n=64)
    sizes = [8, 3, 5]
    rewards = [np.random.default_rng(i).normal(size=size) for i, size in enumerate(sizes)]
    groups = trajectory_groups(rewards)
    # "tea" in the settings is a name that rLLM does not have, which becomes "other".
    config = configuration(solver=name) if how == "map" else configuration("tea")
    metrics = collect_reward_and_advantage_from_trajectory_groups(groups, config)
    ids = [i for i, size in enumerate(sizes) for _ in range(size)]
    expected = grouped_advantages(np.concatenate(rewards).tolist(), ids, target_n=64)
    np.testing.assert_allclose(advantages_of(groups), np.repeat(expected, 2).reshape(-1, 2), rtol=1e-9)
    assert metrics["advantage/solver/std"] == pytest.approx(np.std(expected))


def test_a_role_that_falls_to_grpo_is_told():
    name = rllm.register("tea")
    groups = trajectory_groups([np.arange(4.0), np.arange(3.0)], role="judge")
    with pytest.warns(UserWarning, match=r"the trajectories named 'judge' are trained with rLLM's 'grpo'.*'solver'"):
        collect_reward_and_advantage_from_trajectory_groups(groups, configuration(solver=name))
    assert advantages_of(groups)[0][0] < 0 < advantages_of(groups)[3][0]  # and trained as before


def test_one_task_at_a_time():
    """As its buffer calls it in asynchronous training."""
    name = rllm.register("tea", register_as="normalized", normalize_advantages=True)
    with pytest.raises(ValueError, match="handed over a single prompt's group"):
        collect_reward_and_advantage_from_trajectory_groups(
            trajectory_groups([np.arange(4.0)]), configuration(solver=name)
        )
    name = rllm.register("tea")
    collect_reward_and_advantage_from_trajectory_groups(trajectory_groups([np.arange(4.0)]), configuration(solver=name))


def test_another_process():
    """The verl backend's trainer is a Ray actor, and a name that is only a string is unknown there."""
    code = (
        "import pickle, sys\n"
        "from tests.adapters.frameworks import engines\n"
        f"engines.stand_in(*{ENGINES})\n"
        "from rllm.trainer.algorithms.advantage import get_rllm_adv_estimator\n"
        "names = pickle.load(sys.stdin.buffer)\n"
        "try:\n"
        "    print(get_rllm_adv_estimator(names['solver']))\n"
        "except ValueError as error:\n"
        "    print(error)\n"
    )
    for name, said in ((rllm.register("tea", target_n=64), "RLLMAdvantages"), ("tea", "Unknown advantage estimator")):
        sent = pickle.dumps({"solver": name})
        result = subprocess.run([sys.executable, "-c", code], input=sent, capture_output=True, check=True)
        assert result.stdout.decode().startswith(said)
