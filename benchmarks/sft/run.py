"""Supervised relatives against their plain twins: pass@N fine-tuning against SFT, BoNBoN against SFT and DPO.

    python -m benchmarks.sft.run      # minutes on one core; results/rows.jsonl and the tables of README.md

On the policies of benchmarks/training (a Llama of 0.1 million parameters, pre-trained per seed), with TRL's trainers.

- demonstrations: passcode, one right code per training prompt. SFT, and :class:`tea.trainers.sft.PassAtNSFTTrainer` for
  N = 128. What counts is pass@N of held-out prompts.
- pairs: venture, best and worst of 64 samples of the base model per training prompt. SFT on the best; DPO; BoNBoN,
  which is DPO with :func:`tea.trainers.sft.bonbon_options`. What counts is best of N.

The learning rate of each method is the best one of a grid on a seed that is not in the table, by the score at the N it
is meant for: 128, and 1 for pairs (all three imitate the best of 64 with one sample). A run that is in the file already
is not repeated.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from benchmarks.record import append_row, describe, environment, finished_rows, replace_section, table, write_json
from benchmarks.training.loop import evaluate
from benchmarks.training.policy import base_policy, sample
from benchmarks.training.report.intervals import paired
from benchmarks.training.stack import Stack
from benchmarks.training.task import Task, tasks
from tea.trainers.sft import PassAtNSFTConfig, PassAtNSFTTrainer, bonbon_options

HERE = Path(__file__).resolve().parent
ROWS = HERE / "results" / "rows.jsonl"
N, SAMPLES, TUNING_SEED, SEEDS = 128, 64, 1, (6, 7, 8, 9, 10)
RATES = (1e-4, 3e-4, 1e-3, 3e-3)
BATCH, EPOCHS = 32, 4
SHOWN = (1, 16, N)
# Question: (task, N to tune for, methods, each after the twin it is compared with).
QUESTIONS: dict[str, tuple[str, int, tuple[str, ...]]] = {
    "demonstrations": ("passcode", N, ("base", "SFT", "pass@N SFT")),
    "pairs": ("venture", 1, ("base", "SFT on the best", "DPO", "BoNBoN")),
}


class TokensDPOTrainer(DPOTrainer):
    """Takes tokens: TRL's prepares text only, and would add an end of sequence, which these policies do not know."""

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset


def tokenizer(task: Task) -> PreTrainedTokenizerFast:
    """For the trainers, which ask for one: tokens are their numbers."""
    vocabulary = {str(token): token for token in range(task.vocab_size)}
    made = Tokenizer(WordLevel(vocabulary, unk_token="0"))
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="0", eos_token="0")


def demonstrations(task: Any) -> Dataset:
    index = torch.arange(task.num_train)
    return completions_of(task, index, task.code[index])


def completions_of(task: Task, index: torch.Tensor, completions: torch.Tensor) -> Dataset:
    prompts = task.tokens[index].tolist()
    rows = [
        {"input_ids": [*prompt, *completion], "completion_mask": [0] * len(prompt) + [1] * len(completion)}
        for prompt, completion in zip(prompts, completions.tolist(), strict=True)
    ]
    return Dataset.from_list(rows)


