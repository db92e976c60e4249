"""Sampling that runs a prompt through the model once for all of its samples.

`generate` of transformers gives every sample a row of its own from the first token on: n samples of a prompt of L
tokens cost n * L tokens of prefill. Here the prompt's keys and values are computed once, and all samples attend to that
one copy (:mod:`tea.rollouts.prompt_attention`) where the model's attention allows, to copies of it elsewhere. Rows that
have ended leave the batch. The distribution is the same; the draws, for a given seed, are not.
"""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    GenerationConfig,
    LogitsProcessorList,
    MinPLogitsWarper,
    PreTrainedModel,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)
from transformers.utils import logging

from tea.rollouts.prompt_attention import PromptAttentionError, SharedPrompts, prompt_attention

# The options of a GenerationConfig that `sample_shared` knows; any other that is set belongs to `generate`.
_KNOWN = {
    *("max_new_tokens", "do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "use_cache"),
    *("pad_token_id", "bos_token_id", "eos_token_id", "transformers_version", "max_length", "disable_compile"),
}
# A batch is cut when so many of its rows have ended: cutting copies the cache.
_COMPACT_BELOW = 0.75


def why_not_shared(model: PreTrainedModel, settings: GenerationConfig) -> str | None:
    """Why :func:`sample_shared` cannot sample from that model with these settings; None if it can."""
    config = model.config.get_text_config()
    if model.config.is_encoder_decoder:
        return "it is an encoder-decoder model"
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if not kinds <= {"full_attention", "sliding_attention"}:
        return f"its layers ({', '.join(sorted(kinds))}) keep another state than keys and values"
    parameters = inspect.signature(model.forward).parameters
    if "past_key_values" not in parameters or "position_ids" not in parameters:
        return f"{type(model).__name__}.forward takes no past_key_values or no position_ids"
    default = GenerationConfig().to_dict()
    other = [
        name
        for name, value in settings.to_dict().items()
        if name not in _KNOWN and not name.startswith("_") and value is not None and value != default.get(name)
    ]
    return f"the generation settings {', '.join(sorted(other))} are not known to it" if other else None


@torch.no_grad()
def sample_shared(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    counts: Sequence[int],
    settings: GenerationConfig,
    max_rows: int,
) -> list[list[int]]:
    """Sample ``counts[p]`` completions of every prompt, with one pass over each prompt.

    Args:
        model: A decoder-only model with a key-value cache, in eval mode. See :func:`why_not_shared`.
        prompts: Token ids.
        counts: Completions of each.
        settings: ``max_new_tokens``, ``eos_token_id``, ``pad_token_id``, ``do_sample``, ``temperature``, ``top_k``,
            ``top_p``, ``min_p``, ``repetition_penalty``.
        max_rows: Most completions that are made side by side: bounds the cache.

    Returns:
        Token ids of the completions, the end token included: prompt by prompt. A function of the arguments and of
        torch's random state.

    Raises:
        ValueError: ``max_rows`` < 1, or a count < 1.
    """
    if max_rows < 1 or any(count < 1 for count in counts):
        raise ValueError(f"max_rows and counts must be at least 1, got {max_rows} and {list(counts)}")
    completions: list[list[int]] = []
    batch: list[int] = []
    rows = 0
    for p, count in enumerate(counts):
        if batch and rows + count > max_rows:
            completions += _sample_batch(model, [prompts[i] for i in batch], [counts[i] for i in batch], settings)
            batch, rows = [], 0
        if count > max_rows:
            completions += _sample_batch(model, [prompts[p]], [count], settings, max_rows)
        else:
            batch.append(p)
            rows += count
    if batch:
        completions += _sample_batch(model, [prompts[i] for i in batch], [counts[i] for i in batch], settings)
    return completions


def _sample_batch(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    counts: Sequence[int],
    settings: GenerationConfig,
    max_rows: int | None = None,
) -> list[list[int]]:
    """All completions of some prompts; those of a single one in several goes if they are more than ``max_rows``."""
    device = model.device
    width = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), width), settings.pad_token_id, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, prompt in enumerate(prompts):  # on the left, so that every completion starts in the same column
        ids[i, width - len(prompt) :] = torch.tensor(list(prompt))
        mask[i, width - len(prompt) :] = 1
    ids, mask = ids.to(device), mask.to(device)
    cache = DynamicCache(config=model.config)
    last_only: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in _parameters(model) else {}
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits = _forward(model, ids, cache, attention_mask=mask, position_ids=positions, **last_only)
    if max_rows is None:
        owner = torch.repeat_interleave(torch.arange(len(prompts)), torch.tensor(counts)).to(device)
        return _decode(model, ids, mask, cache, logits, owner, settings, last_only)
    completions: list[list[int]] = []
    for start in range(0, counts[0], max_rows):
        owner = torch.zeros(min(max_rows, counts[0] - start), dtype=torch.long, device=device)
        completions += _decode(model, ids, mask, cache, logits, owner, settings, last_only)
    return completions


