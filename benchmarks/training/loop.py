"""Runs side by side: from the base model, updates with one estimator's advantages, then best-of-N on held-out prompts.

The loop is TRL's GRPO at its defaults where that says anything (AdamW, linear decay, on-policy), with advantages and
clipping of gradients as `tea.trainers.AdvantageTrainer` has them, without what a hundred-millisecond update does not
need.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.training.policy import base_policy
from benchmarks.training.stack import Adam, Stack
from benchmarks.training.task import Task
from tea.bestofn import best_of_n_curve

NUM_SAMPLES = 512
FEWER_SAMPLES = 256  # where N is at most 128: the curve is unbiased for every N up to the number of samples
VERSION = 2
"""Raised whenever an edit changes what every run gives; 1: each batch divided by its own root mean square, clipped."""
SAMPLED_AT_ONCE = 4096
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
        max_grad_norm: What gradients are clipped to.
        share_by_gain: After the first epoch, the share of each update's prompts that is drawn by what best-of-N gained
            from them last, see :class:`PromptOrder`.
    """

    num_generations: int
    prompts_per_update: int
    updates: int
    learning_rate: float
    num_iterations: int = 1
    beta: float = 0.0
    sampling: int = 0
    max_grad_norm: float = 1.0
    share_by_gain: float = 0.0


class PromptOrder:
    """The prompts of a run's updates: one random epoch after the other, a share of them drawn by gain instead.

    What best-of-N gains from a prompt in one step of the policy is, to first order, the size of its advantages: 0 where
    all rollouts are equal or the best is common. So the root mean square of a group's advantages at its last visit
    is the chance of its prompt, without replacement within an update.
    """

    def __init__(self, count: int, share: float, seed: int) -> None:
        self.count, self.share = count, share
        self.generator = torch.Generator().manual_seed(seed)
        self.queue = torch.empty(0, dtype=torch.long)
        self.gain = torch.zeros(count)
        self.visited = torch.zeros(count, dtype=torch.bool)

    def take(self, number: int) -> Tensor:
        """(number,) indices of prompts."""
        by_gain = round(self.share * number) if bool(self.visited.all()) else 0
        while len(self.queue) < number - by_gain:
            self.queue = torch.cat((self.queue, torch.randperm(self.count, generator=self.generator)))
        index, self.queue = self.queue[: number - by_gain], self.queue[number - by_gain :]
        if by_gain:
            chance = self.gain + 1e-3 * self.gain.mean() + 1e-12  # enough of them above 0 to draw from
            index = torch.cat((index, torch.multinomial(chance, by_gain, generator=self.generator)))
        return index

    def learn(self, index: Tensor, advantages: Tensor) -> None:
        """Of prompts (P,) the advantages (P, m) of their last visit."""
        self.gain[index] = advantages.square().mean(1).sqrt()
        self.visited[index] = True


Advantages = Callable[..., Tensor]
"""(rewards (P, m), prompt index (P,)) to advantages (P, m); one with an attribute ``further_samples``, K, is also given
the rewards (P, K) of that many other samples of the current policy for the same prompts; one with a method
``off_policy(rewards, ratios)`` gives the advantages of later iterations, by importance ratios (P, m) of sequences."""


@dataclass(frozen=True)
class Member:
    """One run of a stack: what its advantages are, and its settings."""

    advantages_of: Advantages
    settings: Settings


def stackable(settings: Settings) -> Settings:
    """What runs of one stack have in common: all but the learning rate, the clipping and the draws."""
    return replace(settings, learning_rate=0.0, max_grad_norm=0.0, sampling=0)


