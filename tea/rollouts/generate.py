"""Completions from a language model: transformers, or vLLM where it is installed."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from tea.rewards.model import default_device, weights_fingerprint

Prompt: TypeAlias = "str | Sequence[Mapping[str, Any]]"


@dataclass(frozen=True)
class SamplingConfig:
    """How completions are sampled. Names and defaults are those of TRL's GRPOConfig where it has them.

    Args:
        num_samples: n, completions per prompt.
        max_completion_length: most new tokens per completion.
        temperature: 0 is greedy decoding, for which `num_samples` must be 1.
        top_p: nucleus mass, in (0, 1].
        top_k: most probable tokens kept; 0 keeps all.
        min_p: tokens less probable than this share of the most probable one are dropped; None for off.
        repetition_penalty: 1.0 for none.
        seed: every completion is a function of this, the prompts and the settings.
        chat_template_kwargs: passed to the chat template, for instance {"enable_thinking": False}.

    Raises:
        ValueError: a value outside what is allowed.
    """

    num_samples: int = 64
    max_completion_length: int = 256
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float | None = None
    repetition_penalty: float = 1.0
    seed: int = 42
    chat_template_kwargs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("num_samples", "max_completion_length"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise ValueError(f"temperature must be at least 0, got {self.temperature}")
        if self.temperature == 0 and self.num_samples > 1:
            raise ValueError(
                f"temperature=0 gives the same completion every time: num_samples must be 1, got {self.num_samples}"
            )
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], got {self.top_p}")
        if self.top_k < 0:
            raise ValueError(f"top_k must be at least 0 (0 keeps all tokens), got {self.top_k}")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p must be in [0, 1] or None, got {self.min_p}")
        if not self.repetition_penalty > 0:
            raise ValueError(f"repetition_penalty must be above 0, got {self.repetition_penalty}")


@dataclass(frozen=True)
class Completion:
    """One completion: its text, its length in tokens (end token included), and whether it ended by itself."""

    text: str
    num_tokens: int
    finished: bool


class Generator(Protocol):
    """What :func:`tea.rollouts.evaluate` asks of a model."""

    def encode(self, prompt: Prompt, config: SamplingConfig) -> list[int]:
        """The prompt's token ids."""

    def generate(self, prompts: Sequence[list[int]], config: SamplingConfig, seed: int) -> list[list[Completion]]:
        """`config.num_samples` completions for each prompt: a function of the arguments and nothing else."""

    def describe(self) -> dict[str, Any]:
        """What identifies the model, in JSON types; equal descriptions give equal completions."""


def encode_prompt(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, config: SamplingConfig, source: str) -> list[int]:
    """Token ids of plain text, or of a conversation through the chat template with the assistant's turn opened.

    Raises:
        ValueError: a conversation, and the tokenizer has no chat template; or no tokens at all.
    """
    if isinstance(prompt, str):
        ids = tokenizer(prompt)["input_ids"]
    else:
        if tokenizer.chat_template is None:
            raise ValueError(
                f"the prompts are conversations, but the tokenizer of {source!r} has no chat template: set one on the "
                "tokenizer, or give the prompts as plain text"
            )
        text = tokenizer.apply_chat_template(
            [dict(message) for message in prompt],
            tokenize=False,
            add_generation_prompt=True,
            **config.chat_template_kwargs,
        )
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise ValueError(f"prompt {prompt!r} has no tokens")
    return list(ids)


