"""What the demo tells: the curves of each policy, a table, a sentence, a figure, a JSON file."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tea.demo.stages import LABELS

SCORES = {"reward_model": "reward model's reward", "gold": "gold reward of what the reward model picks"}


def collect(
    root: Path, records: dict[str, Any], methods: list[str], ns: Sequence[int], target_n: int
) -> dict[str, Any]:
    """Curves of all policies, their differences at N = `target_n`, and the stages' records.

    Args:
        root: holds the stages' directories.
        records: stage name -> record.
        methods: trained policies.
        ns: the table's Ns; the curves have more.
        target_n: N to compare at.

    Returns:
        "policies": name -> the curves of both scores; "comparisons": of each method with GRPO (or with the first
        method) and the base model; "stages"; "examples": each policy's pick of the first N samples for a prompt.
    """
    import numpy as np

    from tea.bestofn import best_of_n_curve, paired_difference
    from tea.rollouts import load_run

    policies: dict[str, Any] = {}
    curves: dict[str, dict[str, Any]] = {}
    examples: dict[str, Any] = {}
    shown = 0
    for policy in ("base", *methods):
        run = load_run(root / f"samples_{policy}")
        picks, golds = run.rewards["reward_model"], run.rewards["gold"]
        num_samples = picks.shape[1]
        grid = sorted({*ns, min(target_n, num_samples), *(2**i for i in range(num_samples.bit_length()))} - {0})
        grid = [n for n in grid if n <= num_samples]
        curves[policy] = {
            "reward_model": best_of_n_curve(picks, grid),
            "gold": best_of_n_curve(select_by=picks, value=golds, ns=grid),
        }
        policies[policy] = {
            "label": LABELS[policy],
            **{score: curve.to_dict() for score, curve in curves[policy].items()},
            "reward_std_within_prompt": float(picks.std(axis=1, ddof=1).mean()),
        }
        best = int(np.argmax(picks[shown, : min(target_n, num_samples)]))
        prompt, completion = _sample(root / f"samples_{policy}", shown * num_samples + best)
        examples[policy] = {
            "prompt": prompt,
            "completion": completion,
            "reward_model": float(picks[shown, best]),
            "gold": float(golds[shown, best]),
        }
    at = min(target_n, max(curves["base"]["gold"].ns.tolist()))
    reference = "grpo" if "grpo" in methods else methods[0]
    comparisons = []
    for policy in methods:
        for other in dict.fromkeys((reference, "base")):
            if policy == other:
                continue
            for score in SCORES:
                first, second = curves[policy][score], curves[other][score]
                difference = paired_difference(first, second)
                column = difference.ns.tolist().index(at)
                comparisons.append(
                    {
                        "policy": policy,
                        "versus": other,
                        "score": score,
                        "n": at,
                        "difference": float(difference.values[column]),
                        "ci_low": float(difference.ci_low[column]),
                        "ci_high": float(difference.ci_high[column]),
                        "p_value": float(difference.p_value[column]),
                        "separate_intervals": bool(
                            first.ci_low[column] > second.ci_high[column]
                            or second.ci_low[column] > first.ci_high[column]
                        ),
                    }
                )
    return {
        "target_n": at,
        "table_ns": list(ns),
        "policies": policies,
        "comparisons": comparisons,
        "examples": examples,
        "stages": records,
    }


def _sample(directory: Path, row: int) -> tuple[str, str]:
    import pyarrow.parquet as pq

    table = pq.read_table(directory / "samples.parquet", columns=["prompt", "completion"]).slice(row, 1).to_pydict()
    return table["prompt"][0], table["completion"][0]


def provenance() -> dict[str, Any]:
    """Commit, versions and hardware."""
    import importlib.metadata

    from tea import __version__

    names = ("torch", "transformers", "trl", "accelerate", "datasets", "numpy", "scipy")
    return {
        "commit": _commit(),
        "versions": {
            "tea": __version__,
            "python": platform.python_version(),
            **{name: importlib.metadata.version(name) for name in names},
        },
        "hardware": {"cpu": _cpu(), "cores": _cores(), "system": platform.platform()},
    }


def _commit() -> str | None:
    """Commit of the source tree, with "+" where it has been edited since; None outside a repository."""
    package = Path(__file__).resolve().parent.parent
    try:
        commit, changes = (
            subprocess.run(
                ["git", *arguments], cwd=package, capture_output=True, text=True, check=True, timeout=10
            ).stdout.strip()
            for arguments in (("rev-parse", "HEAD"), ("status", "--porcelain", "--", "."))
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+" if changes else "")


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def write_json(results: dict[str, Any], path: Path) -> None:
    """Write `results`, atomically."""
    temporary = path.with_suffix(".json.tmp")
    temporary.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def verdict(results: dict[str, Any]) -> str:
    """Who has the best best-of-N, by how much it beats GRPO (or the base model), and what TEA is worth over GRPO."""
    at = results["target_n"]
    level = {
        policy: curves["reward_model"]["values"][curves["reward_model"]["ns"].index(at)]
        for policy, curves in results["policies"].items()
    }
    best = max(level, key=lambda policy: level[policy])
    others = [policy for policy in ("grpo", "base") if policy in level and policy != best]
    found = [
        entry
        for entry in results["comparisons"]
        if entry["score"] == "reward_model"
        and {entry["policy"], entry["versus"]} in [{best, other} for other in others]
    ]
    if not found:
        return f"Best of {at} by the reward model: {LABELS[best]} is highest, at {level[best]:.2f}."
    entry = found[0]
    low, high = entry["ci_low"], entry["ci_high"]
    if entry["policy"] != best:
        low, high = -high, -low
    versus = entry["versus"] if entry["policy"] == best else entry["policy"]
    apart = "do not overlap" if entry["separate_intervals"] else "overlap"
    sentence = (
        f"Best of {at} by the reward model: {LABELS[best]} is highest, at {level[best]:.2f}, "
        f"{abs(entry['difference']):.2f} above {LABELS[versus]}'s {level[versus]:.2f} (paired 95 % interval "
        f"{low:.2f} to {high:.2f}); their own intervals {apart}."
    )
    for entry in results["comparisons"]:
        named = (entry["policy"], entry["versus"], entry["score"])
        if named == ("tea", "grpo", "reward_model") and best not in ("tea", "grpo"):
            sentence += (
                f" TEA minus GRPO is {entry['difference']:+.2f} ({entry['ci_low']:.2f} to {entry['ci_high']:.2f})."
            )
    return sentence


def show(results: dict[str, Any], root: Path) -> None:
    """Print the table, examples and the verdict."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console()
    if not console.is_terminal:
        console = Console(width=80)
    ns = results["table_ns"]
    shown = results["policies"]["base"]["gold"]
    table = Table(
        title=f"Best of N on {shown['num_prompts']} held-out prompts, seed {results['seed']}",
        box=box.SIMPLE_HEAD,
        padding=0,
        show_edge=False,
    )
    table.add_column("N")
    for n in ns:
        table.add_column(str(n), justify="right", no_wrap=True)
    for score in SCORES:
        table.add_row(f"[bold]{'reward' if score == 'reward_model' else 'gold'}[/bold]")
        at = shown["ns"]
        highest = {n: max(curves[score]["values"][at.index(n)] for curves in results["policies"].values()) for n in ns}
        for curves in results["policies"].values():
            cells = []
            for n in ns:
                value, high = curves[score]["values"][at.index(n)], curves[score]["ci_high"][at.index(n)]
                cell = f"{value:.2f}" if high is None else f"{value:.2f}±{high - value:.2f}"
                cells.append(f"[bold]{cell}[/bold]" if value == highest[n] else cell)
            table.add_row(curves["label"], *cells)
        table.add_section()
    console.print(table)
    console.print(
        "[bold]reward[/bold]: by the reward model, which picks one of N; [bold]gold[/bold]: of its pick, by the gold "
        f"rule; ± half of the 95 % interval over prompts. Trained with m = {results['config']['num_generations']} "
        f"rollouts per prompt for N = {results['target_n']}, evaluated with n = {shown['num_samples']} samples."
    )
    example = results["examples"]
    console.print(f"The reward model's pick of {results['target_n']} for “{next(iter(example.values()))['prompt']}”")
    for policy, pick in example.items():
        console.print(f"  {LABELS[policy]:<11} {pick['completion']}  [dim](gold {pick['gold']:g})[/dim]")
    console.print(verdict(results))
    console.print(f"Figure {root / 'best_of_n.png'}, numbers {root / 'results.json'}, models and samples in {root}/.")


