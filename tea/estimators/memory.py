"""The reward memory: what a prompt's rollouts scored on earlier visits, so that an estimator can look past the group.

In training a prompt comes back every epoch. Its rewards of earlier visits are scalars that cost nothing to keep, and
with them an estimator that needs k <= m rollouts reaches k <= m + H without any assumption about the tail. What it
costs is staleness: they were drawn from earlier policies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from tea.estimators.group import Group, as_group, group_mean
from tea.estimators.tensors import values_are_readable, where

Key = str | int


def centers(estimator: Callable[..., Tensor]) -> bool:
    """Whether the estimator's advantages are centred: unless it is a bound one with ``center=False``."""
    return bool(getattr(estimator, "options", {}).get("center", True))


def check_uses_memory(estimator: Callable[..., Tensor]) -> None:
    """Raise ValueError if the estimator is one of the index that remembered rewards are no use to."""
    spec: Any = getattr(estimator, "spec", None)
    if getattr(spec, "no_memory", None) is not None:
        raise ValueError(f"estimator {spec.name!r} has no use for remembered rewards: {spec.no_memory}")


def _check_history(history: Tensor, group: Group) -> Tensor:
    if not isinstance(history, Tensor):
        raise TypeError(f"history must be a torch.Tensor of shape (num_prompts, remembered), got {type(history)}")
    num_prompts = group.rewards.shape[0]
    if history.ndim != 2 or history.shape[0] != num_prompts:
        raise ValueError(
            f"history must have shape (num_prompts, remembered) with the num_prompts = {num_prompts} of rewards, "
            f"got {tuple(history.shape)}"
        )
    if history.is_complex():
        raise TypeError(f"history must be real, got dtype {history.dtype}")
    if history.device != group.rewards.device:
        raise ValueError(f"history must be on the device of rewards ({group.rewards.device}), got {history.device}")
    history = history.detach().to(group.rewards.dtype)
    if values_are_readable(history):
        infinite = torch.isinf(history)
        if infinite.any():
            prompt, column = infinite.nonzero()[0].tolist()
            raise ValueError(
                f"history must be finite (NaN marks a missing one), got {history[prompt, column].item()} "
                f"at prompt {prompt}, column {column}"
            )
    return history


def _alone(estimator: Callable[[Tensor], Tensor], rewards: Tensor) -> Tensor | None:
    """The estimator without a memory; None where it does not take groups that small (k beyond them, say)."""
    try:
        return estimator(rewards)
    except ValueError:  # if anything else is wrong, the call with the history says so
        return None


