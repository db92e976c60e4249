"""Training with the reward memory: what is remembered, what it is used for, and what a checkpoint keeps of it."""

import datetime
import decimal
import itertools

import numpy as np
import pytest
import torch
from datasets import Dataset

import tea
from tea.trainers import AdvantageTrainer, PrefixTEATrainer, TEAConfig, TEATrainer
from tea.trainers.extra_state import EXTRA_STATE_FILE, OLD_MEMORY_FILE
from tea.trainers.identity import task_key
from tests.reference import estimators as reference
from tests.trainers.conftest import PROMPTS, count_reward, missing_reward

MAX_AT_16 = {"advantage_estimator": "max_at_k", "k": 16, "reward_memory": 12}


def watch(trainer):
    """Record prompts, rewards and the advantages that are trained on, of every generation batch in training."""
    seen = []
    rewards_of, output_of = trainer._calculate_rewards, trainer._generate_and_score_completions

    def calculate(inputs, *args, **kwargs):
        trainer.gathered = rewards_of(inputs, *args, **kwargs)
        return trainer.gathered

    def generate(inputs):
        output = output_of(inputs)
        if trainer.model.training:
            prompts = [example["prompt"] for example in inputs]
            seen.append((prompts, trainer.gathered.squeeze(1).clone(), output["advantages"].clone()))
        return output

    trainer._calculate_rewards, trainer._generate_and_score_completions = calculate, generate
    return seen


def log(trainer, key):
    return [row[key] for row in trainer.state.log_history if key in row]


@pytest.mark.parametrize("reward", [count_reward, missing_reward])
def test_later_epochs_use_the_rewards_of_earlier_ones(build, reward):
    """Four visits of 8 prompts, recomputed over all subsets with a list per prompt; evaluation leaves no trace."""
    trainer = build(
        AdvantageTrainer,
        max_steps=16,
        reward_funcs=reward,
        scale_rewards="none",
        normalize_advantages="batch",
        eval_strategy="steps",
        eval_steps=3,
        num_generations_eval=2,
        **MAX_AT_16,
    )
    seen = watch(trainer)
    trainer.train()
    past = {prompt: [] for prompt in PROMPTS}
    used = []
    assert len(seen) == 16
    for prompts, rewards, advantages in seen:
        expected, remembered = [], []
        for i in range(0, 8, 4):
            assert len(set(prompts[i : i + 4])) == 1
            history = past[prompts[i]][-12:]
            group = rewards[i : i + 4].double()
            current = group[~group.isnan()].tolist()
            union = current + history
            raw = reference.max_at_k(union, min(16, len(union)))[: len(current)]
            row = torch.zeros(4, dtype=torch.float64)
            row[~group.isnan()] = torch.tensor(reference.centred(raw), dtype=torch.float64)
            expected.append(row)
            remembered.append(len(history))
            past[prompts[i]] += current
        expected = torch.cat(expected)
        size = expected[~rewards.isnan()].square().mean().sqrt()
        if size > 1e-9:
            torch.testing.assert_close(advantages.double(), expected / size, rtol=1e-3, atol=1e-4)
        else:
            assert (advantages == 0).all()
        used.append(sum(remembered) / 2)
    assert used[0] == 0
    assert used[4] == (4 if reward is count_reward else pytest.approx(3.5, abs=0.5))
    assert log(trainer, "tea/memory_rewards") == used
    assert not log(trainer, "eval_tea/memory_rewards")
    assert len(trainer.reward_memory) == len(PROMPTS)
    for prompt in PROMPTS:
        kept = trainer.reward_memory.recall([task_key({"prompt": prompt})])[0]
        assert kept[~kept.isnan()].tolist() == pytest.approx(past[prompt][::-1][:12])


def test_the_first_epoch_is_training_without_a_memory(build, tmp_path):
    options = {"advantage_estimator": "max_at_k", "k": 4, "max_steps": 4}
    without, with_memory = (
        build(AdvantageTrainer, **options, reward_memory=remembered, output_dir=str(tmp_path / str(remembered)))
        for remembered in (0, 12)
    )
    for trainer in (without, with_memory):
        torch.manual_seed(0)
        trainer.train()
    for a, b in zip(without.model.parameters(), with_memory.model.parameters(), strict=True):
        assert torch.equal(a, b)
    assert without.reward_memory is None
    assert not log(without, "tea/memory_rewards")


