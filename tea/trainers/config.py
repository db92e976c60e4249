"""Training arguments: TRL's, and what the estimators need.

Long, because every option is said twice: in the docstring, and in the help of the command line.
"""

from __future__ import annotations

import contextlib
import inspect
import math
import os
from dataclasses import dataclass, field
from typing import Any, ClassVar

from transformers.trainer_utils import IntervalStrategy
from trl import GRPOConfig

from tea.estimators import EstimatorSpec, get_estimator, get_estimator_spec
from tea.estimators.group import check_tail_fraction, check_target_n
from tea.estimators.memory import check_memory_size, check_uses_memory
from tea.estimators.schedule import check_schedule

_NORMALIZATIONS = {True: "batch", False: "none", "true": "batch", "false": "none"}


def _normalization(value: Any) -> str | None:
    if value is None:
        return None
    value = _NORMALIZATIONS.get(value.lower() if isinstance(value, str) else value, value)
    if value not in ("running", "batch", "none"):
        raise ValueError(f"normalize_advantages must be running, batch or none, got {value!r}")
    return value


@dataclass
class TEAConfig(GRPOConfig):
    r"""[`~trl.GRPOConfig`] with the options of the advantage estimator. Validated on construction.

    TRL's own options keep their meaning. In particular ``scale_rewards`` divides the advantages by the reward
    standard deviation of the "group" or the "batch", or by nothing ("none"). Three defaults differ, the last two for
    estimators that aim at the best of several. Unless any of
    ``gradient_accumulation_steps``, ``steps_per_generation`` and ``generation_batch_size`` is set, as many batches are
    accumulated as hold whole groups of ``num_generations`` completions. ``scale_rewards`` is "auto": TRL's "group" for
    estimators that aim at the mean of one response (GRPO), else, and for `max_rl`, "none": a group's standard deviation
    says nothing about what it can still win. And ``max_grad_norm`` (below).

    Args:
        advantage_estimator: Name of the estimator, see `tea.list_estimators()`, or "auto", see `tea.choose_estimator`.
            None: the trainer's own ("tea" for `TEATrainer`, "prefix_tea" for `PrefixTEATrainer`, "grpo" for
            `AdvantageTrainer`).
        target_n: N, the number of samples per prompt at deployment, of which the best is returned.
        target_n_schedule: "constant", or anneal N from `target_n_start` to `target_n` over training: "linear" or
            "geometric".
        target_n_start: N at the start of an annealed schedule.
        tail_fraction: Share of a group's rollouts that counts as its upper tail, in (0, 1]; "auto" for `tea`.
        tail: For `tea`, `prefix_tea` and `ladder`, the family of the upper tail: "gaussian", "exponential", "gpd" or
            "auto".
        monotone: Make the advantages nondecreasing in the reward (isotonic projection). None: what is
            recommended for the estimator in training (on for `ladder`).
        normalize_advantages: What sets the size of a step, which otherwise depends on N and the tail fraction.
            "running": the largest root mean square that the advantages have had, averaged over recent batches and
            kept in the checkpoints; a batch of prompts that are all solved stays a small one. "batch" (or True): the
            root mean square of each global generation batch. "none" (or False): nothing. None: "running", except for
            estimators that come at a step size of their own (GRPO, RLOO) and for callables, which get "none".
        max_grad_norm: Norm that gradients are clipped to. None: TRL's 1.0 for estimators that aim at the mean of one
            response, practically none (1e6, the norm is still logged) for those that aim at the best of several:
            clipped to one norm, a batch of solved prompts counts as much as one with something to win. Adam bounds
            the step of a rare large gradient by itself; with another optimizer set a norm.
        reward_memory: Number of rewards of its earlier visits that are kept of every prompt. The advantages of the
            current rollouts are then computed from their rewards and these, see `tea.advantages_with_memory`. Saved
            with every checkpoint, and unused in evaluation. 0: no memory.
        share_prompts: Run every prompt through the model once for all of its rollouts, when sampling with transformers
            and in the training pass (see `tea.trainers.shared_prompts`): several times faster where prompts are longer
            than completions. The same gradients, to the order of summation; other random draws than TRL's.
        off_policy_correction: For `max_at_k` with several optimizer steps per generation (`num_iterations`,
            `steps_per_generation`): compute the advantages anew before every step but the first, each subset of a
            group weighed by its probability under the current policy over that when it was sampled (see
            `tea.max_at_k_off_policy_advantages`; a rollout's own ratio stays the loss's). Costs a pass without
            gradients over all rollouts of the generation for each of these steps. Where every rollout is trained on
            once, by the policy that sampled it, it changes nothing.
        off_policy_clip: c >= 1: the ratios of whole completions that weigh the subsets are clipped to [1 / c, c], which
            trades variance for bias. None: not clipped.
        eval_best_of_n_steps: Every so many optimizer steps, and before the first, sample the held-out prompts
            (`eval_dataset`) and measure best-of-N. Sets `eval_strategy`, `eval_steps`, `eval_on_start` and, unless
            given, `metric_for_best_model` ("best_of_n"); such an evaluation takes the place of TRL's. With
            `load_best_model_at_end` the run ends with the model of the highest measured best-of-N, which may be the
            untrained one. 0 or None: never.
        eval_best_of_n_samples: Samples per held-out prompt. None: `target_n`.
        eval_best_of_n_prompts: Held-out prompts that are sampled, the first of them. 0: all.
        eval_best_of_n_stop: Stop when best-of-N has fallen below the best measured by more than the paired 95 %
            interval over prompts.
        max_unusable_batches: Stop the run after so many generation batches in a row in which no group has two
            different rewards (all missing, or all equal). The first such batch is warned about. 0: never stop.
        max_reward: The largest value that the weighted sum of the rewards can take, if it is known. The forecast
            that is logged as ``tea/best_of_n`` is never above it.
        k: For `max_at_k`, the number of samples whose best is aimed at; at most `num_generations` +
            `reward_memory`.
        rungs: For `ladder`, increasing k's, at most `num_generations` + `reward_memory`.
        order: For `prefix_tea`, the order of bias correction.
        prefix_sizes: For `prefix_tea`, increasing sizes below `num_generations`.
        shrinkage: For `prefix_tea`, weight of the Gaussian prior on the tail variance, in pseudo-observations.
        estimator_kwargs: Any other option of the estimator, such as ``{"prior": [1, 1]}``.
    """

    _VALID_DICT_FIELDS: ClassVar[list[str]] = [*GRPOConfig._VALID_DICT_FIELDS, "estimator_kwargs"]

    advantage_estimator: str | None = field(
        default=None,
        metadata={"help": "Name of the advantage estimator, see `tea estimators`. Default: the trainer's own."},
    )
    target_n: int = field(
        default=128, metadata={"help": "N: samples per prompt at deployment, of which the best is returned."}
    )
    target_n_schedule: str = field(
        default="constant",
        metadata={"help": "constant, or anneal N from target_n_start to target_n: linear, geometric."},
    )
    target_n_start: int = field(default=4, metadata={"help": "N at the start of an annealed schedule."})
    # A union of three, so that the parser passes strings through; see __post_init__.
    tail_fraction: float | str | None = field(
        default=0.25,
        metadata={"help": "Share of a group's rollouts that counts as its upper tail, in (0, 1], or auto (tea)."},
    )
    tail: str | None = field(
        default=None, metadata={"help": "Family of the upper tail: gaussian (default), exponential, gpd, auto."}
    )
    monotone: bool | None = field(
        default=None,
        metadata={"help": "Make advantages nondecreasing in the reward. Default: as recommended for the estimator."},
    )
    scale_rewards: str = field(
        default="auto",
        metadata={
            "help": "Divide advantages by the reward standard deviation of the group, of the batch, or by none. "
            "auto: group for estimators that aim at the mean (TRL's default for GRPO), none for the others."
        },
    )
    normalize_advantages: str | None = field(
        default=None,
        metadata={
            "help": "Divide the advantages by their root mean square: running (over the run so far), batch (of each "
            "generation batch) or none. Default: running, and none for estimators with a step size of their own "
            "(grpo, rloo)."
        },
    )
    max_grad_norm: float | None = field(
        default=None,
        metadata={
            "help": "Norm that gradients are clipped to. Default: 1.0 for estimators that aim at the mean (as TRL), "
            "1e6 (none, but logged) for the others, of whose batches few have something to win."
        },
    )
    reward_memory: int = field(
        default=0,
        metadata={
            "help": "Number of past rewards kept of every prompt, for the advantages of its next rollouts. 0: none."
        },
    )
    share_prompts: bool = field(
        default=False,
        metadata={
            "help": "Run every prompt through the model once for all of its rollouts; needs sdpa attention, and no "
            "vLLM."
        },
    )
    off_policy_correction: bool = field(
        default=False,
        metadata={"help": "max_at_k, corrected for a policy that has moved."},
    )
    off_policy_clip: float | None = field(
        default=2.0,
        metadata={"help": "Bound c of its ratios: [1 / c, c]."},
    )
    eval_best_of_n_steps: int | None = field(
        default=None,
        metadata={
            "help": "Every so many steps, and before the first, measure best-of-N on held-out prompts. 0: never."
        },
    )
    eval_best_of_n_samples: int | None = field(
        default=None, metadata={"help": "Samples per held-out prompt. Default: target_n."}
    )
    eval_best_of_n_prompts: int = field(
        default=64, metadata={"help": "Held-out prompts that best-of-N is measured on, the first of them. 0: all."}
    )
    eval_best_of_n_stop: bool = field(
        default=True,
        metadata={"help": "Stop when measured best-of-N has fallen below the best one by more than its interval."},
    )
    max_unusable_batches: int = field(
        default=20,
        metadata={"help": "Stop after so many batches in a row in which no group has two different rewards. 0: never."},
    )
    max_reward: float | None = field(
        default=None, metadata={"help": "Largest reward possible, if known: no logged forecast is above it."}
    )
    k: int | None = field(
        default=None,
        metadata={
            "help": "max_at_k: number of samples whose best is aimed at, at most num_generations + reward_memory."
        },
    )
    rungs: list[int] | None = field(
        default=None,
        metadata={"help": "ladder: increasing k's, at most num_generations + reward_memory. Default (m/4, m)."},
    )
    order: int | None = field(default=None, metadata={"help": "prefix_tea: order of bias correction. Default 2."})
    prefix_sizes: list[int] | None = field(
        default=None, metadata={"help": "prefix_tea: increasing sizes below num_generations. Default m/2 .. m-1."}
    )
    shrinkage: float | None = field(
        default=None, metadata={"help": "prefix_tea: weight of the Gaussian prior on the tail variance. Default 2."}
    )
    gradient_accumulation_steps: int | None = field(
        default=None,
        metadata={
            "help": "Batches whose gradients make one step. num_processes x per_device_train_batch_size x this must "
            "be a multiple of num_generations. Default: the least that is."
        },
    )
    estimator_kwargs: dict[str, Any] | str | None = field(
        default=None, metadata={"help": "Any other option of the estimator, as JSON: '{\"prior\": [1, 1]}'."}
    )

    _ESTIMATOR_OPTIONS: ClassVar[tuple[str, ...]] = ("tail", "k", "rungs", "order", "prefix_sizes", "shrinkage")

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # A dataclass takes a field's default from the first base that has the field, inherited or not.
        trls, ours = GRPOConfig.__dataclass_fields__, TEAConfig.__dataclass_fields__
        for base in cls.__mro__[cls.__mro__.index(TEAConfig) + 1 :]:
            if base in TEAConfig.__mro__:
                continue
            theirs = getattr(base, "__dataclass_fields__", {})
            changed = [name for name in theirs if name in trls and theirs[name].default != trls[name].default]
            lost = [name for name in changed if theirs[name].default != ours[name].default]
            if lost:
                raise TypeError(
                    f"{cls.__name__} would lose the defaults of {base.__name__} ({', '.join(lost)}): put "
                    f"{base.__name__} before TEAConfig, as in class {cls.__name__}({base.__name__}, TEAConfig)"
                )
        # And the first base has all of TRL's fields: ours are said again where it has not changed them itself.
        own = {name for name in ours if name in trls and ours[name].default != trls[name].default}
        annotations = dict(inspect.get_annotations(cls))
        for base in cls.__mro__[1 : cls.__mro__.index(TEAConfig)]:
            theirs = getattr(base, "__dataclass_fields__", {})
            for name in own - set(annotations):
                if name in theirs and theirs[name].default == trls[name].default:
                    annotations[name] = ours[name].type
                    setattr(cls, name, field(default=ours[name].default, metadata=dict(ours[name].metadata)))
        cls.__annotations__ = annotations

    def __post_init__(self) -> None:
        self._fit_batch()
        self._schedule_best_of_n()
        super().__post_init__()
        check_target_n(self.target_n)
        check_target_n(self.target_n_start)
        check_schedule(self.target_n_schedule)
        check_memory_size("reward_memory", self.reward_memory, minimum=0)
        check_memory_size("max_unusable_batches", self.max_unusable_batches, minimum=0)
        if self.off_policy_clip is not None and not self.off_policy_clip >= 1:
            raise ValueError(f"off_policy_clip must be at least 1, or None for no clipping, got {self.off_policy_clip}")
        self.normalize_advantages = _normalization(self.normalize_advantages)
        if self.scale_rewards not in ("auto", "group", "batch", "none"):
            raise ValueError(f"scale_rewards must be auto, group, batch or none, got {self.scale_rewards!r}")
        if isinstance(self.tail_fraction, str) and self.tail_fraction != "auto":
            # The command line passes numbers as strings.
            with contextlib.suppress(ValueError):
                self.tail_fraction = float(self.tail_fraction)
        check_tail_fraction(self.tail_fraction, auto=True)
        if self.estimator_kwargs is not None and not isinstance(self.estimator_kwargs, dict):
            raise ValueError(f"estimator_kwargs must be a mapping, got {self.estimator_kwargs!r}")
        if self.advantage_estimator == "auto":
            chosen = [name for name in self._ESTIMATOR_OPTIONS if getattr(self, name) is not None]
            chosen += ["estimator_kwargs"] if self.estimator_kwargs else []
            chosen += ["monotone"] if self.monotone is not None else []
            if chosen:
                raise ValueError(
                    f"advantage_estimator='auto' chooses its options itself, but {', '.join(chosen)} is set: "
                    "name the estimator that it is for"
                )
        elif self.advantage_estimator is not None:
            spec = get_estimator_spec(self.advantage_estimator)
            estimator = get_estimator(spec.name, **self.estimator_options(spec))
            if self.reward_memory > 0:
                check_uses_memory(estimator)

    def _fit_batch(self) -> None:
        """Accumulate as many batches as make whole groups, unless told how many; refuse what does not make any.

        Raises:
            ValueError: If the generation batch does not hold whole groups.
        """
        # TRL has not asked accelerate for the number of processes yet; every launcher sets this.
        processes = int(os.environ.get("WORLD_SIZE", "1"))
        batch = self.per_device_train_batch_size * processes
        if self.gradient_accumulation_steps is None:
            told = self.steps_per_generation is not None or self.generation_batch_size is not None
            self.gradient_accumulation_steps = (
                1 if told else self.num_generations // math.gcd(batch, self.num_generations)
            )
        size = self.generation_batch_size or batch * (self.steps_per_generation or self.gradient_accumulation_steps)
        if self.num_generations >= 2 and size % self.num_generations:
            raise ValueError(
                f"one generation batch is {size} completions, which is not a multiple of num_generations = "
                f"{self.num_generations}: per_device_train_batch_size {self.per_device_train_batch_size} x "
                f"{processes} process(es) x {self.steps_per_generation or self.gradient_accumulation_steps} "
                "accumulated; change one of them, or leave out gradient_accumulation_steps"
            )

    def _schedule_best_of_n(self) -> None:
        """Let the evaluations of transformers' trainer, and its choice of the best checkpoint, go by best-of-N.

        Raises:
            ValueError: On a number out of range.
        """
        for name in ("eval_best_of_n_steps", "eval_best_of_n_samples", "eval_best_of_n_prompts"):
            value = getattr(self, name)
            least = 1 if name == "eval_best_of_n_samples" else 0
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value}")
        if self.eval_best_of_n_steps:
            self.measure_best_of_n(self.eval_best_of_n_steps)

    def measure_best_of_n(self, every: int) -> None:
        """Measure best-of-N on the held-out prompts every so many steps, as `eval_best_of_n_steps` does."""
        self.eval_best_of_n_steps = every
        self.eval_strategy, self.eval_steps, self.eval_on_start = IntervalStrategy.STEPS, every, True
        inherited: Any = self  # mypy cannot follow the attribute through transformers' classes
        if inherited.metric_for_best_model is None:
            self.metric_for_best_model, self.greater_is_better = "best_of_n", True

    def scale_rewards_for(self, spec: EstimatorSpec | None) -> str:
        """``scale_rewards``, "auto" resolved; None stands for a callable, whose advantages nothing scales."""
        if self.scale_rewards != "auto":
            return self.scale_rewards
        if spec is None or not spec.own_scale:
            return "none"
        return spec.scale_in_training or "group"

    def estimator_options(self, spec: EstimatorSpec) -> dict[str, Any]:
        """The options for that estimator.

        Raises:
            ValueError: If one is set that it does not have.
        """
        extra = self.estimator_kwargs if isinstance(self.estimator_kwargs, dict) else {}
        options = dict(extra)
        for name in self._ESTIMATOR_OPTIONS:
            value = getattr(self, name)
            if value is None:
                continue
            if name not in spec.parameters:
                raise ValueError(f"{name}={value!r} is set, but the estimator {spec.name!r} has no such option")
            if name in extra:
                raise ValueError(f"{name} is set twice, in estimator_kwargs too")
            options[name] = value
        shared = {
            "target_n": self.target_n,
            "tail_fraction": self.tail_fraction,
            "monotone": spec.monotone_in_training if self.monotone is None else self.monotone,
            "scale": self.scale_rewards_for(spec),
        }
        for name, value in shared.items():
            if name in extra:
                raise ValueError(
                    f"set {'scale_rewards' if name == 'scale' else name} itself rather than in estimator_kwargs"
                )
            if name in spec.parameters:
                options[name] = value
        return options
