import copy
import pickle
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import tea
from tea._extras import UntestedVersionWarning, warn_if_untested
from tea.adapters.core import GroupAdvantages, group_advantages
from tea.adapters.framework import import_framework
from tea.estimators.scale import RunningScale
from tests.adapters.reference import grouped_advantages, shuffled_groups

ESTIMATORS = {
    "tea": {"target_n": 64},
    "prefix_tea": {"target_n": 32, "order": 1},
    "ladder": {},
    "pass_at_n": {"target_n": 16},
    "max_at_k": {"k": 2},
    "grpo": {},
    "rloo": {},
}


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("sizes", [[8] * 5, [4, 8, 5, 8, 6, 12]])
def test_every_estimator_against_a_loop(name, sizes):
    rewards, ids = shuffled_groups(1, sizes)
    if name == "pass_at_n":
        rewards = (rewards > 0).double()
    expected = grouped_advantages(rewards.tolist(), ids, name, **ESTIMATORS[name])
    advantages = group_advantages(name, **ESTIMATORS[name])(rewards, ids)
    torch.testing.assert_close(advantages, torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=1e-12)
    assert advantages.abs().max() > 0.01


@pytest.mark.parametrize("seed", range(4))
def test_missing_rewards(seed):
    rewards, ids = shuffled_groups(seed, [7, 3, 10, 6], missing=0.2)
    advantages = group_advantages("tea", target_n=32)(rewards, ids)
    expected = grouped_advantages(rewards.tolist(), ids, "tea", target_n=32)
    torch.testing.assert_close(advantages, torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=1e-12)
    assert (advantages[rewards.isnan()] == 0).all()


def test_order_of_the_groups_does_not_matter_but_order_within_does():
    rewards, ids = shuffled_groups(0, [8, 8, 8])
    estimator = group_advantages("prefix_tea", target_n=32)
    advantages = estimator(rewards, ids)
    grouped = torch.tensor(sorted(range(24), key=lambda i: ids[i]))  # stable: each group in its own order
    torch.testing.assert_close(estimator(rewards[grouped], [ids[i] for i in grouped]), advantages[grouped])
    backwards = estimator(rewards.flip(0), ids[::-1]).flip(0)
    assert (backwards - advantages).abs().max() > 0.01  # Prefix-TEA depends on the sampling order


@pytest.mark.parametrize("sizes", [[8] * 5, [4, 8, 5, 8, 6, 12]])
def test_normalized_over_the_batch_if_asked_for(sizes):
    rewards, ids = shuffled_groups(1, sizes, missing=0.1)
    advantages = group_advantages("tea", target_n=64, normalize_advantages=True)(rewards, ids)
    expected = grouped_advantages(rewards.tolist(), ids, "tea", normalize=True, target_n=64)
    torch.testing.assert_close(advantages, torch.tensor(expected, dtype=torch.float64), rtol=1e-10, atol=1e-12)
    assert advantages[~rewards.isnan()].square().mean().item() == pytest.approx(1.0)


def test_running_scale():
    """The largest root mean square so far, averaged over calls: a batch without a signal stays small."""
    estimator, plain = (group_advantages("max_at_k", k=4, normalize_advantages=n) for n in ("running", "none"))
    scale = RunningScale()
    for seed, size in enumerate((1.0, 3.0, 1e-4)):
        rewards, ids = shuffled_groups(seed, [8, 5, 8])
        expected = plain(size * rewards, ids)
        scale.update(expected, torch.ones(21, dtype=torch.bool))
        expected /= scale.scale(expected.device)
        torch.testing.assert_close(estimator(size * rewards, ids), expected)
    assert expected.abs().max() < 1e-3


def test_defaults():
    rewards = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    ids = [i for i in range(4) for _ in range(8)]
    expected = tea.tea_advantages(rewards, 128, scale="none")
    assert torch.equal(group_advantages()(rewards.flatten(), ids).view(4, 8), expected)
    # A batch that is nearly saturated has nearly no advantages: nothing scales them up again.
    saturated = torch.where(torch.arange(8) < 7, 1.0, 0.0).expand(4, 8)
    ours = group_advantages("pass_at_n")(saturated.flatten(), ids)
    assert 0 < ours.abs().max() < 1e-6
    grpo = group_advantages("grpo")(rewards.flatten(), ids).view(4, 8)
    assert torch.equal(grpo, tea.grpo_advantages(rewards))
    projected = group_advantages("tea", target_n=64, monotone=True)
    expected = tea.tea_advantages(rewards, 64, monotone=True)
    torch.testing.assert_close(projected(rewards.flatten(), ids).view(4, 8), expected)
    ladder = group_advantages("ladder", scale="none")
    torch.testing.assert_close(
        ladder(rewards.flatten(), ids).view(4, 8), tea.ladder_advantages(rewards, 128, monotone=True)
    )


