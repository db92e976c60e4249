"""What our trainers add to a training step: its time and its peak memory against TRL's GRPOTrainer.

    python -m benchmarks.speed.step                  # CPU, a few minutes on an idle machine
    python -m benchmarks.speed.step --device cuda    # not run yet

The trainers take turns in one process, each with the same tiny model, prompts and seed. The learning rate is 0, so that
all generate the same completions whatever their advantages; that they do is checked. A turn is a few steps, from the
start of one to the start of the next, so that reward, advantages, loss, update and logging count. A ratio is of two
turns next to each other; CPU seconds are those of the process, which do not count the time that others take a busy
machine for. Peak memory is what tensors hold at most over what they held before, from torch's own record of every
allocation. Writes results/step-<device>.json and the table of README.md.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from datasets import Dataset
from transformers import TrainerCallback
from trl import GRPOConfig, GRPOTrainer

from benchmarks.record import describe, environment, replace_section, table, write_json
from benchmarks.speed.run import HERE
from tea.trainers import AdvantageTrainer, TEAConfig, TEATrainer
from tests.reference.tiny import tiny_llama, tiny_tokenizer

PROMPTS, GENERATIONS, TOKENS = 8, 16, 48
WARMUP, STEPS, TURNS = 2, 6, 15
TRAINERS = {
    "TRL's GRPOTrainer": GRPOTrainer,
    'AdvantageTrainer("grpo")': AdvantageTrainer,
    "TEATrainer": TEATrainer,
}


def reward(completions: list[str], **kwargs: Any) -> list[float]:
    """Something continuous that costs nothing."""
    return [text.count("o") / 4 + len(text) / 40 for text in completions]


class Clock(TrainerCallback):
    """Wall and CPU seconds at the start of each step."""

    def __init__(self, device: str) -> None:
        self.device = device
        self.times: list[tuple[float, float]] = []

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """Read the clocks, after the GPU has done what it was given."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        self.times.append((time.perf_counter(), time.process_time()))


def build(trainer: type[GRPOTrainer], model: str, folder: str, device: str, steps: int) -> GRPOTrainer:
    options: dict[str, Any] = {
        "output_dir": folder,
        "num_generations": GENERATIONS,
        "per_device_train_batch_size": PROMPTS * GENERATIONS,
        "max_completion_length": TOKENS,
        "max_steps": steps,
        "learning_rate": 0.0,
        "logging_steps": 1,
        "report_to": "none",
        "save_strategy": "no",
        "bf16": False,
        "use_cpu": device == "cpu",
        "gradient_checkpointing": False,
        "disable_tqdm": True,
        "seed": 11,
    }
    config = GRPOConfig if trainer is GRPOTrainer else TEAConfig
    words = ["the quick", "brown fox", "jumps", "over the", "lazy dog", "the fox", "quick dog", "a brown"]
    dataset = Dataset.from_dict({"prompt": words * 4})
    return trainer(
        model=model,
        reward_funcs=reward,
        args=config(**options),
        train_dataset=dataset,
        processing_class=tiny_tokenizer(),
    )


def turn(trainer: type[GRPOTrainer], model: str, folder: str, device: str) -> dict[str, Any]:
    """Mean seconds per step over a turn, and the tokens that were generated."""
    built = build(trainer, model, folder, device, WARMUP + STEPS + 1)
    clock = Clock(device)
    built.add_callback(clock)
    with contextlib.redirect_stdout(io.StringIO()):  # the log
        built.train()
    (wall, cpu), (wall_end, cpu_end) = clock.times[WARMUP], clock.times[WARMUP + STEPS]
    lengths = [log["completions/mean_length"] for log in built.state.log_history if "completions/mean_length" in log]
    return {"wall": (wall_end - wall) / STEPS, "cpu": (cpu_end - cpu) / STEPS, "lengths": lengths}


