"""Kinds of datasets, on twins with the columns of the originals, and which of their prompts are trained on."""

import json
from collections import Counter

import pytest
from datasets import IterableDataset
from trl import DatasetMixtureConfig

from tea.trainers import selection
from tea.trainers.arguments import TrainArguments
from tea.trainers.data import to_prompt
from tea.trainers.errors import UserError
from tea.trainers.selection import load_training_data, prompt_fingerprint, save_data_record
from tests.twins import make_twin
from tests.twins.datasets import dialogue, questions


@pytest.fixture(scope="module")
def twins(tmp_path_factory):
    return tmp_path_factory.mktemp("twins")


def load(name=None, datasets=(), *, seed=1, evaluated=False, length=None, **options):
    return load_training_data(
        TrainArguments(dataset_name=name, **options),
        DatasetMixtureConfig(datasets=list(datasets)),
        seed=seed,
        evaluated=evaluated,
        length=length,
    )


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def user(text):
    return [{"role": "user", "content": text}]


@pytest.mark.parametrize(
    ("name", "options", "first"),
    [
        ("trl-lib/ultrafeedback-prompt", {}, user(questions(1)[0])),
        ("trl-lib/ultrafeedback_binarized", {}, user(questions(1)[0])),
        ("HuggingFaceH4/ultrafeedback_binarized", {"dataset_train_split": "train_prefs"}, questions(1)[0]),
        (
            "HuggingFaceH4/ultrafeedback_binarized",
            {"dataset_train_split": "train_prefs", "chat_prompts": True},
            user(questions(1)[0]),
        ),
        ("openbmb/UltraFeedback", {}, questions(1)[0]),
        (
            "Anthropic/hh-rlhf",
            {"dataset_data_dir": "helpful-base"},
            [*user("I have tea."), {"role": "assistant", "content": "Which tea?"}, *user(questions(1)[0])],
        ),
        ("openai/gsm8k", {"dataset_config": "main"}, "She pours 2 cups of tea in each of 2 rooms. How many cups?"),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_datasets_of_the_field(twins, name, options, first, streaming):
    data = load(make_twin(name, twins), dataset_streaming=streaming, **options)
    rows = list(data.train)
    assert len(rows) == 80
    assert rows[0]["prompt"] == first
    # What TRL would take for a part of the prompt, or passes to rewards itself, is gone.
    assert not {"messages", "chosen", "rejected", "completions", "completion"} & set(rows[0])
    assert isinstance(data.train, IterableDataset) == streaming


def test_gsm8k_answers_are_the_numbers(twins):
    row = load(make_twin("openai/gsm8k", twins), dataset_config="main").train[0]
    assert row["answer"] == "4"
    assert row["rationale"] == "In both she pours 2*2=<<2*2=4>>4 cups."


def test_gsm8k_thousands(tmp_path):
    rows = [{"question": f"q{i}", "answer": f"text\n#### {1000 + i:,}"} for i in range(3)]
    assert load(write(tmp_path / "g.jsonl", rows)).train["answer"][:] == ["1000", "1001", "1002"]


def test_dialogues():
    assert to_prompt(dialogue("b?", first="a.")) == [
        *user("a."),
        {"role": "assistant", "content": "Which tea?"},
        *user("b?"),
    ]
    assert to_prompt("\n\nHuman: only\n\nAssistant:") == user("only")
    assert to_prompt("\n\nHuman: a line\n\nof two\n\nAssistant: x") == user("a line\n\nof two")
    assert to_prompt("Human: as plain text") == "Human: as plain text"
    assert to_prompt("  ") is None
    assert to_prompt([{"role": "assistant", "content": "x"}], answered=True) is None
    assert to_prompt([*user("q"), {"role": "assistant", "content": "x"}], answered=True) == user("q")
    # A prompt column is left as it is: TRL goes on with a last assistant turn.
    assert to_prompt([*user("q"), {"role": "assistant", "content": "x"}]) == [
        *user("q"),
        {"role": "assistant", "content": "x"},
    ]


@pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet", "csv"])
def test_files(tmp_path, suffix):
    import pandas as pd

    frame = pd.DataFrame({"prompt": questions(5), "answer": list("abcde")})
    path = tmp_path / f"d.{suffix}"
    if suffix == "parquet":
        frame.to_parquet(path)
    elif suffix == "csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_json(path, orient="records", lines=suffix == "jsonl")
    assert load(str(path)).train["prompt"][:] == questions(5)


def test_a_directory_a_saved_dataset_and_a_mixture(tmp_path):
    from datasets import Dataset
    from trl.scripts.utils import DatasetConfig

    (tmp_path / "folder").mkdir()
    write(tmp_path / "folder" / "train.jsonl", [{"prompt": q} for q in questions(5)])
    write(tmp_path / "folder" / "test.jsonl", [{"prompt": q} for q in questions(2, 5)])
    data = load(str(tmp_path / "folder"), evaluated=True)
    assert (len(data.train), len(data.held_out)) == (5, 2)
    Dataset.from_dict({"prompt": questions(4)}).save_to_disk(tmp_path / "saved")
    assert len(load(str(tmp_path / "saved")).train) == 4
    mixed = load(datasets=[DatasetConfig(path=str(tmp_path / "folder"), split=s) for s in ("train", "test")])
    assert mixed.train["prompt"][:] == questions(7)


def test_system_prompt_and_prompt_column(tmp_path):
    path = write(tmp_path / "d.jsonl", [{"text": "q", "prompt": 3, "answer": "a"}])
    row = load(path, prompt_column="text", system_prompt="Be brief.").train[0]
    assert row == {"answer": "a", "prompt": [{"role": "system", "content": "Be brief."}, *user("q")]}


def test_duplicates_and_empty_and_long_prompts_are_counted(tmp_path):
    rows = [
        {"prompt": "a b", "answer": "1"},
        {"prompt": "a  b\n", "answer": "2"},  # the same but for white space
        {"prompt": "", "answer": "3"},
        {"prompt": None, "answer": "4"},
        {"prompt": "x " * 50, "answer": "5"},
        {"prompt": "c", "answer": "6"},
        {"prompt": "c", "answer": "6"},
    ]
    path = write(tmp_path / "d.jsonl", rows)
    data = load(path, length=lambda prompt: len(prompt.split()), max_prompt_length=10)
    assert data.train["answer"][:] == ["1", "6"]
    assert (
        "train: of 7 rows 2 without a prompt, 2 duplicates, 1 longer than 10 tokens are left out, 2 stay" in data.notes
    )
    assert load(path, deduplicate="row").train["answer"][:] == ["1", "2", "5", "6"]
    assert load(path, deduplicate="none").train["answer"][:] == ["1", "2", "5", "6", "6"]


@pytest.mark.parametrize(("held_out", "count"), [(12, 12), (0.25, 20)])
def test_held_out_depends_on_the_seed_and_not_on_the_order(tmp_path, held_out, count):
    prompts = questions(80)
    first = load(write(tmp_path / "a.jsonl", [{"prompt": p} for p in prompts]), held_out=held_out)
    turned = load(write(tmp_path / "b.jsonl", [{"prompt": p} for p in prompts[::-1]]), held_out=held_out)
    other = load(str(tmp_path / "a.jsonl"), held_out=held_out, seed=2)
    assert len(first.held_out) == count
    assert set(first.held_out["prompt"]) == set(turned.held_out["prompt"]) != set(other.held_out["prompt"])
    assert Counter([*first.train["prompt"], *first.held_out["prompt"]]) == Counter(prompts)


def test_all_rows_of_a_held_out_prompt_leave_training(tmp_path):
    rows = [{"prompt": f"q{i % 10}", "answer": str(i)} for i in range(40)]
    data = load(write(tmp_path / "a.jsonl", rows), held_out=3, deduplicate="none")
    assert len(data.held_out) == 3
    assert len(data.train) == 28
    assert not set(data.held_out["prompt"]) & set(data.train["prompt"])


def test_held_out_of_a_stream(tmp_path):
    rows = [{"prompt": f"q{i % 10}"} for i in range(40)]
    path = write(tmp_path / "a.jsonl", rows)
    data = load(path, held_out=3, dataset_streaming=True)
    assert data.held_out["prompt"][:] == ["q0", "q1", "q2"]
    assert [row["prompt"] for row in data.train] == [f"q{i % 10}" for i in range(40) if i % 10 > 2]
    with pytest.raises(UserError, match=r"held_out = 0.5 is a share, but streamed data has no length"):
        load(path, held_out=0.5, dataset_streaming=True)


def test_a_held_out_prompt_in_training_is_found(tmp_path, monkeypatch):
    (tmp_path / "d").mkdir()
    write(tmp_path / "d" / "train.jsonl", [{"prompt": user(q)} for q in questions(10)])
    # With a system prompt and other white space it is the same prompt.
    hidden = [{"role": "system", "content": "s"}, *user(questions(10)[4] + " \n")]
    write(tmp_path / "d" / "test.jsonl", [{"prompt": hidden}, {"prompt": user("new")}])
    with pytest.raises(UserError, match=r"1 training prompts are in the held-out data too, such as row 4: .*How long"):
        load(str(tmp_path / "d"), evaluated=True)
    data = load(str(tmp_path / "d"), evaluated=True, held_out_overlap="drop")
    assert data.train["prompt"][:] == [user(q) for i, q in enumerate(questions(10)) if i != 4]
    assert "1 training prompts are left out because they are in the held-out data" in data.notes
    streamed = load(str(tmp_path / "d"), evaluated=True, dataset_streaming=True)
    assert streamed.held_out["prompt"][:] == [hidden, user("new")]
    assert [row["prompt"] for row in streamed.train] == data.train["prompt"][:]
    assert "held-out prompts are left out of the training data as it comes" in streamed.notes
    monkeypatch.setattr(selection, "_MOST_STREAMED", 1)
    streamed = load(str(tmp_path / "d"), evaluated=True, dataset_streaming=True)
    assert streamed.held_out["prompt"][:] == [hidden]
    assert "test: of the first 1 rows of the stream, 1 held-out prompts" in streamed.notes


def test_fingerprints_tell_prompts_apart():
    assert prompt_fingerprint("a b") == prompt_fingerprint(user(" a  b"))
    assert prompt_fingerprint("a b") != prompt_fingerprint("ab")
    two = [*user("a"), {"role": "assistant", "content": "x"}, *user("b")]
    other = [*user("a"), {"role": "assistant", "content": "y"}, *user("b")]
    assert len({prompt_fingerprint(p) for p in (two, other, user("b"), "a")}) == 4


def test_the_record_of_a_run(tmp_path):
    path = write(tmp_path / "a.jsonl", [{"prompt": q, "answer": "ö"} for q in questions(20)])
    data = load(path, held_out=5)
    run = tmp_path / "run"
    save_data_record(data, str(run), resumed=False)
    saved = [json.loads(line) for line in (run / "held_out.jsonl").read_text().splitlines()]
    assert saved == list(data.held_out)
    assert json.loads((run / "data.json").read_text())["training_prompts"] == 15
    save_data_record(load(path, held_out=5), str(run), resumed=True)
    with pytest.raises(UserError, match="was started with other held-out prompts"):
        save_data_record(load(path, held_out=5, seed=9), str(run), resumed=True)


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ('{"prompt": "a"}\n{"prompt": "b', {}, r"line 2 is not JSON \(.*\), and the file ends in it: was it cut off\?"),
        ('{"prompt": "a"}\n3\n', {}, "line 2 is not a JSON object: '3'"),
        ("", {}, "the file is empty"),
        ('{"x": "a"}\n', {}, "no column of split 'train' looks like prompts .* set prompt_column to one of: x"),
        ('{"x": "a"}\n', {"prompt_column": "y"}, "prompt_column 'y' is not in split 'train', which has: x"),
        ('{"prompt": 3}\n', {}, "prompt_column 'prompt' holds int, not text or messages"),
        ('{"prompt": ""}\n', {}, "nothing is left of split 'train': of 1 rows, 1 without a prompt"),
        (
            '{"prompt": "a b c"}\n',
            {"max_prompt_length": 2, "length": lambda prompt: len(prompt.split())},
            "nothing is left of split 'train': of 1 rows, 1 longer than 2 tokens",
        ),
        ('{"prompt": "a"}\n', {"evaluated": True}, "there is no split 'test' in the dataset, which has: train; set"),
        ('{"prompt": "a"}\n{"prompt": "b"}\n', {"held_out": 2}, "held_out = 2 leaves nothing to train on"),
        (
            '{"prompt": "a"}\n',
            {"dataset_train_split": "trian"},
            "there is no split 'trian' in the dataset, which has: train; set",
        ),
    ],
)
def test_what_cannot_be_trained_on(tmp_path, content, options, message):
    path = tmp_path / "d.jsonl"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        load(str(path), **options)


def test_data_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("prompts.jsonl", "./prompts", "/no/such/place"):
        with pytest.raises(UserError, match=f"dataset_name '{name}': there is no such file or directory"):
            load(name)
    with pytest.raises(UserError, match=r"dataset_name 'org/name' .*hub"):
        load("org/name")
    (tmp_path / "d.txt").write_text("x")
    with pytest.raises(UserError, match=r"files are read if they end in .jsonl"):
        load(str(tmp_path / "d.txt"))
    with pytest.raises(UserError, match="exactly one of dataset_name and datasets; neither is given"):
        load(None)


@pytest.mark.parametrize("value", [-1, 0, 1.5])
def test_held_out_is_a_number_or_a_share(value):
    with pytest.raises(ValueError, match="held_out must be a share below 1 or a whole number of prompts"):
        TrainArguments(held_out=value)
