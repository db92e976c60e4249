"""A reward computed by an HTTP server of your own."""

from __future__ import annotations

import json
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from tea.rewards.base import Text, completion_texts
from tea.rewards.client import API_KEY_VARIABLE, RewardClient, RewardServerError, token_batches


class RemoteReward:
    """Posts batches as JSON to a server and reads the rewards from its answer.

    Request body: ``{"prompts": [...], "completions": [...], COLUMN: [...]}`` with the named `columns` only.
    Response body: ``{"rewards": [...]}`` (or the bare list), one number or null per completion.

    Args:
        url: http or https address, or several that answer alike; asked round robin.
        name: name of the reward.
        columns: data set columns to send along.
        batch_size: completions per request, at most.
        batch_tokens: tokens per request, at most; four characters of a completion are counted as a token.
        concurrency: requests in flight.
        timeout: seconds per request.
        patience: seconds without an answer from any server after which to give up, see :mod:`tea.rewards.client`.
        api_key_env: environment variable whose value is sent as bearer token.

    Raises:
        ValueError: an address that is not http(s) or holds a password, or sizes below 1.
    """

    def __init__(
        self,
        url: str | Sequence[str],
        *,
        name: str = "remote_reward",
        columns: Sequence[str] = (),
        batch_size: int = 64,
        batch_tokens: int = 65_536,
        concurrency: int = 32,
        timeout: float = 120.0,
        patience: float = 300.0,
        api_key_env: str = API_KEY_VARIABLE,
    ) -> None:
        if batch_size < 1 or batch_tokens < 1:
            raise ValueError(f"batch_size and batch_tokens must be at least 1, got {batch_size} and {batch_tokens}")
        self.client = RewardClient(
            [url] if isinstance(url, str) else url,
            concurrency=concurrency,
            timeout=timeout,
            patience=patience,
            api_key_env=api_key_env,
        )
        self.columns = tuple(columns)
        self.batch_size = batch_size
        self.batch_tokens = batch_tokens
        self.source = self.client.source
        self.__name__ = name

    def __call__(self, prompts: Sequence[Text], completions: Sequence[Text], **kwargs: Any) -> list[float | None]:
        """Score each completion; see :class:`tea.rewards.RewardFunction`.

        Raises:
            KeyError: a column to send along is not among those given.
            RewardServerError: the server answered with something else than one finite number or null per completion.
            RewardServerGone: no server has answered for `patience` seconds.
        """
        missing = [column for column in self.columns if column not in kwargs]
        if missing:
            raise KeyError(f"reward {self.__name__!r} sends column {missing[0]!r}, but there are {sorted(kwargs)}")
        data: dict[str, Sequence[Any]] = {"prompts": prompts, "completions": completions}
        data.update({column: kwargs[column] for column in self.columns})
        lengths = [len(text) // 4 + 1 for text in completion_texts(completions)]
        batches = token_batches(lengths, self.batch_tokens, self.batch_size)
        scores: list[float | None] = [None] * len(completions)
        for batch, answer in zip(batches, self.client.run([self._job(data, batch) for batch in batches]), strict=True):
            for index, score in zip(batch, answer, strict=True):
                scores[index] = score
        return scores

    def _job(self, data: dict[str, Sequence[Any]], batch: list[int]) -> Callable[[], Awaitable[list[float | None]]]:
        async def job() -> list[float | None]:
            body = {key: [values[index] for index in batch] for key, values in data.items()}
            answer = await self.client.post("", body)
            rewards = answer.get("rewards") if isinstance(answer, dict) else answer
            return check_scores(rewards, len(batch), self.source, answer)

        return job


def check_scores(rewards: Any, count: int, source: str, answer: Any) -> list[float | None]:
    """`rewards` if they are `count` finite numbers or None.

    Raises:
        RewardServerError: they are not (with the beginning of the answer).
    """
    if not isinstance(rewards, list) or len(rewards) != count:
        got = f"{len(rewards)} of them" if isinstance(rewards, list) else json.dumps(answer)[:200]
        raise RewardServerError(f"reward server {source} must answer with {count} rewards, got {got}")
    for reward in rewards:
        number = isinstance(reward, (int, float)) and not isinstance(reward, bool)
        if reward is not None and not (number and math.isfinite(reward)):
            raise RewardServerError(
                f"reward server {source} answered with {reward!r} among its rewards; a reward is a finite number, or "
                "null where there is none"
            )
    return rewards
