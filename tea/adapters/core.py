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
from tea.estimators.scale import RunningScale

DEFAULT_TARGET_N = 128  # as in TEAConfig


@dataclass(frozen=True)
class GroupAdvantages:
    """An estimator for flat rollouts, with the defaults of the trainers.

    Attributes:
        name: One of ``tea.list_estimators()``.
        options: Of the estimator. Not given: ``target_n=128``, ``monotone`` as recommended for training, and
            ``scale="none"``, or as the trainers do for estimators with a step size of their own (GRPO: "group").
        normalize_advantages: What sets the size of the advantages, as in ``TEAConfig``. "none" (or False): nothing;
            they are as large as the estimator makes them, in units of the reward for those that aim at the best of
            several, and the learning rate is chosen for it. "running": the largest root mean square that they have
            had, averaged over recent calls; they come at GRPO's size and shrink as there is less to gain. It starts
            anew with the process: frameworks' checkpoints do not hold it. "batch" (or True): the root mean square of
            each call, which makes a full step of a batch that has nothing left to gain.
        singletons: "error" refuses groups of one rollout, "zero" gives them advantage 0.
        reward_memory: Number of rewards of its earlier visits that are kept of every prompt, see
            :func:`tea.advantages_with_memory`. They are lost when the process ends: frameworks' checkpoints do not
            hold them. 0: none.

    Raises:
        ValueError, TypeError: On construction, for an unknown estimator, option or value.
    """

    name: str = "tea"
    options: Mapping[str, Any] = field(default_factory=dict)
    normalize_advantages: str | bool = "none"
    singletons: Singletons = "error"
    reward_memory: int = 0
    estimator: Estimator = field(init=False, repr=False, compare=False)
    memory: RewardMemory | None = field(init=False, repr=False, compare=False, default=None)
    running_scale: RunningScale | None = field(init=False, repr=False, compare=False, default=None)
    _configured: dict[str, GroupAdvantages] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        check_singletons(self.singletons)
        normalize: Any = self.normalize_advantages
        if isinstance(normalize, bool):
            normalize = "batch" if normalize else "none"
        if normalize not in ("running", "batch", "none"):
            raise ValueError(f"normalize_advantages must be running, batch or none, got {normalize!r}")
        object.__setattr__(self, "normalize_advantages", normalize)
        if normalize == "running":
            object.__setattr__(self, "running_scale", RunningScale())
        check_memory_size("reward_memory", self.reward_memory, minimum=0)
        spec = get_estimator_spec(self.name)
        defaults = {
            "target_n": DEFAULT_TARGET_N,
            "scale": (spec.scale_in_training or "group") if spec.own_scale else "none",
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
        if self.running_scale is not None:
            self.running_scale.update(advantages, mask)
            advantages = advantages / self.running_scale.scale(advantages.device)
        elif self.normalize_advantages == "batch":
            advantages = normalize_advantages(advantages, mask)
        return layout.flatten(advantages)

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
        of_batch = self.normalize_advantages == "batch" or self.estimator.options.get("scale") == "batch"
        if num_groups == 1 and of_batch:
            raise ValueError(
                f"{caller} handed over a single prompt's group, and there is no batch to scale by: set "
                "normalize_advantages to 'running' or 'none', and scale to 'group' or 'none'"
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
    normalize_advantages: str | bool = "none",
    singletons: Singletons = "error",
    reward_memory: int = 0,
    **options: Any,
) -> GroupAdvantages:
    """:class:`GroupAdvantages` with the options of the estimator as keywords."""
    return GroupAdvantages(name, options, normalize_advantages, singletons, reward_memory)


def without_state(estimator: GroupAdvantages, why: str, *, running_scale: bool = False) -> GroupAdvantages:
    """The estimator, which must have no reward memory and, unless ``running_scale``, no running scale.

    Raises:
        ValueError: If it has, with the reason why it cannot.
    """
    if estimator.reward_memory > 0:
        raise ValueError(f"reward_memory={estimator.reward_memory} cannot work here, leave it at 0: {why}")
    if estimator.running_scale is not None and not running_scale:
        raise ValueError(f"normalize_advantages='running' cannot work here, set it to 'batch' or 'none': {why}")
    return estimator


def prompt_digest(prompt: Any) -> str:
    """What stands for a prompt in the reward memory: a hash of its text, messages or tokens."""
    content = json.dumps(prompt, sort_keys=True, default=repr)
    return hashlib.blake2b(content.encode(), digest_size=16).hexdigest()