def test_reward_memory():
    """Two visits of the same prompts, in another order: the second is computed from the rewards of both."""
    estimator = group_advantages("max_at_k", k=10, scale="none", reward_memory=8)
    memory = tea.RewardMemory(8)
    plain = tea.get_estimator("max_at_k", k=10, scale="none", monotone=False)
    for seed in range(3):
        rewards, ids = shuffled_groups(seed, [8, 5, 7])
        advantages = estimator(rewards, [hash((seed, i)) for i in ids], prompts=ids)
        names = sorted(set(ids))
        padded = torch.full((3, 8), torch.nan, dtype=torch.float64)
        places = {}
        for i, name in enumerate(ids):
            row = names.index(name)
            column = sum(1 for j in range(i) if ids[j] == name)
            padded[row, column], places[i] = rewards[i], (row, column)
        expected = tea.advantages_with_memory(plain, padded, memory.recall(names).double(), mask=~padded.isnan())
        memory.update(names, padded)
        expected = torch.stack([expected[places[i]] for i in range(len(ids))])
        torch.testing.assert_close(advantages, expected)
    assert len(estimator.memory) == 3
    with pytest.raises(ValueError, match="reward_memory needs to know each rollout's prompt"):
        estimator(rewards, ids)
    with pytest.raises(ValueError, match="'grpo' has no use for remembered rewards"):
        group_advantages("grpo", reward_memory=8)
    with pytest.raises(ValueError, match="reward_memory must be an integer >= 0"):
        group_advantages("tea", reward_memory=-1)


def test_invalid_rows_influence_nothing():
    rewards, ids = shuffled_groups(3, [8, 8])
    rewards = torch.cat((rewards, torch.full((20,), torch.inf, dtype=torch.float64)))
    valid = torch.arange(36) < 16
    # 20 padding rows in one group: they must not widen the groups, on which explicit prefix sizes depend.
    estimator = group_advantages("prefix_tea", prefix_sizes=[4, 6])
    advantages = estimator(rewards, [*ids, *["padding"] * 20], valid)
    torch.testing.assert_close(advantages[:16], estimator(rewards[:16], ids))
    assert (advantages[16:] == 0).all()
    assert (estimator(rewards, [*ids, *["padding"] * 20], torch.zeros(36, dtype=torch.bool)) == 0).all()


def test_singletons():
    rewards = torch.tensor([1.0, 2.0, 5.0, 3.0])
    with pytest.raises(ValueError, match="1 of 2 groups have a single rollout: ids 'b'"):
        group_advantages("grpo")(rewards, ["a", "a", "b", "a"])
    advantages = group_advantages("grpo", singletons="zero")(rewards, ["a", "a", "b", "a"])
    torch.testing.assert_close(advantages, torch.tensor([-1.0, 0.0, 0.0, 1.0]), rtol=0, atol=2e-4)
    alone = group_advantages("tea", singletons="zero")(rewards, ["a", "b", "c", "d"])
    assert (alone == 0).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.int64, torch.float64])
