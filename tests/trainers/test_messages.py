"""Every foreseeable mistake of a user ends in one message and exit code 2; a bug still shows its traceback."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from tea.trainers import TEAConfig, script
from tea.trainers.errors import UserError
from tea.trainers.rewards import checked
from tea.trainers.script import command, main, parse
from tests.reference.tiny import tiny_reward_model, tiny_tokenizer
from tests.trainers.conftest import PROMPTS

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def good(tmp_path, model_path):
    """A config that trains."""
    (tmp_path / "reward.py").write_text(
        "def length(completions, **kwargs):\n    return [float(len(c)) for c in completions]\n"
        "def nothing(completions, **kwargs):\n    pass\n"
        "def words(completions, **kwargs):\n    return completions\n"
        "def one(completions, **kwargs):\n    return [1.0]\n"
        "def scalar(completions, **kwargs):\n    return 1.0\n"
        "def broken(completions, **kwargs):\n    return [1 / 0 for c in completions]\n"
        "def infinite(completions, **kwargs):\n    return [float('inf') for c in completions]\n"
        "def wants(completions, solution, **kwargs):\n    return [1.0 for c in completions]\n"
    )
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in PROMPTS))
    return {
        "model_name_or_path": model_path,
        "reward_funcs": f"{tmp_path}/reward.py:length",  # one string is a list of one
        "dataset_name": f"{tmp_path}/prompts.jsonl",
        "output_dir": f"{tmp_path}/run",
        "num_generations": 4,
        "per_device_train_batch_size": 8,
        "max_completion_length": 4,
        "max_steps": 1,
        "report_to": "none",
        "bf16": False,
        "use_cpu": True,
        "save_strategy": "no",
        "logging_steps": 1,
    }


@pytest.fixture
def run(good, tmp_path, capsys):
    """What is printed on stderr by `tea train` with the good config but for some changes, which must exit with 2."""

    def run_command(*flags, text=None, **changes):
        config = {key: value for key, value in {**good, **changes}.items() if value is not None}
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(config) if text is None else text)
        capsys.readouterr()
        with pytest.raises(SystemExit) as error:
            command(["--config", str(path), *flags], prog="tea train")
        assert error.value.code == 2
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1
        return lines[0]

    return run_command


def test_the_config_of_these_tests_trains_with_one_reward_as_a_string(good, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(good))
    trainer = main(*parse(["--config", str(path)]))
    assert trainer.reward_func_names == ["length"]
    assert trainer.state.global_step == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"reward_funcs": None}, "there is nothing to train against: set reward_model_name_or_path or reward_funcs"),
        ({"model_name_or_path": None}, "there is no model to train: set model_name_or_path"),
        ({"model_name_or_path": "./nope"}, "model_name_or_path './nope' cannot be loaded"),
        ({"model_name_or_path": "org/nope"}, "model_name_or_path 'org/nope' cannot be loaded"),
        ({"reward_funcs": "no_such_file.py:f"}, "reward file 'no_such_file.py' does not exist"),
        ({"reward_funcs": "nope"}, "reward 'nope' is neither"),
        ({"reward_funcs": "no_such_package.module:f"}, "No module named 'no_such_package'"),
        ({"reward_model_name_or_path": "./nope"}, "reward model './nope' cannot be loaded"),
        ({"dataset_name": None}, "name the data in exactly one of dataset_name and datasets; neither is given"),
        ({"dataset_name": "nope.jsonl"}, "dataset_name 'nope.jsonl': there is no such file or directory"),
        ({"dataset_name": "org/nope"}, "dataset_name 'org/nope'"),
        ({"advantage_estimator": "max_at_k", "k": 99}, "advantage estimator 'max_at_k' fails on rewards of shape"),
        ({"advantage_estimator": "tee"}, "tee"),
        ({"tail_fraction": 2}, "tail_fraction"),
        ({"advantage_estimator": "tea", "k": 4}, "k=4 is set, but the estimator 'tea' has no such option"),
        ({"num_generations": 3, "gradient_accumulation_steps": 1}, "is not a multiple of num_generations = 3"),
        ({"per_device_train_batch_size": 64}, "there are 8 training prompts, but one generation batch takes 16"),
        ({"eval_strategy": "steps"}, "there is no split 'test' in the dataset, which has: train; set dataset_test_spl"),
        ({"held_out": 8}, "held_out = 8 leaves nothing to train on: there are 8 different prompts"),
        ({"max_prompt_length": 1}, "nothing is left of split 'train': of 8 rows, 8 longer than 1 tokens"),
        ({"dataset_streaming": True, "max_steps": -1}, "streamed data has no length, so max_steps must be set"),
        ({"max_steps": "ten"}, "max_steps must be int, got 'ten'"),
        ({"max_steps": 1.5}, "max_steps must be int, got '1.5'"),
        ({"learning_rate": "fast"}, "learning_rate must be float, got 'fast'"),
        ({"use_peft": "maybe"}, "use_peft must be true or false, got 'maybe'"),
        ({"target_n": [1, 2]}, "target_n takes one value, got [1, 2]"),
        ({"dtype": "float8"}, "dtype must be one of auto, bfloat16, float16, float32, got 'float8'"),
        ({"target_m": 3}, "there is no option target_m. Did you mean: target_m -> target_n?"),
        ({"use_peft": True, "lora_target_modules": ["q_proj"]}, "lora_target_modules q_proj matches no layer"),
        ({"resume_from_checkpoint": "./nope"}, "checkpoint './nope' cannot be resumed from"),
    ],
    ids=lambda value: json.dumps(value)[:50] if isinstance(value, dict) else "",
)
def test_wrong_values(run, changes, message):
    assert message in run(**changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [1, 2", "is not YAML"), ("just text", "must hold `key: value` lines, got str"), ("", "got NoneType")],
)
def test_files_that_are_no_configs(run, text, message):
    assert message in run(text=text)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--config"], "--config needs a YAML file after it"),
        (["--config", "configs/tea_ultrafedback.yaml"], "does not exist; configs has tea_ultrafeedback.yaml"),
        (["--config", "a.yaml", "--config", "b.yaml"], "--config is given twice"),
        (["--target_m", "3"], "target_m -> target_n"),
        (["--target_n"], "expected one argument"),
        (["--max_steps", "ten"], "max_steps must be int, got 'ten'"),
        (["--deduplicate", "rows"], "deduplicate must be one of prompt, row, none, got 'rows'"),
    ],
)
def test_wrong_words_on_the_command_line(capsys, monkeypatch, words, message):
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as error:
        command(words, prog="tea train")
    assert error.value.code == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert len(printed.strip().splitlines()) == 1


def test_a_directory_that_cannot_be_written(run, tmp_path):
    (tmp_path / "file").write_text("")
    printed = run(output_dir=f"{tmp_path}/file/run")
    assert f"output_dir '{tmp_path}/file/run' cannot be written to: Not a directory; choose another" in printed


def test_a_disk_that_is_full(run, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: shutil._ntuple_diskusage(2000, 1000, 1000))
    assert "a checkpoint takes about 0.0 GB, but only 0.0 GB are free" in run(save_strategy="steps")


def test_conversations_without_a_chat_template(run, tmp_path, model_path):
    plain = tmp_path / "plain"
    AutoModelForCausalLM.from_pretrained(model_path).save_pretrained(plain)
    tokenizer = AutoTokenizer.from_pretrained(model_path)
    tokenizer.chat_template = None
    tokenizer.save_pretrained(plain)
    (plain / "chat_template.jinja").unlink(missing_ok=True)
    printed = run(model_name_or_path=str(plain), chat_prompts=True)
    assert "the prompts are conversations, but the tokenizer of" in printed
    assert "has no chat template" in printed


def test_text_for_a_chat_model_is_warned_of(good, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(good))
    with pytest.warns(UserWarning, match="the prompts are plain text, but .* has a chat template"):
        main(*parse(["--config", str(path)]))


def test_full_finetuning_in_bfloat16_is_warned_of(good, tmp_path, recwarn):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(good))
    main(*parse(["--config", str(path), "--dtype", "bfloat16"]))
    main(*parse(["--config", str(path), "--output_dir", f"{tmp_path}/lora", "--dtype", "bfloat16", "--use_peft"]))
    main(*parse(["--config", str(path), "--output_dir", f"{tmp_path}/float32"]))
    warned = [str(w.message) for w in recwarn if "rounds most updates" in str(w.message)]
    assert len(warned) == 1
    assert "trained in bfloat16" in warned[0]
    # That it is so: the update of a weight of 0.02 by 1e-5 is lost.
    weight = torch.tensor(0.02, dtype=torch.bfloat16)
    assert weight + torch.tensor(1e-5, dtype=torch.bfloat16) == weight


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("nothing", "reward function 'nothing' returned None (NoneType); it must return a list of 8 numbers"),
        ("words", "for completion 0; it must be a number, or None where there is no reward"),
        ("one", "reward function 'one' returned 1 rewards for 8 completions"),
        ("scalar", "reward function 'scalar' returned 1.0 (float); it must return a list of 8 numbers"),
        ("broken", "reward function 'broken' raised ZeroDivisionError: division by zero"),
        ("infinite", "reward function 'infinite' returned inf for completion 0"),
        ("wants", "reward function 'wants' cannot be called: wants() missing 1 required positional argument"),
    ],
)
def test_reward_functions_are_named(run, tmp_path, function, message):
    printed = run(reward_funcs=f"{tmp_path}/reward.py:{function}")
    assert message in printed
    if function == "broken":
        assert "reward.py, line 12)" in printed


def test_a_language_model_is_no_reward_model(run, model_path):
    printed = run(reward_funcs=None, reward_model_name_or_path=model_path)
    assert "has no trained score head (it is a LlamaForCausalLM): score.weight would be random" in printed


def test_a_classifier_is_no_reward_model(run, tmp_path):
    tokenizer = tiny_tokenizer()
    model = tiny_reward_model(tokenizer)
    model.config.num_labels = 3
    type(model)(model.config).save_pretrained(tmp_path / "classifier")
    tokenizer.save_pretrained(tmp_path / "classifier")
    printed = run(reward_funcs=None, reward_model_name_or_path=str(tmp_path / "classifier"))
    assert "has 3 labels" in printed
    assert "a reward needs exactly 1" in printed


def test_code_of_a_model_is_run_only_when_told(run, tmp_path, model_path):
    folder = tmp_path / "remote"
    AutoModelForCausalLM.from_pretrained(model_path).save_pretrained(folder)
    AutoTokenizer.from_pretrained(model_path).save_pretrained(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text("raise SystemExit('this was run')\n")
    printed = run(model_name_or_path=str(folder))
    assert "read that code, then set --trust_remote_code true" in printed


def test_an_earlier_run_is_not_overwritten(run, good, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(good))
    main(*parse(["--config", str(path)]))
    assert "holds a model" in run()


def test_a_bug_shows_its_traceback(good, tmp_path, monkeypatch):
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(good))

    def bug(*args, **kwargs):
        raise ValueError("a bug of ours")

    monkeypatch.setattr(script, "load_training_data", bug)
    with pytest.raises(ValueError, match="a bug of ours") as raised:  # and no SystemExit
        command(["--config", str(path)])
    assert not isinstance(raised.value, UserError)


def test_checked_rewards_are_what_the_function_returns():
    def reward(completions, **kwargs):
        return torch.tensor([1.5, float("nan")])

    wrapped = checked(reward)
    assert wrapped.__name__ == "reward"
    first, second = wrapped(completions=["a", "b"])
    assert first == 1.5
    assert second != second


@pytest.mark.parametrize(
    ("m", "batch", "accumulated"), [(16, 8, 2), (8, 8, 1), (4, 8, 1), (12, 8, 3), (64, 8, 8), (16, 16, 1), (16, 6, 8)]
)
def test_the_default_batch_fits_the_groups(m, batch, accumulated, monkeypatch):
    options = {"output_dir": "unused", "use_cpu": True, "bf16": False, "num_generations": m}
    args = TEAConfig(per_device_train_batch_size=batch, **options)
    assert args.gradient_accumulation_steps == accumulated
    assert args.generation_batch_size == batch * accumulated
    assert args.generation_batch_size % m == 0
    # What is set is left alone, or refused.
    assert TEAConfig(gradient_accumulation_steps=2 * m, **options).gradient_accumulation_steps == 2 * m
    assert TEAConfig(generation_batch_size=8 * m, **options).gradient_accumulation_steps == 1
    with pytest.raises(ValueError, match=r"7 completions, which is not a multiple of num_generations"):
        TEAConfig(per_device_train_batch_size=7, gradient_accumulation_steps=1, **options)


def test_help_is_short_and_ours_comes_first(capsys):
    for flag, least, most in (("--help", 60, 170), ("--help-all", 400, 900)):
        with pytest.raises(SystemExit) as error:
            command([flag], prog="tea train")
        assert error.value.code == 0
        printed = capsys.readouterr().out
        assert least < len(printed.splitlines()) < most
        assert printed.index("--dataset_name") < printed.index("--target_n") < printed.index("--learning_rate")
    assert "--adam_beta1" in printed


def test_user_errors_are_value_errors():
    with pytest.raises(ValueError, match="x"):
        raise UserError("x")
