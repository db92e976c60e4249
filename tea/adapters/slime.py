"""slime and miles: ``--custom-reward-post-process-path tea.adapters.slime.post_process_rewards``.

Relies on (THUDM/slime, v0.3.1, and its fork radixark/miles, v0.1.0):

- ``slime/ray/rollout.py``, ``RolloutManager._post_process_rewards``: the hook is called with ``(args, samples)``, the
  flat samples of a rollout step, and returns ``(raw_rewards, rewards)``, two lists of floats.
  In miles ``miles/ray/rollout/train_data_conversion.py``, ``_post_process_rewards``;
- ``slime/backends/megatron_utils/loss.py`` (``miles/backends/training_utils/loss_hub/advantages.py``): with
  ``--advantage-estimator grpo`` (or "gspo", "cispo") those rewards become the advantage of every token, and
  ``--normalize-advantages`` whitens them, over all tokens, afterwards;
- ``slime/utils/types.py``, ``Sample``: ``group_index`` (the prompt), ``rollout_id`` (equal for training samples that
  one rollout was split into, else None), ``reward`` (a number, or a dict with ``--reward-key``; None if missing);
- ``slime/utils/arguments.py``: ``--custom-config-path`` names a YAML file whose keys become attributes of ``args``;
- ``tests/plugin_contracts/test_plugin_runtime_hook_contracts.py`` (commit 137d7d7): the contract.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch

from tea.adapters.core import group_advantages, prompt_digest

__all__ = ["post_process_rewards"]

# Lasts as long as the process that makes the rollouts: a reward memory is in it.
_DEFAULT = group_advantages()
# Those of which the reward is the advantage.
_ESTIMATORS = ("grpo", "gspo", "cispo")


def _check_args(args: Any) -> None:
    estimator = getattr(args, "advantage_estimator", "grpo")
    if estimator not in _ESTIMATORS:
        raise ValueError(
            f"--advantage-estimator {estimator} computes advantages of its own from what it takes for rewards: "
            f"use one that leaves them as they are, {', '.join(_ESTIMATORS)}"
        )
    if getattr(args, "normalize_advantages", False):
        warnings.warn(
            "--normalize-advantages whitens the advantages on top, over all tokens: it moves their zero, by more the "
            "more lengths differ, and scales a batch that has nothing to gain up to a full step; leave it out",
            stacklevel=3,
        )


def post_process_rewards(args: Any, samples: list[Any]) -> tuple[list[Any], list[float]]:
    """Rewards as slime logs them, and advantages as it trains on them.

    Args:
        args: slime's. ``args.tea``, from the YAML file of ``--custom-config-path``, has the options:
            ``tea: {estimator: ladder, target_n: 256}``. Without it: TEA with the defaults. The advantages' size is
            the estimator's: choose the learning rate for it, or set ``normalize_advantages: running`` there, which,
            unlike slime's flag of that name, subtracts nothing. ``reward_memory`` goes by ``sample.prompt``.
        samples: In sampling order. Samples of one prompt share ``group_index``; without any, each
            ``args.n_samples_per_prompt`` in a row are a prompt's. Samples of one rollout (equal ``rollout_id``)
            count once and get the same advantage. A reward of None is missing: advantage 0.

    Returns:
        ``(raw_rewards, advantages)``, one each per sample.

    Raises:
        ValueError: On groups of one rollout, samples of one rollout with different rewards, infinite rewards,
            a number of samples that ``n_samples_per_prompt`` does not divide, or an ``--advantage-estimator`` that
            makes something else of the rewards.
        TypeError: If only some samples have a ``group_index``.

    Checked by ``tests/adapters/test_slime.py`` and, on the code of slime and miles,
    ``tests/adapters/frameworks/check_slime.py`` and ``check_miles.py``.
    """
    _check_args(args)
    estimator = _DEFAULT.configured(args)
    key = getattr(args, "reward_key", None)
    raw = [sample.reward[key] if key and sample.reward is not None else sample.reward for sample in samples]
    if not samples:
        return [], []
    rewards = np.array([np.nan if reward is None else reward for reward in raw], dtype=np.float64)
    groups = [sample.group_index for sample in samples]
    if all(group is None for group in groups):
        size = getattr(args, "n_samples_per_prompt", len(samples))
        if len(samples) % size != 0:
            raise ValueError(f"without group_index, {len(samples)} samples must be a multiple of {size} per prompt")
        groups = [i // size for i in range(len(samples))]

    # Every rollout once, at its first sample.
    rollouts = [getattr(sample, "rollout_id", None) for sample in samples]
    keys = [(groups[i], "alone", i) if rollout is None else (groups[i], rollout) for i, rollout in enumerate(rollouts)]
    first_of: dict[Any, int] = {}
    first = np.array([first_of.setdefault(rollout, i) for i, rollout in enumerate(keys)])
    if not np.array_equal(rewards[first], rewards, equal_nan=True):
        i = int(np.flatnonzero((rewards[first] != rewards) & ~(np.isnan(rewards[first]) & np.isnan(rewards)))[0])
        raise ValueError(
            f"the samples of rollout {rollouts[i]!r} of group {groups[i]!r} have different rewards, "
            f"{raw[first[i]]} and {raw[i]}: best-of-N selects whole rollouts, so give each of them the same reward"
        )
    once, unit = np.unique(first, return_inverse=True)
    prompts = None if estimator.memory is None else [prompt_digest(samples[i].prompt) for i in once]
    advantages = estimator(torch.from_numpy(rewards[once]), [groups[i] for i in once], prompts=prompts)
    return raw, advantages[torch.from_numpy(unit)].tolist()
