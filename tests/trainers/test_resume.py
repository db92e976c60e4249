"""A run that is interrupted and goes on has the weights of one that was not, to the last bit."""

import json
import shutil

import pytest
import torch
from datasets import Dataset

from tea.trainers import AdvantageTrainer, TEAConfig
from tea.trainers.checkpoints import CheckpointError
from tea.trainers.errors import UserError
from tests.reference.tiny import tiny_llama, tiny_qwen3, tiny_reward_model
from tests.trainers.conftest import PROMPTS, count_reward

# 8 prompts, 2 per generation, kept for 3 epochs and a half.
RUN = {"max_steps": 14, "save_strategy": "steps", "save_steps": 1, "advantage_estimator": "max_at_k", "k": 4}
REUSED = {
    # A generation of 4 prompts is trained on in 2 x 2 micro-batches, one optimizer step each.
    "num_iterations": 2,
    "steps_per_generation": 2,
    "gradient_accumulation_steps": 1,
    "epsilon": 0.2,
}
ACCUMULATED = {
    # 3 micro-batches per step do not divide the 8 of an epoch: steps of 3, 3 and 2.
    "num_iterations": 2,
    "steps_per_generation": 2,
    "gradient_accumulation_steps": 3,
}


def assert_same_weights(a, b):
    for x, y in zip(a.model.parameters(), b.model.parameters(), strict=True):
        assert torch.equal(x, y)


def watch_prompts(trainer):
    seen = []
    generate = trainer._generate_and_score_completions

    def generated(inputs):
        if trainer.model.training:
            seen.append([row["prompt"] for row in inputs])
        return generate(inputs)

    trainer._generate_and_score_completions = generated
    return seen


@pytest.fixture(scope="module")
def module_tmp(tmp_path_factory):
    return tmp_path_factory.mktemp("resume")


@pytest.mark.parametrize(
    ("options", "steps", "per_cycle"),
    [
        ({}, (1, 4, 6, 12), 1),
        ({**REUSED, "reward_memory": 8}, (1, 2, 3, 4, 8, 11), 4),
        (ACCUMULATED, (1, 2, 3, 4, 8), None),
        ({"dataloader_num_workers": 1, "dataloader_prefetch_factor": 2}, (6,), 1),
        ({"use_peft": True, **REUSED, "off_policy_correction": True}, (9,), 4),
    ],
    ids=[
        "one step per generation",
        "reused rollouts and memory",
        "uneven accumulation",
        "workers",
        "lora and correction",
    ],
)
def test_any_step_of_any_epoch(build, tmp_path, options, steps, per_cycle):
    options = dict(options)
    peft = {}
    if options.pop("use_peft", False):
        from peft import LoraConfig

        peft = {"trainer_kwargs": {"peft_config": LoraConfig(r=2, target_modules=["q_proj", "v_proj"])}}
        # Seeded, as `tea train` and TRL's scripts do before the adapter is made.
        torch.manual_seed(0)
    options = {**RUN, **options, **peft}
    whole = build(AdvantageTrainer, output_dir=str(tmp_path / "whole"), **options)
    expected = watch_prompts(whole)
    whole.train()
    for step in steps:
        resumed = build(AdvantageTrainer, output_dir=str(tmp_path / f"resumed-{step}"), **options)
        seen = watch_prompts(resumed)
        resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
        assert_same_weights(whole, resumed)
        assert seen == expected[len(expected) - len(seen) :]
        if per_cycle is not None:
            assert len(seen) == 14 // per_cycle + (14 % per_cycle > 0) - -(-step // per_cycle)
        if whole.reward_memory is not None:
            a, b = whole.reward_memory.state_dict(), resumed.reward_memory.state_dict()
            assert a["keys"] == b["keys"]
            torch.testing.assert_close(a["rewards"], b["rewards"], rtol=0, atol=0, equal_nan=True)


def test_every_prompt_comes_once_in_the_interrupted_epoch(build, tmp_path):
    """Not so in TRL 1.16, which goes on with the order of the first epoch."""
    options = {**RUN, "max_steps": 8}
    build(AdvantageTrainer, output_dir=str(tmp_path / "whole"), **options).train()
    first = build(AdvantageTrainer, output_dir=str(tmp_path / "whole"), **options)
    second_epoch = watch_prompts(first)
    first.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-4"))
    second = build(AdvantageTrainer, output_dir=str(tmp_path / "again"), **options)
    rest = watch_prompts(second)
    second.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-6"))
    assert rest == second_epoch[2:]
    assert sorted(prompt for batch in second_epoch for prompt in batch[::4]) == sorted(PROMPTS)


def test_streamed_data(build, tmp_path):
    """A stream of four batches, in its second pass and at its end, where nobody knows its length."""
    data = Dataset.from_dict({"prompt": PROMPTS}).to_iterable_dataset()
    whole = build(AdvantageTrainer, output_dir=str(tmp_path / "whole"), dataset=data, **RUN)
    expected = watch_prompts(whole)
    whole.train()
    for step in (3, 4, 6):
        resumed = build(AdvantageTrainer, output_dir=str(tmp_path / f"resumed-{step}"), dataset=data, **RUN)
        seen = watch_prompts(resumed)
        resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
        assert seen == expected[step:]
        assert_same_weights(whole, resumed)


