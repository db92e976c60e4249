"""What is looked at before anything is generated, so that a mistake costs seconds."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, IterableDataset
from trl import GRPOConfig

from tea.trainers.errors import UserError


def check_writable(path: str) -> None:
    """Raise UserError unless files can be written into `path`, which is made if need be."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UserError(
            f"output_dir {path!r} cannot be written to: {error.strerror or error}; choose another"
        ) from error


def check_enough_prompts(train_dataset: Any, args: GRPOConfig) -> None:
    """Raise UserError unless the training data fills one generation batch: TRL drops what does not, without a word."""
    if isinstance(train_dataset, IterableDataset):
        if args.max_steps <= 0:
            raise UserError("streamed data has no length, so max_steps must be set")
        return
    if not isinstance(train_dataset, Dataset):
        return
    prompts = args.generation_batch_size // args.num_generations
    if len(train_dataset) < prompts:
        raise UserError(
            f"there are {len(train_dataset):,} training prompts, but one generation batch takes {prompts}: "
            f"generation_batch_size {args.generation_batch_size} / num_generations {args.num_generations}; lower "
            "per_device_train_batch_size or gradient_accumulation_steps, or add prompts"
        )


def check_prompts_fit_tokenizer(prompt: Any, tokenizer: Any, name: str) -> None:
    """Raise UserError for a conversation and a tokenizer without a chat template; warn of the opposite."""
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(prompt, list) and template is None:
        raise UserError(
            f"the prompts are conversations, but the tokenizer of {name!r} has no chat template: use the model's "
            "instruction-tuned version, or prompts that are text"
        )
    if isinstance(prompt, str) and template is not None:
        warnings.warn(
            f"the prompts are plain text, but {name!r} has a chat template, which they will not go through: a model "
            "tuned for chat may then give rewards near its worst. Set chat_prompts: true (or system_prompt) to make "
            "each prompt a user's message",
            stacklevel=3,
        )


def first_prompt(dataset: Any) -> Any:
    """The first prompt, or None if there is none to look at without reading a stream."""
    if isinstance(dataset, Dataset) and len(dataset) and "prompt" in dataset.column_names:
        return dataset[0]["prompt"]
    return None


def warn_low_precision(model: torch.nn.Module, learning_rate: float) -> None:
    """Warn if weights that are trained are stored in 16 bits: small updates are lost to rounding.

    bfloat16 has 8 bits of mantissa. A step of relative size below 2^-9, 0.002, rounds to nothing; AdamW's is about the
    learning rate over the weight's size, 1e-5 / 0.02.
    """
    low = {p.dtype for p in model.parameters() if p.requires_grad and p.dtype in (torch.bfloat16, torch.float16)}
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    # QLoRA's adapters are bfloat16 on purpose: they start at zero, and their steps are large against them.
    if low and trained > 0.2 * sum(p.numel() for p in model.parameters()):
        name = str(next(iter(low))).removeprefix("torch.")
        warnings.warn(
            f"the weights are trained in {name}, which rounds most updates of size {learning_rate:g} to nothing. Set "
            "dtype: float32 with bf16: true (float32 weights, bfloat16 arithmetic), or train LoRA (use_peft: true)",
            stacklevel=3,
        )


def check_disk(path: str, needed: float) -> None:
    """Raise UserError if fewer than `needed` bytes, those of one checkpoint, are free where `path` is."""
    free = shutil.disk_usage(path).free
    if free < needed:
        raise UserError(
            f"a checkpoint takes about {needed / 1e9:.1f} GB, but only {free / 1e9:.1f} GB are free where output_dir "
            f"{path!r} is"
        )
