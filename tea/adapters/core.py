"""What the adapters share: an estimator with the trainers' defaults, applied to flat rollouts with group ids."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from tea.adapters.framework import plain_options
from tea.adapters.groups import Singletons, check_singletons, group_layout
from tea.estimators import Estimator, get_estimator, get_estimator_spec, normalize_advantages

DEFAULT_TARGET_N = 128  # as in TEAConfig


@dataclass(frozen=True)
class GroupAdvantages:
    """An estimator for flat rollouts, with the defaults of the trainers.

    Attributes:
        name: One of ``tea.list_estimators()``.
        options: Of the estimator. Not given: ``target_n=128``, ``scale="group"`` and ``monotone`` as recommended
            for training.
        normalize_advantages: Divide by the root mean square over the batch. None: unless the estimator has a step
            size of its own (GRPO, RLOO).
        singletons: "error" refuses groups of one rollout, "zero" gives them advantage 0.

    Raises:
        ValueError, TypeError: On construction, for an unknown estimator, option or value.
    """

    name: str = "tea"
    options: Mapping[str, Any] = field(default_factory=dict)
    normalize_advantages: bool | None = None
    singletons: Singletons = "error"
    estimator: Estimator = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_singletons(self.singletons)
        if self.normalize_advantages not in (None, True, False):
            raise ValueError(f"normalize_advantages must be True, False or None, got {self.normalize_advantages!r}")
        spec = get_estimator_spec(self.name)
        defaults = {"target_n": DEFAULT_TARGET_N, "scale": "group", "monotone": spec.monotone_in_training}
        defaults = {option: value for option, value in defaults.items() if option in spec.parameters}
        object.__setattr__(self, "estimator", get_estimator(self.name, **{**defaults, **self.options}))

    def __call__(self, rewards: Tensor, ids: Any, valid: Tensor | None = None) -> Tensor:
        """Advantages of flat rollouts.

        Args:
            rewards: (B,), any real dtype, in sampling order within each group; NaN marks a missing one.
            ids: One per rollout, see :func:`tea.adapters.groups.group_layout`.
            valid: (B,) bool, False for rows that are no rollouts: they get 0 and influence nothing.

        Returns:
            (B,) advantages, float64 for float64 rewards, else float32; on the device of ``rewards``.

        Raises:
            ValueError: On lengths that differ, infinite rewards, or groups of one rollout.
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
        advantages = self.estimator(layout.pad(rewards.detach(), torch.nan), mask=mask)
        normalize = self.normalize_advantages
        if normalize is None:
            normalize = not self.estimator.spec.own_scale
        return layout.flatten(normalize_advantages(advantages, mask) if normalize else advantages)

    def per_token(self, rewards: Tensor, response_mask: Tensor, ids: Any, valid: Tensor | None = None) -> Tensor:
        """Advantages (B, T) on the tokens of ``response_mask`` (B, T), from token-level rewards (B, T), summed."""
        if rewards.ndim != 2 or rewards.shape != response_mask.shape:
            raise ValueError(
                "token_level_rewards and response_mask must have one shape (B, T), got "
                f"{tuple(rewards.shape)} and {tuple(response_mask.shape)}"
            )
        # 16-bit rewards: a sum over a long response would be rounded token by token.
        dtype = rewards.dtype if rewards.dtype in (torch.float32, torch.float64) else torch.float32
        advantages = self(rewards.sum(dim=-1, dtype=dtype), ids, valid)
        return advantages.unsqueeze(-1) * response_mask

    def configured(self, config: Any) -> GroupAdvantages:
        """This estimator with what a framework's config has under the key ``tea``, if it has one.

        The mapping may set ``normalize_advantages``, ``singletons`` and the options of the estimator. With
        ``estimator``, a name, it stands for itself: no option set elsewhere is kept.
        """
        options = plain_options(config)
        if options is None:
            return self
        if "estimator" in options:
            return group_advantages(options.pop("estimator"), **options)
        own = {"normalize_advantages": self.normalize_advantages, "singletons": self.singletons}
        return group_advantages(self.name, **{**own, **self.options, **options})


def group_advantages(
    name: str = "tea", *, normalize_advantages: bool | None = None, singletons: Singletons = "error", **options: Any
) -> GroupAdvantages:
    """:class:`GroupAdvantages` with the options of the estimator as keywords."""
    return GroupAdvantages(name, options, normalize_advantages, singletons)
