"""What the adapters share: an estimator with the trainers' defaults, applied to flat rollouts with group ids."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tea.adapters.framework import plain_options
from tea.adapters.groups import Singletons, check_singletons, group_layout
from tea.estimators import (
    Estimator,
    RewardMemory,
    advantages_with_memory,
    get_estimator,
    get_estimator_spec,
    normalize_advantages,
)
from tea.estimators.memory import check_memory_size, check_uses_memory

DEFAULT_TARGET_N = 128  # as in TEAConfig


@dataclass(frozen=True)
class GroupAdvantages:
    """An estimator for flat rollouts, with the defaults of the trainers.

    Attributes:
        name: One of ``tea.list_estimators()``.
        options: Of the estimator. Not given: ``target_n=128``, ``scale="group"`` and ``monotone`` as recommended
            for training.
        normalize_advantages: Divide by the root mean square over the batch. Off: the advantages keep the size that
            the estimator gives them, which depends on N and the estimator (see docs/frameworks.md), and the learning
            rate is chosen for it. On, a batch of a few prompts that have nothing left to gain is scaled up to a full
            step, so it is for batches of many prompts.
        singletons: "error" refuses groups of one rollout, "zero" gives them advantage 0.
        reward_memory: Number of rewards of its earlier visits that are kept of every prompt, see
            :func:`tea.advantages_with_memory`. They are lost when the process ends: frameworks' checkpoints do not
            hold them. 0: none.

    Raises:
        ValueError, TypeError: On construction, for an unknown estimator, option or value.
    """

    name: str = "tea"
    options: Mapping[str, Any] = field(default_factory=dict)
    normalize_advantages: bool = False
    singletons: Singletons = "error"
    reward_memory: int = 0
    estimator: Estimator = field(init=False, repr=False, compare=False)
    memory: RewardMemory | None = field(init=False, repr=False, compare=False, default=None)
    _configured: dict[str, GroupAdvantages] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        check_singletons(self.singletons)
        if not isinstance(self.normalize_advantages, bool):
            raise ValueError(f"normalize_advantages must be True or False, got {self.normalize_advantages!r}")
        check_memory_size("reward_memory", self.reward_memory, minimum=0)
        spec = get_estimator_spec(self.name)
        defaults = {
            "target_n": DEFAULT_TARGET_N,
            "scale": spec.scale_in_training or "group",
            "monotone": spec.monotone_in_training,
        }
        defaults = {option: value for option, value in defaults.items() if option in spec.parameters}
        object.__setattr__(self, "estimator", get_estimator(self.name, **{**defaults, **self.options}))
        if self.reward_memory > 0:
            check_uses_memory(self.estimator)
            object.__setattr__(self, "memory", RewardMemory(self.reward_memory))

    def __call__(
        self, rewards: Tensor, ids: Any, valid: Tensor | None = None, prompts: Sequence[str | int] | None = None
    ) -> Tensor:
        """Advantages of flat rollouts.

        Args:
            rewards: (B,), any real dtype, in sampling order within each group; NaN marks a missing one.
            ids: One per rollout, see :func:`tea.adapters.groups.group_layout`.
            valid: (B,) bool, False for rows that are no rollouts: they get 0 and influence nothing.
            prompts: One per rollout, what stands for its prompt in the reward memory: the same whenever the prompt
                comes back. Only looked at with ``reward_memory``.

        Returns:
            (B,) advantages, float64 for float64 rewards, else float32; on the device of ``rewards``.

        Raises:
            ValueError: On lengths that differ, infinite rewards, groups of one rollout, or ``reward_memory`` without
                ``prompts``.
        """
        if rewards.ndim != 1:
            raise ValueError(f"rewards must have shape (B,), one per rollout, got {tuple(rewards.shape)}")
        if len(ids) != len(rewards) or (valid is not None and valid.shape != rewards.shape):
            given = f"{len(rewards)} rewards, {len(ids)} group ids"
            given += "" if valid is None else f", validity of shape {tuple(valid.shape)}"
            raise ValueError(f"rewards and group ids must be one per rollout, got {given}")
        if rewards.dtype not in (torch.float32, torch.float64):
            rewards = rewards.float()
        valid = torch.ones_like(rewards, dtype=torch.bool) if valid is None else valid.to(rewards.device, torch.bool)
        infinite = (torch.isinf(rewards) & valid).nonzero().flatten()
        if len(infinite) > 0:
            raise ValueError(
                f"rewards must be finite (NaN marks a missing one), got {len(infinite)} infinite, "
                f"the first for rollout {int(infinite[0])}"
            )
        layout = group_layout(ids, counted=valid, singletons=self.singletons).to(rewards.device)
        if layout.shape[0] == 0:
            return torch.zeros_like(rewards)
        mask = layout.pad(~torch.isnan(rewards), False)
        padded = layout.pad(rewards.detach(), torch.nan)
        if self.memory is None:
            advantages = self.estimator(padded, mask=mask)
        else:
            if prompts is None:
                raise ValueError("reward_memory needs to know each rollout's prompt, which is not handed over here")
            first = layout.column == 0
            of_group = dict(zip(layout.row[first].tolist(), layout.rollout[first].tolist(), strict=True))
            keys = [prompts[of_group[row]] for row in range(layout.shape[0])]
            history = self.memory.recall(keys).to(padded)
            advantages = advantages_with_memory(self.estimator, padded, history, mask=mask)
            self.memory.update(keys, padded, mask)
        return layout.flatten(normalize_advantages(advantages, mask) if self.normalize_advantages else advantages)

    def per_token(
        self,
        rewards: Tensor,
        response_mask: Tensor,
        ids: Any,
        valid: Tensor | None = None,
        prompts: Sequence[str | int] | None = None,
    ) -> Tensor:
        """Advantages (B, T) on the tokens of ``response_mask`` (B, T), from token-level rewards (B, T), summed."""
        if rewards.ndim != 2 or rewards.shape != response_mask.shape:
            raise ValueError(
                "token_level_rewards and response_mask must have one shape (B, T), got "
                f"{tuple(rewards.shape)} and {tuple(response_mask.shape)}"
            )
        # 16-bit rewards: a sum over a long response would be rounded token by token.
        dtype = rewards.dtype if rewards.dtype in (torch.float32, torch.float64) else torch.float32
        advantages = self(rewards.sum(dim=-1, dtype=dtype), ids, valid, prompts)
        return advantages.unsqueeze(-1) * response_mask

    def check_batch(self, num_groups: int, caller: str) -> None:
        """Raise ValueError if a single group is to be scaled by what its batch says."""
        if num_groups == 1 and (self.normalize_advantages or self.estimator.options.get("scale") == "batch"):
            raise ValueError(
                f"{caller} handed over a single prompt's group, and there is no batch to scale by: leave "
                "normalize_advantages off and scale at 'group' or 'none'"
            )

    def configured(self, config: Any) -> GroupAdvantages:
        """This estimator with what a framework's config has under the key ``tea``, if it has one.

        The mapping may set ``normalize_advantages``, ``singletons``, ``reward_memory`` and the options of the
        estimator. With ``estimator``, a name, it stands for itself: no option set elsewhere is kept. The same mapping
        gives the same object, so that its memory lasts.
        """
        options = plain_options(config)
        if options is None:
            return self
        key = json.dumps(options, sort_keys=True, default=repr)
        if key not in self._configured:
            if "estimator" in options:
                self._configured[key] = group_advantages(options.pop("estimator"), **options)
            else:
                own = {name: getattr(self, name) for name in ("normalize_advantages", "singletons", "reward_memory")}
                self._configured[key] = group_advantages(self.name, **{**own, **self.options, **options})
        return self._configured[key]


def group_advantages(
    name: str = "tea",
    *,
    normalize_advantages: bool = False,
    singletons: Singletons = "error",
    reward_memory: int = 0,
    **options: Any,
) -> GroupAdvantages:
    """:class:`GroupAdvantages` with the options of the estimator as keywords."""
    return GroupAdvantages(name, options, normalize_advantages, singletons, reward_memory)


def without_memory(estimator: GroupAdvantages, why: str) -> GroupAdvantages:
    """The estimator, which must have no reward memory.

    Raises:
        ValueError: If it has one, with the reason why it cannot.
    """
    if estimator.reward_memory > 0:
        raise ValueError(f"reward_memory={estimator.reward_memory} cannot work here, leave it at 0: {why}")
    return estimator


def prompt_digest(prompt: Any) -> str:
    """What stands for a prompt in the reward memory: a hash of its text, messages or tokens."""
    content = json.dumps(prompt, sort_keys=True, default=repr)
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()
