r"""Tail families: how far best-of-N lies above what a group shows, and which family the rewards speak for.

A family says how the expected maximum of n samples, :math:`e_n`, grows with n, up to location and scale:

- "gaussian": :math:`e_n = c_n`;
- "exponential": :math:`e_n = H_n`, the harmonic numbers (any upper tail in the Gumbel domain, far enough out);
- "gpd", generalised Pareto with shape xi: :math:`e_n(\xi) = \frac{1}{\xi} \left[
  \frac{\Gamma(1-\xi) \Gamma(n+1)}{\Gamma(n+1-\xi)} - 1 \right]`, bounded for xi < 0, heavy for xi > 0, exponential at
  0. The shape is one for the whole batch: a handful of tail rollouts per prompt says nothing about it, many prompts do;
- "auto": the simplest of the three that predicts the spacings of the largest rewards, and so V_k for k <= m.

An estimator keeps a bank of constants, one per member (the Gaussian, then a grid of shapes), and combines them with
the weights that :func:`family_weights` gives: no branch on data, no transfer to the host.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from scipy import special
from torch import Tensor

from tea.estimators.constants import constant
from tea.estimators.group import Group, by_count, reward_std, tail_count
from tea.estimators.normal import expected_max_normal, tail_slope
from tea.estimators.tensors import largest, where

FAMILIES = ("gaussian", "exponential", "gpd", "auto")

SHAPES = tuple(round(-1.0 + 0.1 * i, 1) for i in range(15))  # -1.0 .. 0.4: the variance is finite below 0.5
BANK_SIZE = 1 + len(SHAPES)
_GAUSSIAN, _EXPONENTIAL = 0, 1 + SHAPES.index(0.0)

# Pseudo-prompts with which the shape is shrunk towards what a Gaussian looks like at this sample size.
PRIOR_PROMPTS = 8.0
# "auto" leaves a family when the profile of the batch is this many standard errors away from it, and not by less
# than what makes no difference.
REJECTION = 2.0
INDIFFERENCE = 0.02


def check_tail(tail: str) -> None:
    """Raise ValueError unless ``tail`` is one of :data:`FAMILIES`."""
    if tail not in FAMILIES:
        raise ValueError(f"tail must be one of {', '.join(map(repr, FAMILIES))}, got {tail!r}")


def gpd_expected_max(n: float, shape: float) -> float:
    r"""Expected maximum of n variables with survival :math:`(1 + \xi t)^{-1/\xi}`, :math:`e_n(\xi)`.

    Args:
        n: Number of variables, >= 1; need not be an integer.
        shape: xi < 1; at 0 the exponential, whose value is the harmonic number H_n.
    """
    if shape == 0.0:
        return float(special.digamma(n + 1.0) + np.euler_gamma)
    log_ratio = special.gammaln(1.0 - shape) + special.gammaln(n + 1.0) - special.gammaln(n + 1.0 - shape)
    return float(math.expm1(log_ratio) / shape)


def gpd_tail_slope(target_n: float, fraction: float, shape: float) -> float:
    r"""As :func:`tea.estimators.normal.tail_slope`, for a generalised Pareto upper tail.

    .. math::
        V_N = \mu_\alpha + \sigma_\alpha (1 - \xi) \sqrt{1 - 2 \xi} \left( g - \frac{1}{1 - \xi} \right), \quad
        g = \frac{1}{\xi} \left[ \alpha^\xi \frac{\Gamma(1-\xi) \Gamma(N+1)}{\Gamma(N+1-\xi)} - 1 \right]

    Args:
        target_n: N >= 1.
        fraction: alpha, in (0, 1].
        shape: xi < 0.5.
    """
    maximum = gpd_expected_max(target_n, shape)
    if shape == 0.0:
        above = maximum + math.log(fraction)
    else:
        above = fraction**shape * maximum + math.expm1(shape * math.log(fraction)) / shape
    return (1.0 - shape) * math.sqrt(1.0 - 2.0 * shape) * (above - 1.0 / (1.0 - shape))


def slope_bank(target_n: float, fraction: float) -> list[float]:
    """The tail slope of every member of the bank."""
    return [tail_slope(target_n, fraction), *(gpd_tail_slope(target_n, fraction, shape) for shape in SHAPES)]


@lru_cache(maxsize=4096)
def expected_max_bank(n: float) -> list[float]:
    """e_n of every member of the bank."""
    return [expected_max_normal(n), *(gpd_expected_max(n, shape) for shape in SHAPES)]


@lru_cache(maxsize=1024)
def _expected_profile(m: int, k: int) -> list[float]:
    """Expected position of the spacings among the k largest of m, for every member of the bank.

    With D_j the j-th spacing from the top, j * D_j as shares of their sum have a centre of gravity in [0, 1]:
    0.5 for an exponential tail, below it for a heavier one, above it for a lighter one.
    """
    j = np.arange(1, k)
    position = (j - 1) / (k - 2)
    profiles = []
    x = np.linspace(-9.0, 9.0, 3601)
    log_below, log_above = special.log_ndtr(x), special.log_ndtr(-x)
    # E[D_j] = integral of the probability that exactly j of m samples are above x.
    log_binomial = special.gammaln(m + 1) - special.gammaln(j + 1) - special.gammaln(m - j + 1)
    probability = np.exp(log_binomial[:, None] + np.outer(j, log_above) + np.outer(m - j, log_below))
    weights = j * probability.sum(axis=1)
    profiles.append(float(weights @ position / weights.sum()))
    for shape in SHAPES:
        weights = np.exp(special.gammaln(j - shape) - special.gammaln(j))
        profiles.append(float(weights @ position / weights.sum()))
    return profiles


def _profile_table(m: int, tail_fraction: float) -> list[list[float]]:
    """Per number of valid rollouts 0 .. m: k, variance of the profile statistic, expected profiles of the bank."""
    table = []
    for count in range(m + 1):
        k = tail_count(count, tail_fraction, minimum=4)
        if k < 3:
            table.append([float(k), 1.0, *[0.5] * BANK_SIZE])
            continue
        position = (np.arange(1, k) - 1) / (k - 2)
        # Shares of exponential spacings are uniform on the simplex.
        table.append([float(k), float(position.var() / k), *_expected_profile(count, k)])
    return table


class Profile(NamedTuple):
    """Where the spacings of the largest rewards have their centre of gravity, over the whole batch.

    Attributes:
        observed: () mean over the prompts.
        expected: (BANK_SIZE,) what every member of the bank expects.
        error: () standard error of ``observed`` for an exponential tail.
        prompts: () number of prompts that say anything.
    """

    observed: Tensor
    expected: Tensor
    error: Tensor
    prompts: Tensor

    def accepts(self, member: int) -> Tensor:
        """() bool: whether that member of the bank is compatible with the batch, as everything is without data."""
        distance = (self.observed - self.expected[member]).abs()
        return distance <= torch.clamp(REJECTION * self.error, min=INDIFFERENCE)


def spacing_profile(group: Group, tail_fraction: float) -> Profile:
    """The profile of the upper ``tail_fraction`` of every prompt, of at least 4 rollouts, averaged over prompts."""
    rewards = group.rewards
    m = rewards.shape[1]
    table = by_count(constant(_profile_table, m, tail_fraction, dtype=rewards.dtype, device=rewards.device), group)
    k, variance, expected = table[:, :1], table[:, 1:2], table[:, 2:]
    top = largest(group.filled(-torch.inf), tail_count(m, tail_fraction, minimum=4))
    j = torch.arange(1, top.shape[1], device=rewards.device).to(rewards.dtype)
    spacings = where(j < k, j * (top[:, :-1] - top[:, 1:]), 0.0)
    # A ratio of sums over prompts: the expected profiles are ratios of expectations. Each prompt counts in units of
    # how far its other rewards lie below the tail, which says nothing about the spacings in it; of its standard
    # deviation where it has no others.
    threshold = top.gather(1, (k.long() - 1).clamp(min=0))
    below = where(group.valid, threshold - group.rewards, 0.0).clamp(min=0.0).sum(1, keepdim=True)
    below = below / (group.count - k).clamp(min=1)
    usable = (k >= 3) & (spacings.amax(1, keepdim=True) > 0)
    unit = where(usable, where(below > 0, below, reward_std(group)), 1.0)
    # No prompt may say everything, let alone overflow: one whose others are all but equal would.
    spacings = where(usable, spacings / unit, 0.0).clamp(max=1.0 / torch.finfo(rewards.dtype).eps)
    position = (j - 1) / (k - 2).clamp(min=1)

    weight = usable.to(rewards.dtype)
    prompts = weight.sum()
    divisor = prompts.clamp(min=1)
    return Profile(
        observed=(spacings * position).sum() / where(prompts > 0, spacings.sum(), 1.0),
        expected=(weight * expected).sum(0) / divisor,
        error=(weight * variance).sum().sqrt() / divisor,
        prompts=prompts,
    )


def family_weights(group: Group, tail: str, tail_fraction: float) -> Tensor:
    """Weights (BANK_SIZE,) of the members of the bank, summing to 1, estimated over the whole batch.

    Args:
        group: The rewards.
        tail: One of :data:`FAMILIES`.
        tail_fraction: The share of rollouts to look at, at least 4 of them.
    """
    identity = torch.eye(BANK_SIZE, dtype=group.rewards.dtype, device=group.rewards.device)
    if tail in ("gaussian", "exponential"):
        return identity[_GAUSSIAN if tail == "gaussian" else _EXPONENTIAL]
    profile = spacing_profile(group, tail_fraction)
    prior = 0.0 if tail == "auto" else PRIOR_PROMPTS
    target = (profile.prompts * profile.observed + prior * profile.expected[_GAUSSIAN]) / (
        profile.prompts + prior
    ).clamp(min=1)
    # The expected profile falls with the shape: where does it cross the observed one?
    expected = (-profile.expected[1:]).contiguous()
    upper = torch.searchsorted(expected, (-target).reshape(1)).clamp(1, len(SHAPES) - 1)
    low, high = expected.gather(0, upper - 1), expected.gather(0, upper)
    share = ((-target - low) / where(high > low, high - low, 1.0)).clamp(0.0, 1.0).unsqueeze(1)
    # The bank has the Gaussian before the shapes, hence one further.
    gpd = ((1.0 - share) * identity[upper] + share * identity[upper + 1])[0]
    gpd = where(profile.prompts > 0, gpd, identity[_GAUSSIAN])
    if tail == "gpd":
        return gpd
    chosen = where(profile.accepts(_EXPONENTIAL), identity[_EXPONENTIAL], gpd)
    return where(profile.accepts(_GAUSSIAN) | (profile.prompts == 0), identity[_GAUSSIAN], chosen)


def combine(bank: Tensor, group: Group, tail: str, tail_fraction: float) -> Tensor:
    """Contract the members of the bank, dim 1 of ``bank`` (P, BANK_SIZE, ...), with their weights: (P, ...)."""
    if tail in ("gaussian", "exponential"):
        return bank[:, _GAUSSIAN if tail == "gaussian" else _EXPONENTIAL]
    return torch.tensordot(family_weights(group, tail, tail_fraction), bank, dims=([0], [1]))


AUTO_FRACTIONS = (0.5, 0.25, 0.125)


def fraction_weights(group: Group, tail: str) -> Tensor:
    """One-hot weights (3,) over :data:`AUTO_FRACTIONS`, for ``tail_fraction="auto"``.

    The largest whose spacings the family predicts; where none fits, the smallest. "gpd" and "auto" adapt to what
    they find, so that they always take the largest. Above 1/2 the lower half of the rewards would be rewarded for
    being low.
    """
    identity = torch.eye(len(AUTO_FRACTIONS), dtype=group.rewards.dtype, device=group.rewards.device)
    if tail in ("gpd", "auto"):
        return identity[0]
    member = _EXPONENTIAL if tail == "exponential" else _GAUSSIAN
    rejected = torch.stack([~spacing_profile(group, fraction).accepts(member) for fraction in AUTO_FRACTIONS[:-1]])
    # Not identity[index]: a scalar index is read back to the host.
    return identity.index_select(0, rejected.long().cumprod(0).sum().reshape(1))[0]
