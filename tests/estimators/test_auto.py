"""``auto``: each case of the rule, what cannot be judged, and that the choice is made once."""

import math

import pytest
import torch

import tea
from tea.estimators.auto import AutoEstimator, choose_estimator

GRADED = torch.randn(16, 8, generator=torch.Generator().manual_seed(0))
BINARY = (GRADED > 0.5).float()


@pytest.mark.parametrize(
    ("n", "m", "rewards", "memory", "name", "options"),
    [
        (8, 8, GRADED, 8, "max_at_k", {"k": 8}),
        (4, 8, BINARY, 0, "max_at_k", {"k": 4}),
        (128, 8, BINARY, 8, "pass_at_n", {"target_n": 128}),
        (128, 8, GRADED, 120, "max_at_k", {"k": 128}),
        (128, 16, torch.cat((GRADED, GRADED), 1), 16, "max_at_k", {"k": 32}),
        (24, 16, torch.cat((GRADED, GRADED), 1), 16, "max_at_k", {"k": 24}),
        (128, 8, GRADED, 0, "max_at_k", {"k": 8}),
        (128, 16, torch.cat((GRADED, GRADED), 1), 0, "max_at_k", {"k": 16}),
        # What it cannot judge.
        (128, 8, None, 8, "max_at_k", {"k": 8}),
        (128, 8, torch.zeros(4, 8), 8, "max_at_k", {"k": 8}),
        (128, 8, torch.full((4, 8), math.nan), 0, "max_at_k", {"k": 8}),
    ],
)
def test_rule(n, m, rewards, memory, name, options):
    choice = choose_estimator(n, m, rewards, memory=memory)
    assert (choice.name, dict(choice.options)) == (name, options)
    assert str(choice).startswith(name)
    assert choice.reason


def test_missing_rewards_do_not_hide_the_kind():
    rewards = BINARY.clone()
    rewards[0, :3] = math.nan
    assert choose_estimator(128, 8, rewards).name == "pass_at_n"


def test_is_chosen_once_and_survives_a_checkpoint():
    estimator = AutoEstimator(128, 8, memory=8)
    assert torch.equal(estimator(GRADED), tea.max_at_k_advantages(GRADED, 8)), "safe before anything is seen"
    assert estimator.judge(BINARY)
    assert not estimator.judge(GRADED)
    assert torch.equal(estimator(BINARY), tea.pass_at_n_advantages(BINARY, 128))
    again = AutoEstimator(128, 8, memory=8)
    again.load_state_dict(estimator.state_dict())
    assert again.choice == estimator.choice
    assert not again.judge(GRADED)


def test_smaller_groups_in_evaluation():
    assert AutoEstimator(128, 8)(GRADED[:, :4]).shape == (16, 4)


def test_bad_arguments():
    with pytest.raises(ValueError, match="target_n must be"):
        choose_estimator(0, 8)
    with pytest.raises(ValueError, match="num_generations must be at least 2, got 1"):
        choose_estimator(8, 1)
