"""Least common multiple of two numbers up to 30, from reasoning-gym, with a solved example and without."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.language.tasks.task import Task, gym_questions

TASK = Task("lcm", gym_questions("lcm", min_value=1, max_value=30), max_completion_length=6, headroom="some")
ZERO_SHOT = replace(TASK, name="lcm_zero_shot", solved_example=False)
