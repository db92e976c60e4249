"""How long the estimators take: against TRL's GRPO formula, a plain Python loop, and the bytes that must move.

    python -m benchmarks.speed.run                 # CPU, and the GPU where there is one
    python -m benchmarks.speed.run --device cuda --compile 64x16 1024x16 8192x64

All functions take turns, round after round, so that a busy machine slows them alike; a cell is the median over the
rounds, with the quartiles in the JSON. Writes results/<device>.json and the tables of README.md.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from trl.trainer.utils import nanstd

import tea
from benchmarks.record import describe, environment, replace_section, table, write_json
from tests.reference import estimators as reference

HERE = Path(__file__).resolve().parent
SHAPES = ("64x16", "1024x16", "8192x64")
TARGET_N = 128
ROUNDS = 9
SLOW_ROUNDS = 3  # of what takes over half a second
# A plain Python loop is timed on this many prompts and multiplied up.
LOOP_PROMPTS = 32

Function = Callable[[Tensor], Tensor]


def trl_grpo(rewards: Tensor) -> Tensor:
    """The advantages as TRL's GRPOTrainer computes them."""
    mean = torch.nanmean(rewards, dim=1, keepdim=True)
    return (rewards - mean) / (nanstd(rewards, dim=1, keepdim=True) + 1e-4)


def functions() -> dict[str, Function]:
    """Everything that is timed. 0/1 estimators get the same rewards, thresholded beforehand."""
    options: dict[str, dict[str, Any]] = {
        "max_at_k": {"k": 4},
        "max_po": {"k": 4},
        "passk_binary": {"k": 4},
        "order_stat": {"rank_weights": (0.5, 0.5, 0.0, 0.0)},
    }
    found: dict[str, Function] = {"TRL's GRPO formula": trl_grpo, "sort": lambda r: r.sort(dim=1).values}
    projected = []
    for spec in tea.list_estimators():
        bound = dict(options.get(spec.name, {}))
        if "target_n" in spec.parameters:
            bound["target_n"] = TARGET_N
        found[spec.name] = tea.get_estimator(spec.name, **{**bound, "monotone": False})
        if spec.gaussian_tail:
            projected.append((spec.name, tea.get_estimator(spec.name, **{**bound, "monotone": True})))
    for name, estimator in projected:
        found[f"{name}, monotone"] = estimator
    found["monotone_projection alone"] = lambda r: tea.monotone_projection(r * r, r)
    return found


def grpo_loop(group: list[float]) -> list[float]:
    mean = math.fsum(group) / len(group)
    std = statistics.stdev(group)
    return [(r - mean) / (std + 1e-4) for r in group]


