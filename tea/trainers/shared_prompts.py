"""The training pass over a group with its prompt once, instead of once for every rollout.

A group of m rollouts is one row: the prompt, then the m completions one after the other, each led by a copy of the
prompt's last token. A completion sees the prompt and itself (a four-dimensional attention mask), at the positions that
it has in a row of its own, so that log-probabilities and gradients are the same, to the order of summation.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Packing(NamedTuple):
    """How B rows of P prompt and C completion tokens become G rows of P + S * (C + 1) tokens.

    Args:
        input_ids: (G, L), int64.
        attention_mask: (G, 1, L, L), bool: True where a token (third) may look at another (fourth).
        position_ids: (G, L), int64.
        labels: (G, L), int64: the completion tokens, -100 elsewhere.
        group: (B,) the row that each of the B is in, and
        slot: (B,) its place there.
        prompt_length: P.
        slots: S, completions that a row has room for.
    """

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    labels: Tensor
    group: Tensor
    slot: Tensor
    prompt_length: int
    slots: int

    def unpack(self, values: Tensor) -> Tensor:
        """(G, L) values of tokens to those of the completions' tokens, (B, C)."""
        rows = values[:, self.prompt_length :].reshape(len(values), self.slots, -1)  # (G, S, 1 + C)
        return rows[self.group, self.slot, 1:]


def pack(prompt_ids: Tensor, prompt_mask: Tensor, completion_ids: Tensor, completion_mask: Tensor) -> Packing:
    """Put completions of equal prompts into one row.

    Args:
        prompt_ids, prompt_mask: (B, P), padded on the left.
        completion_ids, completion_mask: (B, C), padded on the right.
    """
    device = prompt_ids.device
    key = torch.where(prompt_mask.bool(), prompt_ids, -1)
    prompts, group, counts = torch.unique(key, dim=0, return_inverse=True, return_counts=True)
    order = torch.argsort(group, stable=True)
    first = torch.cumsum(counts, 0) - counts
    slot = torch.empty_like(group)
    slot[order] = torch.arange(len(group), device=device) - first[group[order]]
    groups, slots = len(prompts), int(counts.max())
    length, width = prompt_ids.shape[1], completion_ids.shape[1] + 1

    visible = prompts >= 0  # (G, P)
    prompts = prompts.clamp(min=0)
    pad = int(prompt_ids[0, 0])  # any token: it is not looked at
    blocks = torch.full((groups, slots, width), pad, dtype=prompt_ids.dtype, device=device)
    blocks[:, :, 0] = prompts[:, -1:]
    blocks[group, slot, 1:] = completion_ids
    labels = torch.full((groups, slots, width), -100, dtype=torch.long, device=device)
    labels[group, slot, 1:] = completion_ids.masked_fill(~completion_mask.bool(), -100)
    real = torch.zeros((groups, slots, width), dtype=torch.bool, device=device)
    real[:, :, 0] = True
    real[group, slot, 1:] = completion_mask.bool()

    # The copy of the last token stands where that token stands, and does not look at the original.
    prompt_positions = (visible.cumsum(1) - 1).clamp(min=0)
    positions = prompt_positions[:, -1:, None] + torch.arange(width, device=device)
    total = length + slots * width
    block = torch.cat(
        [torch.full((length,), -1, device=device), torch.arange(slots, device=device).repeat_interleave(width)]
    )
    index = torch.arange(total, device=device)
    in_prompt = index < length
    same = block[:, None] == block[None, :]
    sees_prompt = in_prompt[None, :] & ~(~in_prompt[:, None] & (index == length - 1)[None, :])
    allowed = (index[None, :] <= index[:, None]) & (same | sees_prompt)
    valid = torch.cat([visible, real.flatten(1)], dim=1)  # (G, L)
    mask = allowed & valid[:, None, :] | torch.eye(total, dtype=torch.bool, device=device)
    return Packing(
        torch.cat([prompts, blocks.flatten(1)], dim=1),
        mask[:, None],
        torch.cat([prompt_positions, positions.expand(groups, slots, width).flatten(1)], dim=1),
        torch.cat([torch.full_like(prompts, -100), labels.flatten(1)], dim=1),
        group,
        slot,
        length,
        slots,
    )
