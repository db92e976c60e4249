"""Annealing the deployment budget N over training, a pure function of progress."""

from __future__ import annotations

import math
from typing import Literal, get_args

from tea.estimators.group import check_target_n

Schedule = Literal["constant", "linear", "geometric"]
SCHEDULES: tuple[str, ...] = get_args(Schedule)


def check_schedule(kind: str) -> None:
    """Raise ValueError unless ``kind`` is one of "constant", "linear", "geometric"."""
    if kind not in SCHEDULES:
        raise ValueError(f"kind of schedule must be one of {', '.join(map(repr, SCHEDULES))}, got {kind!r}")


def scheduled_target_n(progress: float, start: float, end: float, kind: str = "geometric") -> int:
    r"""The N to train for at this point of training, an integer between ``start`` and ``end``.

    "linear": :math:`N_0 + t (N_1 - N_0)`. "geometric": :math:`N_0 (N_1 / N_0)^t`, equal factors in equal times.
    "constant": N_1 throughout. Rounded to the nearest integer, halves up. PKPO (arXiv 2505.15201) anneals its k.

    Args:
        progress: t, the share of training that is done, in [0, 1].
        start: N_0 >= 1, at progress 0; not used by "constant".
        end: N_1 >= 1, at progress 1; may be below ``start``.
        kind: "constant", "linear" or "geometric".

    Raises:
        ValueError: If ``progress`` is outside [0, 1], ``start`` or ``end`` below 1 or not finite, or ``kind``
            unknown.

    Checked by ``tests/estimators/test_schedule.py``.
    """
    check_schedule(kind)
    check_target_n(start)
    check_target_n(end)
    if not 0.0 <= progress <= 1.0:
        raise ValueError(f"progress must be in [0, 1], got {progress!r}")
    if kind == "linear":
        value = start + progress * (end - start)
    elif kind == "geometric":
        value = start * (end / start) ** progress
    else:
        value = end
    return math.floor(value + 0.5)
