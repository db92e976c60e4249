"""What is compared: every row of the tables, as an estimator with its options for m rollouts and a target N."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from benchmarks.training.loop import Advantages
from tea.estimators import get_estimator, get_estimator_spec
from tea.estimators.group import BinaryRewardsWarning
from tea.estimators.memory import RewardMemory, advantages_with_memory
from tea.estimators.scale import RunningScale

Options = dict[str, Any]

PSI_ORACLE = "psi_oracle"
"""No estimator: it sees what no estimator can."""


@dataclass(frozen=True)
class Method:
    """A row.

    Attributes:
        name: As on the command line and in the JSON.
        estimator: Name in tea's registry.
        options: (m, N) to the options of the estimator; what they leave out is as `AdvantageTrainer` sets it.
        ours: Whether the estimator, or what is done with it, is ours.
        memory: (m, N) to the number of past rewards to remember for each prompt.
        binary_only: Only for tasks with 0/1 rewards.
        why: What an ablation varies; empty for the methods of the main table.
        settings: What it changes in :class:`benchmarks.training.loop.Settings`.
        normalize: Divide by the run's largest root mean square; None: as `AdvantageTrainer` does.
    """

    name: str
    estimator: str
    options: Callable[[int, int], Options] = lambda m, n: {}
    ours: bool = False
    memory: Callable[[int, int], int] = lambda m, n: 0
    binary_only: bool = False
    why: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    normalize: bool | None = None

    @property
    def max_grad_norm(self) -> float:
        """What the trainer clips gradients to: nothing, for what aims at the best of several."""
        return 1.0 if self.estimator != PSI_ORACLE and get_estimator_spec(self.estimator).own_scale else 1e6

    def advantages(self, num_generations: int, target_n: int) -> Advantages:
        """A new function from (rewards (P, m), prompt index (P,)) to advantages (P, m), as the trainer gives them."""
        if self.estimator == PSI_ORACLE:
            return PsiOracle(target_n)
        spec = get_estimator_spec(self.estimator)
        bound = dict(self.options(num_generations, target_n))
        scale = (spec.scale_in_training or "group") if spec.own_scale else "none"
        shared = {"target_n": target_n, "monotone": spec.monotone_in_training, "scale": scale}
        bound = {**{key: value for key, value in shared.items() if key in spec.parameters}, **bound}
        estimator = get_estimator(self.estimator, **bound)
        normalize = not spec.own_scale if self.normalize is None else self.normalize
        size = self.memory(num_generations, target_n)
        memory = RewardMemory(size) if size else None
        running = RunningScale()

        def of(rewards: Tensor, index: Tensor) -> Tensor:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", BinaryRewardsWarning)
                if memory is None:
                    advantages = estimator(rewards)
                else:
                    keys = index.tolist()
                    advantages = advantages_with_memory(estimator, rewards, memory.recall(keys))
                    memory.update(keys, rewards)
            return scaled(advantages, running) if normalize else advantages

        return of


def scaled(advantages: Tensor, running: RunningScale) -> Tensor:
    """Divided by the run's scale, this batch included."""
    running.update(advantages, torch.ones_like(advantages, dtype=torch.bool))
    return advantages / running.scale(advantages.device)


