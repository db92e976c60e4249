"""Rewards that mean nothing stop a run; what is logged means what it says; the console stays readable."""

import warnings
from collections import Counter

import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification
from trl import GRPOTrainer

import tea
from tea.rewards import RewardModel
from tea.trainers import AdvantageTrainer, TEATrainer
from tea.trainers.guards import NoUsableReward, UsableRewards
from tea.trainers.watch import RunWarning
from tests.reference.tiny import _sizes
from tests.trainers.conftest import count_reward


def log(trainer, key):
    return [row[key] for row in trainer.state.log_history if key in row]


# --- Reward models ---


@pytest.fixture(scope="module")
def reward_paths(tmp_path_factory, tokenizer):
    paths = {}
    for labels in (1, 2):
        paths[labels] = str(tmp_path_factory.mktemp(f"reward-{labels}"))
        torch.manual_seed(labels)
        config = LlamaConfig(**_sizes(tokenizer), num_labels=labels)
        LlamaForSequenceClassification(config).save_pretrained(paths[labels])
        tokenizer.save_pretrained(paths[labels])
    return paths


def test_a_language_model_is_no_reward_model(build, model_path):
    message = r"has no trained score head \(it is a LlamaForCausalLM\): score.weight would be random"
    with pytest.raises(ValueError, match=message):
        build(AdvantageTrainer, reward_funcs=model_path)
    with pytest.raises(ValueError, match=message):
        build(TEATrainer, reward_funcs=[count_reward, model_path])
    with pytest.raises(ValueError, match=message):
        RewardModel(model_path, device="cpu")


def test_more_than_one_label(build, reward_paths):
    with pytest.raises(ValueError, match=r"has 2 labels \(LABEL_0, LABEL_1\); a reward needs exactly 1"):
        build(AdvantageTrainer, reward_funcs=reward_paths[2])
    model = LlamaForSequenceClassification.from_pretrained(reward_paths[2])
    with pytest.raises(ValueError, match="has 2 labels"):
        build(AdvantageTrainer, reward_funcs=model)


def test_a_reward_model_by_name_is_what_trl_loads(build, reward_paths):
    """With and without its tokenizer, next to a function: the same rewards and names as in TRL's trainer."""
    ours = build(AdvantageTrainer, reward_funcs=[count_reward, reward_paths[1]], model_init_kwargs={"dtype": "float32"})
    ours.train()
    theirs = build(GRPOTrainer, reward_funcs=[count_reward, reward_paths[1]], model_init_kwargs={"dtype": "float32"})
    theirs.train()
    assert ours.reward_func_names == theirs.reward_func_names
    name = f"rewards/{ours.reward_func_names[1]}/mean"
    assert log(ours, name) == log(theirs, name)
    assert log(ours, name)[0] != 0
    for a, b in zip(ours.reward_funcs[1].parameters(), theirs.reward_funcs[1].parameters(), strict=True):
        assert torch.equal(a, b)


# --- No usable reward ---


def rewards_of(values):
    """A reward function that gives every batch its own value, or graded rewards for "good"."""
    values = iter(values)

    def reward(completions, **kwargs):
        value = next(values)
        return count_reward(completions) if value == "good" else [value] * len(completions)

    return reward


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, r"every reward is missing \(None or NaN\)"),
        (float("nan"), "every reward is missing"),
        (0.5, "every reward is 0.5"),
    ],
)
def test_no_usable_reward_warns_once_and_stops(build, value, message):
    trainer = build(AdvantageTrainer, reward_funcs=rewards_of([value] * 9), max_unusable_batches=3, max_steps=9)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(NoUsableReward, match=f"nothing could be learnt from the last 3 batches: {message}"):
            trainer.train()
    ours = [str(w.message) for w in caught if "nothing can be learnt from this batch" in str(w.message)]
    assert len(ours) == 1
    assert ours[0].endswith("the run stops after 3 such batches in a row")
    assert trainer.state.global_step == 2


def test_only_batches_in_a_row_count(build, tmp_path):
    values = [0.0, 0.0, "good", 1.0, 1.0, "good", 0.0, 0.0]
    options = {"max_unusable_batches": 3, "max_steps": 8, "save_strategy": "steps", "save_steps": 2}
    with pytest.warns(UserWarning, match="nothing can be learnt from this batch: every reward is 0"):
        build(AdvantageTrainer, reward_funcs=rewards_of(values), **options, output_dir=str(tmp_path)).train()
    # A resumed run counts on.
    resumed = build(AdvantageTrainer, reward_funcs=rewards_of([0.0] * 9), **{**options, "max_steps": 12})
    with pytest.raises(NoUsableReward, match="from the last 3 batches"):
        resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-8"))
    assert resumed.state.global_step == 8


def test_limit_can_be_lifted_and_is_checked(build):
    build(AdvantageTrainer, reward_funcs=rewards_of([0.0] * 22), max_unusable_batches=0, max_steps=22).train()
    with pytest.raises(ValueError, match="max_unusable_batches must be an integer >= 0, got -1"):
        build(AdvantageTrainer, max_unusable_batches=-1)


def test_groups_of_equal_rewards_that_differ_between_prompts():
    guard = UsableRewards(1)
    guard.check(torch.tensor([[1.0, 1.0], [0.0, 2.0]]))
    guard.check(torch.tensor([[torch.nan, 1.0, 0.0]]))
    with (
        pytest.warns(UserWarning, match="the run stops after 1 such batches"),
        pytest.raises(NoUsableReward, match="in every group all rewards are equal"),
    ):
        guard.check(torch.tensor([[1.0, 1.0], [torch.nan, 2.0]]))


