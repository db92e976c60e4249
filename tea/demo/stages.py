"""What the demo's stages do: pre-train, learn a reward, train with each method, sample. TRL does the training."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tea.demo import task

Report = Callable[[int, int], None]
"""Takes (steps done, steps in all)."""

LABELS = {
    "base": "base model",
    "grpo": "GRPO",
    "tea": "TEA",
    "prefix_tea": "Prefix-TEA",
    "ladder": "ladder",
}
"""The policies that the demo can compare; all but the first are trained."""


def build_tokenizer() -> Any:
    """One token per word of the task: a `PreTrainedTokenizerFast` of 59 words and 4 special tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<bos>", "<eos>", "<unk>"]
    vocabulary = {word: i for i, word in enumerate([*special, *task.WORDS])}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        bos_token="<bos>",
        eos_token="<eos>",
        unk_token="<unk>",
        padding_side="left",
        model_input_names=["input_ids", "attention_mask"],
        chat_template="{% for message in messages %}{{ message['content'] }}"
        "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}",
    )


def _model_config(settings: dict[str, Any], tokenizer: Any, **options: Any) -> Any:
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings["hidden_size"],
        intermediate_size=2 * settings["hidden_size"],
        num_hidden_layers=settings["num_layers"],
        num_attention_heads=settings["num_heads"],
        num_key_value_heads=settings["num_heads"],
        max_position_embeddings=32,
        # The usual 0.02 is for models 50 times wider; with it, these would need minutes to leave the first plateau.
        initializer_range=0.1,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **options,
    )


def _arguments(settings: dict[str, Any], seed: int, directory: Path) -> dict[str, Any]:
    """What every TRL config of the demo has in common."""
    return {
        "output_dir": str(directory / "trainer"),
        "seed": seed,
        "max_steps": settings["steps"],
        "per_device_train_batch_size": settings["batch_size"],
        "learning_rate": settings["learning_rate"],
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,  # TRL's default trades time for memory that is not short here
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": max(1, settings["steps"] // 30),
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }


def _fit(trainer: Any, report: Report, directory: Path) -> dict[str, Any]:
    """Train, report each step, write the model, its tokenizer and the training log."""
    from transformers import PrinterCallback, TrainerCallback

    class Progress(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            report(state.global_step, state.max_steps)

    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Progress())
    start = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - start
    trainer.model.save_pretrained(directory)
    trainer.processing_class.save_pretrained(directory)
    history = trainer.state.log_history
    (directory / "training_log.json").write_text(json.dumps(history, indent=1) + "\n", encoding="utf-8")
    return {"training_seconds": seconds, "seconds_per_step": seconds / trainer.state.max_steps}


