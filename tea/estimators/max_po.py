"""MaxPO: best-of-k within the group, whose baseline leaves two out."""

from __future__ import annotations

from torch import Tensor

from tea.estimators.order import check_k, max_at_k_spacing_weights, spacing_advantages


def _max_po_table(m: int, k: int) -> list[list[float]]:
    table = [[0.0] * m]
    for count in range(1, m + 1):
        size = min(k, count - 1)  # a subset without the rollout must be possible
        weights = [0.0] * count
        if size > 0:
            share = count / (count - 1)
            weights[1:] = [share * weight for weight in max_at_k_spacing_weights(count - 1, size)]
        table.append(weights + [0.0] * (m - count))
    return table


def max_po_advantages(
    rewards: Tensor,
    k: int,
    *,
    mask: Tensor | None = None,
    monotone: bool = False,
    center: bool = True,
    scale: str = "none",
) -> Tensor:
    r"""MaxPO: best of k < m with a leave-two-out baseline, unbiased and centred in every group.

    What rollout i adds to a subset, less the mean of what each other rollout j adds where i is left out:

    .. math::
        A_i = k \left( g_i - \frac{1}{m - 1} \sum_{j \ne i} g_j^{(-i)} \right), \quad
        g_j^{(-i)} = E[\max I - \max(I \setminus j) \mid j \in I, i \notin I, |I| = k]

    The baseline does not depend on rollout i, so that nothing is biased; summed over the group both terms are the
    mean gain of all subsets, so that the group is centred without subtracting a mean. The sum collapses to
    :math:`k (E[\max I \mid i \in I] - E[\max I \mid i \notin I])`, which is best-of-k of
    :func:`tea.order_stat_advantages` and, on the spacings of the sorted rewards, m / (m - 1) times
    :func:`tea.max_at_k_advantages` for m - 1 rollouts. k = 1 is RLOO.
    Source: MaxPO, arXiv 2606.06080, from its abstract and from OrderGrad's account of it: the authors have
    published no code, and the formula is ours to the extent that the text leaves it open.

    Args:
        rewards: (P, m) float; higher is better; NaN marks a missing one.
        k: Size of the subsets, 1 <= k < m. A prompt with k or fewer valid rollouts uses one less than it has.
        mask: (P, m) bool, True where the rollout counts.
        monotone: Project on nondecreasing functions of the reward (it is one already).
        center: Subtract the group mean; the formula is centred by itself, so that this changes nothing.
        scale: "none", or divide by the reward standard deviation + 1e-4 of the "group" or "batch".

    Returns:
        (P, m) advantages, float64 for float64 rewards, else float32.

    Raises:
        TypeError, ValueError: On bad arguments, see :func:`tea.estimators.group.as_group`.

    Checked by ``tests/estimators/test_max_po.py``, against all subsets.
    """
    check_k(k)
    if isinstance(rewards, Tensor) and rewards.ndim == 2 and 2 <= rewards.shape[1] <= k:
        raise ValueError(
            f"k must be less than the generations per prompt ({rewards.shape[1]}), got {k}: max_po compares subsets "
            "with a rollout to subsets without it; max_at_k can aim at all of them"
        )
    return spacing_advantages(rewards, _max_po_table, k, mask=mask, monotone=monotone, center=True, scale=scale)
