"""Keep the demo's results of several seeds, and write the table of docs/benchmarks.md and the picture from them.

for seed in 1 2 3; do make demo SEED=$seed; done && .venv/bin/python -m benchmarks.demo.report
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from benchmarks.record import replace_section, table, write_json

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


def _cell(curve: dict[str, Any], n: int) -> str:
    i = curve["ns"].index(n)
    return f"{curve['values'][i]:.2f} ± {(curve['ci_high'][i] - curve['ci_low'][i]) / 2:.2f}"


def seed_table(result: dict[str, Any]) -> str:
    """One seed in full, as `make demo` prints it."""
    ns = result["table_ns"]
    rows = [
        [label, policy["label"], *(_cell(policy[key], n) for n in ns)]
        for label, key in (("reward model", "reward_model"), ("gold, of its pick", "gold"))
        for policy in result["policies"].values()
    ]
    return table(["reward", "policy", *(f"N = {n}" for n in ns)], rows)


def target_table(results: list[dict[str, Any]]) -> str:
    """Every seed at the target N."""
    n = results[0]["target_n"]
    rows = []
    for key, policy in results[0]["policies"].items():
        cells = [_cell(r["policies"][key]["reward_model"], n) for r in results]
        golds = [_cell(r["policies"][key]["gold"], n) for r in results]
        rows.append([policy["label"], *cells, *golds])
    seeds = [r["seed"] for r in results]
    return table(["policy", *(f"reward, seed {s}" for s in seeds), *(f"gold, seed {s}" for s in seeds)], rows)


def main() -> None:
    """Read outputs/demo, write here and into docs/benchmarks.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo-dir", type=Path, default=ROOT / "outputs" / "demo")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    arguments = parser.parse_args()
    results = []
    for seed in arguments.seeds:
        result = json.loads((arguments.demo_dir / f"seed{seed}" / "results.json").read_text())
        results.append(result)
        write_json(HERE / f"seed{seed}.json", result)
    shutil.copy(arguments.demo_dir / f"seed{arguments.seeds[0]}" / "best_of_n.png", HERE / "best_of_n.png")
    first = results[0]
    where = (
        f"Commit {first['commit'][:7]}, {first['hardware']['cpu']}, {first['hardware']['cores']} cores, torch "
        f"{first['versions']['torch']}, trl {first['versions']['trl']}; ± is half of the 95 % interval over "
        f"{first['config']['held_out_prompts']} held-out prompts, {first['config']['num_samples']} samples each."
    )
    text = (
        f"`make demo`, seed {first['seed']}:\n\n{seed_table(first)}\n\nBest of {first['target_n']}, "
        f"`make demo SEED=...`:\n\n{target_table(results)}\n\n{where}"
    )
    replace_section(ROOT / "docs" / "benchmarks.md", "demo", text)


if __name__ == "__main__":
    main()
