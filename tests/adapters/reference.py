"""Slow versions of what the adapters do: a loop over groups, each of them alone and unpadded."""

import math

import torch

import tea

# What the trainers do by default (tea.trainers.TEAConfig).
DEFAULTS = {"target_n": 128}


def grouped_advantages(rewards, ids, name="tea", normalize=False, **options):
    """One advantage per rollout, as a list: every group on its own, then, if asked for, one RMS over the batch."""
    spec = tea.get_estimator_spec(name)
    defaults = {
        k: v
        for k, v in {
            **DEFAULTS,
            "monotone": spec.monotone_in_training,
            "scale": (spec.scale_in_training or "group") if spec.own_scale else "none",
        }.items()
        if k in spec.parameters
    }
    estimator = tea.get_estimator(name, **{**defaults, **options})
    members = {}
    for i, key in enumerate(ids):
        members.setdefault(key, []).append(i)
    result = [0.0] * len(rewards)
    for group in members.values():
        if len(group) < 2:
            continue
        alone = torch.tensor([[rewards[i] for i in group]], dtype=torch.float64)
        for i, value in zip(group, estimator(alone)[0].tolist(), strict=True):
            result[i] = value
    if normalize:
        counted = [a for a, r in zip(result, rewards, strict=True) if not math.isnan(r)]
        rms = math.sqrt(sum(a * a for a in counted) / len(counted))
        result = [a / rms if rms > 0 else 0.0 for a in result]
    return result


def shuffled_groups(seed, sizes, missing=0.0):
    """Rewards (float64) and string ids of groups of these sizes, in random order."""
    generator = torch.Generator().manual_seed(seed)
    ids = [f"prompt-{i:03d}" for i, size in enumerate(sizes) for _ in range(size)]
    ids = [ids[i] for i in torch.randperm(len(ids), generator=generator)]
    rewards = torch.randn(len(ids), generator=generator, dtype=torch.float64)
    rewards[torch.rand(len(ids), generator=generator) < missing] = torch.nan
    return rewards, ids
