"""verl: an advantage estimator for ``algorithm.adv_estimator``.

Relies on (verl-project/verl, v0.9.1):

- ``verl/trainer/ppo/core_algos.py``: ``register_adv_est(name)`` decorates a function, refuses a name that is taken
  by another one, and the functions take ``token_level_rewards`` (B, T), ``response_mask`` (B, T), ``index`` (B,) and
  ``config``, and return ``(advantages, returns)``, both (B, T);
- ``verl/trainer/ppo/ray_trainer.py``, ``compute_advantage``: calls them by keyword, ``index`` being
  ``non_tensor_batch["uid"]``, an object array, and ``config`` the ``algorithm`` section;
- ``verl/trainer/ppo/padding_utils.py``: the batch is filled up with rows of another uid and an empty response mask;
- ``verl/__init__.py``: loads the entry points of the group ``verl.plugins`` in every process, and the modules that
  ``VERL_USE_EXTERNAL_MODULES`` names;
- ``verl/trainer/ppo/v1/utils.py``: only "grpo" is called with one row per session. With agent loops of several
  outputs every row counts as a rollout here;
- ``verl/trainer/ppo/v1/trainer_base.py``, ``_step_once``: rows are balanced over workers by length before, so that
  "sampling order", on which only ``prefix_tea`` depends, is that order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tea.adapters.core import GroupAdvantages, group_advantages, without_state
from tea.adapters.framework import import_framework, warn_if_untested
from tea.adapters.groups import any_in_group

__all__ = ["VerlAdvantages", "make_verl_estimator", "register"]


@dataclass(frozen=True)
class VerlAdvantages:
    """A function as ``register_adv_est`` takes it. See :func:`make_verl_estimator`."""

    estimator: GroupAdvantages

    def __call__(
        self, token_level_rewards: Tensor, response_mask: Tensor, index: Any = None, config: Any = None, **_: Any
    ) -> tuple[Tensor, Tensor]:
        """Advantages, twice (verl wants returns, which only a critic would use).

        Args:
            token_level_rewards: (B, T); a rollout's reward is the sum, which includes the KL penalty under
                ``algorithm.use_kl_in_reward``.
            response_mask: (B, T), 1 on the tokens of the response. A group without any is padding.
            index: (B,) group ids.
            config: The ``algorithm`` section; its mapping ``tea`` overrides the options.

        Raises:
            ValueError: On shapes that differ, no ``index``, groups of one rollout, infinite rewards.
        """
        if index is None:
            raise ValueError("index is None: the batch has no 'uid' in non_tensor_batch, so no groups to compare")
        estimator = self.estimator.configured(config)
        with torch.no_grad():
            real = any_in_group(index, response_mask.bool().any(dim=-1))
            advantages = estimator.per_token(token_level_rewards, response_mask, index, real)
        return advantages, advantages


def make_verl_estimator(name: str = "tea", **options: Any) -> VerlAdvantages:
    """An advantage function for verl.

    verl uses the advantages as they are. Their size is the estimator's: choose the learning rate for it, or set
    ``normalize_advantages="running"`` for GRPO's, see :class:`tea.adapters.core.GroupAdvantages`.

    Args:
        name: One of ``tea.list_estimators()``.
        options: Of the estimator, such as ``target_n``, ``tail_fraction``, ``k``, and those of
            :func:`tea.adapters.core.group_advantages`. ``reward_memory`` is refused: verl gives a prompt a new uid
            whenever it comes back.

    Returns:
        ``(token_level_rewards, response_mask, index, config) -> (advantages, returns)``. It pickles.

    Checked by ``tests/adapters/test_verl.py`` and, on verl itself, ``tests/adapters/frameworks/check_verl.py``.
    """
    why = "verl gives a prompt a new uid whenever it comes back"
    return VerlAdvantages(without_state(group_advantages(name, **options), why, running_scale=True))


def register(name: str = "tea", *, register_as: str | None = None, **options: Any) -> VerlAdvantages:
    """Make the estimator known to verl, for ``algorithm.adv_estimator=<name>``.

    "tea" needs no call: installing this package registers it in every process that imports verl
    (:mod:`tea.adapters.verl_plugin`), and ``+algorithm.tea.estimator=ladder`` and so on choose its options. A call
    counts for its own process only, and with Ray that is not the one that trains.

    Args:
        name, options: As for :func:`make_verl_estimator`.
        register_as: The name in verl, where "grpo" and "rloo" are taken. None: ``name``.

    Raises:
        ImportError: Without verl.
        ValueError: If verl knows an estimator of somebody else under that name. One of ours is replaced.
    """
    function = make_verl_estimator(name, **options)
    core_algos = import_framework("verl", "verl.trainer.ppo.core_algos")
    warn_if_untested("verl")
    name_in_verl = register_as or name
    if isinstance(core_algos.ADV_ESTIMATOR_REGISTRY.get(name_in_verl), VerlAdvantages):
        del core_algos.ADV_ESTIMATOR_REGISTRY[name_in_verl]
    core_algos.register_adv_est(name_in_verl)(function)
    return function