# Okabe and Ito's palette, told apart with any colour vision; markers as well, for print without colour.
_STYLE = {
    "base": ("#777777", "o", "--"),
    "grpo": ("#D55E00", "s", "-"),
    "tea": ("#0072B2", "^", "-"),
    "prefix_tea": ("#56B4E9", "v", "-"),
    "ladder": ("#009E73", "D", "-"),
}


def figure(results: dict[str, Any], path: Path) -> None:
    """Draw the curves with their 95 % bands: the reward model's reward on the left, the gold reward on the right."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    picture = Figure(figsize=(11, 4.6), dpi=150, layout="constrained")
    FigureCanvasAgg(picture)
    for axes, (score, title) in zip(picture.subplots(1, 2), SCORES.items(), strict=True):
        axes.axvline(results["target_n"], color="#BBBBBB", linewidth=1, zorder=0)
        for policy, curves in results["policies"].items():
            colour, marker, line = _STYLE[policy]
            curve = curves[score]
            axes.plot(
                curve["ns"], curve["values"], line, color=colour, marker=marker, markersize=5, label=curves["label"]
            )
            if curve["ci_low"][0] is not None:
                axes.fill_between(curve["ns"], curve["ci_low"], curve["ci_high"], color=colour, alpha=0.15, linewidth=0)
        axes.set_xscale("log", base=2)
        ticks = results["table_ns"]
        axes.set_xticks(ticks, [str(n) for n in ticks])
        axes.minorticks_off()
        axes.set_xlabel("N, samples per prompt, of which the reward model picks one")
        axes.set_title(title[0].upper() + title[1:], fontsize=11)
        axes.grid(axis="y", color="#DDDDDD", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    left = picture.axes[0]
    left.set_ylabel("mean over held-out prompts, 95 % band")
    left.legend(frameon=False)
    left.annotate(
        f"trained for N = {results['target_n']}",
        (results["target_n"], 0),
        xycoords=("data", "axes fraction"),
        xytext=(-4, 6),
        textcoords="offset points",
        ha="right",
        fontsize=8,
        color="#777777",
    )
    temporary = path.with_suffix(".tmp.png")
    picture.savefig(temporary)
    os.replace(temporary, path)
