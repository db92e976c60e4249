"""Order statistics by name: the rank weights of a median, a quantile or a CVaR."""

from __future__ import annotations

PRESETS = ("median", "quantile", "cvar")


def parse_preset(preset: str) -> tuple[str, float]:
    """Name and level of "median", "quantile:0.9" or "cvar:0.25".

    Raises:
        ValueError: On another name, or a level that is missing, not a number, or not strictly between 0 and 1.
    """
    name, colon, text = preset.strip().lower().partition(":")
    if name not in PRESETS:
        raise ValueError(
            "rank_weights must be a sequence of finite numbers, the weight of the best first, or one of median, "
            f"quantile:LEVEL, cvar:LEVEL, got {preset!r}"
        )
    if name == "median":
        if colon:
            raise ValueError(f"the preset median takes no level, got {preset!r}; use quantile:LEVEL")
        return name, 0.5
    try:
        level = float(text)
    except ValueError:
        raise ValueError(f"the preset {name} needs a level, as in {name}:0.25, got {preset!r}") from None
    if not 0.0 < level < 1.0:
        raise ValueError(f"the level of the preset {name} must be strictly between 0 and 1, got {preset!r}")
    return name, level


def preset_rank_weights(preset: str, size: int) -> tuple[float, ...]:
    r"""Weights of the ranked rewards of ``size`` samples, the best first; they sum to 1.

    "quantile:q" interpolates between the two rewards next to position :math:`q K + 1/2` (Hazen's rule, numpy's
    ``method="hazen"``); "median" is the quantile 0.5; "cvar:a" is the mean of the upper share a of the samples, of
    which the lowest counts in part where a K is no integer.

    Args:
        preset: "median", "quantile:q" or "cvar:a", with q and a in (0, 1). q counts from below: 0.9 is high.
        size: K >= 1, number of samples.

    Raises:
        ValueError: On a bad preset, see :func:`parse_preset`, or a size that is not an integer >= 1.
    """
    name, level = parse_preset(preset)
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise ValueError(f"size must be an integer >= 1, got {size!r}")
    if name == "cvar":
        mass = level * size
        inside = [min(max(mass - rank, 0.0), 1.0) for rank in range(size)]
        total = sum(inside)
        return tuple(weight / total for weight in inside)
    position = min(max(level * size + 0.5, 1.0), float(size)) - 1.0  # from below, from 0
    low = min(int(position), size - 1)
    weights = [0.0] * size
    weights[low] = 1.0 - (position - low)
    if position > low:
        weights[low + 1] = position - low
    return tuple(reversed(weights))
