"""On a stand-in for EasyR1's verl.trainer.core_algos; frameworks/check_easyr1.py is on EasyR1's own."""

import sys

import numpy as np
import pytest
import torch

from tea.adapters.easyr1 import register
from tests.adapters import standin
from tests.adapters.reference import grouped_advantages, shuffled_groups


@pytest.fixture
def core_algos(monkeypatch):
    known = {"grpo": print, "rloo": print}

    def register_adv_estimator(name):
        def decorator(fn):
            known[name] = torch.no_grad()(fn)
            return known[name]

        return decorator

    return standin.install(
        monkeypatch,
        "verl.trainer.core_algos",
        ADV_ESTIMATOR_MAP=known,
        register_adv_estimator=register_adv_estimator,
    )


def test_contract(core_algos):
    rewards, ids = shuffled_groups(0, [8, 5, 8])
    register("tea", target_n=64)
    mask = (torch.arange(4) < torch.arange(1, 22)[:, None] % 4 + 1).long()
    advantages, returns = core_algos.ADV_ESTIMATOR_MAP["grpo"](
        token_level_rewards=rewards[:, None] * torch.tensor([1.0, 0, 0, 0]),
        response_mask=mask,
        index=np.array(ids, dtype=object),
        gamma=1.0,
        lam=1.0,
    )
    expected = torch.tensor(grouped_advantages(rewards.tolist(), ids, target_n=64), dtype=torch.float64)
    torch.testing.assert_close(advantages, expected[:, None] * mask)
    assert torch.equal(advantages, returns)


def test_bad_input(core_algos, monkeypatch):
    with pytest.raises(ValueError, match="EasyR1 uses none but its own estimators, grpo, rloo; got register_as='tea'"):
        register("tea", register_as="tea")
    monkeypatch.setitem(sys.modules, "verl.trainer.core_algos", None)
    with pytest.raises(ImportError, match="this needs EasyR1, which cannot be imported"):
        register()
