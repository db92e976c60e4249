"""Tasks x methods x (m, N) x seeds, several side by side in a process per core, resumable.

    python -m benchmarks.training.run                       # every plan; hours on two cores
    python -m benchmarks.training.run main --tasks survey   # a plan, or part of it
    python -m benchmarks.training.run --quick               # the main plan at reduced size: `make bench-quick`

A run is a JSON row appended to results/rows.jsonl; a run whose row is there is not repeated, so that a command that was
interrupted goes on where it was. The learning rate of each method on each task is chosen on seed 0, which is not
reported, from the same grid for all: the one with the highest best-of-N on the held-out prompts of that seed.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from benchmarks.record import append_row, environment, finished_rows
from benchmarks.training.loop import (
    FEWER_SAMPLES,
    NUM_SAMPLES,
    VERSION,
    Member,
    Settings,
    run_stack,
    stackable,
)
from benchmarks.training.methods import ABLATIONS, MAIN, METHODS, OTHER_ROLLOUTS, PSI_ORACLE, Method
from benchmarks.training.policy import base_policy
from benchmarks.training.task import tasks

ROWS = Path(__file__).resolve().parent / "results" / "rows.jsonl"
ROLLOUTS = 256  # per update, wherever the number of rollouts is the same for all
M, N = 16, 128
PROMPTS = ROLLOUTS // M
LEARNING_RATES = (1e-4, 3e-4, 1e-3, 3e-3)
VALIDATION_SEED = 0
TUNING = "learning rates"
STACK = 8  # runs in one process, side by side
SEEDS = (1, 2, 3, 4, 5)  # looked at while the methods were developed; tables are of others
HELD_OUT = ("catalog", "dice")  # tasks that nothing was chosen on
QUICK_METHODS = ("grpo", "max_at_m", "bon_max_second", "tea_published", "eb_bon")


@dataclass(frozen=True)
class Cell:
    """One run.

    Attributes:
        plan: What it was asked for by; not part of its identity.
        task: Name of the task.
        method: Name of the method, or "base" for the base model, or "oracle" for max@N with m = N rollouts.
        m: Rollouts per prompt.
        n: The N that is trained for.
        prompts: Prompts per update.
        updates: Policy updates.
        seed: Of the task's tables, the base model, the order of the prompts and the sampling.
        learning_rate: None until it is chosen.
        version: Of the task.
        loop: Version of the loop.
    """

    plan: str
    task: str
    method: str
    m: int
    n: int
    prompts: int
    updates: int
    seed: int
    learning_rate: float | None = None
    version: int = 1
    loop: int = VERSION

    @property
    def key(self) -> tuple[Any, ...]:
        """What makes it the same run."""
        return tuple(value for name, value in asdict(self).items() if name != "plan")


def key_of(row: dict[str, Any]) -> tuple[Any, ...]:
    """:attr:`Cell.key` of a stored row."""
    return tuple(row[name] for name in Cell.__dataclass_fields__ if name != "plan")


def read_rows(path: Path = ROWS) -> list[dict[str, Any]]:
    """The stored rows of the tasks and the loop as they are now; a last line that a crash has cut off is left out.

    Those of earlier loops that chose the learning rates stay, see :func:`chosen_rates`.
    """
    rows = [{"version": 1, "loop": 1, **row} for row in finished_rows(path)]
    rows = [row for row in rows if row["task"] not in tasks() or row["version"] == tasks()[row["task"]].version]
    return [row for row in rows if row["loop"] == VERSION or row["seed"] == VALIDATION_SEED]


def method_of(cell: Cell) -> Method:
    """Of a cell that is trained."""
    return METHODS["max_at_m" if cell.method == "oracle" else cell.method]


def settings_of(cell: Cell) -> Settings:
    """Of a cell that is trained."""
    method = method_of(cell)
    assert cell.learning_rate is not None
    settings = Settings(cell.m, cell.prompts, cell.updates, cell.learning_rate, max_grad_norm=method.max_grad_norm)
    return replace(settings, **method.settings)


def together(cells: Iterable[Cell]) -> Iterator[list[Cell]]:
    """Cells that can be trained as one stack, at most :data:`STACK`, in the order of the first of each."""
    stacks: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in cells:
        shape = None if cell.method == "base" else stackable(settings_of(cell))
        stacks.setdefault((cell.task, cell.seed, cell.n > N, cell.method in ("base", PSI_ORACLE), shape), []).append(
            cell
        )
    for found in stacks.values():
        yield from (found[i : i + STACK] for i in range(0, len(found), STACK))


def execute(cells: list[Cell]) -> list[dict[str, Any]]:
    """The results of cells of one stack, in this process."""
    torch.set_num_threads(1)
    first = cells[0]
    samples = NUM_SAMPLES if first.n > N or first.method == "base" else FEWER_SAMPLES
    members = [
        Member(method_of(cell).advantages(cell.m, cell.n), settings_of(cell)) for cell in cells if cell.method != "base"
    ]
    return run_stack(tasks()[first.task], members, first.seed, samples)


def prepare(task: str, seed: int) -> None:
    """Pre-train and cache a base model."""
    torch.set_num_threads(1)
    base_policy(tasks()[task], seed)


def applicable(method: str, task: str) -> bool:
    """Whether the method makes sense on the task."""
    return not METHODS[method].binary_only or tasks()[task].reward_kind == "0/1"


# --- Plans: what to run, without learning rates. ---


def _cell(plan: str, task: str, method: str, seed: int, m: int = M, n: int = N, prompts: int | None = None) -> Cell:
    of = tasks()[task]
    taken = ROLLOUTS // m if prompts is None else prompts
    return Cell(plan, task, method, m, n, taken, of.updates, seed, version=of.version)


def _bases(names: list[str], seeds: Iterable[int]) -> list[Cell]:
    return [
        Cell("main", task, "base", 0, 0, 0, 0, seed, version=tasks()[task].version) for task in names for seed in seeds
    ]


def plan_main(names: list[str], seeds: Iterable[int]) -> list[Cell]:
    """Every method at m = 16, N = 128, and the base model."""
    return _bases(names, seeds) + [
        _cell("main", task, method, seed)
        for seed in seeds
        for task in names
        for method in [*MAIN, OTHER_ROLLOUTS, PSI_ORACLE]
        if applicable(method, task)
    ]


def plan_headroom(names: list[str], seeds: Iterable[int]) -> list[Cell]:
    """The oracle, max@N with m = N rollouts for each of as many prompts as max@16 gets; max@m with 16 and with 4."""
    cells = []
    for seed in list(seeds)[:3]:
        for task in names:
            cells.append(_cell("headroom", task, "oracle", seed, m=N, prompts=PROMPTS))
            cells.append(_cell("headroom", task, "max_at_m", seed, m=4, prompts=PROMPTS))
            cells.append(_cell("headroom", task, "max_at_m", seed))
    return cells


MISMATCH = ((4, 128), (8, 128), (16, 128), (16, 512), (64, 512))
MISMATCH_METHODS = ("grpo", "max_at_m", "tea_published", "eb_bon", "ladder_memory", PSI_ORACLE)


def plan_mismatch(names: list[str], seeds: Iterable[int]) -> list[Cell]:
    """max@k, which ends at k = m, against what extrapolates, at the same total number of rollouts."""
    return [
        _cell("mismatch", task, method, seed, m=m, n=n)
        for seed in seeds
        for task in names
        for m, n in MISMATCH
        for method in MISMATCH_METHODS
    ]


EFFICIENCY = {"grpo": (4, 16, 64, 128), "max_at_m": (4, 16, 32, 64, 128), "eb_bon": (4, 8, 16)}


def plan_efficiency(names: list[str], seeds: Iterable[int]) -> list[Cell]:
    """More and more rollouts for each of the same prompts."""
    return [
        _cell("efficiency", task, method, seed, m=m, prompts=PROMPTS)
        for seed in list(seeds)[:3]
        for task in names
        for method, sizes in EFFICIENCY.items()
        for m in sizes
    ]


def plan_ablations(names: list[str], seeds: Iterable[int]) -> list[Cell]:
    """One thing changed at a time."""
    return [
        _cell("ablations", task, method, seed) for seed in list(seeds)[:3] for task in names for method in ABLATIONS
    ]


# TEA's default: projected or as published, its tail's fraction and family, the scale.
DEFAULTS = (
    "max_at_m",
    "tea_projected",
    "tea_published",
    "tea_projected, tail auto",
    "tea_published, tail auto",
    "tea_published, over group std",
    "eb_bon",
    "eb_bon, over group std",
)
LONGER = {300: DEFAULTS[:4], 1000: DEFAULTS[1:3]}  # updates, on LONG_TASKS
LONG_TASKS = ("blend", "venture")


def plan_defaults(names: list[str], seeds: Iterable[int]) -> list[Cell]:
    """What TEA's default is to be, at m = 16, 8 and 64."""
    cells = []
    for seed in seeds:
        cells += [replace(base, plan="defaults") for base in _bases(names, [seed])]
        cells += [_cell("defaults", task, method, seed) for task in names for method in DEFAULTS]
        # With 8 rollouts a quarter is two, and TEA, projected or not, is max@m.
        few = ("max_at_m", "tea_published, tail auto", "eb_bon")
        cells += [_cell("defaults", task, method, seed, m=8) for task in names for method in few]
        cells += [
            _cell("defaults", task, method, seed, m=64)
            for task in names
            for method in ("tea_projected", "tea_published", *few)
        ]
    return cells


