"""Measured best-of-N during training: what is logged, what it stops, and which model the run ends with."""

import itertools
import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from scipy import stats

from tea.trainers import TEATrainer
from tea.trainers.best_of_n import BestOfNTracker, compare
from tests.trainers.conftest import PROMPTS, count_reward

HELD_OUT = Dataset.from_dict({"prompt": ["the dog", "a fox", "over quick"]})
OPTIONS = {"target_n": 8, "eval_best_of_n_steps": 2, "trainer_kwargs": {"eval_dataset": HELD_OUT}}


def best_of(rewards, n):
    """Mean over all subsets of n, one by one."""
    return np.array([np.mean([max(s) for s in itertools.combinations(row, n)]) for row in rewards])


def weights(trainer):
    return [p.detach().clone() for p in trainer.model.parameters()]


def test_curve_of_the_samples_that_were_scored(build):
    scored = []

    def reward(prompts, completions, **kwargs):
        values = count_reward(completions)
        scored.extend(zip(prompts, values, strict=True))
        return values

    trainer = build(TEATrainer, reward_funcs=reward, **{**OPTIONS, "eval_best_of_n_samples": 11, "max_steps": 1})
    trainer.train()
    first = next(row for row in trainer.state.log_history if "eval_best_of_n" in row)
    rewards = np.array([[v for p, v in scored if p == prompt][:11] for prompt in HELD_OUT["prompt"]])
    assert rewards.shape == (3, 11)
    for n, name in ((1, "1"), (4, "4"), (8, "n")):
        assert first[f"eval_best_of_{name}"] == pytest.approx(best_of(rewards, n).mean(), rel=1e-6)
    half = stats.t.ppf(0.975, 2) * best_of(rewards, 8).std(ddof=1) / math.sqrt(3)
    assert first["eval_best_of_n_high"] - first["eval_best_of_n"] == pytest.approx(half, rel=1e-6)
    assert first["eval_best_of_n_gain"] == 0
    assert first["step"] == 0


def test_training_is_what_it_is_without_measuring(build):
    """Neither the random state nor the scale of the advantages is touched."""
    plain = build(TEATrainer, target_n=8, max_steps=4, beta=0.1)
    plain.train()
    measured = build(TEATrainer, **OPTIONS, max_steps=4, beta=0.1)
    measured.train()
    assert [m.step for m in measured.best_of_n.history] == [0, 2, 4]
    for a, b in zip(weights(plain), weights(measured), strict=True):
        assert torch.equal(a, b)
    curves = [m.metrics["best_of_n"] for m in measured.best_of_n.history]
    gain, *_ = compare(measured.best_of_n.history[-1], measured.best_of_n.base)
    assert gain == pytest.approx(curves[-1] - curves[0])
    logged = [row for row in measured.state.log_history if "eval_best_of_n" in row]
    assert logged[-1]["eval_best_of_n_gain"] == pytest.approx(gain)
    assert math.isfinite(logged[-1]["eval_best_of_n_forecast"])


SAVES = {"save_strategy": "steps", "save_steps": 2, "load_best_model_at_end": True}


def test_ends_with_the_untrained_model_if_that_is_best(build):
    """A learning rate that destroys the model: it stops, and gives back what it was given."""
    trainer = build(TEATrainer, **OPTIONS, **SAVES, learning_rate=30.0, max_steps=8)
    base = weights(trainer)
    with pytest.warns(
        UserWarning, match=r"best of 8 on held-out prompts has fallen below the base model's: .* stopping"
    ):
        trainer.train()
    assert trainer.state.global_step == 2
    assert trainer.state.best_global_step == 0
    for a, b in zip(base, weights(trainer), strict=True):
        assert torch.equal(a, b)


def test_goes_on_below_if_told_so(build):
    trainer = build(TEATrainer, **OPTIONS, eval_best_of_n_stop=False, learning_rate=30.0, max_steps=4)
    with pytest.warns(UserWarning, match="has fallen below the base model's"):
        trainer.train()
    assert trainer.state.global_step == 4


