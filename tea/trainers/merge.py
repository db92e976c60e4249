"""Merge a LoRA adapter into its base model."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import torch
from transformers import AutoTokenizer

from tea.trainers.errors import UserError
from tea.trainers.rewards import model_error


def merge_adapter(
    run: str, output_dir: str | None = None, dtype: str = "auto", trust_remote_code: bool = False
) -> Path:
    """Write the model that a LoRA run stands for, base and adapter in one, with the run's tokenizer.

    Args:
        run: Directory of a run or checkpoint with an adapter.
        output_dir: A directory that does not exist yet; default: `merged` in `run`.
        dtype: Of the weights that are written; "auto" is the base checkpoint's own. A 4-bit base is read in full
            precision: the adapter was trained on its rounding, so that the merged model differs a little.
        trust_remote_code: Run the code that a base model brings.

    Returns:
        The directory that was written.

    Raises:
        UserError: If there is no adapter, the base model cannot be loaded, or `output_dir` exists.
    """
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder = Path(run)
    described = folder / "adapter_config.json"
    if not described.is_file():
        has = "a whole model, which needs no merging" if (folder / "config.json").is_file() else "no model"
        raise UserError(f"{run!r} holds no LoRA adapter (adapter_config.json) but {has}")
    target = Path(output_dir) if output_dir is not None else folder / "merged"
    if target.exists():
        raise UserError(f"{str(target)!r} exists already; give another --output-dir")
    base = json.loads(described.read_text())["base_model_name_or_path"]
    kind = dtype if dtype == "auto" else getattr(torch, dtype)
    try:
        model = AutoModelForCausalLM.from_pretrained(base, dtype=kind, trust_remote_code=trust_remote_code)
        merged = PeftModel.from_pretrained(model, run).merge_and_unload(safe_merge=True)
        tokenizer = AutoTokenizer.from_pretrained(run, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise UserError(f"{run!r}, an adapter of {base!r}, cannot be merged: {model_error(base, error)}") from error
    partial = target.with_name(target.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    merged.save_pretrained(partial)
    tokenizer.save_pretrained(partial)
    for path in partial.iterdir():
        with path.open("rb") as file:
            os.fsync(file.fileno())
    os.replace(partial, target)
    return target
