"""Coverage of every interval that tea.bestofn reports, by simulation.

python -m benchmarks.coverage.run            # about 10 minutes on one core; writes results.json and the README table
python -m benchmarks.coverage.run --repeats 200 --no-write
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from scipy import special, stats
from tqdm import tqdm

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.families import FAMILIES, MEAN_SCALE, Family
from benchmarks.record import describe, environment, replace_section, table, write_json
from tea.bestofn import (
    best_of_n_curve,
    diagnose,
    fit_pass_at_n_law,
    forecast_best_of_n,
    paired_difference,
    pass_at_n,
)
from tea.bestofn.tails import generalized_normal_curve, pareto_curve

HERE = Path(__file__).resolve().parent
ACCEPTED = (0.93, 0.97)

Hit = dict[str, bool]
Case = Callable[[np.random.Generator], Hit]


def _hits(low: Any, high: Any, truth: Any, labels: list[str]) -> Hit:
    inside = (np.asarray(low) <= np.asarray(truth)) & (np.asarray(truth) <= np.asarray(high))
    return dict(zip(labels, inside.tolist(), strict=True))


def curve_over_prompts(family: Family, prompts: int, samples: int) -> Case:
    ns = [1, samples // 4, samples]
    truth = [family.truth(n) for n in ns]

    def case(rng: np.random.Generator) -> Hit:
        curve = best_of_n_curve(family.rewards(rng, prompts, samples), ns)
        return _hits(curve.ci_low, curve.ci_high, truth, [f"N={n}" for n in ns])

    return case


def curve_over_samples(family: Family, prompts: int, samples: int, ns: list[int]) -> Case:
    # These prompts are fixed: their locations and scales are drawn once.
    fixed = np.random.default_rng(1)
    location = fixed.standard_normal((prompts, 1))
    scale = np.exp(0.3 * fixed.standard_normal((prompts, 1)))
    truth = [float(location.mean() + scale.mean() * family.expected_max(n)) for n in ns]

    def case(rng: np.random.Generator) -> Hit:
        rewards = location + scale * family.draw(rng, (prompts, samples))
        curve = best_of_n_curve(rewards, ns, over="samples")
        return _hits(curve.ci_low, curve.ci_high, truth, [f"N={n}" for n in ns])

    return case


def selected_by_another(prompts: int, samples: int) -> Case:
    ns = [1, 4, 16]
    # Value = 0.6 score + 0.8 noise, both standard normal: E[value of the best of N] = 0.6 c_N.
    truth = [0.6 * FAMILIES["gaussian"].expected_max(n) for n in ns]

    def case(rng: np.random.Generator) -> Hit:
        score = rng.standard_normal((prompts, samples))
        value = 0.6 * score + 0.8 * rng.standard_normal((prompts, samples)) + rng.standard_normal((prompts, 1))
        hits = {}
        for over in ("prompts", "samples"):
            if over == "samples":
                value = 0.6 * score + 0.8 * rng.standard_normal((prompts, samples))
            curve = best_of_n_curve(select_by=score, value=value, ns=ns, over=over)
            hits.update(_hits(curve.ci_low, curve.ci_high, truth, [f"over {over}, N={n}" for n in ns]))
        return hits

    return case


def difference(prompts: int, samples: int) -> Case:
    ns = [1, samples // 2]
    gaussian = FAMILIES["gaussian"]
    truth = [0.2 + 0.3 * gaussian.expected_max(n) for n in ns]

    def case(rng: np.random.Generator) -> Hit:
        location = 3 * rng.standard_normal((prompts, 1))
        first = location + 0.2 + 1.3 * rng.standard_normal((prompts, samples))
        second = location + rng.standard_normal((prompts, samples))
        found = paired_difference(best_of_n_curve(first, ns), best_of_n_curve(second, ns))
        null = paired_difference(
            best_of_n_curve(location + rng.standard_normal((prompts, samples)), ns), best_of_n_curve(second, ns)
        )
        hits = _hits(found.ci_low, found.ci_high, truth, [f"N={n}" for n in ns])
        # The p-value's size: 1 - share of p <= 0.05 where there is no difference.
        return {
            **hits,
            **{f"p > 0.05 under no difference, N={n}": bool(p > 0.05) for n, p in zip(ns, null.p_value, strict=True)},
        }

    return case


def pass_rate(a: float, b: float, prompts: int, samples: int) -> Case:
    ns = [1, samples // 4, samples]
    truth = [1 - float(np.exp(special.betaln(a, b + n) - special.betaln(a, b))) for n in ns]

    def case(rng: np.random.Generator) -> Hit:
        correct = rng.random((prompts, samples)) < rng.beta(a, b, size=(prompts, 1))
        curve = pass_at_n(correct, ns)
        return _hits(curve.ci_low, curve.ci_high, truth, [f"N={n}" for n in ns])

    return case


def forecast(method: str, family: Family, prompts: int, samples: int, ns: tuple[int, ...] = (128, 512)) -> Case:
    truth = [family.truth(n) for n in ns]
    known = diagnose(family.rewards(np.random.default_rng(0), 4, samples))  # the verdict is not looked at

    def case(rng: np.random.Generator) -> Hit:
        rewards = family.rewards(rng, prompts, samples)
        found = forecast_best_of_n(rewards, ns, method=method, diagnostics=known)  # type: ignore[arg-type]
        return _hits(found.ci_low, found.ci_high, truth, [f"N={n}" for n in ns])

    return case


def forecast_over_shapes(method: str, prompts: int, samples: int) -> Case:
    """The shape is drawn from the prior in every repeat: what a posterior's interval promises."""
    ns = (128, 512)
    known = diagnose(np.random.default_rng(0).normal(size=(4, samples)))

    def case(rng: np.random.Generator) -> Hit:
        location = rng.standard_normal((prompts, 1))
        scale = np.exp(0.3 * rng.standard_normal((prompts, 1)))
        if method == "gpd":
            shape = float(rng.normal(-0.05, 0.15))
            draws, curve = stats.genpareto(shape).rvs((prompts, samples), random_state=rng), pareto_curve(ns, shape)
            interval = "xi_ci"
        else:
            shape = float(np.exp(rng.normal(np.log(2.0), 0.8)))
            draws = stats.gennorm(shape).rvs((prompts, samples), random_state=rng)
            curve = generalized_normal_curve(ns, np.log(shape))
            interval = "tail_power_ci"
        found = forecast_best_of_n(location + scale * draws, ns, method=method, diagnostics=known)  # type: ignore[arg-type]
        hits = _hits(found.ci_low, found.ci_high, MEAN_SCALE * curve, [f"N={n}" for n in ns])
        low, high = found.parameters[interval]
        return {**hits, "shape": bool(low <= shape <= high)}

    return case


