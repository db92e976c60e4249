"""How many operations an estimator is made of: each is a kernel launch on a GPU.

    python -m benchmarks.speed.operations   # about ten minutes, for compiling those that extrapolate

Eager: what torch dispatches that computes something (no views, no empty tensors) on the path of an accelerator, where
no value is read back. Compiled: the calls that the code of ``torch.compile(fullgraph=True)`` makes, fused kernels and
library calls such as a sort; counted on the CPU, whose scheduler fuses by the same rules. Counts are exact: they have
no spread. Writes results/operations.json and the table of README.md.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from contextlib import ExitStack
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.record import describe, environment, replace_section, table, write_json
from benchmarks.speed.run import HERE, Function, functions, make_rewards

SHAPE = (64, 16)
NO_KERNEL = {"view", "_unsafe_view", "unsqueeze", "squeeze", "slice", "select", "expand", "t", "transpose", "alias"}
NO_KERNEL |= {"detach", "unbind", "split", "permute", "as_strided", "lift_fresh", "empty", "empty_like", "unsafe_split"}
COMPILED = ("tea, monotone", "eb_bon", "ladder, monotone", "prefix_tea, monotone", "max_at_k", "pass_at_n")


class CountOperations(TorchDispatchMode):
    """Counts what is dispatched, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function._schema.name.split("::")[1]
        self.counts[name] += name not in NO_KERNEL
        return function(*args, **(kwargs or {}))


def count_eager(function: Function, rewards: Tensor) -> int:
    """Operations of one call on the path of an accelerator."""
    with ExitStack() as stack:
        for module in ("tensors", "group", "projection", "binary", "baselines", "empirical_bayes", "prefix"):
            name = f"tea.estimators.{module}.values_are_readable"
            stack.enter_context(mock.patch(name, return_value=False))
        function(rewards)  # constants are computed and uploaded once
        with CountOperations() as mode:
            function(rewards)
    return sum(mode.counts.values())


def count_compiled(function: Function, rewards: Tensor) -> int:
    """Calls in the body of the compiled code."""
    from torch._inductor.utils import run_and_get_code

    torch.compiler.reset()
    _, sources = run_and_get_code(torch.compile(function, fullgraph=True, dynamic=False), rewards)
    body = "\n".join(source[source.index("def call") :] for source in sources)
    # An assignment or a statement that calls: cpp_fused_..., extern_kernels.mm, torch.ops.aten.sort.
    return len(re.findall(r"^\s+(?:\w+ = )?(?:cpp_fused\w*|extern_kernels\.\w+|torch\.ops\.[\w.]+)\(", body, re.M))


def render(result: dict[str, Any]) -> str:
    rows = [[c["name"], str(c["eager"]), str(c.get("compiled", ""))] for c in result["cells"]]
    return table(["", "eager", "compiled"], rows) + f"\n\n{SHAPE}, float32. {describe(result['environment'])}"


def main() -> None:
    timed = {name: function for name, function in functions().items() if name != "sort"}
    cells = []
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        for name, function in timed.items():
            rewards = make_rewards(name, *SHAPE, "cpu")
            cell: dict[str, Any] = {"name": name, "eager": count_eager(function, rewards)}
            if name in COMPILED:
                cell["compiled"] = count_compiled(function, rewards)
            print(cell, flush=True)
            cells.append(cell)
    result = {"environment": environment(), "shape": SHAPE, "cells": cells}
    write_json(HERE / "results" / "operations.json", result)
    replace_section(HERE / "README.md", "operations", "\n" + render(result) + "\n")


if __name__ == "__main__":
    main()
