"""Sum or difference of two numbers of one or two digits, from reasoning-gym, without a solved example."""

from benchmarks.language.tasks.task import Task, gym_questions

TASK = Task(
    "chain_sum",
    gym_questions("chain_sum", min_terms=2, max_terms=2, min_digits=1, max_digits=2),
    max_completion_length=5,
    headroom="some",
    solved_example=False,
)