@pytest.mark.parametrize("memory", [12, 30])
def test_resumed_run_goes_on_exactly(build, tmp_path, memory):
    """Interrupted in the second epoch: the same histories, advantages and weights as without the interruption."""
    options = {
        **MAX_AT_16,
        "reward_memory": memory,
        "max_steps": 10,
        "save_strategy": "steps",
        "save_steps": 6,
    }
    whole = build(AdvantageTrainer, output_dir=str(tmp_path / "whole"), **options)
    expected = watch(whole)
    whole.train()
    checkpoint = tmp_path / "whole" / "checkpoint-6"
    assert not [path for path in checkpoint.iterdir() if "partial" in path.name]

    resumed = build(AdvantageTrainer, output_dir=str(tmp_path / "resumed"), **options)
    seen = watch(resumed)
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert len(seen) == 4
    for (prompts, rewards, advantages), (prompts_, rewards_, advantages_) in zip(seen, expected[6:], strict=True):
        assert prompts == prompts_
        assert torch.equal(rewards, rewards_)
        assert torch.equal(advantages, advantages_)
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)
    keys = [task_key({"prompt": prompt}) for prompt in PROMPTS]
    torch.testing.assert_close(
        resumed.reward_memory.recall(keys), whole.reward_memory.recall(keys), rtol=0, atol=0, equal_nan=True
    )
    assert log(resumed, "tea/memory_rewards")[-1] > 4


def test_checkpoint_without_a_memory_is_warned_about(build, tmp_path):
    options = {"advantage_estimator": "max_at_k", "k": 4, "max_steps": 5, "save_strategy": "steps", "save_steps": 4}
    build(AdvantageTrainer, output_dir=str(tmp_path / "whole"), **options).train()
    resumed = build(AdvantageTrainer, output_dir=str(tmp_path / "resumed"), reward_memory=8, **options)
    with pytest.warns(UserWarning, match=r"checkpoint-4 has no reward memory: the run goes on without it"):
        resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-4"))
    assert log(resumed, "tea/memory_rewards") == [0]


def test_checkpoint_of_version_0_1_goes_on_with_its_memory(build, tmp_path):
    """There it was alone in reward_memory.pt, its keys made of the prompt even where there are other columns."""
    options = {**MAX_AT_16, "max_steps": 5, "save_strategy": "steps", "save_steps": 4}
    whole = build(AdvantageTrainer, output_dir=str(tmp_path / "whole"), **options)
    whole.train()
    checkpoint = tmp_path / "whole" / "checkpoint-4"
    memory = torch.load(checkpoint / EXTRA_STATE_FILE, weights_only=True)["parts"]["reward_memory"]
    del memory["key_columns"]
    torch.save(memory, checkpoint / OLD_MEMORY_FILE)
    for name in (EXTRA_STATE_FILE, "trainer_extra_state_0.pt", "manifest.json"):
        (checkpoint / name).unlink()
    resumed = build(AdvantageTrainer, output_dir=str(tmp_path / "resumed"), **options)
    resumed.train_dataset = resumed.train_dataset.add_column("answer", [str(i) for i in range(8)])
    with pytest.warns(UserWarning, match="checkpoint-4 has no generation cycle"):
        resumed.train(resume_from_checkpoint=str(checkpoint))
    assert log(resumed, "tea/memory_rewards")[-1] == 4
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_annealed_tail_estimator_and_reused_rollouts(build):
    """The target anneals, rollouts are used twice: one entry per generation batch."""
    trainer = build(
        TEATrainer,
        max_steps=16,
        target_n=32,
        target_n_schedule="geometric",
        target_n_start=2,
        reward_memory=8,
        num_iterations=2,
    )
    trainer.train()
    assert log(trainer, "tea/memory_rewards") == [0, 0, 0, 0, 4, 4, 4, 4]
    trainer.state.global_step = 8
    rewards, history = torch.tensor([[0.0, 1.0, 2.0, 5.0]]), torch.tensor([[3.0, -1.0, 4.0, torch.nan] * 2])
    union = torch.cat((rewards, history), dim=1)
    raw = tea.tea_advantages(union, 8, scale="none")[:, :4]
    expected = raw - raw.mean()
    torch.testing.assert_close(trainer._advantages_of(rewards, history), expected)


@pytest.mark.parametrize("takes_mask", [True, False])
def test_a_callable_is_given_the_union(build, takes_mask):
    calls = []

    def plain(rewards):
        calls.append(rewards.shape)
        return tea.max_at_k_advantages(rewards, min(16, rewards.shape[1]), center=False)

    def masked(rewards, mask):
        assert torch.equal(mask, ~rewards.isnan())
        return plain(rewards)

    estimator = masked if takes_mask else plain
    trainer = build(AdvantageTrainer, max_steps=5, reward_memory=12, trainer_kwargs={"advantage_estimator": estimator})
    seen = watch(trainer)
    trainer.train()
    assert calls[-1] == (2, 16)
    assert seen[-1][2].view(2, 4).mean(1).abs().max() < 1e-5


# --- Options ---