@contextlib.contextmanager
def tensor_peak(device: str) -> Iterator[Callable[[], int]]:
    """Bytes that tensors held at most, over what they held before."""
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        yield lambda: torch.cuda.max_memory_allocated() - before
        return
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        yield lambda: _peak(profile)


def _peak(profile: torch.profiler.profile) -> int:
    """From the record of every allocation (bytes > 0) and release (< 0)."""
    held = most = 0
    events = profile.profiler.kineto_results.events()  # type: ignore[union-attr]
    for event in sorted((e for e in events if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most


def peak_bytes(trainer: type[GRPOTrainer], model: str, folder: str, device: str) -> int:
    built = build(trainer, model, folder, device, WARMUP)
    with contextlib.redirect_stdout(io.StringIO()), tensor_peak(device) as peak:
        built.train()
    return peak()


def measure(device: str, turns: int) -> dict[str, Any]:
    samples: dict[str, list[dict[str, Any]]] = {name: [] for name in TRAINERS}
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = tiny_tokenizer()
        model = f"{folder}/model"
        tiny_llama(tokenizer).save_pretrained(model)
        tokenizer.save_pretrained(model)
        for i in range(turns + 1):
            order = list(TRAINERS) if i % 2 else list(TRAINERS)[::-1]
            for name in order:
                found = turn(TRAINERS[name], model, folder, device)
                if i:  # the first turn of each warms the process up
                    samples[name].append(found)
            print(f"turn {i} of {turns}", flush=True)
        peaks = {name: peak_bytes(of, model, folder, device) for name, of in TRAINERS.items()}
    lengths = {str(of["lengths"]) for found in samples.values() for of in found}
    if len(lengths) > 1:
        raise RuntimeError("the trainers generated different completions: their times cannot be compared")
    base = next(iter(TRAINERS))
    cells = []
    for name, found in samples.items():
        cell: dict[str, Any] = {"name": name, "peak_bytes": peaks[name], "peak_ratio": peaks[name] / peaks[base]}
        for clock in ("wall", "cpu"):
            cell[f"{clock}_seconds"] = statistics.median(of[clock] for of in found)
            ratios = [of[clock] / with_base[clock] for of, with_base in zip(found, samples[base], strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4) if name != base else (1.0, 1.0, 1.0)
            cell[f"{clock}_ratio"] = {"median": middle, "q1": low, "q3": high, "turns": ratios}
        cells.append(cell)
    return {
        "environment": {**environment(), "threads": torch.get_num_threads()},
        "setting": {"prompts": PROMPTS, "generations": GENERATIONS, "tokens": TOKENS, "steps": STEPS, "turns": turns},
        "cells": cells,
    }


def render(result: dict[str, Any]) -> str:
    rows = []
    for cell in result["cells"]:
        row = [cell["name"], f"{cell['cpu_seconds'] * 1e3:,.0f}"]
        for clock in ("cpu", "wall"):
            of = cell[f"{clock}_ratio"]
            row.append("1" if cell is result["cells"][0] else f"{of['median']:.3f} [{of['q1']:.3f}, {of['q3']:.3f}]")
        rows.append([*row, f"{cell['peak_bytes'] / 2**20:.1f}", f"{cell['peak_ratio']:.4f}"])
    setting = result["setting"]
    header = ["", "CPU ms per step", "CPU time, ratio", "wall time, ratio", "peak of tensors, MiB", "ratio"]
    return (
        f"{table(header, rows)}\n\nRatios: median [quartiles] of {setting['turns']} pairs of turns, "
        f"{setting['steps']} steps each; {setting['prompts']} prompts x {setting['generations']} completions of up to "
        f"{setting['tokens']} tokens. {describe(result['environment'])}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    result = measure(arguments.device, arguments.turns)
    (HERE / "results").mkdir(exist_ok=True)
    write_json(HERE / "results" / f"step-{arguments.device}.json", result)
    replace_section(HERE / "README.md", f"step-{arguments.device}", "\n" + render(result) + "\n")
    print(render(result))


if __name__ == "__main__":
    main()
