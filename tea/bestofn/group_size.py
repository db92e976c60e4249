"""Which group size to train with for best of N. The only place of this package that needs :mod:`tea.estimators`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tea.bestofn._inputs import FloatArray, reward_matrix


def plan_training(
    rewards: Any,
    rollouts_per_step: int,
    target_n: int,
    *,
    estimator: str = "tea",
    group_sizes: Sequence[int] = (4, 8, 16, 32, 64),
    groups: int = 4096,
    seed: int = 0,
    **options: Any,
) -> list[dict[str, float]]:
    r"""Which group size m to train with, under a budget of rollouts per step.

    The gradient of best-of-N is E[psi(R) * score] with the influence function psi(u), the integral up to u of
    N F^(N-1). Scores in a large model are nearly orthogonal between rollouts, so what an advantage A is worth is
    its correlation with psi: `efficiency` = corr(A, psi)^2 is the share of the rollouts that would do as well with psi
    known. Measured on groups drawn from the given rewards, F from all n samples of a prompt.

    Args:
        rewards: (P, n) of the policy to train, n >= target_n; n should be several times target_n, since the noise of
            F at the top lowers every efficiency (at n = 4 N by a quarter).
        rollouts_per_step: prompts per step times m.
        target_n: N.
        estimator: name in :func:`tea.list_estimators`.
        group_sizes: candidates for m; those above `rollouts_per_step` or n are left out.
        groups: groups drawn per candidate.
        seed: of the draws.
        **options: further arguments of the estimator.

    Returns:
        A record per m: group_size, prompts_per_step, efficiency, efficiency_se, effective_rollouts. The first with
        `recommended` true is the smallest m within 5 % of the best: more prompts per step at the same worth.

    Raises:
        ValueError: n < target_n, or no candidate left.
    """
    matrix = reward_matrix(rewards)
    num_prompts, n = matrix.shape
    if target_n > n:
        raise ValueError(f"target_n = {target_n} needs at least as many samples per prompt, got {n}")
    sizes = [m for m in group_sizes if 2 <= m <= min(n, rollouts_per_step)]
    if not sizes:
        raise ValueError(f"none of the group sizes {tuple(group_sizes)} fits {rollouts_per_step} rollouts and n = {n}")
    influence = _influence(matrix, target_n)
    rng = np.random.default_rng(seed)
    records: list[dict[str, Any]] = []
    for m in sizes:
        rows = rng.integers(num_prompts, size=groups)
        columns = rng.random((groups, n)).argpartition(m - 1, axis=1)[:, :m]
        advantages = advantages_of(estimator, matrix[rows[:, None], columns], target_n, **options)
        psi = influence[rows[:, None], columns]
        psi = psi - psi.mean(axis=1, keepdims=True)
        halves = [_efficiency(advantages[i::8], psi[i::8]) for i in range(8)]
        value = _efficiency(advantages, psi)
        records.append(
            {
                "group_size": m,
                "prompts_per_step": rollouts_per_step // m,
                "efficiency": value,
                "efficiency_se": float(np.std(halves, ddof=1) / np.sqrt(8)),
                "effective_rollouts": value * (rollouts_per_step // m) * m,
            }
        )
    best = max(record["effective_rollouts"] for record in records)
    chosen = next(record for record in records if record["effective_rollouts"] >= 0.95 * best)
    for record in records:
        record["recommended"] = record is chosen
    return records


def advantages_of(estimator: str, rewards: Any, target_n: int, **options: Any) -> FloatArray:
    """The advantages that an estimator gives, in and out of NumPy.

    Args:
        estimator: name in :func:`tea.list_estimators`.
        rewards: (P, m).
        target_n: N, for estimators that take one.
        **options: further arguments of the estimator.

    Returns:
        (P, m).

    Raises:
        TypeError, ValueError: as :func:`tea.get_estimator`.
    """
    import torch

    from tea.estimators import get_estimator, get_estimator_spec

    takes_target = "target_n" in get_estimator_spec(estimator).parameters
    function = get_estimator(estimator, **({"target_n": target_n} if takes_target else {}), **options)
    return np.asarray(function(torch.from_numpy(np.asarray(rewards, dtype=np.float64))).numpy())


def _influence(matrix: FloatArray, n: int) -> FloatArray:
    """Psi at every sample, F the empirical distribution of its prompt's samples; (P, n)."""
    order = np.argsort(matrix, axis=1)
    ordered = np.take_along_axis(matrix, order, axis=1)
    below = np.arange(1, matrix.shape[1]) / matrix.shape[1]
    steps = n * below ** (n - 1) * np.diff(ordered, axis=1)
    psi = np.concatenate([np.zeros((len(matrix), 1)), np.cumsum(steps, axis=1)], axis=1)
    result = np.empty_like(psi)
    np.put_along_axis(result, order, psi, axis=1)
    return result


def _efficiency(advantages: FloatArray, psi: FloatArray) -> float:
    norm = float((advantages**2).sum() * (psi**2).sum())
    product = float((advantages * psi).sum())
    return max(product, 0.0) ** 2 / norm if norm > 0 else 0.0
