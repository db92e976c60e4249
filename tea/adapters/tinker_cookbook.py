"""tinker-cookbook: advantages in place of ``compute_advantages``.

Relies on (thinking-machines-lab/tinker-cookbook, v0.6.1):

- ``tinker_cookbook/rl/data_processing.py``: ``compute_advantages(trajectory_groups_P)`` returns one tensor (G,) per
  group, which ``assemble_training_data`` turns into floats;
- ``tinker_cookbook/rl/types.py``: ``TrajectoryGroup.get_total_rewards()``, a list of G floats;
- ``tinker_cookbook/rl/train.py``: calls ``compute_advantages`` by its name in that module, with all groups of a batch
  (or of a minibatch, when streaming), and with single groups to print them. There is no setting for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tea.adapters.core import GroupAdvantages, group_advantages, without_state
from tea.adapters.framework import import_framework, warn_if_untested

__all__ = ["TinkerAdvantages", "install", "make_tinker_estimator"]


@dataclass(frozen=True)
class TinkerAdvantages:
    """A function with the signature of ``compute_advantages``. See :func:`make_tinker_estimator`."""

    estimator: GroupAdvantages

    def __call__(self, trajectory_groups_P: Sequence[Any]) -> list[Tensor]:
        """One tensor (G,), float32, per trajectory group; group sizes may differ.

        Raises:
            ValueError: On groups of one trajectory, infinite rewards.
        """
        rewards = [group.get_total_rewards() for group in trajectory_groups_P]
        sizes = torch.tensor([len(group) for group in rewards], dtype=torch.int64)
        flat = torch.tensor([reward for group in rewards for reward in group], dtype=torch.float64)
        advantages = self.estimator(flat, torch.arange(len(sizes)).repeat_interleave(sizes))
        return list(advantages.float().split(sizes.tolist()))


def make_tinker_estimator(name: str = "tea", **options: Any) -> TinkerAdvantages:
    """``compute_advantages`` for a training loop of one's own.

    Arguments as for :func:`tea.adapters.core.group_advantages`. The advantages' size is the estimator's: choose the
    learning rate for it, or set ``normalize_advantages="batch"`` (not with streaming minibatches of few groups). A
    rollout strategy that tolerates errors may leave a group with one trajectory: then ``singletons="zero"``.
    ``reward_memory`` and ``normalize_advantages="running"`` are refused: tinker-cookbook calls the function to print
    parts of a group too.

    Checked by ``tests/adapters/test_tinker_cookbook.py`` and, on tinker-cookbook itself,
    ``tests/adapters/frameworks/check_tinker_cookbook.py``.
    """
    why = "tinker-cookbook also calls this for parts of groups that it prints, which would be remembered twice"
    return TinkerAdvantages(without_state(group_advantages(name, **options), why))


def install(name: str = "tea", **options: Any) -> TinkerAdvantages:
    """Let ``tinker_cookbook.rl.train`` use this estimator: replaces its ``compute_advantages``.

    To be called before ``train.main``. Arguments as for :func:`make_tinker_estimator`.

    Raises:
        ImportError: Without tinker-cookbook, or if that function is not there any more.
    """
    function = make_tinker_estimator(name, **options)
    train = import_framework("tinker-cookbook", "tinker_cookbook.rl.train")
    warn_if_untested("tinker-cookbook")
    if not hasattr(train, "compute_advantages"):
        raise ImportError(
            "tinker_cookbook.rl.train no longer has compute_advantages; call make_tinker_estimator(...) in a loop of "
            "your own instead"
        )
    train.compute_advantages = function
    return function
