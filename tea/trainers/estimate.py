"""What a run will take, before it starts: memory, rollouts, steps and hours. `docs/memory.md` has the formulas.

They are estimates: hours to a factor of two; what memory came to where it was measured stands there too.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import trl
from transformers.trainer_utils import IntervalStrategy
from trl import ModelConfig, get_peft_config

from tea.trainers.config import TEAConfig

_BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}

# Bytes that one token of one layer leaves for the backward pass, for every unit of: hidden size, size of the gated MLP,
# heads of queries and of keys x their size, the same again where these are normalised (Qwen3). Counted from the tensors
# that PyTorch saves for Llama and Qwen3 (sdpa attention), see tests/trainers/test_estimate.py.
_SAVED = {
    "float32": (24.0, 16.0, 8.0, 8.0),
    "float32 under autocast": (26.0, 8.0, 4.0, 6.0),
    "bfloat16": (18.0, 8.0, 5.0, 4.0),
}

# Tokens and words that TRL's fused head works on at a time.
_HEAD_TILE = (4096, 32768)

# An 80 GB H100 as training reaches it, not as it is sold.
FLOPS = 4e14  # bfloat16 operations per second
BANDWIDTH = 2e12  # bytes per second
# Seconds of one decoding step per layer beyond reading weights and cache: Python and kernel launches.
LAUNCH = {"transformers": 1e-3, "vllm": 5e-5}


@dataclass(frozen=True)
class Sizes:
    """Sizes of a policy.

    Args:
        parameters: Of the whole model, adapters included.
        trained: Of them, those that are trained.
        layers, hidden, intermediate, vocabulary: Of the transformer.
        attention: Heads of queries and of keys, times their size.
        normalised_attention: Queries and keys are normalised.
        cache_per_token: Bytes of keys and values of one token, as wide as the weights.
        weight_bytes: Bytes per parameter in memory.
        trained_bytes: Bytes per trained parameter in memory.
    """

    parameters: int
    trained: int
    layers: int
    hidden: int
    intermediate: int
    attention: int
    normalised_attention: bool
    vocabulary: int
    cache_per_token: float
    weight_bytes: float
    trained_bytes: float


def sizes_of(config: Any, model_args: ModelConfig) -> Sizes:
    """Sizes of the model that a configuration describes, counted without making its weights."""
    from transformers import AutoModelForCausalLM

    text = config.get_text_config()
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        peft_config = get_peft_config(model_args)
        if peft_config is not None:
            from peft import get_peft_model

            model = get_peft_model(model, peft_config)
    parameters = sum(p.numel() for p in model.parameters())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    dtype = model_args.dtype if model_args.dtype in _BYTES else str(config.dtype or "float32").removeprefix("torch.")
    weight = _BYTES.get(dtype, 4.0)
    heads = text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // heads
    key_heads = getattr(text, "num_key_value_heads", None) or heads
    quantised = model_args.load_in_4bit or model_args.load_in_8bit
    return Sizes(
        parameters=parameters,
        trained=trained,
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        intermediate=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        attention=(heads + key_heads) * head_dim,
        normalised_attention=any(name.endswith("q_norm") for name, _ in model.named_modules()),
        vocabulary=text.vocab_size,
        cache_per_token=2 * text.num_hidden_layers * key_heads * head_dim * (2.0 if quantised else weight),
        # nf4 with its constants; adapters are float32 however the base is stored.
        weight_bytes=0.55 if model_args.load_in_4bit else 1.05 if model_args.load_in_8bit else weight,
        trained_bytes=4.0 if peft_config is not None else weight,
    )


def reward_bytes(rewards: Sequence[Any]) -> tuple[int, float]:
    """Parameters and bytes of the reward models among the rewards."""
    models = [r for r in rewards if isinstance(r, torch.nn.Module)]
    models += [r.model for r in rewards if isinstance(getattr(r, "model", None), torch.nn.Module)]
    tensors = [p for model in models for p in model.parameters()]
    return sum(p.numel() for p in tensors), float(sum(p.numel() * p.element_size() for p in tensors))


def checkpoint_bytes(sizes: Sizes) -> float:
    """Bytes of one checkpoint: weights that are trained, and AdamW's two moments in float32."""
    return sizes.trained * (sizes.trained_bytes + 8.0)


