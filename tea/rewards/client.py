"""One HTTP client behind every reward that is computed elsewhere: pool, retries, and when to give up.

Requests go round robin over one or several servers that answer alike. A request that fails for a passing reason (no
connection, a timeout, 408, 425, 429 or a 5xx answer) is sent again, to the next server, after a wait that doubles and
is drawn at random; a server that just failed is passed over while another one answers. Only when *no* server has
answered for `patience` seconds the client gives up with :class:`RewardServerGone`.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2
import tenacity

Result = TypeVar("Result")

API_KEY_VARIABLE = "TEA_REWARD_API_KEY"
"""Environment variable whose value is sent as bearer token, unless another one is named."""

_PASSING = {408, 425, 429, 500, 502, 503, 504}
_LONGEST_WAIT = 10.0  # seconds between two tries of a request


class RewardServerError(ValueError):
    """A reward server answered, and its answer cannot be used: asking again would not help."""


class RewardServerGone(ConnectionError):
    """No reward server has answered for `patience` seconds. Training stops with a checkpoint and exit code 2."""


class _PassingFailureError(Exception):
    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


@dataclass
class _Server:
    url: str
    rest_until: float = 0.0  # passed over until then if another server can take the request
    failures: int = 0  # in a row


class RewardClient:
    """Sends JSON to servers that answer alike.

    Args:
        urls: their addresses, without a path that all requests share.
        concurrency: requests in flight, over all servers.
        timeout: seconds that one request may take.
        patience: seconds without any answer after which to give up.
        api_key_env: environment variable with the bearer token; read when the first request is sent, never stored.

    Raises:
        ValueError: no address, one that is not http(s) or holds a password, or a number that is not positive.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        concurrency: int = 32,
        timeout: float = 120.0,
        patience: float = 300.0,
        api_key_env: str = API_KEY_VARIABLE,
    ) -> None:
        if not urls:
            raise ValueError("a reward server needs an address, http://HOST:PORT")
        for url in urls:
            parts = urlsplit(url)
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError(f"the address of a reward server must read http(s)://HOST[:PORT], got {url!r}")
            if parts.username or parts.password:
                raise ValueError(
                    f"the address of {parts.hostname} holds a password, which would be stored with the run: put the "
                    f"key into the environment variable {api_key_env}"
                )
        for name, value in (("concurrency", concurrency), ("timeout", timeout), ("patience", patience)):
            if not value > 0:
                raise ValueError(f"{name} must be positive, got {value}")
        self.urls = [url.rstrip("/") for url in urls]
        self.concurrency = concurrency
        self.timeout = timeout
        self.patience = patience
        self.api_key_env = api_key_env
        self.requests_sent = 0
        self.requests_failed = 0
        self._servers = [_Server(url) for url in self.urls]
        self._turn = itertools.count()
        self._last_answer = time.monotonic()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = 0

    @property
    def source(self) -> str:
        """The addresses without what may be secret in them, for the record."""
        return ",".join(urlsplit(url)._replace(query="", fragment="").geturl() for url in self.urls)

    def run(self, jobs: Sequence[Callable[[], Awaitable[Result]]]) -> list[Result]:
        """Run all `jobs`, `concurrency` at a time, and return their results in order.

        The first one that raises stops the others.
        """
        self._last_answer = time.monotonic()  # what lies between two calls is not the server's silence
        future = asyncio.run_coroutine_threadsafe(self._run(jobs), self._event_loop())
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise

    async def _run(self, jobs: Sequence[Callable[[], Awaitable[Result]]]) -> list[Result]:
        slots = asyncio.Semaphore(self.concurrency)

        async def one(job: Callable[[], Awaitable[Result]]) -> Result:
            async with slots:
                return await job()

        tasks = [asyncio.ensure_future(one(job)) for job in jobs]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def post(self, path: str, body: Any, server: int | None = None) -> Any:
        """Post `body` as JSON to `path` of the next server, or of number `server`; the answer's JSON.

        Raises:
            RewardServerError: the server refused the request, or the answer is not JSON.
            RewardServerGone: no server has answered for `patience` seconds.
        """

        async def send() -> Any:
            return await self._send(
                self._next_server() if server is None else self._servers[server], "POST", path, body
            )

        return await self._retry(send)

    async def get(self, path: str, server: int) -> Any:
        """The JSON at `path` of server number `server`; None where it has no such path.

        Raises:
            RewardServerError, RewardServerGone: as :meth:`post`.
        """

        async def send() -> Any:
            return await self._send(self._servers[server], "GET", path, None)

        return await self._retry(send)

    async def _retry(self, send: Callable[[], Awaitable[Any]]) -> Any:
        jitter = tenacity.wait_random_exponential(multiplier=0.25, max=_LONGEST_WAIT)

        def wait(state: tenacity.RetryCallState) -> float:
            failure = state.outcome.exception() if state.outcome else None
            return max(float(jitter(state)), getattr(failure, "wait", 0.0))

        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(_PassingFailureError),
            wait=wait,
            stop=lambda state: time.monotonic() - self._last_answer > self.patience,
            reraise=True,
        )
        try:
            return await retrying(send)
        except _PassingFailureError as failure:
            raise RewardServerGone(
                f"no answer from {self.source} for {self.patience:g} seconds (last: {failure}). Start the reward "
                "server again (curl it to see that it answers), then go on where this stopped: train with "
                "--resume_from_checkpoint auto, or repeat the same tea command"
            ) from None

    def _next_server(self) -> _Server:
        now = time.monotonic()
        first = next(self._turn)
        order = [self._servers[(first + i) % len(self._servers)] for i in range(len(self._servers))]
        return next((server for server in order if server.rest_until <= now), order[0])

    async def _send(self, server: _Server, method: str, path: str, body: Any) -> Any:
        url = f"{server.url}{path}"
        self.requests_sent += 1
        try:
            response = await self._http.request(method, url, json=body)
        except (httpx2.TransportError, httpx2.DecodingError) as error:
            raise self._passing(server, f"{server.url}: {str(error) or type(error).__name__}") from None
        if response.status_code in _PASSING:
            wait = response.headers.get("Retry-After", "")
            raise self._passing(
                server,
                f"{server.url}: {response.status_code} {response.reason_phrase}",
                min(float(wait), _LONGEST_WAIT) if wait.isdigit() else 0.0,
            )
        server.failures = 0
        server.rest_until = 0.0
        self._last_answer = time.monotonic()
        if method == "GET" and response.status_code == 404:
            return None
        if response.status_code in (401, 403):
            raise RewardServerError(
                f"{url} answered {response.status_code}: it wants a key, which is read from the environment variable "
                f"{self.api_key_env} ({'set' if os.environ.get(self.api_key_env) else 'not set'})"
            )
        if response.status_code != 200:
            raise RewardServerError(f"{url} answered {response.status_code}: {response.text[:300]}")
        try:
            return response.json()
        except ValueError:
            raise RewardServerError(f"{url} did not answer with JSON but with: {response.text[:200]!r}") from None

    def _passing(self, server: _Server, reason: str, wait: float = 0.0) -> _PassingFailureError:
        self.requests_failed += 1
        server.failures += 1
        server.rest_until = time.monotonic() + min(0.25 * 2.0**server.failures, _LONGEST_WAIT)
        return _PassingFailureError(reason, wait)

    def _event_loop(self) -> asyncio.AbstractEventLoop:
        # A loop in a thread of its own: connections stay open between calls, and callers may have a loop themselves.
        if self._loop is None or self._process != os.getpid():  # a fork has the object, but not the thread
            self._process = os.getpid()
            self._loop = asyncio.new_event_loop()
            threading.Thread(target=self._loop.run_forever, daemon=True, name="reward-client").start()
            key = os.environ.get(self.api_key_env)
            self._http = httpx2.AsyncClient(
                timeout=self.timeout,
                limits=httpx2.Limits(max_connections=self.concurrency, max_keepalive_connections=self.concurrency),
                headers={"Authorization": f"Bearer {key}"} if key else None,
            )
        return self._loop

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key not in ("_loop", "_http")} | {"_loop": None}


def token_batches(lengths: Sequence[int], batch_tokens: int, batch_size: int) -> list[list[int]]:
    """Indices of texts in batches of at most `batch_tokens` tokens and `batch_size` texts, longest texts first.

    A text longer than `batch_tokens` is a batch by itself.
    """
    order = sorted(range(len(lengths)), key=lambda index: -lengths[index])
    batches: list[list[int]] = []
    room = 0
    for index in order:
        if not batches or lengths[index] > room or len(batches[-1]) == batch_size:
            batches.append([])
            room = batch_tokens
        batches[-1].append(index)
        room -= lengths[index]
    return batches
