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


def jsonable(array: FloatArray) -> list[Any]:
    """`array` as nested lists with None for NaN and infinities, which JSON does not have."""
    objects = array.astype(object)
    objects[~np.isfinite(array)] = None
    entries: list[Any] = objects.tolist()
    return entries
