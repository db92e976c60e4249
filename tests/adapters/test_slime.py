"""slime's hook on stand-ins for its Sample and args; the hook needs nothing of slime's."""

import inspect
import warnings
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import tea
from tea.adapters.slime import post_process_rewards
from tests.adapters.reference import grouped_advantages, shuffled_groups


@dataclass
class Sample:
    """The fields of slime.utils.types.Sample that matter here."""

    group_index: int | None = None
    index: int | None = None
    rollout_id: int | None = None
    reward: Any = None
    prompt: Any = ""


ARGS = {"reward_key": None, "n_samples_per_prompt": 8, "advantage_estimator": "grpo"}


def samples_of(rewards, ids):
    groups = {key: 100 + i for i, key in enumerate(sorted(set(ids)))}
    return [Sample(groups[key], i, reward=r) for i, (r, key) in enumerate(zip(rewards, ids, strict=True))]


@pytest.mark.parametrize("sizes", [[8] * 4, [8, 5, 3]])
def test_contract(sizes):
    rewards, ids = shuffled_groups(0, sizes)
    rewards = rewards.tolist()
    result = post_process_rewards(SimpleNamespace(**ARGS), samples_of(rewards, ids))
    assert isinstance(result, tuple)
    raw, advantages = result
    assert raw == rewards
    assert advantages == pytest.approx(grouped_advantages(rewards, ids), rel=1e-9, abs=1e-12)
    assert all(type(a) is float for a in advantages)
    # slime's own contract test: the parameter names, and a call with bare args and samples without a group.
    assert list(inspect.signature(post_process_rewards).parameters) == ["args", "samples"]
    raw, advantages = post_process_rewards(type("Args", (), {})(), [Sample(index=0, reward=0.5), Sample(reward=1.5)])
    assert raw == [0.5, 1.5]
    assert advantages == pytest.approx([-0.5, 0.5])


def test_options_and_reward_key():
    rewards, ids = shuffled_groups(1, [8, 8])
    samples = samples_of([{"score": r, "format": 0.0} for r in rewards.tolist()], ids)
    samples[3].reward = None  # aborted
    args = SimpleNamespace(**{**ARGS, "reward_key": "score", "tea": {"estimator": "max_at_k", "k": 4}})
    raw, advantages = post_process_rewards(args, samples)
    assert raw[3] is None
    assert raw[4] == rewards[4].item()
    rewards[3] = float("nan")
    assert advantages == pytest.approx(grouped_advantages(rewards.tolist(), ids, "max_at_k", k=4), rel=1e-9, abs=1e-12)
    assert advantages[3] == 0.0


def test_samples_without_groups_are_contiguous():
    rewards, _ = shuffled_groups(2, [8, 8, 8])
    samples = [Sample(reward=r) for r in rewards.tolist()]
    _, advantages = post_process_rewards(SimpleNamespace(**ARGS), samples)
    expected = grouped_advantages(rewards.tolist(), [i // 8 for i in range(24)])
    assert advantages == pytest.approx(expected, rel=1e-9, abs=1e-12)
    with pytest.raises(ValueError, match="23 samples must be a multiple of 8 per prompt"):
        post_process_rewards(SimpleNamespace(**ARGS), samples[:23])
    samples[0].group_index = 1
    with pytest.raises(TypeError, match="got NoneType, int"):
        post_process_rewards(SimpleNamespace(**ARGS), samples)


def test_a_rollout_of_several_samples_counts_once():
    rewards, ids = shuffled_groups(3, [6, 4])
    rewards = rewards.tolist()
    whole = samples_of(rewards, ids)
    split = []
    for i, sample in enumerate(whole):  # 1, 2 or 3 segments each; ids are unique within a prompt only
        position = sum(ids[j] == ids[i] for j in range(i))
        split += [Sample(sample.group_index, i, position, sample.reward) for _ in range(1 + i % 3)]
    args = SimpleNamespace(**ARGS, tea={"estimator": "prefix_tea", "order": 1})  # which depends on the order
    _, advantages = post_process_rewards(args, split)
    expected = grouped_advantages(rewards, ids, "prefix_tea", order=1)
    assert advantages == pytest.approx([expected[s.index] for s in split], rel=1e-9, abs=1e-12)
    split[2].reward += 1.0
    with pytest.raises(ValueError, match=r"samples of rollout .* have different rewards"):
        post_process_rewards(args, split)


def test_bad_input():
    assert post_process_rewards(SimpleNamespace(**ARGS), []) == ([], [])
    args = SimpleNamespace(**ARGS)
    with pytest.raises(ValueError, match="1 of 2 groups have a single rollout: ids 8"):
        post_process_rewards(args, [Sample(7, reward=0.0), Sample(8, reward=0.0), Sample(7, reward=1.0)])
    with pytest.raises(ValueError, match="1 infinite"):
        post_process_rewards(args, [Sample(7, reward=0.0), Sample(7, reward=float("inf"))])
    with pytest.raises(TypeError, match="has no option 'targetn'"):
        post_process_rewards(SimpleNamespace(tea={"targetn": 3}), [Sample(7, reward=0.0), Sample(7, reward=1.0)])


def test_whitening_on_top_is_warned_of():
    rewards, ids = shuffled_groups(0, [4, 4])
    samples = samples_of(rewards.tolist(), ids)
    with pytest.warns(UserWarning, match="--normalize-advantages whitens the advantages on top"):
        post_process_rewards(SimpleNamespace(**ARGS, normalize_advantages=True), samples)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        post_process_rewards(SimpleNamespace(**ARGS, normalize_advantages=False), samples)


@pytest.mark.parametrize("estimator", ["ppo", "reinforce_plus_plus", "reinforce_plus_plus_baseline"])
def test_estimators_that_make_something_else_of_the_rewards(estimator):
    with pytest.raises(ValueError, match=f"--advantage-estimator {estimator} computes advantages of its own"):
        post_process_rewards(SimpleNamespace(**{**ARGS, "advantage_estimator": estimator}), [])


def test_memory_goes_by_the_prompt():
    """The second visit of the prompts, in another order and with other group indices, sees the first."""
    args = SimpleNamespace(**ARGS, tea={"estimator": "max_at_k", "k": 6, "reward_memory": 4, "scale": "none"})
    memory, estimator = tea.RewardMemory(4), tea.get_estimator("max_at_k", k=6, scale="none")
    prompts = ["the first", [{"role": "user", "content": "the second"}]]
    for visit, order in enumerate(([0, 1], [1, 0], [0, 1])):
        rewards = torch.randn(2, 4, generator=torch.Generator().manual_seed(visit), dtype=torch.float64)
        samples = [
            Sample(index=i, group_index=100 * visit + order.index(p), reward=rewards[p, i].item(), prompt=prompts[p])
            for i in range(4)
            for p in order
        ]
        _, advantages = post_process_rewards(args, samples)
        expected = tea.advantages_with_memory(estimator, rewards, memory.recall([0, 1]).double())
        memory.update([0, 1], rewards)
        expected = [expected[p, i].item() for i in range(4) for p in order]
        assert advantages == pytest.approx(expected, abs=1e-9)
