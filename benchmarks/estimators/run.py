r"""Bias, spread and direction of every estimator's gradient, where the true gradient of best-of-N is known.

python -m benchmarks.estimators.run            # about 25 minutes on one core; writes results.json and the README
python -m benchmarks.estimators.run --quick    # about 3 minutes, prints only
python -m benchmarks.estimators.run --only ladder   # measures these rows, on the same rewards, and keeps the rest

A response is a latent x ~ N(mu, sigma^2), its reward g(x): the policy's parameters are mu and log sigma, with scores
x and x^2 - 1 at (0, 1), and every reward distribution is one g. The truth is the gradient of E[max of N of g(x)] by
quadrature. All in Fisher coordinates (the second component over sqrt 2). Estimates are averaged over 64 prompts,
which also are the batch that pooled estimators see.

- error: root mean square error of that average over the length of the truth, at the best step size. Scale is left out
  because a learning rate sets it: GRPO's advantages, say, are in units of their own.
- raw error: the same as it comes, for those that estimate the gradient itself; bias and std (of one prompt) likewise.
- cosine: of the expected gradient with the truth.
- SNR: the component of the expected gradient along the truth, over the root mean square of the advantages, which is
  what matters when the score has many dimensions; SNR2: over the standard deviation of that component itself.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import special, stats
from tqdm import tqdm

import tea
from benchmarks.record import describe, environment, replace_section, table, write_json

HERE = Path(__file__).resolve().parent
PROMPTS = 64
SIZES = (8, 16, 32, 64)
TARGETS = (32, 128, 512)
BLOCKS = 10
CLIP = 2.0

GRID = np.linspace(-9.0, 9.0, 72001)
STEP = GRID[1] - GRID[0]


def _through(quantile: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda x: quantile(np.clip(special.ndtr(x), 1e-16, 1.0 - 1e-16))


def _mixture(x: Any) -> Any:
    """85 % N(0, 1), 15 % N(2.5, 0.25)."""
    r = np.linspace(-9.5, 9.5, 40001)
    return np.interp(special.ndtr(x), 0.85 * special.ndtr(r) + 0.15 * special.ndtr((r - 2.5) / 0.5), r)


def _student(x: Any) -> Any:
    """Both tails from their own side, where probabilities keep their digits."""
    return np.sign(x) * stats.t(5).isf(special.ndtr(-np.abs(x)))


REWARDS: dict[str, Callable[[Any], Any]] = {
    "gaussian": lambda x: x,
    "gumbel": _through(stats.gumbel_r.ppf),
    "exponential": lambda x: -special.log_ndtr(-x),
    "beta(2,5)": _through(stats.beta(2, 5).ppf),
    "beta(5,2)": _through(stats.beta(5, 2).ppf),
    "student-t(5)": _student,
    "mixture": _mixture,
    "rounded": lambda x: np.round(2.0 * x) / 2.0,
    "clipped": lambda x: np.minimum(x, CLIP),
}


def true_gradient(reward: Callable[[Any], Any], n: int) -> np.ndarray:
    """Gradient of E[max of n] in (mu, log sigma): g against the derivative of the maximum's density, by quadrature."""
    values = reward(GRID)
    log_density = -0.5 * GRID**2 - 0.5 * math.log(2 * math.pi)
    log_cdf = special.log_ndtr(GRID)
    density = n * np.exp(log_density + (n - 1) * log_cdf)
    slope = -GRID * density + n * (n - 1) * np.exp(2 * log_density + (n - 2) * log_cdf)
    gradient = np.array([-(values * slope).sum(), -(values * (density + GRID * slope)).sum()]) * STEP
    return gradient / np.array([1.0, math.sqrt(2.0)])


