"""rLLM: an advantage estimator for its trajectory groups.

Relies on (rllm-org/rllm):

- ``rllm/trainer/algorithms/advantage.py`` (commit 18c8622; before in ``rllm.experimental.common.advantage``):
  ``register_rllm_adv_estimator(name)`` decorates a function, which is called once per group role by keyword with
  ``rewards`` (one float array per trajectory group), ``algorithm_config`` and ``traj_groups``, and returns
  ``(advantages_by_group, returns_by_group)`` of the same lengths;
- ``rllm/trainer/algorithms/config.py`` (commit 08d884b): the setting ``rllm.algorithm.adv_estimator`` turns every name
  that is not built in into ``rLLMAdvantageEstimator.OTHER``, whose value is "other"; values of ``estimator_map`` (the
  trainer's ``traj_group_adv_estimator_map``) are kept as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tea.adapters.core import GroupAdvantages, group_advantages
from tea.adapters.framework import import_framework
from tea.adapters.groups import Singletons

__all__ = ["RLLMAdvantages", "make_rllm_estimator", "register"]


@dataclass(frozen=True)
class RLLMAdvantages:
    """A function as rLLM's registry takes it. See :func:`make_rllm_estimator`."""

    estimator: GroupAdvantages

    def __call__(
        self, rewards: Sequence[Any], algorithm_config: Any = None, **_: Any
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Advantages, twice (rLLM ignores the returns).

        Args:
            rewards: One array (m_i,) per trajectory group, of any sizes.
            algorithm_config: rLLM's; if it has a mapping ``tea``, that overrides the options.

        Raises:
            ValueError: On groups of one trajectory, infinite rewards.
        """
        if len(rewards) == 0:
            return [], []
        sizes = [len(group) for group in rewards]
        flat = torch.from_numpy(np.concatenate([np.asarray(group, dtype=np.float64) for group in rewards]))
        advantages = self.estimator.configured(algorithm_config)(flat, np.repeat(np.arange(len(sizes)), sizes))
        by_group = np.split(advantages.numpy(), np.cumsum(sizes)[:-1])
        return by_group, by_group


def make_rllm_estimator(
    name: str = "tea", *, normalize_advantages: bool | None = None, singletons: Singletons = "error", **options: Any
) -> RLLMAdvantages:
    """An advantage function for rLLM. Arguments as for :func:`tea.adapters.core.group_advantages`.

    Advantages are normalised over the groups of one role, which is what rLLM passes at a time.

    Checked by ``tests/adapters/test_rllm.py``.
    """
    return RLLMAdvantages(
        group_advantages(name, normalize_advantages=normalize_advantages, singletons=singletons, **options)
    )


def register(name: str = "tea", *, register_as: str | None = None, **options: Any) -> RLLMAdvantages:
    """Make the estimator known to rLLM.

    Args:
        name, options: As for :func:`make_rllm_estimator`.
        register_as: The name in rLLM. None: ``name``, for ``traj_group_adv_estimator_map={"solver": "tea"}``. For the
            setting ``rllm.algorithm.adv_estimator``, "other" is what rLLM looks up whatever unknown name is set.

    Raises:
        ImportError: Without rLLM.
    """
    function = make_rllm_estimator(name, **options)
    modules = "rllm.trainer.algorithms.advantage", "rllm.experimental.common.advantage"
    import_framework("rLLM", *modules).register_rllm_adv_estimator(register_as or name)(function)
    return function