def memory(sizes: Sizes, args: TEAConfig, prompt_length: float, reward: float) -> dict[str, dict[str, float]]:
    """Bytes per process: all the time, while training, and while generating, by what they are for.

    Args:
        sizes: Of the policy.
        args: Of the run.
        prompt_length: Tokens of the longest prompts.
        reward: Bytes of reward models.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    sharded = world if os.environ.get("ACCELERATE_USE_FSDP") == "true" or args.deepspeed_plugin is not None else 1
    completion = args.max_completion_length or 0
    length = prompt_length + completion
    batch = args.per_device_train_batch_size
    frozen = sizes.parameters - sizes.trained
    always = {
        "weights": (frozen * sizes.weight_bytes + sizes.trained * sizes.trained_bytes) / sharded,
        "AdamW": sizes.trained * 8.0 / sharded,
    }
    if reward:
        always["reward models"] = reward / sharded
    if args.bf16 and sizes.trained_bytes == 4.0:
        always["bfloat16 copy under autocast"] = sizes.trained * 2.0 / sharded
    if args.beta != 0.0 and sizes.trained == sizes.parameters:
        always["reference model"] = sizes.parameters * sizes.weight_bytes / sharded

    wide = sizes.weight_bytes == 4.0  # so is what one layer hands to the next
    saved = _SAVED["bfloat16" if not wide else "float32 under autocast" if args.bf16 else "float32"]
    units = (sizes.hidden, sizes.intermediate, sizes.attention, sizes.attention * sizes.normalised_attention)
    layer = sum(unit * size for unit, size in zip(units, saved, strict=True))
    training = {"gradients": sizes.trained * sizes.trained_bytes / sharded}
    if args.gradient_checkpointing:
        kept = sizes.layers * sizes.hidden * (4.0 if wide else 2.0)
        training["activations (checkpointed)"] = batch * length * (kept + layer)
    else:
        training["activations"] = batch * length * sizes.layers * layer
    training["logits"] = _logits(sizes, args, batch * length, batch * completion)
    if args.gradient_accumulation_steps == 1:
        # The gradients come into being while activations and logits go.
        gradients = training.pop("gradients")
        training["gradients beyond these"] = max(0.0, gradients - sum(training.values()))

    generating = {}
    if not args.use_vllm:
        rows = rows_together(args)
        generating["keys and values"] = rows * length * sizes.cache_per_token
        generating["sampling"] = 12.0 * rows * sizes.vocabulary
    return {"": always, "while training": training, "while generating": generating}


def _logits(sizes: Sizes, args: TEAConfig, tokens: int | float, completion: int | float) -> float:
    """Bytes at the output of a batch of so many tokens, of which `completion` are trained on."""
    if not hasattr(trl.trainer.utils, "add_fused_lm_head"):
        return 12.0 * completion * sizes.vocabulary
    # TRL's fused head works on tiles. On a CPU it takes all positions, and several float32 copies of a tile.
    tile = min(tokens if args.use_cpu else completion, _HEAD_TILE[0]) * min(sizes.vocabulary, _HEAD_TILE[1])
    gradient = 4.0 * sizes.vocabulary * sizes.hidden if sizes.trained == sizes.parameters else 0.0
    return gradient + tile * (32.0 if args.use_cpu else 2.0 if args.bf16 else 4.0)


def peak(parts: dict[str, dict[str, float]]) -> float:
    """Bytes held at most: training and generating take turns."""
    always, *turns = parts.values()
    return sum(always.values()) + max(sum(part.values()) for part in turns)


def rows_together(args: TEAConfig) -> int:
    """Completions that a process samples at a time."""
    rows = args.per_device_train_batch_size * args.steps_per_generation
    return max(rows, args.per_device_eval_batch_size) if args.eval_strategy != "no" else rows


def steps_and_rollouts(args: TEAConfig, prompts: int | None) -> tuple[int | None, int, int | None]:
    """Optimizer steps, rollouts per generation batch, and rollouts of the whole run."""
    per_batch = args.generation_batch_size
    # One generation batch serves this many optimizer steps.
    serves = args.num_iterations * args.steps_per_generation / args.gradient_accumulation_steps
    if args.max_steps > 0:
        steps: int | None = args.max_steps
    elif prompts is not None:
        batches = prompts // (per_batch // args.num_generations)
        steps = int(args.num_train_epochs * batches * serves)
    else:
        steps = None
    return steps, per_batch, None if steps is None else round(steps / serves) * per_batch


def evaluations(args: TEAConfig, steps: int | None, held_out: int | None) -> tuple[int, int] | None:
    """How often held-out prompts are sampled, and completions each time; None if that cannot be known."""
    if args.eval_strategy == IntervalStrategy.NO:
        return 0, 0
    if held_out is None or steps is None:
        return None
    if args.eval_strategy == IntervalStrategy.STEPS:
        every = args.eval_steps if args.eval_steps >= 1 else math.ceil(args.eval_steps * steps)
        times = math.ceil(steps / every)  # the last step, too
    else:
        times = math.ceil(args.num_train_epochs)
    times += bool(args.eval_on_start)
    if args.eval_best_of_n_steps:
        prompts = min(args.eval_best_of_n_prompts or held_out, held_out)
        return times, prompts * (args.eval_best_of_n_samples or args.target_n)
    return times, held_out * (args.num_generations_eval or args.num_generations)


def hours(
    sizes: Sizes, args: TEAConfig, prompt_length: float, rollouts: int, reward_parameters: int, measured: int = 0
) -> float:
    """Hours of a run on 80 GB H100s, one per process: every completion of full length.

    Args:
        sizes: Of the policy.
        args: Of the run.
        prompt_length: Tokens of a prompt, on average.
        rollouts: Completions that are trained on.
        reward_parameters: Of reward models.
        measured: Completions of held-out prompts.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    completion = args.max_completion_length or 0
    # Forward 2, backward 4, forward again 2 with gradient checkpointing; a reward or reference model 2.
    training = (8 if args.gradient_checkpointing else 6) * args.num_iterations + (2 if args.beta else 0)
    operations = rollouts * sizes.parameters * training + (rollouts + measured) * reward_parameters * 2
    decoding = 0.0
    for completions, rows in ((rollouts, args.generation_batch_size / world), (measured, rows_together(args))):
        reading = sizes.parameters * 2.0 + rows * (prompt_length + completion / 2) * sizes.cache_per_token
        launch = LAUNCH["vllm" if args.use_vllm else "transformers"] * sizes.layers
        decoding += completions / (rows * world) * completion * (reading / BANDWIDTH + launch)
    return float(operations * (prompt_length + completion) / FLOPS / world + decoding) / 3600


