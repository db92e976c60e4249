"""From a file of rewards to an estimator: which one to train with, its options, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from tea.bestofn._inputs import FloatArray, is_binary, reward_matrix
from tea.bestofn.diagnostics import Diagnostics, diagnose
from tea.bestofn.group_size import plan_training


@dataclass(frozen=True)
class Recommendation:
    """An estimator for given rewards.

    Attributes:
        options: the trainer's options, as in :class:`tea.trainers.TEAConfig`.
        reasons: why, in sentences, from the rewards.
        efficiencies: every estimator that was measured, best first: `estimator`, `options`, `efficiency`,
            `efficiency_se` (:func:`tea.bestofn.plan_training`); empty where there are too few samples.
        measured: (m, N) at which they were measured.
    """

    options: dict[str, Any]
    reasons: list[str]
    efficiencies: list[dict[str, Any]]
    measured: tuple[int, int] | None

    def yaml(self) -> str:
        """The options as lines of a configuration file."""
        return "".join(f"{name}: {value}\n" for name, value in self.options.items())

    def to_dict(self) -> dict[str, Any]:
        """Everything in JSON types."""
        return {
            "options": self.options,
            "reasons": self.reasons,
            "efficiencies": self.efficiencies,
            "measured": None if self.measured is None else list(self.measured),
        }


def recommend(
    rewards: Any,
    *,
    num_generations: int = 16,
    target_n: int = 128,
    visits: float = 1.0,
    diagnostics: Diagnostics | None = None,
    groups: int = 1024,
    seed: int = 0,
) -> Recommendation:
    """Which estimator to train with, from what these rewards are like.

    What the rewards leave no choice in (0/1, N within the group, nothing left to gain) is decided by that; otherwise
    the largest measured efficiency decides, and among those not distinguishable from it max@m, which nothing is
    ahead of on every task of benchmarks/training.

    Args:
        rewards: (P, n) of the policy to train.
        num_generations: m, rollouts per prompt in training.
        target_n: N, samples per prompt at deployment.
        visits: how often training comes back to a prompt (epochs); from 2 on the reasons name what a memory can do.
        diagnostics: those of the same rewards, where they are at hand already.
        groups: groups drawn to measure an estimator with.
        seed: of the draws.

    Raises:
        ValueError: bad rewards, m < 2, N < 1 or visits < 1.
    """
    matrix = reward_matrix(rewards, min_samples=2)
    m, n = num_generations, matrix.shape[1]
    if m < 2 or target_n < 1 or visits < 1:
        raise ValueError(
            f"num_generations must be at least 2, target_n and visits at least 1, got {m}, {target_n} and {visits}"
        )
    found = diagnostics or diagnose(matrix)
    binary = is_binary(matrix)
    reasons = [f"N = {target_n} at deployment, m = {m} rollouts per prompt in training"]
    rows, measured = _measure(matrix, m, target_n, binary, groups, seed)
    estimator, options = _choose(found, m, target_n, visits, rows, reasons)
    if measured is not None:
        reasons.append(_what_was_measured(rows, measured, estimator, (m, target_n), n, groups))
    else:
        reasons.append(f"{n} samples per prompt are too few to measure the estimators on: 16 or more are needed")
    common: dict[str, Any] = {"advantage_estimator": estimator, "num_generations": m}
    return Recommendation({**common, **options}, reasons, rows, measured)


def _candidates(m: int, target_n: int, binary: bool) -> list[tuple[str, dict[str, Any]]]:
    """Estimators with their options; those that are preferred when they do equally well stand first."""
    within = min(m, target_n)
    largest = ("max_at_k", {"k": within})
    mean: list[tuple[str, dict[str, Any]]] = [("dr_grpo", {}), ("grpo", {})]
    if binary:
        return [("pass_at_n", {"target_n": target_n}), largest, ("max_rl", {}), ("passk_binary", {"k": within}), *mean]
    return [
        largest,
        ("eb_bon", {"target_n": target_n}),
        ("tea", {"target_n": target_n, "tail_fraction": "auto", "tail": "auto"}),
        ("tea", {"target_n": target_n}),
        ("ladder", {"target_n": target_n}),
        ("cat_bon", {"target_n": target_n}),
        ("bon_max_second", {}),
        ("bon_max_mean", {}),
        ("tail_rl", {}),
        *mean,
    ]


def _measure(
    matrix: FloatArray, m: int, target_n: int, binary: bool, groups: int, seed: int
) -> tuple[list[dict[str, Any]], tuple[int, int] | None]:
    """Efficiency of every candidate, at the largest N and m that the samples show."""
    n = matrix.shape[1]
    spread = matrix[matrix.max(axis=1) > matrix.min(axis=1)]
    if n < 16 or len(spread) == 0:
        return [], None
    largest = min(target_n, max(n // 2, 1))
    size = min(m, max(round(m * largest / target_n), 4), n // 2)  # what matters is how far N lies beyond m
    rows = []
    for name, options in _candidates(size, largest, binary):
        (record,) = plan_training(
            matrix,
            size,
            largest,
            estimator=name,
            group_sizes=(size,),
            groups=groups,
            seed=seed,
            **{k: v for k, v in options.items() if k != "target_n"},
        )
        rows.append({"estimator": name, "options": options, **{k: record[k] for k in ("efficiency", "efficiency_se")}})
    return sorted(rows, key=lambda row: -row["efficiency"]), (size, largest)


def _choose(
    found: Diagnostics, m: int, target_n: int, visits: float, rows: list[dict[str, Any]], reasons: list[str]
) -> tuple[str, dict[str, Any]]:
    """Estimator and options; the reasons are added."""
    if found.constant_share > 0:
        reasons.append(f"{found.constant_share:.0%} of the prompts have one reward only and teach nothing")
    if target_n == 1:
        reasons.append("one sample is deployed: its mean is what counts")
        return "dr_grpo", {}
    if target_n <= m:
        reasons.append("N is within the group: max@N is unbiased and assumes nothing")
        return "max_at_k", {"k": target_n}
    if found.binary:
        reasons.append("rewards are 0/1: there is no tail to extrapolate, pass@N has an estimator of its own")
        return "pass_at_n", {"target_n": target_n}
    if visits >= 2:
        reasons.append(
            f"prompts come back {visits:g} times: max_at_k with k = {2 * m} and reward_memory = {m} sees further at no "
            "cost; in benchmarks/training it is ahead where the upper tail is long and behind where a learned reward "
            "moves fast, so measure best-of-N on held-out prompts if you try it"
        )
    if found.saturated_share > 0.5:
        reasons.append(
            f"on {found.saturated_share:.0%} of the prompts several samples reach the largest reward: best-of-N has "
            "little left to gain, and no tail to extrapolate"
        )
        return "max_at_k", {"k": m}
    if found.tied_share > 0.25:
        reasons.append(f"{found.tied_share:.0%} of the prompts have ties in the upper quarter: no smooth tail to fit")
    admissible = [
        (row["estimator"], row["options"], row["efficiency"], row["efficiency_se"])
        for row in rows
        if row["estimator"] in ("eb_bon", "max_at_k", "tea", "ladder")
        and not (found.tied_share > 0.25 and row["estimator"] in ("tea", "ladder"))
    ]
    name, options = "max_at_k", {"k": m}
    if admissible:
        best = max(admissible, key=lambda entry: entry[2])
        order = _candidates(m, target_n, False)
        alike = [e for e in admissible if e[2] + 2 * float(np.hypot(e[3], best[3])) >= best[2]]
        keys = [(e[0], sorted(e[1])) for e in alike]
        name, options = next(one for one in order if (one[0], sorted(one[1])) in keys)
        also = [entry[0] for entry in alike if entry[0] != name]
        reasons.append(
            f"largest measured efficiency{', with ' + ', '.join(dict.fromkeys(also)) + ' not behind' if also else ''}"
        )
    else:
        reasons.append("graded rewards and N beyond the group: the best of the group assumes nothing")
    return name, options


def _what_was_measured(
    rows: list[dict[str, Any]], measured: tuple[int, int], estimator: str, asked: tuple[int, int], n: int, groups: int
) -> str:
    of = {row["estimator"]: row for row in reversed(rows)}  # the better one, where there are two
    text = ", ".join(
        f"{name} {of[name]['efficiency']:.1%} ± {2 * of[name]['efficiency_se']:.1%}"
        for name in dict.fromkeys((estimator, rows[0]["estimator"], "grpo"))
        if name in of
    )
    if "eb_bon" in (estimator, rows[0]["estimator"]):
        text += f"; eb_bon learns from the other prompts of the batch, here {groups}"
    where = "" if measured == asked else f" (at m = {measured[0]}, N = {measured[1]}: {n} samples show no more)"
    return f"efficiency, the share of the rollouts that would do as well if the tail were known: {text}{where}"