class TransformersGenerator:
    """Samples with transformers' `generate`.

    Args:
        model: model id, local path, or a loaded model.
        tokenizer: loaded from `model`'s path by default.
        adapter: LoRA (peft) adapter to put on the model, id or path.
        max_batch_tokens: bound on (rows) x (prompt + max_completion_length) of one generate call, which bounds its
            key-value cache. Completions depend on it (it decides what shares a batch), so it belongs to the run.
        device: default CUDA if present (for one of several processes, its own), for a loaded model where it is.
        dtype: weights' dtype when loading, "auto" for the checkpoint's own.
        trust_remote_code: passed to transformers.

    Raises:
        ValueError: `max_batch_tokens` < 1, or the tokenizer has neither a padding nor an end token.
    """

    def __init__(
        self,
        model: str | PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        adapter: str | None = None,
        max_batch_tokens: int = 65536,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype = "auto",
        trust_remote_code: bool = False,
    ) -> None:
        if max_batch_tokens < 1:
            raise ValueError(f"max_batch_tokens must be at least 1, got {max_batch_tokens}")
        if isinstance(model, str):
            self.source = model
            loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype=dtype, trust_remote_code=trust_remote_code)
            device = device or default_device()
        else:
            self.source = model.config._name_or_path or type(model).__name__
            loaded = model
        if tokenizer is None:
            tokenizer = AutoTokenizer.from_pretrained(self.source, trust_remote_code=trust_remote_code)
        if tokenizer.pad_token_id is None:
            if tokenizer.eos_token is None:
                raise ValueError(f"the tokenizer of {self.source!r} has neither a padding nor an end token")
            tokenizer.pad_token = tokenizer.eos_token
        if adapter is not None:
            from peft import PeftModel

            loaded = PeftModel.from_pretrained(loaded, adapter)
        self.model = loaded.eval() if device is None else loaded.to(device).eval()
        self.tokenizer = tokenizer
        self.adapter = adapter
        self.max_batch_tokens = max_batch_tokens
        ends = loaded.generation_config.eos_token_id
        if ends is None:
            ends = tokenizer.eos_token_id
        self.end_ids: list[int] = [] if ends is None else ([ends] if isinstance(ends, int) else list(ends))

    def describe(self) -> dict[str, Any]:
        """Model, adapter, dtype, a fingerprint of the weights, and the batch bound."""
        return {
            "engine": "transformers",
            "model": self.source,
            "adapter": self.adapter,
            "dtype": str(next(self.model.parameters()).dtype).removeprefix("torch."),
            "weights": weights_fingerprint(self.model),
            "max_batch_tokens": self.max_batch_tokens,
        }

    def encode(self, prompt: Prompt, config: SamplingConfig) -> list[int]:
        """Token ids of one prompt; see :func:`encode_prompt`."""
        return encode_prompt(self.tokenizer, prompt, config, self.source)

    def generate(self, prompts: Sequence[list[int]], config: SamplingConfig, seed: int) -> list[list[Completion]]:
        """Sample `config.num_samples` completions for each prompt (token ids).

        Raises:
            ValueError: prompt and completion do not fit the model's positions.
            RuntimeError: out of memory, naming `max_batch_tokens`.
        """
        longest = max(len(prompt) for prompt in prompts) + config.max_completion_length
        limit = getattr(self.model.config, "max_position_embeddings", None)
        if limit is not None and longest > limit:
            raise ValueError(
                f"the longest prompt ({longest - config.max_completion_length} tokens) and max_completion_length="
                f"{config.max_completion_length} need {longest} positions, {self.source!r} has {limit}"
            )
        rows = [prompt for prompt in prompts for _ in range(config.num_samples)]
        batch_size = max(1, self.max_batch_tokens // longest)
        settings = self._generation_config(config)
        completions: list[Completion] = []
        device = self.model.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            try:
                for start in range(0, len(rows), batch_size):
                    completions += self._generate_batch(rows[start : start + batch_size], settings)
            except torch.OutOfMemoryError as error:
                raise RuntimeError(
                    f"out of memory generating {batch_size} rows of up to {longest} tokens: lower max_batch_tokens "
                    f"(now {self.max_batch_tokens}) and start a new output directory"
                ) from error
        n = config.num_samples
        return [completions[i * n : (i + 1) * n] for i in range(len(prompts))]

    @torch.no_grad()
    def _generate_batch(self, rows: list[list[int]], settings: GenerationConfig) -> list[Completion]:
        width = max(len(row) for row in rows)
        ids = torch.full((len(rows), width), settings.pad_token_id, dtype=torch.long)
        mask = torch.zeros_like(ids)
        for i, row in enumerate(rows):  # on the left, so that every completion starts in the same column
            ids[i, width - len(row) :] = torch.tensor(row)
            mask[i, width - len(row) :] = 1
        device = self.model.device
        output = self.model.generate(
            input_ids=ids.to(device), attention_mask=mask.to(device), generation_config=settings
        )[:, width:].cpu()
        ended = torch.isin(output, torch.tensor(self.end_ids, dtype=torch.long))
        finished = ended.any(dim=1)
        lengths = torch.where(finished, ended.int().argmax(dim=1) + 1, output.shape[1])
        kept = [row[:length].tolist() for row, length in zip(output, lengths.tolist(), strict=True)]
        texts = self.tokenizer.batch_decode(kept, skip_special_tokens=True)
        return [
            Completion(text, length, done)
            for text, length, done in zip(texts, lengths.tolist(), finished.tolist(), strict=True)
        ]

    def _generation_config(self, config: SamplingConfig) -> GenerationConfig:
        # Everything that shapes the distribution is set here: a checkpoint's generation_config.json (top_k = 50, ...)
        # must not sample from another distribution than the one on record.
        sampling: dict[str, Any] = {"do_sample": False}
        if config.temperature > 0:
            sampling = {
                "do_sample": True,
                "temperature": config.temperature,
                "top_p": config.top_p,
                "top_k": config.top_k,
                "min_p": config.min_p,
            }
        return GenerationConfig(
            max_new_tokens=config.max_completion_length,
            repetition_penalty=config.repetition_penalty,
            pad_token_id=self.tokenizer.pad_token_id,
            bos_token_id=self.tokenizer.bos_token_id,
            eos_token_id=self.end_ids or None,
            **sampling,
        )


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
        try:
            import vllm
        except ImportError as error:
            raise ImportError("the vLLM engine needs vLLM: pip install 'tea-rl[vllm]'") from error
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
    import json

    path = Path(adapter) / "adapter_config.json"
    return int(json.loads(path.read_text())["r"]) if path.is_file() else None
