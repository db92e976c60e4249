"""Least common multiple of two numbers up to 30, from reasoning-gym."""

from benchmarks.language.tasks.task import Task, gym_questions

TASK = Task("lcm", gym_questions("lcm", min_value=1, max_value=30), max_completion_length=6, headroom="some")
