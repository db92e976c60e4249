"""`python -m tea demo`: plans the stages, runs them two at a time, reuses what is there, and reports."""

from __future__ import annotations

import hashlib
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tea.demo.cache import Stage, read_record, run_cached, stage_keys

DEFAULT_OUTPUT = Path("outputs/demo")
DEFAULT_METHODS = ("grpo", "tea", "ladder")


@dataclass(frozen=True)
class DemoConfig:
    """Sizes and hyper-parameters: the same for every method.

    Attributes:
        hidden_size, num_layers, num_heads: of the base and the reward model.
        pretrain_examples, pretrain_steps, pretrain_batch_size, pretrain_learning_rate: of the base model.
        reward_pairs, reward_steps, reward_batch_size, reward_learning_rate: of the reward model.
        reward_margin_per_point: by how much the rewards of a pair are to differ for each point of gold between them.
        steps: of training, for each method.
        prompts_per_step: distinct prompts in a step.
        num_generations: m, rollouts per prompt.
        learning_rate: of each method.
        target_n: N, what the tail-aware methods train for.
        held_out_prompts: prompts to evaluate on, which no model is trained on.
        num_samples: n, samples per held-out prompt and policy.
        ns: the Ns of the table, from 1 to n.
    """

    hidden_size: int = 64
    num_layers: int = 2
    num_heads: int = 4
    pretrain_examples: int = 12000
    pretrain_steps: int = 200
    pretrain_batch_size: int = 64
    pretrain_learning_rate: float = 3e-3
    reward_pairs: int = 30000
    reward_steps: int = 600
    reward_batch_size: int = 64
    reward_learning_rate: float = 3e-3
    reward_margin_per_point: float = 0.5
    steps: int = 100
    prompts_per_step: int = 32
    num_generations: int = 16
    learning_rate: float = 2e-3
    target_n: int = 128
    held_out_prompts: int = 64
    num_samples: int = 512
    ns: tuple[int, ...] = (1, 4, 16, 64, 128, 512)


def plan(config: DemoConfig, methods: Sequence[str]) -> list[Stage]:
    """The stages, each after those that it needs.

    Raises:
        ValueError: a method that the demo does not have, or none.
    """
    from tea.demo.stages import LABELS

    known = [name for name in LABELS if name != "base"]
    unknown = [name for name in methods if name not in known]
    if unknown or not methods or len(set(methods)) != len(methods):
        raise ValueError(f"methods must be one or more of {', '.join(known)}, each once; got {', '.join(methods)}")
    size = {"hidden_size": config.hidden_size, "num_layers": config.num_layers, "num_heads": config.num_heads}
    split = {"held_out_prompts": config.held_out_prompts}
    base = {
        **size,
        **split,
        "examples": config.pretrain_examples,
        "steps": config.pretrain_steps,
        "batch_size": config.pretrain_batch_size,
        "learning_rate": config.pretrain_learning_rate,
    }
    reward = {
        **size,
        **split,
        "pairs": config.reward_pairs,
        "steps": config.reward_steps,
        "batch_size": config.reward_batch_size,
        "learning_rate": config.reward_learning_rate,
        "margin_per_point": config.reward_margin_per_point,
    }
    stages = [
        Stage("reward_model", "reward_model", "reward model", reward),
        Stage("base", "pretrain", "pre-training", base),
    ]
    for method in methods:
        settings = {
            **split,
            "method": method,
            "steps": config.steps,
            "batch_size": config.prompts_per_step * config.num_generations,
            "num_generations": config.num_generations,
            "learning_rate": config.learning_rate,
        }
        if method != "grpo":
            settings["target_n"] = config.target_n
        needs = {"base": "base", "reward_model": "reward_model"}
        stages.append(Stage(method, "train", f"training with {LABELS[method]}", settings, needs))
    stages += [
        Stage(
            f"samples_{policy}",
            "evaluate",
            f"sampling from {LABELS[policy]}",
            {**split, "num_samples": config.num_samples},
            {"policy": policy, "reward_model": "reward_model"},
        )
        for policy in ("base", *methods)
    ]
    return stages