def test_moving_reference_model(build, tmp_path):
    options = {
        **RUN,
        "beta": 0.5,
        "sync_ref_model": True,
        "ref_model_sync_steps": 2,
        "ref_model_mixup_alpha": 0.5,
        "max_steps": 6,
    }
    whole = build(AdvantageTrainer, output_dir=str(tmp_path / "whole"), **options)
    whole.train()
    resumed = build(AdvantageTrainer, output_dir=str(tmp_path / "resumed"), **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-3"))
    assert_same_weights(whole, resumed)


# --- Another run ---


@pytest.fixture(scope="module")
def interrupted(module_tmp, model_path):
    """A folder with one checkpoint, for tests that leave it as it is."""
    config = TEAConfig(
        output_dir=str(module_tmp / "run"),
        num_generations=4,
        per_device_train_batch_size=8,
        max_completion_length=6,
        learning_rate=1e-2,
        report_to="none",
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        disable_tqdm=True,
        seed=11,
        **{**RUN, "max_steps": 2, "save_steps": 2},
    )
    data = Dataset.from_dict({"prompt": PROMPTS})
    AdvantageTrainer(model=model_path, reward_funcs=count_reward, args=config, train_dataset=data).train()
    return str(module_tmp / "run" / "checkpoint-2")


def test_another_estimator_model_or_data(build, interrupted, tmp_path, tokenizer):
    options = {**RUN, "max_steps": 2, "save_steps": 2}
    for changes, message in [
        ({"k": 2}, r"estimator\.k is 2, in the checkpoint 4\."),
        ({"advantage_estimator": "tea", "k": None}, r"estimator\.name is 'tea', in the checkpoint 'max_at_k'"),
        ({"normalize_advantages": "none"}, r"estimator\.normalize_advantages is 'none', in the checkpoint 'running'"),
    ]:
        with pytest.raises(CheckpointError, match=f"checkpoint-2 is of another run: {message}"):
            build(AdvantageTrainer, **{**options, **changes}).train(resume_from_checkpoint=interrupted)
    trainer = build(AdvantageTrainer, **options)
    trainer.train_dataset = Dataset.from_dict({"prompt": [*PROMPTS[:-1], "another"]})
    with pytest.raises(CheckpointError, match=r"another run: data\.content is '"):
        trainer.train(resume_from_checkpoint=interrupted)
    trainer.train_dataset = Dataset.from_dict({"prompt": PROMPTS[:-1], "answer": PROMPTS[1:]})
    with pytest.raises(CheckpointError, match=r"data\.rows is 7, in the checkpoint 8; data\.columns is \['answer', 'p"):
        trainer.train(resume_from_checkpoint=interrupted)
    tiny_qwen3(tokenizer).save_pretrained(tmp_path / "qwen")
    tokenizer.save_pretrained(tmp_path / "qwen")
    other = build(AdvantageTrainer, **options, model=str(tmp_path / "qwen"))
    with pytest.raises(CheckpointError, match=r"model\.architecture is 'Qwen3ForCausalLM', in the checkpoint 'Llama"):
        other.train(resume_from_checkpoint=interrupted)


def test_other_options_are_warned_about(build, interrupted):
    trainer = build(AdvantageTrainer, **{**RUN, "max_steps": 3, "save_steps": 2, "seed": 12})
    with pytest.warns(UserWarning, match=r"another way .*: options.seed is 12, in the checkpoint 11; opt"):
        trainer.train(resume_from_checkpoint=interrupted)
    assert trainer.state.global_step == 3


# --- Parts of the extra state ---


class Counter:
    def __init__(self):
        self.value = 0

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"]


def test_added_parts_are_kept(build, interrupted, tmp_path):
    options = {**RUN, "max_steps": 2}
    trainer = build(AdvantageTrainer, **options, output_dir=str(tmp_path / "run"))
    counter = Counter()
    trainer.extra_state.add("counter", counter)
    with pytest.raises(ValueError, match="already a part 'counter'"):
        trainer.extra_state.add("counter", counter)
    counter.value = 7
    trainer.train()
    checkpoint = str(tmp_path / "run" / "checkpoint-2")
    resumed = build(AdvantageTrainer, **options)
    with pytest.warns(UserWarning, match="checkpoint-2 holds what this run does not use: counter"):
        resumed.train(resume_from_checkpoint=checkpoint)
    resumed = build(AdvantageTrainer, **options)
    again = Counter()
    resumed.extra_state.add("counter", again)
    resumed.train(resume_from_checkpoint=checkpoint)
    assert again.value == 7
    with pytest.warns(UserWarning, match="checkpoint-2 has no counter: the run goes on without it"):
        resumed.train(resume_from_checkpoint=interrupted)


class Evil:
    def __reduce__(self):
        return (print, ("code was run",))


@pytest.mark.parametrize("name", ["optimizer.pt", "trainer_extra_state_0.pt"])
def test_pickled_objects_are_not_loaded(build, interrupted, tmp_path, name, capsys):
    copy = tmp_path / "checkpoint-2"
    shutil.copytree(interrupted, copy)
    torch.save({"state": Evil()}, copy / name)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["files"][name] = (copy / name).stat().st_size
    (copy / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"checkpoint-2.*objects"):
        build(AdvantageTrainer, **{**RUN, "max_steps": 2}).train(resume_from_checkpoint=str(copy))
    assert "code was run" not in capsys.readouterr().out


@pytest.mark.parametrize("role", ["model", "reward model"])
def test_pickled_models_are_not_loaded(build, tmp_path, tokenizer, capsys, role):
    make = tiny_llama if role == "model" else tiny_reward_model
    make(tokenizer).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save({"weight": Evil()}, tmp_path / "pytorch_model.bin")
    given = {"model": str(tmp_path)} if role == "model" else {"reward_funcs": str(tmp_path)}
    with pytest.raises(UserError, match=f"^{role} '.*pickled objects other than tensors.*get it as safetensors"):
        build(AdvantageTrainer, **given)
    assert "code was run" not in capsys.readouterr().out
