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

# Normal scores on which expectations of maxima are integrated. At 10 the upper tail is 1e-23: enough for N = 1e12.
_SCORES = np.arange(-10.0, 10.0 + 1e-9, 0.01)
_LOG_CDF = special.log_ndtr(_SCORES)
_LOG_TAIL = special.log_ndtr(-_SCORES)
_DENSITY = np.exp(-0.5 * _SCORES**2) / np.sqrt(2 * np.pi) * 0.01
_HALF_TAIL = np.clip(2.0 * special.ndtr(-np.abs(_SCORES)), 1e-300, 1.0)
MAX_N = 10**12


def normal_curve(ns: Any) -> FloatArray:
    """c_N = E[max of N standard normals]; (K,).

    The same numbers as :func:`tea.expected_max_normal`, which a command line that only reads a file of rewards would
    have to import torch for.
    """
    return _expected_max(ns, _SCORES)


def _expected_max(ns: Any, quantiles: FloatArray) -> FloatArray:
    """E[max of N] of the distribution with these values at the normal scores: integral of q(z) N phi Phi^(N-1) dz."""
    n = np.atleast_1d(np.asarray(ns, dtype=np.float64))[:, None]
    return np.asarray((n * _DENSITY * np.exp((n - 1.0) * _LOG_CDF)) @ quantiles)


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
    return _expected_max(ns, _generalized_normal_quantiles(log_power))


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
    "generalized-normal", tuple(np.linspace(np.log(0.35), np.log(200.0), 73).tolist()), float(np.log(2.0)), 0.8
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


