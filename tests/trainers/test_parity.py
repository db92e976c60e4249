"""With the GRPO estimator our trainer is TRL's GRPOTrainer, to the last bit."""

import pytest
import torch
from trl import GRPOConfig, GRPOTrainer

from tea.trainers import AdvantageTrainer, TEAConfig
from tests.trainers.conftest import count_reward, missing_reward


def shortness_reward(completions, **kwargs):
    """Another order of the completions than the other rewards give, on another scale."""
    return [-0.1 * len(text) for text in completions]


def train(trainer):
    start = [p.detach().clone() for p in trainer.model.parameters()]
    trainer.train()
    end = list(trainer.model.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(start, end, strict=True)), "nothing was trained"
    return end


@pytest.mark.parametrize("config_class", [TEAConfig, GRPOConfig])
@pytest.mark.parametrize(
    ("reward", "options"),
    [
        (count_reward, {}),
        (missing_reward, {}),
        (count_reward, {"scale_rewards": "batch"}),
        (missing_reward, {"scale_rewards": "none"}),
        (missing_reward, {"scale_rewards": "batch", "num_iterations": 2, "steps_per_generation": 2, "beta": 0.1}),
        ([count_reward, missing_reward], {"reward_weights": [0.3, 2.0]}),
        (
            [shortness_reward, missing_reward],
            {"reward_weights": [0.3, 2.0], "multi_objective_aggregation": "normalize_then_sum"},
        ),
    ],
    ids=["plain", "nan-row", "batch", "none-nan", "batch-nan-iterations-kl", "two-rewards", "normalize-then-sum"],
)
def test_grpo_estimator_trains_bit_for_bit_like_trl(build, reward, options, config_class):
    # Each is trained as soon as it is built: building seeds the generators that training draws from.
    reference = build(GRPOTrainer, reward_funcs=reward, **options)
    expected = train(reference)
    ours = build(
        AdvantageTrainer,
        reward_funcs=reward,
        config_class=config_class,
        trainer_kwargs={"advantage_estimator": "grpo"},
        **options,
    )
    for a, b in zip(expected, train(ours), strict=True):
        assert torch.equal(a, b)
    for mine, theirs in zip(ours.state.log_history[:-1], reference.state.log_history[:-1], strict=True):
        assert mine["loss"] == theirs["loss"]
        assert mine.get("reward") == theirs.get("reward")  # absent where rollouts are reused
    assert list(ours._logs["advantages"]) == list(reference._logs["advantages"])


def test_monotone_projection_does_not_touch_grpo(build):
    reference = train(build(AdvantageTrainer))
    projected = train(build(AdvantageTrainer, monotone=True))
    for a, b in zip(reference, projected, strict=True):
        assert torch.equal(a, b)
