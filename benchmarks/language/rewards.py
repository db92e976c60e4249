"""The reward of tasks with one right answer."""

from __future__ import annotations


def right_answer(completions: list[str], answer: list[str], **columns: object) -> list[float]:
    """1 where the completion, a line, is the answer and nothing else; else 0."""
    return [float(text.strip() == right) for text, right in zip(completions, answer, strict=True)]
