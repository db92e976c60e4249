"""How fast the client of reward servers is, and what faults cost: 100,000 texts through local servers.

    python -m benchmarks.rewards.run               # half a minute on two cores
    python -m benchmarks.rewards.run --texts 5000  # a look

Servers are processes of their own on the loopback interface whose score is a number computed from the text, so that the
client is what is measured. Of the faulty servers' requests 5 % are answered with 503, 5 % are dropped without an
answer, 5 % wait 50 ms, and answers arrive in another order than the requests left. Every score is compared with what it
should be. Writes results.json and the table of README.md.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import statistics
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from benchmarks.record import describe, environment, replace_section, table, write_json
from tea.rewards import RemoteReward
from tests.reference.reward_servers import Faults, RewardServer

HERE = Path(__file__).resolve().parent
FAULTS = {"unavailable": 0.05, "dropped": 0.05, "slow": 0.05, "delay": 0.05}
WARM_UP = "text 0 to open connections with"
SCENARIOS: dict[str, tuple[int, bool]] = {  # servers, faults
    "1 server, no faults": (1, False),
    "4 servers, no faults": (4, False),
    "4 servers, faults": (4, True),
}


def score(text: str) -> float:
    """A number that only this text has."""
    return float(text.split()[1]) / 7.0


def serve(pipe: Connection, faults: dict[str, Any] | None, seed: int) -> None:
    """Run a server until the other end says so; then report what it was asked."""
    server = RewardServer("own", score, faults=Faults(**faults, seed=seed) if faults else None)
    pipe.send(server.url)
    pipe.recv()
    answers = [count for text, count in server.answered.items() if text != WARM_UP]
    pipe.send({"faults": dict(server.faults.counts), "answers": sum(answers)})
    server.close()


@contextlib.contextmanager
def servers(count: int, faulty: bool, seed: int) -> Iterator[tuple[list[str], list[Connection]]]:
    """Addresses of `count` server processes and the pipes that ask them for their report."""
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for index in range(count):
        here, there = context.Pipe()
        process = context.Process(
            target=serve, args=(there, FAULTS if faulty else None, 100 * seed + index), daemon=True
        )
        process.start()
        pipes.append(here)
        processes.append(process)
    try:
        yield [pipe.recv() for pipe in pipes], pipes
    finally:
        for process in processes:
            process.terminate()
            process.join()


def measure(count: int, faulty: bool, texts: list[str], seed: int) -> dict[str, Any]:
    """Send all texts once; the row of one repeat."""
    with servers(count, faulty, seed) as (urls, pipes):
        reward = RemoteReward(urls, batch_size=64, concurrency=32)
        prompts = [""] * len(texts)
        reward([""] * 256, [WARM_UP] * 256)
        sent, failed = reward.client.requests_sent, reward.client.requests_failed
        start = time.perf_counter()
        scores = reward(prompts, texts)
        seconds = time.perf_counter() - start
        wrong = sum(got != score(text) for got, text in zip(scores, texts, strict=True))
        for pipe in pipes:
            pipe.send("report")
        reports = [pipe.recv() for pipe in pipes]
    return {
        "seconds": seconds,
        "texts_per_second": len(texts) / seconds,
        "wrong": wrong,
        "requests": reward.client.requests_sent - sent,
        "failed_requests": reward.client.requests_failed - failed,
        "faults": [report["faults"] for report in reports],
        "answered_again": sum(report["answers"] for report in reports) - len(texts),
        "share_of_least_used": min(report["answers"] for report in reports) / len(texts),
    }


def main() -> None:
    """Run every scenario, write results.json and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=100_000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    texts = [f"text {index} of a completion of ordinary length" for index in range(arguments.texts)]
    rows: dict[str, list[dict[str, Any]]] = {}
    for repeat in range(arguments.repeats):
        for name, (count, faulty) in SCENARIOS.items():
            row = measure(count, faulty, texts, repeat)
            print(name, row)
            if row["wrong"]:
                raise SystemExit(f"{name}: {row['wrong']} scores are wrong")
            rows.setdefault(name, []).append(row)
    found = environment()
    if arguments.texts == 100_000:
        write_json(HERE / "results.json", {"environment": found, "faults": FAULTS, "rows": rows})
        replace_section(HERE / "README.md", "results", report(rows, found))


def report(rows: dict[str, list[dict[str, Any]]], found: dict[str, Any]) -> str:
    """The table, with the range over the repeats."""
    lines = []
    for name, repeats in rows.items():
        speeds = [row["texts_per_second"] for row in repeats]
        lines.append(
            [
                name,
                f"{statistics.median(speeds):,.0f} ({min(speeds):,.0f} to {max(speeds):,.0f})",
                f"{max(row['wrong'] for row in repeats)}",
                f"{statistics.mean(row['failed_requests'] for row in repeats):,.0f}",
                f"{statistics.mean(row['requests'] for row in repeats):,.0f}",
                f"{max(row['answered_again'] for row in repeats)}",
            ]
        )
    header = ["", "texts per second", "wrong scores", "failed requests", "requests", "texts answered again"]
    repeats = len(next(iter(rows.values())))
    return f"{table(header, lines)}\n\nMedian of {repeats} repeats, range in brackets. {describe(found)}"


if __name__ == "__main__":
    main()
