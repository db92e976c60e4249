"""TRL's GRPO trainer with the advantage estimator as a parameter.

With `resumable.py` beside it, all use of private methods of TRL's and transformers' trainers.
"""

from __future__ import annotations

import inspect
import itertools
import os
import sys
import time
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
import trl
from accelerate.utils import gather_object
from torch import Tensor
from torch.nn.functional import pad
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from trl import GRPOConfig, RLOOTrainer
from trl.models.utils import unwrap_model_for_generation

from tea.estimators import (
    Estimator,
    RewardMemory,
    advantages_with_memory,
    get_estimator,
    get_estimator_spec,
    normalize_advantages,
)
from tea.estimators.auto import AutoEstimator
from tea.estimators.group import BinaryRewardsWarning, quiet_about_binary
from tea.estimators.memory import centers, check_uses_memory
from tea.estimators.scale import RunningScale
from tea.estimators.schedule import scheduled_target_n
from tea.rewards.client import RewardServerGone
from tea.rollouts.shared import sample_shared, why_not_shared
from tea.trainers.auto import memory_for_auto
from tea.trainers.best_of_n import BestOfNTracker
from tea.trainers.card import model_card
from tea.trainers.checks import check_enough_prompts, check_prompts_fit_tokenizer, first_prompt, warn_low_precision
from tea.trainers.config import TEAConfig
from tea.trainers.errors import UserError, refuse_pickled, told_to_user
from tea.trainers.gone import GoneServers, StepSnapshot
from tea.trainers.guards import UsableRewards
from tea.trainers.identity import task_key
from tea.trainers.metrics import best_of_n_forecast, tail_metrics
from tea.trainers.resumable import ResumableGRPOTrainer
from tea.trainers.rewards import checked_rewards
from tea.trainers.shared_prompts import pack
from tea.trainers.watch import Watcher

AdvantageEstimator = Callable[..., Tensor]

# What the memory of version 0.1 told tasks apart by.
_OLD_KEY_COLUMNS = ("prompt", "image", "images")


def _accepts_mask(function: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # some builtins have no signature
        return False
    return "mask" in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values())


class _KeyedMemory:
    """The reward memory as checkpoints keep it, with what its keys were made of."""

    def __init__(self, trainer: AdvantageTrainer, memory: RewardMemory) -> None:
        self.trainer, self.memory = trainer, memory

    def state_dict(self) -> dict[str, Any]:
        return {**self.memory.state_dict(), "key_columns": self.trainer._key_columns}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.memory.load_state_dict(state)
        self.trainer._key_columns = state.get("key_columns", _OLD_KEY_COLUMNS)


