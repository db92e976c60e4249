"""TRL's GRPO trainer with the advantage estimator as a parameter.

With `resumable.py`, `sharing.py`, `held_out.py` and `off_policy.py` beside it, all use of private methods of TRL's and
transformers' trainers.
"""

from __future__ import annotations

import os
import sys
import time
import warnings
from collections.abc import Mapping
from typing import Any

import torch
import trl
from accelerate.utils import gather_object
from torch import Tensor
from trl import GRPOConfig, RLOOTrainer

from tea.estimators import Estimator, RewardMemory
from tea.estimators.auto import AutoEstimator
from tea.estimators.group import BinaryRewardsWarning
from tea.rewards.client import RewardServerGone
from tea.trainers.card import model_card
from tea.trainers.checks import check_enough_prompts, check_prompts_fit_tokenizer, first_prompt, warn_low_precision
from tea.trainers.config import TEAConfig
from tea.trainers.errors import UserError, refuse_pickled
from tea.trainers.estimation import AdvantageEstimator, EstimatesAdvantages
from tea.trainers.gone import GoneServers, StepSnapshot
from tea.trainers.guards import UsableRewards
from tea.trainers.held_out import MeasuresBestOfN
from tea.trainers.identity import task_key
from tea.trainers.metrics import tail_metrics
from tea.trainers.off_policy import CorrectsOffPolicy
from tea.trainers.rewards import checked_rewards
from tea.trainers.sharing import SharesPrompts
from tea.trainers.watch import Watcher

# What the memory of version 0.1 told tasks apart by.
_OLD_KEY_COLUMNS = ("prompt", "image", "images")


class _KeyedMemory:
    """The reward memory as checkpoints keep it, with what its keys were made of."""

    def __init__(self, trainer: AdvantageTrainer, memory: RewardMemory) -> None:
        self.trainer, self.memory = trainer, memory

    def state_dict(self) -> dict[str, Any]:
        return {**self.memory.state_dict(), "key_columns": self.trainer._key_columns}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.memory.load_state_dict(state)
        self.trainer._key_columns = state.get("key_columns", _OLD_KEY_COLUMNS)


class AdvantageTrainer(EstimatesAdvantages, MeasuresBestOfN, SharesPrompts, CorrectsOffPolicy):
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
    - ``tea/off_policy_effective_share``: with `args.off_policy_correction`, effective sample size of the rollouts by
      their importance ratios, as a share of their number; ``tea/off_policy_clipped``: share of ratios clipped;
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
            Default: `args.advantage_estimator`, else "grpo". "auto" looks at the first batch of rewards and at
            `target_n`, and says what it takes and why, see `tea.choose_estimator`.

    Raises:
        ValueError: On an unknown name or an option out of range, `num_generations` too small for the estimator,
            `reward_memory` with an estimator that it is no use to, `multi_objective_aggregation="normalize_then_sum"`
            with another estimator than "grpo", and an estimator that returns the wrong shape or NaN.
    """

    _tag_names = ["trl", "grpo", "tea"]  # noqa: RUF012 (TRL declares it so)
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
        self._keep_for_correction(output, rewards)
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
