"""Reward distributions with known best-of-N: prompts differ in location and scale, the shape is one per family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import stats

LOCATION_STD = 1.0
SCALE_LOG_STD = 0.3
MEAN_SCALE = float(np.exp(SCALE_LOG_STD**2 / 2))


@dataclass(frozen=True)
class Family:
    """A standardised reward distribution (mean 0, standard deviation 1).

    Attributes:
        name: for tables.
        draw: (rng, size) -> samples.
        cdf: its distribution function, on an array.
    """

    name: str
    draw: Callable[[np.random.Generator, tuple[int, ...]], Any]
    cdf: Callable[[Any], Any]

    def expected_max(self, n: int) -> float:
        """E[max of n], by quadrature of the integral of 1{x > 0} - F(x)^n."""
        return _expected_max(self, n)

    def rewards(self, rng: np.random.Generator, prompts: int, samples: int) -> Any:
        """(P, n): location + scale * shape, location N(0, 1) and scale log-normal over prompts."""
        location = LOCATION_STD * rng.standard_normal((prompts, 1))
        scale = np.exp(SCALE_LOG_STD * rng.standard_normal((prompts, 1)))
        return location + scale * self.draw(rng, (prompts, samples))

    def truth(self, n: int) -> float:
        """The best-of-n value of :meth:`rewards`, mean over the population of prompts."""
        return MEAN_SCALE * self.expected_max(n)


@lru_cache(maxsize=4096)
def _expected_max(family: Family, n: int) -> float:
    x = np.concatenate([-np.geomspace(200.0, 30.0, 20_001), np.linspace(-30.0, 30.0, 600_001)[1:-1]])
    x = np.concatenate([x, np.geomspace(30.0, 5_000.0, 100_001)])
    integrand = (x > 0).astype(float) - family.cdf(x) ** n
    jump = np.searchsorted(x, 0.0, side="right")  # integrate each side by itself: the indicator jumps at 0
    left = np.trapezoid(np.append(integrand[:jump], -(family.cdf(0.0) ** n)), np.append(x[:jump], 0.0))
    right = np.trapezoid(np.insert(integrand[jump:], 0, 1 - family.cdf(0.0) ** n), np.insert(x[jump:], 0, 0.0))
    return float(left + right)


def from_scipy(name: str, distribution: Any) -> Family:
    """Standardise a frozen scipy distribution."""
    mean, deviation = float(distribution.mean()), float(distribution.std())
    return Family(
        name,
        lambda rng, size: (distribution.rvs(size=size, random_state=rng) - mean) / deviation,
        lambda x: distribution.cdf(mean + deviation * np.asarray(x)),
    )


def _mixture() -> Family:
    """Nine tenths N(0, 1), one tenth N(2, 0.5^2): a minority of much better samples."""
    share, shift, width = 0.1, 2.0, 0.5
    mean = share * shift
    deviation = float(np.sqrt((1 - share) * (1 + mean**2) + share * (width**2 + (shift - mean) ** 2)))

    def draw(rng: np.random.Generator, size: tuple[int, ...]) -> Any:
        good = rng.random(size) < share
        z = rng.standard_normal(size)
        return (np.where(good, shift + width * z, z) - mean) / deviation

    def cdf(x: Any) -> Any:
        raw = mean + deviation * np.asarray(x)
        return (1 - share) * stats.norm.cdf(raw) + share * stats.norm.cdf((raw - shift) / width)

    return Family("mixture", draw, cdf)


FAMILIES: dict[str, Family] = {
    family.name: family
    for family in (
        from_scipy("gaussian", stats.norm()),
        from_scipy("gumbel", stats.gumbel_r()),
        from_scipy("exponential", stats.expon()),
        from_scipy("beta(2,5)", stats.beta(2, 5)),
        from_scipy("beta(5,2)", stats.beta(5, 2)),
        from_scipy("student-t(5)", stats.t(5)),
        _mixture(),
    )
}
"""Gaussian, skewed, exponential, bounded with either skew, heavy-tailed, and two-component."""