def pretrain(
    settings: dict[str, Any], seed: int, inputs: dict[str, Path], directory: Path, report: Report
) -> dict[str, Any]:
    """The base model: a Llama of 0.1 M parameters that writes blends as the corpus does."""
    from datasets import Dataset
    from transformers import LlamaForCausalLM, set_seed
    from trl import SFTConfig, SFTTrainer

    tokenizer = build_tokenizer()
    prompts, _ = task.split_prompts(settings["held_out_prompts"])
    rows = []
    for prompt, completion in task.corpus(seed, settings["examples"], prompts):
        before = tokenizer(prompt)["input_ids"]
        after = [*tokenizer(completion)["input_ids"], tokenizer.eos_token_id]
        rows.append({"input_ids": before + after, "completion_mask": [0] * len(before) + [1] * len(after)})
    set_seed(seed)
    model = LlamaForCausalLM(_model_config(settings, tokenizer))
    arguments = SFTConfig(
        **_arguments(settings, seed, directory),
        completion_only_loss=True,
        lr_scheduler_type="cosine",
        warmup_steps=20,
    )
    trainer = SFTTrainer(model, arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
    metrics = _fit(trainer, report, directory)
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {**metrics, "parameters": model.num_parameters(), "first_loss": losses[0], "last_loss": losses[-1]}


def reward_model(
    settings: dict[str, Any], seed: int, inputs: dict[str, Path], directory: Path, report: Report
) -> dict[str, Any]:
    """The reward model: a classifier of the same size, from preference pairs that the gold rule has labelled."""
    import torch
    from datasets import Dataset
    from transformers import LlamaForSequenceClassification, set_seed
    from trl import RewardConfig, RewardTrainer

    from tea.rewards.model import RewardModel

    tokenizer = build_tokenizer()
    prompts, held_out = task.split_prompts(settings["held_out_prompts"])

    # Tokenized here, because RewardTrainer would append <eos>, which GRPOTrainer does not show to a reward model.
    def encode(texts: list[str]) -> list[list[int]]:
        ids: list[list[int]] = tokenizer(texts)["input_ids"]
        return ids

    triples = task.preferences(seed, settings["pairs"], prompts)
    pairs = {
        "chosen_ids": encode([prompt + chosen for prompt, chosen, _ in triples]),
        "rejected_ids": encode([prompt + rejected for prompt, _, rejected in triples]),
        # The tasters say how much better, too, and the reward is to differ by at least so much (Llama 2's margin,
        # arXiv 2307.09288, section 3.2.2). Without it the reward saturates: it tells the best from the good no more.
        "margin": [
            settings["margin_per_point"] * (task.gold_reward(prompt, chosen) - task.gold_reward(prompt, rejected))
            for prompt, chosen, rejected in triples
        ],
    }
    set_seed(seed)
    model = LlamaForSequenceClassification(_model_config(settings, tokenizer, num_labels=1))
    arguments = RewardConfig(
        **_arguments(settings, seed, directory), lr_scheduler_type="cosine", warmup_steps=20, adam_beta2=0.98
    )
    trainer = RewardTrainer(model, arguments, train_dataset=Dataset.from_dict(pairs), processing_class=tokenizer)
    metrics = _fit(trainer, report, directory)

    test = task.preferences(seed + 1_000_000, 2000, held_out)
    scorer = RewardModel(model, tokenizer, batch_size=1000)
    chosen = scorer([prompt for prompt, _, _ in test], [chosen for _, chosen, _ in test])
    rejected = scorer([prompt for prompt, _, _ in test], [rejected for _, _, rejected in test])
    correct = (torch.tensor(chosen) > torch.tensor(rejected)).double()
    return {
        **metrics,
        "parameters": model.num_parameters(),
        "held_out_pairs": len(test),
        "held_out_accuracy": correct.mean().item(),
        "held_out_accuracy_std_error": correct.std().item() / len(test) ** 0.5,
    }


def train(
    settings: dict[str, Any], seed: int, inputs: dict[str, Path], directory: Path, report: Report
) -> dict[str, Any]:
    """One method's policy, from the base model against the reward model. GRPO is TRL's own trainer."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
    from trl import GRPOConfig, GRPOTrainer

    from tea.trainers import AdvantageTrainer, TEAConfig

    tokenizer = AutoTokenizer.from_pretrained(inputs["base"])
    model = AutoModelForCausalLM.from_pretrained(inputs["base"])
    reward = AutoModelForSequenceClassification.from_pretrained(inputs["reward_model"]).eval()
    prompts, _ = task.split_prompts(settings["held_out_prompts"])
    arguments = {
        **_arguments(settings, seed, directory),
        "num_generations": settings["num_generations"],
        "max_completion_length": task.MAX_INGREDIENTS,
    }
    common = {
        "train_dataset": Dataset.from_dict({"prompt": prompts}),
        "processing_class": tokenizer,
        "reward_processing_classes": [tokenizer],
    }
    trainer: Any
    if settings["method"] == "grpo":
        trainer = GRPOTrainer(model, [reward], GRPOConfig(**arguments), **common)
    else:
        config = TEAConfig(**arguments, advantage_estimator=settings["method"], target_n=settings["target_n"])
        trainer = AdvantageTrainer(model, [reward], config, **common)
    metrics = _fit(trainer, report, directory)
    log = [entry for entry in trainer.state.log_history if "reward" in entry]
    for name in ("reward", "reward_std", "entropy"):
        metrics[f"first_{name}"], metrics[f"last_{name}"] = log[0][name], log[-1][name]
    timed = log[1:] or log  # the first steps warm caches up
    if "tea/advantage_time" in log[0]:
        advantage = sum(entry["tea/advantage_time"] for entry in timed) / len(timed)
        step = sum(entry["step_time"] for entry in timed) / len(timed)
        metrics["advantage_seconds"] = advantage
        metrics["advantage_share_of_step"] = advantage / step
    return metrics


def evaluate(
    settings: dict[str, Any], seed: int, inputs: dict[str, Path], directory: Path, report: Report
) -> dict[str, Any]:
    """`num_samples` blends for each held-out prompt, scored by the reward model and by the gold rule."""
    from tea.rewards.model import RewardModel
    from tea.rollouts import SamplingConfig, TransformersGenerator
    from tea.rollouts import evaluate as sample_and_score

    _, held_out = task.split_prompts(settings["held_out_prompts"])
    total = len(held_out) * settings["num_samples"]
    scored = 0

    def gold(prompts: list[str], completions: list[str], **kwargs: Any) -> list[float]:
        nonlocal scored
        rewards = task.gold(prompts, completions)
        scored += len(rewards)
        report(scored, total)
        return rewards

    start = time.perf_counter()
    run = sample_and_score(
        TransformersGenerator(str(inputs["policy"]), device="cpu"),
        held_out,
        [RewardModel(str(inputs["reward_model"]), name="reward_model", batch_size=4096, device="cpu"), gold],
        output_dir=directory,
        config=SamplingConfig(
            num_samples=settings["num_samples"],
            max_completion_length=task.MAX_INGREDIENTS,
            seed=seed,
        ),
        chunk_size=max(1, 4096 // settings["num_samples"]),
        progress=False,
    )
    assert run is not None
    return {"samples": total, "sampling_seconds": time.perf_counter() - start}


STAGES = {"pretrain": pretrain, "reward_model": reward_model, "train": train, "evaluate": evaluate}