def plan_longer(names: list[str], seeds: Iterable[int]) -> list[Cell]:
    """The same for longer than the other tables: a policy that makes bad responses on purpose takes time."""
    return [
        replace(_cell("longer", task, method, seed), updates=updates)
        for updates, methods in LONGER.items()
        for seed in seeds
        for task in LONG_TASKS
        if task in names
        for method in methods
    ]


PLANS: dict[str, Callable[[list[str], Iterable[int]], list[Cell]]] = {
    "main": plan_main,
    "headroom": plan_headroom,
    "mismatch": plan_mismatch,
    "ablations": plan_ablations,
    "efficiency": plan_efficiency,
    "defaults": plan_defaults,
    "longer": plan_longer,
}


_TUNED_AS = {"oracle": "max_at_m", PSI_ORACLE: "max_at_m", "max_po": "max_at_m", "max_rl": "grpo"}


def tuned_as(method: str, task: str) -> str:
    """The method whose learning rate another takes: its own in the main table, else its parent's there.

    On the held-out tasks, all that aims at the best of several takes that of max@m.
    """
    own = _TUNED_AS.get(method, method.split(", ")[0])
    return "max_at_m" if task in HELD_OUT and own != "grpo" else own


def tuned_for(cell: Cell) -> tuple[str, str, int]:
    """Task, method and updates of the runs that choose its learning rate: longer ones take that of the full run."""
    return cell.task, tuned_as(cell.method, cell.task), min(cell.updates, tasks()[cell.task].updates)


