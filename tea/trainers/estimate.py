"""What a run will take, before it starts: memory, rollouts, steps and hours. `docs/memory.md` has the formulas.

They are estimates: memory to some ten per cent where activations do not dominate, hours to a factor of two.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from trl import ModelConfig, get_peft_config

from tea.trainers.config import TEAConfig

_BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}

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
        layers, hidden, vocabulary: Of the transformer.
        cache_per_token: Bytes of keys and values of one token, in 16 bits.
        weight_bytes: Bytes per parameter in memory.
        trained_bytes: Bytes per trained parameter in memory.
    """

    parameters: int
    trained: int
    layers: int
    hidden: int
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
    return Sizes(
        parameters=parameters,
        trained=trained,
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        vocabulary=text.vocab_size,
        cache_per_token=2
        * 2
        * text.num_hidden_layers
        * (getattr(text, "num_key_value_heads", None) or heads)
        * head_dim,
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


def memory(sizes: Sizes, args: TEAConfig, prompt_length: float, reward: float) -> dict[str, float]:
    """Bytes per process, by what they are for. `reward`: those of reward models."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    sharded = world if os.environ.get("ACCELERATE_USE_FSDP") == "true" or args.deepspeed_plugin is not None else 1
    length = prompt_length + (args.max_completion_length or 0)
    batch = args.per_device_train_batch_size
    frozen = sizes.parameters - sizes.trained
    parts = {
        "weights": (frozen * sizes.weight_bytes + sizes.trained * sizes.trained_bytes) / sharded,
        "gradients": sizes.trained * sizes.trained_bytes / sharded,
        "AdamW": sizes.trained * 8.0 / sharded,
        "reward models": reward / sharded,
    }
    if args.bf16 and sizes.weight_bytes == 4.0:
        parts["bfloat16 copy under autocast"] = sizes.parameters * 2.0 / sharded
    if args.beta != 0.0 and sizes.trained == sizes.parameters:
        parts["reference model"] = sizes.parameters * sizes.weight_bytes / sharded
    layer = batch * length * sizes.hidden
    if args.gradient_checkpointing:
        parts["activations (checkpointed)"] = layer * (2.0 * sizes.layers + 34.0)
    else:
        parts["activations"] = layer * 34.0 * sizes.layers
    parts["logits"] = batch * (args.max_completion_length or 0) * sizes.vocabulary * 4.0 * 2
    if not args.use_vllm:
        rows = batch * args.steps_per_generation
        parts["keys and values while generating"] = rows * length * sizes.cache_per_token
    return parts


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


def hours(sizes: Sizes, args: TEAConfig, prompt_length: float, rollouts: int, reward_parameters: int) -> float:
    """Hours of a run on 80 GB H100s, one per process: every completion of full length."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    completion = args.max_completion_length or 0
    tokens = rollouts * (prompt_length + completion)
    # Forward 2, backward 4, forward again 2 with gradient checkpointing; a reward or reference model 2.
    training = (8 if args.gradient_checkpointing else 6) * args.num_iterations + (2 if args.beta else 0)
    operations = tokens * (sizes.parameters * training + reward_parameters * 2)
    rows = args.generation_batch_size / world
    reading = sizes.parameters * 2.0 + rows * (prompt_length + completion / 2) * sizes.cache_per_token
    launch = LAUNCH["vllm" if args.use_vllm else "transformers"] * sizes.layers
    decoding = rollouts / args.generation_batch_size * completion * (reading / BANDWIDTH + launch)
    return float(operations / FLOPS / world + decoding) / 3600


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
    parts = memory(sizes, args, mean, in_reward)
    steps, per_batch, rollouts = steps_and_rollouts(args, prompts)
    lines = [
        *data.notes,
        f"model: {sizes.parameters:,} parameters, {sizes.trained:,} of them trained",
        f"prompts: {mean:.0f} tokens on average, at most {max(tokens)} (of the first {len(tokens)})",
        f"rollouts: m = {args.num_generations} for each of {per_batch // args.num_generations} prompts, {per_batch} "
        f"per generation batch, estimator {args.advantage_estimator}, N = {args.target_n}",
        f"steps: {'unknown: set max_steps' if steps is None else f'{steps:,}'}"
        + ("" if rollouts is None else f", {rollouts:,} rollouts in all"),
        *(f"memory: {value / 1e9:6.2f} GB {name}" for name, value in parts.items()),
        f"memory: {sum(parts.values()) / 1e9:6.2f} GB in all per process, estimated"
        + (f", and vLLM's share of {args.vllm_gpu_memory_utilization:.0%} of the GPU" if _colocated(args) else ""),
        f"checkpoint: {checkpoint_bytes(sizes) / 1e9:.2f} GB",
    ]
    if rollouts is not None:
        took = hours(sizes, args, mean, rollouts, reward_parameters)
        lines.append(f"time: about {took:.1f} h on an 80 GB H100 per process if completions are of full length")
    return lines


def _colocated(args: TEAConfig) -> bool:
    return bool(args.use_vllm and args.vllm_mode == "colocate")