def test_dtypes(dtype):
    rewards = torch.tensor([0.0, 1.0, 1.0, 3.0, 2.0, 2.0]).to(dtype)
    ids = ["a", "b", "a", "b", "a", "b"]
    advantages = group_advantages("rloo", scale="none")(rewards, ids)
    assert advantages.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert advantages.tolist() == pytest.approx([-1.5, -1.5, 0.0, 1.5, 1.5, 0.0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("ids_on_gpu", [False, True])
def test_on_a_gpu(ids_on_gpu):
    rewards, names = shuffled_groups(5, [8, 5, 8])
    ids = torch.tensor([int(i[-3:]) for i in names])
    valid = torch.arange(21) != 4
    estimator = group_advantages("tea", target_n=64)
    advantages = estimator(rewards.cuda(), ids.cuda() if ids_on_gpu else ids, valid)
    assert advantages.is_cuda
    torch.testing.assert_close(advantages.cpu(), estimator(rewards, names, valid))


def test_bad_input():
    estimator = group_advantages("tea")
    with pytest.raises(ValueError, match="got 3 rewards, 4 group ids"):
        estimator(torch.zeros(3), ["a"] * 4)
    with pytest.raises(ValueError, match=r"2 group ids, validity of shape \(3,\)"):
        estimator(torch.zeros(2), ["a"] * 2, torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"shape \(B,\), one per rollout, got \(2, 2\)"):
        estimator(torch.zeros(2, 2), ["a"] * 2)
    with pytest.raises(ValueError, match="got 2 infinite, the first for rollout 1"):
        estimator(torch.tensor([0.0, torch.inf, -torch.inf]), ["a"] * 3)
    assert estimator(torch.empty(0), []).shape == (0,)
    with pytest.raises(ValueError, match="did you mean 'ladder'"):
        group_advantages("laddr")
    with pytest.raises(TypeError, match="has no option 'target'"):
        group_advantages("tea", target=3)
    with pytest.raises(TypeError, match="needs k"):
        group_advantages("max_at_k")
    with pytest.raises(ValueError, match="normalize_advantages must be running, batch or none, got 'yes'"):
        group_advantages("tea", normalize_advantages="yes")
    with pytest.raises(ValueError, match="singletons must be"):
        group_advantages("tea", singletons="skip")


def test_config():
    base = group_advantages("tea", target_n=64, singletons="zero")
    assert base.configured(None) is base
    assert base.configured({"gamma": 1.0}) is base
    merged = base.configured({"tea": {"tail_fraction": 0.5, "normalize_advantages": True}})
    assert merged == GroupAdvantages("tea", {"target_n": 64, "tail_fraction": 0.5}, "batch", "zero")
    assert base.configured({"tea": {"normalize_advantages": True, "tail_fraction": 0.5}}) is merged  # so is its memory
    # Another estimator starts from its own defaults; attributes serve as well as keys.
    other = base.configured(SimpleNamespace(tea={"estimator": "ladder", "rungs": (2, 8)}))
    assert other == GroupAdvantages("ladder", {"rungs": [2, 8]})
    assert other.estimator.options["target_n"] == 128
    with pytest.raises(TypeError, match="must be a mapping of estimator options, got 'ladder'"):
        base.configured({"tea": "ladder"})
    with pytest.raises(TypeError, match="has no option 'tail_fractoin'"):
        base.configured({"tea": {"tail_fractoin": 0.5}})


def test_travels_between_processes():
    estimator = group_advantages("ladder", target_n=64, rungs=[2, 4])
    rewards, ids = shuffled_groups(0, [8, 8])
    for copied in (pickle.loads(pickle.dumps(estimator)), copy.deepcopy(estimator)):
        assert copied == estimator
        assert torch.equal(copied(rewards, ids), estimator(rewards, ids))


@pytest.mark.parametrize(
    ("installed", "warns"),
    [("0.9.1", False), ("0.9.7", False), ("0.9.0.dev1", True), ("0.10.0", True), ("1.0", True), ("0.7.1", True)],
)
def test_version_outside_the_tested_range(monkeypatch, installed, warns):
    monkeypatch.setattr("importlib.metadata.version", lambda package: installed)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        warn_if_untested("verl", ("0.9.1", "0.9.1"))
    assert [w.category for w in caught] == [UntestedVersionWarning] * warns
    if warns:
        assert f"verl {installed} is installed, tea was tested with 0.9.1" in str(caught[0].message)


def test_no_version_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_if_untested("no-such-distribution", ("1.0", "2.0"))


def test_missing_framework():
    with pytest.raises(ImportError, match=r"this needs nothing, which cannot be imported \(no_such_framework"):
        import_framework("nothing", "no_such_framework.trainer", "no_such_framework.old")


def test_adapters_import_without_their_frameworks():
    root = Path(__file__).parents[2]
    modules = [f"tea.adapters.{p.stem}" for p in (root / "tea" / "adapters").glob("*.py") if p.stem != "verl_plugin"]
    frameworks = ["verl", "nemo_rl", "skyrl", "slime", "rllm", "tinker_cookbook", "tunix", "rlinf", "trinity"]
    frameworks += ["ray", "jax", "trl", "transformers"]
    code = f"import sys, {', '.join(modules)}; print(sorted(set({frameworks}) & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=root, check=True)
    assert result.stdout.strip() == "[]"
