"""What the tunix adapter computes; its registration is in frameworks/check_tunix.py, on tunix itself."""

import sys

import numpy as np
import pytest

from tea.adapters.tunix import make_tunix_estimator, register
from tests.adapters.reference import grouped_advantages


@pytest.mark.parametrize(("name", "options"), [("tea", {"target_n": 64}), ("max_at_k", {"k": 2}), ("grpo", {})])
def test_contract(name, options):
    rewards = np.random.default_rng(0).normal(size=24).astype(np.float32)
    advantages = make_tunix_estimator(name, **options)(rewards=rewards, num_generations=8)
    expected = grouped_advantages(rewards.tolist(), [i // 8 for i in range(24)], name, **options)
    assert advantages.dtype == np.float32
    np.testing.assert_allclose(advantages, expected, rtol=1e-5, atol=1e-6)


def test_bad_input(monkeypatch):
    with pytest.raises(ValueError, match="7 rewards must be a multiple of num_generations=4"):
        make_tunix_estimator()(np.zeros(7), 4)
    with pytest.raises(ValueError, match="groups have a single rollout"):
        make_tunix_estimator()(np.zeros(4), 1)
    with pytest.raises(ValueError, match="tunix's agentic learner handed over a single prompt's group"):
        make_tunix_estimator("tea", normalize_advantages="batch")(np.zeros(4), 4)
    with pytest.raises(ValueError, match="tunix hands over no prompts"):
        make_tunix_estimator("tea", reward_memory=8)
    monkeypatch.setitem(sys.modules, "tunix", None)
    with pytest.raises(ImportError, match="this needs tunix, which cannot be imported"):
        register()
