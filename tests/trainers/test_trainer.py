"""What the trainers do beyond TRL's, and what bad input gets."""

import math
import warnings

import pytest
import torch
from trl import GRPOTrainer

import tea
from tea.trainers import AdvantageTrainer, PrefixTEATrainer, TEAConfig, TEATrainer
from tests.trainers.conftest import count_reward, missing_reward


def records(function):
    """Wrap an estimator so that what it was given and gave can be looked at."""

    def recorded(rewards, mask=None):
        result = function(rewards, mask=mask)
        recorded.calls.append((rewards.clone(), mask.clone(), result.clone()))
        return result

    recorded.calls = []
    return recorded


@pytest.mark.parametrize(
    ("trainer_class", "function"),
    [(TEATrainer, tea.tea_advantages), (PrefixTEATrainer, tea.prefix_tea_advantages)],
)
def test_named_trainer_uses_its_estimator_normalized(build, trainer_class, function):
    trainer = build(trainer_class, max_steps=1, target_n=32, tail_fraction=0.5, reward_funcs=missing_reward)
    seen = []
    inner = trainer._calculate_rewards
    trainer._calculate_rewards = lambda *a, **k: seen.append(inner(*a, **k)) or seen[-1]
    trainer.train()
    rewards = seen[0].view(-1, 4)
    raw = function(rewards, 32, 0.5)
    valid = ~torch.isnan(rewards)
    expected = torch.where(valid, raw, 0.0) / (raw[valid] ** 2).mean().sqrt()
    assert valid.sum() < valid.numel()
    torch.testing.assert_close(torch.tensor(list(trainer._logs["advantages"])), expected.flatten())


def test_advantages_reach_the_loss_in_place(build):
    """The sum of advantages times log-probabilities has the estimator's gradient, not GRPO's."""
    losses = {}
    for name in ("grpo", "zero"):
        estimator = "grpo" if name == "grpo" else (lambda rewards: torch.zeros_like(rewards))
        trainer = build(AdvantageTrainer, max_steps=1, trainer_kwargs={"advantage_estimator": estimator})
        trainer.train()
        losses[name] = trainer.state.log_history[0]["grad_norm"]
    assert losses["grpo"] > 0
    assert losses["zero"] == 0


def test_callable_gets_nan_rewards_and_mask(build):
    estimator = records(tea.get_estimator("max_at_k", k=2))
    trainer = build(
        AdvantageTrainer,
        reward_funcs=missing_reward,
        max_steps=2,
        trainer_kwargs={"advantage_estimator": estimator},
    )
    trainer.train()
    probe, *calls = estimator.calls
    assert probe[0].shape == (2, 4)
    assert len(calls) == 2
    for rewards, mask, _ in calls:
        assert torch.equal(mask, ~torch.isnan(rewards))
        assert (~mask).any()
    # A callable's advantages are used as they are.
    torch.testing.assert_close(torch.tensor(list(trainer._logs["advantages"])), calls[-1][2].flatten())


def test_metrics(build):
    trainer = build(TEATrainer, max_steps=1, target_n=64, tail_fraction=0.5)
    seen = []
    inner = trainer._calculate_rewards
    trainer._calculate_rewards = lambda *a, **k: seen.append(inner(*a, **k)) or seen[-1]
    trainer.train()
    log = trainer.state.log_history[0]
    top = seen[0].view(-1, 4).double().sort(dim=1).values[:, 2:]
    # tail of two of four: h = phi(0) / 0.5, s^2 = 1 - h^2
    h = math.sqrt(2 / math.pi)
    slope = (tea.expected_max_normal(64) - h) / math.sqrt(1 - h * h)
    std = top.std(dim=1)
    assert log["tea/tail_mean"] == pytest.approx(top.mean().item(), rel=1e-5)
    assert log["tea/tail_std"] == pytest.approx(std.mean().item(), rel=1e-5)
    assert log["tea/best_of_n"] == pytest.approx((top.mean(dim=1) + slope * std).mean().item(), rel=1e-5)
    assert log["tea/frac_binary_groups"] == 0
    assert log["tea/advantage_time"] > 0


