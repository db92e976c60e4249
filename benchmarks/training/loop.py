"""One run: from the base model, updates with one estimator's advantages, then best-of-N on held-out prompts.

The loop is TRL's GRPO at its defaults where that says anything (AdamW, linear decay, gradient norm 1, on-policy,
advantages as `tea.trainers.AdvantageTrainer` computes them), without what a hundred-millisecond update does not need.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.training.policy import base_policy, sample, token_log_probs
from benchmarks.training.task import Task
from tea.bestofn import best_of_n_curve

NUM_SAMPLES = 512
CURVE = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)


@dataclass(frozen=True)
class Settings:
    """What of a run is not the estimator.

    Attributes:
        num_generations: m, rollouts per prompt.
        prompts_per_update: P; m * P rollouts are drawn for every update.
        updates: Number of policy updates on fresh rollouts.
        learning_rate: At the start; falls linearly to 0.
        num_iterations: Gradient steps on the same rollouts; above 1 with PPO's clipping at 0.2.
        beta: Weight of the KL divergence to the base model (k3 estimator), as in GRPO.
        sampling: Added to the seed of the sampling alone: the same run with other rollouts.
    """

    num_generations: int
    prompts_per_update: int
    updates: int
    learning_rate: float
    num_iterations: int = 1
    beta: float = 0.0
    sampling: int = 0


Advantages = Callable[..., Tensor]
"""(rewards (P, m), prompt index (P,)) to advantages (P, m); one with an attribute ``further_samples``, K, is also given
the rewards (P, K) of that many other samples of the current policy for the same prompts; one with a method
``off_policy(rewards, ratios)`` gives the advantages of later iterations, by importance ratios (P, m) of sequences."""


@torch.no_grad()
def _further_rewards(task: Task, policy: Any, index: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """(P, count) rewards of samples that are not trained on, prompt by prompt: there may be thousands."""
    rewards = []
    for row in index:
        completions = sample(policy, task.tokens[row : row + 1], count, task.completion_length, generator)
        rewards.append(task.reward(row.expand(count), completions))
    return torch.stack(rewards)


def train(task: Task, base: nn.Module, advantages_of: Advantages, settings: Settings, seed: int) -> Any:
    """The trained policy."""
    policy: Any = copy.deepcopy(base).train()
    reference: Any = copy.deepcopy(base).eval() if settings.beta else None
    optimizer = torch.optim.AdamW(policy.parameters(), lr=settings.learning_rate, weight_decay=0.0)
    steps = settings.updates * settings.num_iterations
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 - step / steps)
    order, sampling = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed + 1 + settings.sampling)
    beside = torch.Generator().manual_seed(seed + 3 + settings.sampling)
    queue = torch.empty(0, dtype=torch.long)
    m = settings.num_generations
    for _ in range(settings.updates):
        while len(queue) < settings.prompts_per_update:
            queue = torch.cat((queue, torch.randperm(task.num_train, generator=order)))
        index, queue = queue[: settings.prompts_per_update], queue[settings.prompts_per_update :]
        completions = sample(policy, task.tokens[index], m, task.completion_length, sampling)
        rows = index.repeat_interleave(m)
        rewards = task.reward(rows, completions).view(-1, m)
        further = ()
        if count := getattr(advantages_of, "further_samples", 0):
            further = (_further_rewards(task, policy, index, count, beside),)
        advantages = advantages_of(rewards, index, *further).view(-1, 1)
        old_log_probs = reference_log_probs = None
        if reference is not None:
            with torch.no_grad():
                reference_log_probs, _ = token_log_probs(reference, task.tokens[rows], completions)
        for _ in range(settings.num_iterations):
            log_probs, _ = token_log_probs(policy, task.tokens[rows], completions)
            if old_log_probs is None:
                old_log_probs = log_probs.detach()
            elif hasattr(advantages_of, "off_policy"):
                moved = (log_probs.detach() - old_log_probs).sum(1).exp().view(-1, m)
                advantages = advantages_of.off_policy(rewards, moved).view(-1, 1)
            ratio = (log_probs - old_log_probs).exp()
            loss = -torch.minimum(ratio * advantages, ratio.clamp(0.8, 1.2) * advantages).mean()
            if reference_log_probs is not None:
                difference = reference_log_probs - log_probs
                loss = loss + settings.beta * (difference.exp() - difference - 1.0).mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(policy.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return policy.eval()


@torch.no_grad()
def evaluate(task: Task, policy: Any, seed: int, num_samples: int = NUM_SAMPLES) -> dict[str, Any]:
    """Best-of-N by the reward and of the gold of its pick, and how diverse the policy is, on the held-out prompts."""
    generator = torch.Generator().manual_seed(seed + 2)
    index = torch.arange(task.num_train, len(task.tokens))
    rows = index.repeat_interleave(num_samples)
    completions = torch.cat(
        [
            sample(policy, task.tokens[chunk], num_samples, task.completion_length, generator)
            for chunk in index.split(max(1, 4096 // num_samples))
        ]
    )
    rewards = task.reward(rows, completions).view(-1, num_samples)
    ns = [n for n in CURVE if n <= num_samples]
    curve = best_of_n_curve(rewards.double().numpy(), ns)
    result: dict[str, Any] = {
        "curve": dict(zip(map(str, ns), curve.values.tolist(), strict=True)),
        "per_prompt": np.round(curve.per_prompt[:, ns.index(min(128, num_samples))], 5).tolist(),
        "reward_std": rewards.std(1).mean().item(),
        "bimodality": _bimodality(rewards),
    }
    if type(task).gold is not Task.gold:
        gold = task.gold(rows, completions).view(-1, num_samples)
        picked = best_of_n_curve(select_by=rewards.double().numpy(), value=gold.double().numpy(), ns=ns)
        result["gold"] = dict(zip(map(str, ns), picked.values.tolist(), strict=True))
    few = rows.view(-1, num_samples)[:, :16].reshape(-1)
    seen = completions.view(len(index), num_samples, -1)
    _, entropy = token_log_probs(policy, task.tokens[few], seen[:, :16].reshape(len(few), -1))
    result["entropy"] = entropy.mean().item()
    # Share of distinct completions among 128.
    first = seen[:, : min(128, num_samples)]
    result["distinct"] = float(np.mean([len(torch.unique(c, dim=0)) / len(c) for c in first]))
    return result


def _bimodality(rewards: Tensor) -> float:
    """Sarle's coefficient (skewness^2 + 1) / kurtosis, mean over prompts: 0.33 for a Gaussian, 1 for two points."""
    z = (rewards - rewards.mean(1, keepdim=True)).double()
    std = z.std(1, correction=0, keepdim=True)
    z = z[std[:, 0] > 1e-9] / std[std[:, 0] > 1e-9]
    if not len(z):
        return 0.0
    return ((z**3).mean(1).square().add(1.0) / (z**4).mean(1)).mean().item()


def run(
    task_class: type[Task], advantages_of: Advantages | None, settings: Settings, seed: int, **size: int
) -> dict[str, Any]:
    """Train (unless ``advantages_of`` is None: the base model itself) and evaluate."""
    task, base = base_policy(task_class, seed, **size)
    start = time.perf_counter()
    policy = base.eval() if advantages_of is None else train(task, base, advantages_of, settings, seed)
    trained = time.perf_counter()
    result = evaluate(task, policy, seed)
    result["training_seconds"] = trained - start
    result["evaluation_seconds"] = time.perf_counter() - trained
    return result
