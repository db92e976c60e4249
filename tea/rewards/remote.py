"""A reward computed by an HTTP server."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tea.rewards.base import Text


class RemoteReward:
    """Posts batches as JSON to a server and reads the rewards from its answer.

    Request body: ``{"prompts": [...], "completions": [...], <column>: [...]}`` with the named `columns` only.
    Response body: ``{"rewards": [...]}`` (or the bare list), one number or null per completion.

    Args:
        url: http or https address.
        name: name of the reward.
        columns: data set columns to send along.
        batch_size: completions per request.
        concurrency: requests in flight.
        timeout: seconds per request.
        retries: further tries after a connection error or a 5xx answer, waiting 1, 2, 4, ... seconds.

    Raises:
        ValueError: an address that is not http(s), or sizes below 1.
    """

    def __init__(
        self,
        url: str,
        *,
        name: str = "remote_reward",
        columns: Sequence[str] = (),
        batch_size: int = 64,
        concurrency: int = 8,
        timeout: float = 60.0,
        retries: int = 3,
    ) -> None:
        if not url.startswith(("http://", "https://")):
            raise ValueError(f"url must start with http:// or https://, got {url!r}")
        if batch_size < 1 or concurrency < 1:
            raise ValueError(f"batch_size and concurrency must be at least 1, got {batch_size} and {concurrency}")
        self.source = url
        self.columns = tuple(columns)
        self.batch_size = batch_size
        self.concurrency = concurrency
        self.timeout = timeout
        self.retries = retries
        self.__name__ = name

    def __call__(self, prompts: Sequence[Text], completions: Sequence[Text], **kwargs: Any) -> list[float | None]:
        """Score each completion; see :class:`tea.rewards.RewardFunction`.

        Raises:
            KeyError: a column to send along is not among those given.
            RuntimeError: the server kept failing, or answered with something else than one reward per completion.
        """
        missing = [column for column in self.columns if column not in kwargs]
        if missing:
            raise KeyError(f"reward {self.__name__!r} sends column {missing[0]!r}, but there are {sorted(kwargs)}")
        data: dict[str, Sequence[Any]] = {"prompts": prompts, "completions": completions}
        data.update({column: kwargs[column] for column in self.columns})
        batches = [
            {key: list(values[start : start + self.batch_size]) for key, values in data.items()}
            for start in range(0, len(completions), self.batch_size)
        ]
        with ThreadPoolExecutor(self.concurrency) as pool:
            return [score for scores in pool.map(self._post, batches) for score in scores]

    def _post(self, batch: dict[str, list[Any]]) -> list[float | None]:
        body = json.dumps(batch).encode()
        for attempt in range(self.retries + 1):
            request = urllib.request.Request(self.source, body, {"Content-Type": "application/json"})
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as response:
                    answer = json.load(response)
                break
            except (urllib.error.URLError, TimeoutError, ConnectionError) as error:
                status = getattr(error, "code", 500)
                if attempt == self.retries or status < 500:
                    raise RuntimeError(
                        f"reward server {self.source} failed after {attempt + 1} attempt(s): {error}"
                    ) from error
                time.sleep(2.0**attempt)
        rewards = answer.get("rewards") if isinstance(answer, dict) else answer
        if not isinstance(rewards, list) or len(rewards) != len(batch["completions"]):
            raise RuntimeError(
                f"reward server {self.source} must answer with {len(batch['completions'])} rewards, "
                f"got {json.dumps(answer)[:200]}"
            )
        return rewards
