"""THE INDEX: every estimator with its formula's source. Rewards (P, m) in, advantages (P, m) out; torch only."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from tea.estimators.auto import AutoEstimator, Choice, choose_estimator
from tea.estimators.baselines import (
    bon_max_mean_advantages,
    cat_bon_advantages,
    check_beta,
    dr_grpo_advantages,
    grpo_advantages,
    max_rl_advantages,
    rloo_advantages,
    rs_grpo_advantages,
)
from tea.estimators.binary import check_prior, pass_at_n_advantages, passk_binary_advantages
from tea.estimators.empirical_bayes import eb_bon_advantages
from tea.estimators.families import check_tail
from tea.estimators.functional import functional_advantages
from tea.estimators.group import check_scale, check_tail_fraction, check_target_n, normalize_advantages
from tea.estimators.ladder import ladder_advantages
from tea.estimators.max_po import max_po_advantages
from tea.estimators.memory import RewardMemory, advantages_with_memory
from tea.estimators.normal import expected_max_normal
from tea.estimators.off_policy import max_at_k_off_policy_advantages
from tea.estimators.order import (
    bon_max_second_advantages,
    check_k,
    check_rank_weights,
    check_rungs,
    check_size,
    max_at_k_advantages,
    order_stat_advantages,
    tail_rl_advantages,
)
from tea.estimators.prefix import check_order, check_prefix_sizes, check_shrinkage, prefix_tea_advantages
from tea.estimators.projection import monotone_projection
from tea.estimators.schedule import scheduled_target_n
from tea.estimators.tail import TailStatistics, tail_statistics, tea_advantages

__all__ = [
    "AutoEstimator",
    "Choice",
    "Estimator",
    "EstimatorSpec",
    "RewardMemory",
    "TailStatistics",
    "advantages_with_memory",
    "bon_max_mean_advantages",
    "bon_max_second_advantages",
    "cat_bon_advantages",
    "choose_estimator",
    "dr_grpo_advantages",
    "eb_bon_advantages",
    "expected_max_normal",
    "functional_advantages",
    "get_estimator",
    "get_estimator_spec",
    "grpo_advantages",
    "ladder_advantages",
    "list_estimators",
    "max_at_k_advantages",
    "max_at_k_off_policy_advantages",
    "max_po_advantages",
    "max_rl_advantages",
    "monotone_projection",
    "normalize_advantages",
    "order_stat_advantages",
    "pass_at_n_advantages",
    "passk_binary_advantages",
    "prefix_tea_advantages",
    "rloo_advantages",
    "rs_grpo_advantages",
    "scheduled_target_n",
    "tail_rl_advantages",
    "tail_statistics",
    "tea_advantages",
]


@dataclass(frozen=True)
class EstimatorSpec:
    """One line of the index.

    Attributes:
        name: As :func:`get_estimator` takes it.
        function: ``(rewards, ..., *, mask, monotone, center, scale) -> advantages``.
        summary: What it is, in a line.
        source: The paper, or "ours".
        gaussian_tail: Whether it extrapolates a continuous upper tail, which 0/1 rewards do not have.
        own_scale: Whether it comes at a step size of its own that a trainer leaves alone (what aims at the mean
            of one response), rather than one that depends on N, k or alpha.
        monotone_in_training: Whether a trainer projects it by default.
        scale_in_training: What a trainer divides by unless it is told ("none", "group", "batch"); None: as GRPO does.
        no_memory: Why remembered rewards (:class:`RewardMemory`) are no use to it; None: they are.
    """

    name: str
    function: Callable[..., Tensor] = field(repr=False)
    summary: str
    source: str
    gaussian_tail: bool = False
    own_scale: bool = False
    monotone_in_training: bool = False
    scale_in_training: str | None = None
    no_memory: str | None = None

    @property
    def parameters(self) -> dict[str, inspect.Parameter]:
        """The options of the function: all its parameters but ``rewards`` and ``mask``."""
        parameters = inspect.signature(self.function).parameters
        return {name: p for name, p in parameters.items() if name not in ("rewards", "mask")}

    def __str__(self) -> str:
        return f"{self.name}: {self.summary} [{self.source}]"


_COMPARES_WITH_THE_MEAN = "it compares with the mean of the current rollouts, whatever other rewards there are"

_TEA_PAPER = "Li, Qian, Mou 2026, arXiv 2605.10716"

_REGISTRY: dict[str, EstimatorSpec] = {
    spec.name: spec
    for spec in (
        EstimatorSpec(
            "tea",
            tea_advantages,
            "best-of-N extrapolated from the mean and standard deviation of the upper tail",
            _TEA_PAPER,
            gaussian_tail=True,
        ),
        EstimatorSpec(
            "prefix_tea",
            prefix_tea_advantages,
            "TEA cross-fitted on prefixes of the rollouts and combined to cancel its bias",
            _TEA_PAPER,
            gaussian_tail=True,
            no_memory="it goes by the order in which the rollouts were sampled; use tea or max_at_k",
        ),
        EstimatorSpec(
            "ladder",
            ladder_advantages,
            "best-of-N extrapolated linearly in c_k from unbiased max@k",
            "ours",
            gaussian_tail=True,
            monotone_in_training=True,
        ),
        EstimatorSpec(
            "eb_bon",
            eb_bon_advantages,
            "best-of-N by empirical Bayes: each level of reward has a prior that the whole batch teaches",
            "ours",
        ),
        EstimatorSpec(
            "pass_at_n",
            pass_at_n_advantages,
            "pass@N for 0/1 rewards and N beyond the group, weighted by a Beta posterior",
            "ours",
        ),
        EstimatorSpec(
            "max_at_k",
            max_at_k_advantages,
            "best of k <= m, unbiased over all subsets",
            "PKPO, arXiv 2505.15201; max@k, arXiv 2510.23393",
        ),
        EstimatorSpec(
            "grpo",
            grpo_advantages,
            "reward minus group mean, over group standard deviation",
            "arXiv 2402.03300, as in TRL",
            own_scale=True,
            no_memory=_COMPARES_WITH_THE_MEAN,
        ),
        EstimatorSpec(
            "rloo",
            rloo_advantages,
            "reward minus the mean of the others",
            "arXiv 2402.14740",
            own_scale=True,
            no_memory=_COMPARES_WITH_THE_MEAN,
        ),
        EstimatorSpec(
            "dr_grpo",
            dr_grpo_advantages,
            "reward minus group mean",
            "Dr. GRPO, arXiv 2503.20783",
            own_scale=True,
            no_memory=_COMPARES_WITH_THE_MEAN,
        ),
        EstimatorSpec(
            "max_rl",
            max_rl_advantages,
            "reward minus group mean, over group mean: maximum likelihood of a 0/1 reward",
            "MaxRL, arXiv 2602.02710",
            own_scale=True,
            scale_in_training="none",
            no_memory=_COMPARES_WITH_THE_MEAN,
        ),
        EstimatorSpec(
            "max_po",
            max_po_advantages,
            "best of k < m, unbiased over all subsets and centred, by a leave-two-out baseline",
            "MaxPO, arXiv 2606.06080",
        ),
        EstimatorSpec(
            "order_stat",
            order_stat_advantages,
            "any weighted sum of the ranked rewards of K < m samples, unbiased over all subsets",
            "OrderGrad, arXiv 2606.06096",
        ),
        EstimatorSpec(
            "bon_max_mean",
            bon_max_mean_advantages,
            "the best rollout's lead over the group mean",
            "after arXiv 2412.15287",
        ),
        EstimatorSpec(
            "bon_max_second",
            bon_max_second_advantages,
            "the best rollout's lead over the second best",
            "arXiv 2503.19595; verl's grpo_passk",
        ),
        EstimatorSpec(
            "cat_bon",
            cat_bon_advantages,
            "deviation from the mean times the density of the best of N at the rollout's rank",
            "Compute Aligned Training, arXiv 2604.24957",
        ),
        EstimatorSpec(
            "rs_grpo",
            rs_grpo_advantages,
            "entropic risk, risk seeking for beta > 0",
            "risk-sensitive GRPO, arXiv 2509.24261",
        ),
        EstimatorSpec(
            "tail_rl",
            tail_rl_advantages,
            "reward gaps weighted by one over the rollouts above",
            "TailRL, arXiv 2609.02987",
        ),
        EstimatorSpec(
            "passk_binary",
            passk_binary_advantages,
            "GRPO on groups of k with reward pass@k, for 0/1 rewards",
            "Pass@k Training, arXiv 2508.10751",
            own_scale=True,
        ),
    )
}

_CHECKS: dict[str, Callable[[Any], None]] = {
    "target_n": check_target_n,
    "tail": check_tail,
    "scale": check_scale,
    "k": check_k,
    "rungs": check_rungs,
    "order": check_order,
    "shrinkage": check_shrinkage,
    "prefix_sizes": lambda sizes: check_prefix_sizes(sizes, 1),
    "prior": check_prior,
    "rank_weights": check_rank_weights,
    "size": check_size,
    "beta": check_beta,
}


@dataclass(frozen=True)
class Estimator:
    """An estimator with its options bound: ``(rewards, mask=None) -> advantages``."""

    spec: EstimatorSpec
    options: dict[str, Any]

    def __call__(self, rewards: Tensor, mask: Tensor | None = None) -> Tensor:
        """Advantages (P, m) of rewards (P, m); see the docstring of ``self.spec.function``."""
        return self.spec.function(rewards, mask=mask, **self.options)


def _nearest(word: str, known: list[str]) -> str:
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.4)
    return f"; did you mean {close[0]!r}?" if close else ""


def get_estimator_spec(name: str) -> EstimatorSpec:
    """The index entry of that name.

    Raises:
        ValueError: If there is none, with the known names and the nearest of them.
    """
    spec = _REGISTRY.get(name)
    if spec is None:
        known = list(_REGISTRY)
        raise ValueError(f"unknown estimator {name!r}, known are {', '.join(known)}{_nearest(str(name), known)}")
    return spec


def get_estimator(name: str, **options: Any) -> Estimator:
    """Bind an estimator's options, validating what can be without rewards.

    Args:
        name: One of :func:`list_estimators`.
        options: Keyword arguments of its function, such as ``target_n``, ``tail_fraction``, ``monotone``,
            ``scale``.

    Returns:
        A callable ``(rewards, mask=None) -> advantages``.

    Raises:
        ValueError: On an unknown name, or an option out of its range.
        TypeError: On an option that the estimator does not have, or a required one that is missing.
    """
    spec = get_estimator_spec(name)
    parameters = spec.parameters
    for option, value in options.items():
        if option not in parameters:
            known = list(parameters)
            raise TypeError(
                f"estimator {name!r} has no option {option!r}, it has {', '.join(known)}{_nearest(option, known)}"
            )
        if option == "tail_fraction":
            check_tail_fraction(value, auto="auto" in str(parameters[option].annotation))
        elif option in _CHECKS and not (value is None and parameters[option].default is None):
            _CHECKS[option](value)
    missing = [p.name for p in parameters.values() if p.default is p.empty and p.name not in options]
    if missing:
        raise TypeError(f"estimator {name!r} needs {', '.join(missing)}")
    return Estimator(spec, dict(options))


def list_estimators() -> list[EstimatorSpec]:
    """Every estimator: printing an entry gives its name, what it is in a line, and its source."""
    return list(_REGISTRY.values())
