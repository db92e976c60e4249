"""NeMo-RL: an advantage estimator in place of the one for ``grpo.adv_estimator.name=grpo``.

Relies on (NVIDIA-NeMo/RL):

- ``nemo_rl/algorithms/advantage_estimator.py`` (commit 00925dd): estimators are built from
  ``(estimator_config, loss_config)``; ``AdvEstimatorConfig`` keeps keys that it does not know;
  ``compute_advantage(prompt_ids, rewards, mask, valid_mask=None, **kwargs)`` returns (B, S), and "every group-relative
  estimator accepts valid_mask and must honor it";
- ``nemo_rl/algorithms/grpo.py`` (commit 002cdc2), ``_create_advantage_estimator``: the choice of estimators is fixed,
  and looks ``GRPOAdvantageEstimator`` up in that module when called; ``prompt_ids`` are the padded prompt tokens;
- ``nemo_rl/algorithms/single_controller_utils/advantage_stage.py`` (commit 122b734): the call with ``valid_mask``.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from tea.adapters.core import GroupAdvantages, group_advantages
from tea.adapters.framework import import_framework
from tea.adapters.groups import Singletons

__all__ = ["NeMoAdvantageEstimator", "install", "make_nemo_estimator"]


class NeMoAdvantageEstimator:
    """An advantage estimator as NeMo-RL builds it.

    Args:
        estimator_config: The section ``grpo.adv_estimator``; its mapping ``tea`` has the options, such as
            ``{estimator: ladder, target_n: 256}``.
        loss_config: Unused.
        defaults: What the config overrides. None: TEA with the defaults.

    Checked by ``tests/adapters/test_nemo_rl.py``.
    """

    def __init__(
        self, estimator_config: Any = None, loss_config: Any = None, defaults: GroupAdvantages | None = None
    ) -> None:
        self.estimator = (defaults or group_advantages()).configured(estimator_config)

    def compute_advantage(
        self, prompt_ids: Any, rewards: Tensor, mask: Tensor, valid_mask: Tensor | None = None, **_: Any
    ) -> Tensor:
        """Advantages of each rollout, on all of its tokens.

        Args:
            prompt_ids: (B, S') prompt tokens, or (B,) ids: rollouts with equal ones are a group.
            rewards: (B,).
            mask: (B, S); only its shape is used, as in NeMo-RL's own.
            valid_mask: (B,), 0 for rows that must not influence the others; they get 0.

        Returns:
            (B, S), expanded from (B, 1).

        Raises:
            ValueError: On lengths that differ, groups of one rollout, infinite rewards.
        """
        if mask.ndim != 2 or len(mask) != len(rewards):
            raise ValueError(f"mask must have shape ({len(rewards)}, S), got {tuple(mask.shape)}")
        with torch.no_grad():
            valid = None if valid_mask is None else valid_mask.bool()
            advantages = self.estimator(rewards, prompt_ids, valid)
        return advantages.unsqueeze(-1).expand(mask.shape)


def make_nemo_estimator(
    name: str = "tea", *, normalize_advantages: bool | None = None, singletons: Singletons = "error", **options: Any
) -> NeMoAdvantageEstimator:
    """An estimator for a training loop of one's own: arguments as for :func:`tea.adapters.core.group_advantages`."""
    defaults = group_advantages(name, normalize_advantages=normalize_advantages, singletons=singletons, **options)
    return NeMoAdvantageEstimator(defaults=defaults)


def install(name: str = "tea", **options: Any) -> None:
    """Let NeMo-RL build this estimator where its config says ``grpo.adv_estimator.name: grpo``.

    To be called in the driver, before ``setup`` or ``grpo_train``. NeMo-RL has no registry: this replaces
    ``nemo_rl.algorithms.grpo.GRPOAdvantageEstimator``. A mapping ``grpo.adv_estimator.tea`` overrides the options.

    Args:
        name, options: As for :func:`make_nemo_estimator`.

    Raises:
        ImportError: Without NeMo-RL, or if that class is not there any more.
    """
    defaults = make_nemo_estimator(name, **options).estimator
    grpo = import_framework("NeMo-RL", "nemo_rl.algorithms.grpo")
    if not hasattr(grpo, "GRPOAdvantageEstimator") or not hasattr(grpo, "_create_advantage_estimator"):
        raise ImportError(
            "nemo_rl.algorithms.grpo no longer builds its estimator from GRPOAdvantageEstimator in "
            "_create_advantage_estimator; pass make_nemo_estimator(...) to your training loop instead"
        )
    grpo.GRPOAdvantageEstimator = functools.partial(NeMoAdvantageEstimator, defaults=defaults)
