"""Twins of datasets: directories that `load_dataset` reads as it reads the hub's."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq

TEAS = ["assam", "ceylon", "darjeeling", "gunpowder", "jasmine", "keemun", "lapsang", "matcha", "oolong", "puerh"]


def _parquet(path, split, rows, folder="data"):
    (path / folder).mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path / folder / f"{split}-00000-of-00001.parquet")


def _user(text):
    return {"role": "user", "content": text}


def _answer(text):
    return {"role": "assistant", "content": text}


def questions(count, start=0):
    """Different questions, the same every time."""
    return [f"How long should {TEAS[i % 10]} steep in pot {i}?" for i in range(start, start + count)]


def ultrafeedback_prompt(path):
    """trl-lib/ultrafeedback-prompt: conversations of one message in `prompt`."""
    for split, first in (("train", 0), ("test", 500)):
        _parquet(path, split, [{"prompt": [_user(q)]} for q in questions(80, first)])


def ultrafeedback_binarized(path):
    """HuggingFaceH4/ultrafeedback_binarized: text in `prompt`, messages in `messages`, `chosen` and `rejected`."""
    for split, first in (("train_prefs", 0), ("test_prefs", 500)):
        rows = [
            {
                "prompt": q,
                "prompt_id": f"id{i}",
                "chosen": [_user(q), _answer("Three minutes.")],
                "rejected": [_user(q), _answer("No idea.")],
                "messages": [_user(q), _answer("Three minutes.")],
                "score_chosen": 8.0,
                "score_rejected": 2.0,
            }
            for i, q in enumerate(questions(80, first))
        ]
        _parquet(path, split, rows)


def ultrafeedback_pairs(path):
    """trl-lib/ultrafeedback_binarized: pairs without a prompt column."""
    for split, first in (("train", 0), ("test", 500)):
        _parquet(
            path,
            split,
            [
                {"chosen": [_user(q), _answer("Three.")], "rejected": [_user(q), _answer("?")], "score_chosen": 8.0}
                for q in questions(80, first)
            ],
        )


def ultrafeedback_original(path):
    """openbmb/UltraFeedback: text in `instruction`, the answers of four models in `completions`."""
    rows = [
        {
            "source": "sharegpt",
            "instruction": q,
            "models": ["alpaca-7b", "llama-2-7b-chat"],
            "completions": [{"model": "alpaca-7b", "response": "Three minutes.", "overall_score": 7.5}],
            "correct_answers": ["None"],
        }
        for q in questions(80)
    ]
    _parquet(path, "train", rows)


def dialogue(question, last="Three minutes.", first=None):
    """A dialogue string as hh-rlhf has them, of one or two turns."""
    earlier = f"\n\nHuman: {first}\n\nAssistant: Which tea?" if first else ""
    return f"{earlier}\n\nHuman: {question}\n\nAssistant: {last}"


def hh_rlhf(path):
    """Anthropic/hh-rlhf: dialogue strings in `chosen` and `rejected`, gzipped JSONL in a directory a subset."""
    for split, first in (("train", 0), ("test", 500)):
        folder = path / "helpful-base"
        folder.mkdir(parents=True, exist_ok=True)
        with gzip.open(folder / f"{split}.jsonl.gz", "wt") as file:
            for i, q in enumerate(questions(80, first)):
                first_turn = "I have tea." if i % 3 == 0 else None
                row = {"chosen": dialogue(q, first=first_turn), "rejected": dialogue(q, "No.", first=first_turn)}
                file.write(json.dumps(row) + "\n")


def gsm8k(path):
    """openai/gsm8k: `question`, and an `answer` that ends in #### and the number; configurations main and socratic."""
    for split, first in (("train", 2), ("test", 500)):
        rows = [
            {
                "question": f"She pours {n} cups of tea in each of 2 rooms. How many cups?",
                "answer": f"In both she pours {n}*2=<<{n}*2={2 * n}>>{2 * n} cups.\n#### {2 * n:,}",
            }
            for n in range(first, first + 80)
        ]
        _parquet(path, split, rows, folder="main")
        _parquet(path, split, rows, folder="socratic")
    (path / "README.md").write_text(
        "---\nconfigs:\n"
        + "".join(
            f"- config_name: {name}\n  data_files:\n"
            + "".join(f"  - split: {split}\n    path: {name}/{split}-*\n" for split in ("train", "test"))
            for name in ("main", "socratic")
        )
        + "---\n"
    )


DATASETS = {
    "trl-lib/ultrafeedback-prompt": ultrafeedback_prompt,
    "trl-lib/ultrafeedback_binarized": ultrafeedback_pairs,
    "HuggingFaceH4/ultrafeedback_binarized": ultrafeedback_binarized,
    "openbmb/UltraFeedback": ultrafeedback_original,
    "Anthropic/hh-rlhf": hh_rlhf,
    "openai/gsm8k": gsm8k,
}
