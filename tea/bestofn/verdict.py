"""Whether a forecast can be trusted, and why not."""

from __future__ import annotations

import numpy as np

from tea.bestofn._inputs import FloatArray, IntArray
from tea.bestofn.diagnostics import Diagnostics
from tea.bestofn.extrapolate import Fit, shape_fit
from tea.bestofn.tails import GENERALIZED_NORMAL


def judge(
    found: Diagnostics, method: str, ns: IntArray, fit: Fit, ordered: FloatArray, level: float
) -> tuple[str, list[str]]:
    """What speaks against the forecast: bad reasons make it "do not trust", doubts "caution"."""
    bad: list[str] = []
    doubts: list[str] = []
    n, reach = found.num_samples, int(ns.max())
    if method == "beta-binomial":
        if ordered.min() == ordered.max():
            bad.append("every sample has the same outcome: nothing is known about the other one")
        elif ordered.sum() < 5 or (1 - ordered).sum() < 5:
            doubts.append("fewer than 5 samples have one of the two outcomes")
    elif found.binary:
        bad.append(f"rewards are 0/1: {method!r} has no meaning for them, use beta-binomial or auto (--method)")
    else:
        if found.saturated_share > 0.5:
            bad.append(f"{found.saturated_share:.0%} of the prompts are saturated at the largest reward seen")
        elif found.saturated_share > 0.05:
            doubts.append(
                f"{found.saturated_share:.0%} of the prompts are saturated at the largest reward seen: bounded rewards"
            )
        if found.tied_share > 0.9:
            bad.append(f"{found.tied_share:.0%} of the prompts have ties in the upper quarter: discrete rewards")
        elif found.tied_share > 0.25:
            doubts.append(f"{found.tied_share:.0%} of the prompts have ties in the upper quarter")
        if found.constant_share > 0.1:
            doubts.append(f"{found.constant_share:.0%} of the prompts have constant rewards, forecast as they are")
        doubts += _wrong_tail(found, method, ns, fit, ordered, level)
    if n < 8:
        bad.append(f"{n} samples per prompt are too few for a tail: at least 8, better 16")
    elif n < 16:
        doubts.append(f"{n} samples per prompt are few for a tail: better 16 or more")
    if reach > 1024 * n:
        bad.append(f"N = {reach} is {reach / n:.0f} times the {n} samples it rests on")
    elif reach > 64 * n:
        doubts.append(f"N = {reach} is {reach / n:.0f} times the {n} samples it rests on")
    if found.num_prompts == 1:
        doubts.append("one prompt gives no interval over prompts")
    elif found.num_prompts < 20:
        doubts.append(f"the interval rests on {found.num_prompts} prompts")
    verdict = "do not trust" if bad else ("caution" if doubts else "ok")
    return verdict, bad + doubts


def _wrong_tail(
    found: Diagnostics, method: str, ns: IntArray, fit: Fit, ordered: FloatArray, level: float
) -> list[str]:
    """Does the tail that the prompts share contradict the method's, by enough to matter at the largest N?"""
    reasons = []
    furthest = int(np.argmax(ns))
    if ns[furthest] <= found.num_samples or found.tail_power is None:
        return []
    if found.tail_shape is not None and found.tail_shape[0] > 0.15:
        reasons.append(
            f"heavy tail (generalised Pareto xi = {found.tail_shape[0]:.2f}): maxima are dominated by rare samples"
        )
    if method in ("gaussian", "ladder", "exponential"):
        other = shape_fit(ordered, ns[[furthest]], GENERALIZED_NORMAL, level)
        value = fit.values[furthest]
        gain = max(float(other.values[0] - ordered[:, -1].mean()), 1e-300)
        power, low, high = found.tail_power
        assumed = 1.0 if method == "exponential" else 2.0
        if not low <= assumed <= high and abs(value - other.values[0]) > 0.1 * gain:
            direction = "low" if value < other.values[0] else "high"
            reasons.append(
                f"the tail is not what {method!r} assumes (exp(-|x|^p) with p = {power:.2f} [{low:.2f}, {high:.2f}]): "
                f"this forecast is probably too {direction}; 'auto' gives {other.values[0]:.4g} at N = {ns[furthest]}"
            )
    return reasons
