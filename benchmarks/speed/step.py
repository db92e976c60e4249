"""What our trainers add to a training step: its time and its peak memory against TRL's GRPOTrainer.

    python -m benchmarks.speed.step                  # CPU, a few minutes on an idle machine
    python -m benchmarks.speed.step --device cuda    # not run yet
    python -m benchmarks.speed.step --model smollm2  # SmolLM2-135M, tens of minutes on a core

The trainers run in one process and take turns after every step, in an order that is drawn anew every round (who comes
after whom decides what is in the caches), each with the same model, prompts, seed and state of the random number
generators. TRL's trainer is there twice: its second row shows the error of the measurement. The learning rate is 0, so
that all generate the same completions whatever their advantages; that they do is checked. So a ratio is of the same
step, seconds apart. A step lasts until the next begins: rollouts, rewards, advantages, loss, update and log. CPU
seconds are those of the process, which do not count the time that others take a busy machine for. Peak memory is what
tensors hold at most over what they held before, from torch's own record of every allocation. Writes
results/step-<name>.json and the table of README.md.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from datasets import Dataset
from scipy import stats
from transformers import AutoTokenizer, TrainerCallback, set_seed
from trl import GRPOConfig, GRPOTrainer

from benchmarks.language.model import prepare as smollm2
from benchmarks.record import describe, environment, replace_section, table, write_json
from benchmarks.speed.run import HERE
from tea.trainers import AdvantageTrainer, TEAConfig, TEATrainer
from tests.reference.tiny import tiny_llama, tiny_tokenizer

WARMUP = 2
TRAINERS = {
    "TRL's GRPOTrainer": GRPOTrainer,
    "the same, again": GRPOTrainer,
    'AdvantageTrainer("grpo")': AdvantageTrainer,
    "TEATrainer": TEATrainer,
}


def reward(completions: list[str], **kwargs: Any) -> list[float]:
    """Something continuous that costs nothing."""
    return [text.count("o") / 4 + len(text) / 40 for text in completions]


@dataclass(frozen=True)
class Setting:
    """What a step is made of."""

    prompts: int
    generations: int
    tokens: int
    steps: int
    options: dict[str, Any] = field(default_factory=dict)  # of the training arguments


SETTINGS = {
    "tiny": Setting(prompts=8, generations=16, tokens=48, steps=100),
    # Without the optimizer's state, of which four models would fill a small machine's memory; it is the same for all.
    "smollm2": Setting(2, 8, 16, 12, {"model_init_kwargs": {"dtype": "bfloat16"}, "optim": "sgd"}),
}


class Turns:
    """Lets trainers that run in threads take one step each, in an order that is drawn anew every round."""

    def __init__(self, count: int) -> None:
        self.random = random.Random(0)
        self.count = count
        self.order: list[int] = []
        self._draw()
        self.failed = False
        self.changed = threading.Condition()

    def _draw(self) -> None:
        self.order += self.random.sample(range(self.count), self.count)

    def wait(self, index: int) -> None:
        """Return when it is the turn of trainer `index`."""
        with self.changed:
            self.changed.wait_for(lambda: self.failed or self.order[0] == index)
        if self.failed:
            raise RuntimeError("another trainer failed")

    def done(self) -> None:
        """Hand over."""
        with self.changed:
            self.order.pop(0)
            if not self.order:
                self._draw()
            self.changed.notify_all()

    def give_up(self) -> None:
        """Wake everybody up to stop."""
        with self.changed:
            self.failed = True
            self.changed.notify_all()


class Clock(TrainerCallback):
    """Hands over before every step; measures from getting the turn to handing over."""

    def __init__(self, turns: Turns, index: int, device: str) -> None:
        self.turns, self.index, self.device = turns, index, device
        self.start: tuple[float, float] | None = None
        self.steps: list[tuple[float, float]] = []

    def _now(self) -> tuple[float, float]:
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter(), time.process_time()

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """The step before ends here."""
        now = self._now()
        if self.start is not None:
            self.steps.append((now[0] - self.start[0], now[1] - self.start[1]))
        # The generators of random numbers are everybody's.
        state = torch.get_rng_state(), random.getstate()
        on_gpu = torch.cuda.get_rng_state() if self.device == "cuda" else None
        self.turns.done()
        self.turns.wait(self.index)
        torch.set_rng_state(state[0])
        random.setstate(state[1])
        if on_gpu is not None:
            torch.cuda.set_rng_state(on_gpu)
        self.start = self._now()


def build(
    trainer: type[GRPOTrainer], model: str, folder: str, device: str, setting: Setting, steps: int
) -> GRPOTrainer:
    options: dict[str, Any] = {
        "output_dir": folder,
        "num_generations": setting.generations,
        "per_device_train_batch_size": setting.prompts * setting.generations,
        "max_completion_length": setting.tokens,
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
        **setting.options,
    }
    config = GRPOConfig if trainer is GRPOTrainer else TEAConfig
    words = ["the quick", "brown fox", "jumps", "over the", "lazy dog", "the fox", "quick dog", "a brown"]
    dataset = Dataset.from_dict({"prompt": words * 4})
    return trainer(
        model=model,
        reward_funcs=reward,
        args=config(**options),
        train_dataset=dataset,
        processing_class=AutoTokenizer.from_pretrained(model),
    )


def side_by_side(model: str, folder: str, device: str, setting: Setting, threads: int) -> dict[str, dict[str, Any]]:
    """Wall and CPU seconds of every step of every trainer, and the lengths of what it generated."""
    turns = Turns(len(TRAINERS))
    steps = WARMUP + setting.steps + 1
    built = [build(trainer, model, folder, device, setting, steps) for trainer in TRAINERS.values()]
    clocks = [Clock(turns, i, device) for i in range(len(built))]
    errors: list[BaseException] = []

    def run(trainer: GRPOTrainer, clock: Clock) -> None:
        try:
            torch.set_num_threads(threads)  # each thread has its own
            turns.wait(clock.index)
            set_seed(0)
            trainer.train()
            turns.done()
        except BaseException as error:
            errors.append(error)
            turns.give_up()

    workers = []
    for trainer, clock in zip(built, clocks, strict=True):
        trainer.add_callback(clock)
        workers.append(threading.Thread(target=run, args=(trainer, clock)))
    with contextlib.redirect_stdout(io.StringIO()):  # the logs
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    if errors:
        raise errors[0]
    return {
        name: {
            "wall": [wall for wall, _ in clock.steps[WARMUP:]],
            "cpu": [cpu for _, cpu in clock.steps[WARMUP:]],
            "lengths": [log["completions/mean_length"] for log in trainer.state.log_history if "loss" in log],
        }
        for name, trainer, clock in zip(TRAINERS, built, clocks, strict=True)
    }


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


def peak_bytes(trainer: type[GRPOTrainer], model: str, folder: str, device: str, setting: Setting) -> int:
    built = build(trainer, model, folder, device, setting, WARMUP)
    with contextlib.redirect_stdout(io.StringIO()), tensor_peak(device) as peak:
        built.train()
    return peak()


def median_interval(values: list[float]) -> tuple[float, float, float]:
    """Median with its 95 % interval, from order statistics."""
    ordered, n = sorted(values), len(values)
    low = max(int(stats.binom.ppf(0.025, n, 0.5)) - 1, 0)
    return statistics.median(ordered), ordered[low], ordered[n - 1 - low]


def prepare(name: str, folder: str) -> str:
    """Path of the model of that name."""
    if name == "smollm2":
        return str(smollm2())
    tokenizer = tiny_tokenizer()
    tiny_llama(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def measure(device: str, name: str, setting: Setting, threads: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        model = prepare(name, f"{folder}/model")
        found = side_by_side(model, folder, device, setting, threads)
        peak_bytes(GRPOTrainer, model, folder, device, setting)  # the first one fills caches
        peaks = {name: peak_bytes(of, model, folder, device, setting) for name, of in TRAINERS.items()}
    base = next(iter(TRAINERS))
    if any(of["lengths"] != found[base]["lengths"] for of in found.values()):
        raise RuntimeError("the trainers generated different completions: their times cannot be compared")
    cells = []
    for name, of in found.items():
        cell: dict[str, Any] = {"name": name, "peak_bytes": peaks[name], "peak_ratio": peaks[name] / peaks[base]}
        for clock in ("wall", "cpu"):
            ratios = [ours / theirs for ours, theirs in zip(of[clock], found[base][clock], strict=True)]
            middle, low, high = median_interval(ratios)
            cell[clock] = {"seconds": statistics.median(of[clock]), "ratio": middle, "low": low, "high": high}
            cell[clock]["ratios"] = [round(ratio, 4) for ratio in ratios]
        cells.append(cell)
    return {
        "environment": {**environment(), "threads": threads},
        "setting": asdict(setting),
        "cells": cells,
    }


def render(result: dict[str, Any]) -> str:
    rows = []
    for i, cell in enumerate(result["cells"]):
        row = [cell["name"], f"{cell['cpu']['seconds'] * 1e3:,.0f}"]
        for clock in ("cpu", "wall"):
            of = cell[clock]
            row.append(f"{of['ratio']:.3f} [{of['low']:.3f}, {of['high']:.3f}]" if i else "1")
        rows.append([*row, f"{cell['peak_bytes'] / 2**20:.1f}", f"{cell['peak_ratio']:.4f}"])
    setting = result["setting"]
    header = ["", "CPU ms per step", "CPU time, ratio", "wall time, ratio", "peak of tensors, MiB", "ratio"]
    return (
        f"{table(header, rows)}\n\nRatios of time: median over {setting['steps']} steps with its 95 % interval; "
        f"{setting['prompts']} prompts x {setting['generations']} completions of up to {setting['tokens']} tokens. "
        f"{describe(result['environment'])}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--model", choices=list(SETTINGS), default="tiny")
    parser.add_argument("--steps", type=int, help="counted steps of each trainer")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    setting = SETTINGS[arguments.model]
    setting = replace(setting, steps=arguments.steps or setting.steps)
    name = f"step-{arguments.device}" + ("" if arguments.model == "tiny" else f"-{arguments.model}")
    result = measure(arguments.device, arguments.model, setting, arguments.threads)
    (HERE / "results").mkdir(exist_ok=True)
    write_json(HERE / "results" / f"{name}.json", result)
    replace_section(HERE / "README.md", name, "\n" + render(result) + "\n")
    print(render(result))


if __name__ == "__main__":
    main()
