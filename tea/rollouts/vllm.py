"""Completions with vLLM, where it is installed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tea._extras import needs_extra
from tea.rollouts.base import Completion, Prompt, SamplingConfig, encode_prompt


class VLLMGenerator:
    """Samples with vLLM, which must be installed (``pip install tea-rl[vllm]``).

    vLLM's batching is dynamic, so a resumed run equals an uninterrupted one in distribution and in which samples
    exist, but its completions need not be the same to the byte.

    Args:
        model: model id or local path.
        adapter: LoRA adapter path.
        **engine_options: passed to `vllm.LLM` (tensor_parallel_size, max_model_len, dtype, ...).

    Raises:
        ImportError: vLLM is not installed.
    """

    def __init__(self, model: str, *, adapter: str | None = None, **engine_options: Any) -> None:
        with needs_extra("vllm", "the vLLM engine"):
            import vllm
        self._vllm = vllm
        self.source = model
        self.adapter = adapter
        self.engine_options = engine_options
        if adapter is not None:
            rank = _lora_rank(adapter)
            engine_options = {"enable_lora": True, **({"max_lora_rank": rank} if rank else {}), **engine_options}
        self.llm = vllm.LLM(model=model, **engine_options)
        self.tokenizer = self.llm.get_tokenizer()

    def describe(self) -> dict[str, Any]:
        """Model, adapter, engine options, and size and time of local weight files."""
        return {
            "engine": "vllm",
            "model": self.source,
            "adapter": self.adapter,
            "engine_options": {key: str(value) for key, value in sorted(self.engine_options.items())},
            "weights": files_fingerprint(self.source, self.adapter),
        }

    def encode(self, prompt: Prompt, config: SamplingConfig) -> list[int]:
        """Token ids of one prompt; see :func:`encode_prompt`."""
        return encode_prompt(self.tokenizer, prompt, config, self.source)

    def generate(self, prompts: Sequence[list[int]], config: SamplingConfig, seed: int) -> list[list[Completion]]:
        """Sample `config.num_samples` completions for each prompt (token ids)."""
        params = [
            self._vllm.SamplingParams(
                n=config.num_samples,
                max_tokens=config.max_completion_length,
                temperature=config.temperature,
                top_p=config.top_p,
                top_k=config.top_k,
                min_p=config.min_p or 0.0,
                repetition_penalty=config.repetition_penalty,
                seed=(seed + i) % 2**31,
            )
            for i in range(len(prompts))
        ]
        lora = None
        if self.adapter is not None:
            from vllm.lora.request import LoRARequest

            lora = LoRARequest("adapter", 1, self.adapter)
        outputs = self.llm.generate(
            [{"prompt_token_ids": prompt} for prompt in prompts], params, lora_request=lora, use_tqdm=False
        )
        return [
            [Completion(o.text, len(o.token_ids), o.finish_reason == "stop") for o in output.outputs]
            for output in outputs
        ]


def files_fingerprint(*paths: str | None) -> str | None:
    """A hash of names, sizes and times of the files in local model directories; None where none of them is local."""
    digest, any_local = hashlib.sha256(), False
    for path in paths:
        if path is not None and Path(path).is_dir():
            any_local = True
            for file in sorted(Path(path).glob("*")):
                digest.update(f"{file.name}:{file.stat().st_size}:{file.stat().st_mtime_ns}".encode())
    return digest.hexdigest()[:16] if any_local else None


def _lora_rank(adapter: str) -> int | None:
    path = Path(adapter) / "adapter_config.json"
    return int(json.loads(path.read_text())["r"]) if path.is_file() else None
