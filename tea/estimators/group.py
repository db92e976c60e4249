"""What every estimator shares: validation, masking, the monotone projection, centring and scaling.

Nothing here reads a value back to the host on an accelerator, and everything compiles with
``torch.compile(fullgraph=True)``.
"""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

Scale = Literal["none", "group", "batch"]
SCALES: tuple[str, ...] = get_args(Scale)

Table = Sequence[Sequence[float]] | np.ndarray

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


def values_are_readable(tensor: Tensor) -> bool:
    """Whether looking at values costs nothing: eager mode and a device that shares the host's memory."""
    return tensor.device.type == "cpu" and not torch.compiler.is_compiling()


@lru_cache(maxsize=256)
def _scalar(value: float, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(value, dtype=dtype, device=device)


def where(condition: Tensor, yes: float | Tensor, no: float | Tensor) -> Tensor:
    """``torch.where`` without the kernel that it launches to make a tensor of a number; one of the two is a tensor."""
    if not torch.compiler.is_compiling():
        if not isinstance(yes, Tensor) and isinstance(no, Tensor):
            yes = _scalar(yes, no.dtype, no.device)
        elif not isinstance(no, Tensor) and isinstance(yes, Tensor):
            no = _scalar(no, yes.dtype, yes.device)
    return torch.where(condition, yes, no)


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


def warn_if_binary(group: Group, estimator: str, stacklevel: int = 3) -> None:
    """Warn, on the CPU in eager mode, when the batch has zeros and ones and nothing else: there is no tail in it."""
    if not values_are_readable(group.rewards):
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


def power_of_two_below(x: Tensor) -> Tensor:
    """The largest power of two not above ``x`` (x >= 0), within the normal numbers: dividing by it is exact."""
    # The exponent's bits alone; neither 0 nor infinity, so that whatever is divided by it stays what it was.
    if x.dtype == torch.float32:
        return (x.view(torch.int32) & 0x7F800000).clamp(0x00800000, 0x7F000000).view(torch.float32)
    return (x.view(torch.int64) & 0x7FF0000000000000).clamp(0x0010000000000000, 0x7FE0000000000000).view(torch.float64)


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


def _numpy_sorts(x: Tensor) -> bool:
    # numpy sorts short rows with the vector instructions of the processor, many times faster than torch on the CPU.
    return values_are_readable(x) and x.dtype in (torch.float32, torch.float64)


def sort_groups(x: Tensor) -> tuple[Tensor, Tensor]:
    """``x.sort(dim=1)`` of numbers without NaN, equal ones in any order."""
    if _numpy_sorts(x):
        order = torch.from_numpy(np.argsort(x.detach().numpy(), axis=1))
        return x.gather(1, order), order
    values, order = x.sort(dim=1)
    return values, order


def largest(x: Tensor, k: int) -> Tensor:
    """The ``k`` >= 1 largest of each row of numbers without NaN, descending: (P, k)."""
    if _numpy_sorts(x):
        return torch.from_numpy(np.sort(x.detach().numpy(), axis=1))[:, -k:].flip(1)
    return x.topk(k, dim=1).values


# On the CPU the intermediate results of a block of prompts are to stay in the cache.
_BLOCK_ELEMENTS = 1 << 20
_BLOCK_MULTIPLE = 64  # whole cache lines of any dtype


def in_blocks(function: Callable[..., Tensor], size: int, *tensors: Tensor) -> Tensor:
    """``function(*tensors)``, prompts first in all of them; on the CPU one block of prompts after the other.

    Args:
        function: Treats every prompt by itself.
        size: Elements per prompt of its largest intermediate result.
        tensors: (P, ...) each.
    """
    prompts = len(tensors[0])
    block = max(_BLOCK_ELEMENTS // (size * _BLOCK_MULTIPLE), 1) * _BLOCK_MULTIPLE
    if not values_are_readable(tensors[0]) or prompts <= block:
        return function(*tensors)
    return torch.cat([function(*(x[i : i + block] for x in tensors)) for i in range(0, prompts, block)])


def scatter_sorted(values: Tensor, order: Tensor) -> Tensor:
    """Undo a sort along dim 1: put ``values[:, j]`` at ``order[:, j]``."""
    return torch.empty_like(values).scatter(1, order, values)


def _inverse_sizes(half: int) -> list[list[float]]:
    return [[1.0 / (i + j) for j in range(1, half + 1)] for i in range(1, half + 1)]


def _merge_halves(x: Tensor, half: int) -> Tensor:
    """Isotonic regression of blocks of ``2 * half`` rows, of which both halves are isotonic already.

    Where the halves meet, a suffix of the left and a prefix of the right pool to one value
    v = max_a min_b mean(left[a:], right[:b]); left of it nothing exceeds v and right of it nothing is below.
    """
    blocks = x.unflatten(0, (-1, 2, half))
    left, right = blocks[:, 0], blocks[:, 1]
    if half == 1:
        pooled = (left + right) * 0.5
    else:
        suffix = left.flip(1).cumsum(1).unsqueeze(2)
        prefix = right.cumsum(1).unsqueeze(1)
        means = (suffix + prefix) * constant(_inverse_sizes, half, dtype=x.dtype, device=x.device).unsqueeze(-1)
        pooled = means.amin(2).amax(1, keepdim=True)
    # Nothing to pool: no rounding of the means may move a value.
    top = left[:, -1:]
    pooled = where(top <= right[:, :1], top, pooled)
    return torch.stack((torch.minimum(left, pooled), torch.maximum(right, pooled)), dim=1).view(x.shape)


def _average_ties(a: Tensor, sorted_rewards: Tensor) -> Tensor:
    """Give equal rewards the mean of their advantages; both (P, m), in the order of the rewards.

    As the first of a block plus the mean difference to it, which leaves a block of equal advantages untouched.
    """
    new = sorted_rewards[:, 1:] != sorted_rewards[:, :-1]
    if values_are_readable(a) and new.all():
        return a
    num_prompts, m = a.shape
    index = torch.arange(m, device=a.device).expand(num_prompts, m)
    edge = torch.ones_like(new[:, :1])
    first = where(torch.cat((edge, new), 1), index, 0).cummax(1).values
    last = where(torch.cat((new, edge), 1), index, m - 1).flip(1).cummin(1).values.flip(1)
    anchor = a.gather(1, first)
    sums = (a - anchor).cumsum(1)
    before = where(first > 0, sums.gather(1, (first - 1).clamp(min=0)), 0.0)
    return anchor + (sums.gather(1, last) - before) / (last - first + 1)


def _isotonic(a: Tensor, sorted_rewards: Tensor | None, ceiling: Tensor) -> Tensor:
    """Isotonic regression of (P, m) advantages in the order of the rewards; ``ceiling`` (P, 1) is not below them."""
    if sorted_rewards is not None:
        a = _average_ties(a, sorted_rewards)
    m = a.shape[1]
    width = 1 << (m - 1).bit_length()
    # Prompts last, so that no sum or minimum runs over neighbours in memory: it is several prompts at a time.
    x = torch.cat((a, ceiling.expand(-1, width - m)), dim=1).t().contiguous()
    half = 1
    while half < width:
        x = _merge_halves(x, half)
        half *= 2
    return x[:m].t().contiguous()


def monotone_projection(
    advantages: Tensor, rewards: Tensor, valid: Tensor | None = None, *, ties_agree: bool = False
) -> Tensor:
    r"""Isotonic regression of each prompt's advantages in the order of its rewards.

    The closest nondecreasing function of the reward, in least squares. The influence function of best-of-N
    never decreases, so this can only bring the advantages nearer to it, and a policy is never rewarded for a
    worse response. The sum of each group is kept; equal rewards share one advantage; a group that is
    nondecreasing already is returned as it was, to the last bit.

    Equals the minimax formula :math:`x_i = \max_{j \le i} \min_{k \ge i} \mathrm{mean}(a_j, \dots, a_k)`,
    computed by merging halves: log2(m) steps and about m^2 / 2 operations per prompt.

    Args:
        advantages: (P, m), float32 or float64.
        rewards: (P, m), finite where valid.
        valid: (P, m) bool; None: all. Invalid entries come out as 0.
        ties_agree: Equal rewards are known to have equal advantages, so that no time is spent on them.

    Returns:
        (P, m), dtype of ``advantages``.

    Checked against ``scipy.optimize.isotonic_regression`` by ``tests/estimators/test_group.py``.
    """
    if valid is None:
        valid = torch.ones_like(rewards, dtype=torch.bool)
    m = rewards.shape[1]
    if rewards.numel() == 0:
        return torch.zeros_like(advantages)
    sorted_rewards, order = sort_groups(where(valid, rewards, torch.inf))
    # Invalid entries stand last and as high as the highest: nothing below them pools with them.
    ceiling = where(valid, advantages, -torch.inf).amax(1, keepdim=True)
    a = where(valid, advantages, ceiling).gather(1, order)
    size = max((m // 2) ** 2, m)
    if ties_agree:
        a = in_blocks(lambda a, ceiling: _isotonic(a, None, ceiling), size, a, ceiling)
    else:
        a = in_blocks(_isotonic, size, a, sorted_rewards, ceiling)
    return where(valid, scatter_sorted(a, order), 0.0)


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


@lru_cache(maxsize=1024)
def _cached_tensor(build: Callable[..., Table], args: tuple, dtype: torch.dtype, device: torch.device) -> Tensor:
    return torch.tensor(build(*args), dtype=dtype, device=device)


# The compiler cannot trace a quadrature: it calls these while tracing and keeps what they return. It tells constants
# apart by the name of the function that gave them, hence one function for each; a graph has a handful.
def _constant_source(name: str) -> Callable[..., Tensor]:
    def source(build: Callable[..., Table], args: tuple, dtype: torch.dtype, device: torch.device) -> Tensor:
        return _cached_tensor(build, args, dtype, device)

    source.__name__ = name
    source.__code__ = source.__code__.replace(co_name=name)
    return torch.compiler.assume_constant_result(source)


_CONSTANT_SOURCES = tuple(_constant_source(f"tea_constant_{i}") for i in range(256))
_source_numbers: dict[Hashable, int] = {}


@torch.compiler.assume_constant_result
def _source_number(*key: Hashable) -> int:
    return _source_numbers.setdefault(key, len(_source_numbers)) % len(_CONSTANT_SOURCES)


def constant(
    build: Callable[..., Table], size: int, *args: Hashable, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """``torch.tensor(build(size, *args))``, computed and uploaded once per dtype and device.

    Compiled, it makes one graph for each ``size``, the only argument that may come from a shape.
    """
    arguments = (operator.index(size), *args)
    if torch.compiler.is_compiling():
        number = _source_number(build, arguments, dtype, device)
        return _CONSTANT_SOURCES[number](build, arguments, dtype, device)
    return _cached_tensor(build, arguments, dtype, device)


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
