"""SkyRL: an advantage estimator for ``trainer.algorithm.advantage_estimator``.

Relies on (NovaSky-AI/SkyRL, v0.4.0 and v0.3.0):

- ``skyrl/backends/skyrl_train/utils/ppo_utils.py``: ``AdvantageEstimatorRegistry.register(name, function)`` (before
  0.3 in ``skyrl_train.utils.ppo_utils``), which refuses a name that is taken and cloudpickles the function to a Ray
  actor; ``compute_advantages_and_returns`` calls it by keyword with ``token_level_rewards`` (B, T),
  ``response_mask`` (B, T), ``index`` (B,), ``config`` (the ``AlgorithmConfig``), ``values``, ``gamma``, ``lambd`` and
  ``grpo_norm_by_std``, and expects ``(advantages, returns)``, both (B, T);
- ``skyrl/train/entrypoints/main_base.py``, ``main``: ``validate_cfg`` and ``initialize_ray``, which sends the registry
  to the workers, run in the driver;
- ``skyrl/train/dataset/dataset.py``: a prompt's uid is its row in the dataset;
- ``skyrl/train/trainer.py``, ``compute_advantages_and_returns``: with ``step_wise_trajectories`` only the last step
  of each trajectory is passed, under a mask of ones;
- ``skyrl/backends/skyrl_train/training_batch.py``, ``pad_training_input_batch``: the last rows may be copies of the
  first, with the uids "pad0", "pad1", ...
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tea.adapters.core import GroupAdvantages, group_advantages
from tea.adapters.framework import import_framework, warn_if_untested

__all__ = ["SkyRLAdvantages", "make_skyrl_estimator", "register"]


def _num_padding_rows(index: Any) -> int:
    """How many rows at the end are padding: their uids are "pad0", "pad1", ... up to the last row."""
    last = str(index[-1]) if len(index) > 0 else ""
    if not (last.startswith("pad") and last[3:].isdecimal()):
        return 0
    count = int(last[3:]) + 1
    return count if [str(uid) for uid in index[-count:]] == [f"pad{i}" for i in range(count)] else 0


@dataclass(frozen=True)
class SkyRLAdvantages:
    """A function as SkyRL's registry takes it. See :func:`make_skyrl_estimator`."""

    estimator: GroupAdvantages

    def __call__(
        self, token_level_rewards: Tensor, response_mask: Tensor, index: Any, config: Any = None, **_: Any
    ) -> tuple[Tensor, Tensor]:
        """Advantages, twice (SkyRL wants returns, which only a critic would use).

        Args:
            token_level_rewards: (B, T); a rollout's reward is the sum.
            response_mask: (B, T), 1 on the tokens of the response.
            index: (B,) group ids.
            config: The ``AlgorithmConfig``; if a subclass has a mapping ``tea``, it overrides the options.

        Raises:
            ValueError: On shapes that differ, groups of one rollout, infinite rewards.
        """
        num_real = len(index) - _num_padding_rows(index)
        real = torch.arange(len(token_level_rewards), device=token_level_rewards.device) < num_real
        with torch.no_grad():
            estimator = self.estimator.configured(config)
            prompts = [str(uid) for uid in index]
            advantages = estimator.per_token(token_level_rewards, response_mask, index, real, prompts)
        return advantages, advantages


def make_skyrl_estimator(name: str = "tea", **options: Any) -> SkyRLAdvantages:
    """An advantage function for SkyRL. Arguments as for :func:`tea.adapters.core.group_advantages`.

    SkyRL uses the advantages as they are, so their size is the estimator's: choose the learning rate for it, or set
    ``normalize_advantages="running"``. Leave ``trainer.algorithm.advantage_batch_normalize`` off: it would subtract the
    mean over all tokens.

    ``reward_memory`` goes by the uids, which are the row of the dataset.

    Checked by ``tests/adapters/test_skyrl.py`` and, on SkyRL itself, ``tests/adapters/frameworks/check_skyrl.py``.
    """
    return SkyRLAdvantages(group_advantages(name, **options))


def register(name: str = "tea", *, register_as: str | None = None, **options: Any) -> SkyRLAdvantages:
    """Make the estimator known to SkyRL, for ``trainer.algorithm.advantage_estimator=<name>``.

    To be called in the driver, before ``validate_cfg`` and ``initialize_ray`` (the whole of SkyRL's ``main``): the
    first looks the name up, the second sends what is registered to Ray's workers. In ``skyrl_entrypoint``, which runs
    on a worker, it would be too late.

    Options are given here. SkyRL refuses ``trainer.algorithm.tea.*`` on its command line, unless the algorithm's
    config is subclassed to have a mapping ``tea`` (docs/frameworks.md shows it).

    Args:
        name, options: As for :func:`make_skyrl_estimator`.
        register_as: The name in SkyRL, where "grpo" and "rloo" are taken. None: ``name``.

    Raises:
        ImportError: Without SkyRL.
        ValueError: If SkyRL knows an estimator under that name.
    """
    function = make_skyrl_estimator(name, **options)
    modules = "skyrl.backends.skyrl_train.utils.ppo_utils", "skyrl_train.utils.ppo_utils"
    ppo_utils = import_framework("SkyRL", *modules)
    warn_if_untested("skyrl-train" if ppo_utils.__name__ == modules[1] else "skyrl")
    ppo_utils.AdvantageEstimatorRegistry.register(register_as or name, function)
    return function