def _top(m: int, n: int) -> Options:
    """OrderGrad's mean of the top quarter of m / 2."""
    size = max(m // 2, 2)
    top = max(size // 4, 1)
    return {"rank_weights": [1.0 / top] * top + [0.0] * (size - top)}


def _beyond(m: int, n: int) -> int:
    """So many that the group and its past make N."""
    return max(n - m, 0)


ORACLE_SAMPLES = 256  # twice N: 16 times the time of a run; too few where rewards are 0 or 1, see ../LOG.md


@dataclass(frozen=True)
class PsiOracle:
    """The ceiling of all estimators of weights: each rollout gets the true influence of its reward on best of N.

    psi(u) is the integral up to u of N F(t)^(N-1), F the distribution of the rewards of further samples of the
    current policy, which are not trained on; centred by the mean of the group's m, at the scale of the run, as the
    estimators are.
    """

    target_n: int
    further_samples: int = ORACLE_SAMPLES
    running: RunningScale = field(default_factory=RunningScale, compare=False)

    def __call__(self, rewards: Tensor, index: Tensor, further: Tensor) -> Tensor:
        """(P, m) advantages of (P, m) rewards, given (P, K) further ones of the same prompts."""
        g = further.double().sort(dim=1).values
        count = g.shape[1]
        slope = self.target_n * (torch.arange(1, count + 1, dtype=g.dtype) / count) ** (self.target_n - 1)  # above g_j
        rise = torch.nn.functional.pad((slope[:-1] * g.diff(dim=1)).cumsum(1), (1, 0))  # psi(g_j)
        u = rewards.double()
        below = torch.searchsorted(g, u.contiguous(), right=True)  # how many are not above
        last = (below - 1).clamp(min=0)
        psi = torch.where(below > 0, rise.gather(1, last) + slope[last] * (u - g.gather(1, last)), 0.0)
        return scaled((psi - psi.mean(1, keepdim=True)).float(), self.running)


OTHER_ROLLOUTS = "max_at_m, other rollouts"
"""The same method with another seed of sampling: what a difference that is none looks like."""

_MAIN = [
    Method("grpo", "grpo"),
    Method("max_at_4", "max_at_k", lambda m, n: {"k": 4}),
    Method("max_at_m/2", "max_at_k", lambda m, n: {"k": m // 2}),
    Method("max_at_m", "max_at_k", lambda m, n: {"k": m}),
    Method("max_po", "max_po", lambda m, n: {"k": m - 1}),
    Method("max_rl", "max_rl", binary_only=True),
    Method("order_stat", "order_stat", _top),
    Method("bon_max_mean", "bon_max_mean"),
    Method("bon_max_second", "bon_max_second"),
    Method("cat_bon", "cat_bon"),
    Method("rs_grpo", "rs_grpo"),
    Method("tail_rl", "tail_rl"),
    Method("tea_published", "tea", lambda m, n: {"monotone": False}),
    Method("prefix_tea_published", "prefix_tea", lambda m, n: {"monotone": False}),
    Method("tea_projected", "tea", lambda m, n: {"monotone": True}, ours=True),
    Method("ladder", "ladder", ours=True),
    Method("eb_bon", "eb_bon", ours=True),
    Method("pass_at_n", "pass_at_n", ours=True, binary_only=True),
    Method("max_at_2m_memory", "max_at_k", lambda m, n: {"k": 2 * m}, ours=True, memory=lambda m, n: m),
    Method("max_at_n/2_memory", "max_at_k", lambda m, n: {"k": max(m, n // 2)}, ours=True, memory=_beyond),
    Method("ladder_memory", "ladder", ours=True, memory=_beyond),
]


def _vary(
    parent: str, name: str, why: str, size: int | None = None, settings: Options | None = None, **options: Any
) -> Method:
    """A method of the main table with some options changed, or with a memory."""
    of = METHODS[parent]
    return replace(
        of,
        name=f"{parent}, {name}",
        options=lambda m, n: {**of.options(m, n), **options},
        memory=of.memory if size is None else lambda m, n: size,
        why=why,
        settings=settings or {},
    )


METHODS: dict[str, Method] = {method.name: method for method in _MAIN}

_ABLATIONS = [
    _vary("ladder", "unprojected", "projection", monotone=False),
    _vary("ladder_memory", "unprojected", "projection", monotone=False),
    replace(_vary("prefix_tea_published", "projected", "projection", monotone=True), ours=True),
    *(_vary("tea_projected", f"fraction {share}", "tail fraction", tail_fraction=share) for share in (0.125, 0.5, 1.0)),
    _vary("tea_projected", "tail auto", "tail family", tail="auto", tail_fraction="auto"),
    _vary("tea_published", "tail auto", "tail family", tail="auto", tail_fraction="auto"),
    _vary("tea_published", "over group std", "scale", scale="group"),
    *(_vary(parent, "over group std", "scale", scale="group") for parent in ("max_at_m", "tea_projected", "eb_bon")),
    _vary("eb_bon", "uncentred", "centring", center=False),
    *(_vary("prefix_tea_published", f"order {k}", "order", order=k) for k in (1, 3)),
    *(_vary("ladder", f"rungs {low}, {high}", "rungs", rungs=(low, high)) for low, high in ((2, 4), (2, 16), (8, 16))),
    *(_vary("eb_bon", f"target_n {target}", "target_n", target_n=target) for target in (16, 32, 64, 512)),
    _vary("eb_bon", "rewards as they are", "standardize", standardize=False),
    *(
        _vary(parent, "half by gain", "prompts", settings={"share_by_gain": 0.5})
        for parent in ("max_at_m", "max_at_2m_memory")
    ),
    _vary("tea_projected", "with memory", "memory", size=112),
    _vary("eb_bon", "with memory", "memory", size=112),
    *(_vary("ladder_memory", f"{size} remembered", "memory", size=size) for size in (16, 48)),
    *(
        _vary(parent, label, "KL and clipping", settings=settings)
        for parent in ("grpo", "max_at_m", "eb_bon")
        for label, settings in (("KL 0.05", {"beta": 0.05}), ("2 iterations, clipped", {"num_iterations": 2}))
    ),
]

_NOISE = [replace(METHODS["max_at_m"], name=OTHER_ROLLOUTS, settings={"sampling": 10_000})]

_CEILING = [Method(PSI_ORACLE, PSI_ORACLE)]

METHODS |= {method.name: method for method in _ABLATIONS + _NOISE + _CEILING}
MAIN = [method.name for method in _MAIN]
ABLATIONS = [method.name for method in _ABLATIONS]
PEERS = [method.name for method in _MAIN if not method.ours]
OURS = [method.name for method in _MAIN if method.ours]
