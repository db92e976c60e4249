import json
import subprocess
import sys

import numpy as np
import pytest
from typer.testing import CliRunner

from tea.bestofn import best_of_n_curve
from tea.cli import app
from tea.report import format_interval
from tests.reference.tiny import tiny_llama, tiny_reward_model, tiny_tokenizer

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
    curve = result["curves"]["rm"]
    assert format_interval(curve["values"][-1], curve["ci_low"][-1], curve["ci_high"][-1]) in table.stdout

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
    code = "import sys, tea.cli; print({'torch', 'scipy', 'transformers', 'pandas'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


@pytest.fixture(scope="module")
def reward_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("rewards") / "r.npy"
    np.save(path, np.random.default_rng(0).normal(size=(200, 32)))
    return path


def test_forecast_command(reward_file):
    from tea.bestofn import forecast_best_of_n

    result = json.loads(runner.invoke(app, ["forecast", str(reward_file), "--ns", "64,512", "--json"]).stdout)
    expected = forecast_best_of_n(np.load(reward_file), [64, 512])
    assert result["values"] == expected.values.tolist()
    assert result["verdict"] == "ok"
    table = runner.invoke(app, ["forecast", str(reward_file), "--method", "ladder"])
    assert "verdict: ok" in table.stdout
    assert "forecast by ladder from 32 samples" in " ".join(table.stdout.split())
    refused = runner.invoke(app, ["forecast", str(reward_file), "--method", "magic"])
    assert refused.exit_code == 2
    assert "method must be one of" in refused.stderr


def test_diagnose_command(reward_file):
    result = json.loads(runner.invoke(app, ["diagnose", str(reward_file), "--json"]).stdout)
    assert result["supported_tail_fraction"] == 1.0
    assert "support a Gaussian tail up to alpha = 1.00" in runner.invoke(app, ["diagnose", str(reward_file)]).stdout


def test_plan_command(reward_file):
    from tea.bestofn import plan_samples

    options = ["--cost", "0.02", "--target", "2.5", "--min-gain", "0.3", "--budget", "9000"]
    result = json.loads(runner.invoke(app, ["plan", str(reward_file), *options, "--json"]).stdout)
    plan = plan_samples(np.load(reward_file), cost_per_sample=0.02, target=2.5, min_gain_per_doubling=0.3)
    assert (result["best_n"], result["target_n"], result["doubling_n"]) == (plan.best_n, plan.target_n, plan.doubling_n)
    assert sum(result["split"]["samples"].values()) == 9000
    text = runner.invoke(app, ["plan", str(reward_file), *options]).stdout
    assert f"largest value minus cost: N = {plan.best_n}" in text
    refused = runner.invoke(app, ["plan", str(reward_file), "--cost-per-token", "0.1"])
    assert "no column 'num_tokens'" in refused.stderr


def test_compare_command(reward_file, tmp_path):
    np.save(tmp_path / "other.npy", np.load(reward_file) + 0.5)
    result = runner.invoke(
        app, ["compare", f"base={reward_file}", str(tmp_path / "other.npy"), "--output-dir", str(tmp_path / "out")]
    )
    assert result.exit_code == 0, result.output
    assert "| N | base | other |" in result.stdout
    assert "other - base" in result.stdout
    assert (tmp_path / "out" / "report.html").is_file()
    as_json = runner.invoke(app, ["compare", f"base={reward_file}", str(tmp_path / "other.npy"), "--json"])
    difference = json.loads(as_json.stdout)["runs"][1]["difference_to_first"]
    np.testing.assert_allclose(difference["values"], 0.5)


def test_backtest_option(reward_file):
    result = json.loads(
        runner.invoke(app, ["forecast", str(reward_file), "--backtest", "8", "--ns", "16", "--json"]).stdout
    )
    assert {r["method"] for r in result["records"]} == {"auto", "gaussian", "ladder", "exponential", "gpd"}
    assert all(r["num_samples"] == 8 and r["n"] == 16 for r in result["records"])
    assert "coverage" in runner.invoke(app, ["forecast", str(reward_file), "--backtest", "8"]).stdout
    refused = runner.invoke(app, ["forecast", str(reward_file), "--backtest", "16"])
    assert "too few to hide all but 16" in refused.stderr


def test_plan_for_training_and_verifiers(reward_file, tmp_path):
    options = ["--rollouts", "128", "--train-n", "16", "--json"]
    result = json.loads(runner.invoke(app, ["plan", str(reward_file), *options]).stdout)
    assert [r["group_size"] for r in result["training"]] == [4, 8, 16, 32]
    assert sum(r["recommended"] for r in result["training"]) == 1
    rng = np.random.default_rng(1)
    np.save(tmp_path / "correct.npy", rng.random((100, 32)) < rng.beta(0.5, 2.0, size=(100, 1)))
    text = runner.invoke(app, ["plan", str(tmp_path / "correct.npy"), "--false-positive-rate", "0.1"]).stdout
    assert "samples hurt" in text


def test_curve_says_where_the_value_turns_down(tmp_path):
    rng = np.random.default_rng(2)
    score = rng.uniform(size=(100, 256))
    gold = np.where(score < 0.99, score, -1.0)
    rows = [
        {"prompt": p, "score": s, "gold": g}
        for p in range(100)
        for s, g in zip(score[p].tolist(), gold[p].tolist(), strict=True)
    ]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = runner.invoke(app, ["curve", str(tmp_path / "r.jsonl"), "--reward", "score", "--value", "gold"])
    assert "gold has turned down: highest at N = " in result.stdout