def sampled_rewards(
    task: Task, policy: Stack, index: Tensor, count: int, generator: torch.Generator, at_once: int = SAMPLED_AT_ONCE
) -> Tensor:
    """(P, count) rewards of samples of one policy for prompts (P,), drawn about ``at_once`` at a time."""
    rewards = []
    for chunk in index.split(max(1, at_once // count)):
        prompts = task.tokens[chunk].unsqueeze(0)
        completions = policy.sample(prompts, count, task.completion_length, [generator])[0]
        rewards.append(task.reward(chunk.repeat_interleave(count), completions).view(-1, count))
    return torch.cat(rewards)


def _further_rewards(
    task: Task,
    policies: Stack,
    indices: Sequence[Tensor],
    members: Sequence[Member],
    generators: Sequence[torch.Generator],
) -> list[tuple[Tensor, ...]]:
    """Per member nothing, or (P, K) rewards of K samples that are not trained on."""
    found: list[tuple[Tensor, ...]] = []
    for i, (member, generator) in enumerate(zip(members, generators, strict=True)):
        count = getattr(member.advantages_of, "further_samples", 0)
        found.append((sampled_rewards(task, policies[i], indices[i], count, generator),) if count else ())
    return found


def train(task: Task, base: nn.Module, members: Sequence[Member], seed: int) -> Stack:
    """The trained policies, from the same base model, by default on the same prompts in the same order."""
    settings = members[0].settings
    if any(stackable(member.settings) != stackable(settings) for member in members):
        raise ValueError("runs of one stack must have the same settings but for learning rate, clipping and sampling")
    policies = Stack.of([base] * len(members))
    reference = Stack.of([base] * len(members)) if settings.beta else None
    policies.flat.requires_grad_()
    optimizer = Adam(policies.flat)
    rates = torch.tensor([member.settings.learning_rate for member in members])
    norms = torch.tensor([member.settings.max_grad_norm for member in members])
    orders = [PromptOrder(task.num_train, member.settings.share_by_gain, seed) for member in members]
    sampling = [torch.Generator().manual_seed(seed + 1 + member.settings.sampling) for member in members]
    beside = [torch.Generator().manual_seed(seed + 3 + member.settings.sampling) for member in members]
    m, steps = settings.num_generations, settings.updates * settings.num_iterations
    for _ in range(settings.updates):
        indices = [order.take(settings.prompts_per_update) for order in orders]
        prompts = torch.stack([task.tokens[index] for index in indices])
        completions = policies.sample(prompts, m, task.completion_length, sampling)
        rewards = [
            task.reward(index.repeat_interleave(m), mine).view(-1, m)
            for index, mine in zip(indices, completions, strict=True)
        ]
        further = _further_rewards(task, policies, indices, members, beside)
        advantages = [
            member.advantages_of(mine, index, *more)
            for member, mine, index, more in zip(members, rewards, indices, further, strict=True)
        ]
        for order, index, mine in zip(orders, indices, advantages, strict=True):
            order.learn(index, mine)
        old_log_probs = reference_log_probs = None
        if reference is not None:
            with torch.no_grad():
                reference_log_probs = reference.log_probs(prompts, completions)
        for _ in range(settings.num_iterations):
            log_probs = policies.log_probs(prompts, completions)
            if old_log_probs is None:
                old_log_probs = log_probs.detach()
            else:
                moved = (log_probs.detach() - old_log_probs).sum(2).exp().view(len(members), -1, m)
                for i, member in enumerate(members):
                    if hasattr(member.advantages_of, "off_policy"):
                        advantages[i] = member.advantages_of.off_policy(rewards[i], moved[i])
            weights = torch.stack([mine.reshape(-1, 1) for mine in advantages])
            ratio = (log_probs - old_log_probs).exp()
            loss = -torch.minimum(ratio * weights, ratio.clamp(0.8, 1.2) * weights).mean((1, 2))
            if reference_log_probs is not None:
                difference = reference_log_probs - log_probs
                loss = loss + settings.beta * (difference.exp() - difference - 1.0).mean((1, 2))
            loss.sum().backward()
            optimizer.step(rates * (1.0 - optimizer.steps / steps), norms)
    return Stack(policies.flat.detach(), policies.shape)


@torch.no_grad()
def evaluate(task: Task, policy: Stack, seed: int, num_samples: int = NUM_SAMPLES) -> dict[str, Any]:
    """Best-of-N by the reward and of the gold of its pick, and how diverse a policy is, on the held-out prompts."""
    generator = torch.Generator().manual_seed(seed + 2)
    index = torch.arange(task.num_train, len(task.tokens))
    rows = index.repeat_interleave(num_samples)
    completions = torch.cat(
        [
            policy.sample(task.tokens[chunk].unsqueeze(0), num_samples, task.completion_length, [generator])[0]
            for chunk in index.split(max(1, SAMPLED_AT_ONCE // num_samples))
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
    seen = completions.view(len(index), num_samples, -1)
    few = seen[:, :16].flatten(0, 1).unsqueeze(0)
    log_probs = policy.all_log_probs(task.tokens[index].unsqueeze(0), few)
    result["entropy"] = -(log_probs.exp() * log_probs).sum(-1).mean().item()
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


def run_stack(
    task_class: type[Task], members: Sequence[Member], seed: int, num_samples: int = NUM_SAMPLES, **size: int
) -> list[dict[str, Any]]:
    """Train and evaluate each of the runs; without any, evaluate the base model.

    Every result has ``training_seconds``, its share of the stack's, and ``evaluation_seconds``.
    """
    task, base = base_policy(task_class, seed, **size)
    start = time.perf_counter()
    policies = train(task, base, members, seed) if members else Stack.of([base])
    seconds = (time.perf_counter() - start) / len(policies)
    results = []
    for policy in policies:
        start = time.perf_counter()
        result = evaluate(task, policy, seed, num_samples)
        result["training_seconds"] = seconds
        result["evaluation_seconds"] = time.perf_counter() - start
        results.append(result)
    return results
