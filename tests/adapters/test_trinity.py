"""On a stand-in for Trinity-RFT's experiences; frameworks/check_trinity.py is on Trinity-RFT itself."""

import abc
import sys
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

import tea
from tea.adapters.trinity import TEAAdvantage
from tests.adapters import standin
from tests.adapters.reference import grouped_advantages, shuffled_groups


@dataclass
class EID:
    task: str
    run: int = 0
    step: int = 0
    batch: int = 3

    @property
    def tid(self):
        return f"{self.batch}/{self.task}"

    @property
    def rid(self):
        return f"{self.tid}/{self.run}"


@dataclass
class Experience:
    eid: EID
    reward: float | None
    action_mask: torch.Tensor = field(default_factory=lambda: torch.tensor([True, False, True]))
    tokens: Any = None
    prompt_length: int = 2
    advantages: Any = None
    returns: Any = None


@pytest.fixture(autouse=True)
def operators(monkeypatch):
    class ExperienceOperator(abc.ABC):
        @abc.abstractmethod
        def process(self, exps): ...

    return standin.install(
        monkeypatch, "trinity.buffer.operators.experience_operator", ExperienceOperator=ExperienceOperator
    )


@pytest.mark.parametrize("sizes", [[8] * 3, [8, 5, 3]])
def test_contract(operators, sizes):
    rewards, ids = shuffled_groups(0, sizes)
    exps = [Experience(EID(i), r) for i, r in zip(ids, rewards.tolist(), strict=True)]  # run is the user's to set
    function = TEAAdvantage(estimator="tea", target_n=64)
    assert isinstance(function, operators.ExperienceOperator)
    result, metrics = function.process(list(exps))
    assert all(a is b for a, b in zip(result, exps, strict=True))
    expected = grouped_advantages(rewards.tolist(), ids, target_n=64)
    torch.testing.assert_close(
        torch.stack([exp.advantages for exp in exps]), torch.tensor(expected)[:, None] * torch.tensor([1.0, 0.0, 1.0])
    )
    assert all(torch.equal(exp.advantages, exp.returns) for exp in exps)
    assert metrics["group_advantages/reward_mean"] == pytest.approx(rewards.mean().item())
    assert function.process([]) == ([], {})


def test_the_steps_of_a_run_count_once():
    rewards = [0.0, 1.0, 3.0]
    exps = [
        Experience(EID("a", run, step), r if step == 2 else 9.0) for step in (2, 0, 1) for run, r in enumerate(rewards)
    ]
    TEAAdvantage(estimator="rloo", scale="none").process(exps)
    for exp in exps:
        assert exp.advantages[0].item() == pytest.approx([-2.0, -0.5, 2.5][exp.eid.run])


def test_memory_goes_by_the_tokens_of_the_prompt():
    function = TEAAdvantage(estimator="max_at_k", k=6, scale="none", reward_memory=4)
    memory, estimator = tea.RewardMemory(4), tea.get_estimator("max_at_k", k=6, scale="none")
    for visit in range(3):
        rewards = torch.randn(2, 4, generator=torch.Generator().manual_seed(visit), dtype=torch.float64)
        exps = [
            Experience(EID(f"{p}", batch=visit), rewards[p, i].item(), tokens=torch.tensor([5, p, 10 * i + visit]))
            for p in range(2)
            for i in range(4)
        ]
        function.process(exps)
        expected = tea.advantages_with_memory(estimator, rewards, memory.recall([0, 1]).double())
        memory.update([0, 1], rewards)
        given = torch.stack([exp.advantages[0] for exp in exps])
        torch.testing.assert_close(given, expected.flatten().float())


def test_bad_input(monkeypatch):
    with pytest.raises(ValueError, match="did you mean 'ladder'"):
        TEAAdvantage(estimator="laddr")
    with pytest.raises(ValueError, match="1 of 2 groups have a single rollout: ids '3/b'"):
        TEAAdvantage().process([Experience(EID(i), 0.0) for i in "aab"])
    missing = [Experience(EID("a"), r) for r in (None, 1.0, 2.0)]
    TEAAdvantage(estimator="rloo", scale="none").process(missing)
    assert [exp.advantages[0].item() for exp in missing] == [0.0, -1.0, 1.0]
    monkeypatch.setitem(sys.modules, "trinity.buffer.operators.experience_operator", None)
    with pytest.raises(ImportError, match="this needs Trinity-RFT, which cannot be imported"):
        TEAAdvantage()
