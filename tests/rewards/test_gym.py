import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("reasoning_gym")
import reasoning_gym

from tea.rewards import GymReward, gym_rows, gym_tasks, load_reward
from tea.rewards.gym import _dataset, _generate, _parse


def _columns(rows):
    return {key: [row[key] for row in rows] for key in rows[0] if key != "prompt"}


# One task each whose entries hold tuples, sets, numpy scalars, numbers as keys, or that checks rather than compares.
TASKS = ["chain_sum", "knights_knaves", "graph_color", "countdown", "propositional_logic", "word_ladder", "sudoku"]


@pytest.mark.parametrize("task", TASKS)
def test_score_from_a_stored_row_equals_reasoning_gyms_own(task):
    encoded = json.dumps(_parse(task, 3, 5), sort_keys=True)
    rows = json.loads(json.dumps(_generate(encoded)))  # as they come back from a file
    dataset = reasoning_gym.create_dataset(task, size=3, seed=5)
    entries = [dataset[index] for index in range(3)]
    assert [row["prompt"].startswith(entry["question"]) for row, entry in zip(rows, entries, strict=True)] == [True] * 3
    reward = GymReward(task)
    for answer in [*(str(entry["metadata"].get("possible_answer", entry["answer"])) for entry in entries), "12"]:
        completions = [f"Let me see. <answer>7 cats</answer> No: <answer> {answer} </answer>"] * 3
        expected = [dataset.score_answer(answer, entry) for entry in entries]
        assert reward(["?"] * 3, completions, **_columns(rows)) == expected
    assert reward(["?"] * 3, ["12"] * 3, **_columns(rows)) == [0.0] * 3  # no tags


def test_rows_do_not_depend_on_the_process():
    # word_ladder draws from a set: reasoning-gym itself gives other questions in every process.
    code = "from tea.rewards import gym_rows; import json; print(json.dumps(gym_rows('word_ladder', size=3)))"
    answers = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(answers) == 1


def test_a_mixture_is_data_and_score_by_one_name(tmp_path):
    (tmp_path / "mix.yaml").write_text(
        "size: 6\nseed: 3\ndatasets:\n- {name: chain_sum, weight: 1, config: {min_terms: 2, max_terms: 2}}\n"
        "- {name: spell_backward, weight: 1}\n"
    )
    name = f"reasoning_gym:{tmp_path}/mix.yaml"
    rows = gym_rows(name)
    assert len(rows) == 6
    assert {row["task"] for row in rows} == {"chain_sum", "spell_backward"}
    assert all(row["answer"].count("+") == 0 for row in rows)
    completions = [[{"role": "assistant", "content": f"<answer>{row['answer']}</answer>"}] for row in rows]
    for reward in (load_reward(name), load_reward("reasoning_gym"), load_reward("score=reasoning_gym")):
        assert reward(prompts=["?"] * 6, completions=completions, **_columns(rows)) == [1.0] * 6
    assert load_reward("score=reasoning_gym").__name__ == "score"
    with pytest.raises(ValueError, match="given a row of task"):
        load_reward("reasoning_gym:sudoku")(prompts=["?"] * 6, completions=completions, **_columns(rows))


def test_names_carry_weights_options_size_and_seed():
    assert _parse("chain_sum:3+sudoku,size=7,seed=2") == {
        "tasks": [{"name": "chain_sum", "weight": 3.0, "config": {}}, {"name": "sudoku", "weight": 1.0, "config": {}}],
        "size": 7,
        "seed": 2,
    }
    two_terms = _generate(json.dumps(_parse("reasoning_gym:chain_sum,min_terms=2,max_terms=2", 20)))
    assert all(
        row["prompt"].split("=")[0].count(" + ") + row["prompt"].split("=")[0].count(" - ") == 1 for row in two_terms
    )
    assert _parse("chain_sum,seed=2", seed=9)["seed"] == 9
    assert len(gym_tasks()) >= 105


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("chain_sun", "has no task 'chain_sun'; did you mean chain_sum"),
        ("chain_sum,terms=2", "chain_sum has no option 'terms'; it has: .*min_terms"),
        ("chain_sum,min_terms", "should read option=value"),
        ("chain_sum,size=0", "size must be a whole number of at least 1"),
        ("chain_sum,min_terms=5,max_terms=2", "max_terms must be >= min_terms"),
        ("chain_sum:x", "not a number"),
        ("chain_sum:0", "weights must be positive"),
        ("chain_sum+chain_sum", "named twice"),
        ("chain_sum+sudoku,min_terms=2", "go into a YAML file"),
        ("missing.yaml", "no file 'missing.yaml'"),
    ],
)
def test_names_that_mean_nothing(name, message):
    with pytest.raises(ValueError, match=message):
        gym_rows(name)


def test_rows_of_something_else():
    with pytest.raises(ValueError, match="needs their columns gym_source and gym_entry"):
        GymReward()(["?"], ["<answer>1</answer>"], answer=["1"])


def test_data_sets_are_kept():
    encoded = json.dumps(_parse("chain_sum", 3), sort_keys=True)
    assert _dataset(encoded) is _dataset(encoded)
