"""A reward model on SmolLM2-135M that has learned the score of `sentence` from pairs, trained by TRL's RewardTrainer.

    python -m benchmarks.language.reward_model      # prepare it; prints where it is and how often it is right

The untrained model writes eight sentences for each training prompt; pairs of them, the better first by the gold score,
are all that the reward model sees. Half an hour on one core, then kept beside the language model.
"""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.language.command import tea
from benchmarks.language.model import FOLDER as MODEL
from benchmarks.language.model import complete_or_absent
from benchmarks.language.model import prepare as prepare_model
from benchmarks.language.rewards import words_used_fluently
from benchmarks.language.tasks import TASKS

FOLDER = MODEL.parent / "sentence-reward-model"
SAMPLES, HELD_OUT = 8, 30  # samples per prompt; prompts whose pairs measure the accuracy


def pairs(prompts: list[str], completions: list[list[str]], seed: int = 0) -> list[dict[str, str]]:
    """Two pairs per prompt: best against worst, and two others, the better one "chosen"; ties are left out."""
    generator = random.Random(seed)
    found = []
    for prompt, texts in zip(prompts, completions, strict=True):
        ranked = sorted(zip(words_used_fluently(texts, [prompt] * len(texts)), texts, strict=True))
        low, high = sorted(generator.sample(range(1, len(ranked) - 1), 2))
        for worse, better in ((ranked[0], ranked[-1]), (ranked[low], ranked[high])):
            if worse[0] < better[0]:
                found.append({"prompt": prompt, "chosen": better[1], "rejected": worse[1]})
    return found


def prepare(folder: Path = FOLDER) -> Path:
    """The reward model's folder, made if it is not there."""
    if (folder / "source.json").is_file():
        return folder
    import torch
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from trl import RewardConfig, RewardTrainer

    base, task = prepare_model(), TASKS["sentence"]
    with complete_or_absent(folder) as partial, tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        rows, _ = task.rows()
        (scratch / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        tea(
            *("eval", str(base), "--dataset", str(scratch / "prompts.jsonl"), "--output-dir", str(scratch / "eval")),
            *("-n", str(SAMPLES), "--dtype", "bfloat16"),
            *("--max-completion-length", str(task.max_completion_length)),
            log=scratch / "eval.log",
        )
        table = pq.read_table(scratch / "eval" / "samples.parquet").to_pandas()
        prompts = [row["prompt"] for row in rows]
        texts = [group["completion"].tolist() for _, group in table.groupby("prompt_id", sort=True)]
        held_out, train = pairs(prompts[:HELD_OUT], texts[:HELD_OUT]), pairs(prompts[HELD_OUT:], texts[HELD_OUT:])
        torch.manual_seed(0)
        tokenizer = AutoTokenizer.from_pretrained(base)
        model = AutoModelForSequenceClassification.from_pretrained(base, num_labels=1, dtype=torch.float32)
        model.config.pad_token_id = tokenizer.pad_token_id
        trainer = RewardTrainer(
            model=model,
            args=RewardConfig(
                output_dir=str(scratch / "training"),
                per_device_train_batch_size=8,
                num_train_epochs=1,
                learning_rate=2e-5,
                bf16=False,
                gradient_checkpointing=False,
                save_strategy="no",
                report_to="none",
                logging_steps=5,
                seed=0,
            ),
            train_dataset=Dataset.from_list(train),
            eval_dataset=Dataset.from_list(held_out),
            processing_class=tokenizer,
        )
        trainer.train()
        accuracy = float(trainer.evaluate()["eval_accuracy"])
        trainer.save_model(str(partial))
        tokenizer.save_pretrained(partial)
        record = {"source": "RewardTrainer", "pairs": len(train), "held_out_pairs": len(held_out), "accuracy": accuracy}
        (partial / "source.json").write_text(json.dumps(record) + "\n")
    print(f"reward model in {folder}: right on {accuracy:.2f} of {len(held_out)} held-out pairs")
    return folder


if __name__ == "__main__":
    prepare()
