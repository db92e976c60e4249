"""What a run leaves beside its weights: the model card, the figure, warnings, the plan of a dry run, a merged model."""

import json
import re
import warnings
from pathlib import Path

import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from tea.cli import app
from tea.trainers.card import command_line
from tea.trainers.errors import UserError
from tea.trainers.merge import merge_adapter
from tea.trainers.script import command, main, parse
from tea.trainers.watch import Watcher, measured_curves, write_figure
from tests.trainers.conftest import PROMPTS

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def config_file(tmp_path, model_path):
    (tmp_path / "reward.py").write_text(
        "def length(completions, **kwargs):\n    return [len(c) + c.count('o') / 2 for c in completions]\n"
    )
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in PROMPTS))

    def write(**changes):
        config = {
            "model_name_or_path": model_path,
            "reward_funcs": f"{tmp_path}/reward.py:length",
            "dataset_name": f"{tmp_path}/prompts.jsonl",
            "output_dir": f"{tmp_path}/run",
            "advantage_estimator": "ladder",
            "rungs": [2, 4],
            "target_n": 64,
            "num_generations": 4,
            "per_device_train_batch_size": 8,
            "max_completion_length": 4,
            "max_steps": 2,
            "save_steps": 1,
            "report_to": "none",
            "bf16": False,
            "use_cpu": True,
            "logging_steps": 1,
            "learning_rate": 1e-2,
            **changes,
        }
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        return str(path)

    return write


def test_model_card_and_figure(config_file, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["/somewhere/bin/tea", "train", "--config", "my config.yaml"])
    main(*parse(["--config", config_file()]))
    for folder in (tmp_path / "run", tmp_path / "run" / "checkpoint-2"):
        assert (folder / "config.json").is_file()
    card = (tmp_path / "run" / "README.md").read_text()
    assert "| advantage estimator | `ladder` |" in card
    assert "rungs = [2, 4]" in card or "rungs = (2, 4)" in card
    assert "| m, rollouts per prompt | 4 |" in card
    assert "| N, samples at deployment of which the best is returned | 64 |" in card
    assert "    tea train --config 'my config.yaml'" in card
    assert "`length` (`reward:length`)" in card
    assert "prompts.jsonl" in card
    assert f"- torch {torch.__version__}" in card
    assert "Not measured during training" in card
    assert "DeepSeekMath" not in card
    front = yaml.safe_load(card.split("---")[1])
    assert front["library_name"] == "transformers"
    assert {"tea", "trl"} <= set(front["tags"])
    assert (tmp_path / "run" / "training.png").read_bytes()[:4] == b"\x89PNG"


def test_command_line_as_a_user_types_it(monkeypatch):
    for argv, expected in (
        (["/x/tea/__main__.py", "train"], "tea train"),
        (["recipes/train.py", "--config", "a.yaml"], "python recipes/train.py --config a.yaml"),
    ):
        monkeypatch.setattr("sys.argv", argv)
        assert command_line() == expected


def test_lora_trains_resumes_merges_and_evaluates(config_file, tmp_path, model_path):
    lora = {"use_peft": True, "lora_target_modules": "all-linear", "lora_dropout": 0.0, "gradient_checkpointing": True}
    whole = main(*parse(["--config", config_file(output_dir=f"{tmp_path}/whole", **lora)]))
    # The second run stops after its first step, as a killed one would, and goes on.
    import transformers

    class Stop(transformers.TrainerCallback):
        def on_save(self, args, state, control, **kwargs):
            raise KeyboardInterrupt

    arguments = ["--config", config_file(**lora)]
    with pytest.raises(KeyboardInterrupt):
        main(*parse(arguments), callbacks=[Stop()])
    resumed = main(*parse([*arguments, "--resume_from_checkpoint", "auto"]))
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)

    run = str(tmp_path / "run")
    result = CliRunner().invoke(app, ["merge", run])
    assert result.exit_code == 0, result.output
    merged = AutoModelForCausalLM.from_pretrained(f"{run}/merged", dtype=torch.float32)
    base = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(f"{run}/merged")
    inputs = tokenizer("the quick", return_tensors="pt")
    with torch.no_grad():
        expected = resumed.model.eval()(**inputs).logits
        torch.testing.assert_close(merged(**inputs).logits, expected, rtol=1e-4, atol=1e-4)
        assert (base(**inputs).logits - expected).abs().max() > 1e-3
    options = ["--dataset", f"{tmp_path}/prompts.jsonl", "--reward", f"{tmp_path}/reward.py:length", "-n", "2"]
    small = [*options, "--max-completion-length", "3", "--limit", "2"]
    for model in (f"{run}/merged", run):  # the adapter alone too
        evaluated = CliRunner().invoke(app, ["eval", model, *small, "--output-dir", f"{tmp_path}/eval{len(model)}"])
        assert evaluated.exit_code == 0, evaluated.output

    again = CliRunner().invoke(app, ["merge", run])
    assert again.exit_code == 2
    with pytest.raises(UserError, match=r"holds no LoRA adapter .* but a whole model, which needs no merging"):
        merge_adapter(model_path)
    with pytest.raises(UserError, match="but no model"):
        merge_adapter(str(tmp_path))