def advantages_with_memory(
    estimator: Callable[[Tensor], Tensor],
    rewards: Tensor,
    history: Tensor,
    *,
    mask: Tensor | None = None,
    center: bool | None = None,
) -> Tensor:
    r"""Advantages of the current rollouts, computed from them and the rewards remembered of their prompts.

    .. math::
        A_i = a_i(R_1, \dots, R_m, R'_1, \dots, R'_h) - \frac{1}{m} \sum_{j \le m} a_j, \quad i \le m

    with a the advantages that the estimator gives to the union of the m current rewards R and the h <= H remembered
    ones R'. With max@k and k up to m + h this is the gradient of best-of-k from m rollouts, without extrapolation:
    exactly unbiased before the mean is subtracted (``center=False``) if the policy is the one that R' was drawn
    from. Where it has moved, R' lags behind it, which biases the weights but keeps their sign: max@k stays
    nondecreasing in the reward, for 0/1 rewards too. Subtracting the mean of m costs its usual share, about 1 / m of
    the gradient. Ours.

    Everything that the estimator takes from the group, it takes from the union: ranks, the tail, the monotone
    projection, the standard deviation of ``scale="group"``, and of ``scale="batch"`` over all unions. An
    estimator that needs more rewards than there are yet (k, rungs) uses what there is, as for missing rollouts;
    ``order_stat`` gives zeros until a prompt has more rewards than rank weights. Those that compare with the mean
    of the current rollouts alone (``grpo``, ``dr_grpo``, ``rloo``), or for which the order of the rollouts matters
    (``prefix_tea``), are refused when bound by :func:`tea.get_estimator`.

    Args:
        estimator: Maps rewards (P, m + H) with NaN for missing ones to advantages of that shape, such as
            ``tea.get_estimator("max_at_k", k=128)``.
        rewards: (P, m) float, of the current rollouts; NaN marks a missing one.
        history: (P, H) float on the same device, as :meth:`RewardMemory.recall` gives it: remembered rewards of the
            same prompts in any order, NaN where there are none. Without any in the whole batch the result is that
            of the estimator alone, to the last bit.
        mask: (P, m) bool, True where the current rollout counts.
        center: Subtract the mean over the valid current rollouts. None: unless the estimator is a bound one with
            ``center=False``.

    Returns:
        (P, m) advantages, float64 for float64 rewards, else float32; 0 where missing.

    Raises:
        TypeError, ValueError: On bad arguments, see :func:`tea.estimators.group.as_group`; an estimator that has no
            use for a memory; a result of the wrong shape.

    Checked by ``tests/estimators/test_memory.py``, against all subsets of the union.
    """
    check_uses_memory(estimator)
    group = as_group(rewards, mask)
    history = _check_history(history, group)
    known = ~torch.isnan(history)
    readable = values_are_readable(group.rewards)
    alone = None
    if not readable or not known.any():
        alone = _alone(estimator, group.rewards)
        if alone is not None and (readable or history.shape[1] == 0):
            return alone
    union = torch.cat((group.rewards, history), dim=1)
    advantages = estimator(union)
    if not isinstance(advantages, Tensor) or advantages.shape != union.shape:
        given = tuple(advantages.shape) if isinstance(advantages, Tensor) else type(advantages)
        raise ValueError(
            f"estimator must return a tensor of the shape that it is given, (num_prompts, num_generations + "
            f"remembered) = {tuple(union.shape)}, got {given}"
        )
    advantages = advantages[:, : rewards.shape[1]]
    if centers(estimator) if center is None else center:
        # From the lowest, so that equal advantages come out as exactly 0.
        advantages = advantages - where(group.valid, advantages, torch.inf).amin(1, keepdim=True)
        advantages = advantages - group_mean(advantages, group)
    advantages = where(group.valid, advantages, 0.0)
    return advantages if alone is None else where(known.any(), advantages, alone)