def test_resumed_run_keeps_the_base(build, tmp_path):
    options = {**OPTIONS, **SAVES, "output_dir": str(tmp_path), "max_steps": 4, "learning_rate": 1e-3}
    whole = build(TEATrainer, **options)
    whole.train()
    resumed = build(TEATrainer, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert resumed.best_of_n.state_dict() == whole.best_of_n.state_dict()
    assert resumed.best_of_n.base.step == 0


def tracker(*columns, n=4):
    """A tracker that has measured prompts whose samples are all alike, with these values per step."""
    found = BestOfNTracker(target_n=n)
    for step, values in enumerate(columns):
        found.measure(np.repeat(np.array(values)[:, None], n, axis=1), step)
    return found


def test_has_it_fallen():
    """By the paired interval over prompts, against the best measured so far."""
    base = [1.0, 2.0, 3.0, 4.0]
    assert tracker(base).fallen() is None
    assert tracker(base, [1.1, 2.2, 3.1, 4.2]).fallen() is None
    down = tracker(base, [x - d for x, d in zip(base, [0.5, 0.6, 0.5, 0.4], strict=True)])
    difference = np.array([-0.5, -0.6, -0.5, -0.4])
    half = stats.t.ppf(0.975, 3) * difference.std(ddof=1) / 2
    assert f"-0.5 [{-0.5 - half:.4g}, {-0.5 + half:.4g}] from 2.5" in down.fallen()
    noisy = tracker(base, [x - d for x, d in zip(base, [2.5, -0.6, 0.5, -0.4], strict=True)])
    assert noisy.fallen() is None
    after = tracker(base, [x + 1 for x in base], [x + 0.5 for x in base])
    assert after.best.step == 1
    assert "below that of step 1" in after.fallen()


def test_missing_rewards_are_never_picked():
    found = BestOfNTracker(target_n=2)
    metrics = found.measure(np.array([[1.0, np.nan, 3.0], [np.nan, 5.0, np.nan]]), 0)
    assert metrics["best_of_n"] == pytest.approx((best_of([[1, 1, 3]], 2) + best_of([[5, 5, 5]], 2)).item() / 2)
    assert metrics["best_of_n_missing"] == 0.5
    with pytest.raises(ValueError, match="no sample of held-out prompt 1 has a reward"):
        found.measure(np.array([[1.0, 2.0], [np.nan, np.nan]]), 1)


def test_little_left_to_gain():
    rewards = np.zeros((10, 4))
    rewards[:, 2] = 1
    with pytest.warns(UserWarning, match="solves 100.0% of the held-out prompts in 4 samples: there is little to win"):
        BestOfNTracker(target_n=4).measure(rewards, 0)


def test_other_prompts_than_before():
    found = tracker([1.0, 2.0, 3.0])
    with pytest.raises(ValueError, match="on 3 held-out prompts before and on 2 now"):
        found.measure(np.ones((2, 4)), 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eval_best_of_n_steps": -1}, "eval_best_of_n_steps must be at least 0, got -1"),
        ({"eval_best_of_n_steps": 1, "eval_best_of_n_samples": 0}, "eval_best_of_n_samples must be at least 1, got 0"),
        ({"eval_best_of_n_prompts": -2}, "eval_best_of_n_prompts must be at least 0, got -2"),
    ],
)
def test_bad_options(build, options, message):
    with pytest.raises(ValueError, match=message):
        build(TEATrainer, **options)


def test_as_many_prompts_as_asked_for(build):
    trainer = build(TEATrainer, **OPTIONS, eval_best_of_n_prompts=2, max_steps=1)
    assert trainer._sample_held_out().shape == (2, 8)
    assert len(PROMPTS) > len(HELD_OUT)


def test_held_out_prompts_are_measured_by_default(tmp_path):
    """At every checkpoint of `tea train`, which ends with the best; 0 and another eval_strategy say no."""
    from tea.trainers.arguments import TrainArguments
    from tea.trainers.config import TEAConfig
    from tea.trainers.script import _measure_by_default

    def settings(held_out, **options):
        config = TEAConfig(output_dir=str(tmp_path), report_to="none", bf16=False, save_steps=7, **options)
        _measure_by_default(TrainArguments(dataset_name="x", held_out=held_out), config)
        return config.eval_best_of_n_steps, config.eval_strategy, config.eval_on_start, config.load_best_model_at_end

    assert settings(4) == (7, "steps", True, True)
    assert settings(None) == (None, "no", False, False)
    assert settings(4, eval_best_of_n_steps=0) == (0, "no", False, False)
    assert settings(4, eval_strategy="steps", eval_steps=7) == (None, "steps", False, False)
    assert settings(4, save_strategy="no") == (None, "no", False, False)
