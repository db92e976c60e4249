"""A language model as judge, behind any endpoint that speaks OpenAI's chat completions."""

from __future__ import annotations

import re
import warnings
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from tea.rewards.base import Text
from tea.rewards.client import RewardClient, RewardServerError

DEFAULT_RUBRIC = """\
Judge the response to the request below. Weigh whether it is correct, complete and helpful, and nothing else; length
alone is worth nothing.

[Request]
{prompt}

[Response]
{completion}

Give your reasons in at most three sentences. Then end with a line of exactly this form, with a number from 1 to 10:
Score: NUMBER"""

DEFAULT_PATTERN = r"[Ss]core\s*[:=]\s*\**\s*(-?\d+(?:\.\d+)?)"


class JudgeReward:
    """Asks a language model for a score by a rubric, at temperature 0.

    An answer without a score in the range is unparsable: the judge is reminded of the form, up to `retries` times; then
    the reward is missing (None). How often that happened is counted and warned about.

    Args:
        url: the endpoint's address without ``/v1``, or several that answer alike, asked round robin.
        model: the judge's name there.
        name: name of the reward.
        rubric: what the judge is told: text with ``{prompt}``, ``{completion}`` and, where needed, data set columns
            such as ``{answer}``.
        pattern: regular expression with one group; its last match in the answer is the score.
        minimum, maximum: range of the score; a number outside of it is unparsable.
        retries: reminders after an unparsable answer.
        max_tokens: length of an answer.
        **client_options: see :class:`tea.rewards.client.RewardClient`. The key for OpenAI itself:
            ``api_key_env="OPENAI_API_KEY"``.

    Attributes:
        unparsable: answers without a score so far.
        missing: completions left without a reward so far.

    Raises:
        ValueError: a rubric without ``{completion}``, a bad pattern or range, a bad address.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        model: str,
        *,
        name: str = "judge",
        rubric: str = DEFAULT_RUBRIC,
        pattern: str = DEFAULT_PATTERN,
        minimum: float = 1.0,
        maximum: float = 10.0,
        retries: int = 2,
        max_tokens: int = 512,
        **client_options: Any,
    ) -> None:
        if "{completion}" not in rubric:
            raise ValueError("the judge's rubric has no {completion}: it would not see what it judges")
        if not minimum < maximum:
            raise ValueError(f"the judge's range is empty: minimum {minimum}, maximum {maximum}")
        if re.compile(pattern).groups != 1:
            raise ValueError(f"the judge's pattern needs exactly one group, the score: {pattern!r}")
        self.client = RewardClient([url] if isinstance(url, str) else url, **client_options)
        self.model = model
        self.rubric = rubric
        self.pattern = re.compile(pattern)
        self.minimum, self.maximum = minimum, maximum
        self.retries = retries
        self.max_tokens = max_tokens
        self.unparsable = 0
        self.missing = 0
        self.source = f"judge:{self.client.source}"
        self.fingerprint = repr((model, rubric, pattern, minimum, maximum, max_tokens))
        self.__name__ = name

    def __call__(self, prompts: Sequence[Text], completions: Sequence[Text], **kwargs: Any) -> list[float | None]:
        """Score each completion; see :class:`tea.rewards.RewardFunction`.

        Raises:
            KeyError: the rubric names a column that is not there.
            RewardServerError: the endpoint answers something else than chat completions.
            RewardServerGone: no endpoint has answered for `patience` seconds.
        """
        named = set(re.findall(r"\{(\w+)\}", self.rubric)) - {"prompt", "completion"}
        for column in sorted(named - set(kwargs)):
            raise KeyError(
                f"the rubric of reward {self.__name__!r} names column {column!r}; there are {sorted(kwargs)}"
            )
        jobs = []
        for index, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
            values = {column: str(kwargs[column][index]) for column in named}
            jobs.append(self._job({"prompt": _plain(prompt), "completion": _plain(completion), **values}))
        unparsable_before = self.unparsable
        scores = self.client.run(jobs)
        missing = sum(score is None for score in scores)
        self.missing += missing
        if self.unparsable > unparsable_before:
            warnings.warn(
                f"judge {self.__name__!r} gave {self.unparsable - unparsable_before} answers without a score; "
                f"{missing} of "
                f"{len(scores)} completions have no reward",
                stacklevel=2,
            )
        return scores

    def _job(self, values: Mapping[str, str]) -> Callable[[], Awaitable[float | None]]:
        async def job() -> float | None:
            # In one pass: what a completion says in braces is not filled in.
            request = re.sub(r"\{(\w+)\}", lambda match: values.get(match[1], match[0]), self.rubric)
            messages = [{"role": "user", "content": request}]
            for _ in range(self.retries + 1):
                answer = await self._ask(messages)
                score = self._parse(answer)
                if score is not None:
                    return score
                self.unparsable += 1
                reminder = (
                    f"That has no score in the form that was asked for, a number from {self.minimum:g} to "
                    f"{self.maximum:g}. Give the score in that form only."
                )
                messages = [*messages, {"role": "assistant", "content": answer}, {"role": "user", "content": reminder}]
            return None

        return job

    async def _ask(self, messages: list[dict[str, str]]) -> str:
        body = {"model": self.model, "messages": messages, "temperature": 0, "max_tokens": self.max_tokens}
        answer = await self.client.post("/v1/chat/completions", body)
        try:
            return str(answer["choices"][0]["message"]["content"] or "")
        except (TypeError, KeyError, IndexError):
            raise RewardServerError(
                f"{self.source} does not answer as OpenAI's chat completions do: {str(answer)[:200]}"
            ) from None

    def _parse(self, answer: str) -> float | None:
        found = self.pattern.findall(answer)
        try:
            score = float(found[-1])
        except (IndexError, ValueError):
            return None
        return score if self.minimum <= score <= self.maximum else None


def _plain(text: Text) -> str:
    """Text as it is; the content of one message; several messages with their roles before them."""
    if isinstance(text, str):
        return text
    if len(text) == 1:
        return str(text[0]["content"])
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in text)