def test_k_may_reach_as_far_as_the_memory(build):
    trainer = build(AdvantageTrainer, **MAX_AT_16)
    assert trainer.advantage_estimator.options["k"] == 16
    with pytest.raises(ValueError, match=r"up to 12 remembered ones per prompt: k must be at most .*\(16\), got 17"):
        build(AdvantageTrainer, **{**MAX_AT_16, "k": 17})
    with pytest.raises(ValueError, match=r"k must be at most .*\(4\), got 16; .*or remember rewards"):
        build(AdvantageTrainer, **{**MAX_AT_16, "reward_memory": 0})
    ladder = {"advantage_estimator": "ladder", "reward_memory": 12}
    assert build(AdvantageTrainer, **ladder, rungs=[4, 16]).reward_memory.size == 12
    with pytest.raises(ValueError, match="rungs must be at most"):
        build(AdvantageTrainer, **ladder, rungs=[4, 17])


@pytest.mark.parametrize("value", [-1, 1.5, "8", True])
def test_bad_size(tmp_path, value):
    with pytest.raises(ValueError, match="reward_memory must be an integer >= 0, got"):
        TEAConfig(output_dir=str(tmp_path), bf16=False, use_cpu=True, report_to="none", reward_memory=value)


def test_estimators_without_a_use_for_it_are_refused_before_a_model_is_loaded(build):
    for name in ("grpo", "rloo", "dr_grpo", "prefix_tea"):
        with pytest.raises(ValueError, match=f"{name!r} has no use for remembered rewards"):
            build(AdvantageTrainer, advantage_estimator=name, reward_memory=8)
    for trainer_class in (AdvantageTrainer, PrefixTEATrainer):  # their own
        with pytest.raises(ValueError, match="has no use for remembered rewards"):
            build(trainer_class, reward_memory=8)


# --- Keys ---


def test_key_is_of_the_whole_row():
    conversation = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "äh \ud800?"}]
    reordered = [{"content": message["content"], "role": message["role"]} for message in conversation]
    key = task_key({"prompt": conversation, "answer": "3"})
    assert key == task_key({"answer": "3", "prompt": reordered, "image": None})
    others = [
        *({"prompt": conversation, "answer": value} for value in ("4", 3, 3.0, ["3"])),
        {"prompt": conversation},
        {"prompt": conversation, "seed": "3"},
        {"answer": "3"},
        *({"prompt": prompt, "answer": "3"} for prompt in (conversation[::-1], conversation[1:], "Be brief.", "", [])),
        *({"day": datetime.date(2024, 1, day)} for day in (1, 2)),
        *({"board": np.arange(4).reshape(shape)} for shape in ((4,), (2, 2), (1, 4))),
        *({"price": decimal.Decimal(text)} for text in ("1.0", "1.1")),
        *({"set": frozenset({value})} for value in (1, 2)),
    ]
    keys = [key, *(task_key(row) for row in others)]
    assert len(set(keys)) == len(keys)
    assert task_key({"prompt": "a", "answer": "3"}, ("prompt", "image")) == task_key({"prompt": "a"})
    # The same in another process and tomorrow: resuming relies on it.
    assert task_key({"prompt": "the quick"}) == "da2c5d525e58554f045e0e6ad172f5bd"


def test_images_tell_prompts_apart():
    image = pytest.importorskip("PIL.Image")
    red, blue = (image.new("RGB", (4, 4), color) for color in ("red", "blue"))
    again = image.new("RGB", (4, 4), "red")
    prompt = [{"role": "user", "content": "What color?"}]

    def content(picture):
        return [{"role": "user", "content": [{"type": "image", "image": picture}, {"type": "text", "text": "What?"}]}]

    assert task_key({"prompt": prompt, "image": red}) == task_key({"prompt": prompt, "image": again})
    assert task_key({"prompt": content(red)}) == task_key({"prompt": content(again)})
    rows = [
        *({"prompt": prompt, "image": picture} for picture in (red, blue)),
        *({"prompt": prompt, "images": pictures} for pictures in ([red], [red, blue], [{"bytes": b"x"}])),
        *({"prompt": content(picture)} for picture in (red, blue)),
        {"prompt": prompt},
    ]
    for a, b in itertools.combinations(rows, 2):
        assert task_key(a) != task_key(b)


def test_conversational_prompts(build):
    trainer = build(AdvantageTrainer, max_steps=5, **MAX_AT_16)
    conversations = [[{"role": "user", "content": prompt}] for prompt in PROMPTS]
    trainer.train_dataset = Dataset.from_dict({"prompt": conversations})

    def reward(completions, **kwargs):
        return count_reward([completion[0]["content"] for completion in completions])

    trainer.reward_funcs = [reward]
    trainer.train()
    assert log(trainer, "tea/memory_rewards") == [0, 0, 0, 0, 4]
