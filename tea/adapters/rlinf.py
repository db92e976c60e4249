"""RLinf: an advantage function for ``algorithm.adv_type``; this module serves as ``RLINF_EXT_MODULE``.

Relies on (RLinf/RLinf, v0.3.0):

- ``rlinf/algorithms/registry.py``: ``register_advantage(name)`` decorates a function and replaces what has that name;
  ``calculate_adv_and_returns`` calls it by keyword and expects ``(advantages, returns or None)``, (T, B);
- ``rlinf/algorithms/utils.py``: embodied tasks hand over scores (P, ``group_size``) under any name; reasoning tasks
  refuse names that they do not have, and hand such scores over to "grpo" alone;
- ``rlinf/scheduler/cluster/utils.py``: every worker calls the ``register()`` of the module ``RLINF_EXT_MODULE``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tea.adapters.core import GroupAdvantages, group_advantages, without_state
from tea.adapters.framework import import_framework, warn_if_untested

__all__ = ["RLinfAdvantages", "make_rlinf_estimator", "register"]


@dataclass(frozen=True)
class RLinfAdvantages:
    """A function as RLinf's registry takes it. See :func:`make_rlinf_estimator`."""

    estimator: GroupAdvantages

    def __call__(
        self, rewards: Tensor, group_size: int, loss_mask: Tensor | None = None, n_steps: int = 1, **_: Any
    ) -> tuple[Tensor, None]:
        """Advantages (T, B), and no returns.

        Args:
            rewards: (P, ``group_size``) or as many, groups in a row.
            group_size: Rollouts per prompt.
            loss_mask: (T, B), where the advantage applies. None: everywhere in ``n_steps`` steps.
            n_steps: T, only used without ``loss_mask``.

        Raises:
            ValueError: On groups of one rollout, infinite rewards.
        """
        flat = rewards.reshape(-1)
        with torch.no_grad():
            advantages = self.estimator(flat, torch.arange(len(flat), device=flat.device) // group_size)
        if loss_mask is None:
            return advantages.expand(n_steps, -1), None
        return advantages * loss_mask, None


def make_rlinf_estimator(name: str = "tea", **options: Any) -> RLinfAdvantages:
    """An advantage function for RLinf. Arguments as for :func:`tea.adapters.core.group_advantages`.

    The advantages' size is the estimator's: choose the learning rate for it. Set ``algorithm.normalize_advantages``
    to False: RLinf then leaves them as they are; True, its default for some tasks, whitens them over all tokens.
    ``reward_memory`` and ``normalize_advantages="running"`` are refused: RLinf hands over rewards only, to each
    data-parallel rank its own.

    Checked by ``tests/adapters/test_rlinf.py`` and, on RLinf itself, ``tests/adapters/frameworks/check_rlinf.py``.
    """
    why = "RLinf hands over rewards only, and to each data-parallel rank its own"
    return RLinfAdvantages(without_state(group_advantages(name, **options), why))


def register(name: str = "tea", *, register_as: str | None = None, **options: Any) -> RLinfAdvantages:
    """Make the estimator known to RLinf, in this process.

    For embodied tasks ``RLINF_EXT_MODULE=tea.adapters.rlinf`` and ``algorithm.adv_type=tea`` are enough. Options,
    and the name "grpo" for reasoning tasks, need a module of one's own with a function ``register()`` that calls this.

    Args:
        name, options: As for :func:`make_rlinf_estimator`.
        register_as: The name in RLinf; what has it is replaced. None: ``name``. Reasoning tasks need "grpo".

    Raises:
        ImportError: Without RLinf.
    """
    function = make_rlinf_estimator(name, **options)
    import_framework("RLinf", "rlinf.algorithms")  # registers RLinf's own
    registry = import_framework("RLinf", "rlinf.algorithms.registry")
    warn_if_untested("rlinf")
    registry.register_advantage(register_as or name)(function)
    return function
