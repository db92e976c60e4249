"""Attention of many completions to the keys of one copy of their prompt.

A step of decoding reads the keys and values of everything before it. Completions of one prompt that each hold a copy of
it read (and store) that copy for each of them; here they read it once, in one matrix product, and each its own tokens
beside it. Softmax over both together is their two results, weighted by the logistic function of the difference of their
log-sum-exps.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor
from transformers import AttentionInterface, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

NAME = "tea_shared_prompt"
# What models pass to every attention function and that changes nothing for one new token of full attention.
_HARMLESS = {"dropout", "is_causal", "use_cache", "position_ids", "cache_position", "output_attentions"}


class PromptAttentionError(Exception):
    """The model's attention is another than plain softmax over the keys in its cache."""


class SharedPrompts:
    """Keys and values of the prompts, once each, and which row of the batch is a completion of which.

    Args:
        cache: Of the prompts (P of them, padded on the left), one pass of the model over them.
        mask: (P, L), 1 where a position is part of the prompt.
        owner: (rows,) the prompt of each row.
        own: Cache of the rows' own tokens.
    """

    def __init__(self, cache: DynamicCache, mask: Tensor, owner: Tensor, own: DynamicCache) -> None:
        self.layers = [_tensors(cache, layer) for layer in range(len(cache.layers))]
        self.own = own
        self.hidden = (mask == 0)[:, None, None, :] if bool((mask == 0).any()) else None
        self.calls = 0  # of layers, by now
        self._place_rows(owner)

    def keep(self, rows: Tensor) -> None:
        """Leave only these rows."""
        self._place_rows(self.owner[rows])

    def _place_rows(self, owner: Tensor) -> None:
        self.owner = owner
        # Rows are put side by side per prompt, (P, most rows of a prompt); `place` is where each is in it.
        counts = torch.bincount(owner, minlength=self.layers[0][0].shape[0])
        most = int(counts.max())
        order = owner.argsort(stable=True)
        rank = torch.empty_like(owner)
        rank[order] = torch.arange(len(owner), device=owner.device) - (counts.cumsum(0) - counts)[owner[order]]
        self.place = owner * most + rank
        self.rows = torch.zeros(len(counts) * most, dtype=torch.long, device=owner.device)
        self.rows[self.place] = torch.arange(len(owner), device=owner.device)

    def attend(self, layer: int, query: Tensor, scaling: float) -> tuple[Tensor, Tensor]:
        """Attention to the prompts alone.

        Args:
            layer: Index.
            query: (rows, key heads, queries per key head, head dimension).
            scaling: Of the scores.

        Returns:
            The values' mean, as ``query``, and the log-sum-exp of the scores, (rows, key heads, queries per key head).
        """
        keys, values = self.layers[layer]
        per_key = query.shape[2]
        asked = query[self.rows].unflatten(0, (len(keys), -1))  # (P, rows, key heads, queries per key head, dim)
        found, total = _softmax_mean(asked.transpose(1, 2).flatten(2, 3), keys, values, scaling, self.hidden)

        def back(of_prompts: Tensor) -> Tensor:
            return of_prompts.unflatten(2, (-1, per_key)).transpose(1, 2).flatten(0, 1)[self.place]

        return back(found), back(total)


def _softmax_mean(
    query: Tensor, keys: Tensor, values: Tensor, scaling: float, hidden: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Of (batch, heads, queries or keys, dim): the values' mean by softmax of the scores, and their log-sum-exp."""
    scores = _wide(query @ keys.transpose(2, 3)) * scaling
    if hidden is not None:
        scores = scores.masked_fill(hidden, -torch.inf)
    total = scores.logsumexp(-1)
    return (scores - total[..., None]).exp().to(values.dtype) @ values, total


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _tensors(cache: DynamicCache, layer: int) -> tuple[Tensor, Tensor]:
    held = cast(DynamicLayer, cache.layers[layer])
    return cast(Tensor, held.keys), cast(Tensor, held.values)


def _attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    shared_prompts: SharedPrompts | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """An attention function as transformers calls it; ``key`` and ``value`` are of the completions' own tokens."""
    harmless = _HARMLESS | {name for name, given in others.items() if given is None or given is False}
    changes = sorted(others.keys() - harmless)
    layer = getattr(module, "layer_idx", None)
    if shared_prompts is None or layer is None or attention_mask is not None or changes or query.shape[2] != 1:
        raise PromptAttentionError(f"{type(module).__name__} attends with {', '.join(changes) or 'other arguments'}")
    if any(given is not kept for given, kept in zip((key, value), _tensors(shared_prompts.own, layer), strict=True)):
        raise PromptAttentionError(f"{type(module).__name__} attends to something else than what its cache keeps")
    shared_prompts.calls += 1
    rows, heads, _, dim = query.shape
    scaling = dim**-0.5 if scaling is None else scaling
    asked = query.reshape(rows, key.shape[1], -1, dim)
    from_prompt, prompt_total = shared_prompts.attend(layer, asked, scaling)
    from_own, own_total = _softmax_mean(asked, key, value, scaling)
    share = torch.sigmoid(prompt_total - own_total)[..., None]
    found = share * _wide(from_prompt) + (1 - share) * _wide(from_own)
    return found.to(query.dtype).reshape(rows, 1, heads, -1), None


AttentionInterface.register(NAME, _attention)


@contextlib.contextmanager
def prompt_attention(model: PreTrainedModel) -> Iterator[None]:
    """Let the model attend by :class:`SharedPrompts`, which its forward is given as ``shared_prompts``.

    Raises:
        PromptAttentionError: If its attention cannot be set.
    """
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        if model.config._attn_implementation != NAME:
            raise PromptAttentionError(f"{type(model).__name__} does not let its attention be set")
        yield
    finally:
        model.set_attn_implementation(before)