_CODE = {
    "pretrain": ("demo/task.py", "demo/stages.py"),
    "reward_model": ("demo/task.py", "demo/stages.py"),
    "train": ("demo/task.py", "demo/stages.py", "estimators", "trainers"),
    "evaluate": ("demo/task.py", "demo/stages.py", "rewards", "rollouts"),
}
"""Kind of stage -> the parts of this package that decide its result."""


def fingerprint(kind: str) -> dict[str, Any]:
    """What all stages of a kind depend on: a hash of the code, and the libraries' versions."""
    import importlib.metadata

    package = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for part in _CODE[kind]:
        for source in sorted((package / part).rglob("*.py")) if (package / part).is_dir() else [package / part]:
            digest.update(source.relative_to(package).as_posix().encode() + b"\0" + source.read_bytes() + b"\0")
    names = ("torch", "transformers", "trl", "tokenizers")
    return {"code": digest.hexdigest(), "versions": {name: importlib.metadata.version(name) for name in names}}


class Stopped(Exception):
    """The demo was interrupted, or another of its stages failed."""


# Of a worker process: where to report to, whether to stop, and the process that started it.
_messages: Any = None
_stop: Any = None
_parent = 0


def _start_worker(messages: Any, stop: Any) -> None:
    """Initialise a worker process: quiet, offline, one thread, stopped by the parent rather than by Ctrl-C."""
    global _messages, _stop, _parent
    _messages, _stop, _parent = messages, stop, os.getppid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_TELEMETRY="1", TOKENIZERS_PARALLELISM="false")
    import warnings

    import datasets
    import torch
    import transformers

    torch.set_num_threads(1)
    datasets.disable_progress_bars()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    warnings.simplefilter("ignore")


def _work(root: Path, stage: Stage, key: str, seed: int) -> dict[str, Any]:
    """Run one stage in a worker process."""
    import shutil

    from tea.demo.stages import STAGES

    last = 0.0

    def report(done: int, total: int) -> None:
        nonlocal last
        if os.getppid() != _parent:  # the demo was killed: do not go on behind the user's back
            os._exit(1)
        if _stop.is_set():
            raise Stopped
        now = time.monotonic()
        if done == total or now - last > 0.1:
            last = now
            _messages.put((stage.name, done, total))

    inputs = {role: root / name for role, name in stage.needs.items()}

    def work(directory: Path) -> dict[str, Any]:
        report(0, 1)
        metrics = STAGES[stage.kind](stage.settings, seed, inputs, directory, report)
        shutil.rmtree(directory / "trainer", ignore_errors=True)
        return metrics

    return run_cached(root, stage, key, seed, work)


def _run_stages(root: Path, stages: list[Stage], keys: dict[str, str], seed: int, workers: int) -> dict[str, Any]:
    """Run the stages that are not there yet, as soon as what they need is, `workers` at a time.

    Returns:
        Stage name -> its record, with "reused" true where it was there.
    """
    import multiprocessing
    from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait

    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    records: dict[str, Any] = {}
    todo: list[Stage] = []
    for stage in stages:
        record = read_record(root / stage.name)
        if record is not None and record["key"] == keys[stage.name]:
            records[stage.name] = {**record, "reused": True}
            console.print(f"{stage.label}: reusing {root / stage.name}")
        else:
            if record is not None:
                console.print(
                    f"{stage.label}: {root / stage.name} was made with other settings or code; making it anew"
                )
            todo.append(stage)
    if not todo:
        return records

    # Two processes of one thread each: models this small gain nothing from a second thread, and the methods do not
    # depend on each other. Spawned, since forking a process that runs threads is unsafe.
    context = multiprocessing.get_context("spawn")
    messages, stop = context.Queue(), context.Event()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    bars: dict[str, Any] = {}
    labels = {stage.name: stage.label for stage in todo}
    running: dict[Future[dict[str, Any]], Stage] = {}
    with (
        Progress(*columns, console=console, disable=not console.is_terminal) as progress,
        ProcessPoolExecutor(
            min(workers, len(todo)), mp_context=context, initializer=_start_worker, initargs=(messages, stop)
        ) as pool,
    ):
        starting = progress.add_task("starting", total=None)
        try:
            while todo or running:
                for stage in list(todo):
                    if len(running) < workers and all(name in records for name in stage.needs.values()):
                        todo.remove(stage)
                        running[pool.submit(_work, root, stage, keys[stage.name], seed)] = stage
                finished, _ = wait(running, timeout=0.1, return_when=FIRST_COMPLETED)
                while not messages.empty():
                    name, done, total = messages.get()
                    progress.update(starting, visible=False)
                    if name not in bars:
                        bars[name] = progress.add_task(labels[name])
                    progress.update(bars[name], completed=done, total=total if total > 1 else None)
                for future in finished:
                    stage = running.pop(future)
                    records[stage.name] = {**future.result(), "reused": False}
                    if not console.is_terminal:
                        console.print(f"{stage.label}: done in {records[stage.name]['seconds']:.0f} s")
        except BaseException:
            stop.set()
            console.print(f"stopping; what is finished stays in {root} and is reused by the next run")
            raise
    return records


