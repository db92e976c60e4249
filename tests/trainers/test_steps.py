"""Steps as large as what there is to gain."""

import itertools

import pytest
import torch
from transformers import TrainerCallback

from tea.trainers import AdvantageTrainer
from tea.trainers.steps import StepSize


class Weights(TrainerCallback):
    """Remembers a policy's weights before training and after every step."""

    def __init__(self):
        self.seen = []

    def on_train_begin(self, args, state, control, model, **kwargs):
        self.seen.append(torch.cat([p.detach().flatten().clone() for p in model.parameters()]))

    on_step_end = on_train_begin


def test_factor_is_the_root_mean_square_at_most_one():
    size = StepSize()
    advantages = torch.tensor([[0.3, -0.3, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    valid = torch.tensor([[True, True, True, False], [True, True, True, False]])
    size.measure(advantages, valid)
    assert size.factor == pytest.approx((2 * 0.09 / 6) ** 0.5)
    size.measure(10 * advantages, valid)
    assert size.factor == 1.0
    size.measure(0 * advantages, valid)
    assert size.factor == 0.0


def test_no_step_without_advantages(build):
    """Adam alone goes on by momentum where a batch teaches nothing."""
    calls = []

    def at_first(rewards):
        calls.append(len(calls))
        return rewards - rewards.mean(1, keepdim=True) if len(calls) == 2 else torch.zeros_like(rewards)

    moved = {}
    for scaled in (False, True):
        calls.clear()
        trainer = build(
            AdvantageTrainer,
            max_steps=3,
            scale_steps=scaled,
            normalize_advantages="running",
            trainer_kwargs={"advantage_estimator": at_first},
        )
        recorder = Weights()
        trainer.add_callback(recorder)
        trainer.train()
        pairs = itertools.pairwise(recorder.seen)
        moved[scaled] = [(after - before).abs().max().item() for before, after in pairs]
    assert all(step > 0 for step in moved[False])
    assert moved[True][1:] == [0.0, 0.0]
