"""rLLM: an advantage estimator for its trajectory groups.

Relies on (rllm-org/rllm, commit 9beb6e0):

- ``rllm/trainer/algorithms/advantage.py`` (before in ``rllm.experimental.common.advantage``):
  ``register_rllm_adv_estimator(name)`` decorates a function, which is called once per group role by keyword with
  ``rewards`` (one float array per trajectory group), ``algorithm_config`` and ``traj_groups``, and returns
  ``(advantages_by_group, returns_by_group)`` of the same lengths;
- ``rllm/trainer/algorithms/config.py``: the setting ``rllm.algorithm.adv_estimator`` turns every name that is not
  built in into ``rLLMAdvantageEstimator.OTHER``, whose value is "other"; values of ``estimator_map`` (the trainer's
  ``traj_group_adv_estimator_map``) are kept as they are, and roles that it does not name get that setting, "grpo";
- ``rllm/trainer/verl/verl_launcher.py``: with the verl backend the trainer, and so the registry, lives in a Ray actor,
  which gets the map pickled;
- ``rllm/trainer/buffer.py``: asynchronous training calls the estimator with the groups of a single task.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import torch

from tea.adapters.core import GroupAdvantages, group_advantages, prompt_digest
from tea.adapters.framework import import_framework

__all__ = ["RLLMAdvantages", "RegisteredName", "make_rllm_estimator", "register"]

# Whatever name that rLLM does not know is set in rllm.algorithm.adv_estimator, it looks this one up.
_OTHER = "other"


@dataclass(frozen=True)
class RLLMAdvantages:
    """A function as rLLM's registry takes it. See :func:`make_rllm_estimator`."""

    estimator: GroupAdvantages

    def __call__(
        self, rewards: Sequence[Any], algorithm_config: Any = None, traj_groups: Sequence[Any] = (), **_: Any
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Advantages, twice (rLLM ignores the returns).

        Args:
            rewards: One array (m_i,) per trajectory group, of any sizes.
            algorithm_config: rLLM's; if it has a mapping ``tea``, that overrides the options.
            traj_groups: rLLM's ``TrajectoryGroup``s, one per array. A reward memory goes by the ``task`` of their
                first trajectory.

        Raises:
            ValueError: On groups of one trajectory, infinite rewards, what needs a batch (``scale="batch"``,
                ``normalize_advantages="batch"``) with a single group, or ``reward_memory`` with trajectories without a
                task.
        """
        if len(rewards) == 0:
            return [], []
        estimator = self.estimator.configured(algorithm_config)
        estimator.check_batch(len(rewards), "rLLM, as in asynchronous training,")
        sizes = [len(group) for group in rewards]
        flat = torch.from_numpy(np.concatenate([np.asarray(group, dtype=np.float64) for group in rewards]))
        ids = np.repeat(np.arange(len(sizes)), sizes)
        prompts = None
        if estimator.memory is not None:
            tasks = [group.trajectories[0].task for group in traj_groups]
            if any(task is None for task in tasks):
                raise ValueError("reward_memory goes by the task of a trajectory, and some have none")
            keys = [prompt_digest(task) for task in tasks]
            prompts = [keys[i] for i in ids]
        advantages = estimator(flat, ids, prompts=prompts)
        by_group = np.split(advantages.numpy(), np.cumsum(sizes)[:-1])
        return by_group, by_group


def make_rllm_estimator(name: str = "tea", **options: Any) -> RLLMAdvantages:
    """An advantage function for rLLM. Arguments as for :func:`tea.adapters.core.group_advantages`.

    rLLM uses the advantages as they are, so their size is the estimator's: choose the learning rate for it, or set
    ``normalize_advantages="running"``. What rLLM passes at a time are the groups of one role, over which "batch"
    normalises; in asynchronous training it is one prompt, and "batch" is refused. ``eb_bon``, which learns from the
    other prompts of a batch, has none there.

    Checked by ``tests/adapters/test_rllm.py`` and, on rLLM's own code, ``tests/adapters/frameworks/check_rllm.py``.
    """
    return RLLMAdvantages(group_advantages(name, **options))


class RegisteredName(str):
    """A name in rLLM's registry that takes its estimator along: unpickling it registers it in that process too."""

    function: RLLMAdvantages

    def __new__(cls, name: str, function: RLLMAdvantages) -> RegisteredName:
        self = super().__new__(cls, name)
        self.function = function
        return self

    def __reduce__(self) -> tuple[Callable[..., RegisteredName], tuple[str, RLLMAdvantages]]:
        return _register_here, (str(self), self.function)


@dataclass(frozen=True)
class _Loud:
    """A built-in estimator of rLLM that says which roles it is used for, once for each, and then does its work."""

    function: Callable[..., Any]
    name: str
    told: set[str]

    def __call__(self, rewards: Any, algorithm_config: Any = None, traj_groups: Any = (), **options: Any) -> Any:
        named = getattr(algorithm_config, "estimator_map", None) or {}
        for role in sorted({group.group_role for group in traj_groups} - set(named) - self.told):
            self.told.add(role)
            message = (
                f"the trajectories named {role!r} are trained with rLLM's {self.name!r}: traj_group_adv_estimator_map "
                f"names {', '.join(map(repr, named)) or 'nothing'}. Add {role!r} to it, or set "
                "rllm.algorithm.adv_estimator=other for all roles that it does not name"
            )
            logging.getLogger(__name__).warning(message)
            warnings.warn(message, stacklevel=2)
        return self.function(rewards=rewards, algorithm_config=algorithm_config, traj_groups=traj_groups, **options)


def _register_here(name: str, function: RLLMAdvantages) -> RegisteredName:
    modules = "rllm.trainer.algorithms.advantage", "rllm.experimental.common.advantage"
    advantage = import_framework("rLLM", *modules)
    known = advantage.RLLM_ADV_ESTIMATOR_REGISTRY
    for builtin, builtin_function in list(known.items()):
        if isinstance(builtin, Enum) and not isinstance(builtin_function, (RLLMAdvantages, _Loud)):
            known[builtin] = _Loud(builtin_function, builtin.value, set())
    advantage.register_rllm_adv_estimator(name)(function)
    if isinstance(known.get(_OTHER, function), RLLMAdvantages):
        advantage.register_rllm_adv_estimator(_OTHER)(function)
    return RegisteredName(name, function)


def register(name: str = "tea", *, register_as: str | None = None, **options: Any) -> RegisteredName:
    """Make the estimator known to rLLM.

    Use what this returns, the name, in the trainer's map: ``traj_group_adv_estimator_map={"solver": rllm.register(
    "tea", target_n=128)}``. With the verl backend the trainer runs in a Ray actor; a plain "tea" would be unknown
    there, and this name registers its estimator where it arrives. Roles that the map does not name get what
    ``rllm.algorithm.adv_estimator`` says, "grpo" by default, and from now on a warning says so; "other" there (or any
    name that rLLM does not have) is this estimator, the last one that was registered.

    Args:
        name, options: As for :func:`make_rllm_estimator`.
        register_as: The name in rLLM. None: ``name``.

    Raises:
        ImportError: Without rLLM.
        ValueError: If the name is one of rLLM's own.
    """
    function = make_rllm_estimator(name, **options)
    modules = "rllm.trainer.algorithms.advantage", "rllm.experimental.common.advantage"
    known = import_framework("rLLM", *modules).RLLM_ADV_ESTIMATOR_REGISTRY
    name_in_rllm = register_as or name
    if not isinstance(known.get(name_in_rllm, function), RLLMAdvantages):
        raise ValueError(f"rLLM has an estimator {name_in_rllm!r} of its own; give this one another name, register_as=")
    return _register_here(name_in_rllm, function)
