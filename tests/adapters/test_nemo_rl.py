"""On a stand-in for nemo_rl.algorithms.grpo, which picks the estimator by name."""

import pickle
import sys
from types import SimpleNamespace

import pytest
import torch

import tea
from tea.adapters.nemo_rl import NeMoAdvantageEstimator, install, make_nemo_estimator
from tests.adapters import standin
from tests.adapters.reference import grouped_advantages, shuffled_groups


@pytest.fixture
def grpo(monkeypatch):
    class GRPOAdvantageEstimator:
        def __init__(self, estimator_config, loss_config):
            raise AssertionError("not replaced")

    module = standin.install(monkeypatch, "nemo_rl.algorithms.grpo", GRPOAdvantageEstimator=GRPOAdvantageEstimator)

    def _create_advantage_estimator(master_config):
        config = master_config.grpo.adv_estimator
        assert (config["name"] if isinstance(config, dict) else config.name) == "grpo"
        return module.GRPOAdvantageEstimator(config, master_config.loss_fn)

    module._create_advantage_estimator = _create_advantage_estimator
    return module


def master_config(**adv_estimator):
    return SimpleNamespace(grpo=SimpleNamespace(adv_estimator=SimpleNamespace(**adv_estimator)), loss_fn=None)


def prompt_tokens(ids):
    """Prompts of unequal length, padded with 0, distinct in their last token only."""
    return torch.tensor([[5, 6, int(i[-3:]) + 1, 0] if int(i[-3:]) % 2 else [5, 6, 7, int(i[-3:]) + 1] for i in ids])


@pytest.mark.parametrize("sizes", [[8] * 3, [8, 3, 6, 8]])
def test_contract(grpo, sizes):
    rewards, ids = shuffled_groups(0, sizes)
    install("tea", target_n=64)
    estimator = grpo._create_advantage_estimator(master_config(name="grpo", normalize_rewards=True))
    mask = torch.ones(len(ids), 7)
    mask[:, 5:] = 0.0
    advantages = estimator.compute_advantage(
        prompt_ids=prompt_tokens(ids),
        rewards=rewards.float(),
        mask=mask,
        repeated_batch={"total_reward": rewards},
        logprobs_policy=torch.zeros(len(ids), 7),
        logprobs_reference=None,
    )
    expected = torch.tensor(grouped_advantages(rewards.float().tolist(), ids, target_n=64))
    assert advantages.shape == mask.shape
    assert advantages.dtype == torch.float32
    torch.testing.assert_close(advantages, expected[:, None].expand(mask.shape), rtol=1e-4, atol=1e-5)
    travelled = pickle.loads(pickle.dumps(estimator))  # to a Ray actor
    assert torch.equal(travelled.compute_advantage(prompt_tokens(ids), rewards.float(), mask), advantages)


@pytest.mark.parametrize("as_mapping", [True, False])
def test_options_from_the_config(grpo, as_mapping):
    rewards, ids = shuffled_groups(1, [8, 8])
    section = {"name": "grpo", "tea": {"estimator": "ladder", "target_n": 256, "rungs": [4, 8]}}
    config = master_config(**section)
    if as_mapping:
        config.grpo.adv_estimator = section
    install()
    estimator = grpo._create_advantage_estimator(config)
    advantages = estimator.compute_advantage(torch.tensor([int(i[-3:]) for i in ids]), rewards, torch.ones(16, 1))
    expected = grouped_advantages(rewards.tolist(), ids, "ladder", target_n=256, rungs=[4, 8])
    torch.testing.assert_close(advantages[:, 0], torch.tensor(expected, dtype=torch.float64))


def test_invalid_rows_influence_nothing():
    rewards, ids = shuffled_groups(2, [6, 6, 6])
    rows = torch.tensor([i for i, key in enumerate(ids) if key != "prompt-001"])
    valid = torch.ones(18)
    valid[rows[3]] = valid[rows[7]] = 0.0
    valid[[i for i, key in enumerate(ids) if key == "prompt-001"][1:]] = 0.0  # leaves one
    rewards[valid == 0] = 1e6
    estimator = make_nemo_estimator("tea", target_n=64, singletons="zero")
    advantages = estimator.compute_advantage(prompt_tokens(ids), rewards, torch.ones(18, 2), valid_mask=valid)
    kept = [i for i in range(18) if valid[i] > 0]
    expected = torch.zeros(18, dtype=torch.float64)
    expected[kept] = torch.tensor(
        grouped_advantages([rewards[i].item() for i in kept], [ids[i] for i in kept], target_n=64), dtype=torch.float64
    )
    torch.testing.assert_close(advantages, expected[:, None].expand(18, 2))


