"""On Trinity-RFT: the name in the config, and its pipeline of experiences."""

import asyncio
from types import SimpleNamespace

import pytest
import torch
from trinity.algorithm import ADVANTAGE_FN, ALGORITHM_TYPE
from trinity.buffer.pipelines.experience_pipeline import ExperiencePipeline
from trinity.common.config import AlgorithmConfig
from trinity.common.experience import EID, Experience

from tests.adapters.reference import grouped_advantages, shuffled_groups

NAME = "tea.adapters.trinity.TEAAdvantage"


def pipeline(arguments):
    """The operators that ExperiencePipeline.prepare builds from a config."""
    config = AlgorithmConfig(algorithm_type="grpo", advantage_fn=NAME, advantage_fn_args=arguments)
    built = SimpleNamespace(operators=[], auxiliary_models={})
    ExperiencePipeline._set_algorithm_operators(built, config)
    return built.operators


@pytest.mark.parametrize(
    ("arguments", "name", "options"),
    [
        (None, "tea", {}),
        ({"estimator": "ladder", "target_n": 256}, "ladder", {"target_n": 256}),
        ({"estimator": "grpo"}, "grpo", {}),
    ],
)
def test_the_pipeline(arguments, name, options):
    if arguments is None:
        arguments = ADVANTAGE_FN.get(NAME).default_args()  # what the validator of the config fills in
    rewards, ids = shuffled_groups(0, [8, 5, 8])
    exps = [
        Experience(
            eid=EID(batch=7, task=key, run=i),
            tokens=torch.arange(6),
            prompt_length=2,
            reward=reward,
            action_mask=torch.tensor([True, True, False, i % 2 == 0]),
        )
        for i, (key, reward) in enumerate(zip(ids, rewards.tolist(), strict=True))
    ]
    (operator,) = pipeline(arguments)
    result, metrics = asyncio.run(operator.process(exps))
    expected = torch.tensor(grouped_advantages(rewards.tolist(), ids, name, **options))
    for exp, advantage in zip(exps, expected, strict=True):
        torch.testing.assert_close(exp.advantages, advantage * exp.action_mask, rtol=1e-4, atol=1e-5)
    assert {id(exp) for exp in result} == {id(exp) for exp in exps}
    assert metrics["group_advantages/reward_mean"] == pytest.approx(rewards.mean().item())


def test_grpo_of_trinity_and_ours_agree():
    """Its own advantage function through the same door, as a check of the door."""
    rewards, ids = shuffled_groups(1, [6, 4])
    made = []
    for name in ("grpo", NAME):
        exps = [
            Experience(eid=EID(batch=0, task=key, run=i), tokens=torch.arange(4), prompt_length=2, reward=reward)
            for i, (key, reward) in enumerate(zip(ids, rewards.tolist(), strict=True))
        ]
        cls = ADVANTAGE_FN.get(name)
        cls(**({} if name == "grpo" else {"estimator": "grpo"})).process(exps)
        made.append(torch.stack([exp.advantages for exp in exps]))
    torch.testing.assert_close(made[0], made[1], rtol=1e-3, atol=1e-3)
    assert not ALGORITHM_TYPE.get("grpo").compute_advantage_in_trainer
