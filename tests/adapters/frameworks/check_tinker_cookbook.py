"""On tinker-cookbook: from trajectory groups to the advantages in the training data."""

import asyncio
from types import SimpleNamespace

import numpy as np
import pytest
import tinker
import torch
from tinker_cookbook.completers import TokensWithLogprobs
from tinker_cookbook.rl import train
from tinker_cookbook.rl.types import Trajectory, TrajectoryGroup, Transition

from tea.adapters.tinker_cookbook import install
from tests.adapters.reference import grouped_advantages


def trajectory(prompt, reward):
    transition = Transition(
        ob=tinker.ModelInput.from_ints([5, prompt]),
        ac=TokensWithLogprobs(tokens=[7, 8, 9], maybe_logprobs=[-0.1, -0.2, -0.3]),
        reward=reward / 4,
        episode_done=True,
    )
    return Trajectory(transitions=[transition], final_ob=tinker.ModelInput.empty())


@pytest.mark.parametrize("sizes", [[8, 8, 8], [8, 3, 5]])
def test_prepare_minibatch(sizes):
    install("tea", target_n=64)
    rng = np.random.default_rng(0)
    rewards = [rng.normal(size=size) for size in sizes]
    groups = [
        TrajectoryGroup([trajectory(i, r) for r in group], [r * 3 / 4 for r in group], [{} for _ in group])
        for i, group in enumerate(rewards)
    ]
    builders = [SimpleNamespace(logging_tags=lambda: ["test"])] * len(groups)
    tokenizer = SimpleNamespace(decode=lambda tokens, **_: " ".join(map(str, tokens)))
    datums, *_ = asyncio.run(
        train.prepare_minibatch(
            env_group_builders_P=builders,
            trajectory_groups_P=groups,
            tokenizer=tokenizer,
            kl_reference_client=None,
            kl_penalty_coef=0.0,
            kl_discount_factor=0.0,
        )
    )
    ids = [i for i, size in enumerate(sizes) for _ in range(size)]
    expected = grouped_advantages(np.concatenate(rewards).tolist(), ids, target_n=64)
    assert len(datums) == len(expected)
    for datum, advantage in zip(datums, expected, strict=True):
        # On the tokens of the action, 0 on those of the observation.
        given = torch.tensor(datum.loss_fn_inputs["advantages"].data)
        torch.testing.assert_close(given, torch.tensor([0.0, *[advantage] * 3]), rtol=1e-4, atol=1e-5)
