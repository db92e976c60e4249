r"""Checks of form: regular expression, length, JSON, and mathematical equality.

Names, as :func:`tea.rewards.load_reward` and the command line take them:

    regex:PATTERN               1.0 where the pattern is found in the completion (``\A...\Z`` for all of it)
    think_answer_format         1.0 for <think>...</think> and then <answer>...</answer>, once each and nothing else
    length:50-200               1.0 for 50 to 200 words; length:-200, length:50-; length:100-900chars for characters
    json_schema:FILE            1.0 for JSON, bare or in a fenced block, that fits the schema in the file
    json_schema                 the same with each row's schema, from column "schema"
    math_verify                 1.0 where the final answer equals column "answer" (or "solution") mathematically
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tea.rewards.base import Text, completion_texts

_THINK_ANSWER = (
    r"\A\s*<think>(?:(?!</?think>|</?answer>).)*</think>\s*<answer>(?:(?!</?think>|</?answer>).)*</answer>\s*\Z"
)
_FENCED = re.compile(r"```[ \t]*(?:json)?[ \t]*\n(.*?)```", re.DOTALL | re.IGNORECASE)
_LENGTH = re.compile(r"(\d*)-(\d*)(words|chars|characters)?")


class TextCheck:
    """1.0 where a function of the completion's text is true, else 0.0.

    Args:
        check: from the text to true or false.
        name: name of the reward.
        source: what it checks, for the record; also tells it from other checks.
    """

    def __init__(self, check: Callable[[str], bool], name: str, source: str) -> None:
        self.check = check
        self.source = self.fingerprint = source
        self.__name__ = name

    def __call__(self, prompts: Sequence[Text], completions: Sequence[Text], **kwargs: Any) -> list[float | None]:
        """Score each completion; see :class:`tea.rewards.RewardFunction`."""
        return [float(self.check(text)) for text in completion_texts(completions)]


def regex_reward(pattern: str) -> TextCheck:
    """1.0 where `pattern` is found (``.`` matches line breaks, too).

    Raises:
        ValueError: not a regular expression.
    """
    try:
        compiled = re.compile(pattern, re.DOTALL)
    except re.error as error:
        raise ValueError(f"regex:{pattern} is not a regular expression: {error}") from None
    return TextCheck(lambda text: compiled.search(text) is not None, "regex", f"regex:{pattern}")


def think_answer_format_reward() -> TextCheck:
    """1.0 for <think>...</think><answer>...</answer>, once each, with nothing but white space around them."""
    compiled = re.compile(_THINK_ANSWER, re.DOTALL)
    return TextCheck(lambda text: compiled.match(text) is not None, "think_answer_format", "think_answer_format")


def length_reward(bounds: str) -> TextCheck:
    """1.0 where the completion is as long as `bounds` say, "50-200", "-200", "50-" words or "100-900chars".

    Raises:
        ValueError: other bounds than these.
    """
    match = _LENGTH.fullmatch(bounds.replace(" ", ""))
    if match is None or not (match[1] or match[2]):
        raise ValueError(f"length:{bounds} should read length:MIN-MAX, in words, or length:MIN-MAXchars")
    least, most = int(match[1] or 0), int(match[2]) if match[2] else None
    if most is not None and most < least:
        raise ValueError(f"length:{bounds} allows no length")
    characters = (match[3] or "words") != "words"

    def check(text: str) -> bool:
        length = len(text) if characters else len(text.split())
        return length >= least and (most is None or length <= most)

    return TextCheck(check, "length", f"length:{bounds}")


def find_json(text: str) -> Any:
    """The JSON that `text` is, or that its last fenced block is.

    Raises:
        ValueError: neither is JSON.
    """
    blocks = _FENCED.findall(text)
    return json.loads(blocks[-1] if blocks else text)


class JSONSchemaReward:
    """1.0 where the completion is JSON that fits a schema, else 0.0; None where a row has no schema. Extra ``verify``.

    Args:
        schema: a JSON schema; None: each row's own, from column "schema" (a mapping or its JSON).

    Raises:
        ImportError: jsonschema is not installed.
        ValueError: not a JSON schema.
    """

    def __init__(self, schema: Any = None) -> None:
        try:
            import jsonschema  # noqa: F401
        except ImportError as error:
            raise ImportError(
                f"json_schema needs the package jsonschema: pip install 'tea-rl[verify]' ({error})"
            ) from None
        self._validator = None if schema is None else _validator(schema)
        self.source = "json_schema"
        self.fingerprint = json.dumps(schema, sort_keys=True)
        self.__name__ = "json_schema"

    @classmethod
    def from_file(cls, path: str) -> JSONSchemaReward:
        """With the schema in a file.

        Raises:
            ValueError: there is no such file, or no JSON in it.
        """
        if not Path(path).is_file():
            raise ValueError(f"json_schema: there is no file {path!r}")
        try:
            return cls(json.loads(Path(path).read_text(encoding="utf-8")))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is not JSON: {error}") from None

    def __call__(
        self, prompts: Sequence[Text], completions: Sequence[Text], schema: Sequence[Any] | None = None, **kwargs: Any
    ) -> list[float | None]:
        """Score each completion; see :class:`tea.rewards.RewardFunction`.

        Raises:
            ValueError: there is neither one schema for all nor a column "schema", or a row's is not one.
        """
        texts = completion_texts(completions)
        if self._validator is not None:
            return [self._score(text, self._validator) for text in texts]
        if schema is None:
            raise ValueError("reward 'json_schema' needs a column 'schema', or one for all: json_schema:FILE")
        return [
            None if row is None else self._score(text, _validator(json.loads(row) if isinstance(row, str) else row))
            for text, row in zip(texts, schema, strict=True)
        ]

    @staticmethod
    def _score(text: str, validator: Any) -> float:
        try:
            return float(validator.is_valid(find_json(text)))
        except (ValueError, RecursionError):
            return 0.0


def _validator(schema: Any) -> Any:
    from jsonschema import SchemaError
    from jsonschema.validators import validator_for

    cls = validator_for(schema)
    try:
        cls.check_schema(schema)
    except SchemaError as error:
        raise ValueError(f"not a JSON schema: {error.message}") from None
    return cls(schema)


class MathVerifyReward:
    r"""1.0 where the completion's final answer equals the row's mathematically, as math-verify has it. Extra
    ``verify``.

    The answer is looked for in ``\boxed{...}`` first, then in other LaTeX and in plain expressions; several boxes are
    one set. The row's answer stands in column "answer", or in "solution"; None where it is None or cannot be read.

    Raises:
        ImportError: math-verify is not installed.
    """

    def __init__(self) -> None:
        try:
            import math_verify  # noqa: F401
        except ImportError as error:
            raise ImportError(
                f"math_verify needs the package math-verify: pip install 'tea-rl[verify]' ({error})"
            ) from None
        from importlib.metadata import version

        self.source = "math_verify"
        self.fingerprint = f"math-verify-{version('math-verify')}"
        self.__name__ = "math_verify"

    def __call__(
        self,
        prompts: Sequence[Text],
        completions: Sequence[Text],
        answer: Sequence[Any] | None = None,
        solution: Sequence[Any] | None = None,
        **kwargs: Any,
    ) -> list[float | None]:
        """Score each completion; see :class:`tea.rewards.RewardFunction`.

        Raises:
            ValueError: there is neither a column "answer" nor "solution".
        """
        wanted = answer if answer is not None else solution
        if wanted is None:
            raise ValueError(f"reward 'math_verify' needs a column 'answer' or 'solution'; there are: {sorted(kwargs)}")
        return [
            None if target is None else self._score(text, str(target))
            for text, target in zip(completion_texts(completions), wanted, strict=True)
        ]

    @staticmethod
    def _score(text: str, target: str) -> float | None:
        from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify

        # Its time limits are alarms, which only the main thread can set.
        seconds = 5 if threading.current_thread() is threading.main_thread() else None
        kinds = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]
        gold = parse(target, extraction_config=kinds, parsing_timeout=seconds)
        if not gold:  # an answer without delimiters, such as \frac{1}{2}
            gold = parse(f"${target}$", extraction_config=kinds, parsing_timeout=seconds)
        if not gold:
            return None
        found = parse(text, extraction_config=kinds, parsing_timeout=seconds)
        return float(verify(gold, found, timeout_seconds=seconds))
