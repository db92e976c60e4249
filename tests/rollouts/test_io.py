import csv
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tea.rollouts import read_rewards

MATRIX = np.array([[0.5, 2.0, -1.0], [3.0, 0.25, 1.5]])
ROWS = [
    {"prompt": f"p{i}", "completion": f"c{i}{j}", "reward": float(MATRIX[i, j]), "gold": float(-MATRIX[i, j])}
    for j in range(3)
    for i in range(2)  # interleaved: the samples of a prompt are not adjacent
]


def write(path, rows):
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet", ".csv", ".tsv"])
def test_every_kind_of_file_reads_the_same(tmp_path, suffix):
    table = read_rewards(write(tmp_path / f"r{suffix}", ROWS), ["reward", "gold"])
    assert table.prompts == ["p0", "p1"]
    assert table.shape == (2, 3)
    np.testing.assert_array_equal(table.rewards["reward"], MATRIX)
    np.testing.assert_array_equal(table.rewards["gold"], -MATRIX)


def test_one_row_per_prompt_with_a_list_of_rewards(tmp_path):
    rows = [{"prompt": f"p{i}", "rewards": MATRIX[i].tolist()} for i in range(2)]
    for suffix in (".jsonl", ".parquet"):
        table = read_rewards(write(tmp_path / f"r{suffix}", rows))
        np.testing.assert_array_equal(table.rewards["rewards"], MATRIX)
    rows[1]["rewards"][2] = None
    with pytest.raises(ValueError, match=r"bad.jsonl: row 2, sample 3, column 'rewards': the value is missing"):
        read_rewards(write(tmp_path / "bad.jsonl", rows), missing="fail")
    rows[1]["rewards"].pop()
    with pytest.raises(ValueError, match="unequal numbers of samples, from 2"):
        read_rewards(write(tmp_path / "ragged.jsonl", rows))


def test_npy(tmp_path):
    np.save(tmp_path / "r.npy", MATRIX)
    np.testing.assert_array_equal(read_rewards(tmp_path / "r.npy").rewards["reward"], MATRIX)
    np.save(tmp_path / "nan.npy", np.where(MATRIX == 3.0, np.nan, MATRIX))
    with pytest.raises(ValueError, match=r"row 2, sample 1, column 'reward': the value is nan"):
        read_rewards(tmp_path / "nan.npy", missing="fail")


def test_columns_of_an_evaluation_are_found_by_their_plain_name(tmp_path):
    rows = [{**row, "prompt_id": int(row["prompt"][1]), "rewards/rm": row["reward"], "num_tokens": 7} for row in ROWS]
    for row in rows:
        del row["reward"], row["gold"]
    path = write(tmp_path / "samples.parquet", rows)
    for given in (None, "rm", "rewards/rm"):
        np.testing.assert_array_equal(read_rewards(tmp_path, given).rewards["rewards/rm"], MATRIX)
    table = read_rewards(path)
    assert table.prompts == ["p0", "p1"]
    np.testing.assert_array_equal(table.num_tokens, np.full((2, 3), 7.0))


def test_ragged_is_refused_and_cut_only_on_request(tmp_path):
    path = write(tmp_path / "r.jsonl", ROWS[:-1])
    with pytest.raises(ValueError, match=r"unequal numbers of samples, from 2 \(prompt 'p1'\) to 3; 1 of 2 prompts"):
        read_rewards(path)
    table = read_rewards(path, num_samples=2)
    np.testing.assert_array_equal(table.rewards["reward"], MATRIX[:, :2])
    assert table.dropped == 1
    assert "1 samples beyond the first 2" in table.notes[0]
    with pytest.raises(ValueError, match="only 2 samples"):
        read_rewards(path, num_samples=3)


def test_mixed_models_are_refused_until_one_is_chosen(tmp_path):
    rows = [{**row, "model": "a"} for row in ROWS] + [{**row, "model": "b", "reward": 9.0} for row in ROWS]
    path = write(tmp_path / "r.jsonl", rows)
    with pytest.raises(ValueError, match=r"rows of several models \(a, b\)"):
        read_rewards(path)
    np.testing.assert_array_equal(read_rewards(path, model="a").rewards["reward"], MATRIX)
    with pytest.raises(ValueError, match="no rows of model 'c'; there are: a, b"):
        read_rewards(path, model="c")


def test_bad_values_are_placed(tmp_path):
    for value, said in [(None, "missing"), (float("nan"), "nan"), (float("inf"), "inf"), ("high", "'high'")]:
        rows = [dict(row) for row in ROWS]
        rows[3]["reward"] = value
        with pytest.raises(ValueError, match=rf"r.jsonl: row 4, column 'reward': the value is {said}"):
            read_rewards(write(tmp_path / "r.jsonl", rows), missing="fail")
        if said != "'high'":
            with pytest.raises(ValueError, match=r"r.parquet: row 4, column 'reward'"):
                read_rewards(write(tmp_path / "r.parquet", rows), missing="fail")


def test_broken_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere.csv: no such file"):
        read_rewards(tmp_path / "nowhere.csv")
    (tmp_path / "e.csv").touch()
    with pytest.raises(ValueError, match=r"e.csv: the file is empty"):
        read_rewards(tmp_path / "e.csv")
    (tmp_path / "h.csv").write_text("prompt,reward\n")
    with pytest.raises(ValueError, match=r"there are no rows; columns: prompt, reward"):
        read_rewards(tmp_path / "h.csv")
    (tmp_path / "f.csv").write_text("prompt,reward\na,1\nb\n")
    with pytest.raises(ValueError, match=r"row 2 has 1 fields, the header 2"):
        read_rewards(tmp_path / "f.csv")
    (tmp_path / "j.jsonl").write_text('{"prompt": "a", "reward": 1}\n{"prompt": \n')
    with pytest.raises(ValueError, match=r"j.jsonl: line 2: not valid JSON"):
        read_rewards(tmp_path / "j.jsonl")
    whole = write(tmp_path / "w.parquet", ROWS).read_bytes()
    (tmp_path / "cut.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut.parquet: not a readable Parquet file, perhaps cut short"):
        read_rewards(tmp_path / "cut.parquet")
    (tmp_path / "x.xlsx").write_text("x")
    with pytest.raises(ValueError, match=r"unknown kind of file '.xlsx'"):
        read_rewards(tmp_path / "x.xlsx")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    with pytest.raises(FileNotFoundError, match="has not finished"):
        read_rewards(tmp_path / "run")


def test_missing_columns_are_named_with_those_there(tmp_path):
    path = write(tmp_path / "r.csv", ROWS)
    with pytest.raises(ValueError, match=r"no column 'score'; it has: prompt, completion, reward, gold"):
        read_rewards(path, "score")
    with pytest.raises(ValueError, match=r"no column 'question'"):
        read_rewards(path, prompt="question")
    two = write(tmp_path / "two.jsonl", [{"prompt": "a", "rewards/x": 1.0, "rewards/y": 2.0}])
    with pytest.raises(ValueError, match=r"several rewards: x, y. Say which: --reward x"):
        read_rewards(two)
