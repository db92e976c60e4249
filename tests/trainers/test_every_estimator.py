"""Every estimator of the index trains."""

import pytest

import tea
from tea.estimators import functional
from tea.trainers import AdvantageTrainer
from tests.trainers.conftest import count_reward

OPTIONS = {
    "max_at_k": {"k": 2},
    "max_po": {"k": 2},
    "passk_binary": {"k": 2},
    "order_stat": {"estimator_kwargs": {"rank_weights": [1, 0, 0]}},
    "rs_grpo": {"estimator_kwargs": {"beta": 4.0}},
}


def passed(completions, **kwargs):
    return [float(reward > 0.5) for reward in count_reward(completions)]


@pytest.mark.parametrize("name", [spec.name for spec in tea.list_estimators()])
def test_trains(build, name):
    binary = name in ("pass_at_n", "passk_binary")
    trainer = build(
        AdvantageTrainer,
        max_steps=2,
        advantage_estimator=name,
        reward_funcs=passed if binary else count_reward,
        **OPTIONS.get(name, {}),
    )
    assert trainer.estimator_name == name
    trainer.train()
    history = trainer.state.log_history
    assert all(
        step["grad_norm"] > 0 for step in history if "grad_norm" in step and step["tea/frac_degenerate_groups"] < 1
    )
    assert any(value != 0 for value in trainer._logs["advantages"])


def test_a_functional_trains(build):
    """Any deployment objective: the best of 8 less a price per character."""

    def estimator(rewards):
        return tea.functional_advantages(functional.best_of_n(8), rewards)

    trainer = build(AdvantageTrainer, max_steps=1, trainer_kwargs={"advantage_estimator": estimator})
    trainer.train()
    assert trainer.state.log_history[0]["grad_norm"] > 0


def test_options_are_checked_before_a_model_is_loaded(build):
    with pytest.raises(TypeError, match="estimator 'order_stat' needs rank_weights"):
        build(AdvantageTrainer, advantage_estimator="order_stat")
    with pytest.raises(ValueError, match=r"rank_weights must be fewer than the generations per prompt \(4\), got 4"):
        build(
            AdvantageTrainer,
            advantage_estimator="order_stat",
            estimator_kwargs={"rank_weights": [1, 0, 0, 0]},
        )
    with pytest.raises(ValueError, match="beta must be a finite number other than 0"):
        build(AdvantageTrainer, advantage_estimator="rs_grpo", estimator_kwargs={"beta": 0})
