"""Deployments that look at answers: majority vote, weighted best-of-N, soft best-of-N.

Of N samples, majority vote returns the answer that most of them give (self-consistency, arXiv 2203.11171); weighted
best-of-N the answer whose samples have the largest sum of rewards (arXiv 2206.02336); soft best-of-N one sample, drawn
with probability proportional to exp(beta * reward) (arXiv 2505.03156). What the returned sample is worth, averaged over
the subsets of N of a prompt's n samples, is unbiased for new samples, as in :mod:`tea.bestofn.curve`. There are too
many subsets to go through, so a fixed number is drawn; that adds no bias, and its error is given.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from tea.bestofn._inputs import (
    FloatArray,
    IntArray,
    Missing,
    check_level,
    default_ns,
    is_binary,
    reward_matrix,
    sample_counts,
)
from tea.bestofn._interval import mean_interval, share_interval
from tea.bestofn.curve import BestOfNCurve

RULES = ("majority", "weighted", "soft")
Weights = Literal["reward", "sigmoid"]


@dataclass(frozen=True)
class VoteCurves:
    """Curves of the deployments, at common Ns.

    Attributes:
        curves: rule ("majority", "weighted", "soft") -> curve, intervals over prompts (these include the drawing's
            error).
        drawing_error: rule -> (K,) standard error of the curve's values from drawing subsets, 0 where all were used.
        draws: subsets drawn per prompt and N.
        unanswered: share of the samples without an answer; they have no vote.
    """

    curves: dict[str, BestOfNCurve]
    drawing_error: dict[str, FloatArray]
    draws: int
    unanswered: float


def vote_curves(
    rewards: Any,
    answers: Any,
    ns: Any = None,
    *,
    value: Any = None,
    rules: Sequence[str] = RULES,
    beta: float = 1.0,
    weights: Weights = "reward",
    draws: int = 256,
    seed: int = 0,
    level: float = 0.95,
    missing: Missing = "fail",
) -> VoteCurves:
    """Curves of what is worth what majority vote, weighted best-of-N and soft best-of-N return.

    Answers that tie for the first place are equally likely. Where no sample of a subset has an answer, one of its
    samples is returned at random. The value of an answer is the mean of `value` over the subset's samples that give it.

    Args:
        rewards: (P, n) what weighs samples ("weighted", "soft").
        answers: (P, n) one label per sample, None for no answer: nested lists of strings, or an object array.
        ns: the Ns, each from 1 to n; default: powers of two up to n, and n.
        value: (P, n) what counts, a verifier's 0/1 for instance; default `rewards`.
        rules: which deployments.
        beta: of "soft", per unit of reward, >= 0.
        weights: "reward", or "sigmoid" for its logistic function, where rewards are log odds that may be negative.
        draws: subsets drawn per prompt and N; where there are no more than that, all are used.
        seed: of the draws.
        level: confidence level.
        missing: "skip" leaves samples with a missing reward or value out.

    Raises:
        ValueError: shapes that differ, an unknown rule, negative weights, `beta` < 0, `draws` < 2, N above n, or as
            :func:`tea.bestofn.best_of_n_curve`.
    """
    matrix = reward_matrix(rewards, missing=missing)
    counted = matrix if value is None else reward_matrix(value, "value", missing=missing)
    labels = np.asarray(answers, dtype=object)
    if labels.shape != matrix.shape or counted.shape != matrix.shape:
        raise ValueError(
            f"rewards, answers and value must have the same shape, got {matrix.shape}, {labels.shape}, {counted.shape}"
        )
    for rule in rules:
        if rule not in RULES:
            raise ValueError(f"rules must be of {', '.join(RULES)}, got {rule!r}")
    if not (math.isfinite(beta) and beta >= 0):
        raise ValueError(f"beta must be finite and at least 0, got {beta}")
    if draws < 2:
        raise ValueError(f"draws must be at least 2, got {draws}")
    check_level(level)
    gone = np.isnan(matrix) | np.isnan(counted)
    fewest = int((~gone).sum(axis=1).min())
    if fewest == 0:
        raise ValueError("a prompt has no reward at all: leave it out")
    counts = default_ns(fewest) if ns is None else sample_counts(ns, largest=fewest)
    if weights == "sigmoid":
        weight = 1.0 / (1.0 + np.exp(-np.clip(matrix, -700.0, 700.0)))
    elif weights == "reward":
        weight = matrix
        if "weighted" in rules and bool((matrix[~gone] < 0).any()):
            raise ValueError(
                "weighted best-of-N adds up rewards, which must not be negative: with weights='sigmoid' "
                "(--weights sigmoid) their logistic function is added up"
            )
    else:
        raise ValueError(f'weights must be "reward" or "sigmoid", got {weights!r}')

    num_prompts = len(matrix)
    rng = np.random.default_rng(seed)
    estimates = {rule: np.empty((num_prompts, len(counts))) for rule in rules}
    variances = {rule: np.zeros((num_prompts, len(counts))) for rule in rules}
    for p in range(num_prompts):
        there = ~gone[p]
        codes = _codes(labels[p][there])
        subsets = _Subsets(len(codes), draws, rng)
        for i, n in enumerate(counts.tolist()):
            chosen, complete = subsets.of_size(n)
            for rule in rules:
                got = _returned(rule, chosen, codes, matrix[p][there], weight[p][there], counted[p][there], beta)
                estimates[rule][p, i] = got.mean()
                variances[rule][p, i] = 0.0 if complete else got.var(ddof=1) / len(got)
    curves = {}
    for rule, per_prompt in estimates.items():
        values, std_error, low, high = mean_interval(per_prompt, level)
        if is_binary(counted[~gone]):
            low, high = share_interval(values, low, high, num_prompts, level)
        curves[rule] = BestOfNCurve(
            ns=counts,
            values=values,
            per_prompt=per_prompt,
            std_error=std_error,
            ci_low=low,
            ci_high=high,
            level=level,
            over="prompts",
            num_prompts=num_prompts,
            num_samples=matrix.shape[1],
            num_missing=int(gone.sum()),
        )
    return VoteCurves(
        curves=curves,
        drawing_error={rule: np.sqrt(v.sum(axis=0)) / num_prompts for rule, v in variances.items()},
        draws=draws,
        unanswered=float(np.mean([label is None for label in labels[~gone]])),
    )


def _codes(labels: Any) -> IntArray:
    """Answers as 0, 1, ..., and -1 for none."""
    seen: dict[Any, int] = {}
    return np.asarray([-1 if label is None else seen.setdefault(label, len(seen)) for label in labels], dtype=np.int64)


class _Subsets:
    """Subsets of n samples, as rows of positions; the same orders of the samples serve every size."""

    def __init__(self, n: int, draws: int, rng: np.random.Generator) -> None:
        self._n, self._draws = n, draws
        self._orders = rng.random((draws, n)).argsort(axis=1)

    def of_size(self, size: int) -> tuple[IntArray, bool]:
        """(D, size) positions, and whether these are all subsets there are."""
        if math.comb(self._n, size) <= self._draws:
            return np.asarray(list(itertools.combinations(range(self._n), size)), dtype=np.int64), True
        return self._orders[:, :size], False


def _returned(
    rule: str,
    chosen: IntArray,
    codes: IntArray,
    rewards: FloatArray,
    weight: FloatArray,
    value: FloatArray,
    beta: float,
) -> FloatArray:
    """(D,) expected value of what is returned from each subset."""
    worth = value[chosen]
    if rule == "soft":
        exponent = beta * rewards[chosen]
        share = np.exp(exponent - exponent.max(axis=1, keepdims=True))
        return np.asarray((share * worth).sum(axis=1) / share.sum(axis=1))
    answer = codes[chosen]
    rows, width = len(chosen), int(codes.max()) + 1
    if width == 0:
        return np.asarray(worth.mean(axis=1))
    voting = answer >= 0
    cell = (np.arange(rows)[:, None] * width + answer)[voting]

    def per_answer(entries: Any) -> FloatArray:
        return np.bincount(cell, weights=entries, minlength=rows * width).astype(np.float64).reshape(rows, width)

    votes = per_answer(None)
    score = votes if rule == "majority" else np.where(votes > 0, per_answer(weight[chosen][voting]), -np.inf)
    first = (score == score.max(axis=1, keepdims=True)) & (votes > 0)
    mean_worth = per_answer(worth[voting]) / np.maximum(votes, 1)
    with np.errstate(invalid="ignore"):
        winner = (first * mean_worth).sum(axis=1) / first.sum(axis=1)
    return np.where(voting.any(axis=1), winner, worth.mean(axis=1))
