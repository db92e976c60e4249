"""Advantages for any deployment objective: the influence function of a functional, by one backward pass.

What is deployed is a functional F of the reward distribution: a mean, the best of N, a quantile. Write it as a
differentiable function of a weighted sample, and its policy gradient needs no derivation.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from tea.estimators.constants import constant
from tea.estimators.group import as_group, check_tail_fraction, check_target_n, finalize
from tea.estimators.normal import tail_slope
from tea.estimators.tensors import power_of_two_below, values_are_readable

Functional = Callable[[Tensor, Tensor], Tensor]


def _checked(values: Tensor, rewards: Tensor) -> Tensor:
    if not isinstance(values, Tensor):
        raise TypeError(f"fn must return a tensor of shape (num_prompts,), got {type(values)}")
    if values.shape != rewards.shape[:1]:
        raise ValueError(
            f"fn must return a tensor of shape (num_prompts,) = {tuple(rewards.shape[:1])}, got {tuple(values.shape)}"
        )
    return values


def functional_advantages(
    fn: Functional,
    rewards: Tensor,
    *,
    mask: Tensor | None = None,
    monotone: bool = False,
    center: bool = True,
    scale: str = "none",
) -> Tensor:
    r"""The policy gradient of any functional of the reward distribution.

    The gradient of F(w), w the weights of the rollouts, through :math:`dw_i = w_i S_i` at w_i = 1 / m is

    .. math:: \nabla F = \frac{1}{m} \sum_i A_i S_i, \quad A_i = \partial F / \partial w_i

    and A less its mean is the influence function of F at each rollout. Subtracting the mean is what makes it one:
    how ``fn`` goes on for weights that do not sum to 1 shifts all derivatives of a group by a constant, or, where
    it is homogeneous of degree one in the weights, adds F itself. Ours; a plug-in, with a bias of O(1 / m)
    wherever F is not linear in w.

    Args:
        fn: ``fn(rewards, weights) -> values``: (P, m) rewards and (P, m) weights that sum to 1 per prompt, both
            float, to the (P,) objective of each prompt, larger is better; differentiable in the weights, each
            prompt by itself. A missing rollout has weight 0 and the largest reward of its group. Ready-made:
            :func:`mean`, :func:`best_of_n`, :func:`soft_best_of_n`, :func:`quantile`, :func:`cvar`,
            :func:`entropic_risk`, :func:`gaussian_tail`.
        rewards: (P, m) float; higher is better; NaN marks a missing one.
        mask: (P, m) bool, True where the rollout counts.
        monotone: Project on nondecreasing functions of the reward, see :func:`tea.monotone_projection`.
        center: Subtract the group mean; off: the derivatives as they are.
        scale: "none", or divide by the reward standard deviation + 1e-4 of the "group" or "batch".

    Returns:
        (P, m) advantages, float64 for float64 rewards, else float32.

    Raises:
        TypeError: If ``fn`` does not return a tensor, or on bad arguments as in
            :func:`tea.estimators.group.as_group`.
        ValueError: If ``fn`` returns another shape than (P,), does not depend on the weights, or has a derivative
            that is not finite (checked on the CPU in eager mode).

    Checked by ``tests/estimators/test_functional.py``, against finite differences and the estimators.
    """
    group = as_group(rewards, mask)
    largest = group.filled(-torch.inf).amax(1, keepdim=True) if rewards.shape[0] else group.rewards[:, :1]
    filled = group.filled(torch.where(torch.isfinite(largest), largest, 0.0))
    weights = group.valid.to(filled.dtype) / group.count.clamp(min=1)
    if torch.compiler.is_compiling():
        gradient = torch.func.grad(lambda w: _checked(fn(filled, w), rewards).sum())(weights)
        return finalize(gradient, group, monotone=monotone, center=center, scale=scale, ties_agree=False)
    with torch.enable_grad():
        weights.requires_grad_()
        values = _checked(fn(filled, weights), rewards)
        gradient = torch.autograd.grad(values.sum(), weights, allow_unused=True)[0] if values.requires_grad else None
    if gradient is None:
        raise ValueError("fn must depend on the weights, and differentiably: its result has no gradient in them")
    if values_are_readable(gradient):
        bad = group.valid & (group.count > 1) & ~torch.isfinite(gradient)
        if bad.any():
            prompt, rollout = bad.nonzero()[0].tolist()
            raise ValueError(
                f"fn must have finite derivatives, got {gradient[prompt, rollout].item()} at prompt {prompt}, "
                f"rollout {rollout}"
            )
    return finalize(gradient, group, monotone=monotone, center=center, scale=scale, ties_agree=False)


def mean(rewards: Tensor, weights: Tensor) -> Tensor:
    """The mean reward; its advantages are Dr. GRPO's. (P, m), (P, m) to (P,)."""
    return (weights * rewards).sum(1)


