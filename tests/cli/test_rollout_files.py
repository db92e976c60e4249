"""The commands on the files of other tools, on missing rewards, and what they say."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner

from tea.bestofn import best_of_n_curve, forecast_best_of_n, vote_curves
from tea.cli import app
from tea.estimators import get_estimator
from tests.reference.tiny import tiny_llama, tiny_tokenizer

FILES = Path(__file__).parents[1] / "rollouts/importers/fixtures"
runner = CliRunner()


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    path = tmp_path_factory.mktemp("models")
    tokenizer = tiny_tokenizer()
    tiny_llama(tokenizer).save_pretrained(path / "policy")
    tokenizer.save_pretrained(path / "policy")
    (path / "prompts.jsonl").write_text("".join(json.dumps({"prompt": p}) + "\n" for p in ("the", "dog", "fox")))
    return path


def run(*arguments):
    return runner.invoke(app, [str(argument) for argument in arguments])


def ok(*arguments):
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@pytest.fixture(scope="module")
def graded(tmp_path_factory):
    path = tmp_path_factory.mktemp("graded") / "r.npy"
    np.save(path, np.random.default_rng(0).normal(size=(40, 32)))
    return path


def test_what_was_recognised_is_said_in_one_line():
    result = run("curve", FILES / "verifiers01")
    assert result.exit_code == 0
    assert "an evaluation by verifiers, 3 prompts x 4 samples" in result.stderr
    refused = run("curve", FILES / "trl")
    assert refused.exit_code == 2
    assert "several rewards: length, vowels. Say which: --reward length" in refused.stderr


def test_score_with_and_answer():
    found = ok("curve", FILES / "lm_eval", "--score-with", "last_number", "--answer", "last_number")
    match = np.array([[1, 0, 0, 1], [1, 0, 0, 1], [0, 0, 1, 0]], dtype=float)
    assert found["values"] == best_of_n_curve(match).values.tolist()
    guesses = [["0", "3", "1", "0"], ["2", "5", "4", "2"], ["1", "0", "4", "7"]]
    expected = vote_curves(match, guesses, [1, 2, 4])
    for rule, curve in expected.curves.items():
        assert found["deployments"][rule]["values"] == curve.values.tolist()
    table = run("curve", FILES / "lm_eval", "--score-with", "last_number", "--answer", "boxed")
    assert table.exit_code == 2
    assert "--answer boxed finds no answer" in table.stderr


def test_missing_rewards_are_counted_or_refused(tmp_path):
    matrix = np.random.default_rng(0).normal(size=(20, 16))
    rows = [{"prompt": p, "reward": r} for p, line in enumerate(matrix.tolist()) for r in line]
    rows[3]["reward"] = None
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    matrix[0, 3] = np.nan
    curve = ok("curve", path)
    assert curve["values"] == best_of_n_curve(matrix, missing="skip").values.tolist()
    assert curve["num_missing"] == 1
    per_prompt = [best_of_n_curve([row[~np.isnan(row)]], [8]).values[0] for row in matrix]
    np.testing.assert_allclose(curve["values"][curve["ns"].index(8)], np.mean(per_prompt))
    for command in ("forecast", "diagnose", "plan", "compare"):
        result = run(command, path)
        assert result.exit_code == 0, result.output
        assert "1 of 320 rewards are missing, on 1 of 20 prompts" in result.stderr
        assert run(command, path, "--missing", "fail").exit_code == 2
    filled = np.array([row[~np.isnan(row)][:15] for row in matrix])
    assert ok("forecast", path, "--ns", "64")["values"] == forecast_best_of_n(filled, [64]).values.tolist()


def test_an_evaluation_with_a_reward_that_does_not_always_apply(models, tmp_path):
    (models / "some.py").write_text(
        "def short(completions, **kwargs):\n"
        "    return [None if i == 1 else 1.0 * len(c) for i, c in enumerate(completions)]\n"
    )
    command = ["eval", models / "policy", "--dataset", models / "prompts.jsonl", "--output-dir", tmp_path / "run"]
    result = run(*command, "-n", 4, "--max-completion-length", 5, "--reward", f"{models}/some.py:short", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["curves"]["short"]["num_missing"] == 1
    assert "1 of 12 rewards are missing" in result.stderr
    report = run("compare", tmp_path / "run", "--output-dir", tmp_path / "report")
    assert report.exit_code == 0, report.output
    page = (tmp_path / "report/report.html").read_text()
    assert "How they were sampled" in page
    assert "temperature" in page
    stored = pd.read_parquet(tmp_path / "run/samples.parquet").query("prompt == 'dog'")
    best = stored.loc[stored["rewards/short"].idxmax()]
    assert f"best of {stored['rewards/short'].count()}: {best['rewards/short']:.4g}" in page


def test_trend_over_a_training_run(tmp_path):
    found = ok(
        "forecast", FILES / "trl", "--reward", "length", "--window", 2, "--ns", 16, "--figure", tmp_path / "t.svg"
    )
    assert [(w["first_step"], w["last_step"], w["num_prompts"]) for w in found["windows"]] == [(1, 2, 4), (3, 4, 4)]
    frames = [pd.read_parquet(FILES / f"trl/completions/completions_{s:05d}.parquet") for s in (3, 4)]
    matrix = np.concatenate([frame["length"].to_numpy().reshape(2, 4) for frame in frames])
    assert found["windows"][1]["best_of_group"][0] == pytest.approx(matrix.max(axis=1).mean())
    assert found["windows"][1]["forecast"][0] == pytest.approx(forecast_best_of_n(matrix, [16]).values[0])
    assert (tmp_path / "t.svg").read_text().startswith("<?xml")
    table = run("forecast", FILES / "trl", "--reward", "length", "--window", 4, "--ns", 16).stdout
    assert "over the training run" in table
    assert "1 to 4" in table
    assert "has no steps: --window is for rollouts" in run("forecast", FILES / "scorio", "--window", 1).stderr


def test_the_forecast_says_its_verdict_first_and_stays_below_the_maximum(tmp_path, graded):
    assert run("forecast", graded).stdout.startswith("verdict: ")
    rewards = np.minimum(np.random.default_rng(0).normal(size=(40, 32)), 1.0)
    np.save(tmp_path / "clipped.npy", rewards)
    found = ok("forecast", tmp_path / "clipped.npy", "--ns", "512")
    assert found["max_reward"] == 1.0
    assert max(found["values"] + found["ci_high"]) <= 1.0
    assert ok("forecast", graded, "--ns", "4096", "--max-reward", "3.9")["ci_high"][0] <= 3.9
    refused = run("forecast", graded, "--max-reward", "0")
    assert refused.exit_code == 2
    assert "--max-reward" in refused.stderr


def test_diagnose_ends_with_options_that_a_trainer_takes(tmp_path, graded):
    text = run("diagnose", graded, "-m", 8, "--target-n", 64).stdout
    lines = text.split("Recommended, for a trainer's YAML:")[1].split("because")[0]
    options = yaml.safe_load(lines)
    assert options.pop("num_generations") == 8
    get_estimator(options.pop("advantage_estimator"), **options)
    assert "alpha is tea's tail_fraction" in " ".join(text.split())
    binary = (np.random.default_rng(0).random((30, 16)) < 0.2).astype(int)
    np.save(tmp_path / "b.npy", binary)
    assert ok("diagnose", tmp_path / "b.npy")["recommendation"]["options"] == {
        "advantage_estimator": "pass_at_n", "num_generations": 16, "target_n": 128,
    }  # fmt: skip
    again = ok("diagnose", graded, "-m", 8, "--target-n", 64, "--epochs", 3)["recommendation"]
    assert any("max_at_k with k = 16 and reward_memory = 8 sees further" in reason for reason in again["reasons"])
    assert ok("diagnose", graded, "--target-n", 8)["recommendation"]["options"]["k"] == 8


def test_a_plan_without_a_cost_says_what_it_can_say(graded):
    assert "no cost was given (--cost, --cost-per-token)" in run("plan", graded).stdout
    assert "no cost was given" not in run("plan", graded, "--cost", "0.1").stdout
    for flag, value in (("--cost", -1), ("--max-n", 0), ("--budget", 10)):
        refused = run("plan", graded, flag, value)
        assert refused.exit_code == 2
        assert flag in refused.stderr


def test_runs_without_common_prompts_say_so(tmp_path):
    rng = np.random.default_rng(0)
    for name in "ab":
        rows = [{"prompt": f"{name}{p}", "reward": r} for p in range(6) for r in rng.normal(size=8).tolist()]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = run("compare", tmp_path / "a.jsonl", tmp_path / "b.jsonl").stdout
    assert "b and a have no prompt in common: no paired difference" in text


def test_shares_stay_shares(tmp_path):
    np.save(tmp_path / "b.npy", np.array([[1, 1, 1, 0]] * 3 + [[1, 0, 1, 1]]))
    found = ok("curve", tmp_path / "b.npy")
    assert max(found["ci_high"]) <= 1.0
    assert found["ci_low"][-1] == pytest.approx(0.025 ** (1 / 4))
