"""Tokens per second of `tea eval`'s sampler, each prompt run once, against `generate`, which repeats it per sample.

    python -m benchmarks.speed.sampling            # minutes on one core

A random Llama of 13 million parameters; n samples of one prompt, every completion of full length. The two take turns,
round after round. On a CPU the seconds are those that the process was given, which a busy machine does not lengthen; on
a GPU they are the clock's. For a prompt of L tokens and completions of T, `generate` processes n (L + T) tokens,
sharing the prompt L + n T: their ratio is the gain if time went by tokens alone.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from benchmarks.record import describe, environment, replace_section, table, write_json
from tea.rollouts.shared import sample_shared

HERE = Path(__file__).resolve().parent
PROMPTS = (32, 256, 1024)
SAMPLES, TOKENS = 128, 32


def measure(device: str, threads: int, rounds: int) -> dict[str, Any]:
    """Seconds per round of both, for every length of the prompt."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    config = LlamaConfig(
        **{"vocab_size": 8192, "hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 5},
        **{"num_attention_heads": 6, "num_key_value_heads": 2, "max_position_embeddings": 2048},
    )
    model = LlamaForCausalLM(config).eval().to(device)
    settings = GenerationConfig(max_new_tokens=TOKENS, do_sample=True, top_k=0, eos_token_id=None, pad_token_id=0)
    result: dict[str, Any] = {"device": device, "threads": threads, "rounds": rounds, "samples": SAMPLES}
    result |= {"tokens": TOKENS, "parameters": model.num_parameters(), "cells": {}, "environment": environment()}
    clock = time.perf_counter if device == "cuda" else time.process_time
    for place, length in enumerate(PROMPTS):
        prompt = torch.randint(1, 8192, (length,)).tolist()
        rows = torch.tensor([prompt] * SAMPLES, device=device)
        timed = {
            "generate": lambda rows=rows: model.generate(
                rows, attention_mask=torch.ones_like(rows), generation_config=settings
            ),
            "shared": lambda prompt=prompt: sample_shared(model, [prompt], [SAMPLES], settings, max_rows=SAMPLES),
        }
        seconds: dict[str, list[float]] = {name: [] for name in timed}
        # A CPU is warm after the first, short prompt; a GPU compiles for every shape.
        warm_up = 1 if device == "cuda" or place == 0 else 0
        for _ in range(warm_up + rounds):
            for name, function in timed.items():
                start = clock()
                function()
                if device == "cuda":
                    torch.cuda.synchronize()
                seconds[name].append(clock() - start)
        seconds = {name: times[warm_up:] for name, times in seconds.items()}
        result["cells"][str(length)] = seconds
    return result


def render(result: dict[str, Any]) -> str:
    """The table of the README."""
    rows = []
    made = SAMPLES * TOKENS
    for length, seconds in result["cells"].items():
        speed = {name: made / statistics.median(times) for name, times in seconds.items()}
        ratios = [a / b for a, b in zip(seconds["generate"], seconds["shared"], strict=True)]
        n = int(length)
        predicted = SAMPLES * (n + TOKENS) / (n + made)
        rows.append(
            [
                f"{n:,}",
                f"{speed['generate']:,.0f}",
                f"{speed['shared']:,.0f}",
                f"{statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})",
                f"{predicted:.1f}",
            ]
        )
    head = ["prompt, tokens", "generate, tokens/s", "shared, tokens/s", "× faster (range over rounds)", "× by tokens"]
    where = f"{result['samples']} samples of {result['tokens']} tokens; {result['threads']} thread(s)"
    unit = "seconds of the clock" if result["device"] == "cuda" else "CPU seconds"
    return f"{table(head, rows)}\n\n{where}, {result['rounds']} rounds, by {unit}. {describe(result['environment'])}"


def main() -> None:
    """Measure, store, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    result = measure(arguments.device, arguments.threads, arguments.rounds)
    write_json(HERE / "results" / f"sampling-{arguments.device}.json", result)
    replace_section(HERE / "README.md", f"sampling-{arguments.device}", "\n" + render(result) + "\n")


if __name__ == "__main__":
    main()
