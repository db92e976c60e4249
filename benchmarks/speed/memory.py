"""What `tea train --dry-run` says of memory against what a run takes.

    pip install gguf && python -m benchmarks.speed.memory                   # CPU, Linux; a minute each on an idle core
    python -m benchmarks.speed.memory "LoRA on bfloat16"                    # one of them again

Trains SmolLM2-135M (see benchmarks/language/model.py) for two steps in each setting, in a process of its own. Measured
is the largest resident memory of the process while it generates, and while it trains, less what it has before the
policy is loaded. Small tensors are given back to the system at once (MALLOC_MMAP_THRESHOLD_), so that this is what the
tensors hold. Writes results/memory-cpu.json and the table of README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.record import describe, environment, replace_section, table, write_json
from benchmarks.speed.run import HERE

MODEL: dict[str, Any] = {
    "num_generations": 8,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "max_completion_length": 64,
    "gradient_checkpointing": False,
    "bf16": False,
}
SETTINGS: dict[str, dict[str, Any]] = {
    "full, float32, checkpointing": {"gradient_checkpointing": True},
    "full, float32": {},
    "full, float32, batch 16": {"per_device_train_batch_size": 16},
    "full, float32 under bfloat16 autocast": {"bf16": True},
    "LoRA on bfloat16": {
        **{"bf16": True, "dtype": "bfloat16", "use_peft": True, "lora_r": 16},
        "lora_target_modules": ["all-linear"],
    },
}
QUESTION = "What is the greatest common divisor of {a} and {b}? Explain every step, then answer with a number."


def reward(completions: list[Any], **kwargs: Any) -> list[float]:
    """Something continuous that costs nothing."""
    return [len(completion[0]["content"]) / 100 for completion in completions]


class Resident:
    """Resident memory of this process, as Linux counts it."""

    @staticmethod
    def bytes_of(name: str) -> int:
        """`VmRSS`: now; `VmHWM`: the most since :meth:`reset`."""
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
        raise KeyError(name)

    @staticmethod
    def reset() -> None:
        Path("/proc/self/clear_refs").write_text("5")


def measure(options: dict[str, Any]) -> dict[str, Any]:
    """Train for two steps in this process: bytes by the formula, and as they were."""
    import torch

    from benchmarks.language.model import prepare as prepare_model
    from tea.trainers import AdvantageTrainer, script
    from tea.trainers.arguments import parse
    from tea.trainers.estimate import memory, sizes_of

    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    folder = tempfile.mkdtemp()
    rows = [{"prompt": QUESTION.format(a=12 * i, b=18 * i)} for i in range(10, 74)]
    Path(folder, "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = {
        **MODEL,
        **options,
        "model_name_or_path": str(prepare_model()),
        "dataset_name": f"{folder}/prompts.jsonl",
        "chat_prompts": True,
        "output_dir": f"{folder}/run",
        "max_steps": 2,
        "save_strategy": "no",
        "report_to": "none",
        "use_cpu": True,
        # Completions of full length, which is what is estimated.
        "generation_kwargs": json.dumps({"min_new_tokens": options.get("max_completion_length", 64)}),
    }
    Path(folder, "config.yaml").write_text(json.dumps(config))  # JSON is YAML
    arguments = parse(["--config", f"{folder}/config.yaml"])
    prepared = script.prepare(*arguments, reward_funcs=[reward])
    length = script.PromptLength(prepared.processor, {})
    longest = max(length(row["prompt"]) for row in prepared.data.train)
    expected = memory(sizes_of(prepared.config, arguments[2]), arguments[1], longest, 0.0)

    most = {"while generating": 0, "while training": 0}
    generate, step = AdvantageTrainer._generate_single_turn, AdvantageTrainer._compute_loss
    before = Resident.bytes_of("VmRSS")

    def take(name: str) -> None:
        most[name] = max(most[name], Resident.bytes_of("VmHWM") - before)
        Resident.reset()

    def generated(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step:  # since the loss of the step before
            take("while training")
        Resident.reset()
        found = generate(self, *args, **kwargs)
        if self.state.global_step:  # from the second step on AdamW has its moments
            take("while generating")
        return found

    def losses(self: Any, *args: Any, **kwargs: Any) -> Any:
        Resident.reset()
        return step(self, *args, **kwargs)

    AdvantageTrainer._generate_single_turn, AdvantageTrainer._compute_loss = generated, losses
    script.main(*arguments, reward_funcs=[reward])
    take("while training")
    always = sum(expected[""].values())
    return {
        "formula": {name: always + sum(expected[name].values()) for name in most},
        "measured": most,
        "tokens": longest,
    }


def render(result: dict[str, Any]) -> str:
    rows = []
    for name, cell in result["cells"].items():
        row = [name]
        for part in ("while training", "while generating"):
            said, found = cell["formula"][part], cell["measured"][part]
            row += [f"{said / 1e9:.2f}", f"{found / 1e9:.2f}", f"{said / found:.2f}"]
        rows.append(row)
    header = ["setting", "training: formula", "measured", "ratio", "generating: formula", "measured", "ratio"]
    tokens = next(iter(result["cells"].values()))["tokens"]
    return (
        f"{table(header, rows)}\n\nGB. SmolLM2-135M, prompts of {tokens} tokens, completions of "
        f"{MODEL['max_completion_length']}, {MODEL['per_device_train_batch_size']} at a time unless it says otherwise; "
        f"two steps, once each. {describe(result['environment'])}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", metavar="SETTING", help=", ".join(SETTINGS))
    parser.add_argument("--setting", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.setting:
        print("\n" + json.dumps(measure(SETTINGS[arguments.setting])))
        return
    unknown = set(arguments.settings) - set(SETTINGS)
    if unknown:
        parser.error(f"there is no setting {', '.join(sorted(unknown))}; there are {', '.join(SETTINGS)}")
    stored = HERE / "results" / "memory-cpu.json"
    cells = json.loads(stored.read_text())["cells"] if stored.is_file() else {}
    for name in arguments.settings or SETTINGS:
        command = [sys.executable, "-m", "benchmarks.speed.memory", "--setting", name]
        limits = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
        done = subprocess.run(command, env={**os.environ, **limits}, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stderr[-3000:])
        cells[name] = json.loads(done.stdout.splitlines()[-1])
        print(name, cells[name]["formula"], cells[name]["measured"], flush=True)
        result = {"environment": environment(), "cells": cells}
        write_json(stored, result)
    replace_section(HERE / "README.md", "memory-cpu", "\n" + render(result) + "\n")
    print(render(result))


if __name__ == "__main__":
    main()