def _check_positive(name: str, value: float, allowed: str, ok: bool) -> None:
    if isinstance(value, (bool, str)) or not ok:
        raise ValueError(f"{name} must be {allowed}, got {value!r}")


def _spectral(rewards: Tensor, weights: Tensor, level: Callable[[Tensor], Tensor]) -> Tensor:
    r""":math:`\int Q(u) \, dG(u)`, Q the quantile function and G = ``level`` a distribution function on [0, 1].

    Summed over spacings, so that equal rewards share one derivative.
    """
    ordered, order = rewards.sort(dim=1)
    below = weights.gather(1, order).cumsum(1)
    # Weights off the simplex are told by their sum only in the top term.
    top = ordered[:, -1] * level(below[:, -1:]).squeeze(1)
    return top - (ordered.diff(dim=1) * level(below[:, :-1])).sum(1)


def best_of_n(n: float, cost: Tensor | None = None) -> Functional:
    r"""Expected best of n samples, less what the samples cost.

    .. math:: E[\max(R_1, \dots, R_n)] - n \, E[C]

    of the empirical distribution: with replacement, so that n far beyond m gains nothing; for that there are
    :func:`gaussian_tail` and :func:`tea.tea_advantages`.

    Args:
        n: Number of samples, >= 1.
        cost: (P, m), what each rollout costs, in units of reward (its length times a price, say). None: nothing.
    """
    check_target_n(n)

    def functional(rewards: Tensor, weights: Tensor) -> Tensor:
        value = _spectral(rewards, weights, lambda below: below.clamp(min=0.0) ** n)
        if cost is None:
            return value
        if cost.shape != rewards.shape:
            raise ValueError(f"cost must have the shape of rewards {tuple(rewards.shape)}, got {tuple(cost.shape)}")
        paid = torch.where(weights.detach() > 0, cost.to(rewards), 0.0)
        return value - n * (weights * paid).sum(1)

    return functional


def quantile(q: float, bandwidth: float = 0.1) -> Functional:
    """The q quantile, averaged over the levels q - bandwidth .. q + bandwidth (within 0 .. 1).

    A single quantile's influence has the density there in its denominator, which a group of rollouts does not
    show; the average over a band of levels has a plain one.

    Args:
        q: Level in (0, 1); 0.5 is the median.
        bandwidth: Half the width of the band, in (0, 1].
    """
    _check_positive("q", q, "in (0, 1)", 0.0 < q < 1.0)
    _check_positive("bandwidth", bandwidth, "in (0, 1]", 0.0 < bandwidth <= 1.0)
    low, high = max(q - bandwidth, 0.0), min(q + bandwidth, 1.0)

    def level(below: Tensor) -> Tensor:
        return ((below - low) / (high - low)).clamp(0.0, 1.0)

    return lambda rewards, weights: _spectral(rewards, weights, level)


def _tail_weights(ordered: Tensor, mass: Tensor) -> Tensor:
    """Of weights in descending order of reward, the part within the upper ``mass``: (P, m), sums to ``mass``.

    Where the tail ends exactly between two rollouts the derivative is one-sided: weight added inside pushes out
    the lowest rollout of the tail, as in TEA, where it is the threshold.
    """
    room = mass - (ordered.cumsum(1) - ordered)
    slack = 1e-5 * mass
    inside = torch.where(ordered < room - slack, ordered, room)
    return torch.where(room > slack, inside, 0.0)


def cvar(fraction: float) -> Functional:
    """Mean of the upper ``fraction`` of the rewards, the conditional value at risk of a gain.

    Args:
        fraction: In (0, 1]; a rollout at the edge counts in part.
    """
    _check_positive("fraction", fraction, "in (0, 1]", 0.0 < fraction <= 1.0)

    def functional(rewards: Tensor, weights: Tensor) -> Tensor:
        ordered, order = rewards.sort(dim=1, descending=True)
        tail = _tail_weights(weights.gather(1, order), torch.full_like(ordered[:, :1], fraction))
        return (tail * ordered).sum(1) / fraction

    return functional


def entropic_risk(beta: float) -> Functional:
    r"""Entropic risk :math:`\frac{1}{\beta} \log E[e^{\beta R}]`; its advantages are RS-GRPO's.

    Args:
        beta: Risk seeking (> 0) or averse (< 0), per unit of reward.
    """
    _check_positive("beta", beta, "a finite number other than 0", math.isfinite(beta) and beta != 0)

    def functional(rewards: Tensor, weights: Tensor) -> Tensor:
        exponent = beta * rewards
        anchor = exponent.amax(1, keepdim=True).detach()
        return ((weights * torch.exp(exponent - anchor)).sum(1).log() + anchor.squeeze(1)) / beta

    return functional


