"""The schedule of N."""

import math

import pytest

from tea.estimators.schedule import scheduled_target_n


@pytest.mark.parametrize("kind", ["linear", "geometric"])
@pytest.mark.parametrize(("start", "end"), [(4, 128), (128, 4), (1, 512), (16, 16)])
def test_from_start_to_end_monotonically(kind, start, end):
    values = [scheduled_target_n(step / 100, start, end, kind) for step in range(101)]
    assert values[0] == start
    assert values[-1] == end
    assert values == sorted(values, reverse=start > end)
    assert all(isinstance(value, int) for value in values)


def test_values():
    assert [scheduled_target_n(t, 4, 128, "geometric") for t in (0.2, 0.4, 0.6, 0.8)] == [8, 16, 32, 64]
    assert [scheduled_target_n(t, 4, 128, "linear") for t in (0.25, 0.5, 0.75)] == [35, 66, 97]
    assert {scheduled_target_n(t, 4, 128, "constant") for t in (0, 0.3, 1)} == {128}


@pytest.mark.parametrize("progress", [-0.01, 1.01, math.nan])
def test_bad_progress(progress):
    with pytest.raises(ValueError, match=r"progress must be in \[0, 1\], got"):
        scheduled_target_n(progress, 4, 128)


def test_bad_ends_and_kind():
    with pytest.raises(ValueError, match="target_n must be a finite number >= 1, got 0"):
        scheduled_target_n(0.5, 0, 128)
    with pytest.raises(ValueError, match="target_n must be a finite number >= 1"):
        scheduled_target_n(0.5, 4, math.inf)
    with pytest.raises(ValueError, match=r"one of 'constant', 'linear', 'geometric', got 'cosine'"):
        scheduled_target_n(0.5, 4, 128, "cosine")
