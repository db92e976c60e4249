"""``tea eval``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Optional

import typer

from tea.cli.options import JSON, LEVEL, MISSING, NS
from tea.cli.output import errors, parse_ns
from tea.cli.reading import check_missing, print_run


def command(
    model: Annotated[str, typer.Argument(help="Causal language model: hub id or local directory.")],
    dataset: Annotated[str, typer.Option(help="Prompts: JSONL, CSV or Parquet file, saved data set, or hub id.")],
    output_dir: Annotated[Path, typer.Option(help="New directory, or that of an interrupted run to resume.")],
    reward: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(
            help="Reward model (path, hub id or vllm:URL), verifier, reasoning_gym:TASK, module:function or URL, see "
            "docs/rewards.md; repeat for several; name=... renames. Without one, completions are only stored (see "
            "`tea score`)."
        ),
    ] = None,
    adapter: Annotated[Optional[str], typer.Option(help="LoRA adapter to put on the model.")] = None,  # noqa: UP045
    split: Annotated[Optional[str], typer.Option(help="Split of the data set.")] = None,  # noqa: UP045
    prompt_column: Annotated[str, typer.Option(help="Column of prompts, text or conversations.")] = "prompt",
    limit: Annotated[Optional[int], typer.Option(help="Only the first this many prompts.")] = None,  # noqa: UP045
    num_samples: Annotated[int, typer.Option("--num-samples", "-n", help="Completions per prompt.")] = 64,
    max_completion_length: Annotated[int, typer.Option(help="Most new tokens per completion.")] = 256,
    temperature: Annotated[float, typer.Option(help="0 is greedy, for one sample.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="Nucleus mass.")] = 1.0,
    top_k: Annotated[int, typer.Option(help="Most probable tokens kept; 0 keeps all.")] = 0,
    seed: Annotated[int, typer.Option(help="Seed of the samples.")] = 42,
    engine: Annotated[str, typer.Option(help='"transformers" or "vllm".')] = "transformers",
    max_batch_tokens: Annotated[
        int, typer.Option(help="Rows times tokens of one batch (transformers): lower it when memory runs out.")
    ] = 65536,
    dtype: Annotated[str, typer.Option(help="Weights' dtype, or auto.")] = "auto",
    device: Annotated[Optional[str], typer.Option(help="Default: CUDA if present.")] = None,  # noqa: UP045
    reward_batch_size: Annotated[int, typer.Option(help="Texts per forward pass of a reward model.")] = 32,
    ns: NS = None,
    select_by: Annotated[Optional[str], typer.Option(help="Reward that selects; default: each its own.")] = None,  # noqa: UP045
    level: LEVEL = 0.95,
    missing: MISSING = "skip",
    trust_remote_code: Annotated[bool, typer.Option(help="Run code that comes with a checkpoint.")] = False,
    json: JSON = False,
) -> None:
    """Sample n completions per prompt, score and store them, and print the best-of-N curve.

    Run it again after it was killed and it goes on where it stopped. Under `accelerate launch -m tea.cli eval ...`
    the processes share the prompts.
    """
    with errors():
        check_missing(missing)  # before anything is paid for
        if engine not in ("transformers", "vllm"):
            raise ValueError(f'engine must be "transformers" or "vllm", got {engine!r}')
        from tea.rewards import load_reward
        from tea.rollouts import (
            Generator,
            SamplingConfig,
            TransformersGenerator,
            VLLMGenerator,
            evaluate,
            load_prompts,
        )

        config = SamplingConfig(
            num_samples=num_samples,
            max_completion_length=max_completion_length,
            temperature=temperature,
            top_p=top_p,
            top_k=top_k,
            seed=seed,
        )
        counts = parse_ns(ns)
        if counts and max(counts) > num_samples:
            raise ValueError(f"--ns asks for N = {max(counts)} but --num-samples is {num_samples}; see `tea forecast`")
        prompts = load_prompts(dataset, split=split, prompt_column=prompt_column, limit=limit)
        rewards = [
            load_reward(spec, batch_size=reward_batch_size, device=device, trust_remote_code=trust_remote_code)
            for spec in reward or []
        ]
        names = [function.__name__ for function in rewards]
        if select_by is not None and select_by not in names:
            raise ValueError(
                f"--select-by {select_by!r} is none of the rewards: {', '.join(names) or 'there are none'}"
            )
        generator: Generator
        if engine == "vllm":
            generator = VLLMGenerator(model, adapter=adapter, dtype=dtype, trust_remote_code=trust_remote_code)
        else:
            generator = TransformersGenerator(
                model,
                adapter=adapter,
                max_batch_tokens=max_batch_tokens,
                device=device,
                dtype=dtype,
                trust_remote_code=trust_remote_code,
            )
        run = evaluate(generator, prompts, rewards, output_dir=output_dir, config=config)
        if int(os.environ.get("RANK", "0")) != 0:
            return
        if run is None:
            typer.echo(f"stored {len(prompts.prompts)} x {num_samples} completions in {output_dir}", err=True)
            return
        print_run(run, counts, select_by, level, missing, json)
