"""n completions per prompt, scored and stored: resumable, shared by several processes, on disk as Parquet.

An output directory holds ``run.json`` (what is being run), ``prompts.jsonl`` (prompts and their data set columns),
``shards/`` while it runs, and ``samples.parquet`` once it is complete: one row per sample with prompt_id, sample_id,
prompt, completion, num_tokens, finished and a column ``rewards/<name>`` per reward function.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tea.rewards.base import RewardFunction, reward_fingerprint, reward_source, score_completions
from tea.rollouts.base import Completion, Generator, Prompt, SamplingConfig
from tea.rollouts.grouping import RewardTable
from tea.rollouts.importers.own import REWARD_PREFIX
from tea.rollouts.io import read_rewards
from tea.rollouts.prompts import PromptSet, read_prompts
from tea.rollouts.store import (
    dump,
    my_chunks,
    open_run,
    process,
    remove_shards,
    versions,
    wait_for_shards,
    write_parquet,
    write_text,
)

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
        """Reward function's name -> (P, n) float64, NaN where it gave none."""
        return {name.removeprefix(REWARD_PREFIX): matrix for name, matrix in self.table.rewards.items()}


def load_run(path: str | os.PathLike[str]) -> Run:
    """Read a finished evaluation back.

    Raises:
        FileNotFoundError: no evaluation there, or one that has not finished.
        ValueError: a reward that is infinite, a broken file.
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
    return Run(directory, settings, read_rewards(directory, names, missing="keep"))


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
        "versions": versions(),
    }
    directory = Path(output_dir)
    rank, world_size = process()
    open_run(directory, settings, lines, rank)

    samples = directory / "samples.parquet"
    if not samples.is_file():
        encoded = [generator.encode(prompt, config) for prompt in prompt_set.prompts]
        order = sorted(range(len(encoded)), key=lambda i: (len(encoded[i]), i))
        chunks = [order[start : start + chunk_size] for start in range(0, len(order), chunk_size)]
        shards = directory / "shards"
        shards.mkdir(exist_ok=True)
        for index, members in my_chunks(shards, chunks, config.num_samples, rank, world_size, "sampling", progress):
            generated = generator.generate([encoded[i] for i in members], config, _chunk_seed(config.seed, index))
            table = _score_chunk(prompt_set, members, generated, rewards)
            write_parquet(table, shards / f"chunk-{index:06d}.parquet")
        if rank == 0:
            tables = wait_for_shards(shards, len(chunks))
            merged = pa.concat_tables(tables).sort_by([("prompt_id", "ascending"), ("sample_id", "ascending")])
            expected = len(prompt_set.prompts) * config.num_samples
            if merged.num_rows != expected:
                raise RuntimeError(f"{directory}: the shards hold {merged.num_rows} samples instead of {expected}")
            write_parquet(merged.replace_schema_metadata({"tea_run": dump(settings)}), samples)
    if rank == 0:
        remove_shards(directory / "shards")
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
    prompt_set = read_prompts(directory)
    n = int(settings["sampling"]["num_samples"])
    rank, world_size = process()
    sources = [_describe(reward) for reward in rewards]
    digest = hashlib.sha256(dump({"rewards": sources, "rows": samples.num_rows}).encode()).hexdigest()[:12]
    shards = directory / f"scoring-{digest}"
    shards.mkdir(exist_ok=True)
    chunk_size = int(settings["chunk_size"])
    everyone = range(len(prompt_set.prompts))
    chunks = [list(everyone[start : start + chunk_size]) for start in range(0, len(everyone), chunk_size)]
    for index, members in my_chunks(shards, chunks, n, rank, world_size, "scoring", progress):
        rows = samples.slice(members[0] * n, len(members) * n).to_pydict()
        completions = [
            Completion(*row) for row in zip(rows["completion"], rows["num_tokens"], rows["finished"], strict=True)
        ]
        generated = [completions[i * n : (i + 1) * n] for i in range(len(members))]
        table = _score_chunk(prompt_set, members, generated, rewards)
        write_parquet(table, shards / f"chunk-{index:06d}.parquet")
    if rank != 0:
        return None
    scored = pa.concat_tables(wait_for_shards(shards, len(chunks)))
    for name in names:
        column = REWARD_PREFIX + name
        if column in samples.column_names:
            samples = samples.drop_columns([column])
        samples = samples.append_column(pa.field(column, pa.float64()), scored[column])
    settings["rewards"] = [reward for reward in settings["rewards"] if reward["name"] not in names] + sources
    settings["scoring_versions"] = versions()
    write_parquet(samples.replace_schema_metadata({"tea_run": dump(settings)}), directory / "samples.parquet")
    write_text(dump(settings, indent=2) + "\n", directory / "run.json")
    remove_shards(shards)
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


def _chunk_seed(seed: int, chunk: int) -> int:
    # Hashed, so that seeds 1 and 2 do not share the seeds of neighbouring chunks; 63 bits, as torch takes.
    return int.from_bytes(hashlib.sha256(f"{seed}/{chunk}".encode()).digest()[:8], "big") >> 1


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
