import json
import subprocess
import sys

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from tea.bestofn import best_of_n_curve
from tea.bestofn.cli import register
from tests.reference.tiny import tiny_llama, tiny_reward_model, tiny_tokenizer

app = typer.Typer()
register(app)
runner = CliRunner()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    path = tmp_path_factory.mktemp("models")
    tokenizer = tiny_tokenizer()
    tiny_llama(tokenizer).save_pretrained(path / "policy")
    tokenizer.save_pretrained(path / "policy")
    tiny_reward_model(tokenizer).save_pretrained(path / "rm")
    tokenizer.save_pretrained(path / "rm")
    (path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in ("the", "dog", "fox")))
    (path / "my_reward.py").write_text("def length(completions, **kwargs):\n    return [len(c) for c in completions]\n")
    return path


def _eval(models, output, *options):
    command = ["eval", f"{models}/policy", "--dataset", f"{models}/prompts.jsonl", "--output-dir", str(output)]
    return runner.invoke(app, [*command, "-n", "4", "--max-completion-length", "5", *options])


def test_eval_prints_stores_and_resumes(models, tmp_path):
    rewards = ["--reward", f"{models}/rm", "--reward", f"{models}/my_reward.py:length"]
    first = _eval(models, tmp_path / "run", *rewards, "--json")
    assert first.exit_code == 0, first.output
    result = json.loads(first.stdout)
    assert set(result["curves"]) == {"rm", "length"}
    again = json.loads(_eval(models, tmp_path / "run", *rewards, "--json", "--select-by", "rm").stdout)
    assert again["curves"]["rm"] == {**result["curves"]["rm"], "selected_by": "rm"}
    assert again["curves"]["length"]["values"][-1] <= result["curves"]["length"]["values"][-1]
    table = _eval(models, tmp_path / "run", *rewards, "--ns", "1,4")
    assert f"{result['curves']['rm']['values'][-1]:.4f}" in table.stdout

    curve = runner.invoke(app, ["curve", str(tmp_path / "run"), "--reward", "rm", "--json"])
    assert json.loads(curve.stdout)["values"] == result["curves"]["rm"]["values"]


def test_score_adds_a_reward(models, tmp_path):
    assert _eval(models, tmp_path / "run").exit_code == 0
    command = ["score", str(tmp_path / "run"), "--reward", f"words={models}/my_reward.py:length", "--json"]
    scored = runner.invoke(app, command)
    assert scored.exit_code == 0, scored.output
    assert list(json.loads(scored.stdout)["curves"]) == ["words"]
    refused = runner.invoke(app, command)
    assert refused.exit_code == 2
    assert "already has rewards words" in refused.stderr


def test_curve_of_a_file_with_another_value(tmp_path):
    rng = np.random.default_rng(0)
    rewards, gold = rng.normal(size=(2, 6, 16))
    rows = [
        {"prompt": p, "reward": r, "gold": g}
        for p in range(6)
        for r, g in zip(rewards[p].tolist(), gold[p].tolist(), strict=True)
    ]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = runner.invoke(app, ["curve", str(tmp_path / "r.jsonl"), "--value", "gold", "--ns", "1,8", "--json"])
    expected = best_of_n_curve(select_by=rewards, value=gold, ns=[1, 8])
    assert json.loads(result.stdout)["values"] == expected.values.tolist()
    assert "6 prompts x 16 samples" in result.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--ns", "8"], "N = 8 but --num-samples is 4"),
        (["--ns", "a"], "whole numbers"),
        (["--reward", "nonsense"], "neither a verifier"),
        (["--select-by", "gold"], "none of the rewards"),
        (["--engine", "tgi"], "transformers"),
        (["--temperature", "-1"], "temperature must be"),
        (["--prompt-column", "question"], "no column 'question'; it has: prompt"),
    ],
)
def test_errors_are_one_line_without_a_traceback(models, tmp_path, options, message):
    result = _eval(models, tmp_path / "run", *options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output
    assert not (tmp_path / "run").exists()


def test_importing_the_commands_loads_nothing_heavy():
    code = "import sys, tea.bestofn.cli; print({'torch', 'scipy', 'transformers', 'pandas'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
