"""On a stand-in for verl.trainer.ppo.core_algos with the registry of verl 0.9.1."""

import importlib
import pickle
import sys
import types
import uuid
from pathlib import Path

import numpy as np
import pytest
import torch

from tea.adapters.verl import make_verl_estimator, register
from tests.adapters.reference import grouped_advantages, shuffled_groups


@pytest.fixture
def core_algos(monkeypatch):
    module = types.ModuleType("verl.trainer.ppo.core_algos")
    module.ADV_ESTIMATOR_REGISTRY = {"grpo": print}

    def register_adv_est(name):
        def decorator(fn):
            known = module.ADV_ESTIMATOR_REGISTRY
            if name in known and known[name] != fn:
                raise ValueError(f"Adv estimator {name} has already been registered: {known[name]} vs {fn}")
            known[name] = fn
            return fn

        return decorator

    module.register_adv_est = register_adv_est
    for name in ("verl", "verl.trainer", "verl.trainer.ppo"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return module


def batch(rewards, ids, length=6, seed=0):
    """As verl's reward manager leaves it: the reward on the last token of the response, UUIDs in an object array."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, length + 1, (len(rewards),), generator=generator)
    mask = (torch.arange(length) < lengths[:, None]).long()
    token_level_rewards = torch.zeros(len(rewards), length, dtype=rewards.dtype)
    token_level_rewards[torch.arange(len(rewards)), lengths - 1] = rewards
    uids = {key: str(uuid.UUID(int=i * 7919)) for i, key in enumerate(sorted(set(ids)))}
    return {
        "token_level_rewards": token_level_rewards,
        "response_mask": mask,
        "index": np.array([uids[key] for key in ids], dtype=object),
    }


@pytest.mark.parametrize("sizes", [[8] * 4, [8, 5, 3, 8]])
@pytest.mark.parametrize(("name", "options"), [("tea", {"target_n": 64}), ("max_at_k", {"k": 2}), ("grpo", {})])
def test_contract(core_algos, name, options, sizes):
    rewards, ids = shuffled_groups(0, sizes)
    function = register(name, register_as=f"my_{name}", **options)
    assert core_algos.ADV_ESTIMATOR_REGISTRY[f"my_{name}"] is function
    inputs = batch(rewards, ids)
    given = {key: value.clone() if isinstance(value, torch.Tensor) else value.copy() for key, value in inputs.items()}
    # compute_advantage passes keywords, some of which only other estimators want.
    advantages, returns = function(**inputs, config={"gamma": 1.0}, reward_baselines=torch.zeros(len(ids)))
    expected = torch.tensor(grouped_advantages(rewards.tolist(), ids, name, **options), dtype=torch.float64)
    torch.testing.assert_close(advantages, expected[:, None] * inputs["response_mask"], rtol=1e-10, atol=1e-12)
    assert torch.equal(advantages, returns)
    for key, value in given.items():
        assert (inputs[key] == value).all(), f"{key} was changed"


def test_rloo_is_the_formula_of_verl(core_algos):
    """compute_rloo_vectorized_outcome_advantage: (n r - sum of the group) / (n - 1)."""
    rewards, ids = shuffled_groups(1, [4, 7, 2])
    inputs = batch(rewards, ids)
    advantages, _ = make_verl_estimator("rloo", scale="none")(**inputs)
    group = torch.tensor([[a == b for b in ids] for a in ids], dtype=torch.float64)
    n = group.sum(1)
    expected = (n * rewards - group @ rewards) / (n - 1)
    torch.testing.assert_close(advantages, expected[:, None] * inputs["response_mask"])


def test_padding_rows_of_the_trainer_are_left_out():
    rewards, ids = shuffled_groups(2, [6, 6])
    function = make_verl_estimator("tea", target_n=32)
    inputs = batch(rewards, ids)
    advantages, _ = function(**inputs)
    for rows in (1, 9):  # one alone, or a group larger than the others
        padded = {
            "token_level_rewards": torch.cat((inputs["token_level_rewards"], torch.zeros(rows, 6))),
            "response_mask": torch.cat((inputs["response_mask"], torch.zeros(rows, 6, dtype=torch.int64))),
            "index": np.concatenate((inputs["index"], np.array(["pad0"] * rows, dtype=object))),
        }
        result, _ = function(**padded)
        torch.testing.assert_close(result[:12], advantages)
        assert (result[12:] == 0).all()


def test_a_rollout_without_trained_tokens_still_counts_in_its_group():
    rewards, ids = shuffled_groups(2, [6, 6])
    inputs = batch(rewards, ids)
    inputs["response_mask"][4] = 0
    advantages, _ = make_verl_estimator("tea", target_n=32)(**inputs)
    expected = torch.tensor(grouped_advantages(rewards.tolist(), ids, target_n=32), dtype=torch.float64)
    torch.testing.assert_close(advantages, expected[:, None] * inputs["response_mask"])


def test_options_from_the_config(core_algos):
    rewards, ids = shuffled_groups(3, [8, 8])
    inputs = batch(rewards, ids)
    function = register("tea")
    for section in ({"target_n": 16, "tail_fraction": 0.5}, {"estimator": "ladder", "target_n": 256, "rungs": [2, 8]}):
        advantages, _ = function(**inputs, config={"adv_estimator": "tea", "tea": section})
        options = dict(section)
        expected = grouped_advantages(rewards.tolist(), ids, options.pop("estimator", "tea"), **options)
        expected = torch.tensor(expected, dtype=torch.float64)[:, None] * inputs["response_mask"]
        torch.testing.assert_close(advantages, expected, rtol=1e-10, atol=1e-12)


def test_plugin(core_algos):
    sys.modules.pop("tea.adapters.verl_plugin", None)
    importlib.import_module("tea.adapters.verl_plugin")
    assert core_algos.ADV_ESTIMATOR_REGISTRY["tea"] == make_verl_estimator("tea")


def test_registering_again(core_algos):
    register("tea", target_n=64)
    again = register("tea", target_n=32)  # the plugin has registered "tea" by then: ours gives way to ours
    assert core_algos.ADV_ESTIMATOR_REGISTRY["tea"] is again
    with pytest.raises(ValueError, match="already been registered"):
        register("grpo")


def test_entry_point(core_algos):
    """Loaded by verl in every process, which hides what it raises."""
    pyproject = Path(__file__).parents[2] / "pyproject.toml"
    assert '[project.entry-points."verl.plugins"]\ntea = "tea.adapters.verl_plugin"\n' in pyproject.read_text()
    core_algos.ADV_ESTIMATOR_REGISTRY["tea"] = print  # somebody else's
    sys.modules.pop("tea.adapters.verl_plugin", None)
    with (
        pytest.warns(UserWarning, match="tea could not register its advantage estimator with verl.*already been"),
        pytest.raises(ValueError, match="already been registered"),
    ):
        importlib.import_module("tea.adapters.verl_plugin")


def test_a_memory_is_refused():
    with pytest.raises(ValueError, match=r"reward_memory=8 cannot work here.*a new uid whenever it comes back"):
        make_verl_estimator("tea", reward_memory=8)


def test_pickles():
    function = make_verl_estimator("prefix_tea", target_n=64)
    assert pickle.loads(pickle.dumps(function)) == function


def test_without_verl(monkeypatch):
    monkeypatch.setitem(sys.modules, "verl", None)
    with pytest.raises(ImportError, match="this needs verl, which cannot be imported"):
        register("tea")


def test_bad_input():
    rewards, ids = shuffled_groups(0, [4, 4])
    inputs = batch(rewards, ids)
    function = make_verl_estimator("tea")
    with pytest.raises(ValueError, match="8 of 8 groups have a single rollout"):  # a uid for every rollout
        function(**{**inputs, "index": np.array([str(uuid.uuid4()) for _ in ids], dtype=object)})
    with pytest.raises(ValueError, match="no 'uid'"):
        function(**{**inputs, "index": None})
    with pytest.raises(ValueError, match=r"one shape \(B, T\), got \(8, 6\) and \(8, 5\)"):
        function(**{**inputs, "response_mask": inputs["response_mask"][:, :5]})
    with pytest.raises(ValueError, match="got 8 rollouts, 7 group ids"):
        function(**{**inputs, "index": inputs["index"][:7]})


def test_16_bit_rewards_are_summed_in_float32():
    rewards = torch.full((2, 3000), 1.0, dtype=torch.bfloat16)  # a sum in bfloat16 stops at 256 or so
    rewards[1, 0] = 2.0
    mask = torch.ones(2, 3000)
    advantages, _ = make_verl_estimator("rloo", scale="none")(rewards, mask, ["a", "a"])
    assert advantages[:, 0].tolist() == [-1.0, 1.0]
