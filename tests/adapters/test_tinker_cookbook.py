"""On a stand-in for tinker_cookbook.rl.train and its trajectory groups."""

import sys

import pytest
import torch

from tea.adapters.tinker_cookbook import install, make_tinker_estimator
from tests.adapters import standin
from tests.adapters.reference import grouped_advantages


class TrajectoryGroup:
    """tinker_cookbook.rl.types.TrajectoryGroup, as far as compute_advantages sees it."""

    def __init__(self, rewards):
        self.rewards = rewards

    def get_total_rewards(self):
        return self.rewards


def trajectory_groups(seed, sizes):
    generator = torch.Generator().manual_seed(seed)
    return [TrajectoryGroup(torch.randn(size, generator=generator).tolist()) for size in sizes]


@pytest.fixture
def train(monkeypatch):
    module = standin.install(monkeypatch, "tinker_cookbook.rl.train", compute_advantages=None)
    module.prepare_minibatch = lambda trajectory_groups_P: module.compute_advantages(trajectory_groups_P)
    return module


@pytest.mark.parametrize("sizes", [[8, 8, 8], [8, 3, 5, 2]])
def test_contract(train, sizes):
    groups = trajectory_groups(0, sizes)
    install("tea", target_n=64)
    advantages_P = train.prepare_minibatch(groups)
    assert [tuple(a.shape) for a in advantages_P] == [(size,) for size in sizes]
    assert all(a.dtype == torch.float32 for a in advantages_P)
    ids = [i for i, size in enumerate(sizes) for _ in range(size)]
    expected = grouped_advantages([r for g in groups for r in g.rewards], ids, target_n=64)
    torch.testing.assert_close(torch.cat(advantages_P), torch.tensor(expected), rtol=1e-5, atol=1e-6)


def test_a_single_group_and_none(train):
    install("grpo")
    (advantages,) = train.compute_advantages([TrajectoryGroup([0.0, 1, 2])])  # print_group
    assert advantages.tolist() == pytest.approx([-1.0, 0.0, 1.0], abs=2e-4)
    assert train.compute_advantages([]) == []


def test_groups_left_with_one_trajectory():
    groups = [TrajectoryGroup([0.0, 1.0]), TrajectoryGroup([5.0])]
    with pytest.raises(ValueError, match="1 of 2 groups have a single rollout: ids 1"):
        make_tinker_estimator("rloo")(groups)
    advantages = make_tinker_estimator("rloo", scale="none", singletons="zero")(groups)
    assert [a.tolist() for a in advantages] == [[-1.0, 1.0], [0.0]]


def test_install_fails_clearly(train, monkeypatch):
    del train.compute_advantages
    with pytest.raises(ImportError, match="no longer has compute_advantages"):
        install()
    monkeypatch.setitem(sys.modules, "tinker_cookbook", None)
    monkeypatch.delitem(sys.modules, "tinker_cookbook.rl.train")
    monkeypatch.delitem(sys.modules, "tinker_cookbook.rl")
    with pytest.raises(ImportError, match="this needs tinker-cookbook, which cannot be imported"):
        install()


def test_a_memory_is_refused():
    with pytest.raises(ValueError, match=r"cannot work here.*parts of groups that it prints"):
        make_tinker_estimator("tea", reward_memory=8)
