"""Tasks x methods x seeds on SmolLM2-135M, each through `tea train` and `tea eval`; resumable.

    python -m benchmarks.language.run                                    # the main plan; a day on two cores
    python -m benchmarks.language.run --tasks lcm --methods grpo pass_at_n --seeds 1 2 3

A run is a JSON row appended to results/rows.jsonl; one whose row is there is not repeated. The base model is a method
without training. Weights are deleted when they have been evaluated, unless --keep.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import yaml

from benchmarks.language import reward_model
from benchmarks.language.command import tea
from benchmarks.language.methods import MAIN, METHODS, SHARED
from benchmarks.language.model import prepare, source
from benchmarks.language.tasks import TASKS
from benchmarks.record import append_row, environment, finished_rows
from tea.bestofn import best_of_n_curve

HERE = Path(__file__).resolve().parent
ROWS = HERE / "results" / "rows.jsonl"
REWARDS = HERE / "rewards.py"
NS = (1, 4, 16, 64, 128)
NEEDED_GB = 6.0  # of memory: weights, gradients, Adam's two moments in float32 and the activations of a step
PLAN = ("task", "method", "seed", "learning_rate", "max_steps", "num_samples")


def check_memory() -> None:
    """Refuse to start where a training step would not fit.

    Raises:
        SystemExit: With what there is and what is needed.
    """
    meminfo = Path("/proc/meminfo")
    if not meminfo.is_file():
        return
    available = next(int(line.split()[1]) for line in meminfo.read_text().splitlines() if line.startswith("MemAvail"))
    if available / 1e6 < NEEDED_GB:
        raise SystemExit(f"training needs about {NEEDED_GB:g} GB of free memory, there are {available / 1e6:.1f} GB")


def reward_of(task: str) -> str:
    """What training and selection see, as `tea` loads it; a reward model is trained first if it is not there.

    It scores in bfloat16, in a third of the time.
    """
    name = TASKS[task].reward
    return f"{reward_model.prepare()},dtype=bfloat16" if name == "learned" else f"{REWARDS}:{name}"


def write_data(task: str, folder: Path) -> None:
    """TASK.train.jsonl and TASK.held_out.jsonl."""
    for name, rows in zip(("train", "held_out"), TASKS[task].rows(), strict=True):
        (folder / f"{task}.{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def sample(task: str, model: Path, num_samples: int, work: Path) -> Path:
    """`tea eval` on the held-out prompts; goes on where it was interrupted. Returns its directory."""
    out = work / "eval"
    gold = TASKS[task].gold
    tea(
        *("eval", str(model), "--dataset", str(work.parent / f"{task}.held_out.jsonl"), "--output-dir", str(out)),
        *("--reward", f"selected={reward_of(task)}", "-n", str(num_samples), "--dtype", "bfloat16"),
        *(("--reward", f"gold={REWARDS}:{gold}") if gold else ()),
        *("--max-completion-length", str(TASKS[task].max_completion_length)),
        log=work / "eval.log",
    )
    return out


def train(task: str, method: str, seed: int, learning_rate: float, max_steps: int, work: Path) -> dict[str, Any]:
    """`tea train` from a YAML; returns what it logged."""
    config = {
        "model_name_or_path": str(prepare()),
        "dataset_name": str(work.parent / f"{task}.train.jsonl"),
        "reward_funcs": [reward_of(task)],
        "output_dir": str(work / "model"),
        "max_completion_length": TASKS[task].max_completion_length,
        "learning_rate": learning_rate,
        "seed": seed,
        **SHARED,
        **METHODS[method],
        "max_steps": max_steps,
    }
    (work / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    start = time.perf_counter()
    tea("train", "--config", str(work / "config.yaml"), log=work / "train.log")
    state = json.loads((work / "model" / "trainer_state.json").read_text())
    keep = ("step", "reward", "grad_norm", "entropy", "tea/best_of_n", "step_time", "num_tokens")
    log = [{name: entry[name] for name in keep if name in entry} for entry in state["log_history"] if "loss" in entry]
    return {"train_seconds": time.perf_counter() - start, "log": log}


def evaluate(task: str, model: Path, num_samples: int, work: Path) -> dict[str, Any]:
    """Sample the held-out prompts.

    Returns:
        Of every prompt the number of right answers ("correct") or, of a graded task, the unbiased best-of-N at `NS`
        ("reward", and "gold" of the same selected samples if the task has one); the number of different answers, the
        first samples of three prompts, and the seconds it took.
    """
    start = time.perf_counter()
    out = sample(task, model, num_samples, work)
    samples = pq.read_table(out / "samples.parquet").to_pandas()
    prompts = samples.groupby("prompt_id", sort=True)
    rewards = {
        name: [group[f"rewards/{name}"].tolist() for _, group in prompts]
        for name in ("selected", "gold")
        if f"rewards/{name}" in samples
    }
    row: dict[str, Any] = {
        "distinct": [int(group["completion"].str.strip().nunique()) for _, group in prompts],
        "examples": [group["completion"].head(4).tolist() for _, group in prompts][:3],
        "eval_seconds": time.perf_counter() - start,
    }
    if not TASKS[task].graded:
        return {"correct": [int(sum(group)) for group in rewards["selected"]], **row}
    ns = [n for n in NS if n <= num_samples]
    for name, values in rewards.items():
        curve = best_of_n_curve(select_by=rewards["selected"], value=values, ns=ns)
        row["reward" if name == "selected" else name] = curve.per_prompt.round(5).tolist()
    return row


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what has no row yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--methods", nargs="+", choices=list(METHODS), default=list(MAIN))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--learning-rate", type=float, default=1e-5)
    parser.add_argument("--max-steps", type=int, default=SHARED["max_steps"])
    parser.add_argument("--num-samples", type=int, default=256)
    parser.add_argument("--work-dir", type=Path, default=Path("outputs/language"))
    parser.add_argument("--rows", type=Path, default=ROWS)
    parser.add_argument("--keep", action="store_true", help="keep the trained weights")
    options = parser.parse_args(arguments)
    check_memory()
    base = prepare()
    options.work_dir.mkdir(parents=True, exist_ok=True)
    plan: list[tuple[str, str, int]] = [(task, "base", 0) for task in options.tasks]
    plan += [(t, method, seed) for seed in options.seeds for t in options.tasks for method in options.methods]
    for task, method, seed in plan:
        trained = method != "base"
        cell = {
            "task": task,
            "method": method,
            "seed": seed,
            "learning_rate": options.learning_rate if trained else None,
            "max_steps": options.max_steps if trained else 0,
            "num_samples": options.num_samples,
        }
        if any(all(row[name] == cell[name] for name in PLAN) for row in finished_rows(options.rows)):
            continue
        write_data(task, options.work_dir)
        label = "-".join(str(cell[name]) for name in PLAN)
        work = options.work_dir / label
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        row: dict[str, Any] = dict(cell)
        if trained:
            row |= train(task, method, seed, options.learning_rate, options.max_steps, work)
        row |= evaluate(task, work / "model" if trained else base, options.num_samples, work)
        row |= {"model": source(), "environment": environment()}
        append_row(options.rows, row, allow_nan=True)  # the log of a run that diverged
        if not options.keep:
            shutil.rmtree(work / "model", ignore_errors=True)
        if "correct" in row:
            solved = sum(count > 0 for count in row["correct"])
            said = f"{solved} of {len(row['correct'])} held-out prompts solved in {options.num_samples} samples"
        else:
            mean = sum(values[-1] for values in row["reward"]) / len(row["reward"])
            said = f"best of {min(NS[-1], options.num_samples)} {mean:.4f}"
        print(f"{label}: {said}")


if __name__ == "__main__":
    main()
