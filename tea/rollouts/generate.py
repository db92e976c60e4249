"""Completions with transformers: one pass over each prompt where the model's cache allows, `generate` elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from tea._extras import needs_extra
from tea.rollouts.base import Completion, Prompt, SamplingConfig, encode_prompt

with needs_extra("trl", "sampling with transformers"):
    from transformers import (
        AutoModelForCausalLM,
        AutoTokenizer,
        GenerationConfig,
        PreTrainedModel,
        PreTrainedTokenizerBase,
    )

    from tea.rewards.model import default_device, weights_fingerprint
    from tea.rollouts.shared import sample_shared, why_not_shared


class TransformersGenerator:
    """Samples with transformers, each prompt run through the model once for all of its samples.

    Models whose state is more than keys and values (and encoder-decoder ones) sample with `generate`, which repeats
    the prompt for every sample.

    Args:
        model: model id, local path, or a loaded model.
        tokenizer: loaded from `model`'s path by default.
        adapter: LoRA (peft) adapter to put on the model, id or path.
        max_batch_tokens: bound on (rows) x (prompt + max_completion_length) sampled side by side, which bounds the
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
            with needs_extra("trl", "a LoRA adapter"):
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
        self.shares_prompts = why_not_shared(loaded, self._generation_config(SamplingConfig())) is None

    def describe(self) -> dict[str, Any]:
        """Model, adapter, dtype, a fingerprint of the weights, and the batch bound."""
        return {
            "engine": "transformers",
            "model": self.source,
            "adapter": self.adapter,
            "dtype": str(next(self.model.parameters()).dtype).removeprefix("torch."),
            "weights": weights_fingerprint(self.model),
            "max_batch_tokens": self.max_batch_tokens,
            "shares_prompts": self.shares_prompts,
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
        n = config.num_samples
        batch_size = max(1, self.max_batch_tokens // longest)
        settings = self._generation_config(config)
        completions: list[Completion] = []
        device = self.model.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            try:
                if self.shares_prompts:
                    completions = self._completions(
                        sample_shared(self.model, prompts, [n] * len(prompts), settings, batch_size)
                    )
                else:
                    rows = [prompt for prompt in prompts for _ in range(n)]
                    for start in range(0, len(rows), batch_size):
                        completions += self._generate_batch(rows[start : start + batch_size], settings)
            except torch.OutOfMemoryError as error:
                raise RuntimeError(
                    f"out of memory generating {batch_size} rows of up to {longest} tokens: lower max_batch_tokens "
                    f"(now {self.max_batch_tokens}) and start a new output directory"
                ) from error
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
        lengths = torch.where(ended.any(dim=1), ended.int().argmax(dim=1) + 1, output.shape[1])
        return self._completions([row[:length] for row, length in zip(output.tolist(), lengths.tolist(), strict=True)])

    def _completions(self, ids: list[list[int]]) -> list[Completion]:
        texts = self.tokenizer.batch_decode(ids, skip_special_tokens=True)
        return [Completion(text, len(row), row[-1] in self.end_ids) for text, row in zip(texts, ids, strict=True)]

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
