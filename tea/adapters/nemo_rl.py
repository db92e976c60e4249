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

from tea.adapters.core import GroupAdvantages, group_advantages, prompt_digest
from tea.adapters.framework import import_framework, plain_options
from tea.adapters.groups import any_in_group

__all__ = ["NeMoAdvantageEstimator", "install", "make_nemo_estimator"]


class NeMoAdvantageEstimator:
    """An advantage estimator as NeMo-RL builds it.

    Args:
        estimator_config: The section ``grpo.adv_estimator``; its mapping ``tea`` has the options, such as
            ``{estimator: ladder, target_n: 256}``.
        loss_config: Unused.
        defaults: What the config overrides. None: TEA with the defaults.
        pad_token_id: Of the tokenizer, also as ``tea.pad_token_id`` in the config. Only ``reward_memory`` needs it.

    Checked by ``tests/adapters/test_nemo_rl.py`` and, on NeMo-RL's own code,
    ``tests/adapters/frameworks/check_nemo_rl.py``.
    """

    def __init__(
        self,
        estimator_config: Any = None,
        loss_config: Any = None,
        defaults: GroupAdvantages | None = None,
        pad_token_id: int | None = None,
    ) -> None:
        options = plain_options(estimator_config)
        self.pad_token_id = pad_token_id if options is None else options.pop("pad_token_id", pad_token_id)
        self.estimator = (defaults or group_advantages()).configured({"tea": options})
        if self.estimator.memory is not None and self.pad_token_id is None:
            raise ValueError("reward_memory needs pad_token_id, the tokenizer's, to know a prompt whatever its padding")

    def compute_advantage(
        self, prompt_ids: Any, rewards: Tensor, mask: Tensor, valid_mask: Tensor | None = None, **_: Any
    ) -> Tensor:
        """Advantages of each rollout, on all of its tokens.

        Args:
            prompt_ids: (B, S') prompt tokens, or (B,) ids: rollouts with equal ones are a group. They stand for the
                prompt in a reward memory too, less the padding at their end.
            rewards: (B,).
            mask: (B, S); only its shape is used, as in NeMo-RL's own.
            valid_mask: (B,), 0 for rows that must not influence the others; they get 0. A group of which a single
                row is valid has nothing to compare it with: 0 too.

        Returns:
            (B, S), expanded from (B, 1).

        Raises:
            ValueError: On lengths that differ, groups of one rollout, infinite rewards.
        """
        if mask.ndim != 2 or len(mask) != len(rewards):
            raise ValueError(f"mask must have shape ({len(rewards)}, S), got {tuple(mask.shape)}")
        with torch.no_grad():
            real = None
            if valid_mask is not None:
                # A group keeps its size, so that only ids that are wrong make groups of one; without a valid row it
                # is padding.
                valid = valid_mask.bool()
                real = any_in_group(prompt_ids, valid.to(rewards.device))
                rewards = torch.where(valid.to(rewards.device), rewards.to(_float(rewards.dtype)), torch.nan)
            prompts = None
            if self.estimator.memory is not None:
                rows = prompt_ids.reshape(len(prompt_ids), -1).tolist()
                prompts = [prompt_digest([token for token in row if token != self.pad_token_id]) for row in rows]
            advantages = self.estimator(rewards, prompt_ids, real, prompts)
        return advantages.unsqueeze(-1).expand(mask.shape)


def _float(dtype: torch.dtype) -> torch.dtype:
    return dtype if dtype.is_floating_point else torch.float32


def make_nemo_estimator(
    name: str = "tea", *, pad_token_id: int | None = None, **options: Any
) -> NeMoAdvantageEstimator:
    """An estimator for a training loop of one's own.

    NeMo-RL uses the advantages as they are (clipped, if ``grpo.advantage_clip_low`` or ``_high`` are set), so their
    size is the estimator's: choose the learning rate for it, or set ``normalize_advantages="running"``.

    Args:
        name, options: As for :func:`tea.adapters.core.group_advantages`.
        pad_token_id: Of the tokenizer. ``reward_memory`` needs it, to know a prompt whatever its padding.
    """
    return NeMoAdvantageEstimator(defaults=group_advantages(name, **options), pad_token_id=pad_token_id)


def install(name: str = "tea", **options: Any) -> None:
    """Let NeMo-RL build this estimator where its config says ``grpo.adv_estimator.name: grpo``.

    To be called in the driver, before ``setup`` or ``grpo_train``. NeMo-RL has no registry: this replaces
    ``nemo_rl.algorithms.grpo.GRPOAdvantageEstimator``. A mapping ``grpo.adv_estimator.tea`` overrides the options.

    Args:
        name, options: As for :func:`make_nemo_estimator`, ``pad_token_id`` among them.

    Raises:
        ImportError: Without NeMo-RL, or if that class is not there any more.
    """
    pad_token_id = options.pop("pad_token_id", None)
    defaults = group_advantages(name, **options)
    grpo = import_framework("NeMo-RL", "nemo_rl.algorithms.grpo")
    if not hasattr(grpo, "GRPOAdvantageEstimator") or not hasattr(grpo, "_create_advantage_estimator"):
        raise ImportError(
            "nemo_rl.algorithms.grpo no longer builds its estimator from GRPOAdvantageEstimator in "
            "_create_advantage_estimator; pass make_nemo_estimator(...) to your training loop instead"
        )
    grpo.GRPOAdvantageEstimator = functools.partial(
        NeMoAdvantageEstimator, defaults=defaults, pad_token_id=pad_token_id
    )
