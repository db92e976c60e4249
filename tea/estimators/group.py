"""What every estimator shares: validation, masking, projecting, centring and scaling.

Nothing here reads a value back to the host on an accelerator, and everything compiles with
``torch.compile(fullgraph=True)``.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from tea.estimators.projection import monotone_projection
from tea.estimators.tensors import power_of_two_below, values_are_readable, where

Scale = Literal["none", "group", "batch"]
SCALES: tuple[str, ...] = get_args(Scale)


# TRL adds this to the standard deviation that it divides by.
STD_EPSILON = 1e-4


class Group(NamedTuple):
    """Rewards of a batch of prompts, validated.

    Attributes:
        rewards: (P, m), float32 or float64; NaN where not valid.
        valid: (P, m) bool.
        count: (P, 1) int64, number of valid rollouts of each prompt.
    """

    rewards: Tensor
    valid: Tensor
    count: Tensor  # type: ignore[assignment]  # hides tuple.count, which nobody needs

    def filled(self, value: float | Tensor) -> Tensor:
        """The rewards with ``value`` in place of the invalid ones."""
        return where(self.valid, self.rewards, value)


def as_group(rewards: Tensor, mask: Tensor | None = None) -> Group:
    """Validate rewards and fold the mask and the NaNs into one.

    Args:
        rewards: (P, m), any real dtype. 16-bit, integer and bool rewards are computed in float32.
        mask: (P, m) bool, True where the rollout counts. None: all do. NaN rewards never do.

    Raises:
        TypeError: If ``rewards`` or ``mask`` is not a tensor, or ``rewards`` is complex, or ``mask`` not bool.
        ValueError: On a wrong shape, fewer than 2 rollouts, or an infinite reward. The last is checked on the
            CPU in eager mode; elsewhere looking would stall the device, and the advantages of that group come
            out as NaN instead.
    """
    if not isinstance(rewards, Tensor):
        raise TypeError(f"rewards must be a torch.Tensor of shape (num_prompts, num_generations), got {type(rewards)}")
    if rewards.ndim != 2:
        raise ValueError(
            f"rewards must have shape (num_prompts, num_generations), got {tuple(rewards.shape)}; "
            "for a flat tensor with contiguous groups use rewards.view(-1, num_generations)"
        )
    if rewards.shape[1] < 2:
        raise ValueError(f"rewards needs at least 2 generations per prompt (dim 1), got shape {tuple(rewards.shape)}")
    if rewards.is_complex():
        raise TypeError(f"rewards must be real, got dtype {rewards.dtype}")
    if rewards.dtype not in (torch.float32, torch.float64):
        rewards = rewards.float()
    rewards = rewards.detach()
    valid = rewards == rewards  # False for NaN
    if mask is not None:
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            raise TypeError(f"mask must be a bool tensor, got {mask.dtype if isinstance(mask, Tensor) else type(mask)}")
        if mask.shape != rewards.shape:
            raise ValueError(f"mask must have the shape of rewards {tuple(rewards.shape)}, got {tuple(mask.shape)}")
        valid = valid & mask
        rewards = where(valid, rewards, torch.nan)
    if values_are_readable(rewards):
        infinite = torch.isinf(rewards)
        if infinite.any():
            prompt, rollout = infinite.nonzero()[0].tolist()
            raise ValueError(
                f"rewards must be finite (NaN marks a missing one), got {rewards[prompt, rollout].item()} "
                f"at prompt {prompt}, rollout {rollout} ({int(infinite.sum())} infinite in all)"
            )
    return Group(rewards, valid, valid.sum(dim=1, keepdim=True))


class BinaryRewardsWarning(UserWarning):
    """A tail estimator was given rewards that are all 0 or 1."""


_quiet_about_binary: ContextVar[bool] = ContextVar("quiet_about_binary", default=False)


@contextmanager
def quiet_about_binary() -> Iterator[None]:
    """No `BinaryRewardsWarning` inside. `warnings.catch_warnings` would re-arm all warnings of the process."""
    token = _quiet_about_binary.set(True)
    try:
        yield
    finally:
        _quiet_about_binary.reset(token)


def warn_if_binary(group: Group, estimator: str, stacklevel: int = 3) -> None:
    """Warn, on the CPU in eager mode, when the batch has zeros and ones and nothing else: there is no tail in it."""
    if not values_are_readable(group.rewards) or _quiet_about_binary.get():
        return
    first = group.rewards[:1]
    if not ((first == 0) | (first == 1) | ~group.valid[:1]).all():
        return  # as nearly always
    zero, one = group.rewards == 0, group.rewards == 1
    if (zero | one | ~group.valid).all() and zero.any() and one.any():
        warnings.warn(
            f"all rewards are 0 or 1: the upper tail that {estimator!r} extrapolates does not exist; use 'pass_at_n' "
            "(tea.pass_at_n_advantages)",
            BinaryRewardsWarning,
            stacklevel=stacklevel,
        )


def group_mean(values: Tensor, group: Group) -> Tensor:
    """Mean of ``values`` over the valid rollouts of each prompt: (P, 1), NaN for a prompt without any."""
    return where(group.valid, values, 0.0).sum(dim=1, keepdim=True) / group.count


def reward_std(group: Group, scale: Literal["group", "batch"] = "group") -> Tensor:
    """Standard deviation of the rewards, divisor n - 1: (P, 1) for ``"group"``, (1, 1) for ``"batch"``.

    NaN where fewer than 2 rollouts are valid. To the last bit what TRL computes, as long as TRL's squares
    neither overflow nor underflow; here they cannot.
    """
    rewards, valid, count = group
    if scale == "batch":
        rewards, valid, count = rewards.reshape(1, -1), valid.reshape(1, -1), count.sum().reshape(1, 1)
    count = count.to(rewards.dtype)
    mean = where(valid, rewards, 0.0).sum(dim=1, keepdim=True) / count
    deviation = where(valid, rewards - mean, 0.0)
    unit = power_of_two_below(deviation.abs().amax(dim=1, keepdim=True))
    variance = ((deviation / unit) ** 2).sum(dim=1, keepdim=True) / count
    # One rollout: 0 * infinity; none: 0 / 0.
    return torch.sqrt(variance * (count / (count - 1))) * unit


def finalize(raw: Tensor, group: Group, *, monotone: bool, center: bool, scale: str, ties_agree: bool = True) -> Tensor:
    """Project, centre, scale, in that order, and give 0 to what is invalid or has no group to compare with.

    Args:
        raw: (P, m) advantages as the formula gives them; anything where invalid.
        group: What they were computed from.
        monotone: Apply :func:`monotone_projection`.
        center: Subtract the mean over the valid rollouts of the prompt.
        scale: Divide by (reward standard deviation + 1e-4), of the "group" or the "batch"; or "none".
        ties_agree: ``raw`` is a function of the reward, given the group.

    Raises:
        ValueError: If ``scale`` is unknown.
    """
    check_scale(scale)
    if monotone:
        raw = monotone_projection(raw, group.rewards, group.valid, ties_agree=ties_agree)
    if center:
        raw = raw - group_mean(raw, group)
    if scale != "none":
        raw = raw / (reward_std(group, "group" if scale == "group" else "batch") + STD_EPSILON)
    result = where(group.valid & (group.count > 1), raw, 0.0)
    if values_are_readable(raw):
        return result
    # as_group could not look: an infinite reward must not pass for a number.
    infinite = torch.isinf(group.rewards).any(dim=1, keepdim=True)
    return where(infinite, torch.nan, result)


def normalize_advantages(advantages: Tensor, mask: Tensor | None = None) -> Tensor:
    """Divide by the root mean square over the whole batch.

    Fixes the step size, which otherwise depends on N and on the tail fraction, and keeps the weights between
    prompts: those with an informative tail count for more.

    Args:
        advantages: (P, m) or (B,), float.
        mask: True where the rollout counts. None: all do.

    Returns:
        Same shape and dtype; all zeros stay zeros.
    """
    counted = advantages if mask is None else where(mask, advantages, 0.0)
    unit = power_of_two_below(counted.abs().amax())
    size = counted.numel() if mask is None else mask.sum()
    rms = ((counted / unit) ** 2).sum().div(size).sqrt()
    return where(rms > 0, counted / unit / rms, 0.0)


def by_count(table: Tensor, group: Group) -> Tensor:
    """Look up each prompt's row of a table that is indexed by the number of valid rollouts: (P, ...)."""
    return table[group.count.squeeze(1)]