def auto_over_families(prompts: int, samples: int) -> Case:
    cases = {name: forecast("auto", family, prompts, samples) for name, family in FAMILIES.items()}

    def case(rng: np.random.Generator) -> Hit:
        name = list(cases)[int(rng.integers(len(cases)))]
        return cases[name](rng)

    return case


def beta_binomial(a: float, b: float, prompts: int, samples: int) -> Case:
    ns = (128, 512)
    truth = [1 - float(np.exp(special.betaln(a, b + n) - special.betaln(a, b))) for n in ns]
    known = diagnose(np.eye(samples))

    def case(rng: np.random.Generator) -> Hit:
        correct = rng.random((prompts, samples)) < rng.beta(a, b, size=(prompts, 1))
        found = forecast_best_of_n(correct, ns, method="beta-binomial", diagnostics=known)
        return _hits(found.ci_low, found.ci_high, truth, [f"N={n}" for n in ns])

    return case


def power_law(prompts: int, samples: int) -> Case:
    """Truth: the law fitted to the population's exact pass@N at the same Ns."""
    a, b = 0.5, 2.0
    ns = np.asarray([2**i for i in range(int(np.log2(samples)))])
    exact = 1 - np.exp(special.betaln(a, b + ns) - special.betaln(a, b))
    design = np.stack([np.ones(len(ns)), -np.log(ns)], axis=1)
    log_a, slope = np.linalg.lstsq(design, np.log(-np.log(exact)), rcond=None)[0]

    def case(rng: np.random.Generator) -> Hit:
        law = fit_pass_at_n_law(rng.random((prompts, samples)) < rng.beta(a, b, size=(prompts, 1)))
        return {
            "a": bool(law["a_ci"][0] <= np.exp(log_a) <= law["a_ci"][1]),
            "b": bool(law["b_ci"][0] <= slope <= law["b_ci"][1]),
        }

    return case


def slopes(prompts: int, samples: int) -> Case:
    def case(rng: np.random.Generator) -> Hit:
        found = diagnose(FAMILIES["gaussian"].rewards(rng, prompts, samples))
        return {f"k={e['k']}": bool(e["ci_low"] <= 0 <= e["ci_high"]) for e in found.slopes}

    return case


