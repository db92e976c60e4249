"""The directory of a run: its record, its chunks while it runs, atomic writes. No process waits for another but the
first, which collects the chunks of all.
"""

from __future__ import annotations

import json
import os
import time
import warnings
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm


def process() -> tuple[int, int]:
    """Rank of this process and number of processes, as ``accelerate launch`` sets them."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def open_run(directory: Path, settings: dict[str, Any], lines: list[str], rank: int) -> None:
    """Write what is being run into a new directory, or check that a directory holds the same run.

    Raises:
        ValueError: a run with other settings, or files of something else; nothing is overwritten.
    """
    directory.mkdir(parents=True, exist_ok=True)
    record = directory / "run.json"
    if record.is_file():
        stored = json.loads(record.read_text(encoding="utf-8"))
        for key in settings:
            if key == "versions":
                continue
            difference = _first_difference(stored.get(key), json.loads(dump(settings[key])), key)
            if difference is not None:
                raise ValueError(
                    f"{directory} holds an evaluation with other settings: {difference}. "
                    "Use the same settings to resume it, or another output_dir"
                )
        changed = _first_difference(stored.get("versions"), settings["versions"], "versions")
        if changed is not None and not (directory / "samples.parquet").is_file():
            warnings.warn(f"resuming {directory} with other software: {changed}", stacklevel=3)
        return
    present = sorted(p.name for p in directory.iterdir() if not p.name.startswith(("prompts.jsonl", "run.json")))
    if present and rank == 0:
        raise ValueError(f"{directory} is not empty and holds no run.json ({present[0]}, ...); nothing is overwritten")
    if rank == 0:
        write_text("\n".join(lines) + "\n", directory / "prompts.jsonl")
        write_text(dump(settings, indent=2) + "\n", record)
        return
    deadline = time.monotonic() + 600
    while not record.is_file():  # so that all processes check against the same record
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited 10 minutes for the first process to write {record}")
        time.sleep(0.05)


def _first_difference(stored: Any, now: Any, where: str) -> str | None:
    if isinstance(stored, dict) and isinstance(now, dict):
        for key in sorted({*stored, *now}):
            found = _first_difference(stored.get(key), now.get(key), f"{where}.{key}")
            if found is not None:
                return found
        return None
    return None if stored == now else f"{where} was {stored!r} and is {now!r} now"


def my_chunks(
    shards: Path, chunks: list[list[int]], n: int, rank: int, world_size: int, what: str, progress: bool
) -> Iterator[tuple[int, list[int]]]:
    """Index and members of this process's chunks that are not stored yet, with a progress bar in samples."""
    mine = range(rank, len(chunks), world_size)
    todo = [index for index in mine if not (shards / f"chunk-{index:06d}.parquet").is_file()]
    total = sum(len(chunks[index]) for index in mine) * n
    done = total - sum(len(chunks[index]) for index in todo) * n
    label = what if world_size == 1 else f"{what} ({rank + 1}/{world_size})"
    with tqdm(total=total, initial=done, desc=label, unit="sample", disable=not progress or rank != 0) as bar:
        for index in todo:
            yield index, chunks[index]
            bar.update(len(chunks[index]) * n)


def wait_for_shards(shards: Path, count: int) -> list[pa.Table]:
    """All shards, once the other processes have written theirs."""
    paths = [shards / f"chunk-{index:06d}.parquet" for index in range(count)]
    told = time.monotonic()
    while not all(path.is_file() for path in paths):
        if time.monotonic() - told > 60:
            left = sum(not path.is_file() for path in paths)
            print(f"waiting for {left} chunks of the other processes", flush=True)
            told = time.monotonic()
        time.sleep(0.2)
    return [_read_shard(path) for path in paths]


def _read_shard(path: Path) -> pa.Table:
    try:
        return pq.read_table(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path}: broken shard ({error}); delete this file and start again to redo it") from error


def versions() -> dict[str, str]:
    """Versions of what decides the samples."""
    packages = ("tea-rl", "torch", "transformers", "peft", "vllm")
    return {package: found for package in packages if (found := _version(package)) is not None}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def dump(value: Any, indent: int | None = None) -> str:
    """`value` as JSON with sorted keys."""
    return json.dumps(value, indent=indent, sort_keys=True, default=str, ensure_ascii=False)


def _temporary(path: Path) -> Path:
    return path.with_name(f"{path.name}.{os.getpid()}.tmp")


def write_parquet(table: pa.Table, path: Path) -> None:
    """Write a table so that it is there whole or not at all."""
    temporary = _temporary(path)
    with temporary.open("wb") as file:
        pq.write_table(table, file, compression="zstd")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def write_text(text: str, path: Path) -> None:
    """Write text so that it is there whole or not at all."""
    temporary = _temporary(path)
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def remove_shards(shards: Path) -> None:
    """Remove a directory of chunks."""
    if shards.is_dir():
        for path in shards.glob("chunk-*"):
            path.unlink(missing_ok=True)
        shards.rmdir()
