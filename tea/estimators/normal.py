"""Constants of the standard normal that the estimators need: float64, computed once, cached."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import special

_LOG_SQRT_2PI = 0.5 * math.log(2.0 * math.pi)
# The integrand is analytic and negligible at both ends, so the trapezoidal rule converges faster than any
# power of the step: 0.005 leaves only rounding.
_STEP = 0.005
_GRID = np.arange(-8000, 8001) * _STEP
_LOG_PDF = -0.5 * _GRID**2 - _LOG_SQRT_2PI
_LOG_CDF = special.log_ndtr(_GRID)


@lru_cache(maxsize=4096)
def _expected_max_normal(n: float) -> float:
    density = np.exp(math.log(n) + _LOG_PDF + (n - 1.0) * _LOG_CDF)
    return float(np.sum(_GRID * density) * _STEP)


def expected_max_normal(n: float) -> float:
    r"""Expected maximum of ``n`` independent standard normal variables, :math:`c_n`.

    .. math:: c_n = \int x \, n \, \varphi(x) \, \Phi(x)^{n-1} \, dx

    by quadrature in float64 (error below 1e-12), cached. It is *not* :math:`\Phi^{-1}(1 - 1/n)`, which is a
    different number (2.4176 instead of 2.5946 at n = 128).

    Args:
        n: Number of variables, finite and at least 1. Need not be an integer.

    Returns:
        The expectation; ``c_1 = 0``, ``c_2 = 1 / sqrt(pi)``.

    Raises:
        ValueError: If ``n`` is not a finite number >= 1.

    Checked by ``tests/estimators/test_normal.py``.
    """
    if isinstance(n, bool) or not math.isfinite(n) or n < 1:
        raise ValueError(f"n must be a finite number >= 1, got {n!r}")
    return 0.0 if n == 1 else _expected_max_normal(float(n))


class TailConstants(NamedTuple):
    """A standard normal restricted to its upper ``fraction``: ``z`` where it starts, ``mean`` and ``std`` there."""

    z: float
    mean: float
    std: float


@lru_cache(maxsize=4096)
def truncated_normal_constants(fraction: float) -> TailConstants:
    r"""Threshold, mean and standard deviation of the upper ``fraction`` of a standard normal.

    .. math:: z = \Phi^{-1}(1 - \alpha), \quad h = \varphi(z) / \alpha, \quad s = \sqrt{1 + z h - h^2}

    Args:
        fraction: The upper-tail fraction alpha, in (0, 1]. At 1 the whole normal: ``(-inf, 0, 1)``.

    Returns:
        ``(z, h, s)``.

    Raises:
        ValueError: If ``fraction`` is outside (0, 1].
    """
    if not 0.0 < fraction <= 1.0:
        raise ValueError(f"fraction must be in (0, 1], got {fraction!r}")
    if fraction == 1.0:
        return TailConstants(-math.inf, 0.0, 1.0)
    z = -float(special.ndtri(fraction))
    h = math.exp(-0.5 * z * z - _LOG_SQRT_2PI) / fraction
    return TailConstants(z, h, math.sqrt(1.0 + z * h - h * h))


def tail_slope(target_n: float, fraction: float) -> float:
    r"""How many tail standard deviations :math:`V_N` lies above the tail mean, :math:`\tilde c = (c_N - h) / s`.

    Under a Gaussian upper tail :math:`V_N \approx \mu_\alpha + \tilde c \, \sigma_\alpha` (arXiv 2605.10716).

    Args:
        target_n: N, at least 1.
        fraction: alpha, in (0, 1].
    """
    tail = truncated_normal_constants(fraction)
    return (expected_max_normal(target_n) - tail.mean) / tail.std