def test_degenerate_and_binary_groups_are_counted_and_warned_about_once(build):
    def binary(completions, **kwargs):
        return [float(i // 4 % 2 and i % 4 == 1) for i in range(len(completions))]

    trainer = build(TEATrainer, reward_funcs=binary)
    with pytest.warns(UserWarning, match="pass_at_n") as caught:
        trainer.train()
    assert len([w for w in caught if "pass_at_n" in str(w.message)]) == 1
    log = trainer.state.log_history[0]
    assert log["tea/frac_binary_groups"] == 1
    assert log["tea/frac_degenerate_groups"] == 0.5

    trainer = build(AdvantageTrainer, reward_funcs=binary, advantage_estimator="pass_at_n")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*pass_at_n.*")
        trainer.train()


def test_evaluation_uses_its_own_group_size(build):
    estimator = records(tea.get_estimator("grpo"))
    trainer = build(
        AdvantageTrainer,
        max_steps=1,
        eval_strategy="steps",
        eval_steps=1,
        num_generations_eval=2,
        trainer_kwargs={"advantage_estimator": estimator},
    )
    trainer.train()
    assert {call[0].shape[1] for call in estimator.calls} == {4, 2}
    assert "eval_tea/best_of_n" in {key for row in trainer.state.log_history for key in row}


def test_single_generation_evaluation_is_left_to_trl(build):
    trainer = build(TEATrainer, max_steps=1, eval_strategy="steps", eval_steps=1, num_generations_eval=1)
    trainer.train()
    assert any("eval_loss" in row for row in trainer.state.log_history)


def test_resume_from_checkpoint_gives_the_same_weights(build, tmp_path):
    options = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "num_iterations": 1}
    whole = build(TEATrainer, output_dir=str(tmp_path / "whole"), **options)
    whole.train()
    resumed = build(TEATrainer, output_dir=str(tmp_path / "resumed"), **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_annealed_target_n(build):
    """The estimator sees N = 2 * 16^(step / 4), and at the last step what a constant schedule would give there."""
    trainer = build(TEATrainer, max_steps=4, target_n=32, target_n_schedule="geometric", target_n_start=2)
    rewards = torch.tensor([[0.0, 1.0, 2.0, 5.0]])
    trainer.train()
    assert [row["tea/target_n"] for row in trainer.state.log_history[:-1]] == [2, 4, 8, 16]
    trainer.state.global_step = 2
    expected = tea.tea_advantages(rewards, 8, scale="none")
    torch.testing.assert_close(trainer._advantages_of(rewards), expected)


def test_automatic_tail(build):
    trainer = build(AdvantageTrainer, max_steps=1, advantage_estimator="tea", tail_fraction="auto", tail="auto")
    assert trainer.advantage_estimator.options["tail_fraction"] == "auto"
    assert trainer.advantage_estimator.options["tail"] == "auto"
    trainer.train()


# --- Bad input, each before anything is generated ---


def test_plain_grpo_config_stands_for_the_defaults(build):
    from trl import GRPOConfig

    trainer = build(TEATrainer, config_class=GRPOConfig)
    assert trainer.advantage_estimator.options == {
        "target_n": 128,
        "tail_fraction": 0.25,
        "monotone": False,
        "scale": "group",
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target_n": 0}, "target_n must be a finite number >= 1, got 0"),
        ({"tail_fraction": 0.0}, r"tail_fraction must be in \(0, 1\] or 'auto', got 0.0"),
        ({"tail_fraction": 1.5}, r"tail_fraction must be in \(0, 1\] or 'auto', got 1.5"),
        ({"tail_fraction": "some"}, r"tail_fraction must be in \(0, 1\] or 'auto', got 'some'"),
        ({"tail_fraction": None}, r"tail_fraction must be in \(0, 1\] or 'auto', got None"),
        ({"target_n_schedule": "cosine"}, "must be one of 'constant', 'linear', 'geometric', got 'cosine'"),
        ({"target_n_start": 0}, "target_n must be a finite number >= 1, got 0"),
        ({"advantage_estimator": "tea", "tail": "normal"}, "tail must be one of 'gaussian'"),
        ({"advantage_estimator": "grpo", "tail": "gpd"}, "tail='gpd' is set, but the estimator 'grpo'"),
        ({"advantage_estimator": "tee"}, "unknown estimator 'tee', known are tea, .*did you mean 'tea'"),
        ({"advantage_estimator": "tea", "rungs": [2, 4]}, "rungs=.* is set, but the estimator 'tea'"),
        ({"advantage_estimator": "ladder", "rungs": [4, 2]}, "strictly increasing"),
        ({"advantage_estimator": "ladder", "estimator_kwargs": {"rung": [2, 4]}}, "no option 'rung'.*'rungs'"),
        ({"advantage_estimator": "tea", "estimator_kwargs": {"scale": "none"}}, "scale_rewards itself"),
        ({"advantage_estimator": "max_at_k"}, "needs k"),
        ({"estimator_kwargs": [1]}, "estimator_kwargs must be a mapping"),
    ],
)
def test_config_is_validated_on_construction(tmp_path, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        TEAConfig(output_dir=str(tmp_path), bf16=False, use_cpu=True, report_to="none", **options)


@pytest.mark.parametrize(
    ("trainer_class", "options", "message"),
    [
        (AdvantageTrainer, {"advantage_estimator": "ladder", "rungs": [2, 8]}, "num_generations.*at most"),
        (AdvantageTrainer, {"advantage_estimator": "max_at_k", "k": 5}, "at most the number of generations"),
        (PrefixTEATrainer, {"order": 4}, "order=4 needs 4 distinct prefix sizes"),
        (TEATrainer, {"rungs": [2, 4]}, "rungs=.* is set, but the estimator 'tea'"),
        (AdvantageTrainer, {"target_n_schedule": "linear"}, "'grpo' has no target_n"),
        (PrefixTEATrainer, {"tail_fraction": "auto"}, r"tail_fraction must be in \(0, 1\], got 'auto'"),
        (TEATrainer, {"advantage_estimator": "ladder"}, "TEATrainer is for 'tea'; use AdvantageTrainer"),
        (TEATrainer, {"multi_objective_aggregation": "normalize_then_sum"}, "no best-of-N meaning"),
        (
            AdvantageTrainer,
            {"multi_objective_aggregation": "normalize_then_sum", "normalize_advantages": "batch"},
            "normalize_advantages='batch' cannot be had",
        ),
    ],
)
def test_options_that_cannot_work_fail_before_a_model_is_loaded(build, trainer_class, options, message):
    with pytest.raises(ValueError, match=message):
        build(trainer_class, **options)


@pytest.mark.parametrize(
    ("estimator", "message"),
    [
        (lambda rewards: rewards[:, :1], r"must return a tensor of the shape of the rewards \(2, 4\), got \(2, 1\)"),
        (lambda rewards: [1.0], "must return a tensor"),
        (lambda rewards: rewards * torch.nan, "returned NaN or infinity"),
        (lambda rewards: 1 / 0, "division by zero"),
        ("tae", "did you mean"),
        (3, "must be a name or a callable"),
    ],
)
def test_bad_estimator_fails_when_the_trainer_is_built(build, estimator, message):
    with pytest.raises((ValueError, TypeError), match=message):
        build(AdvantageTrainer, trainer_kwargs={"advantage_estimator": estimator})


def test_estimator_given_twice(build):
    with pytest.raises(ValueError, match="given twice"):
        build(AdvantageTrainer, advantage_estimator="tea", trainer_kwargs={"advantage_estimator": "grpo"})


def test_infinite_reward_names_the_function(build):
    def overflowing(completions, **kwargs):
        return [math.inf if i == 2 else 0.0 for i in range(len(completions))]

    trainer = build(TEATrainer, reward_funcs=[count_reward, overflowing])
    with pytest.raises(ValueError, match="'overflowing' returned inf for completion 2"):
        trainer.train()


def test_nan_from_an_estimator_during_training_shows_the_rewards(build):
    def fails_on_graded(rewards):
        return torch.where((rewards == rewards.round()), 0.0, torch.nan)

    trainer = build(AdvantageTrainer, trainer_kwargs={"advantage_estimator": fails_on_graded})
    with pytest.raises(ValueError, match=r"'fails_on_graded' returned NaN or infinity for the rewards \[0"):
        trainer.train()


def test_model_card_cites_the_paper(build, tmp_path):
    trainer = build(TEATrainer, max_steps=1)
    trainer.train()
    trainer.create_model_card()
    card = (tmp_path / "TEATrainer" / "README.md").read_text()
    assert "2605.10716" in card


def test_is_a_grpo_trainer(build):
    assert issubclass(TEATrainer, GRPOTrainer)
    assert build(TEATrainer).estimator_name == "tea"
