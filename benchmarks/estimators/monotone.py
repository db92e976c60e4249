"""What does monotonicity cost? The best nondecreasing advantages for best-of-N under a Gaussian, exactly.

python -m benchmarks.estimators.monotone       # a second; deterministic quadrature, no sampling

With rewards N(0, 1) and any number of rollouts, the unbiased advantage of smallest mean square is the quadratic
x + c_N / 2 (x^2 - 1), which falls below its vertex. Among nondecreasing functions, those that trade cosine against
signal best are its isotonic regressions: constant up to a threshold t, where the quadratic's mean below t equals its
value at t, and the quadratic above. One curve, by t; max@k for comparison, which is nondecreasing too.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import optimize, special

import tea
from benchmarks.record import table

X = np.linspace(-12.0, 12.0, 24001)
STEP = X[1] - X[0]
DENSITY = np.exp(-0.5 * X**2) / math.sqrt(2.0 * math.pi)


def hinge(t: float) -> np.ndarray:
    """The isotonic regression, under N(0, 1), of the quadratic that it pools up to t."""
    ratio = math.exp(-0.5 * t * t - special.log_ndtr(t)) / math.sqrt(2.0 * math.pi)
    vertex = (t * t + t * ratio - 1.0) / (2.0 * (t + ratio))
    return np.where(t < X, (X - t) * (X + t - 2.0 * vertex), 0.0)


def moments(advantage: np.ndarray) -> np.ndarray:
    """Gradient in Fisher coordinates (mu, log sigma), and the root mean square of the centred advantage."""
    mean = (advantage * DENSITY).sum() * STEP
    location = (advantage * X * DENSITY).sum() * STEP
    scale = (advantage * (X**2 - 1.0) * DENSITY).sum() * STEP / math.sqrt(2.0)
    return np.array([location, scale, math.sqrt((advantage**2 * DENSITY).sum() * STEP - mean**2)])


def cosine_and_snr(advantage: np.ndarray, n: int) -> tuple[float, float]:
    """Cosine to the gradient of best-of-n, and signal over the root mean square of the advantage."""
    truth = np.array([1.0, tea.expected_max_normal(n) / math.sqrt(2.0)])
    location, scale, size = moments(advantage)
    along = np.array([location, scale]) @ truth / np.linalg.norm(truth)
    return float(along / np.hypot(location, scale)), float(along / size)


def main() -> None:
    """Print the table."""
    rows = []
    for n in (32, 128, 512):

        def excess(t: float, n: int = n) -> float:
            location, scale, _ = moments(hinge(t))
            return scale * math.sqrt(2.0) / location - tea.expected_max_normal(n)

        unbiased = optimize.brentq(excess, -6.0, 6.0)
        for label, advantage in (
            *((f"hinge, t = {t}", hinge(t)) for t in (0.0, 0.5, 1.0, 1.5)),
            (f"hinge, t = {unbiased:.2f}: unbiased", hinge(unbiased)),
            *((f"max@{k}", np.cumsum(k * special.ndtr(X) ** (k - 1)) * STEP) for k in (4, 16, 64)),
        ):
            cosine, snr = cosine_and_snr(advantage, n)
            rows.append([str(n), label, f"{cosine:.3f}", f"{snr:.2f}"])
    print(table(["N", "advantage", "cosine", "SNR"], rows))


if __name__ == "__main__":
    main()
