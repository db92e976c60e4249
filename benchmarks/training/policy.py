"""The policy: a small Llama of transformers', sampled and scored on fixed lengths, and its pre-training."""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.training.task import Task

# A run is a few seconds long: a file read is cheaper than pre-training again.
CACHE = Path(os.environ.get("TEA_BENCH_CACHE", Path(__file__).resolve().parents[2] / "outputs" / "bench-training"))
WIDTH, LAYERS, HEADS = 64, 2, 4
PRETRAINING_BATCH = 256


def build_policy(task: Task, width: int = WIDTH, layers: int = LAYERS, heads: int = HEADS) -> nn.Module:
    """A `LlamaForCausalLM` over the task's tokens, with weights from torch's global generator."""
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=task.vocab_size,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            max_position_embeddings=task.tokens.shape[1] + task.completion_length,
            # transformers' 0.02 is for models 50 times wider.
            initializer_range=0.1 * (WIDTH / width) ** 0.5,
            tie_word_embeddings=True,
            pad_token_id=None,
            bos_token_id=None,
            eos_token_id=None,
        )
    )


@torch.no_grad()
def sample(policy: Any, prompts: Tensor, num_generations: int, length: int, generator: torch.Generator) -> Tensor:
    """Completions (P * G, T) of prompts (P, L), groups contiguous, at temperature 1."""
    from transformers import DynamicCache

    cache = DynamicCache(config=policy.config)
    logits = policy(input_ids=prompts, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1]
    cache.batch_repeat_interleave(num_generations)
    logits = logits.repeat_interleave(num_generations, dim=0)
    completion = []
    for t in range(length):
        token = torch.multinomial(logits.float().softmax(-1), 1, generator=generator)
        completion.append(token)
        if t < length - 1:
            logits = policy(input_ids=token, past_key_values=cache, use_cache=True).logits[:, -1]
    return torch.cat(completion, dim=1)


def token_log_probs(policy: Any, prompts: Tensor, completions: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities of completions (B, T) after prompts (B, L), and the entropy at each token: both (B, T)."""
    length = completions.shape[1]
    inputs = torch.cat((prompts, completions[:, :-1]), dim=1)
    log_probs = policy(input_ids=inputs, use_cache=False, logits_to_keep=length).logits.float().log_softmax(-1)
    entropy = -(log_probs.detach().exp() * log_probs.detach()).sum(-1)
    return log_probs.gather(-1, completions.unsqueeze(-1)).squeeze(-1), entropy


def pretrain(task: Task, **size: int) -> nn.Module:
    """The base model: maximum likelihood on the task's corpus of train prompts."""
    torch.manual_seed(task.seed)
    policy = build_policy(task, **size).train()
    optimizer = torch.optim.AdamW(policy.parameters(), lr=task.pretraining_learning_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=task.pretraining_learning_rate, total_steps=task.pretraining_steps, pct_start=0.1
    )
    for _ in range(task.pretraining_steps):
        index = task.randint(task.num_train, PRETRAINING_BATCH)
        log_probs, _ = token_log_probs(policy, task.tokens[index], task.corpus(index))
        optimizer.zero_grad()
        (-log_probs.mean()).backward()
        nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return policy


@lru_cache
def _code_version(task_class: type[Task]) -> str:
    import inspect

    files = [Path(__file__), Path(inspect.getfile(task_class)), Path(inspect.getfile(Task))]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:12]


def base_policy(task_class: type[Task], seed: int, **size: int) -> tuple[Task, nn.Module]:
    """The task of that seed and its base model, pre-trained once and kept under :data:`CACHE`."""
    torch.manual_seed(seed)
    task = task_class(seed)
    shape = "-".join(f"{key}{value}" for key, value in sorted(size.items()))
    path = CACHE / f"{task.name}-{seed}{shape and '-' + shape}-{_code_version(task_class)}.pt"
    if path.is_file():
        policy = build_policy(task, **size)
        policy.load_state_dict(torch.load(path, weights_only=True))
        return task, policy
    policy = pretrain(task, **size)
    CACHE.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    torch.save(policy.state_dict(), temporary)
    os.replace(temporary, path)
    return task, policy