def default_rungs(num_samples: int) -> tuple[int, int, int]:
    """{n/4, n/2, n}: the tail that matters, and one rung more than location and scale need."""
    return max(1, num_samples // 4), max(2, num_samples // 2), num_samples


def fit_shape(ordered: FloatArray, family: ShapeFamily) -> ShapePosterior:
    """Infer the shape that all prompts share from the mean of their unbiased V_k at three rungs.

    Three rungs and a shape leave one contrast of V that has mean zero if the shape is right: its likelihood, times the
    prior, is the posterior. Given the shape, location and scale by generalised least squares with the covariance that
    V at the rungs has for Gaussian rewards: weights that the data do not touch keep the estimate unbiased under the
    shape. All variances within prompts are those of the shape in question, times the mean square of the prompts'
    scales: a heavy tail is not ruled out because its rare samples, and with them much of the scatter, are missing.

    Args:
        ordered: (P, n) rewards sorted ascending, P >= 2, n >= 4.
        family: shape family with its prior.
    """
    num_prompts, num_samples = ordered.shape
    rungs = default_rungs(num_samples)
    at_rungs = ordered @ order_weights(num_samples, rungs).T
    mean = at_rungs.mean(axis=0)
    within = ordered.var(axis=1, ddof=1)
    table = family.curves(rungs)  # (G, 3)
    reference = _reference(family.name, family.grid, num_samples, rungs)
    design = np.stack([np.ones_like(table), table], axis=2)  # (G, 3, 2)
    precision = np.linalg.inv(_gaussian_covariance(num_samples, rungs))
    normal = np.einsum("gri,rs,gsj->gij", design, precision, design)
    coefficients = np.einsum("gij,gsj,sr->gir", np.linalg.inv(normal), design, precision)
    fitted = coefficients @ mean

    # Mean square scale of the prompts under each shape, and the covariance of V that it implies.
    square_scale = within.mean() / reference.variance
    covariance = square_scale[:, None, None] * reference.covariance / num_prompts
    spread = np.einsum("gir,grs,gjs->gij", coefficients, covariance, coefficients)
    between = _between(ordered, within, reference, num_samples) / num_prompts

    contrast = table[:, [2, 0, 1]] - table[:, [1, 2, 0]]  # orthogonal to 1 and to t
    variance = np.einsum("gr,grs,gs->g", contrast, covariance, contrast)
    # A shape that implies several times the scatter over prompts is not in the data's favour for it.
    empirical = np.cov(at_rungs, rowvar=False) / num_prompts
    variance = np.minimum(variance, 3.0 * np.einsum("gr,rs,gs->g", contrast, empirical, contrast))
    variance = np.maximum(variance, 1e-24 * (contrast**2).sum(axis=1) * max(float(np.abs(mean).max()) ** 2, 1e-280))
    misfit = (contrast @ mean) ** 2 / variance
    grid = np.asarray(family.grid)
    log_prior = -0.5 * ((grid - family.prior_mean) / family.prior_std) ** 2
    log_weight = log_prior - 0.5 * (num_prompts * np.log1p(misfit / num_prompts) + np.log(variance))
    # The contrast's length depends on the shape; the density is that of the contrast of unit length in the metric of V.
    log_weight += 0.5 * np.log(np.einsum("gr,rs,gs->g", contrast, np.linalg.inv(precision), contrast))
    log_weight = np.where(fitted[:, 1] > 0, log_weight, -np.inf)
    if not np.isfinite(log_weight).any():  # no spread at all: every shape says the same
        log_weight = log_prior
    weights = np.exp(log_weight - log_weight.max())
    return ShapePosterior(family, weights / weights.sum(), rungs, coefficients, spread + between, num_prompts - 1)


def _between(ordered: FloatArray, within: FloatArray, reference: _Reference, n: int) -> FloatArray:
    """Covariance over prompts of their locations and scales under each shape; (G, 2, 2).

    From the prompts' means and standard deviations, less what n samples of the shape put into those.
    """
    scale = np.sqrt(within)[:, None] / np.sqrt(reference.variance)  # (P, G)
    location = ordered.mean(axis=1)[:, None] - scale * reference.mean
    centred = np.stack([location - location.mean(axis=0), scale - scale.mean(axis=0)], axis=2)  # (P, G, 2)
    total = np.einsum("pgi,pgj->gij", centred, centred) / (len(ordered) - 1)
    square = within.mean() / reference.variance
    of_scale = square * np.minimum((reference.kurtosis - 1) / (4 * n), 0.25)
    of_mean = square * reference.variance / n
    noise = np.empty_like(total)
    noise[:, 1, 1] = of_scale
    noise[:, 0, 1] = noise[:, 1, 0] = -reference.mean * of_scale
    noise[:, 0, 0] = of_mean + reference.mean**2 * of_scale
    values, vectors = np.linalg.eigh(total - noise)
    return np.asarray(np.einsum("gik,gk,gjk->gij", vectors, np.maximum(values, 0.0), vectors))


@dataclass(frozen=True)
class _Reference:
    """Moments of a family with scale 1, per shape on its grid: of one sample, and of V at the rungs (G, 3, 3)."""

    mean: FloatArray
    variance: FloatArray
    kurtosis: FloatArray
    covariance: FloatArray


@lru_cache(maxsize=32)
def _reference(name: str, grid: tuple[float, ...], n: int, rungs: tuple[int, ...]) -> _Reference:
    """Simulated with a fixed seed and common random numbers at every third shape, interpolated between."""
    shapes = np.asarray(grid)
    nodes = np.unique(np.append(shapes[::3], shapes[-1]))
    cell, fraction, log_tail = _normal_groups(n)
    weights = order_weights(n, rungs).T
    moments, covariances = [], []
    for shape in nodes.tolist():
        if name == "generalized-normal":
            quantiles = _generalized_normal_quantiles(shape)
            values = quantiles[cell] + fraction * np.diff(quantiles)[cell]
        else:
            quantiles, values = _pareto_quantiles(_LOG_TAIL, shape), _pareto_quantiles(log_tail, shape)
        mean = float(_DENSITY @ quantiles)
        variance = float(_DENSITY @ (quantiles - mean) ** 2)
        moments.append([mean, variance, float(_DENSITY @ (quantiles - mean) ** 4) / variance**2])
        covariances.append(np.cov(values.reshape(-1, n) @ weights, rowvar=False))
    of_node = np.asarray(moments)
    stacked = np.log(np.maximum(np.asarray(covariances), 1e-300))  # maxima of nested subsets correlate positively

    def spread(values: FloatArray) -> FloatArray:
        return np.asarray(np.interp(shapes, nodes, values))

    covariance = np.exp(
        np.stack([np.stack([spread(stacked[:, i, j]) for j in range(3)], axis=1) for i in range(3)], axis=1)
    )
    return _Reference(
        spread(of_node[:, 0]), np.exp(spread(np.log(of_node[:, 1]))), np.exp(spread(np.log(of_node[:, 2]))), covariance
    )


@lru_cache(maxsize=4)
def _normal_groups(n: int) -> tuple[Any, FloatArray, FloatArray]:
    """Sorted groups of n standard normals, flat: where each lies on the grid of scores, and its log upper tail."""
    groups = max(500, min(4_000, 256_000 // n))
    scores = np.sort(np.random.default_rng(1).standard_normal((groups, n)), axis=1).ravel()
    position = (scores - _SCORES[0]) / 0.01
    cell = position.astype(np.int64)
    return cell, position - cell, special.log_ndtr(-scores)


def _pareto_quantiles(log_tail: FloatArray, shape: float) -> FloatArray:
    return -log_tail if abs(shape) < 1e-6 else np.asarray(np.expm1(-shape * log_tail) / shape)


@lru_cache(maxsize=64)
def _gaussian_covariance(n: int, rungs: tuple[int, ...]) -> FloatArray:
    """Covariance of V at the rungs for n standard normals; simulated with a fixed seed, since only weights need it."""
    rng = np.random.default_rng(0)
    groups = max(1_000, min(20_000, 2_000_000 // n))
    weights = order_weights(n, rungs).T
    blocks = [np.sort(rng.standard_normal((250, n)), axis=1) @ weights for _ in range(groups // 250)]
    return np.asarray(np.cov(np.concatenate(blocks), rowvar=False))