def report(
    config: Any, args: TEAConfig, model_args: ModelConfig, data: Any, rewards: Sequence[Any], length: Any
) -> list[str]:
    """The lines that `tea train --dry-run` prints."""
    sizes = sizes_of(config, model_args)
    prompts = len(data.train) if hasattr(data.train, "__len__") else None
    sample = [row["prompt"] for row, _ in zip(data.train, range(200), strict=False)]
    tokens = [length(prompt) for prompt in sample]
    mean = sum(tokens) / len(tokens)
    reward_parameters, in_reward = reward_bytes(rewards)
    parts = memory(sizes, args, max(tokens), in_reward)
    steps, per_batch, rollouts = steps_and_rollouts(args, prompts)
    held_out = evaluations(args, steps, None if data.held_out is None else len(data.held_out))
    lines = [
        *data.notes,
        f"model: {sizes.parameters:,} parameters, {sizes.trained:,} of them trained",
        f"prompts: {mean:.0f} tokens on average, at most {max(tokens)} (of the first {len(tokens)})",
        f"rollouts: m = {args.num_generations} for each of {per_batch // args.num_generations} prompts, {per_batch} "
        f"per generation batch, estimator {args.advantage_estimator}, N = {args.target_n}",
        f"steps: {'unknown: set max_steps' if steps is None else f'{steps:,}'}"
        + ("" if rollouts is None else f", {rollouts:,} rollouts in all"),
    ]
    if held_out is not None and held_out[0]:
        kind = "best-of-N" if args.eval_best_of_n_steps else "evaluation"
        times, each = held_out
        lines.append(f"{kind} on held-out prompts: {times:,} times {each:,} completions, {times * each:,} in all")
    lines += [
        f"memory: {value / 1e9:6.2f} GB {f'{name}, {when}' if when else name}"
        for when, part in parts.items()
        for name, value in part.items()
    ]
    lines += [
        f"memory: {peak(parts) / 1e9:6.2f} GB at most per process, estimated: training and generating take turns"
        + (f"; and vLLM's share of {args.vllm_gpu_memory_utilization:.0%} of the GPU" if _colocated(args) else ""),
        f"checkpoint: {checkpoint_bytes(sizes) / 1e9:.2f} GB",
    ]
    if rollouts is not None:
        measured = math.prod(held_out) if held_out is not None else 0
        took = hours(sizes, args, mean, rollouts, reward_parameters, measured)
        without = took - hours(sizes, args, mean, rollouts, reward_parameters)
        lines.append(
            f"time: about {took:.1f} h on an 80 GB H100 per process if completions are of full length"
            + (f", {without:.1f} h of them for held-out prompts" if measured else "")
        )
    return lines


def _colocated(args: TEAConfig) -> bool:
    return bool(args.use_vllm and args.vllm_mode == "colocate")
