"""recipes/train.py and `tea train`: a YAML file, and flags that override it."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers
import yaml
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from tea.cli import app
from tea.trainers.checkpoints import list_checkpoints
from tea.trainers.errors import UserError
from tea.trainers.script import main, parse
from tea.trainers.selection import load_training_data
from tests.reference.tiny import tiny_reward_model
from tests.trainers.conftest import PROMPTS

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def data_path(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": p, "question": p.upper(), "answer": "3"}) + "\n" for p in PROMPTS))
    return str(path)


@pytest.fixture(scope="session")
def reward_path(tmp_path_factory, tokenizer):
    path = str(tmp_path_factory.mktemp("reward"))
    tiny_reward_model(tokenizer).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def config_path(tmp_path, model_path, data_path, reward_path):
    def write(**changes):
        config = {
            "model_name_or_path": model_path,
            "reward_model_name_or_path": reward_path,
            "dataset_name": data_path,
            "output_dir": str(tmp_path / "run"),
            "advantage_estimator": "ladder",
            "target_n": 32,
            "rungs": [2, 4],
            "num_generations": 4,
            "per_device_train_batch_size": 8,
            "max_completion_length": 6,
            "max_steps": 2,
            "learning_rate": 1e-2,
            "report_to": "none",
            "bf16": False,
            "use_cpu": True,
            "gradient_checkpointing": False,
            "logging_steps": 1,
            "save_steps": 1,
            "dtype": "float32",
            **changes,
        }
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump({key: value for key, value in config.items() if value is not None}))
        return str(path)

    return write


def run(*command):
    env = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, env=env, cwd=ROOT, timeout=120)


def weights(path):
    return AutoModelForCausalLM.from_pretrained(path).state_dict()


def test_flags_override_the_file(config_path):
    script_args, training_args, *_ = parse(["--config", config_path(), "--target_n", "64", "--rungs", "1", "3"])
    assert training_args.target_n == 64
    assert training_args.rungs == [1, 3]
    assert training_args.advantage_estimator == "ladder"
    assert training_args.num_generations == 4
    assert script_args.dataset_name.endswith("prompts.jsonl")


def test_estimator_kwargs_from_file_and_flag(config_path):
    options = {"advantage_estimator": "pass_at_n", "rungs": None}
    args = parse(["--config", config_path(**options, estimator_kwargs={"prior": [1, 2]})])[1]
    assert args.estimator_kwargs == {"prior": [1, 2]}
    args = parse(["--config", config_path(**options), "--estimator_kwargs", '{"prior": [2, 1]}'])[1]
    assert args.estimator_kwargs == {"prior": [2, 1]}


@pytest.mark.parametrize("where", ["file", "flag"])
@pytest.mark.parametrize("value", [0.5, "auto"])
def test_tail_fraction_is_a_number_or_auto(config_path, where, value):
    options = {"advantage_estimator": "tea", "rungs": None}
    if where == "file":
        args = parse(["--config", config_path(**options, tail_fraction=value)])[1]
    else:
        args = parse(["--config", config_path(**options), "--tail_fraction", str(value)])[1]
    assert args.tail_fraction == value


@pytest.mark.parametrize("where", ["file", "flag"])
def test_unknown_key_is_refused_with_the_nearest(config_path, where):
    in_file, on_line = ({"target_m": 3}, []) if where == "file" else ({}, ["--target_m", "3"])
    arguments = ["--config", config_path(**in_file), *on_line]
    with pytest.raises(ValueError, match="target_m -> target_n"):
        parse(arguments)


def test_recipe_and_tea_train_give_the_same_model(config_path, tmp_path):
    recipe = run("recipes/train.py", "--config", config_path(output_dir=str(tmp_path / "recipe")))
    assert recipe.returncode == 0, recipe.stderr
    command = CliRunner().invoke(app, ["train", "--config", config_path(output_dir=str(tmp_path / "command"))])
    assert command.exit_code == 0, command.output
    first, second = weights(tmp_path / "recipe"), weights(tmp_path / "command")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert "tea/best_of_n" in recipe.stdout


def test_interrupted_run_is_not_overwritten_and_resumes_exactly(config_path, tmp_path):
    whole = main(*parse(["--config", config_path(output_dir=str(tmp_path / "whole"), max_steps=3)]))
    short = str(tmp_path / "short")
    # A run that stops after a checkpoint: the schedule is that of the whole, the end is not reached.
    config = config_path(output_dir=short, max_steps=3)
    arguments = parse(["--config", config])
    import transformers

    class Interrupt(transformers.TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            if state.global_step == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        main(*arguments, callbacks=[Interrupt()])
    with pytest.raises(ValueError, match="holds checkpoint-2 of an earlier run: go on with"):
        main(*parse(["--config", config]))
    resumed = main(*parse(["--config", config, "--resume_from_checkpoint", "auto"]))
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def data_of(config):
    script_args, _, _, dataset_args = parse(["--config", config])
    return load_training_data(script_args, dataset_args).train


def test_prompt_column_and_conversations(config_path):
    assert data_of(config_path())[0]["prompt"] == PROMPTS[0]
    row = data_of(config_path(prompt_column="question", system_prompt="Be brief."))[0]
    assert row["prompt"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": PROMPTS[0].upper()},
    ]
    assert row["answer"] == "3"


def test_missing_column_and_nothing_to_train_against(config_path):
    with pytest.raises(ValueError, match="prompt_column 'text' is not in split 'train', which has: prompt, question"):
        data_of(config_path(prompt_column="text"))
    with pytest.raises(ValueError, match="nothing to train against"):
        main(*parse(["--config", config_path(reward_model_name_or_path=None)]))
    with pytest.raises(ValueError, match="exactly one of dataset_name and datasets"):
        data_of(config_path(dataset_name=None))


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.yaml")), ids=lambda p: p.name)
def test_shipped_configs_parse_and_say_how_to_run_them(path, monkeypatch):
    first = path.read_text().splitlines()[0]
    words = first.removeprefix("# CUDA_VISIBLE_DEVICES=0 ").removeprefix("# ")  # the server has the other one
    assert words == f"accelerate launch recipes/train.py --config configs/{path.name}"
    # bf16 needs a device that has it; everything else is validated as it stands.
    training_args = parse(["--config", str(path), "--bf16", "false", "--use_cpu", "true"])[1]
    assert training_args.advantage_estimator is not None


# --- The life of a run ---


class Terminate(transformers.TrainerCallback):
    """A scheduler that wants its machine back in the first step."""

    def on_step_begin(self, args, state, control, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_ends_the_command_well(config_path, tmp_path, capsys):
    changes = {"max_steps": 3, "save_strategy": "no"}
    whole = main(*parse(["--config", config_path(output_dir=str(tmp_path / "whole"), **changes)]))
    config = config_path(output_dir=str(tmp_path / "stopped"), **changes)
    stopped = main(*parse(["--config", config]), callbacks=[Terminate()])
    assert stopped.stopped_by == "SIGTERM"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert "stopped by SIGTERM after step 1 of 3: go on with --resume_from_checkpoint auto" in capsys.readouterr().out
    assert [path.name for path in list_checkpoints(tmp_path / "stopped")] == ["checkpoint-1"]
    assert not (tmp_path / "stopped" / "model.safetensors").exists()
    resumed = main(*parse(["--config", config, "--resume_from_checkpoint", "auto"]))
    assert resumed.stopped_by is None
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)
    expected = weights(tmp_path / "whole")
    assert all(tensor.equal(expected[name]) for name, tensor in weights(tmp_path / "stopped").items())
    assert not (tmp_path / "stopped" / ".partial").exists()


def test_a_model_without_checkpoints_is_not_overwritten(config_path):
    arguments = ["--config", config_path(max_steps=1, save_strategy="no")]
    main(*parse(arguments))
    for more in ([], ["--resume_from_checkpoint", "auto"]):
        with pytest.raises(UserError, match=r"run' holds a model \(config.json\) and no checkpoint .*choose another"):
            main(*parse([*arguments, *more]))
