r"""0/1 rewards: which prompts an estimator speaks for, exactly.

python -m benchmarks.estimators.binary   # a second; exact sums, no sampling; writes the section of README.md

Prompts differ in their success rate p ~ Beta(0.2, 1.5), and each has a parameter of its own, its log-odds. The
gradient of pass@N for it is w(p) p (1 - p) with the weight w(p) = N (1 - p)^(N-1). What an estimator has in its place,
from m rollouts: the expectation of the mean over rollouts of A_i (R_i - p), a sum over the number of successes
s ~ Bin(m, p).

- weight: that expectation over p (1 - p), at the best step size, beside the true one; all in units of w(0).
- cosine: of the expected gradient over all prompts with the true one. 1 is unbiased up to the step size.
- error: of one visit to every prompt, noise included, root mean square over the length of the truth, at the best step
  size; and of an average over 64 such prompts.
"""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from scipy import stats

import tea
from benchmarks.record import replace_section, table

README = Path(__file__).resolve().parent / "README.md"
SIZES = ((4, 128), (16, 128), (64, 512))
SHOWN = (0.001, 0.005, 0.02, 0.05, 0.2, 0.5)
# Equal shares of the prompts, at the middle of each.
RATES = stats.beta(0.2, 1.5).ppf((np.arange(20_000) + 0.5) / 20_000)


def estimators(m: int, n: int) -> dict[str, Callable[[torch.Tensor], torch.Tensor]]:
    """Those that look at one prompt alone, whose expectation is a sum of m + 1 terms."""
    return {
        "grpo": tea.get_estimator("grpo"),
        "dr_grpo": tea.get_estimator("dr_grpo"),
        "max_rl": tea.get_estimator("max_rl"),
        "rs_grpo": tea.get_estimator("rs_grpo"),
        "tail_rl": tea.get_estimator("tail_rl"),
        "bon_max_mean": tea.get_estimator("bon_max_mean"),
        "max_at_k, k=m": tea.get_estimator("max_at_k", k=m),
        "passk_binary, k=m/2": tea.get_estimator("passk_binary", k=m // 2),
        "pass_at_n": tea.get_estimator("pass_at_n", target_n=n),
        "pass_at_n, prior (0.2, 1.5)": tea.get_estimator("pass_at_n", target_n=n, prior=(0.2, 1.5)),
    }


def moments(estimator: Callable[[torch.Tensor], torch.Tensor], m: int, rates: np.ndarray) -> tuple[np.ndarray, ...]:
    """Mean and mean square of a prompt's gradient at each success rate, (len(rates),) each."""
    successes = np.arange(m + 1)
    rewards = torch.from_numpy((np.arange(m) < successes[:, None]).astype(np.float64))
    advantages = estimator(rewards).double().numpy()
    # The mean over rollouts of A (R - p), as a straight line in p.
    at_zero, slope = (advantages * rewards.numpy()).mean(1), -advantages.mean(1)
    likelihood = stats.binom.pmf(successes, m, rates[:, None])
    gradient = at_zero + slope * rates[:, None]
    return (likelihood * gradient).sum(1), (likelihood * gradient**2).sum(1)


def truth(rates: np.ndarray, n: int) -> np.ndarray:
    """The gradient of pass@n in each prompt's log-odds."""
    return n * np.exp((n - 1) * np.log1p(-rates)) * rates * (1 - rates)


def render() -> str:
    """The tables."""
    parts = []
    for m, n in SIZES:
        wanted = truth(RATES, n)
        shown = np.array(SHOWN)
        rows = [["the truth", *(f"{(1 - p) ** (n - 1):.3f}" for p in SHOWN), "1", "0", "0"]]
        for label, estimator in estimators(m, n).items():
            mean, square = moments(estimator, m, RATES)
            along = float((mean * wanted).mean())
            cosine = along / math.sqrt(float((mean**2).mean() * (wanted**2).mean()))
            spread = (square - mean**2).mean()
            errors = [
                math.sqrt(1 - along**2 / float(((mean**2).mean() + spread / k) * (wanted**2).mean())) for k in (1, 64)
            ]
            step = along / float((mean**2).mean())
            weights = step * moments(estimator, m, shown)[0] / (shown * (1 - shown)) / n
            rows.append([f"`{label}`", *(f"{w:.3f}" for w in weights), f"{cosine:.3f}", *(f"{e:.3f}" for e in errors)])
        header = ["estimator", *(f"weight at p = {p:g}" for p in SHOWN), "cosine", "error", "error of 64"]
        parts.append(f"### 0/1 rewards, m = {m}, N = {n}\n\n" + table(header, rows))
    return "\n\n".join(parts)


def main() -> None:
    """Write the section of the README."""
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that tail_rl has no tail here
        replace_section(README, "binary", render())


if __name__ == "__main__":
    main()
