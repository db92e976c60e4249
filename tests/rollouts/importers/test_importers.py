import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tea.bestofn import best_of_n_curve
from tea.bestofn.diagnostics import normal_order_statistics
from tea.rewards import load_reward
from tea.rollouts import read_rewards, read_windows
from tea.rollouts.importers import IMPORTERS, load_samples

FILES = Path(__file__).parent / "fixtures"
GUESSES = np.array([[0, 3, 1, 0], [2, 5, 4, 2], [1, 0, 4, 7]])
TARGETS = np.array([[0], [2], [4]])
MATCH = (GUESSES == TARGETS).astype(float)
CLOSENESS = -np.abs(GUESSES - TARGETS).astype(float)
CASES = [
    ("verl/validation", "verl", None, CLOSENESS),
    ("verl/validation/20.jsonl", "verl", "acc", MATCH),
    ("verifiers01", "verifiers", None, CLOSENESS),
    ("verifiers01", "verifiers", "match", MATCH),
    ("verifiers1", "verifiers", None, CLOSENESS + 10 * MATCH),
    ("verifiers1", "verifiers", "closeness", CLOSENESS),
    ("inspect/sums.eval", "inspect", "close", CLOSENESS),
    ("inspect/sums.eval", "inspect", "match", MATCH),
    ("inspect/sums.json", "inspect", "close", CLOSENESS),
    ("evalscope", "evalscope", None, MATCH),
    ("evalscope", "evalscope", "closeness", CLOSENESS),
    ("scorio", "scorio", None, MATCH),
]


def by_hand(matrix, n):
    """Mean over prompts of the mean over all subsets of n of the largest."""
    return np.mean([np.mean([max(s) for s in itertools.combinations(row, n)]) for row in matrix.tolist()])


@pytest.mark.parametrize(("where", "name", "reward", "expected"), CASES)
def test_the_numbers_are_those_that_the_tool_was_given(where, name, reward, expected):
    importer, _ = load_samples(FILES / where)
    assert importer is IMPORTERS[name]
    table = read_rewards(FILES / where, reward)
    (matrix,) = table.rewards.values()
    np.testing.assert_array_equal(matrix, expected)
    assert table.tool == importer.tool
    curve = best_of_n_curve(matrix, [1, 2, 3, 4])
    np.testing.assert_allclose(curve.values, [by_hand(expected, n) for n in (1, 2, 3, 4)], atol=1e-12)


@pytest.mark.parametrize("where", ["lm_eval", "lighteval"])
def test_one_value_per_document_is_scored_again(where):
    with pytest.raises(ValueError, match=r"one value per document, not one per response: .*--score-with"):
        read_rewards(FILES / where)
    table = read_rewards(FILES / where, score_with=[load_reward("last_number")], texts=True)
    np.testing.assert_array_equal(table.rewards["last_number"], MATCH)
    assert table.completions == GUESSES.astype(str).tolist()
    assert table.prompts == ["What is 0 + 0?", "What is 1 + 1?", "What is 2 + 2?"]


@pytest.mark.parametrize("where", ["verl/validation", "verifiers01", "inspect/sums.eval", "evalscope"])
def test_completions_and_answers_come_along(where):
    table = read_rewards(FILES / where, score_with=[load_reward("exact_match")], texts=True)
    np.testing.assert_array_equal(table.rewards["exact_match"], MATCH)
    assert table.completions == GUESSES.astype(str).tolist()