def _decode(
    model: PreTrainedModel,
    ids: Tensor,
    mask: Tensor,
    cache: DynamicCache,
    logits: Tensor,
    owner: Tensor,
    settings: GenerationConfig,
    last_only: dict[str, Any],
) -> list[list[int]]:
    """Complete the prompts in the cache; ``owner`` (rows,) says which prompt each completion is of."""
    device = ids.device
    positions = mask.sum(1, keepdim=True)[owner]  # of the next token
    logits = logits[owner]
    context = None
    if settings.repetition_penalty not in (None, 1.0):
        # Padding is not part of the prompt: a repeated last token in its place penalises nothing else.
        context = torch.where(mask == 1, ids, ids[:, -1:])[owner]
    process = _processors(settings)
    ends = settings.eos_token_id
    end_ids = torch.tensor([] if ends is None else ends, dtype=torch.long, device=device).flatten()
    limit = settings.max_new_tokens
    assert limit is not None
    output = torch.full((len(owner), limit), settings.pad_token_id, dtype=torch.long, device=device)
    lengths = torch.full((len(owner),), limit, dtype=torch.long, device=device)
    row = torch.arange(len(owner), device=device)  # of each row of the batch in the output
    alive = torch.ones(len(owner), dtype=torch.bool, device=device)
    with _started(model, cache, mask, owner, last_only) as state:
        for step in range(limit):
            scores = process(cast(Any, context), logits.float())
            token = torch.multinomial(scores.softmax(-1), 1) if settings.do_sample else scores.argmax(-1, keepdim=True)
            output[row, step] = torch.where(alive, token[:, 0], settings.pad_token_id)
            ended = alive & torch.isin(token[:, 0], end_ids)
            lengths[row] = torch.where(ended, step + 1, lengths[row])
            alive = alive & ~ended
            left = int(alive.sum())
            if left == 0 or step + 1 == limit:
                break
            if context is not None:
                context = torch.cat([context, token], dim=1)
            if left <= _COMPACT_BELOW * len(alive):
                keep = alive.nonzero()[:, 0]
                state.keep(keep)
                token, positions, row, alive = token[keep], positions[keep], row[keep], alive[keep]
                context = context[keep] if context is not None else None
            logits = state.forward(token, positions, last_only)
            positions = positions + 1
    return [kept[:length] for kept, length in zip(output.tolist(), lengths.tolist(), strict=True)]


class _State(Protocol):
    """What the rows of a batch have seen so far."""

    def forward(self, token: Tensor, positions: Tensor, options: dict[str, Any]) -> Tensor:
        """Logits (rows, vocabulary) after one more token of each row."""

    def keep(self, rows: Tensor) -> None:
        """Leave only these rows in the batch."""


class _Copied:
    """Every row has a copy of its prompt's keys and values."""

    def __init__(self, model: PreTrainedModel, prompts: DynamicCache, mask: Tensor, owner: Tensor) -> None:
        self.model = model
        # Selecting rows replaces the tensors of a layer, and does not write into them: the prompts' stay as they are.
        self.cache = copy.copy(prompts)
        self.cache.layers = [copy.copy(layer) for layer in prompts.layers]
        self.cache.batch_select_indices(owner)
        self.mask = mask[owner]

    def forward(self, token: Tensor, positions: Tensor, options: dict[str, Any]) -> Tensor:
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], dim=1)
        return _forward(self.model, token, self.cache, attention_mask=self.mask, position_ids=positions, **options)

    def keep(self, rows: Tensor) -> None:
        self.cache.batch_select_indices(rows)
        self.mask = self.mask[rows]