def tuning_cells(cells: list[Cell], rates: Iterable[float]) -> list[Cell]:
    """The runs that choose the learning rates: (m, N) = (16, 128), at the validation seed."""
    wanted = {tuned_for(cell) for cell in cells if cell.method != "base"}
    return [
        replace(_cell("tuning", task, method, VALIDATION_SEED), updates=updates, learning_rate=rate)
        for task, method, updates in sorted(wanted)
        for rate in rates
    ]


def chosen_rates(rows: list[dict[str, Any]], rates: Iterable[float]) -> dict[tuple[str, str, int], float]:
    """(task, method, updates) to the learning rate with the highest best-of-N at the validation seed.

    Of the latest loop with rows of all rates: the optimizer divides by the gradients' size anyway, so that choices made
    at another scale of the advantages stay good ones.
    """
    found: dict[tuple[str, str, int], dict[int, dict[float, float]]] = {}
    for row in rows:
        if row["seed"] == VALIDATION_SEED and row["learning_rate"] in rates and (row["m"], row["n"]) == (M, N):
            name = (row["task"], row["method"], row["updates"])
            of = found.setdefault(name, {}).setdefault(row["loop"], {})
            of[row["learning_rate"]] = row["curve"][str(N)]
    chosen = {}
    for name, by_loop in found.items():
        tried = by_loop[max(by_loop, key=lambda loop: (len(by_loop[loop]), loop))]
        chosen[name] = max(tried, key=lambda rate: (tried[rate], rate))
    return chosen


# --- Running them. ---