def peers(m: int, n: int) -> dict[str, Any]:
    """What others have: name in the tables -> estimator."""
    return {
        "grpo": tea.get_estimator("grpo"),
        "dr_grpo": tea.get_estimator("dr_grpo"),
        "rloo": tea.get_estimator("rloo"),
        "max_at_k, k=4": tea.get_estimator("max_at_k", k=4),
        "max_at_k, k=m/2": tea.get_estimator("max_at_k", k=m // 2),
        "max_at_k, k=m": tea.get_estimator("max_at_k", k=m),
        "max_po, k=m/2": tea.get_estimator("max_po", k=m // 2),
        "max_po, k=m-1": tea.get_estimator("max_po", k=m - 1),
        "order_stat, top 2 of m/2": tea.get_estimator("order_stat", rank_weights=[0.5, 0.5] + [0.0] * (m // 2 - 2)),
        "bon_max_mean": tea.get_estimator("bon_max_mean"),
        "bon_max_second": tea.get_estimator("bon_max_second"),
        "cat_bon": tea.get_estimator("cat_bon", target_n=n),
        "rs_grpo": tea.get_estimator("rs_grpo"),
        "tail_rl": tea.get_estimator("tail_rl"),
    }


def ours(m: int, n: int) -> dict[str, Any]:
    """The published tail estimators and ours."""
    return {
        "tea": tea.get_estimator("tea", target_n=n),
        "tea, monotone": tea.get_estimator("tea", target_n=n, monotone=True),
        "tea, auto": tea.get_estimator("tea", target_n=n, tail_fraction="auto", tail="auto"),
        "tea, auto, monotone": tea.get_estimator("tea", target_n=n, tail_fraction="auto", tail="auto", monotone=True),
        "prefix_tea": tea.get_estimator("prefix_tea", target_n=n),
        "ladder": tea.get_estimator("ladder", target_n=n),
        "eb_bon": tea.get_estimator("eb_bon", target_n=n),
        "ladder (2,4), unprojected": tea.get_estimator("ladder", target_n=n, rungs=[2, 4], monotone=False),
        "ladder 2..m, unprojected": tea.get_estimator("ladder", target_n=n, rungs=range(2, m + 1), monotone=False),
    }


FREE_OF_N = {
    "max_po, k=m/2",
    "max_po, k=m-1",
    "grpo",
    "dr_grpo",
    "rloo",
    "order_stat, top 2 of m/2",
    "bon_max_mean",
    "bon_max_second",
    "rs_grpo",
    "tail_rl",
}
UNSCALED = {"grpo", "rs_grpo", "tail_rl", "bon_max_mean", "bon_max_second", "dr_grpo", "rloo"}


def gradients(estimator: Any, rewards: torch.Tensor, latent: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Per batch of 64 prompts: mean and mean square of the gradient's components, and mean square advantage."""
    means, squares = [], []
    for r, x in zip(rewards.split(PROMPTS), latent.split(PROMPTS), strict=True):
        advantages = estimator(r)
        gradient = torch.stack(((advantages * x).mean(1), (advantages * (x * x - 1)).mean(1) / math.sqrt(2.0)), 1)
        means.append(gradient.mean(0))
        squares.append(
            torch.cat(
                ((gradient**2).mean(0), (gradient[:, :1] * gradient[:, 1:]).mean(0), (advantages**2).mean().reshape(1))
            )
        )
    return torch.stack(means).numpy(), torch.stack(squares).numpy()


def measure(means: np.ndarray, squares: np.ndarray, truth: np.ndarray) -> dict[str, float]:
    """The measures of the module docstring, from batches."""
    length = float(np.linalg.norm(truth))
    unit = truth / length
    mean, second = means.mean(0), squares.mean(0)
    along = float(mean @ unit)
    power = float((means**2).sum(1).mean())
    variance = second[:2] - mean**2
    covariance = second[2] - mean[0] * mean[1]
    spread_along = variance @ unit**2 + 2 * unit[0] * unit[1] * covariance
    return {
        "error": math.sqrt(max(0.0, 1.0 - np.sign(along) * along**2 / power)) if power > 0 else 1.0,
        "raw_error": math.sqrt(float(((means - truth) ** 2).sum(1).mean())) / length,
        "bias": float(np.linalg.norm(mean - truth)) / length,
        "std": math.sqrt(float(variance.sum())) / length,
        "cosine": along / float(np.linalg.norm(mean)) if power > 0 else 0.0,
        "snr": along / math.sqrt(second[3]) if power > 0 else 0.0,
        "snr2": along / math.sqrt(spread_along) if spread_along > 0 else 0.0,
    }


def with_errors(means: np.ndarray, squares: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """The measures, each with its Monte-Carlo standard error by the jackknife over blocks of batches."""
    value = measure(means, squares, truth)
    index = np.arange(len(means)) % BLOCKS
    left_out = [measure(means[index != b], squares[index != b], truth) for b in range(BLOCKS)]
    return {
        key: {
            "value": round(value[key], 5),
            "standard_error": round(math.sqrt((BLOCKS - 1) * np.var([x[key] for x in left_out])), 5),
        }
        for key in value
    }


def saturated(name: str, n: int) -> bool:
    """Clipped rewards whose maximum is all but always the clip have no gradient to estimate."""
    return name == "clipped" and special.ndtr(CLIP) ** n < 0.01


def quality(
    sizes: tuple[int, ...], batches: int, seed: int, only: Collection[str] | None = None
) -> list[dict[str, Any]]:
    """One record for each size, target, reward distribution and estimator, or for ``only`` those."""
    records = []
    work = [(m, name) for m in sizes for name in REWARDS]
    for m, name in tqdm(work, desc="estimator quality"):
        latent = torch.from_numpy(np.random.default_rng([seed, m]).standard_normal((batches * PROMPTS, m)))
        rewards = torch.from_numpy(np.ascontiguousarray(REWARDS[name](latent.numpy())))
        once: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for n in TARGETS:
            if saturated(name, n):
                continue
            truth = true_gradient(REWARDS[name], n)
            for kind, estimators in (("peer", peers(m, n)), ("ours", ours(m, n))):
                for label, estimator in estimators.items():
                    if only is not None and label not in only:
                        continue
                    free = label in FREE_OF_N or label.startswith("max_at_k")
                    found = once.get(label) if free else None
                    if found is None:
                        found = gradients(estimator, rewards, latent)
                    if free:
                        once[label] = found
                    record = {"m": m, "n": n, "rewards": name, "estimator": label, "kind": kind}
                    values = with_errors(*found, truth)
                    if label in UNSCALED:
                        values = {k: v for k, v in values.items() if k not in ("raw_error", "bias", "std")}
                    records.append(record | values)
    return records


def bias_by_size(batches: int, seed: int) -> list[dict[str, Any]]:
    """Norm of the bias on Gaussian rewards at N = 128, uncentred, as m grows (not in Fisher coordinates)."""
    truth = np.array([1.0, tea.expected_max_normal(128)])
    rows = []
    for m in tqdm((16, 32, 64, 128), desc="bias"):
        rng = np.random.default_rng([seed, m, 1])
        for label, options in (
            ("tea", {}),
            ("prefix_tea", {}),
            ("prefix_tea, shrinkage 0", {"shrinkage": 0.0}),
            ("ladder (2,4), unprojected", {"rungs": (2, 4), "monotone": False}),
        ):
            estimator = tea.get_estimator(label.split(",")[0].split(" ")[0], target_n=128, center=False, **options)
            blocks = []
            for _ in range(batches):
                x = torch.from_numpy(rng.standard_normal((2000, m)))
                a = estimator(x)
                blocks.append(torch.stack(((a * x).mean(1), (a * (x * x - 1)).mean(1)), 1))
            gradient = torch.cat(blocks).numpy()
            bias = gradient.mean(0) - truth
            error = gradient.std(0) / math.sqrt(len(gradient))
            norm = float(np.linalg.norm(bias))
            rows.append(
                {
                    "estimator": label,
                    "m": m,
                    "bias": norm,
                    "standard_error": float(np.sqrt(((bias * error) ** 2).sum()) / norm),
                    "std": float(np.linalg.norm(gradient.std(0))),
                }
            )
    return rows


def verdicts(records: list[dict[str, Any]], label: str) -> list[dict[str, Any]]:
    """For each (m, N, distribution): the named one of ours against the best peer, in `error`."""
    rows = []
    for mine in (r for r in records if r["estimator"] == label):
        same = [r for r in records if r["kind"] == "peer" and all(r[k] == mine[k] for k in ("m", "n", "rewards"))]
        best = min(same, key=lambda r: r["error"]["value"])
        difference = mine["error"]["value"] - best["error"]["value"]
        noise = math.hypot(mine["error"]["standard_error"], best["error"]["standard_error"])
        rows.append(
            {
                "m": mine["m"],
                "n": mine["n"],
                "rewards": mine["rewards"],
                "best_peer": best["estimator"],
                "difference": difference,
                "verdict": "tie" if abs(difference) < 2 * noise else "better" if difference < 0 else "worse",
            }
        )
    return rows


def report(result: dict[str, Any]) -> str:
    """The README's tables."""
    records = result["quality"]
    found = {(r["m"], r["n"], r["rewards"], r["estimator"]): r for r in records}
    labels = list(dict.fromkeys(r["estimator"] for r in records))
    parts = []
    for m, n in ((16, 128), (8, 128), (64, 512)):
        names = [name for name in REWARDS if (m, n, name, labels[0]) in found]
        best = {name: min(found[m, n, name, label]["error"]["value"] for label in labels) for name in names}
        rows = []
        for label in labels:
            cells = []
            for name in names:
                error = found[m, n, name, label]["error"]
                cell = f"{error['value']:.2f}±{error['standard_error']:.2f}"
                cells.append(f"**{cell}**" if error["value"] <= best[name] + 2 * error["standard_error"] else cell)
            gaussian = found[m, n, "gaussian", label]
            rows.append([label, *cells, f"{gaussian['cosine']['value']:.2f}", f"{gaussian['snr']['value']:.2f}"])
        header = ["estimator", *names, "cosine, gaussian", "SNR, gaussian"]
        parts.append(f"### m = {m}, N = {n}: error at the best step size\n\n" + table(header, rows))
    rows = []
    for label in ("tea", "tea, monotone", "tea, auto", "ladder", "eb_bon", "prefix_tea"):
        for m in sorted({r["m"] for r in records}):
            cells = []
            for n in TARGETS:
                some = [v["verdict"] for v in verdicts(records, label) if v["m"] == m and v["n"] == n]
                cells.append(" / ".join(str(some.count(word)) for word in ("better", "tie", "worse")))
            rows.append([label, str(m), *cells])
    parts.append(
        "### Against the best peer of each distribution, better / tie / worse in number of distributions\n\n"
        "The best peer is chosen with hindsight, for each distribution by itself.\n\n"
        + table(["estimator", "m", *(f"N = {n}" for n in TARGETS)], rows)
    )
    rows = []
    for label in dict.fromkeys(r["estimator"] for r in result["bias"]):
        some = [r for r in result["bias"] if r["estimator"] == label]
        rows.append([label, *(f"{r['bias']:.3f}±{r['standard_error']:.3f} ({r['std']:.1f})" for r in some)])
    parts.append(
        "### Norm of the bias on Gaussian rewards, N = 128, uncentred (standard deviation of one prompt)\n\n"
        + table(["estimator", *(f"m = {m}" for m in (16, 32, 64, 128))], rows)
    )
    again = [f"{label}: commit {found['commit']}" for label, found in result.get("measured_again", {}).items()]
    if again:
        parts.append(f"Measured later, on the same rewards: {'; '.join(again)}.")
    return "\n\n".join([*parts, describe(result["environment"])])


def _identity(record: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(record[key] for key in ("m", "n", "rewards", "estimator"))


def main() -> None:
    """Run and write, or print with --quick."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer batches, m = 16 only, nothing written")
    parser.add_argument(
        "--batches", type=int, default=200, help="batches of 64 prompts at m = 16; others in proportion"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--only",
        nargs="+",
        metavar="ESTIMATOR",
        help="rows to measure, again or for the first time, as the tables call them",
    )
    arguments = parser.parse_args()
    started, found = time.perf_counter(), environment()
    if arguments.quick:
        result = {"quality": quality((16,), 40, arguments.seed), "bias": bias_by_size(2, arguments.seed)}
        for row in verdicts(result["quality"], "tea, auto"):
            print(row)
        return
    known = [*peers(16, 128), *ours(16, 128)]
    for label in arguments.only or ():
        if label not in known:
            parser.error(f"--only: no row is called {label!r}, there are {', '.join(known)}")
    records = []
    for m in SIZES:
        records += quality((m,), max(arguments.batches * 16 // m, 60), arguments.seed, arguments.only)
    if arguments.only:
        result = json.loads((HERE / "results.json").read_text(encoding="utf-8"))
        if result["seed"] != arguments.seed:
            parser.error(f"--seed must be that of results.json, {result['seed']}, got {arguments.seed}")
        new = {_identity(record): record for record in records}
        result["quality"] = [new.pop(_identity(record), record) for record in result["quality"]] + [*new.values()]
        result.setdefault("measured_again", {}).update(dict.fromkeys(arguments.only, found))
        write_json(HERE / "results.json", result)
        replace_section(HERE / "README.md", "results", report(result))
        return
    result = {
        "seed": arguments.seed,
        "quality": records,
        "bias": bias_by_size(25, arguments.seed),
        "seconds": round(time.perf_counter() - started),
        "environment": found,
    }
    write_json(HERE / "results.json", result)
    replace_section(HERE / "README.md", "results", report(result))


if __name__ == "__main__":
    main()