def write_prompts(root: Path, num_held_out: int) -> None:
    """`prompts.jsonl` to train on and `held_out.jsonl`, for runs of one's own on the demo's models."""
    import json

    from tea.demo.task import split_prompts
    from tea.rollouts.store import write_text

    for name, prompts in zip(("prompts", "held_out"), split_prompts(num_held_out), strict=True):
        text = "".join(json.dumps({"prompt": prompt}) + "\n" for prompt in prompts)
        write_text(text, root / f"{name}.jsonl")


def main(
    seed: int = 1,
    output_dir: Path = DEFAULT_OUTPUT,
    methods: Sequence[str] = DEFAULT_METHODS,
    config: DemoConfig | None = None,
    workers: int = 2,
) -> dict[str, Any]:
    """Run the demo for one seed, print its table, and write figure, numbers and models.

    Args:
        seed: of all training and sampling.
        output_dir: results go to `output_dir`/seed`seed`: `results.json`, `best_of_n.png`, the models and samples,
            and the prompts (`prompts.jsonl`, `held_out.jsonl`).
        methods: what to compare with the base model: "grpo", "tea", "prefix_tea", "ladder".
        config: sizes and hyper-parameters.
        workers: processes, of one thread each.

    Returns:
        The content of `results.json`.

    Raises:
        ValueError: a negative seed, an unknown method, or Ns above the number of samples.
        RuntimeError: another demo is writing there.
    """
    from filelock import FileLock, Timeout

    from tea.demo import report

    config = config or DemoConfig()
    if seed < 0:
        raise ValueError(f"seed must not be negative, got {seed}")
    if workers < 1:
        raise ValueError(f"workers must be at least 1, got {workers}")
    if not config.ns or max(config.ns) > config.num_samples or min(config.ns) < 1:
        raise ValueError(f"ns must be from 1 to num_samples={config.num_samples}, got {config.ns}")
    start = time.perf_counter()
    stages = plan(config, methods)
    keys = stage_keys(stages, seed, {kind: fingerprint(kind) for kind in _CODE})
    root = Path(output_dir) / f"seed{seed}"
    root.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(root / ".lock", timeout=0):
            write_prompts(root, config.held_out_prompts)
            records = _run_stages(root, stages, keys, seed, workers)
            results = report.collect(root, records, list(methods), config.ns, config.target_n)
            results = {
                "seed": seed,
                **report.provenance(),
                "seconds": time.perf_counter() - start,
                "config": asdict(config),
                **results,
            }
            report.write_json(results, root / "results.json")
            report.figure(results, root / "best_of_n.png")
    except Timeout:
        raise RuntimeError(f"another demo is writing to {root}: wait for it, or choose another output_dir") from None
    report.show(results, root)
    return results
