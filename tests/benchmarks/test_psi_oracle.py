"""The ceiling of the training benchmark: the true influence, by quadrature, and the samples that it needs."""

import numpy as np
import torch

from benchmarks.training import loop, run
from benchmarks.training.methods import METHODS, PSI_ORACLE, PsiOracle
from benchmarks.training.policy import build_policy
from benchmarks.training.task import tasks


def influence(further, u, n):
    """The integral up to u of n F^(n-1), F the empirical distribution function: on a fine grid."""
    t = np.linspace(further.min() - 1.0, u, 400_001)
    cdf = np.searchsorted(np.sort(further), t, side="right") / len(further)
    return np.trapezoid(n * cdf ** (n - 1), t)


def test_is_the_integral():
    rng = np.random.default_rng(0)
    further, rewards = rng.standard_normal((2, 40)), rng.standard_normal((2, 6))
    rewards[0, 0], rewards[0, 1] = -9.0, 9.0  # outside what was seen
    rewards[1, 0] = further[1, 3]  # a tie
    found = PsiOracle(16)(torch.tensor(rewards), torch.arange(2), torch.tensor(further))
    expected = np.array([[influence(f, u, 16) for u in row] for f, row in zip(further, rewards, strict=True)])
    expected -= expected.mean(1, keepdims=True)
    expected /= np.sqrt((expected**2).mean())  # the first batch of a run is its scale
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


def test_the_loop_hands_over_further_rewards_and_trains_on_the_same_rollouts():
    """Sampled beside: the rollouts that are trained on are those of any other method."""
    task = tasks()["survey"](1)
    torch.manual_seed(0)
    base = build_policy(task, width=16, layers=1, heads=2)
    settings = loop.Settings(4, 3, 1, 0.0)
    seen = {}

    def plain(rewards, index):
        seen["plain"] = rewards
        return rewards

    class Oracle(PsiOracle):
        def __call__(self, rewards, index, further):
            seen["oracle"], seen["further"] = rewards, further
            return super().__call__(rewards, index, further)

    loop.train(task, base, [loop.Member(plain, settings)], seed=1)
    loop.train(task, base, [loop.Member(Oracle(128, further_samples=10), settings)], seed=1)
    assert torch.equal(seen["plain"], seen["oracle"])
    assert seen["further"].shape == (3, 10)


def test_is_in_the_plans_at_the_learning_rate_of_max_at_m():
    for plan in ("main", "mismatch"):
        assert any(cell.method == PSI_ORACLE for cell in run.PLANS[plan](["survey"], [6]))
    assert run.tuned_as(PSI_ORACLE, "survey") == "max_at_m"
    assert [run.tuned_as(name, "dice") for name in ("eb_bon", "grpo", "max_rl")] == ["max_at_m", "grpo", "grpo"]
    assert METHODS[PSI_ORACLE].advantages(16, 128) == PsiOracle(128)