def soft_best_of_n(n: float, beta: float, nodes: int = 256) -> Functional:
    r"""Soft best of n: of n samples one is drawn with probability proportional to exp(beta * reward).

    With :math:`u = e^{\beta R}` and :math:`1 / s = \int_0^\infty e^{-ts} dt` its expected reward is one integral,

    .. math:: E\left[\frac{\sum_i R_i u_i}{\sum_i u_i}\right]
        = n \int_0^\infty E[R u e^{-tu}] \, E[e^{-tu}]^{n-1} \, dt

    taken by the trapezoidal rule in log t. beta = 0 is the mean, beta to infinity :func:`best_of_n`; like it this is of
    the empirical distribution, so that n far beyond m gains nothing. Source of the deployment: soft best-of-n,
    arXiv 2505.03156.

    Args:
        n: Number of samples, >= 1.
        beta: Inverse temperature, per unit of reward, >= 0. Rewards more than 40 / beta below the best of their prompt
            are not told apart by it; where most are, use :func:`best_of_n`.
        nodes: Points of the integral, >= 64. With 256 its error is below 1e-9 (float64).
    """
    check_target_n(n)
    _check_positive("beta", beta, "a finite number >= 0", math.isfinite(beta) and beta >= 0)
    _check_positive("nodes", nodes, "at least 64", nodes >= 64)
    span = (math.log(1e-10 / n), 40.0 + math.log(60.0))  # of log t: from where nothing has decayed to where all has

    def functional(rewards: Tensor, weights: Tensor) -> Tensor:
        exponent = (beta * (rewards - rewards.amax(1, keepdim=True))).clamp(min=-40.0).detach()
        grid = torch.linspace(span[0], span[1], nodes, dtype=rewards.dtype, device=rewards.device)
        step = (span[1] - span[0]) / (nodes - 1)
        decay = torch.exp(-torch.exp(grid + exponent.unsqueeze(2)))  # (P, m, nodes)
        alive = (weights.unsqueeze(2) * decay).sum(1)
        tilted = torch.exp(exponent.unsqueeze(2) + grid) * decay
        height = (rewards - rewards.amax(1, keepdim=True)).unsqueeze(2)
        drawn = (weights.unsqueeze(2) * height * tilted).sum(1)
        integral = n * step * (drawn * alive.clamp(min=1e-30) ** (n - 1.0)).sum(1)
        # Of weights off the simplex the top reward takes its share, as in the other functionals.
        return integral + rewards.amax(1) * weights.sum(1)

    return functional


def _slope_table(m: int, target_n: float, tail_fraction: float) -> list[list[float]]:
    """Per number of rollouts 0 .. m: the tail's mass (at least two rollouts) and the slope c~ at it."""
    rows = []
    for count in range(m + 1):
        mass = min(max(tail_fraction, 2 / max(count, 1)), 1.0)
        rows.append([mass, tail_slope(target_n, mass)])
    return rows


def gaussian_tail(target_n: float, tail_fraction: float = 0.25) -> Functional:
    r"""Best of N extrapolated from the upper tail, :math:`\mu_\alpha + \tilde c \, \sigma_\alpha`; TEA's objective.

    With fractional tail weights: a rollout at the edge counts in part. Its advantages are TEA's where alpha m is an
    integer (at least 2). Source: arXiv 2605.10716.

    Args:
        target_n: N, samples per prompt at deployment, >= 1.
        tail_fraction: alpha, in (0, 1]; at least two rollouts make the tail.
    """
    check_target_n(target_n)
    check_tail_fraction(tail_fraction)

    def functional(rewards: Tensor, weights: Tensor) -> Tensor:
        count = (weights.detach() > 0).sum(1)
        table = constant(
            _slope_table, rewards.shape[1], target_n, tail_fraction, dtype=rewards.dtype, device=rewards.device
        )
        mass, slope = table[count].split(1, dim=1)
        ordered, order = rewards.sort(dim=1, descending=True)
        # Missing rollouts have weight 0, and the largest reward: they come first and count for nothing.
        tail = _tail_weights(weights.gather(1, order), mass) / mass
        height = ordered - ordered[:, :1]
        unit = power_of_two_below(height[:, -1:].abs())  # no square over- or underflows
        height = height / unit
        centre = (tail * height).sum(1, keepdim=True)
        variance = (tail * (height - centre.detach()) ** 2).sum(1, keepdim=True)
        points = mass * count.unsqueeze(1)
        # Divisor k - 1, in the value and in the denominator of the influence, as in TEA.
        std = (variance.detach() * points / (points - 1.0)).clamp(min=0.0).sqrt()
        positive = std > 0
        change = (variance - variance.detach()) / (2.0 * torch.where(positive, std, 1.0))
        spread = std + torch.where(positive, change, 0.0)
        return (ordered[:, :1] + unit * (centre + slope * spread)).squeeze(1)

    return functional