def test_dry_run_says_what_a_run_takes_and_writes_nothing(config_file, tmp_path, capsys):
    command(["--config", config_file(), "--dry_run", "--held_out", "2"], prog="tea train")
    printed = capsys.readouterr().out
    base = AutoModelForCausalLM.from_pretrained(parse(["--config", config_file()])[2].model_name_or_path)
    count = sum(p.numel() for p in base.parameters())
    assert f"model: {count:,} parameters, {count:,} of them trained" in printed
    assert "training prompts: 6" in printed
    assert "rollouts: m = 4 for each of 2 prompts, 8 per generation batch, estimator ladder, N = 64" in printed
    assert "steps: 2, 16 rollouts in all" in printed
    assert "best-of-N on held-out prompts: 3 times 128 completions, 384 in all" in printed
    assert re.search(r"memory: +[\d.]+ GB at most per process, estimated", printed)
    assert re.search(r"time: about [\d.]+ h on .*, [\d.]+ h of them for held-out prompts", printed)
    assert not list((tmp_path / "run").glob("*"))


def logs(count=20, **series):
    """A log history: each series a function of the step, or a constant."""
    return [
        {"step": i, **{k.replace("__", "/"): v(i) if callable(v) else v for k, v in series.items()}}
        for i in range(count)
    ]


@pytest.mark.parametrize(
    ("history", "name"),
    [
        (logs(tea__frac_degenerate_groups=0.7), "degenerate"),
        (logs(reward_std=lambda i: 2.0 if i < 8 else 0.1), "spread"),
        (logs(kl=lambda i: 0.001 * 3**i), "kl"),
        (
            [*logs(tea__best_of_n=9.0, reward_std=1.0), {"step": 20, "eval_best_of_1": 1.0, "eval_best_of_n": 3.0}],
            "forecast",
        ),
        (
            logs(
                reward=lambda i: float(i),
                reward_std=2.0,
                rewards__gold__mean=lambda i: -float(i),
                rewards__gold__std=2.0,
            ),
            "gold gold",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_goes_wrong_is_said_once(history, name):
    watcher = Watcher(watched=("gold",))
    assert [found for found, _ in watcher.findings(history)] == [name]
    from types import SimpleNamespace

    state = SimpleNamespace(is_world_process_zero=True, log_history=history, global_step=20)
    with pytest.warns(UserWarning, match="step 20: "):
        watcher.on_log(None, state, None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watcher.on_log(None, state, None)


def test_a_healthy_run_is_left_alone():
    history = logs(
        reward=lambda i: i / 10, reward_std=lambda i: 2 - i / 40, kl=lambda i: 0.01 * i, tea__best_of_n=4.0,
        tea__frac_degenerate_groups=0.2, rewards__gold__mean=lambda i: i / 20, rewards__gold__std=1.0,
    )  # fmt: skip
    history.append({"step": 20, "eval_best_of_1": 1.0, "eval_best_of_n": 3.0})
    assert Watcher(watched=("gold",)).findings(history) == []


def test_an_entry_of_the_log_is_read_once():
    """A run of 100,000 logged steps must not read all of them again at every step."""
    history = logs(
        reward=lambda i: i / 10, reward_std=lambda i: 2.0 if i < 12 else 0.1, kl=lambda i: 0.01 * 3**i,
        tea__best_of_n=9.0, tea__frac_degenerate_groups=lambda i: i / 20,
        rewards__gold__mean=lambda i: -i, rewards__gold__std=1.0,
    )  # fmt: skip
    history.insert(12, {"step": 12, "eval_best_of_1": 1.0, "eval_best_of_n": 1.5})
    watcher, grown = Watcher(watched=("gold",)), []
    for entry in history:
        grown.append(entry)
        assert watcher.findings(grown) == Watcher(watched=("gold",)).findings(history[: len(grown)])
        grown[-1] = None
    assert {name for name, _ in Watcher(watched=("gold",)).findings(history)} == {
        "degenerate", "spread", "kl", "forecast", "gold gold"
    }  # fmt: skip
    assert watcher.findings([]) == []  # another run


def test_measured_curves_and_their_figure(tmp_path):
    history = [
        {"step": 5, "tea/best_of_n": 9.0, "reward": 1.0, "reward_std": 0.5},
        {"step": 10, "eval_best_of_1": 1.5, "eval_best_of_4": 2.0, "eval_best_of_n": 2.5, "eval_best_of_n_gain": 0.5},
        {"step": 0, "eval_best_of_1": 1.0, "eval_best_of_4": 1.5, "eval_best_of_n": 2.0},
    ]
    assert measured_curves(history, 128) == [(0, {1: 1.0, 4: 1.5, 128: 2.0}), (10, {1: 1.5, 4: 2.0, 128: 2.5})]
    write_figure(history, tmp_path / "a.png", 128)
    write_figure(history[:1], tmp_path / "b.png")
    assert {p.name for p in tmp_path.iterdir()} == {"a.png", "b.png"}
