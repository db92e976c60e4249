"""GRPO against training for best-of-128 on SmolLM2-135M: `make demo-smollm2`, about a quarter of an hour on two cores.

    python -m benchmarks.language.demo [--seed 1]

One task (least common multiples, without a solved example), the same rollouts and updates for both, for each the
learning rate that was best for it in README.md, each stage a command of `tea`, and the report of `tea compare` at the
end. Interrupted, it goes on with the stage that it was in.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from benchmarks.language.command import tea
from benchmarks.language.methods import SHARED
from benchmarks.language.model import prepare
from benchmarks.language.run import check_memory, sample, train, write_data

TASK = "lcm_zero_shot"
METHODS = {"grpo": 3e-6, "pass_at_n_kl": 1e-5}  # and their learning rates
NUM_SAMPLES = 128
# Shares of the whole, measured on two cores; they set the estimate of what is left.
MINUTES = {"train": 3.6, "evaluate": 1.5}


def main() -> None:
    """Train, sample, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, help="of both; default: of each the best one")
    parser.add_argument("--max-steps", type=int, default=SHARED["max_steps"])
    parser.add_argument("--num-samples", type=int, default=NUM_SAMPLES)
    parser.add_argument("--output-dir", type=Path, default=Path("outputs/demo-smollm2"))
    options = parser.parse_args()
    check_memory()
    folder = options.output_dir / f"seed{options.seed}"
    folder.mkdir(parents=True, exist_ok=True)
    rates = {method: options.learning_rate or rate for method, rate in METHODS.items()}
    settings = {"learning_rates": rates, "max_steps": options.max_steps, "samples": options.num_samples}
    record = folder / "settings.json"
    if record.is_file() and json.loads(record.read_text()) != settings:
        raise SystemExit(f"{folder} is of other settings: {record.read_text()}; choose another --output-dir")
    record.write_text(json.dumps(settings))
    stages = [("evaluate", "base")] + [(stage, m) for m in METHODS for stage in ("train", "evaluate")]
    expected = sum(MINUTES[stage] for stage, _ in stages)
    print(f"{len(stages)} stages, about {expected:.0f} minutes on two cores; results in {folder}")
    base = prepare()
    write_data(TASK, folder)
    spent = due = 0.0
    for number, (stage, method) in enumerate(stages, 1):
        work = folder / method
        work.mkdir(exist_ok=True)
        done = work / f"{stage}.done"
        if not done.is_file():
            left = (expected - due) * (spent / due if due else 1.0)
            print(f"[{number}/{len(stages)}] {stage} {method}: about {left:.0f} minutes left", flush=True)
            start = time.perf_counter()
            if stage == "train":
                train(TASK, method, options.seed, rates[method], options.max_steps, work)
            else:
                sample(TASK, work / "model" if method != "base" else base, options.num_samples, work)
            done.touch()
            spent += (time.perf_counter() - start) / 60
            due += MINUTES[stage]
    names = [f"{name}={folder / name / 'eval'}" for name in ("base", *METHODS)]
    tea("compare", *names, "--output-dir", str(folder / "report"), log=folder / "compare.log")
    print((folder / "compare.log").read_text())
    print(f"report: {folder / 'report' / 'report.html'}")


if __name__ == "__main__":
    main()