def test_trl_reads_the_last_step_or_those_asked_for():
    frames = {step: pd.read_parquet(FILES / f"trl/completions/completions_{step:05d}.parquet") for step in (1, 2, 3, 4)}
    by_step = {step: frame["length"].to_numpy().reshape(2, 4) for step, frame in frames.items()}
    last = read_rewards(FILES / "trl", "length")
    np.testing.assert_array_equal(last.rewards["length"], by_step[4])
    assert "of 4 training steps, 1 to 4, this is step 4, the last" in last.notes[0]
    middle = read_rewards(FILES / "trl", "length", steps=(2, 3))
    np.testing.assert_array_equal(middle.rewards["length"], np.concatenate([by_step[2], by_step[3]]))
    assert middle.prompts[0] == f"step 2: {frames[2]['prompt'][0]}"
    with pytest.raises(ValueError, match=r"no samples of steps 9 to 9; there are steps 1 to 4"):
        read_rewards(FILES / "trl", "length", steps=(9, 9))
    with pytest.raises(ValueError, match=r"several rewards: length, vowels. Say which: --reward length"):
        read_rewards(FILES / "trl")


def test_a_reward_that_does_not_apply_is_left_out_and_counted():
    frame = pd.read_parquet(FILES / "trl/completions/completions_00001.parquet")
    table = read_rewards(FILES / "trl", "vowels", steps=(1, 1))
    np.testing.assert_array_equal(table.rewards["vowels"], frame["vowels"].to_numpy().reshape(2, 4))
    assert table.num_missing == frame["vowels"].isna().sum() == 1
    assert any(note.startswith("1 of 8 rewards are missing, on 1 of 2 prompts") for note in table.notes)
    with pytest.raises(ValueError, match=r"completions_00001.parquet: row 8, column 'vowels'.*--missing skip"):
        read_rewards(FILES / "trl", "vowels", steps=(1, 1), missing="fail")


def test_windows_of_a_training_run():
    windows = read_windows(FILES / "trl", "length", window=3)
    assert [(first, last, table.shape) for first, last, table in windows] == [(1, 3, (6, 4)), (4, 4, (2, 4))]
    with pytest.raises(ValueError, match="has no steps"):
        read_windows(FILES / "evalscope", window=1)


def test_prompts_with_few_rewards_are_left_out(tmp_path):
    rows = [{"prompt": p, "reward": r} for p in "ab" for r in (1.0, 2.0, 3.0, 4.0)]
    for i in (4, 5, 6):
        rows[i]["reward"] = None
    rows[0]["reward"] = None
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    table = read_rewards(path)
    assert table.prompts == ["a"]
    np.testing.assert_array_equal(table.rewards["reward"], [[np.nan, 2.0, 3.0, 4.0]])
    assert "1 prompts have rewards for fewer than half" in table.notes[-1]
    path.write_text(json.dumps({"prompt": "a", "reward": None}) + "\n")
    with pytest.raises(ValueError, match="1 of 1 rewards are missing"):
        read_rewards(path)


def test_a_last_line_cut_short_is_said_and_the_rest_read(tmp_path):
    whole = (FILES / "verl/validation/20.jsonl").read_text()
    (tmp_path / "20.jsonl").write_text(whole[:-20])
    with pytest.raises(ValueError, match=r"unequal numbers of samples, from 3"):
        read_rewards(tmp_path / "20.jsonl")
    table = read_rewards(tmp_path / "20.jsonl", num_samples=3)
    np.testing.assert_array_equal(table.rewards["score"], CLOSENESS[:, :3])
    assert "line 12, the last, is cut short and was left out" in table.notes[0]
    (tmp_path / "21.jsonl").write_text(whole[:50] + "\n" + whole)
    with pytest.raises(ValueError, match=r"21.jsonl: line 1: not valid JSON"):
        read_rewards(tmp_path / "21.jsonl", format="verl")


def test_different_prompts_under_one_id_are_refused(tmp_path):
    rows = [{"prompt_id": 1, "prompt": p, "reward": 0.5} for p in ("a", "a", "b")]
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match=r"different prompts under one id: prompt_id '1' has 'a' and 'b'"):
        read_rewards(path)
    assert read_rewards(path, prompt="prompt_id").shape == (1, 3)


