"""What sampling asks of a model: how to sample, what a completion is, what a generator does. No torch needed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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