def run_cells(
    cells: list[Cell], path: Path, workers: int, what: str, deadline: float | None = None, again: bool = False
) -> None:
    """Run those whose rows are not there yet; with ``again``, learning rates too that an earlier loop has chosen."""
    stored = read_rows(path)
    done = {key_of(row) for row in stored}
    if what == TUNING and not again:  # what was chosen by an earlier loop is not chosen again
        done |= {key_of({**row, "loop": VERSION}) for row in stored}
    todo = list({cell.key: cell for cell in cells if cell.key not in done}.values())
    if not todo:
        return
    found = environment()
    common = {**found, "command": shlex.join(["python", "-m", "benchmarks.training.run", *sys.argv[1:]])}
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        bases = sorted({(cell.task, cell.seed) for cell in todo}, key=lambda pair: (pair[1], pair[0]))
        list(tqdm(pool.map(prepare, *zip(*bases, strict=True)), total=len(bases), desc=f"{what}: base models"))
        queue = together(todo)
        running: dict[Any, list[Cell]] = {}
        with tqdm(total=len(todo), desc=what, smoothing=0.05) as bar:
            while True:
                while len(running) < workers and (deadline is None or time.time() < deadline):
                    stack = next(queue, None)
                    if stack is None:
                        break
                    running[pool.submit(execute, stack)] = stack
                if not running:
                    break
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    for cell, result in zip(running.pop(future), future.result(), strict=True):
                        row = {**asdict(cell), **result, **common, "time": time.strftime("%Y-%m-%dT%H:%M:%S")}
                        append_row(path, row)
                        bar.update()


def main() -> None:
    """The command."""
    known = tasks()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("plans", nargs="*", metavar="PLAN", help=f"of {', '.join(PLANS)}; default: all")
    parser.add_argument("--tasks", nargs="+", choices=sorted(known), default=sorted(known))
    parser.add_argument("--methods", nargs="+", choices=["base", "oracle", *METHODS], help="default: those of the plan")
    parser.add_argument(
        "--sizes", nargs="+", metavar="M,N", help="rollouts per prompt and N; default: those of the plan"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--output", type=Path, default=None, help="the JSONL file")
    parser.add_argument("--quick", action="store_true", help="five methods, 40 updates, two seeds, one learning rate")
    parser.add_argument("--retune", action="store_true", help="choose learning rates anew that an earlier loop chose")
    parser.add_argument("--minutes", type=float, help="start no run after so many minutes; resume later")
    arguments = parser.parse_args()
    unknown = [plan for plan in arguments.plans if plan not in PLANS]
    if unknown:
        parser.error(f"unknown plan {unknown[0]!r}, known are {', '.join(PLANS)}")
    if VALIDATION_SEED in arguments.seeds:
        parser.error(f"--seeds: {VALIDATION_SEED} is the seed that learning rates are chosen on")
    path = arguments.output or (ROWS.with_name("quick.jsonl") if arguments.quick else ROWS)
    deadline = time.time() + 60 * arguments.minutes if arguments.minutes else None
    for plan in arguments.plans or (["main"] if arguments.quick else list(PLANS)):
        seeds = arguments.seeds[:2] if arguments.quick else arguments.seeds
        cells = PLANS[plan](arguments.tasks, seeds)
        if arguments.methods:
            cells = [cell for cell in cells if cell.method in arguments.methods]
        if arguments.sizes:
            cells = [cell for cell in cells if cell.method == "base" or f"{cell.m},{cell.n}" in arguments.sizes]
        rates: tuple[float, ...] = LEARNING_RATES
        if arguments.quick:
            cells = [cell for cell in cells if cell.method in ("base", *QUICK_METHODS)]
            cells = [replace(cell, updates=min(cell.updates, 40)) for cell in cells]
            rates = (1e-3,)
        if len(rates) > 1:
            run_cells(tuning_cells(cells, rates), path, arguments.workers, TUNING, deadline, arguments.retune)
        chosen = chosen_rates(read_rows(path), rates)
        final = []
        for cell in cells:
            if cell.method != "base":
                rate = rates[0] if len(rates) == 1 else chosen.get(tuned_for(cell))
                if rate is None:  # out of time
                    continue
                cell = replace(cell, learning_rate=rate)
            final.append(cell)
        run_cells(final, path, arguments.workers, plan, deadline)


if __name__ == "__main__":
    main()