def cases() -> Iterator[tuple[str, str, Case, float, bool]]:
    """Group, setting, case, share of the repeats, whether it may cover more than 97 % (said so in its docstring)."""
    for name in ("gaussian", "exponential", "student-t(5)"):
        for prompts in (20, 100):
            yield (
                "curve, over prompts",
                f"{name}, {prompts} x 64",
                curve_over_prompts(FAMILIES[name], prompts, 64),
                1,
                False,
            )
    for name in ("gaussian", "exponential", "beta(5,2)"):
        yield (
            "curve, over samples, 2N <= n",
            f"{name}, 50 x 64",
            curve_over_samples(FAMILIES[name], 50, 64, [1, 8, 32]),
            1,
            False,
        )
        yield (
            "curve, over samples, 2N > n (errs to the wide side)",
            f"{name}, 50 x 64",
            curve_over_samples(FAMILIES[name], 50, 64, [48, 64]),
            1,
            True,
        )
    yield "curve, value of what another score selects", "50 x 64", selected_by_another(50, 64), 1, False
    for prompts in (10, 50):
        yield "paired difference and its p-value", f"gaussian, {prompts} x 32", difference(prompts, 32), 1, False
    for a, b in ((1.0, 3.0), (0.5, 2.0)):
        for prompts in (50, 200):
            yield "pass@N, over prompts", f"beta({a:g},{b:g}), {prompts} x 32", pass_rate(a, b, prompts, 32), 1, False
    gaussian, exponential = FAMILIES["gaussian"], FAMILIES["exponential"]
    for m in (16, 64):
        for prompts in (30, 300):
            setting = f"{prompts} x {m}"
            yield "forecast gaussian", f"gaussian, {setting}", forecast("gaussian", gaussian, prompts, m), 1, False
            yield "forecast ladder", f"gaussian, {setting}", forecast("ladder", gaussian, prompts, m), 1, False
            yield (
                "forecast exponential",
                f"exponential, {setting}",
                forecast("exponential", exponential, prompts, m),
                1,
                False,
            )
            for method in ("generalized-normal", "gpd"):
                yield (
                    f"forecast {method}",
                    f"its own prior, {setting}",
                    forecast_over_shapes(method, prompts, m),
                    0.5,
                    False,
                )
            yield "forecast auto", f"all families, {setting}", auto_over_families(prompts, m), 0.5, False
    for prompts in (100, 400):
        yield "forecast beta-binomial", f"beta(0.5,2), {prompts} x 16", beta_binomial(0.5, 2.0, prompts, 16), 0.5, False
    yield "power law of pass@N", "beta(0.5,2), 200 x 64", power_law(200, 64), 1, False
    yield "diagnostics, slope change", "gaussian, 100 x 64", slopes(100, 64), 0.5, False


def main() -> None:
    """Run the simulation and write results.json and the README table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="run only the groups whose name contains this")
    parser.add_argument("--no-write", action="store_true", help="print only")
    arguments = parser.parse_args()
    records, started = [], time.perf_counter()
    chosen = [case for case in cases() if arguments.only in case[0]]
    for index, (group, setting, case, share, may_exceed) in enumerate(tqdm(chosen)):
        repeats = max(2, int(arguments.repeats * share))
        rng = np.random.default_rng([arguments.seed, index])
        counts: dict[str, int] = {}
        for _ in range(repeats):
            for label, hit in case(rng).items():
                counts[label] = counts.get(label, 0) + hit
        for label, count in counts.items():
            coverage = count / repeats
            error = float(np.sqrt(max(coverage * (1 - coverage), 0.25 / repeats) / repeats))
            ok = coverage >= ACCEPTED[0] - 2 * error and (may_exceed or coverage <= ACCEPTED[1] + 2 * error)
            records.append(
                {
                    "interval": group,
                    "setting": setting,
                    "at": label,
                    "coverage": coverage,
                    "standard_error": error,
                    "repeats": repeats,
                    "accepted": bool(ok),
                    "may_exceed": may_exceed,
                }
            )
            tqdm.write(f"{group:45s} {setting:30s} {label:40s} {coverage:.3f} +- {error:.3f} {'' if ok else '<--'}")
    if arguments.no_write:
        return
    found = environment()
    write_json(
        HERE / "results.json",
        {"seed": arguments.seed, "seconds": time.perf_counter() - started, "environment": found, "records": records},
    )
    rows = [
        [
            r["interval"],
            r["setting"],
            r["at"],
            f"{r['coverage']:.1%} ± {r['standard_error']:.1%}",
            "yes" if r["accepted"] else "**no**",
        ]
        for r in records
    ]
    text = table(["interval", "setting", "at", "coverage", "93-97 %"], rows) + "\n\n" + describe(found)
    replace_section(HERE / "README.md", "results", text)


if __name__ == "__main__":
    main()
