"""Verifiers: 0/1 rewards from comparing the completion with the data set's `answer` column.

Each follows TRL's reward signature and gives 1.0 or 0.0 (None where the answer is None).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

from tea.rewards.base import RewardFunction, Text, completion_texts

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d+)?")


def exact_match(
    prompts: Sequence[Text], completions: Sequence[Text], answer: Sequence[Any], **kwargs: Any
) -> list[float | None]:
    """1.0 where the completion, stripped of white space at both ends, is the answer."""
    return _compare(completions, answer, lambda text, target: text.strip() == target.strip())


def contains_answer(
    prompts: Sequence[Text], completions: Sequence[Text], answer: Sequence[Any], **kwargs: Any
) -> list[float | None]:
    """1.0 where the answer stands somewhere in the completion."""
    return _compare(completions, answer, lambda text, target: target.strip() in text)


def last_number(
    prompts: Sequence[Text], completions: Sequence[Text], answer: Sequence[Any], **kwargs: Any
) -> list[float | None]:
    r"""1.0 where the last number in the completion equals the answer's last number (1,000 = 1000.0).

    Raises:
        ValueError: an answer without a number in it.
    """

    def same(text: str, target: str) -> bool:
        wanted = _NUMBER.findall(target)
        if not wanted:
            raise ValueError(f"last_number needs a number in the answer column, got {target!r}")
        found = _NUMBER.findall(text)
        return bool(found) and float(found[-1].replace(",", "")) == float(wanted[-1].replace(",", ""))

    return _compare(completions, answer, same)


def _compare(
    completions: Sequence[Text], answer: Sequence[Any], same: Callable[[str, str], bool]
) -> list[float | None]:
    return [
        None if target is None else float(same(text, str(target)))
        for text, target in zip(completion_texts(completions), answer, strict=True)
    ]


VERIFIERS: dict[str, RewardFunction] = {
    "exact_match": exact_match,
    "contains_answer": contains_answer,
    "last_number": last_number,
}
"""The verifiers by the name that :func:`tea.rewards.load_reward` and the command line take."""
