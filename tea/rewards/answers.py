"""The answer that a completion gives, as text to be compared: what majority vote counts."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?(?:[eE][-+]?\d+)?")


def _boxed(text: str) -> str | None:
    r"""Content of the last ``\boxed{...}``, braces within it matched."""
    start = text.rfind(r"\boxed{")
    if start < 0:
        return None
    depth = 0
    for i in range(start + len(r"\boxed{") - 1, len(text)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return text[start + len(r"\boxed{") : i].strip()
    return None  # cut off before it closed


def _last_number(text: str) -> str | None:
    found = _NUMBER.findall(text)
    return repr(float(found[-1].replace(",", ""))) if found else None  # 1,000 and 1000.0 are one answer


def _last_line(text: str) -> str | None:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else None


EXTRACTORS: dict[str, Callable[[str], str | None]] = {
    "boxed": _boxed,
    "last_number": _last_number,
    "last_line": _last_line,
    "text": lambda text: text.strip() or None,
}


def extract_answers(completions: Sequence[str], how: str) -> list[str | None]:
    """The answer of each completion, None where it has none.

    Args:
        completions: texts.
        how: a name in :data:`EXTRACTORS`, or a regular expression: the first group (or all) of its last match.

    Raises:
        ValueError: `how` is neither.
    """
    if how in EXTRACTORS:
        return [EXTRACTORS[how](text) for text in completions]
    try:
        pattern = re.compile(how)
    except re.error as error:
        raise ValueError(
            f"--answer must be {', '.join(EXTRACTORS)} or a regular expression, got {how!r} ({error})"
        ) from None
    matches = [list(pattern.finditer(text)) for text in completions]
    return [found[-1].group(1 if pattern.groups else 0).strip() if found else None for found in matches]
