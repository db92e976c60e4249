"""The tables of the README, from results/rows.jsonl.

python -m benchmarks.language.report
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.language.methods import MAIN, SHORT, SHORT_GRADED
from benchmarks.language.run import NS, ROWS
from benchmarks.language.tasks import TASKS
from benchmarks.record import finished_rows, replace_section, table
from tea.bestofn import pass_at_n

HERE = Path(__file__).resolve().parent
Array = NDArray[np.float64]
Key = tuple[str, float | None, int]  # method, learning rate, updates
CHOOSING_SEED = 0  # learning rates are chosen on it
VARIANTS = ("_16_prompts", "_m4")  # of a method, compared with GRPO's


def per_prompt(row: dict[str, Any], value: str = "reward") -> Array:
    """(prompts, len(NS)) unbiased pass@N, or best-of-N of a graded task, of every held-out prompt.

    Args:
        row: Of results/rows.jsonl.
        value: "reward", or "gold" of what the reward selects.
    """
    if value in row:
        return np.array(row[value])
    n = row["num_samples"]
    correct = np.arange(n)[None, :] < np.array(row["correct"])[:, None]
    return pass_at_n(correct.astype(float), NS).per_prompt


def interval(values: Array) -> tuple[float, float]:
    """Mean and half of its 95 % interval (Student's t), NaN for a single value."""
    if len(values) < 2:
        return float(values.mean()), float("nan")
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(half)


def base_of(rows: list[dict[str, Any]], value: str = "reward") -> Array:
    """:func:`per_prompt` of the untrained model, of one task's rows."""
    return per_prompt(next(row for row in rows if row["method"] == "base"), value)


def decimals_for(base: Array) -> int:
    """Decimals to show of values as large as the untrained model's."""
    return 3 if base[:, -1].mean() >= 0.1 else 4


def gain_text(curves: dict[int, Array], others: dict[int, Array], decimals: int, range_of_seeds: bool = False) -> str:
    """Best of the deployed N minus the others', per seed that both have, with its interval over prompts; "" if none."""
    shared = sorted(curves.keys() & others.keys())
    if not shared:
        return ""
    differences = [curves[seed][:, -1] - others[seed][:, -1] for seed in shared]
    gain, half = interval(np.mean(differences, axis=0))
    text = f"{gain:+.{decimals}f} ± {half:.{decimals}f}"
    if range_of_seeds and len(shared) > 1:
        means = [difference.mean() for difference in differences]
        text += f"; seeds {min(means):+.{decimals}f} to {max(means):+.{decimals}f}"
    return text


def reported(rows: list[dict[str, Any]], method: str, steps: int) -> dict[int, dict[str, Any]]:
    """Seed to row of one task and method, at the learning rate with the highest best-of-N on the choosing seed.

    That seed is left out where there are others. Where it was not run, the rate with most seeds, the lowest of these.
    """
    by_rate: dict[float | None, dict[int, dict[str, Any]]] = defaultdict(dict)
    for row in rows:
        if row["method"] == method and row["max_steps"] == steps:
            by_rate[row["learning_rate"]][row["seed"]] = row
    if not by_rate:
        return {}

    def quality(rate: float | None) -> tuple[float, int, float]:
        found = by_rate[rate]
        first = float(per_prompt(found[CHOOSING_SEED])[:, -1].mean()) if CHOOSING_SEED in found else -np.inf
        return first, len(found), -(rate or 0.0)

    found = by_rate[max(by_rate, key=quality)]
    return {seed: row for seed, row in found.items() if seed != CHOOSING_SEED} or found


def task_table(rows: list[dict[str, Any]], value: str = "reward") -> str:
    """One task: curves, and differences at the deployed N over prompts and over seeds; see `per_prompt`."""
    groups: dict[Key, dict[int, dict[str, Any]]] = defaultdict(dict)
    for row in rows:
        groups[row["method"], row["learning_rate"], row["max_steps"]][row["seed"]] = row
    base = base_of(rows, value)
    decimals = decimals_for(base)
    lines = []
    for (method, rate, steps), found in sorted(
        groups.items(), key=lambda item: (item[0][2], item[0][1] or 0, item[0][0])
    ):
        seeds = sorted(found)
        curves = {seed: per_prompt(found[seed], value) for seed in seeds}
        mean = np.mean(list(curves.values()), axis=0)
        cells = [f"{best:.{decimals}f}" for best in mean.mean(axis=0)]
        untrained = dict.fromkeys(seeds, base) if method != "base" else {}
        peer = "grpo" + next((suffix for suffix in VARIANTS if method.endswith(suffix)), "")
        peers = {seed: per_prompt(row, value) for seed, row in reported(rows, peer, steps).items()}
        gains = [
            gain_text(curves, others, decimals, range_of_seeds=True)
            for others in (untrained, peers if method not in ("base", peer) else {})
        ]
        rate_text = "" if rate is None else f"{rate:g}"
        kept = np.mean([np.mean(row["distinct"]) for row in found.values()])
        named = [f"`{method}`", str(steps or ""), rate_text, ", ".join(map(str, seeds)) if method != "base" else ""]
        lines.append([*named, *cells, *gains, f"{kept:.1f}"])
    head = [
        "method",
        "updates",
        "learning rate",
        "seeds",
        *(f"N = {n}" for n in NS),
        "N = 128 − base",
        "N = 128 − GRPO",
        "distinct",
    ]
    return table(head, lines)


def forecast_table(rows: list[dict[str, Any]]) -> str:
    """What the last quarter of training logged as the best-of-N forecast, and what was then measured."""
    lines = []
    for row in rows:
        logged = [entry["tea/best_of_n"] for entry in row.get("log", []) if "tea/best_of_n" in entry]
        if logged:
            tail = np.mean(logged[-max(len(logged) // 4, 1) :])
            measured = per_prompt(row)[:, -1].mean()
            name = f"`{row['method']}`, {row['learning_rate']:g}, seed {row['seed']}"
            lines.append([row["task"], name, f"{tail:.3f}", f"{measured:.3f}", f"{tail - measured:+.3f}"])
    return table(["task", "run", "forecast", "measured", "difference"], lines)


def cost_table(rows: list[dict[str, Any]]) -> str:
    """Wall time and tokens of every method."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in rows:
        if row.get("log"):
            found[row["method"]].append(row)
    lines = []
    for method, runs in sorted(found.items()):
        step = np.median([entry["step_time"] for run in runs for entry in run["log"]])
        tokens = np.mean([run["log"][-1]["num_tokens"] for run in runs])
        lines.append([f"`{method}`", str(len(runs)), f"{step:.1f}", f"{tokens:,.0f}"])
    return table(["method", "runs", "seconds per step, median", "tokens, prompt and completion"], lines)


def measured(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Rows of every task whose base model was measured, in the tasks' order."""
    by_task = {name: [row for row in rows if row["task"] == name] for name in TASKS}
    return {name: of for name, of in by_task.items() if any(row["method"] == "base" for row in of)}


def render(rows: list[dict[str, Any]]) -> str:
    """All tables."""
    parts = []
    for task, of_task in measured(rows).items():
        parts += [f"### {task}", task_table(of_task)]
        if TASKS[task].gold:
            parts += [f"### {task}, gold reward of what the learned one selects", task_table(of_task, "gold")]
        base = next(row for row in of_task if row["method"] == "base")
        samples = "; ".join(" / ".join(repr(text.strip()) for text in line) for line in base["examples"])
        parts.append(f"The base model's first four samples for three held-out prompts: {samples}")
    parts += ["### Forecast and measurement", forecast_table(rows), "### Cost", cost_table(rows)]
    commits = ", ".join(sorted({row["environment"]["commit"] for row in rows}))
    machine = rows[0]["environment"]
    parts.append(
        f"{len(rows)} rows; {rows[0]['model']}; commit {commits}; torch {machine['versions']['torch']}, "
        f"{machine['processor']}, one core per run. ± is half of the 95 % interval over the held-out prompts, of the "
        "difference averaged over seeds; behind it the smallest and largest seed."
    )
    return "\n\n".join(parts)


def updates(rows: list[dict[str, Any]], methods: Sequence[str]) -> list[int]:
    """Numbers of updates that one of the methods was run with, of one task's rows."""
    return sorted({row["max_steps"] for row in rows if row["method"] in methods})


def curves_of(
    rows: list[dict[str, Any]], steps: int, methods: Sequence[str] = MAIN, value: str = "reward"
) -> dict[str, dict[int, Array]]:
    """Method to seed to :func:`per_prompt` of one task's rows, as :func:`reported`."""
    found = {method: reported(rows, method, steps) for method in methods}
    return {method: {seed: per_prompt(row, value) for seed, row in of.items()} for method, of in found.items() if of}


def short_lines(rows: list[dict[str, Any]], name: str, methods: Sequence[str], value: str) -> list[list[str]]:
    """Lines of :func:`short_table`, of one task's rows: the untrained model and the methods, by one reward."""
    shown = [0, 2, 4]  # N = 1, 16, 128
    base = base_of(rows, value)
    decimals = decimals_for(base) - 1

    def cells(curve: Array) -> list[str]:
        return [f"{best:.{decimals}f}" for best in curve[shown]]

    lines = [[name, "untrained", "", "", *cells(base.mean(axis=0)), "", ""]]
    for steps in updates(rows, methods):
        curves = curves_of(rows, steps, methods, value)
        for method, of in curves.items():
            peers = curves.get("grpo", {}) if method != "grpo" else {}
            gains = [gain_text(of, others, decimals) for others in (dict.fromkeys(of, base), peers)]
            mean = np.mean(list(of.values()), axis=(0, 1))
            lines.append([name, f"`{method}`", str(steps), str(len(of)), *cells(mean), *gains])
    return lines


def short_table(rows: list[dict[str, Any]]) -> str:
    """For the README: its methods on every task, as :func:`reported`."""
    lines = []
    for name, of_task in measured(rows).items():
        task = TASKS[name]
        methods = SHORT_GRADED if task.graded else SHORT
        if not task.gold:
            lines += short_lines(of_task, name, methods, "reward")
            continue
        for value in ("reward", "gold"):
            lines += short_lines(of_task, f"{name}, {value}", methods, value)
    head = ["task", "model", "updates", "seeds", "N = 1", "N = 16", "N = 128", "N = 128 − untrained", "N = 128 − GRPO"]
    commits = ", ".join(sorted({row["environment"]["commit"] for row in rows}))
    machine = rows[0]["environment"]
    command = "`python -m benchmarks.language.run && python -m benchmarks.language.report`"
    where = f"{rows[0]['model']}; commit {commits}; torch {machine['versions']['torch']}, {machine['processor']}"
    graded = "; of sentences, the best of N on 32 prompts" if any(TASKS[name].graded for name in measured(rows)) else ""
    what = f"Share of 64 held-out prompts solved in N samples{graded}; n = {rows[0]['num_samples']}"
    spread = "± is half of the paired 95 % interval over prompts, of the mean over seeds"
    return f"{table(head, lines)}\n\n{command}; {where}. {what}; {spread}."


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """pass@N over N, a panel per task and number of updates, mean over the reported seeds."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    tasks = {name: of for name, of in measured(rows).items() if not TASKS[name].graded}
    panels = [(name, steps) for name, of in tasks.items() for steps in updates(of, MAIN)]
    figure, axes = plt.subplots(1, len(panels), figsize=(3.8 * len(panels), 3.4), squeeze=False, layout="constrained")
    for axis, (task, steps) in zip(axes[0], panels, strict=True):
        axis.plot(NS, base_of(tasks[task]).mean(axis=0), label="untrained", color="black", linestyle="--")
        for method, of in curves_of(tasks[task], steps).items():
            axis.plot(NS, np.mean(list(of.values()), axis=(0, 1)), label=method, marker="o", markersize=3)
        axis.set(xscale="log", xlabel="N", ylabel="solved in N samples", title=f"{task}, {steps} updates")
        axis.set_xticks(NS, [str(n) for n in NS])
        axis.legend(fontsize=7)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def main() -> None:
    """Write the tables and the figure of both READMEs, or print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=Path, default=ROWS)
    parser.add_argument("--print", action="store_true", dest="only_print")
    options = parser.parse_args()
    rows = finished_rows(options.rows)
    text = render(rows)
    if options.only_print:
        print(text)
    else:
        replace_section(HERE / "README.md", "tables", "\n" + text + "\n")
        replace_section(HERE.parent.parent / "README.md", "language", short_table(rows))
        draw(rows, HERE / "pass_at_n.png")


if __name__ == "__main__":
    main()
