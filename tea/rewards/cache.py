"""Rewards that were computed once, kept on disk: shared between processes, bounded, safe to kill."""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tea.rewards.base import RewardFunction, Text, reward_fingerprint, reward_source, score_completions

_SCHEMA = """
CREATE TABLE IF NOT EXISTS scores (key BLOB PRIMARY KEY, score REAL, used INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_use ON scores (used);
"""
_NOT_DATA = {"completion_ids"}  # of what a trainer adds: says no more than the completion
_CHUNK = 500  # SQLite's older releases take 999 parameters


class CachedReward:
    """A reward whose scores are looked up on disk first.

    The key is the reward (its source and fingerprint), prompt, completion and columns. So the cache may serve several
    rewards, and an edited function or retrained model starts afresh. Missing rewards (None) are kept, too. One SQLite
    file in write-ahead mode: any number of processes of one machine share it, and a kill at any moment leaves it whole.
    The scores used least recently go when it is full.

    Args:
        reward: a deterministic reward.
        path: the cache's file; made where there is none.
        max_entries: scores kept, give or take 1 %; about 60 bytes each.
        columns: data set columns that the reward reads, such as ["answer"]: rows that differ in another one share a
            score. Default: all columns that come along.

    Raises:
        ValueError: the reward has no fingerprint: what it computes cannot be told apart from what it computed before.
            Or `max_entries` is below 1, or the file is not a cache.
    """

    def __init__(
        self,
        reward: RewardFunction,
        path: str | os.PathLike[str],
        *,
        max_entries: int = 10_000_000,
        columns: Sequence[str] | None = None,
    ) -> None:
        if max_entries < 1:
            raise ValueError(f"max_entries must be at least 1, got {max_entries}")
        self.reward = reward
        self.path = Path(path)
        self.max_entries = max_entries
        self.columns = None if columns is None else tuple(columns)
        self.source = reward_source(reward)
        self.__name__ = reward.__name__
        self.hits = 0
        self.misses = 0
        self._prefix: bytes | None = None
        self._unchecked = 0  # scores stored since the last look at how many there are
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self._database() as database:
                database.executescript(f"PRAGMA journal_mode = WAL; {_SCHEMA}")
        except sqlite3.DatabaseError as error:
            raise ValueError(f"{self.path} is not a cache of rewards ({error}): give another file") from None

    @property
    def fingerprint(self) -> str | None:
        """The reward's own."""
        return reward_fingerprint(self.reward)

    def __call__(self, prompts: Sequence[Text], completions: Sequence[Text], **kwargs: Any) -> list[float | None]:
        """Score each completion; see :class:`tea.rewards.RewardFunction`.

        Raises:
            KeyError: one of `columns` is not among those given.
        """
        count = len(completions)
        names = self.columns
        if names is None:
            names = tuple(sorted(k for k, v in kwargs.items() if k not in _NOT_DATA and _is_column(v, count)))
        missing = [column for column in names if column not in kwargs]
        if missing:
            raise KeyError(
                f"the cache of reward {self.__name__!r} needs column {missing[0]!r}; there are {sorted(kwargs)}"
            )
        extra = [kwargs[column] for column in names]
        keys = [self._key(names, *row) for row in zip(prompts, completions, *extra, strict=True)]
        scores = self._look_up(list(dict.fromkeys(keys)))
        todo = list({key: index for index, key in reversed(list(enumerate(keys))) if key not in scores}.values())[::-1]
        self.hits += len(keys) - len(todo)
        self.misses += len(todo)
        if todo:
            rows = {
                name: [values[i] for i in todo] if _is_column(values, count) else values
                for name, values in kwargs.items()
            }
            fresh = score_completions(self.reward, [prompts[i] for i in todo], [completions[i] for i in todo], rows)
            new = {keys[i]: score for i, score in zip(todo, fresh, strict=True)}
            self._store(new)
            scores |= new
        return [scores[key] for key in keys]

    def _key(self, *parts: Any) -> bytes:
        if self._prefix is None:
            fingerprint = reward_fingerprint(self.reward)
            if fingerprint is None:
                raise ValueError(
                    f"reward {self.__name__!r} has no fingerprint, so that its scores cannot be told from those of an "
                    "edited one: give it an attribute fingerprint, a string that changes with what it computes"
                )
            self._prefix = json.dumps([self.source, fingerprint]).encode()
        return hashlib.sha256(self._prefix + json.dumps(parts, sort_keys=True, default=str).encode()).digest()

    def _look_up(self, keys: list[bytes]) -> dict[bytes, float | None]:
        found: dict[bytes, float | None] = {}
        with self._database() as database:
            now = self._now(database)
            for start in range(0, len(keys), _CHUNK):
                chunk = keys[start : start + _CHUNK]
                marks = ",".join("?" * len(chunk))
                rows = database.execute(f"SELECT key, score FROM scores WHERE key IN ({marks})", chunk).fetchall()
                found.update(rows)
                if rows:
                    database.execute(f"UPDATE scores SET used = ? WHERE key IN ({marks})", [now, *chunk])
        return found

    def _store(self, scores: dict[bytes, float | None]) -> None:
        with self._database() as database:
            now = self._now(database)
            database.executemany(
                "INSERT OR REPLACE INTO scores VALUES (?, ?, ?)", [(key, score, now) for key, score in scores.items()]
            )
            self._unchecked += len(scores)
            if self._unchecked <= self.max_entries // 100:  # counting reads the whole file
                return
            self._unchecked = 0
            excess = database.execute("SELECT COUNT(*) FROM scores").fetchone()[0] - self.max_entries
            if excess > 0:
                database.execute(
                    "DELETE FROM scores WHERE key IN (SELECT key FROM scores ORDER BY used LIMIT ?)", (excess,)
                )

    @staticmethod
    def _now(database: sqlite3.Connection) -> int:
        return int(database.execute("SELECT COALESCE(MAX(used), 0) + 1 FROM scores").fetchone()[0])

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        # A connection per use: safe across forks and threads, and cheap beside any reward worth caching.
        database = sqlite3.connect(self.path, timeout=60.0, isolation_level="IMMEDIATE")
        try:
            with database:
                yield database
        finally:
            database.close()


def _is_column(values: Any, count: int) -> bool:
    return isinstance(values, (list, tuple)) and len(values) == count