# --- What is logged ---


def right(completions, **kwargs):
    return [float("o" in text) for text in completions]


def test_forecast_of_binary_rewards_is_a_probability(build):
    """pass@N under the Beta posterior; the Gaussian tail would say more than 1."""
    trainer = build(AdvantageTrainer, reward_funcs=right, max_steps=4, target_n=512, num_generations=8)
    seen = []
    inner = trainer._calculate_rewards
    trainer._calculate_rewards = lambda *a, **k: seen.append(inner(*a, **k)) or seen[-1]
    trainer.train()
    forecasts = log(trainer, "tea/best_of_n")
    gaussian = [tea.tail_statistics(x.view(-1, 8), 512).best_of_n.mean().item() for x in seen]
    assert max(gaussian) > 1
    for rewards, forecast in zip(seen, forecasts, strict=True):
        assert 0 <= forecast <= 1
        assert forecast >= rewards.view(-1, 8).amax(1).mean() - 1e-6 or forecast > 0.5
        expected = tea.estimators.binary.pass_at_n_forecast(rewards.view(-1, 8), 512).mean().item()
        assert forecast == pytest.approx(expected)


def test_no_forecast_above_a_known_maximum(build):
    free = build(AdvantageTrainer, target_n=512)
    free.train()
    bounded = build(AdvantageTrainer, target_n=512, max_reward=0.5)
    bounded.train()
    assert max(log(free, "tea/best_of_n")) > 0.5
    assert max(log(bounded, "tea/best_of_n")) <= 0.5


def test_masked_completions_are_not_in_the_metrics(build):
    """All but those that end by themselves are masked out of the loss; what is left has the metrics."""
    options = {"max_steps": 1, "num_generations": 8, "per_device_train_batch_size": 16, "target_n": 16}
    trainer = build(AdvantageTrainer, **options, mask_truncated_completions=True)
    seen = {}
    generate = trainer._generate_single_turn

    def generated(*args):
        ids, logprobs = generate(*args)
        # Every other one ends before the limit.
        return [[*row[:3], 1] if i % 2 else [7, 8, 9, 10, 11, 12] for i, row in enumerate(ids)], logprobs

    calculate = trainer._calculate_rewards
    trainer._generate_single_turn = generated
    trainer._calculate_rewards = lambda *a, **k: seen.setdefault("rewards", calculate(*a, **k))
    trainer.train()
    rewards = seen["rewards"].view(2, 8)[:, 1::2]
    expected = tea.tail_statistics(rewards, 16).best_of_n.mean().item()
    assert log(trainer, "tea/best_of_n") == [pytest.approx(expected)]
    assert expected != pytest.approx(tea.tail_statistics(seen["rewards"].view(2, 8), 16).best_of_n.mean().item())


def test_evaluation_with_too_few_generations_for_the_estimator(build):
    """TRL's advantages there: an evaluation must not fail what the training needed."""
    options = {"eval_strategy": "steps", "eval_steps": 2, "num_generations_eval": 2, "max_steps": 2}
    trainer = build(AdvantageTrainer, advantage_estimator="max_at_k", k=4, **options)
    trainer.train()
    theirs = build(GRPOTrainer, **options)
    theirs.train()
    assert len(log(trainer, "eval_tea/best_of_n")) == 1
    later = build(AdvantageTrainer, advantage_estimator="max_at_k", k=4, num_generations_eval=2)
    later.eval_dataset = later.train_dataset
    torch.manual_seed(0)
    measured = later.evaluate()
    reference = build(GRPOTrainer, num_generations_eval=2)
    reference.eval_dataset = reference.train_dataset
    torch.manual_seed(0)
    expected = reference.evaluate()
    assert measured["eval_loss"] == pytest.approx(expected["eval_loss"], abs=1e-6)
    assert measured["eval_reward"] == expected["eval_reward"]


# --- The console ---


@pytest.mark.parametrize("reward", [count_reward, right])
def test_no_more_warnings_than_trl(build, reward):
    """Per place in the code and its text; ours may add what it says once of 0/1 rewards and of tied ones."""

    def warned(trainer_class):
        trainer = build(trainer_class, reward_funcs=reward, max_steps=10)
        counted = Counter()

        def every_time(message, category, filename, lineno, *args, **kwargs):
            if not str(message).startswith("nothing can be learnt from this batch"):
                counted[category] += 1

        with warnings.catch_warnings():
            warnings.simplefilter("default")
            warnings.showwarning = every_time
            # One that comes again and again: shown once, unless someone re-arms it.
            step = trainer.training_step

            def deprecated_step(*args, **kwargs):
                warnings.warn("old", FutureWarning, stacklevel=1)
                return step(*args, **kwargs)

            trainer.training_step = deprecated_step
            trainer.train()
        return counted

    theirs, ours = warned(GRPOTrainer), warned(TEATrainer)
    binary = ours.pop(tea.estimators.group.BinaryRewardsWarning, 0)
    assert ours.pop(RunWarning, 0) <= 1
    assert binary == (1 if reward is right else 0)
    assert theirs[FutureWarning] >= 1
    assert not ours - theirs
