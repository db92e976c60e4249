"""Greatest common divisor of two numbers up to 120: the base model's best of 128 solves nearly all."""

from __future__ import annotations

import math
import random

from benchmarks.language.tasks.task import Task


def questions(count: int) -> list[tuple[str, str]]:
    """See `Task`."""
    generator = random.Random(1234)
    found = {"gcd of 84 and 36": "12"}
    while len(found) < count:
        a, b = generator.randint(2, 120), generator.randint(2, 120)
        if a < b:
            found.setdefault(f"gcd of {a} and {b}", str(math.gcd(a, b)))
    return list(found.items())


TASK = Task("gcd", questions, max_completion_length=4, headroom="none")