class _Shared:
    """Rows have keys and values of their own tokens, and attend to those of one copy of their prompt beside them."""

    def __init__(self, model: PreTrainedModel, prompts: DynamicCache, mask: Tensor, owner: Tensor) -> None:
        self.model = model
        self.cache = DynamicCache(config=model.config)
        self.prompts = SharedPrompts(prompts, mask, owner, self.cache)

    def forward(self, token: Tensor, positions: Tensor, options: dict[str, Any]) -> Tensor:
        prompts = self.prompts
        return _forward(self.model, token, self.cache, position_ids=positions, shared_prompts=prompts, **options)

    def keep(self, rows: Tensor) -> None:
        self.cache.batch_select_indices(rows)
        self.prompts.keep(rows)


# Whether a model's attention can read one copy of a prompt for all of its rows.
_reads_one_copy: WeakKeyDictionary[PreTrainedModel, bool] = WeakKeyDictionary()


@contextlib.contextmanager
def _started(
    model: PreTrainedModel, prompts: DynamicCache, mask: Tensor, owner: Tensor, options: dict[str, Any]
) -> Iterator[_State]:
    if model not in _reads_one_copy:
        _reads_one_copy[model] = _try_one_copy(model, prompts, mask, owner[:1], options)
    if not _reads_one_copy[model]:
        yield _Copied(model, prompts, mask, owner)
        return
    with prompt_attention(model):
        yield _Shared(model, prompts, mask, owner)


def _try_one_copy(
    model: PreTrainedModel, prompts: DynamicCache, mask: Tensor, owner: Tensor, options: dict[str, Any]
) -> bool:
    """Run one token of one row, and see that every layer attended as it should."""
    compiled = getattr(model, "_compiled_call_impl", None) is not None or hasattr(model, "_orig_mod")
    # The parts of a model of several parts may each attend in their own way, which setting one for all would not leave.
    if compiled or model.config.sub_configs or "kwargs" not in _parameters(model):
        return False
    trial = _Shared(model, prompts, mask, owner)
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # that a model's attention cannot be set is no news to its user
    try:
        with prompt_attention(model):
            trial.forward(torch.zeros_like(owner)[:, None], mask.sum(1, keepdim=True)[owner], options)
    except PromptAttentionError:
        return False
    finally:
        logging.set_verbosity(verbosity)
    return trial.prompts.calls == len(prompts.layers)


def _forward(model: PreTrainedModel, ids: Tensor, cache: DynamicCache, **options: Any) -> Tensor:
    """Logits (rows, vocabulary) after the last token; the cache grows by the tokens."""
    return model(input_ids=ids, past_key_values=cache, use_cache=True, **options).logits[:, -1]


def _parameters(model: PreTrainedModel) -> set[str]:
    # A peft model passes everything on.
    unwrap: Any = getattr(model, "get_base_model", None)
    inner = model if unwrap is None else unwrap()
    return set(inspect.signature(inner.forward).parameters)


def _processors(settings: GenerationConfig) -> LogitsProcessorList:
    """In the order in which `generate` applies them."""
    processors = LogitsProcessorList()
    if settings.repetition_penalty not in (None, 1.0):
        processors.append(RepetitionPenaltyLogitsProcessor(settings.repetition_penalty))
    if settings.do_sample:
        if settings.temperature not in (None, 1.0):
            processors.append(TemperatureLogitsWarper(settings.temperature))
        if settings.top_k:
            processors.append(TopKLogitsWarper(settings.top_k))
        if settings.top_p is not None and settings.top_p < 1:
            processors.append(TopPLogitsWarper(settings.top_p))
        if settings.min_p:
            processors.append(MinPLogitsWarper(settings.min_p))
    return processors