def ladder_loop(group: list[float]) -> list[float]:
    """Two rungs by their definition as sums over pairs: the best of k and the best of the k - 1 others."""
    m = len(group)
    low, high = max(m // 4, 2), m
    c = [reference.expected_max_normal(k) for k in (low, high)]
    share = (reference.expected_max_normal(TARGET_N) - c[0]) / (c[1] - c[0])
    ranked = sorted(range(m), key=group.__getitem__)
    advantages = [0.0] * m
    for k, beta in ((low, 1.0 - share), (high, share)):
        for position, i in enumerate(ranked):
            total = 0.0
            for below in range(k - 2, position):
                total += math.comb(below, k - 2) * (group[i] - group[ranked[below]])
            advantages[i] += beta * k * total / math.comb(m - 1, k - 1)
    return advantages


def loops(m: int) -> dict[str, Callable[[list[float]], list[float]]]:
    sizes = sorted({math.floor(m * share + 0.5) for share in (0.5, 0.625, 0.75)} | {m - 1})
    return {
        "TRL's GRPO formula": grpo_loop,
        "tea": lambda group: reference.tea(group, TARGET_N, 0.25),
        "prefix_tea": lambda group: reference.prefix_tea(group, TARGET_N, 0.25, sizes, 2, 2.0),
        "ladder": ladder_loop,
    }


def make_rewards(name: str, prompts: int, m: int, device: str) -> Tensor:
    rewards = torch.randn(prompts, m, generator=torch.Generator().manual_seed(0))
    return (rewards > 0.5).float().to(device) if name in ("pass_at_n", "passk_binary", "max_rl") else rewards.to(device)


def seconds(function: Function, rewards: Tensor, repeats: int) -> float:
    """Seconds per call, averaged over ``repeats`` calls."""
    cuda = rewards.is_cuda
    if cuda:
        torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(repeats):
        function(rewards)
    if cuda:
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / repeats


def take_turns(timed: dict[str, Function], inputs: dict[str, Tensor]) -> dict[str, dict[str, float]]:
    repeats = {}
    for name, function in timed.items():
        function(inputs[name])
        once = seconds(function, inputs[name], 1)
        repeats[name] = max(1, min(1000, math.ceil(0.02 / once)))
    samples: dict[str, list[float]] = {name: [] for name in timed}
    for turn in range(ROUNDS):
        for name, function in timed.items():
            if turn >= SLOW_ROUNDS and samples[name][0] > 0.5:
                continue
            samples[name].append(seconds(function, inputs[name], repeats[name]))
    result = {}
    for name, values in samples.items():
        low, middle, high = statistics.quantiles(values, n=4)
        result[name] = {"median": middle, "q1": low, "q3": high}
    return result


def count_kernels(function: Function, rewards: Tensor) -> int:
    """GPU kernels of one call, copies and fills included."""
    function(rewards)
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        function(rewards)
        torch.cuda.synchronize()
    return sum(event.device_type == torch.autograd.DeviceType.CUDA for event in profile.events())


def stalls(function: Function, rewards: Tensor) -> bool:
    """Whether a call waits for the GPU."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        function(rewards)
    except RuntimeError:
        return True
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return False


def measure(device: str, shapes: list[str], compiled: list[str]) -> dict[str, Any]:
    cells = []
    for shape in shapes:
        prompts, m = map(int, shape.split("x"))
        inputs = {name: make_rewards(name, prompts, m, device) for name in functions()}
        source = torch.randn(prompts, m, device=device)
        target = torch.empty_like(source)

        def copy(_: Tensor, source: Tensor = source, target: Tensor = target) -> Tensor:
            return target.copy_(source)

        for mode in ("eager", "compiled") if shape in compiled else ("eager",):
            timed: dict[str, Function] = {"copy": copy, **functions()}
            inputs["copy"] = source
            if mode == "compiled":
                torch.compiler.reset()
                # Every estimator is a call of the same method, which is compiled once for each.
                torch._dynamo.config.recompile_limit = 256
                timed = {
                    name: function if name == "copy" else torch.compile(function, fullgraph=True, dynamic=False)
                    for name, function in timed.items()
                }
            with torch.no_grad():
                for name, times in take_turns(timed, inputs).items():
                    cell: dict[str, Any] = {"shape": shape, "mode": mode, "name": name, **times}
                    if device == "cuda":
                        cell["kernels"] = count_kernels(timed[name], inputs[name])
                        cell["stalls"] = stalls(timed[name], inputs[name])
                    cells.append(cell)
            print(f"{device} {shape} {mode} done", flush=True)
        if device == "cpu":
            for name, loop in loops(m).items():
                groups = inputs["tea"][:LOOP_PROMPTS].tolist()
                loop(groups[0])  # constants are cached
                start = time.perf_counter()
                for group in groups:
                    loop(group)
                taken = (time.perf_counter() - start) / len(groups) * prompts
                cells.append({"shape": shape, "mode": "loop", "name": name, "median": taken, "prompts": len(groups)})
    found = environment()
    found["threads"] = torch.get_num_threads()
    if device == "cuda":
        found["gpu"] = torch.cuda.get_device_name()
    return {"environment": found, "rounds": ROUNDS, "target_n": TARGET_N, "dtype": "float32", "cells": cells}


def render(result: dict[str, Any], device: str) -> str:
    cells = {(c["shape"], c["mode"], c["name"]): c for c in result["cells"]}
    shapes = list(dict.fromkeys(c["shape"] for c in result["cells"]))
    names = list(dict.fromkeys(c["name"] for c in result["cells"]))
    parts = []
    for shape in shapes:
        prompts, m = map(int, shape.split("x"))
        modes = [mode for mode in ("eager", "compiled") if (shape, mode, "tea") in cells]
        header = ["", *(f"{mode}, µs" for mode in modes), *(f"{mode}, × GRPO formula" for mode in modes)]
        header += ["× copy, best"] + (["loop, × slower"] if device == "cpu" else ["kernels", "waits"])
        rows = []
        for name in names:
            times = [cells.get((shape, mode, name)) for mode in modes]
            if not all(times):
                continue
            base = [cells[shape, mode, "TRL's GRPO formula"]["median"] for mode in modes]
            medians = [cell["median"] for cell in times if cell]
            copy = cells[shape, "eager", "copy"]["median"]
            row = [name, *(f"{t * 1e6:,.0f}" for t in medians)]
            row += [f"{t / b:.1f}" for t, b in zip(medians, base, strict=True)]
            row.append(f"{min(medians) / copy:.1f}")
            if device == "cpu":
                loop = cells.get((shape, "loop", name))
                row.append(f"{loop['median'] / min(medians):,.0f}" if loop else "")
            else:
                row.append(" / ".join(str(cell["kernels"]) for cell in times if cell))
                row.append("yes" if any(cell["stalls"] for cell in times if cell) else "no")
            rows.append(row)
        moved = 8 * prompts * m
        parts.append(f"({prompts}, {m}): {moved / 1e6:.2f} MB to read and write\n\n" + table(header, rows))
    found = result["environment"]
    where = (
        f"{found['gpu']}; " if device == "cuda" else f"{found['threads']} thread{'s' if found['threads'] > 1 else ''}; "
    )
    rounds = f"median of {result['rounds']} rounds ({SLOW_ROUNDS} of what takes over half a second)"
    parts.append(f"{where}float32, {rounds}. {describe(found)}")
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), help="default: cpu, then cuda where there is one")
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), metavar="PROMPTSxGENERATIONS")
    parser.add_argument(
        "--compile",
        nargs="*",
        default=[SHAPES[-1]],
        metavar="PROMPTSxGENERATIONS",
        help="shapes to time through torch.compile too (seconds to compile each function)",
    )
    parser.add_argument(
        "--threads", type=int, default=1, help="CPU threads; with more, a busy machine adds its own waits"
    )
    parser.add_argument("--output", type=Path, default=HERE / "results", help="folder of the JSON")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    devices = [arguments.device] if arguments.device else ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    for device in devices:
        result = measure(device, arguments.shapes, arguments.compile)
        arguments.output.mkdir(parents=True, exist_ok=True)
        write_json(arguments.output / f"{device}.json", result)
        if arguments.output == HERE / "results":
            replace_section(HERE / "README.md", device, "\n" + render(result, device) + "\n")
        print(render(result, device))


if __name__ == "__main__":
    main()
