import json

import numpy as np
import pytest
from scipy import stats

from tea.bestofn import diagnose


def test_gaussian_rewards_pass():
    found = diagnose(stats.norm(3, 2).rvs((400, 64), random_state=0))
    assert found.tail_power[1] < 2.0 < found.tail_power[2]
    assert abs(found.gaussian_share - 0.95) < 4 * np.sqrt(0.95 * 0.05 / 400)
    assert found.supported_tail_fraction == 1.0
    assert found.tied_share == found.constant_share == found.saturated_share == 0.0
    inside = (found.qq_low <= found.qq_expected) & (found.qq_expected <= found.qq_high)
    # Standardising by the sample's own deviation shrinks the extremes by O(1/n): the bulk must agree.
    assert inside[8:-8].mean() > 0.8


def test_supported_fraction_sees_a_gaussian_tail_above_another_bulk():
    # Gaussian above its median, uniform below: the upper half is Gaussian, the whole is not.
    rng = np.random.default_rng(1)
    normal = np.abs(rng.normal(size=(4000, 64)))
    rewards = np.where(rng.random((4000, 64)) < 0.5, normal, -20 * rng.random((4000, 64)))
    found = diagnose(rewards)
    assert found.supported_tail_fraction is not None
    assert 0.1 < found.supported_tail_fraction < 0.6
    assert f"up to alpha = {found.supported_tail_fraction:.2f}" in " ".join(found.notes)


@pytest.mark.parametrize(("distribution", "side"), [(stats.expon(), "heavier"), (stats.uniform(), "lighter")])
def test_other_tails_are_recognised(distribution, side):
    found = diagnose(distribution.rvs((500, 64), random_state=0))
    assert any(side in note for note in found.notes)
    assert found.supported_tail_fraction is None
    assert found.gaussian_share < 0.93


def test_shares_are_counted():
    rng = np.random.default_rng(2)
    rewards = rng.normal(size=(10, 16))
    rewards[0] = 0.3  # constant
    rewards[1, :2] = rewards[1].max()  # a tie at the top
    rewards[2:5] = np.minimum(rewards[2:5], 0.0) + 9.0  # clipped at the largest reward anywhere
    found = diagnose(rewards)
    assert found.constant_share == pytest.approx(0.1)
    assert found.tied_share == pytest.approx(0.5)
    assert found.saturated_share == pytest.approx(0.3)
    assert np.isnan(found.linearity[0])


def test_a_few_repeated_completions_among_many_are_not_ties():
    rewards = np.random.default_rng(5).normal(size=(2, 400))
    top = np.argsort(rewards[0])[-8:]
    rewards[0, top] = np.repeat(rewards[0, top[::2]], 2)  # 8 of the upper 100 in ties
    top = np.argsort(rewards[1])[-12:]
    rewards[1, top] = np.repeat(rewards[1, top[::2]], 2)  # 12 of them
    assert diagnose(rewards).tied_share == 0.5


def test_linearity_is_the_correlation_of_the_qq_plot():
    rewards = np.random.default_rng(3).normal(size=(2, 16))
    found = diagnose(rewards)
    for row, linearity in zip(rewards, found.linearity, strict=True):
        expected = np.corrcoef(np.sort(row)[-4:], found.qq_expected[-4:])[0, 1]
        assert linearity == pytest.approx(expected)


def test_critical_value_gives_five_percent():
    found = diagnose(np.random.default_rng(4).normal(size=(20_000, 16)))
    assert abs((1 - found.gaussian_share) - 0.05) < 4 * np.sqrt(0.05 * 0.95 * (1 / 20_000 + 1 / 4_000))


@pytest.mark.parametrize(
    "rewards",
    [
        np.zeros((3, 8)),
        np.eye(4),
        np.random.default_rng(0).normal(size=(1, 2)),
        np.full((4, 16), 1e30),
        [[1.0, 2.0, 3.0]],
    ],
)
def test_degenerate_rewards_are_described_not_crashed_on(rewards):
    found = diagnose(rewards)
    assert found.notes
    json.dumps(found.to_dict(), allow_nan=False)


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="at least 2 samples"):
        diagnose([[1.0]])
    with pytest.raises(ValueError, match=r"rewards\[0, 1\] is nan"):
        diagnose([[1.0, float("nan")]])
