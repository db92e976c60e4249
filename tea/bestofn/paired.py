"""The difference between two best-of-N curves on the same prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from tea.bestofn._inputs import FloatArray, IntArray
from tea.bestofn._interval import jsonable, mean_interval
from tea.bestofn.curve import BestOfNCurve


@dataclass(frozen=True)
class PairedDifference:
    """The difference between two best-of-N curves on the same prompts.

    Attributes:
        ns: (K,).
        values: (K,) mean over prompts of first minus second.
        per_prompt: (P, K).
        std_error: (K,) over prompts.
        ci_low: (K,) interval over prompts.
        ci_high: (K,).
        p_value: (K,) two-sided, of the paired t-test that the mean difference over prompts is 0.
        level: confidence level, pointwise in N.
        num_prompts: P.
    """

    ns: IntArray
    values: FloatArray
    per_prompt: FloatArray
    std_error: FloatArray
    ci_low: FloatArray
    ci_high: FloatArray
    p_value: FloatArray
    level: float
    num_prompts: int

    def to_dict(self) -> dict[str, Any]:
        """Everything but `per_prompt`, in JSON types (NaN as None)."""
        return {
            "ns": self.ns.tolist(),
            "values": jsonable(self.values),
            "std_error": jsonable(self.std_error),
            "ci_low": jsonable(self.ci_low),
            "ci_high": jsonable(self.ci_high),
            "p_value": jsonable(self.p_value),
            "level": self.level,
            "num_prompts": self.num_prompts,
        }


def paired_difference(first: BestOfNCurve, second: BestOfNCurve) -> PairedDifference:
    """First minus second, paired by prompt: both curves must be of the same prompts in the same order.

    The samples per prompt may differ in number. Pairing removes the differences between prompts, usually most of the
    variance: two curves whose own intervals overlap can differ beyond doubt.

    Raises:
        ValueError: different Ns, numbers of prompts or levels.
    """
    if first.ns.tolist() != second.ns.tolist():
        raise ValueError(f"both curves must have the same ns, got {first.ns.tolist()} and {second.ns.tolist()}")
    if first.num_prompts != second.num_prompts:
        raise ValueError(
            f"a paired difference needs the same prompts on both sides, got {first.num_prompts} "
            f"and {second.num_prompts} prompts"
        )
    if first.level != second.level:
        raise ValueError(f"both curves must have the same level, got {first.level} and {second.level}")
    difference = first.per_prompt - second.per_prompt
    values, std_error, low, high = mean_interval(difference, first.level)
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = np.abs(values) / std_error
    p_value = 2.0 * special.stdtr(max(first.num_prompts - 1, 1), -statistic)
    p_value = np.where(std_error == 0.0, np.where(values == 0.0, 1.0, 0.0), p_value)
    return PairedDifference(
        ns=first.ns,
        values=values,
        per_prompt=difference,
        std_error=std_error,
        ci_low=low,
        ci_high=high,
        p_value=p_value,
        level=first.level,
        num_prompts=first.num_prompts,
    )
