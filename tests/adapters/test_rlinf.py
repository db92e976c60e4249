"""What the RLinf adapter computes; its registration is in frameworks/check_rlinf.py, on RLinf itself."""

import sys

import pytest
import torch

from tea.adapters.rlinf import make_rlinf_estimator, register
from tests.adapters.reference import grouped_advantages


@pytest.mark.parametrize(("name", "options"), [("tea", {"target_n": 64}), ("max_at_k", {"k": 2}), ("grpo", {})])
def test_contract(name, options):
    rewards = torch.randn(3, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    loss_mask = torch.arange(5)[:, None] < torch.arange(24) % 5 + 1  # (T, B)
    function = make_rlinf_estimator(name, **options)
    advantages, returns = function(rewards=rewards, loss_mask=loss_mask, group_size=8, adv_type="tea", values=None)
    expected = grouped_advantages(rewards.flatten().tolist(), [i // 8 for i in range(24)], name, **options)
    expected = torch.tensor(expected, dtype=torch.float64)
    assert returns is None
    torch.testing.assert_close(advantages, expected * loss_mask)
    everywhere, _ = function(rewards=rewards, loss_mask=None, group_size=8, n_steps=4)
    torch.testing.assert_close(everywhere, expected.expand(4, 24))


def test_bad_input(monkeypatch):
    with pytest.raises(ValueError, match="1 of 3 groups have a single rollout"):
        make_rlinf_estimator()(torch.zeros(5), 2)
    for options in ({"reward_memory": 8}, {"normalize_advantages": "running"}):
        with pytest.raises(ValueError, match=r"cannot work here.*RLinf hands over rewards only"):
            make_rlinf_estimator("tea", **options)
    monkeypatch.setitem(sys.modules, "rlinf", None)
    with pytest.raises(ImportError, match="this needs RLinf, which cannot be imported"):
        register()
