"""``advantage_estimator="auto"`` trains like the estimator that it names, and says so once."""

import pytest

from tea.trainers import AdvantageTrainer, TEAConfig


def passed(completions, **kwargs):
    return [float(len(text) % 2) for text in completions]


def advantages(trainer):
    trainer.train()
    return list(trainer._logs["advantages"])


def test_is_the_estimator_that_it_takes(build, capsys):
    options = {"target_n": 32, "max_steps": 2, "num_train_epochs": 1, "reward_funcs": passed}
    auto = advantages(build(AdvantageTrainer, advantage_estimator="auto", **options))
    said = capsys.readouterr().out
    assert said.count("advantage_estimator auto takes") == 1
    assert "pass_at_n(target_n=32): rewards are 0 or 1, and N = 32 is beyond the 4 rollouts" in said
    assert auto == advantages(build(AdvantageTrainer, advantage_estimator="pass_at_n", **options))


def test_uses_the_memory_that_it_is_given(build):
    trainer = build(AdvantageTrainer, advantage_estimator="auto", target_n=32, reward_memory=8, max_steps=12)
    trainer.train()
    assert trainer.advantage_estimator.choice.options == {"k": 12}
    assert build(AdvantageTrainer, advantage_estimator="auto", target_n=32, max_steps=12).reward_memory is None


def test_options_of_an_estimator_are_refused(tmp_path):
    with pytest.raises(ValueError, match="'auto' chooses its options itself, but k is set"):
        TEAConfig(output_dir=str(tmp_path), advantage_estimator="auto", k=4, bf16=False, use_cpu=True)