@torch.no_grad()
def best_and_worst(task: Task, policy: Any, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Completions (P, T) each, of the training prompts."""
    index = torch.arange(task.num_train)
    generator = torch.Generator().manual_seed(seed)
    completions = sample(policy, task.tokens[index], SAMPLES, task.completion_length, generator)
    rewards = task.reward(index.repeat_interleave(SAMPLES), completions).view(-1, SAMPLES)
    completions = completions.view(len(index), SAMPLES, -1)
    return completions[index, rewards.argmax(1)], completions[index, rewards.argmin(1)]


def train(method: str, task: Task, base: Any, seed: int, rate: float, folder: str) -> Any:
    """The trained policy."""
    policy = copy.deepcopy(base)
    options: dict[str, Any] = {
        "output_dir": folder,
        "per_device_train_batch_size": BATCH,
        "num_train_epochs": EPOCHS,
        "learning_rate": rate,
        "seed": seed,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "bf16": False,
        "use_cpu": True,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
    }
    common: dict[str, Any] = {"processing_class": tokenizer(task)}
    if method in ("SFT", "pass@N SFT"):
        data = demonstrations(task)
    else:
        best, worst = best_and_worst(task, base, seed)
        if method == "SFT on the best":
            data = completions_of(task, torch.arange(task.num_train), best)
        else:
            columns = {"prompt_ids": task.tokens[: task.num_train], "chosen_ids": best, "rejected_ids": worst}
            data = Dataset.from_dict({name: tokens.tolist() for name, tokens in columns.items()})
    if method == "pass@N SFT":
        args = PassAtNSFTConfig(**options, completion_only_loss=True, target_n=N)
        trainer: Any = PassAtNSFTTrainer(policy, args, train_dataset=data, **common)
    elif method.startswith("SFT"):
        trainer = SFTTrainer(policy, SFTConfig(**options, completion_only_loss=True), train_dataset=data, **common)
    else:
        if method == "BoNBoN":
            options |= bonbon_options(SAMPLES, task.completion_length)
        reference = copy.deepcopy(base)
        trainer = TokensDPOTrainer(policy, reference, DPOConfig(**options), train_dataset=data, **common)
    trainer.train()
    return policy.eval()


def execute(question: str, method: str, seed: int, rate: float | None) -> dict[str, Any]:
    """One row."""
    task_class = tasks()[QUESTIONS[question][0]]
    task, base = base_policy(task_class, seed)
    if question == "demonstrations":  # passing earns nothing here: what counts is the right code
        right: Any = task
        right.reward = lambda index, completions: (completions == right.code[index]).all(1).float()
    policy = base.eval()
    if method != "base":
        assert rate is not None
        with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            policy = train(method, task, policy, seed, rate, folder)
    found = evaluate(task, Stack.of([policy]), seed)
    kept = {"curve": found["curve"], "distinct": found["distinct"]}
    return {"question": question, "method": method, "seed": seed, "learning_rate": rate, **kept}


def render(rows: list[dict[str, Any]], question: str, found: dict[str, Any]) -> str:
    """The table of a question."""
    task, _, methods = QUESTIONS[question]
    values = {
        (method, n): {r["seed"]: r["curve"][str(n)] for r in rows if r["method"] == method and r["seed"] in SEEDS}
        for method in methods
        for n in SHOWN
    }
    body = []
    for place, method in enumerate(methods):
        of = [r for r in rows if r["method"] == method and r["seed"] in SEEDS]
        row = [method, "" if method == "base" else f"{of[0]['learning_rate']:.0e}"]
        row += [f"{np.mean(list(values[method, n].values())):.3f}" for n in SHOWN]
        row.append(f"{np.mean([r['distinct'] for r in of]):.2f}")
        for n in (1, N):
            difference = paired(values[method, n], values[methods[place - 1], n]) if place > 1 else None
            row.append(difference.text(3, sign=True) if difference else "")
        body.append(row)
    what = "pass@" if question == "demonstrations" else "best of "
    names = [f"{what}{n}" for n in SHOWN]
    head = ["", "learning rate", *names, "distinct of 128", f"{names[0]}, minus the row above", f"{names[-1]}, minus"]
    return (
        f"{table(head, body)}\n\n{task}, {len(SEEDS)} seeds, held-out prompts; ± half of the 95 % interval, paired. "
        f"{describe(found)}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args()
    torch.set_num_threads(1)
    rows = finished_rows(ROWS)

    def row(question: str, method: str, seed: int, rate: float | None) -> dict[str, Any]:
        key = (question, method, seed, rate)
        for known in rows:
            if (known["question"], known["method"], known["seed"], known["learning_rate"]) == key:
                return known
        rows.append(execute(question, method, seed, rate))
        append_row(ROWS, rows[-1])
        print(*key, {n: round(rows[-1]["curve"][str(n)], 3) for n in SHOWN}, flush=True)
        return rows[-1]

    for question, (_, tuned_for, methods) in QUESTIONS.items():
        chosen = []
        for method in methods:
            rate = None
            if method != "base":
                grid = {rate: row(question, method, TUNING_SEED, rate)["curve"][str(tuned_for)] for rate in RATES}
                rate = max(grid, key=lambda rate: grid[rate])
            chosen += [row(question, method, seed, rate) for seed in SEEDS]
        replace_section(HERE / "README.md", question, "\n" + render(chosen, question, environment()) + "\n")
    write_json(HERE / "results" / "environment.json", environment())


if __name__ == "__main__":
    main()
