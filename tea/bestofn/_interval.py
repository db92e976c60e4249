"""A mean over prompts with its interval, and arrays as JSON."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import special

from tea.bestofn._inputs import FloatArray


def mean_interval(per_prompt: FloatArray, level: float) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Mean over the first axis with its Student-t interval.

    Args:
        per_prompt: (P, K), rows independent.
        level: confidence level.

    Returns:
        mean, standard error, lower and upper end, each (K,); all but the mean are NaN when P = 1.
    """
    num_prompts = per_prompt.shape[0]
    mean = per_prompt.mean(axis=0)
    if num_prompts == 1:
        missing = np.full_like(mean, np.nan)
        return mean, missing, missing.copy(), missing.copy()
    std_error = per_prompt.std(axis=0, ddof=1) / np.sqrt(num_prompts)
    half = special.stdtrit(num_prompts - 1, 0.5 + level / 2) * std_error
    return mean, std_error, mean - half, mean + half


def share_interval(
    values: FloatArray, low: FloatArray, high: FloatArray, num_prompts: int, level: float
) -> tuple[FloatArray, FloatArray]:
    """The interval of a mean of P numbers in [0, 1], within [0, 1], and with a width where all are 0 or all are 1.

    What lies outside cannot be true, so cutting it off costs no coverage. Where all P are 1, the mean cannot be told
    from any m with m^P > (1 - level) / 2, because P(all are 1) <= m^P: Clopper and Pearson's end, for 0/1 or not.

    Args:
        values: (K,) means.
        low: (K,) lower ends, as from :func:`mean_interval`.
        high: (K,) upper ends.
        num_prompts: P.
        level: confidence level.

    Returns:
        Lower and upper ends, (K,); NaN where they were.
    """
    edge = float(((1.0 - level) / 2) ** (1.0 / num_prompts))
    low, high = np.clip(low, 0.0, 1.0), np.clip(high, 0.0, 1.0)
    known = ~np.isnan(low)
    low = np.where(known & (values == 1.0), edge, low)
    high = np.where(known & (values == 0.0), 1.0 - edge, high)
    return low, high


def jsonable(array: FloatArray) -> list[Any]:
    """`array` as nested lists with None for NaN and infinities, which JSON does not have."""
    objects = array.astype(object)
    objects[~np.isfinite(array)] = None
    entries: list[Any] = objects.tolist()
    return entries
