"""slime: ``--custom-reward-post-process-path tea.adapters.slime.post_process_rewards``.

Relies on (THUDM/slime):

- ``slime/ray/rollout.py``, ``RolloutManager._post_process_rewards``: the hook is called with ``(args, samples)``, the
  flat samples of a rollout step, and returns ``(raw_rewards, rewards)``, two lists of floats;
- ``slime/backends/megatron_utils/loss.py``: with ``--advantage-estimator grpo`` (or "gspo", "cispo") those rewards
  become the advantage of every token;
- ``slime/utils/types.py``, ``Sample``: ``group_index`` (the prompt), ``rollout_id`` (equal for training samples that
  one rollout was split into, else None), ``reward`` (a number, or a dict with ``--reward-key``; None if missing);
- ``slime/utils/arguments.py``: ``--custom-config-path`` names a YAML file whose keys become attributes of ``args``;
- ``tests/plugin_contracts/test_plugin_runtime_hook_contracts.py`` (commit 137d7d7): the contract.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from tea.adapters.core import group_advantages

__all__ = ["post_process_rewards"]


def post_process_rewards(args: Any, samples: list[Any]) -> tuple[list[Any], list[float]]:
    """Rewards as slime logs them, and advantages as it trains on them.

    Args:
        args: slime's. ``args.tea``, from the YAML file of ``--custom-config-path``, has the options:
            ``tea: {estimator: ladder, target_n: 256}``. Without it: TEA with the defaults.
        samples: In sampling order. Samples of one prompt share ``group_index``; without any, each
            ``args.n_samples_per_prompt`` in a row are a prompt's. Samples of one rollout (equal ``rollout_id``)
            count once and get the same advantage. A reward of None is missing: advantage 0.

    Returns:
        ``(raw_rewards, advantages)``, one each per sample.

    Raises:
        ValueError: On groups of one rollout, samples of one rollout with different rewards, infinite rewards, or
            a number of samples that ``n_samples_per_prompt`` does not divide.
        TypeError: If only some samples have a ``group_index``.

    Checked by ``tests/adapters/test_slime.py``.
    """
    estimator = group_advantages().configured(args)
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
    advantages = estimator(torch.from_numpy(rewards[once]), [groups[i] for i in once])
    return raw, advantages[torch.from_numpy(unit)].tolist()