def test_what_is_not_recognised_is_said_with_what_was_looked_for(tmp_path):
    with pytest.raises(ValueError, match=r"holds no file of a known kind. Looked for: tea: .* verl: JSONL with input"):
        read_rewards(tmp_path)
    (tmp_path / "x.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(ValueError, match=r"1 files, none of which is recognised. Looked for"):
        read_rewards(tmp_path)
    with pytest.raises(ValueError, match=r'no column "reward".* It has: a'):
        read_rewards(tmp_path / "x.jsonl")
    with pytest.raises(ValueError, match="--format must be one of tea, trl, verl"):
        read_rewards(tmp_path / "x.jsonl", format="word")
    with pytest.raises(ValueError, match="this is not what rollout or validation data of verl looks like"):
        read_rewards(tmp_path / "x.jsonl", format="verl")


def test_several_in_one_directory_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"2 of them \(a log of Inspect\): sums.eval, sums.json. Give one"):
        read_rewards(FILES / "inspect")
    with pytest.raises(ValueError, match=r"2 of them .*: normal, validation. Give one"):
        read_rewards(FILES / "verl")
    for name in ("scorio", "verifiers01"):
        shutil.copytree(FILES / name, tmp_path / name)
    with pytest.raises(ValueError, match=r"files of several tools, scorio: 1 .*; verifiers: 1 .*--format"):
        read_rewards(tmp_path)
    assert read_rewards(tmp_path, format="scorio").shape == (3, 4)


def test_an_inspect_log_cut_short_is_named(tmp_path):
    whole = (FILES / "inspect/sums.eval").read_bytes()
    (tmp_path / "cut.eval").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut.eval"):
        read_rewards(tmp_path / "cut.eval")


def test_what_verls_own_best_at_k_costs():
    """It draws k with replacement from the n at hand (verl #7240); the fixture holds what it gave for this file."""
    matrix = read_rewards(FILES / "verl/normal").rewards["score"]
    printed = json.loads((FILES / "verl/normal_metrics.json").read_text())["normal"]["score"]
    ks = [2, 4, 8, 16]
    ours = best_of_n_curve(matrix, ks)
    shares = np.diff((np.arange(17)[:, None] / 16) ** ks, axis=0)  # P(the j-th smallest is the largest of k drawn)
    drawn = [printed[f"best@{k}/mean"] for k in ks]
    replaced = (np.sort(matrix, axis=1) @ shares).mean(axis=0)
    np.testing.assert_allclose(drawn, replaced, atol=0.02)  # 1,000 draws for each of 60 prompts
    truth = np.array([0.5642, 1.0294, 1.4236, 1.7660])  # E[max of k] of the standard normals in the file
    assert np.all(np.abs(ours.values - truth) < 3 * ours.std_error)
    bias = normal_order_statistics(16) @ shares - truth
    np.testing.assert_allclose(bias, [-0.0353, -0.0685, -0.1234, -0.2168], atol=1e-4)  # docs/rollout-files.md
    np.testing.assert_allclose(replaced - ours.values, bias, atol=3 * ours.std_error.max())


def test_turns_of_a_verl_rollout_are_one_sample(tmp_path):
    rows = [json.loads(line) for line in (FILES / "verl/validation/20.jsonl").read_text().splitlines()]
    turn = {**rows[4], "output": "let me think", "score": 99.0}
    rows[4] = {**rows[4], "uid": rows[4]["uid"].removesuffix("_0") + "_1", "input": rows[4]["input"] + "let me think"}
    (tmp_path / "20.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows[:4], turn, *rows[4:]]))
    table = read_rewards(tmp_path, texts=True)
    np.testing.assert_array_equal(table.rewards["score"], CLOSENESS)
    assert table.completions == GUESSES.astype(str).tolist()
    assert "1 rows are earlier turns" in table.notes[0]
    rows[7]["score"] = None
    (tmp_path / "20.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows[:4], turn, *rows[4:]]))
    with pytest.raises(ValueError, match=r"20.jsonl: row 9, column 'score': the value is missing"):
        read_rewards(tmp_path, missing="fail")