def tail_count(num_generations: int, tail_fraction: float, minimum: int = 2) -> int:
    """Number of rollouts in the tail, k = max(ceil(alpha * m), minimum), or all m where there are fewer."""
    # 0.1 * 30 is 3.0000000000000004 in floating point: not a reason for a fourth rollout.
    k = math.ceil(tail_fraction * num_generations - 1e-9)
    return min(max(k, minimum), num_generations)


def check_scale(scale: str) -> None:
    """Raise ValueError unless ``scale`` is one of "none", "group", "batch"."""
    if scale not in SCALES:
        raise ValueError(f"scale must be one of {', '.join(map(repr, SCALES))}, got {scale!r}")


def check_target_n(target_n: float) -> None:
    """Raise ValueError unless ``target_n`` is a finite number >= 1."""
    if isinstance(target_n, (bool, str)) or not math.isfinite(target_n) or target_n < 1:
        raise ValueError(f"target_n must be a finite number >= 1, got {target_n!r}")


def check_tail_fraction(tail_fraction: float | str | None, *, auto: bool = False) -> None:
    """Raise ValueError unless ``tail_fraction`` is in (0, 1], or "auto" where that is possible."""
    if auto and tail_fraction == "auto":
        return
    if tail_fraction is None or isinstance(tail_fraction, (bool, str)) or not 0.0 < tail_fraction <= 1.0:
        allowed = "in (0, 1] or 'auto'" if auto else "in (0, 1]"
        raise ValueError(f"tail_fraction must be {allowed}, got {tail_fraction!r}")