class AdvantageTrainer(ResumableGRPOTrainer):
    """[`~trl.GRPOTrainer`] whose advantages come from any estimator.

    Everything else is TRL's: generation, reward functions and their weights, loss, KL, clipping, logging. Logged
    besides TRL's metrics, over the rollouts that were trained on (not those that `mask_truncated_completions` masks):

    - ``tea/best_of_n``: the best-of-`target_n` reward that their upper tails forecast; of 0/1 rewards, pass@N under
      the Beta posterior of every prompt;
    - ``tea/tail_mean``, ``tea/tail_std``: of the upper `tail_fraction` of each group;
    - ``tea/frac_degenerate_groups``: share of groups in which all advantages are zero;
    - ``tea/frac_binary_groups``: share of groups whose rewards are all 0 or 1;
    - ``tea/advantage_time``: seconds per generation batch spent on the advantages;
    - ``tea/target_n``: the N that is trained for at this step, if it is annealed;
    - ``tea/memory_rewards``: remembered rewards that were used, per prompt, with `args.reward_memory`.

    With `args.reward_memory` the rewards of a task's earlier visits, in `self.reward_memory`, count with those of
    its current rollouts. Rows of the dataset that agree in all columns are one task, with one history. The memory is
    in every checkpoint, and a resumed run goes on with it. It is neither read nor written in evaluation.

    A resumed run goes on exactly, see `tea.trainers.resumable`.

    It goes together with a trainer that only changes GRPO's loss: ``class T(AdvantageTrainer, GMPOTrainer)``, with a
    config ``class C(GMPOConfig, TEAConfig)`` (in this order, which keeps GMPO's defaults; the other is an error).

    Args:
        model, reward_funcs, args, train_dataset, ...: As TRL's. `args` may be a `TEAConfig` or a plain
            `GRPOConfig`, which stands for a `TEAConfig` with the defaults.
        advantage_estimator: A name from `tea.list_estimators()`, or any callable that maps rewards
            (num_prompts, num_generations), float32, to advantages of that shape; positive ones become more likely.
            It may take ``mask`` (bool, True where the reward counts); without it, missing rewards are NaN. It is
            called on made-up rewards when the trainer is built, to find what is wrong with it before anything is
            generated. With `args.reward_memory` it is given (num_prompts, num_generations + reward_memory) rewards
            with NaN for those that do not exist yet, and a callable's advantages of the current rollouts are
            centred. Apart from that a callable's result is used as it is: `target_n`, `tail_fraction`, `monotone`
            and `scale_rewards` are its own affair, and `normalize_advantages` is "none" unless set.
            Default: `args.advantage_estimator`, else "grpo". "auto" looks at the first batch of rewards, at `target_n`
            and at whether prompts come back, and says what it takes and why, see `tea.choose_estimator`; where prompts
            come back it sets `reward_memory` unless that is set.

    Raises:
        ValueError: On an unknown name or an option out of range, `num_generations` too small for the estimator,
            `reward_memory` with an estimator that it is no use to, `multi_objective_aggregation="normalize_then_sum"`
            with another estimator than "grpo", and an estimator that returns the wrong shape or NaN.
    """

    _tag_names = ["trl", "grpo", "tea"]  # noqa: RUF012 (TRL declares it so)
    _default_estimator = "grpo"
    _fixed_estimator = False
    reward_funcs: list[Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if issubclass(cls, RLOOTrainer):
            raise TypeError(
                f"{cls.__name__} cannot have both AdvantageTrainer and RLOOTrainer as bases: RLOOTrainer is no "
                "GRPOTrainer, and puts the KL penalty into the rewards where it makes its advantages. Use "
                "AdvantageTrainer alone, with loss_type='dr_grpo', which sums over tokens as RLOO does, and beta"
            )

    def __init__(
        self,
        model: Any,
        reward_funcs: Any = None,
        args: GRPOConfig | None = None,
        *other_args: Any,
        advantage_estimator: str | AdvantageEstimator | None = None,
        **kwargs: Any,
    ) -> None:
        if "unsloth" in sys.modules and trl.GRPOTrainer not in type(self).__mro__:
            raise ImportError(
                "import unsloth before tea.trainers: it replaces trl.GRPOTrainer, and our trainers were already made "
                "from the one before, so that nothing of unsloth's would be used"
            )
        # For "auto": whether prompts come back.
        self._dataset = kwargs.get("train_dataset", other_args[0] if other_args else None)
        if args is not None:
            # Before TRL loads a model: a wrong option should cost nothing.
            self._prepare_estimator(args, advantage_estimator)
        options = dict(args.model_init_kwargs) if args is not None and isinstance(args.model_init_kwargs, dict) else {}
        options.pop("revision", None)  # the policy's
        options.setdefault("trust_remote_code", args is not None and args.trust_remote_code)
        with refuse_pickled(f"model {model!r}"):
            super().__init__(model, checked_rewards(reward_funcs, **options), args, *other_args, **kwargs)
        if args is None:
            self._prepare_estimator(self.args, advantage_estimator)
        self.scale_rewards = self._resolved_scale_rewards  # TRL does not know "auto"
        if self._normalize == "running":
            self.extra_state.add("advantage_scale", self._scale)
        self.best_of_n: BestOfNTracker | None = None
        if isinstance(self.args, TEAConfig) and self.args.eval_best_of_n_steps:
            self.best_of_n = BestOfNTracker(self._target_n)
            self.extra_state.add("best_of_n", self.best_of_n)
        self._measuring = False
        self._share_prompts = isinstance(self.args, TEAConfig) and self.args.share_prompts
        if self._share_prompts:
            self._check_sharing()
        unusable = (
            self.args.max_unusable_batches if isinstance(self.args, TEAConfig) else TEAConfig.max_unusable_batches
        )
        self._usable_rewards = UsableRewards(unusable)
        self.extra_state.add("usable_rewards", self._usable_rewards)
        train_dataset = kwargs.get("train_dataset", other_args[0] if other_args else None)
        if self.reward_memory is not None and train_dataset is None:
            raise UserError(
                "reward_memory needs a train_dataset: where the environment makes the tasks, nothing says which of "
                "them is seen again"
            )
        if isinstance(self.advantage_estimator, AutoEstimator):
            self.extra_state.add("auto_estimator", self.advantage_estimator)
        self._key_columns: tuple[str, ...] | None = None  # all
        if self.reward_memory is not None:
            self.extra_state.add("reward_memory", _KeyedMemory(self, self.reward_memory))
        check_enough_prompts(self.train_dataset, self.args)
        name = str(getattr(self.model.config, "_name_or_path", "")) or type(self.model).__name__
        check_prompts_fit_tokenizer(first_prompt(self.train_dataset), self._tokenizer, name)
        warn_low_precision(self.model, self.args.learning_rate)
        weights = zip(self.reward_func_names, self.reward_weights.tolist(), strict=True)
        self.add_callback(Watcher(tuple(reward for reward, weight in weights if weight == 0)))
        self.data_source: str | None = None  # for the model card
        self._gathered_rewards: Tensor | None = None
        self._warned_binary = False
        self._snapshot = StepSnapshot(self)
        self.add_callback(self._snapshot)

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
            remembered = remembered or memory_for_auto(args, getattr(self, "_dataset", None), target_n)
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

    def create_model_card(
        self, model_name: str | None = None, dataset_name: str | None = None, tags: str | list[str] | None = None
    ) -> None:
        """Write README.md into `args.output_dir`: estimator, N, options, command, versions and best-of-N."""
        if self.is_world_process_zero():
            given = {tags} if isinstance(tags, str) else set(tags or ())
            card = model_card(self, model_name, dataset_name, {*given, *self._tag_names})
            card.save(os.path.join(self.args.output_dir, "README.md"))

    def run_description(self) -> dict[str, Any]:
        """See `ResumableGRPOTrainer`."""
        estimator = self.advantage_estimator
        options = dict(estimator.options) if isinstance(estimator, Estimator) else {}
        options |= {"target_n_schedule": self._schedule, "target_n_start": self._target_n_start}
        return {
            "estimator": {"name": self.estimator_name, **options, "normalize_advantages": self._normalize},
            "reward_memory": self.reward_memory.size if self.reward_memory is not None else 0,
            **super().run_description(),
        }

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

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train, as TRL's trainer does; see :class:`ResumableGRPOTrainer` for resuming.

        Raises:
            RewardServerGone: A reward server has been gone for its `patience`. The last finished step is saved as a
                checkpoint first.
        """
        try:
            return super().train(*args, **kwargs)
        except RewardServerGone as gone:
            if not self._snapshot.restore():
                raise
            self._save_checkpoint(self.model, None)
            raise RewardServerGone(
                f"{gone}. Step {self.state.global_step} is saved in {self.args.output_dir}/"
                f"checkpoint-{self.state.global_step}"
            ) from None

    # --- The hook into TRL: `tests/trainers/test_hook.py` says what moved when a new TRL breaks it. ---

    def _calculate_rewards(self, *args: Any, **kwargs: Any) -> Tensor:
        functions = self.reward_funcs
        servers = GoneServers(self.accelerator.num_processes > 1)
        self.reward_funcs = servers.watch(functions)
        try:
            rewards_per_func = super()._calculate_rewards(*args, **kwargs)  # (B_global, num_reward_funcs), gathered
        finally:
            self.reward_funcs = functions
        servers.raise_if_any()
        infinite = torch.isinf(rewards_per_func)
        if infinite.any():
            row, column = infinite.nonzero()[0].tolist()
            raise UserError(
                f"reward function {self.reward_func_names[column]!r} returned {rewards_per_func[row, column].item()} "
                f"for completion {row} of the batch; rewards must be finite (None or NaN marks a missing one)"
            )
        self._gathered_rewards = rewards_per_func
        return rewards_per_func

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        mode = "train" if self.model.training else "eval"
        remembers = mode == "train" and self.reward_memory is not None
        local_keys = [task_key(example, self._key_columns) for example in inputs] if remembers else []
        output = super()._generate_and_score_completions(inputs)
        num_generations = self.num_generations if mode == "train" else self.num_generations_eval
        if self._measuring or num_generations < 2:
            return output
        start = time.perf_counter()
        rewards = self._take_rewards().view(-1, num_generations)
        if mode == "train":
            self._usable_rewards.check(rewards)
        estimator = self.advantage_estimator
        if isinstance(estimator, AutoEstimator) and mode == "train" and estimator.judge(rewards):
            self.accelerator.print(f"advantage_estimator auto takes {estimator.choice}")
        if self._keeps_trl_advantages or (mode == "eval" and not self._estimates_in_eval):
            advantages = self.accelerator.gather(output["advantages"]).view(-1, num_generations)
        else:
            advantages = self._trained_on(rewards, mode, local_keys)
        self._metrics[mode]["tea/advantage_time"].append(time.perf_counter() - start)
        counted = rewards
        if self.mask_truncated_completions:
            trained_on = self.accelerator.gather(output["completion_mask"].any(dim=1))
            counted = torch.where(trained_on.view_as(rewards), rewards, torch.nan)
        prompts = self._real_prompts(len(rewards)) if mode == "eval" else len(rewards)
        metrics, zeros_and_ones = tail_metrics(
            counted[:prompts], advantages[:prompts], self._target_n, self._tail_fraction, self._max_reward
        )
        for name, value in metrics.items():
            self._metrics[mode][f"tea/{name}"].append(value)
        estimator = self.advantage_estimator
        if zeros_and_ones and isinstance(estimator, Estimator) and estimator.spec.gaussian_tail:
            self._warn_binary()
        if self._schedule != "constant":
            self._metrics[mode]["tea/target_n"].append(self._current_target_n())

        flat = advantages.flatten()
        local = len(output["advantages"])
        first = self.accelerator.process_index * local
        output["advantages"] = flat[first : first + local]
        logged = self._logs["advantages"]  # TRL has just appended GRPO's
        for _ in range(min(len(logged), len(flat))):
            logged.pop()
        logged.extend(flat.tolist())
        return output

    def _take_rewards(self) -> Tensor:
        """The weighted rewards (B_global,) of the last rollouts, NaN where no function gave one."""
        rewards_per_func, self._gathered_rewards = self._gathered_rewards, None
        assert rewards_per_func is not None, "TRL no longer calls _calculate_rewards"
        rewards = (rewards_per_func * self.reward_weights.to(rewards_per_func.device)).nansum(dim=1)
        rewards[torch.isnan(rewards_per_func).all(dim=1)] = torch.nan
        return rewards

    # --- Prompts that are run once for all of their rollouts ---

    def _check_sharing(self) -> None:
        """Raise a UserError that says why `share_prompts` is not to be had here."""
        model = self.accelerator.unwrap_model(self.model)
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        kinds = set(getattr(base.config.get_text_config(), "layer_types", None) or ["full_attention"])
        reason: str | None
        if self.use_vllm or getattr(self, "use_transformers_continuous_batching", False):
            reason = "vLLM and continuous batching share prompts by themselves: unset it"
        elif not hasattr(trl.trainer.utils, "add_fused_lm_head"):
            reason = f"it needs a newer trl than {trl.__version__}"
        elif self.is_fsdp_enabled:
            reason = "it does not know FSDP"
        elif getattr(self, "tools", None) or getattr(self, "environment_factories", None):
            reason = "completions of several turns are not sampled by it"
        elif base.config._attn_implementation != "sdpa":
            reason = f"it needs attn_implementation sdpa, not {base.config._attn_implementation}"
        elif kinds != {"full_attention"}:
            reason = f"the model has layers of {', '.join(sorted(kinds - {'full_attention'}))}"
        else:
            reason = why_not_shared(base, self.generation_config)
        if reason:
            raise UserError(f"share_prompts: {reason}")

    def _generate_single_turn(self, prompt_ids: list[list[int]], *args: Any, **kwargs: Any) -> Any:
        if not self._share_prompts:
            return super()._generate_single_turn(prompt_ids, *args, **kwargs)
        groups = [(list(prompt), len(list(rows))) for prompt, rows in itertools.groupby(prompt_ids)]
        with unwrap_model_for_generation(
            self.model_wrapped,
            self.accelerator,
            gather_deepspeed3_params=self.args.ds3_gather_for_generation,
            gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
        ) as model:
            training = model.training
            model.eval()
            prompts, counts = zip(*groups, strict=True)
            completions = sample_shared(model, prompts, counts, self.generation_config, max_rows=len(prompt_ids))
            model.train(training)
        return completions, None

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **kwargs: Any,
    ) -> Any:
        if not self._share_prompts or any(value is not None and value is not False for value in kwargs.values()):
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, **kwargs
            )
        logps, entropies = [], []
        for ids, mask in zip(
            input_ids.split(batch_size or len(input_ids)),
            attention_mask.split(batch_size or len(input_ids)),
            strict=True,
        ):
            length = ids.shape[1] - logits_to_keep
            packed = pack(ids[:, :length], mask[:, :length], ids[:, length:], mask[:, length:])
            with self.accelerator.autocast():
                output = model(
                    input_ids=packed.input_ids,
                    attention_mask=packed.attention_mask,
                    position_ids=packed.position_ids,
                    labels=packed.labels,
                    use_cache=False,
                    fused_lm_head=True,
                )
            logps.append(packed.unpack(pad(output.log_probs, (1, 0))))
            if compute_entropy:
                entropies.append(packed.unpack(pad(output.entropy, (1, 0))))
        return torch.cat(logps), torch.cat(entropies) if compute_entropy else None, None

    # --- Best-of-N on held-out prompts ---

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """With `args.eval_best_of_n_steps`, measured best-of-N of the held-out prompts; else TRL's evaluation.

        Logs, with the prefix: see `BestOfNTracker.measure`; ``best_of_n_forecast``, what the estimator's model of the
        tail forecasts from the first `num_generations` of the same samples; and TRL's metrics of the completions.
        """
        tracker = self.best_of_n
        if tracker is None or eval_dataset is not None or isinstance(self.eval_dataset, dict):
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        step = self.state.global_step
        done = next((m.metrics for m in tracker.history if m.step == step), None)
        if done is not None:  # a run that goes on from this step's checkpoint evaluates on start again
            return {f"{metric_key_prefix}_{name}": value for name, value in done.items()}
        start = time.perf_counter()
        rewards = self._sample_held_out()
        forecast = self._forecast(torch.tensor(rewards[:, : self.num_generations])).nanmean().item()
        measured = tracker.measure(rewards, step) | {"best_of_n_forecast": forecast}
        measured["best_of_n_runtime"] = time.perf_counter() - start
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in measured.items()}
        self.model.eval()  # says to `log` which metrics these are
        self.log(metrics)
        self.model.train()
        inherited: Any = self  # mypy cannot follow the attribute through transformers' classes
        self.control = self.callback_handler.on_evaluate(self.args, self.state, inherited.control, metrics)
        if step == 0 and self.args.load_best_model_at_end and self.is_in_train:
            # The untrained model is a candidate like any other.
            self._determine_best_metric(metrics=metrics, trial=None)
            self._save_checkpoint(self.model, trial=None)
            # transformers takes step 0 for none.
            self.state.best_model_checkpoint = os.path.join(self.args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-0")
        fallen = tracker.fallen()
        if fallen is not None:
            stop = getattr(self.args, "eval_best_of_n_stop", True)
            warnings.warn(f"{fallen}{': stopping' if stop else ''}", stacklevel=2)
            self.control.should_training_stop = self.control.should_training_stop or stop
        return metrics

    def _sample_held_out(self) -> np.ndarray:
        """Rewards (num_prompts, n) of the current model's samples, the same on all processes.

        In the trainer's own way: with its generation, its rewards, on all of its processes, in batches of the size
        that it generates in training. The random state of the run is left alone, and the samples of every evaluation
        start from one seed.
        """
        args = self.args
        assert isinstance(args, TEAConfig)
        n = args.eval_best_of_n_samples or args.target_n
        limit = args.eval_best_of_n_prompts or None
        prompts = list(itertools.islice(iter(self.eval_dataset), limit))
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        rows = max(args.per_device_train_batch_size * args.steps_per_generation, args.per_device_eval_batch_size)
        together = max(rows // n, 1)  # prompts per process and pass
        padded = prompts + prompts[-1:] * (-len(prompts) % (together * world))  # all processes in step
        inherited: Any = self  # as above
        kept = inherited.num_generations_eval, inherited.beta, self.model.training
        devices = [args.device] if args.device.type == "cuda" else []
        collected = []
        self._measuring, self.beta = True, 0.0  # no reference model is needed to sample
        self.model.eval()
        try:
            with torch.random.fork_rng(devices), torch.no_grad():
                torch.manual_seed(args.seed + 7919 * rank)
                for first in range(0, len(padded), together * world):
                    mine = padded[first + rank * together : first + (rank + 1) * together]
                    parts = []
                    for count in [rows] * (n // rows) + [n % rows] * (n % rows > 0) if n > rows else [n]:
                        self.num_generations_eval = count
                        self._generate_and_score_completions([prompt for prompt in mine for _ in range(count)])
                        parts.append(self._take_rewards().view(-1, count).float().cpu())
                    collected.append(torch.cat(parts, dim=1))
        finally:
            self._measuring = False
            self.num_generations_eval, self.beta, training = kept
            self.model.train(training)
        return torch.cat(collected)[: len(prompts)].double().numpy()

    def _forecast(self, rewards: Tensor) -> Tensor:
        return best_of_n_forecast(rewards.float(), self._target_n, self._tail_fraction, self._max_reward)

    def _trained_on(self, rewards: Tensor, mode: str, local_keys: list[str]) -> Tensor:
        """The advantages (P, m) of a batch, from the memory and into it in training, and scaled."""
        valid = ~torch.isnan(rewards)
        if mode == "eval" or self.reward_memory is None:
            return self._normalized(self._advantages_of(rewards), valid, mode)
        # Gathered as TRL gathers the rewards: in the order of the processes, groups contiguous.
        keys = gather_object(local_keys)[:: rewards.shape[1]]
        history = self.reward_memory.recall(keys)
        advantages = self._advantages_of(rewards, history.to(rewards.device))
        self.reward_memory.update(keys, rewards)
        self._metrics[mode]["tea/memory_rewards"].append((~history.isnan()).sum(1).float().mean().item())
        return self._normalized(advantages, valid, mode)

    def _real_prompts(self, prompts: int) -> int:
        """How many of the prompts of an evaluation's batch are not there only to fill up its last one."""
        state = self.accelerator.gradient_state
        if state.active_dataloader is None or not state.end_of_dataloader:
            return prompts
        try:
            total = len(state.active_dataloader.dataset)
        except TypeError:  # streamed
            return prompts
        per_batch = self.args.eval_batch_size * self.accelerator.num_processes // self.num_generations_eval
        return min(prompts, total % per_batch or per_batch)

    def _warn_binary(self) -> None:
        if not self._warned_binary:
            self._warned_binary = True
            warnings.warn(
                f"all rewards of the batch are 0 or 1: the upper tail that {self.estimator_name!r} extrapolates does "
                "not exist; use advantage_estimator='pass_at_n'",
                BinaryRewardsWarning,
                stacklevel=2,
            )


# For the model card that TRL writes.
_TEA_PAPER = {
    "title": "What should post-training optimize? A test-time scaling law perspective",
    "id": "2605.10716",
    "citation": """\
@article{li2026posttraining,
    title  = {What should post-training optimize? A test-time scaling law perspective},
    author = {Li and Qian and Mou},
    year   = 2026,
    eprint = {arXiv:2605.10716},
}""",
}


class TEATrainer(AdvantageTrainer):
    """Trains for best-of-`target_n` with TEA: `AdvantageTrainer` whose estimator is "tea" by default."""

    _name = "TEA"
    _paper = _TEA_PAPER
    _default_estimator = "tea"
    _fixed_estimator = True


class PrefixTEATrainer(AdvantageTrainer):
    """Trains for best-of-`target_n` with Prefix-TEA: `AdvantageTrainer` whose estimator is "prefix_tea" by default."""

    _name = "Prefix-TEA"
    _paper = _TEA_PAPER
    _default_estimator = "prefix_tea"
    _fixed_estimator = True
