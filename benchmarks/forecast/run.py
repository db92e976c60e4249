"""Back-test of the best-of-N forecasts: hide all but m of 4,096 samples per prompt, forecast N = 128 and 512, compare.

python benchmarks/forecast/run.py                       # the synthetic families; about 10 minutes on one core
python benchmarks/forecast/run.py --rewards NAME=FILE    # and real rewards: (P, n) files that `tea forecast` reads
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy import special
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.families import FAMILIES
from benchmarks.record import describe, environment, replace_section, table, write_json
from tea.bestofn import backtest, forecast_best_of_n
from tea.bestofn.forecast import Forecast
from tea.rollouts import read_rewards

HERE = Path(__file__).resolve().parent
SIZES, NS = (16, 32, 64), (128, 512)
OURS = ("auto", "generalized-normal", "gpd", "gaussian", "ladder", "exponential")
PREDECESSOR = "predecessor"


def predecessor(sample: Any, ns: Any) -> Any:
    """The Gaussian plug-in in use so far: the top 20 %, and Phi^{-1}(1 - 1/N) in place of c_N."""
    m = sample.shape[1]
    count = max(int(np.ceil(0.2 * m)), 2)
    z = -float(special.ndtri(0.2))
    h = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi) / 0.2
    s = np.sqrt(1 + z * h - h**2)
    tail = np.sort(sample, axis=1)[:, m - count :]
    factor = (-special.ndtri(1.0 / np.asarray(ns)) - h) / s
    return tail.mean() + factor * tail.std(axis=1, ddof=1).mean()


def methods() -> dict[str, Any]:
    """Name -> function of (sample, ns), for :func:`tea.bestofn.backtest`."""

    def by_name(name: str) -> Any:
        def run(sample: Any, ns: Any) -> Forecast:
            return forecast_best_of_n(sample, ns, method=name)  # type: ignore[arg-type]

        return run

    return {**{name: by_name(name) for name in OURS}, PREDECESSOR: predecessor}


def demo_rewards(directory: Path, prompts: int, samples: int) -> dict[str, Any]:
    """Reward-model rewards of the demo's policies on its held-out prompts; kept beside them, resumed if cut short."""
    from tea.demo import task
    from tea.rewards import RewardModel
    from tea.rollouts import SamplingConfig, TransformersGenerator, evaluate

    rewards = {}
    for policy in ("base", "grpo", "tea"):
        run = evaluate(
            TransformersGenerator(str(directory / policy), device="cpu"),
            task.split_prompts(64)[1][:prompts],
            RewardModel(str(directory / "reward_model"), name="reward_model", batch_size=4096, device="cpu"),
            output_dir=directory / f"forecast_{policy}",
            config=SamplingConfig(num_samples=samples, max_completion_length=task.MAX_INGREDIENTS, seed=0),
        )
        assert run is not None  # one process, one reward
        rewards[f"demo {policy}"] = run.rewards["reward_model"]
    return rewards


def main() -> None:
    """Run the back-test and write results.json and the README tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--population", type=int, default=256, help="prompts per family")
    parser.add_argument("--prompts", type=int, default=64, help="prompts per draw")
    parser.add_argument("--samples", type=int, default=4096)
    parser.add_argument("--rewards", action="append", default=[], help="NAME=FILE, real rewards to back-test on too")
    parser.add_argument("--demo", type=Path, help="directory of one seed of the demo, to back-test on its models too")
    parser.add_argument("--demo-prompts", type=int, default=32, help="held-out prompts of the demo")
    parser.add_argument("--no-write", action="store_true", help="print only")
    arguments = parser.parse_args()
    started = time.perf_counter()
    records: list[dict[str, Any]] = []
    sources: dict[str, Any] = {}
    for index, (name, family) in enumerate(FAMILIES.items()):
        rng = np.random.default_rng([arguments.seed, index])
        sources[name] = family.rewards(rng, arguments.population, arguments.samples)
    real = {}
    if arguments.demo is not None:
        real.update(demo_rewards(arguments.demo, arguments.demo_prompts, arguments.samples))
    for spec in arguments.rewards:
        name, _, path = spec.partition("=")
        real[name] = next(iter(read_rewards(path).rewards.values()))
    for name, matrix in real.items():
        # Errors are told in units of the standard deviation within prompts, as for the families.
        sources[name] = matrix / np.sqrt(matrix.var(axis=1, ddof=1).mean())
    for name, matrix in tqdm(sources.items()):
        found = backtest(
            matrix,
            NS,
            SIZES,
            methods=methods(),
            repeats=arguments.repeats,
            num_prompts=min(arguments.prompts, len(matrix)),
            seed=arguments.seed,
        )
        records += [{"rewards": name, **record} for record in found]
    provenance = environment()
    tables = summary(records)
    print(tables)
    if arguments.no_write:
        return
    result = {
        "seed": arguments.seed,
        "repeats": arguments.repeats,
        "population": arguments.population,
        "prompts": arguments.prompts,
        "samples": arguments.samples,
        "seconds": time.perf_counter() - started,
        "environment": provenance,
        "records": records,
    }
    write_json(HERE / "results.json", result)
    replace_section(HERE / "README.md", "results", tables + "\n\n" + describe(provenance))


def summary(records: list[dict[str, Any]]) -> str:
    """The README's tables."""
    names = list(dict.fromkeys(r["rewards"] for r in records))
    every = [*OURS, PREDECESSOR]
    cell = {(r["rewards"], r["num_samples"], r["n"], r["method"]): r for r in records}
    settings = [(m, n) for m in SIZES for n in NS]

    header = ["method", *(f"m={m}, N={n}" for m, n in settings), "coverage"]
    rows = []
    for method in every:
        chosen = [r for r in records if r["method"] == method]
        coverages = [r["coverage"] for r in chosen if r["coverage"] is not None]
        rows.append(
            [
                method,
                *(f"{np.mean([cell[name, m, n, method]['rmse'] for name in names]):.3f}" for m, n in settings),
                f"{np.mean(coverages):.0%}" if coverages else "none given",
            ]
        )
    parts = ["RMSE of the forecast, mean over all rewards:\n\n" + table(header, rows)]
    better = [
        cell[name, m, n, "auto"]["rmse"] < cell[name, m, n, PREDECESSOR]["rmse"] for name in names for m, n in settings
    ]
    parts.append(
        f"`auto` has the smaller RMSE than the predecessor in {sum(better)} of {len(better)} cells (rewards x m x N)."
    )
    for m, n in settings:
        rows = []
        for method in every:
            row = [method]
            for name in names:
                r = cell[name, m, n, method]
                covered = "" if r["coverage"] is None else f", {r['coverage']:.0%}"
                row.append(f"{r['bias']:+.2f} / {r['rmse']:.2f}{covered}")
            rows.append(row)
        parts.append(f"m = {m}, N = {n}: bias / RMSE, coverage\n\n" + table(["method", *names], rows))
    return "\n\n".join(parts)


if __name__ == "__main__":
    main()
