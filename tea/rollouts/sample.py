"""n completions per prompt, scored and stored: resumable, shared by several processes, on disk as Parquet.

An output directory holds ``run.json`` (what is being run), ``prompts.jsonl`` (prompts and their data set columns),
``shards/`` while it runs, and ``samples.parquet`` once it is complete: one row per sample with prompt_id, sample_id,
prompt, completion, num_tokens, finished and a column ``rewards/<name>`` per reward function.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from tea.rewards.base import RewardFunction, score_completions
from tea.rewards.load import reward_fingerprint, reward_source
from tea.rollouts.generate import Completion, Generator, Prompt, SamplingConfig
from tea.rollouts.io import REWARD_PREFIX, RewardTable, read_rewards

FORMAT = 1
SAMPLES_PER_CHUNK = 256
_SAMPLE_FIELDS = [
    ("prompt_id", pa.int64()),
    ("sample_id", pa.int64()),
    ("prompt", pa.string()),
    ("completion", pa.string()),
    ("num_tokens", pa.int64()),
    ("finished", pa.bool_()),
]


@dataclass(frozen=True)
class PromptSet:
    """Prompts with the other columns of their data set.

    Attributes:
        prompts: plain text, or conversations (lists of {"role", "content"}).
        columns: name -> one JSON-able value per prompt; handed to the reward functions.
        source: where they come from, for the record.
    """

    prompts: list[Prompt]
    columns: dict[str, list[Any]] = field(default_factory=dict)
    source: str = "memory"

    def __post_init__(self) -> None:
        if not self.prompts:
            raise ValueError(f"there are no prompts in {self.source}")
        for name, values in self.columns.items():
            if len(values) != len(self.prompts):
                raise ValueError(f"column {name!r} has {len(values)} values for {len(self.prompts)} prompts")

    def lines(self) -> list[str]:
        """One JSON object per prompt: prompt_id, prompt, columns."""
        return [
            json.dumps(
                {"prompt_id": i, "prompt": prompt, "columns": {k: v[i] for k, v in self.columns.items()}},
                ensure_ascii=False,
            )
            for i, prompt in enumerate(self.prompts)
        ]


def load_prompts(
    dataset: str, *, split: str | None = None, prompt_column: str = "prompt", limit: int | None = None
) -> PromptSet:
    """Prompts from a JSONL, JSON, CSV or Parquet file, a directory written by `save_to_disk`, or a hub data set.

    Args:
        dataset: path or hub id.
        split: which split; needed where there are several, ignored for plain files.
        prompt_column: the column of prompts, text or conversations.
        limit: use only the first `limit` prompts.

    Raises:
        ValueError: no such column (with those that are), several splits and none chosen, or no prompts.
    """
    import datasets

    path = Path(dataset)
    kinds = {".jsonl": "json", ".json": "json", ".csv": "csv", ".parquet": "parquet"}
    if path.is_file():
        if path.suffix not in kinds:
            raise ValueError(f"{dataset}: unknown kind of file {path.suffix!r}; known: {', '.join(kinds)}")
        if path.stat().st_size == 0:
            raise ValueError(f"{dataset}: the file is empty")
        loaded = datasets.load_dataset(kinds[path.suffix], data_files=str(path), split="train")
    elif path.is_dir() and ((path / "state.json").is_file() or (path / "dataset_dict.json").is_file()):
        loaded = datasets.load_from_disk(dataset)
        if isinstance(loaded, datasets.DatasetDict):
            loaded = _split(loaded, dataset, split)
    else:
        loaded = datasets.load_dataset(dataset, split=split)
        if isinstance(loaded, datasets.DatasetDict):
            loaded = _split(loaded, dataset, split)
    if prompt_column not in loaded.column_names:
        raise ValueError(f"{dataset}: no column {prompt_column!r}; it has: {', '.join(loaded.column_names)}")
    if limit is not None:
        if limit < 1:
            raise ValueError(f"limit must be at least 1, got {limit}")
        loaded = loaded.select(range(min(limit, len(loaded))))
    columns = {name: list(loaded[name]) for name in loaded.column_names if name != prompt_column}
    return PromptSet(list(loaded[prompt_column]), columns, dataset + (f"[{split}]" if split else ""))


def _split(loaded: Mapping[str, Any], dataset: str, split: str | None) -> Any:
    if split is None and len(loaded) == 1:
        return next(iter(loaded.values()))
    if split is None or split not in loaded:
        raise ValueError(f"{dataset}: choose a split of {', '.join(loaded)}, got {split!r}")
    return loaded[split]


@dataclass(frozen=True)
class Run:
    """A finished evaluation.

    Attributes:
        path: its directory.
        settings: the content of run.json.
        table: rewards as (P, n) matrices under their plain names, prompts, completion lengths.
    """

    path: Path
    settings: dict[str, Any]
    table: RewardTable

    @property
    def rewards(self) -> dict[str, Any]:
        """Reward function's name -> (P, n) float64."""
        return {name.removeprefix(REWARD_PREFIX): matrix for name, matrix in self.table.rewards.items()}


