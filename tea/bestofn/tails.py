r"""Tail families as location-scale curves: E[max of N] = a + b * t_N(shape).

If the rewards of every prompt have one shape and each prompt its own location and scale, the mean curve over prompts
has the same form: the shape can be fitted to the mean curve, which is known far more precisely than any one prompt's.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import special

from tea.bestofn._inputs import FloatArray
from tea.bestofn.curve import order_weights
from tea.estimators.normal import expected_max_normal

# Normal scores on which expectations of maxima are integrated. At 9 the upper tail is 1e-19: enough for N = 1e12.
_SCORES = np.arange(-9.0, 9.0 + 1e-9, 0.01)
_LOG_CDF = special.log_ndtr(_SCORES)
_DENSITY = np.exp(-0.5 * _SCORES**2) / np.sqrt(2 * np.pi) * 0.01
_HALF_TAIL = np.clip(2.0 * special.ndtr(-np.abs(_SCORES)), 1e-300, 1.0)
MAX_N = 10**12


def normal_curve(ns: Any) -> FloatArray:
    """c_N = E[max of N standard normals]; (K,)."""
    return np.asarray([expected_max_normal(int(n)) for n in np.atleast_1d(ns)])


def exponential_curve(ns: Any) -> FloatArray:
    """H_N = 1 + 1/2 + ... + 1/N, E[max of N standard exponentials]; (K,)."""
    return np.asarray(special.digamma(np.atleast_1d(ns) + 1.0) + np.euler_gamma)


def pareto_curve(ns: Any, shape: float) -> FloatArray:
    r"""E[max of N] of a generalised Pareto with scale 1: (N B(N, 1 - \xi) - 1) / \xi; (K,); shape \xi < 1.

    \xi = 0 is the exponential, \xi < 0 is bounded above by -1/\xi.
    """
    n = np.atleast_1d(np.asarray(ns, dtype=np.float64))
    if abs(shape) < 1e-6:
        return exponential_curve(n)
    log_ratio = special.gammaln(n + 1) + special.gammaln(1 - shape) - special.gammaln(n + 1 - shape)
    return np.asarray(np.expm1(log_ratio) / shape)


@lru_cache(maxsize=512)
def _generalized_normal_quantiles(log_power: float) -> FloatArray:
    power = np.exp(log_power)
    return np.asarray(np.sign(_SCORES) * special.gammainccinv(1.0 / power, _HALF_TAIL) ** (1.0 / power))


def generalized_normal_curve(ns: Any, log_power: float) -> FloatArray:
    r"""E[max of N] of the generalised normal, density ~ exp(-|x|^p), p = exp(log_power); (K,).

    p = 2 is Gaussian, p = 1 has exponential tails, p < 1 stretched exponential ones, large p is bounded (uniform).
    """
    n = np.atleast_1d(np.asarray(ns, dtype=np.float64))[:, None]
    weights = n * _DENSITY * np.exp((n - 1.0) * _LOG_CDF)
    return np.asarray(weights @ _generalized_normal_quantiles(log_power))


@dataclass(frozen=True)
class ShapeFamily:
    """A family with one shape parameter and a Gaussian prior on it.

    Attributes:
        name: for messages.
        grid: (G,) values of the parameter.
        prior_mean: of the parameter.
        prior_std: of the parameter; chosen wide, see benchmarks/forecast.
    """

    name: str
    grid: tuple[float, ...]
    prior_mean: float
    prior_std: float

    def curves(self, ns: tuple[int, ...]) -> FloatArray:
        """t_N for each value of the parameter; (G, K)."""
        return _shape_table(self.name, self.grid, ns)

    def describe(self, parameter: Any) -> Any:
        """The parameter on the scale that is reported."""
        return np.exp(parameter) if self.name == "generalized-normal" else parameter


@lru_cache(maxsize=256)
def _shape_table(name: str, grid: tuple[float, ...], ns: tuple[int, ...]) -> FloatArray:
    curve = generalized_normal_curve if name == "generalized-normal" else pareto_curve
    table = np.stack([curve(ns, shape) for shape in grid])
    table.setflags(write=False)
    return table


GENERALIZED_NORMAL = ShapeFamily(
    "generalized-normal", tuple(np.linspace(np.log(0.35), np.log(30.0), 60).tolist()), float(np.log(2.0)), 0.8
)
PARETO = ShapeFamily("gpd", tuple(np.linspace(-1.0, 0.6, 65).tolist()), -0.05, 0.15)


@dataclass(frozen=True)
class ShapePosterior:
    """The common shape of the tails, inferred from the mean curve at a few rungs.

    Attributes:
        family: which family.
        weights: (G,) posterior probability of each grid value.
        rungs: the k whose V_k were used.
        coefficients: (G, 2, R) per shape, the linear map from V at the rungs to location a and scale b.
        covariance: (G, 2, 2) per shape, of the mean (a, b) over prompts.
        dof: degrees of freedom of the covariance estimate, P - 1.
    """

    family: ShapeFamily
    weights: FloatArray
    rungs: tuple[int, ...]
    coefficients: FloatArray
    covariance: FloatArray
    dof: int

    def parameter(self, level: float) -> tuple[float, float, float]:
        """Posterior median and interval of the shape, as reported (the power p, or xi)."""
        grid = np.asarray(self.family.grid)
        # Each grid value stands for the interval half-way to its neighbours.
        cumulative = np.concatenate([[0.0], np.cumsum(self.weights)])
        edges = np.concatenate([[grid[0]], (grid[1:] + grid[:-1]) / 2, [grid[-1]]])
        low, middle, high = np.interp([0.5 - level / 2, 0.5, 0.5 + level / 2], cumulative, edges)
        return tuple(float(self.family.describe(value)) for value in (middle, low, high))  # type: ignore[return-value]


def default_rungs(num_samples: int) -> tuple[int, ...]:
    """{n/4, n/2, n}: the tail that matters, and one rung more than location and scale need."""
    return tuple(sorted({max(1, num_samples // 4), max(2, num_samples // 2), num_samples}))


def fit_shape(ordered: FloatArray, family: ShapeFamily, rungs: tuple[int, ...] | None = None) -> ShapePosterior:
    """Infer the shape that all prompts share from the mean of their unbiased V_k at the rungs.

    For each shape on the grid, location and scale by generalised least squares with the covariance of the mean curve
    (estimated over prompts); the posterior from the residual, as a Student-t likelihood, and the prior.

    Args:
        ordered: (P, n) rewards sorted ascending, P >= 2, n >= 4.
        family: shape family with its prior.
        rungs: increasing k, at least 3 of them, each at most n.
    """
    num_prompts, num_samples = ordered.shape
    rungs = rungs or default_rungs(num_samples)
    at_rungs = ordered @ order_weights(num_samples, rungs).T
    mean = at_rungs.mean(axis=0)
    covariance = np.cov(at_rungs, rowvar=False) / num_prompts
    # A ridge far below the sampling error, so that identical prompts do not make the inverse fail.
    scale = max(float(np.trace(covariance)) / len(rungs), 1e-12 * float(np.abs(mean).max()) ** 2, 1e-300)
    precision = np.linalg.inv(covariance + 1e-6 * scale * np.eye(len(rungs)))
    table = family.curves(rungs)
    design = np.stack([np.ones_like(table), table], axis=2)  # (G, R, 2)
    normal = np.einsum("gri,rs,gsj->gij", design, precision, design)
    inverse = np.linalg.inv(normal)
    coefficients = np.einsum("gij,gsj,sr->gir", inverse, design, precision)
    fitted = coefficients @ mean
    residual = mean - np.einsum("gri,gi->gr", design, fitted)
    misfit = np.einsum("gr,rs,gs->g", residual, precision, residual)
    grid = np.asarray(family.grid)
    log_weight = -0.5 * num_prompts * np.log1p(misfit / (num_prompts - 1))
    log_weight -= 0.5 * ((grid - family.prior_mean) / family.prior_std) ** 2
    log_weight = np.where(fitted[:, 1] > 0, log_weight, -np.inf)
    if not np.isfinite(log_weight).any():  # no spread at all: every shape says the same
        log_weight = -0.5 * ((grid - family.prior_mean) / family.prior_std) ** 2
    weights = np.exp(log_weight - log_weight.max())
    return ShapePosterior(family, weights / weights.sum(), rungs, coefficients, inverse, num_prompts - 1)
