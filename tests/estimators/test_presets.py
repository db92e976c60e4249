"""Named order statistics against numpy's quantile, and a mean over the upper share."""

import numpy as np
import pytest
import torch

import tea
from tea.estimators.presets import preset_rank_weights


@pytest.mark.parametrize("size", [1, 2, 5, 8])
@pytest.mark.parametrize("level", [0.01, 0.3, 0.5, 0.8, 0.99])
def test_quantile_is_numpys(size, level):
    values = np.random.default_rng(0).standard_normal(size)
    weights = preset_rank_weights(f"quantile:{level}", size)
    assert np.sort(values)[::-1] @ weights == pytest.approx(np.quantile(values, level, method="hazen"), abs=1e-12)
    if level == 0.5:
        assert preset_rank_weights("median", size) == weights
        assert np.sort(values)[::-1] @ weights == pytest.approx(np.median(values), abs=1e-12)


@pytest.mark.parametrize("size", [1, 3, 8])
@pytest.mark.parametrize("level", [0.05, 0.25, 0.4, 0.9])
def test_cvar_is_the_mean_of_the_upper_share(size, level):
    values = np.sort(np.random.default_rng(1).standard_normal(size))[::-1]
    fine = np.repeat(values, 10_000)  # each sample is as many equal parts
    upper = fine[: round(level * len(fine))]
    assert values @ preset_rank_weights(f"cvar:{level}", size) == pytest.approx(upper.mean(), abs=1e-3)


def test_the_estimator_takes_a_name():
    rewards = torch.randn(5, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    by_name = tea.order_stat_advantages(rewards, "cvar:0.5", size=6)
    assert torch.equal(by_name, tea.order_stat_advantages(rewards, [1 / 3] * 3 + [0.0] * 3))
    assert torch.equal(
        tea.order_stat_advantages(rewards, "median"), tea.order_stat_advantages(rewards, "median", size=4)
    )
    with pytest.raises(ValueError, match=r"rank_weights must be fewer than the generations per prompt \(9\), got 9"):
        tea.order_stat_advantages(rewards, "median", size=9)
    with pytest.raises(ValueError, match="size is for a named preset"):
        tea.order_stat_advantages(rewards, [1.0, 0.0], size=3)


@pytest.mark.parametrize("size", [0, -1, 2.0, True])
def test_bad_size(size):
    with pytest.raises(ValueError, match="size must be an integer >= 1"):
        preset_rank_weights("median", size)
