"""The tasks: prompts to train on, prompts held out, and a reward. One module each; `TASKS` is all of them."""

from __future__ import annotations

from benchmarks.language.tasks import chain_sum, gcd, lcm, sentence
from benchmarks.language.tasks.task import Task

TASKS: dict[str, Task] = {
    task.name: task for task in (chain_sum.TASK, lcm.ZERO_SHOT, lcm.TASK, gcd.TASK, sentence.TASK, sentence.LEARNED)
}