class RewardMemory:
    """The last rewards of every prompt.

    A row of ``size`` numbers per prompt, on the CPU in float32: 45 MB for 100 000 prompts of 112.

    Args:
        size: Rewards kept per prompt, >= 1; the oldest drop out first.

    Raises:
        ValueError: If ``size`` is not an integer >= 1.
    """

    def __init__(self, size: int) -> None:
        check_memory_size("size", size, minimum=1)
        self.size = size
        self._row: dict[Key, int] = {}
        # Rings: reward number n of a prompt, counted from 0, stands in column n % size.
        self._rewards = torch.empty(0, self.size)
        self._stored = torch.empty(0, dtype=torch.int64)

    def __len__(self) -> int:
        """Number of prompts of which a reward is remembered."""
        return len(self._row)

    def recall(self, keys: Iterable[Key], *, device: torch.device | str | None = None) -> Tensor:
        """The remembered rewards of these prompts.

        Args:
            keys: P strings or integers; unknown ones have no rewards.
            device: Of the result; None: the CPU.

        Returns:
            (P, size) float32, the newest first, then NaN.

        Raises:
            TypeError: On a key that is neither a string nor an integer.
        """
        row = torch.tensor([self._row.get(key, -1) for key in _checked(keys)], dtype=torch.int64)
        history = torch.full((len(row), self.size), torch.nan)
        known = row >= 0
        row = row[known]
        newest_first = (self._stored[row].unsqueeze(1) - 1 - torch.arange(self.size)) % self.size
        history[known] = self._rewards[row].gather(1, newest_first)
        return history if device is None else history.to(device)

    def update(self, keys: Iterable[Key], rewards: Tensor, mask: Tensor | None = None) -> None:
        """Remember rewards.

        Args:
            keys: P strings or integers. Rows of the same key count one after the other.
            rewards: (P, m), any real dtype and device, the oldest first; NaN marks a missing one, which is not kept.
            mask: (P, m) bool, True where the reward counts.

        Raises:
            TypeError, ValueError: On a key that is neither a string nor an integer, a wrong shape or dtype, a
                number of keys other than P, or an infinite reward. Nothing is stored then.
        """
        keys = _checked(keys)
        if not isinstance(rewards, Tensor) or rewards.is_complex():
            given = rewards.dtype if isinstance(rewards, Tensor) else type(rewards)
            raise TypeError(f"rewards must be a real torch.Tensor of shape (num_prompts, num_generations), got {given}")
        if rewards.ndim != 2 or len(rewards) != len(keys):
            raise ValueError(
                f"rewards must have shape (num_prompts, num_generations) with num_prompts = {len(keys)}, the number of "
                f"keys, got {tuple(rewards.shape)}"
            )
        rewards = rewards.detach().to("cpu", torch.float32)
        valid = ~torch.isnan(rewards)
        if mask is not None:
            if not isinstance(mask, Tensor) or mask.dtype != torch.bool or mask.shape != rewards.shape:
                found = f"{mask.dtype} {tuple(mask.shape)}" if isinstance(mask, Tensor) else type(mask)
                raise ValueError(f"mask must be a bool tensor of shape {tuple(rewards.shape)}, got {found}")
            valid &= mask.cpu()
        infinite = (torch.isinf(rewards) & valid).nonzero()
        if len(infinite) > 0:
            prompt, rollout = infinite[0].tolist()
            raise ValueError(
                f"rewards must be finite in float32 (NaN marks a missing one), got an infinite one at prompt {prompt}, "
                f"rollout {rollout}"
            )
        has_any = valid.any(dim=1).tolist()
        # A new key gets the next row; one without a valid reward gets none, and nothing is written to its -1.
        row = torch.tensor(
            [
                self._row.setdefault(key, len(self._row)) if any_valid else -1
                for key, any_valid in zip(keys, has_any, strict=True)
            ],
            dtype=torch.int64,
        )
        self._grow()
        row = row.unsqueeze(1).expand_as(valid)[valid]  # one for each reward
        count = torch.bincount(row, minlength=len(self._stored))
        order = row.argsort(stable=True)
        row, values = row[order], rewards[valid][order]
        place = torch.arange(len(row)) - (count.cumsum(0) - count)[row]  # among the new ones of that prompt
        kept = place >= count[row] - self.size
        row, place = row[kept], place[kept]
        self._rewards[row, (self._stored[row] + place) % self.size] = values[kept]
        self._stored += count

    def _grow(self) -> None:
        missing = len(self._row) - len(self._rewards)
        if missing > 0:
            missing = max(missing, len(self._rewards))  # doubles, so that growing costs no more than storing
            self._rewards = torch.cat((self._rewards, torch.full((missing, self.size), torch.nan)))
            self._stored = torch.cat((self._stored, torch.zeros(missing, dtype=torch.int64)))

    def state_dict(self) -> dict[str, Any]:
        """Keys (list), rewards (P, size), the newest first, and size: for ``torch.save``, loadable weights-only."""
        keys = list(self._row)
        return {"size": self.size, "keys": keys, "rewards": self.recall(keys)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Replace what is remembered by what :meth:`state_dict` gave, of a memory of this size or another.

        Of a larger one the newest rewards are kept.

        Raises:
            ValueError: If ``state`` is not such a dictionary; the memory is as it was then.
        """
        missing = {"keys", "rewards"} - set(state)
        if missing:
            raise ValueError(f"state must have the keys of RewardMemory.state_dict(), {', '.join(missing)} is missing")
        loaded = RewardMemory(self.size)
        loaded.update(state["keys"], state["rewards"].flip(1))
        self._row, self._rewards, self._stored = loaded._row, loaded._rewards, loaded._stored


def _checked(keys: Iterable[Key]) -> list[Key]:
    if isinstance(keys, str):
        raise TypeError(f"keys must be one string or integer per prompt, got the string {keys!r}")
    keys = list(keys)
    for key in keys:
        if not isinstance(key, (str, int)):
            # A tensor, for one, is hashed by its identity, and would never be found again.
            raise TypeError(f"keys must be strings or integers, got {key!r} of {type(key)}")
    return keys


def check_memory_size(name: str, size: int, minimum: int) -> None:
    """Raise ValueError, naming the argument, unless ``size`` is an integer >= ``minimum``."""
    if isinstance(size, bool) or not isinstance(size, int) or size < minimum:
        raise ValueError(f"{name} must be an integer >= {minimum}, got {size!r}")
