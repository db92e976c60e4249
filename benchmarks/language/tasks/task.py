"""What a task is, and the prompt that a question becomes."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

NUM_TRAIN, NUM_HELD_OUT = 300, 64


@dataclass(frozen=True)
class Task:
    """A task: prompts of plain text, answered in one line.

    Args:
        name: Of the task.
        questions: Given a number, so many different (question, answer) pairs, always the same, after one more that is
            the solved example.
        max_completion_length: Tokens of the longest answer, with the end of the line.
        headroom: What is left to win by best-of-128: "some", or "none" where the base model solves nearly all.
        solved_example: Put the solved example before every question. Without it the model has to learn what an answer
            looks like, too.
        cue: What the prompt ends with, before a colon.
        reward: What training and selection see: a function of rewards.py, or "learned".
        gold: What counts, a function of rewards.py, where the reward is only a model of it.
        held_out: How many of the held-out prompts are sampled.
    """

    name: str
    questions: Callable[[int], list[tuple[str, str]]]
    max_completion_length: int
    headroom: str
    solved_example: bool = True
    cue: str = "Answer"
    reward: str = "right_answer"
    gold: str | None = None
    held_out: int = NUM_HELD_OUT

    @property
    def graded(self) -> bool:
        """Whether rewards are more than right or wrong."""
        return self.reward != "right_answer"

    def rows(self) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
        """Training and held-out rows: ``prompt`` and ``answer``."""
        (question, answer), *pairs = self.questions(1 + NUM_TRAIN + NUM_HELD_OUT)
        example = f"{question}\n{self.cue}: {answer}\n\n" if self.solved_example else ""
        rows = [{"prompt": f"{example}{q}\n{self.cue}:", "answer": a} for q, a in pairs]
        return rows[NUM_HELD_OUT:], rows[: min(self.held_out, NUM_HELD_OUT)]


def gym_questions(name: str, **options: int) -> Callable[[int], list[tuple[str, str]]]:
    """Different questions of a task of reasoning-gym with its own answers; see `Task`.

    Two questions with the same words in another order, such as 3 + 4 and 4 + 3, are one.
    """

    def questions(count: int) -> list[tuple[str, str]]:
        import reasoning_gym

        found: dict[str, tuple[str, str]] = {}
        for item in reasoning_gym.create_dataset(name, size=20 * count, seed=1, **options):
            question = item["question"].strip()
            found.setdefault(" ".join(sorted(re.findall(r"[\w+*/-]+", question))), (question, str(item["answer"])))
            if len(found) == count:
                return list(found.values())
        raise ValueError(f"reasoning_gym's {name} with {options} has only {len(found)} different questions of {count}")

    return questions