def load_run(path: str | os.PathLike[str]) -> Run:
    """Read a finished evaluation back.

    Raises:
        FileNotFoundError: no evaluation there, or one that has not finished.
        ValueError: a reward that is missing or not finite, a broken file.
    """
    directory = Path(path)
    if not (directory / "run.json").is_file():
        raise FileNotFoundError(f"{directory} holds no run.json: not the output directory of an evaluation")
    settings = json.loads((directory / "run.json").read_text(encoding="utf-8"))
    if not (directory / "samples.parquet").is_file():
        done = len(list((directory / "shards").glob("chunk-*.parquet")))
        raise FileNotFoundError(f"{directory}: the evaluation has not finished ({done} chunks done); resume it first")
    names = [REWARD_PREFIX + reward["name"] for reward in settings["rewards"]]
    if not names:
        raise ValueError(f"{directory}: the completions have not been scored yet; use `tea score`")
    return Run(directory, settings, read_rewards(directory, names))


def evaluate(
    generator: Generator,
    prompts: PromptSet | Sequence[Prompt],
    reward_funcs: RewardFunction | Sequence[RewardFunction] = (),
    *,
    output_dir: str | os.PathLike[str],
    config: SamplingConfig | None = None,
    chunk_size: int | None = None,
    progress: bool = True,
) -> Run | None:
    """Sample, score and store n completions per prompt; or go on where an earlier call was killed.

    Prompts are sorted by length and cut into chunks; each chunk has its own seed and is written, scored, in one atomic
    step. So a run that was killed at any point and started again loses at most one chunk's work, repeats and loses no
    sample, and ends with the same bytes as an uninterrupted one. Under ``accelerate launch`` (or anything else that
    sets RANK and WORLD_SIZE) the processes share the chunks through the common directory and need not talk.

    Args:
        generator: :class:`TransformersGenerator`, :class:`VLLMGenerator` or the like.
        prompts: what to complete; columns of a :class:`PromptSet` reach the reward functions as keywords.
        reward_funcs: TRL reward functions; none, to only store completions (score them with :func:`score_run`).
        output_dir: a new directory, or that of the same evaluation interrupted.
        config: sampling parameters.
        chunk_size: prompts per chunk; default: as many as make 256 samples.
        progress: show a bar with the time left.

    Returns:
        The finished :class:`Run` (None on processes other than the first, and where there are no reward functions).

    Raises:
        ValueError: `output_dir` holds a run with other settings (naming the first that differs), two reward functions
            of one name, or bad prompts.
    """
    config = config or SamplingConfig()
    prompt_set = prompts if isinstance(prompts, PromptSet) else PromptSet(list(prompts))
    rewards = _reward_list(reward_funcs)
    if chunk_size is None:
        chunk_size = max(1, -(-SAMPLES_PER_CHUNK // config.num_samples))
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
    lines = prompt_set.lines()
    settings = {
        "format": FORMAT,
        "model": generator.describe(),
        "dataset": {
            "source": prompt_set.source,
            "num_prompts": len(prompt_set.prompts),
            "fingerprint": hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16],
        },
        "sampling": asdict(config),
        "chunk_size": chunk_size,
        "rewards": [_describe(reward) for reward in rewards],
        "versions": _versions(),
    }
    directory = Path(output_dir)
    rank, world_size = _process()
    _open_run(directory, settings, lines, rank)

    samples = directory / "samples.parquet"
    if not samples.is_file():
        encoded = [generator.encode(prompt, config) for prompt in prompt_set.prompts]
        order = sorted(range(len(encoded)), key=lambda i: (len(encoded[i]), i))
        chunks = [order[start : start + chunk_size] for start in range(0, len(order), chunk_size)]
        shards = directory / "shards"
        shards.mkdir(exist_ok=True)
        for index, members in _my_chunks(shards, chunks, config.num_samples, rank, world_size, "sampling", progress):
            generated = generator.generate([encoded[i] for i in members], config, _chunk_seed(config.seed, index))
            table = _score_chunk(prompt_set, members, generated, rewards)
            _write_parquet(table, shards / f"chunk-{index:06d}.parquet")
        if rank == 0:
            tables = _wait_for_shards(shards, len(chunks))
            merged = pa.concat_tables(tables).sort_by([("prompt_id", "ascending"), ("sample_id", "ascending")])
            expected = len(prompt_set.prompts) * config.num_samples
            if merged.num_rows != expected:
                raise RuntimeError(f"{directory}: the shards hold {merged.num_rows} samples instead of {expected}")
            _write_parquet(merged.replace_schema_metadata({"tea_run": _dump(settings)}), samples)
    if rank == 0:
        _remove_shards(directory / "shards")
        for leftover in directory.glob("*.tmp"):  # of a write that a kill interrupted
            leftover.unlink(missing_ok=True)
    return load_run(directory) if rank == 0 and rewards else None


def score_run(
    path: str | os.PathLike[str],
    reward_funcs: RewardFunction | Sequence[RewardFunction],
    *,
    replace: bool = False,
    progress: bool = True,
) -> Run | None:
    """Score the stored completions of a finished run with more reward functions; resumable like :func:`evaluate`.

    Args:
        path: the run's directory.
        reward_funcs: TRL reward functions.
        replace: allow names that the run already has; their scores are then replaced.
        progress: show a bar with the time left.

    Returns:
        The :class:`Run` with all its rewards (None on processes other than the first).

    Raises:
        FileNotFoundError: no finished run there.
        ValueError: a name that the run already has, without `replace`.
    """
    directory = Path(path)
    rewards = _reward_list(reward_funcs)
    if not rewards:
        raise ValueError("reward_funcs is empty: there is nothing to score with")
    if not (directory / "samples.parquet").is_file():
        raise FileNotFoundError(f"{directory} holds no samples.parquet: not a finished evaluation")
    settings = json.loads((directory / "run.json").read_text(encoding="utf-8"))
    names = [reward.__name__ for reward in rewards]
    stored = {reward["name"] for reward in settings["rewards"]}
    repeated = sorted(stored & set(names))
    if repeated and not replace:
        raise ValueError(f"{directory} already has rewards {', '.join(repeated)}; give replace=True or another name")
    samples = pq.read_table(directory / "samples.parquet")
    prompt_set = _read_prompts(directory)
    n = int(settings["sampling"]["num_samples"])
    rank, world_size = _process()
    sources = [_describe(reward) for reward in rewards]
    digest = hashlib.sha256(_dump({"rewards": sources, "rows": samples.num_rows}).encode()).hexdigest()[:12]
    shards = directory / f"scoring-{digest}"
    shards.mkdir(exist_ok=True)
    chunk_size = int(settings["chunk_size"])
    everyone = range(len(prompt_set.prompts))
    chunks = [list(everyone[start : start + chunk_size]) for start in range(0, len(everyone), chunk_size)]
    for index, members in _my_chunks(shards, chunks, n, rank, world_size, "scoring", progress):
        rows = samples.slice(members[0] * n, len(members) * n).to_pydict()
        completions = [
            Completion(*row) for row in zip(rows["completion"], rows["num_tokens"], rows["finished"], strict=True)
        ]
        generated = [completions[i * n : (i + 1) * n] for i in range(len(members))]
        table = _score_chunk(prompt_set, members, generated, rewards)
        _write_parquet(table, shards / f"chunk-{index:06d}.parquet")
    if rank != 0:
        return None
    scored = pa.concat_tables(_wait_for_shards(shards, len(chunks)))
    for name in names:
        column = REWARD_PREFIX + name
        if column in samples.column_names:
            samples = samples.drop_columns([column])
        samples = samples.append_column(pa.field(column, pa.float64()), scored[column])
    settings["rewards"] = [reward for reward in settings["rewards"] if reward["name"] not in names] + sources
    settings["scoring_versions"] = _versions()
    _write_parquet(samples.replace_schema_metadata({"tea_run": _dump(settings)}), directory / "samples.parquet")
    _write_text(_dump(settings, indent=2) + "\n", directory / "run.json")
    _remove_shards(shards)
    return load_run(directory)


def _describe(reward: RewardFunction) -> dict[str, Any]:
    return {"name": reward.__name__, "source": reward_source(reward), "fingerprint": reward_fingerprint(reward)}


def _reward_list(reward_funcs: RewardFunction | Sequence[RewardFunction]) -> list[RewardFunction]:
    rewards = [reward_funcs] if callable(reward_funcs) else list(reward_funcs)
    names = [reward.__name__ for reward in rewards]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two reward functions are called {name!r}; give one of them another name")
    return rewards


def _process() -> tuple[int, int]:
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def _chunk_seed(seed: int, chunk: int) -> int:
    # Hashed, so that seeds 1 and 2 do not share the seeds of neighbouring chunks; 63 bits, as torch takes.
    return int.from_bytes(hashlib.sha256(f"{seed}/{chunk}".encode()).digest()[:8], "big") >> 1


def _open_run(directory: Path, settings: dict[str, Any], lines: list[str], rank: int) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    record = directory / "run.json"
    if record.is_file():
        stored = json.loads(record.read_text(encoding="utf-8"))
        for key in settings:
            if key == "versions":
                continue
            difference = _first_difference(stored.get(key), json.loads(_dump(settings[key])), key)
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
        _write_text("\n".join(lines) + "\n", directory / "prompts.jsonl")
        _write_text(_dump(settings, indent=2) + "\n", record)
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


def _my_chunks(
    shards: Path, chunks: list[list[int]], n: int, rank: int, world_size: int, what: str, progress: bool
) -> Iterator[tuple[int, list[int]]]:
    mine = range(rank, len(chunks), world_size)
    todo = [index for index in mine if not (shards / f"chunk-{index:06d}.parquet").is_file()]
    total = sum(len(chunks[index]) for index in mine) * n
    done = total - sum(len(chunks[index]) for index in todo) * n
    label = what if world_size == 1 else f"{what} ({rank + 1}/{world_size})"
    with tqdm(total=total, initial=done, desc=label, unit="sample", disable=not progress or rank != 0) as bar:
        for index in todo:
            yield index, chunks[index]
            bar.update(len(chunks[index]) * n)


def _score_chunk(
    prompt_set: PromptSet, members: list[int], generated: list[list[Completion]], rewards: list[RewardFunction]
) -> pa.Table:
    owners = [i for i, completions in zip(members, generated, strict=True) for _ in completions]
    flat = [completion for completions in generated for completion in completions]
    prompts = [prompt_set.prompts[i] for i in owners]
    # As TRL does: reward functions get conversations back where the prompt is one.
    texts: list[Any] = [
        completion.text if isinstance(prompt, str) else [{"role": "assistant", "content": completion.text}]
        for prompt, completion in zip(prompts, flat, strict=True)
    ]
    columns = {name: [values[i] for i in owners] for name, values in prompt_set.columns.items()}
    data: dict[str, list[Any]] = {
        "prompt_id": owners,
        "sample_id": [j for completions in generated for j in range(len(completions))],
        "prompt": [p if isinstance(p, str) else json.dumps(p, ensure_ascii=False) for p in prompts],
        "completion": [completion.text for completion in flat],
        "num_tokens": [completion.num_tokens for completion in flat],
        "finished": [completion.finished for completion in flat],
    }
    fields = list(_SAMPLE_FIELDS)
    for reward in rewards:
        fields.append((REWARD_PREFIX + reward.__name__, pa.float64()))
        data[fields[-1][0]] = score_completions(reward, prompts, texts, columns)
    return pa.table(data, schema=pa.schema(fields))


def _wait_for_shards(shards: Path, count: int) -> list[pa.Table]:
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


def _read_prompts(directory: Path) -> PromptSet:
    records = [json.loads(line) for line in (directory / "prompts.jsonl").read_text(encoding="utf-8").splitlines()]
    names = records[0]["columns"]
    return PromptSet(
        [record["prompt"] for record in records],
        {name: [record["columns"][name] for record in records] for name in names},
        str(directory),
    )


def _versions() -> dict[str, str]:
    packages = ("tea-rl", "torch", "transformers", "peft", "vllm")
    return {package: found for package in packages if (found := _version(package)) is not None}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _dump(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, indent=indent, sort_keys=True, default=str, ensure_ascii=False)


def _temporary(path: Path) -> Path:
    return path.with_name(f"{path.name}.{os.getpid()}.tmp")


def _write_parquet(table: pa.Table, path: Path) -> None:
    temporary = _temporary(path)
    with temporary.open("wb") as file:
        pq.write_table(table, file, compression="zstd")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _write_text(text: str, path: Path) -> None:
    temporary = _temporary(path)
    with temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _remove_shards(shards: Path) -> None:
    if shards.is_dir():
        for path in shards.glob("chunk-*"):
            path.unlink(missing_ok=True)
        shards.rmdir()