def test_a_group_with_one_valid_row():
    """Not a group of one: it does not stop the run, and what is left of it has nothing to be compared with."""
    rewards, ids = shuffled_groups(3, [6, 6, 4])
    valid = torch.ones(len(ids))
    valid[[i for i, key in enumerate(ids) if key == "prompt-002"][1:]] = 0
    estimator = make_nemo_estimator("tea", target_n=64)
    mask = torch.ones(len(ids), 3)
    advantages = estimator.compute_advantage(prompt_tokens(ids), rewards, mask, valid_mask=valid)[:, 0]
    alone = torch.tensor([key == "prompt-002" for key in ids])
    assert (advantages[alone] == 0).all()
    kept = [i for i in range(len(ids)) if not alone[i]]
    expected = grouped_advantages(rewards[kept].tolist(), [ids[i] for i in kept], target_n=64)
    torch.testing.assert_close(advantages[kept], torch.tensor(expected, dtype=torch.float64))
    with pytest.raises(ValueError, match="groups have a single rollout"):  # ids that are wrong still are
        estimator.compute_advantage(torch.arange(len(ids)), rewards, mask, valid_mask=valid)


def test_memory_goes_by_the_prompt_whatever_its_padding():
    options = {"k": 6, "scale": "none"}
    estimator = NeMoAdvantageEstimator(
        {"tea": {"estimator": "max_at_k", "reward_memory": 4, "pad_token_id": 0, **options}}
    )
    memory, plain = tea.RewardMemory(4), tea.get_estimator("max_at_k", **options)
    for visit, padding in enumerate((0, 3, 1)):
        rewards = torch.randn(2, 4, generator=torch.Generator().manual_seed(visit), dtype=torch.float64)
        tokens = torch.nn.functional.pad(torch.tensor([[5, 6, 7], [5, 6, 8]]), (0, padding)).repeat_interleave(4, 0)
        advantages = estimator.compute_advantage(tokens, rewards.flatten(), torch.ones(8, 2))[:, 0]
        expected = tea.advantages_with_memory(plain, rewards, memory.recall([0, 1]).double())
        memory.update([0, 1], rewards)
        torch.testing.assert_close(advantages, expected.flatten())
    with pytest.raises(ValueError, match="reward_memory needs pad_token_id"):
        make_nemo_estimator("max_at_k", k=6, reward_memory=4)


def test_bad_input():
    estimator = NeMoAdvantageEstimator({"name": "grpo"}, None)
    rewards = torch.arange(4.0)
    with pytest.raises(ValueError, match=r"2 of 3 groups have a single rollout: ids \[1, 8\], \[1, 9\]"):
        estimator.compute_advantage(torch.tensor([[1, 7], [1, 7], [1, 8], [1, 9]]), rewards, torch.ones(4, 2))
    with pytest.raises(ValueError, match=r"mask must have shape \(4, S\), got \(3, 2\)"):
        estimator.compute_advantage(torch.zeros(4, 2), rewards, torch.ones(3, 2))
    with pytest.raises(ValueError, match="got 4 rewards, 5 group ids"):
        estimator.compute_advantage(torch.zeros(5, 2), rewards, torch.ones(4, 2))


def test_install_fails_clearly(grpo, monkeypatch):
    with pytest.raises(TypeError, match="has no option 'target'"):
        install("tea", target=3)
    del grpo.GRPOAdvantageEstimator
    with pytest.raises(ImportError, match="no longer builds its estimator from GRPOAdvantageEstimator"):
        install()
    monkeypatch.setitem(sys.modules, "nemo_rl", None)
    monkeypatch.delitem(sys.modules, "nemo_rl.algorithms.grpo")
    monkeypatch.delitem(sys.modules, "nemo_rl.algorithms")
    with pytest.raises(ImportError, match="this needs NeMo-RL, which cannot be imported"):
        install()
