"""What the trainers log of a generation batch besides TRL's metrics."""

from __future__ import annotations

import torch
from torch import Tensor

from tea.estimators import tail_statistics
from tea.estimators.binary import pass_at_n_forecast
from tea.estimators.tensors import values_are_readable


def best_of_n_forecast(
    rewards: Tensor, target_n: float, tail_fraction: float, max_reward: float | None = None
) -> Tensor:
    """Forecast (P,) of every prompt's best of N from rewards (P, m); arguments as of :func:`tail_metrics`.

    If the rewards of all prompts are 0 or 1, pass@N under the Beta posterior, see
    :func:`tea.estimators.binary.pass_at_n_forecast`; else of a Gaussian upper tail.
    """
    gaussian = tail_statistics(rewards, target_n, tail_fraction).best_of_n
    return _forecast(rewards, gaussian, target_n, max_reward)


def _forecast(rewards: Tensor, gaussian: Tensor, target_n: float, max_reward: float | None) -> Tensor:
    missing, one = torch.isnan(rewards), rewards == 1
    all_binary = (missing | one | (rewards == 0)).all()
    if max_reward is not None:
        gaussian = gaussian.clamp(max=max_reward)
    if values_are_readable(rewards) and not all_binary:
        return gaussian
    passes = pass_at_n_forecast(torch.where(missing, torch.nan, one.to(gaussian.dtype)), target_n)
    return torch.where(all_binary, passes, gaussian)


def tail_metrics(
    rewards: Tensor, advantages: Tensor, target_n: float, tail_fraction: float, max_reward: float | None = None
) -> tuple[dict[str, float], bool]:
    """Metrics of the upper tail.

    Args:
        rewards: (P, m); NaN where there is none, or where the completion is not trained on.
        advantages: (P, m), of the same rollouts.
        target_n: N of the forecast.
        tail_fraction: Share of a group's rollouts that counts as its upper tail.
        max_reward: The largest reward possible, if known; no forecast is above it.

    Returns:
        Means over the prompts by name, without NaN where some prompt has a value:

        - ``best_of_n``: :func:`best_of_n_forecast`.
        - ``tail_mean``, ``tail_std``: of the upper tail.
        - ``frac_degenerate_groups``: share of groups in which all advantages are zero.
        - ``frac_binary_groups``: share of groups whose rewards are all 0 or 1.

        And whether the batch has zeros and ones and nothing else.
    """
    missing = torch.isnan(rewards)
    zero, one = rewards == 0, rewards == 1
    binary = (missing | zero | one).all(dim=1) & ~missing.all(dim=1)
    all_binary = (missing | zero | one).all()
    tail = tail_statistics(rewards, target_n, tail_fraction)
    values = torch.stack(
        (
            _forecast(rewards, tail.best_of_n, target_n, max_reward).nanmean(),
            tail.mean.nanmean(),
            tail.std.nanmean(),
            (advantages == 0).all(dim=1).float().mean(),
            binary.float().mean(),
            (all_binary & zero.any() & one.any()).float(),
        )
    )
    *shares, zeros_and_ones = values.tolist()  # the only transfer to the host
    names = ("best_of_n", "tail_mean", "tail_std", "frac_degenerate_groups", "frac_binary_groups")
    return dict(zip(names, shares, strict=True)), bool(zeros_and_ones)
