"""The advantage estimator of a trainer: chosen from its arguments, tried out, called, and its result scaled.

Nothing here is TRL's; `tea/trainers/trainer.py` calls it.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from trl import GRPOConfig

from tea.estimators import (
    Estimator,
    RewardMemory,
    advantages_with_memory,
    get_estimator,
    get_estimator_spec,
    normalize_advantages,
)
from tea.estimators.auto import AutoEstimator
from tea.estimators.group import quiet_about_binary
from tea.estimators.memory import centers, check_uses_memory
from tea.estimators.scale import RunningScale
from tea.estimators.schedule import scheduled_target_n
from tea.trainers.config import TEAConfig
from tea.trainers.errors import told_to_user
from tea.trainers.off_policy import check_off_policy

AdvantageEstimator = Callable[..., Tensor]


def _accepts_mask(function: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # some builtins have no signature
        return False
    return "mask" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


class EstimatesAdvantages:
    """The part of `AdvantageTrainer` that knows its estimator."""

    _default_estimator = "grpo"
    _fixed_estimator = False

    @classmethod
    def check_estimator(cls, args: GRPOConfig, advantage_estimator: str | AdvantageEstimator | None = None) -> None:
        """Raise ValueError if a trainer with these arguments would, without loading a model."""
        cls.__new__(cls)._prepare_estimator(args, advantage_estimator)

    def _prepare_estimator(self, args: GRPOConfig, advantage_estimator: str | AdvantageEstimator | None) -> None:
        with told_to_user(ValueError):
            self._bind_estimator(args, advantage_estimator)

    def _bind_estimator(self, args: GRPOConfig, advantage_estimator: str | AdvantageEstimator | None) -> None:
        options = args if isinstance(args, TEAConfig) else None
        configured = options.advantage_estimator if options is not None else None
        if advantage_estimator is not None and configured is not None and advantage_estimator != configured:
            raise ValueError(
                f"advantage_estimator is given twice: {advantage_estimator!r} to the trainer and {configured!r} in args"
            )
        chosen = advantage_estimator if advantage_estimator is not None else configured or self._default_estimator
        # Each reward is normalised by itself there: no function of the summed rewards, but GRPO has it in TRL.
        self._keeps_trl_advantages = args.multi_objective_aggregation != "sum_then_normalize"
        if self._keeps_trl_advantages and chosen != "grpo":
            raise ValueError(
                f"multi_objective_aggregation={args.multi_objective_aggregation!r} has no best-of-N meaning: what is "
                "deployed selects by the weighted sum of the rewards; use 'sum_then_normalize', or the estimator "
                "'grpo', which leaves TRL's advantages as they are"
            )
        own = self._default_estimator
        if type(self)._fixed_estimator and chosen != own:
            raise ValueError(f"{type(self).__name__} is for {own!r}; use AdvantageTrainer for {chosen!r}")
        remembered = options.reward_memory if options is not None else 0
        spec = None
        if chosen == "auto":
            target_n = options.target_n if options is not None else TEAConfig.target_n
            self.advantage_estimator: AdvantageEstimator = AutoEstimator(
                target_n, args.num_generations, memory=remembered
            )
            normalize = "running"
        elif isinstance(chosen, str):
            spec = get_estimator_spec(chosen)
            if options is None:
                defaults = {"target_n": TEAConfig.target_n, "tail_fraction": TEAConfig.tail_fraction}
                bound = {k: v for k, v in defaults.items() if k in spec.parameters}
                bound |= {"monotone": spec.monotone_in_training, "scale": spec.scale_in_training or args.scale_rewards}
            else:
                bound = options.estimator_options(spec)
            self.advantage_estimator = get_estimator(chosen, **bound)
            normalize = "none" if spec.own_scale else "running"
        elif callable(chosen):
            self.advantage_estimator = chosen
            normalize = "none"
        else:
            raise TypeError(f"advantage_estimator must be a name or a callable, got {type(chosen)}")
        if remembered > 0 and chosen != "auto":
            check_uses_memory(self.advantage_estimator)
        if options is not None:
            check_off_policy(options, self.advantage_estimator)
        self.reward_memory = RewardMemory(remembered) if remembered > 0 else None
        self._most_rewards = args.num_generations + remembered  # that the estimator has to do with
        configured_normalize = options.normalize_advantages if options is not None else None
        self._normalize = normalize if configured_normalize is None else configured_normalize
        if self._keeps_trl_advantages and self._normalize != "none":
            raise ValueError(
                f"normalize_advantages={self._normalize!r} cannot be had with multi_objective_aggregation="
                f"{args.multi_objective_aggregation!r}, which leaves TRL's advantages as they are"
            )
        self._scale = RunningScale()
        self._resolved_scale_rewards = options.scale_rewards_for(spec) if options else args.scale_rewards
        if args.max_grad_norm is None:
            args.max_grad_norm = 1.0 if normalize == "none" else 1e6
        self._pass_mask = _accepts_mask(self.advantage_estimator)
        self._target_n = options.target_n if options is not None else TEAConfig.target_n
        fraction = options.tail_fraction if options is not None else None
        # What the metrics look at; "auto" is between the estimator and the rewards.
        self._tail_fraction = 0.25 if fraction in (None, "auto") else float(fraction)
        self._schedule = options.target_n_schedule if options is not None else "constant"
        self._target_n_start = options.target_n_start if options is not None else 1
        self._max_reward = options.max_reward if options is not None else None
        if self._schedule != "constant" and (spec is None or "target_n" not in spec.parameters):
            raise ValueError(
                f"target_n_schedule={self._schedule!r} is set, but {self.estimator_name!r} has no target_n to anneal"
            )
        self._probe_estimator(args)

    @property
    def target_n(self) -> float:
        """N: samples per prompt at deployment, of which the best is returned."""
        return self._target_n

    @property
    def estimator_name(self) -> str:
        """Name of the estimator, or of the callable."""
        estimator = self.advantage_estimator
        if isinstance(estimator, Estimator):
            return estimator.spec.name
        return getattr(estimator, "__name__", type(estimator).__name__)

    def _probe_estimator(self, args: GRPOConfig) -> None:
        self._probe_size(args, "num_generations", args.num_generations, self.reward_memory)
        self._estimates_in_eval = True
        num_generations_eval = args.num_generations_eval or args.num_generations
        # One is possible in evaluation alone; TRL gives it advantage 0 and so do we.
        if num_generations_eval not in (1, args.num_generations):
            try:
                self._probe_size(args, "num_generations_eval", num_generations_eval, None)
            except ValueError:
                self._estimates_in_eval = False

    def _probe_size(self, args: GRPOConfig, name: str, m: int, memory: RewardMemory | None) -> None:
        prompts = max(args.generation_batch_size // m, 1)
        # 0/1 rewards are what every estimator can take; a generator of its own leaves the run's seed alone.
        generator = torch.Generator().manual_seed(0)
        rewards = torch.randint(0, 2, (prompts, m), generator=generator).float().to(args.device)
        histories: list[Tensor | None] = [None]
        remembered = ""
        if memory is not None:
            shape = (prompts, memory.size)
            remembered = f" and up to {memory.size} remembered ones per prompt"
            histories.append(torch.randint(0, 2, shape, generator=generator).float().to(args.device))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                for history in histories:
                    self._advantages_of(rewards, history)
            except Exception as error:
                raise ValueError(
                    f"advantage estimator {self.estimator_name!r} fails on rewards of shape "
                    f"(num_prompts, {name}) = {(prompts, m)}{remembered}: {error}"
                ) from error

    def _current_target_n(self) -> float:
        state = getattr(self, "state", None)  # there is none yet when the estimator is tried out
        progress = min(state.global_step / state.max_steps, 1.0) if state is not None and state.max_steps > 0 else 0.0
        return scheduled_target_n(progress, self._target_n_start, self._target_n, self._schedule)

    def _current_estimator(self) -> AdvantageEstimator:
        estimator = self.advantage_estimator
        if self._schedule == "constant" or not isinstance(estimator, Estimator):
            return estimator
        return replace(estimator, options={**estimator.options, "target_n": self._current_target_n()})

    def _advantages_of(self, rewards: Tensor, history: Tensor | None = None) -> Tensor:
        """Advantages (P, m) of rewards (P, m) and of remembered ones (P, H), all NaN where missing; checked."""
        valid = ~torch.isnan(rewards)
        estimator = self._current_estimator()

        def estimate(rewards: Tensor) -> Tensor:
            return estimator(rewards, **({"mask": ~torch.isnan(rewards)} if self._pass_mask else {}))

        with quiet_about_binary():  # the trainer says it itself, once, and on every device
            if self.reward_memory is None:
                advantages = estimate(rewards)
            else:
                if history is None:  # as many that are missing, so that no k is too large for a smaller group
                    missing = max(self._most_rewards - rewards.shape[1], 0)
                    history = rewards.new_full((len(rewards), missing), torch.nan)
                advantages = advantages_with_memory(estimate, rewards, history, center=centers(estimator))
        if not isinstance(advantages, Tensor) or advantages.shape != rewards.shape:
            given = tuple(advantages.shape) if isinstance(advantages, Tensor) else type(advantages)
            raise ValueError(
                f"advantage estimator {self.estimator_name!r} must return a tensor of the shape of the rewards "
                f"{tuple(rewards.shape)}, got {given}"
            )
        advantages = torch.where(valid, advantages.detach().to(rewards.dtype), 0.0)
        if not torch.isfinite(advantages).all():
            prompt = int((~torch.isfinite(advantages)).any(dim=1).nonzero()[0])
            raise ValueError(
                f"advantage estimator {self.estimator_name!r} returned NaN or infinity for the rewards "
                f"{rewards[prompt].tolist()}"
            )
        return advantages

    def _normalized(self, advantages: Tensor, valid: Tensor, mode: str) -> Tensor:
        if self._normalize == "none":
            return advantages
        if self._normalize == "batch":
            return normalize_advantages(advantages, valid)
        if mode == "train":
            self._scale.update(advantages, valid)
        return advantages / self._scale.scale(advantages.device)
