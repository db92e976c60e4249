"""The reward memory: what it keeps, and the estimators on the union of current and remembered rewards."""

import math
from collections import deque

import numpy as np
import pytest
import torch
from scipy import stats

import tea
import tea.estimators.memory
from tea.estimators.group import STD_EPSILON
from tests.estimators.test_contract import SPECS, call, draw
from tests.reference import estimators as reference

F64 = torch.float64
NAN = math.nan

REFUSED = {"grpo", "dr_grpo", "rloo", "prefix_tea"}
every_estimator = pytest.mark.parametrize("spec", [spec for spec in SPECS if spec.name not in REFUSED], ids=str)


def gen(seed):
    return torch.Generator().manual_seed(seed)


def max_at(k, **options):
    return tea.get_estimator("max_at_k", k=k, **options)


# --- advantages_with_memory ---


@pytest.mark.parametrize(("m", "remembered", "k"), [(3, 5, 2), (3, 5, 3), (3, 5, 8), (2, 4, 5), (4, 1, 4)])
@pytest.mark.parametrize("center", [True, False])
def test_max_at_k_over_all_subsets_of_the_union(m, remembered, k, center):
    rewards = torch.randn(4, m, generator=gen(k), dtype=F64)
    history = torch.randn(4, remembered, generator=gen(m), dtype=F64)
    history[1] = history[1].round()
    rewards[1] = rewards[1].round()  # ties, within and between
    advantages = tea.advantages_with_memory(max_at(k, center=center), rewards, history)
    for p in range(4):
        expected = reference.max_at_k([*rewards[p].tolist(), *history[p].tolist()], k)[:m]
        expected = reference.centred(expected) if center else expected
        assert advantages[p].tolist() == pytest.approx(expected, rel=1e-11, abs=1e-11)


def test_missing_rewards_on_both_sides():
    """Prompts with 0 .. 5 remembered rewards and 0 .. 4 current ones: k is as large as there are, if need be."""
    rewards = torch.randn(30, 4, generator=gen(0), dtype=F64)
    history = torch.randn(30, 5, generator=gen(1), dtype=F64)
    mask = torch.rand(30, 4, generator=gen(2)) < 0.7
    rewards[torch.rand(30, 4, generator=gen(3)) < 0.2] = NAN
    history[torch.arange(5) >= torch.arange(30).unsqueeze(1) % 6] = NAN
    valid = mask & ~rewards.isnan()
    assert set(valid.sum(1).tolist()) == {0, 1, 2, 3, 4}
    advantages = tea.advantages_with_memory(max_at(6, center=False), rewards, history, mask=mask)
    centred = tea.advantages_with_memory(max_at(6), rewards, history, mask=mask)
    assert (advantages[~valid] == 0).all()
    assert (centred[~valid] == 0).all()
    for p in range(30):
        current = rewards[p][valid[p]].tolist()
        union = current + history[p][~history[p].isnan()].tolist()
        if len(union) < 2 or not current:
            continue
        expected = reference.max_at_k(union, min(6, len(union)))[: len(current)]
        assert advantages[p][valid[p]].tolist() == pytest.approx(expected, rel=1e-11, abs=1e-11)
        assert centred[p][valid[p]].tolist() == pytest.approx(reference.centred(expected), rel=1e-11, abs=1e-11)


@pytest.mark.parametrize(("m", "remembered", "k"), [(4, 28, 32), (4, 28, 16), (8, 4, 12)])
def test_best_of_k_beyond_the_group_is_unbiased(m, remembered, k):
    """Against the quadrature of c_k: the gradient of E[best of k] of N(mu, sigma) is (1, c_k). 4 standard errors."""
    rewards = torch.randn(100_000, m, generator=gen(k), dtype=F64)
    history = torch.randn(100_000, remembered, generator=gen(m), dtype=F64)
    advantages = tea.advantages_with_memory(max_at(k, center=False), rewards, history)
    gradient = torch.stack([(advantages * rewards).mean(1), (advantages * (rewards**2 - 1)).mean(1)], dim=1)
    error = gradient.std(0) / math.sqrt(len(gradient))
    truth = torch.tensor([1.0, reference.expected_max_normal(k)], dtype=F64)
    assert ((gradient.mean(0) - truth).abs() < 4 * error).all()
    assert (error < 0.05 * truth).all()


@pytest.mark.parametrize("p", [0.02, 0.3])
@pytest.mark.parametrize("k", [3, 12, 20])
def test_pass_at_k_beyond_the_group_is_unbiased_exactly(p, k):
    """0/1 rewards, summed over all counts of successes: E[mean A S] is k (1 - p)^(k-1), with S = (R - p) / p(1 - p)."""
    m, remembered = 4, 16
    now, before = np.meshgrid(np.arange(m + 1), np.arange(remembered + 1), indexing="ij")
    weight = torch.tensor(stats.binom.pmf(now, m, p) * stats.binom.pmf(before, remembered, p)).flatten()
    rewards = (torch.arange(m) < torch.tensor(now).reshape(-1, 1)).to(F64)
    history = (torch.arange(remembered) < torch.tensor(before).reshape(-1, 1)).to(F64)
    advantages = tea.advantages_with_memory(max_at(k, center=False), rewards, history)
    score = (rewards - p) / (p * (1 - p))
    gradient = (weight * (advantages * score).mean(1)).sum().item()
    assert gradient == pytest.approx(k * (1 - p) ** (k - 1), rel=1e-9)
    # Nondecreasing in the reward whatever is remembered.
    assert (advantages >= 0).all()
    assert (advantages[rewards == 0] == 0).all()


def test_without_a_memory_k_beyond_the_group_is_the_largest_there_is():
    rewards = torch.randn(5, 4, generator=gen(4))
    history = torch.full((5, 12), NAN)
    expected = tea.max_at_k_advantages(rewards, 4)
    torch.testing.assert_close(tea.advantages_with_memory(max_at(16), rewards, history), expected)


@every_estimator
@pytest.mark.parametrize("remembered", [0, 5, 48])
@pytest.mark.parametrize("readable", [True, False], ids=["cpu", "accelerator"])
def test_nothing_remembered_is_the_estimator_alone_to_the_last_bit(spec, remembered, readable, monkeypatch):
    if not readable:  # nobody looks, and both are computed
        monkeypatch.setattr(tea.estimators.memory, "values_are_readable", lambda tensor: False)
    for dtype in (torch.float32, F64):
        rewards = draw(spec, (6, 16), seed=5, dtype=dtype)
        rewards[2, 3] = NAN
        mask = torch.rand(6, 16, generator=gen(6)) < 0.8
        history = torch.full((6, remembered), NAN)
        for options in ({}, {"scale": "batch", "monotone": True}, {"scale": "group", "center": False}):
            expected = call(spec, rewards, mask, **options)
            advantages = tea.advantages_with_memory(
                lambda union, options=options: call(spec, union, **options), rewards, history, mask=mask
            )
            assert torch.equal(advantages, expected)
            assert advantages.dtype == dtype


@every_estimator
def test_union_sliced_and_centred(spec):
    """The estimator on the concatenated sample, less its mean over the current rollouts, for every estimator."""
    rewards = draw(spec, (6, 8), seed=7)
    history = draw(spec, (6, 24), seed=8)
    history[:, 20:] = NAN
    mask = torch.rand(6, 8, generator=gen(9)) < 0.8
    union = torch.cat((torch.where(mask, rewards, NAN), history), dim=1)
    for options in ({}, {"scale": "batch"}, {"scale": "group", "monotone": True}):
        raw = call(spec, union, **options)[:, :8]
        advantages = tea.advantages_with_memory(
            lambda x, options=options: call(spec, x, **options), rewards, history, mask=mask
        )
        for p in range(6):
            expected = reference.centred(raw[p][mask[p]].tolist())
            assert advantages[p][mask[p]].tolist() == pytest.approx(expected, rel=1e-9, abs=1e-9)
        assert (advantages[~mask] == 0).all()


def test_scale_and_projection_are_those_of_the_union():
    rewards = torch.randn(3, 4, generator=gen(10), dtype=F64)
    history = 5 * torch.randn(3, 12, generator=gen(11), dtype=F64)
    plain = tea.advantages_with_memory(max_at(9), rewards, history)
    union = torch.cat((rewards, history), dim=1)
    by_group = tea.advantages_with_memory(max_at(9, scale="group"), rewards, history)
    torch.testing.assert_close(by_group, plain / (union.std(dim=1, keepdim=True) + STD_EPSILON))
    by_batch = tea.advantages_with_memory(max_at(9, scale="batch"), rewards, history)
    torch.testing.assert_close(by_batch, plain / (union.std() + STD_EPSILON))
    ladder = tea.get_estimator("ladder", target_n=128, rungs=(2, 4), monotone=True)
    advantages = tea.advantages_with_memory(ladder, rewards, history)
    raw = tea.ladder_advantages(union, 128, (2, 4), monotone=False, center=False)
    for p in range(3):
        projected = reference.isotonic(raw[p].tolist(), union[p].tolist())[:4]
        assert advantages[p].tolist() == pytest.approx(reference.centred(projected), rel=1e-9, abs=1e-9)


def test_equal_advantages_are_exactly_zero():
    rewards = torch.full((1, 7), 0.1)
    rewards[0, 3] = 0.2  # nobody beats what is remembered
    advantages = tea.advantages_with_memory(max_at(32, scale="group"), rewards, torch.rand(1, 25) + 1.0)
    assert (advantages == 0).all()


def test_order_of_the_history_does_not_matter():
    rewards, history = torch.randn(4, 8, generator=gen(12)), torch.randn(4, 30, generator=gen(13))
    first = tea.advantages_with_memory(max_at(38), rewards, history)
    torch.testing.assert_close(tea.advantages_with_memory(max_at(38), rewards, history.flip(1)), first)


def test_center_is_taken_from_the_estimator_or_given():
    rewards, history = torch.randn(4, 8, generator=gen(14)), torch.randn(4, 8, generator=gen(15))
    bound, function = max_at(16, center=False), lambda union: tea.max_at_k_advantages(union, 16, center=False)
    uncentred = tea.advantages_with_memory(bound, rewards, history)
    assert uncentred.mean(1).abs().max() > 0.01
    assert torch.equal(tea.advantages_with_memory(function, rewards, history, center=False), uncentred)
    centred = tea.advantages_with_memory(function, rewards, history)
    torch.testing.assert_close(centred, uncentred - uncentred.mean(1, keepdim=True))
    assert torch.equal(tea.advantages_with_memory(bound, rewards, history, center=True), centred)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int64, torch.float32, F64])
def test_dtypes(dtype):
    rewards = torch.randint(0, 9, (4, 8), generator=gen(16)).to(dtype)
    history = torch.randint(0, 9, (4, 8), generator=gen(17)).double()
    advantages = tea.advantages_with_memory(max_at(12), rewards, history)
    assert advantages.dtype == (F64 if dtype == F64 else torch.float32)
    expected = tea.advantages_with_memory(max_at(12), rewards.to(F64), history)
    torch.testing.assert_close(advantages.to(F64), expected, rtol=1e-4, atol=1e-5)


@every_estimator
def test_compiles_to_one_graph(spec):
    torch.compiler.reset()

    def function(rewards, history, mask):
        return tea.advantages_with_memory(lambda x: call(spec, x, monotone=True), rewards, history, mask=mask)

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    rewards, history = draw(spec, (8, 8), seed=18), draw(spec, (8, 16), seed=19)
    mask = torch.rand(8, 8, generator=gen(20)) < 0.8
    for filled in (16, 3, 0):
        history[:, filled:] = NAN
        torch.testing.assert_close(
            compiled(rewards, history, mask), function(rewards, history, mask), rtol=1e-9, atol=1e-9
        )


def test_k_beyond_the_group_compiles_too():
    torch.compiler.reset()
    estimator = max_at(24)
    compiled = torch.compile(lambda r, h: tea.advantages_with_memory(estimator, r, h), fullgraph=True, backend="eager")
    rewards, history = torch.randn(8, 8, generator=gen(21)), torch.randn(8, 16, generator=gen(22))
    for filled in (16, 3, 0):
        history[:, filled:] = NAN
        expected = tea.advantages_with_memory(estimator, rewards, history)
        torch.testing.assert_close(compiled(rewards, history), expected)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_gpu_is_cpu_without_a_sync():
    rewards, history = torch.randn(64, 16, generator=gen(23)), torch.randn(64, 112, generator=gen(24))
    history[:, 50:] = NAN
    for k in (8, 128):
        expected = tea.advantages_with_memory(max_at(k), rewards, history)
        arguments = (max_at(k), rewards.cuda(), history.cuda())
        tea.advantages_with_memory(*arguments)  # uploads the constants
        torch.cuda.set_sync_debug_mode("error")
        try:
            advantages = tea.advantages_with_memory(*arguments)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        torch.testing.assert_close(advantages.cpu(), expected)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_estimators_without_a_use_for_it_are_refused(name):
    options = {"target_n": 16} if name == "prefix_tea" else {}
    estimator = tea.get_estimator(name, **options)
    with pytest.raises(ValueError, match=f"estimator '{name}' has no use for remembered rewards: it "):
        tea.advantages_with_memory(estimator, torch.zeros(2, 8), torch.zeros(2, 8))


@pytest.mark.parametrize(
    ("rewards", "history", "error", "message"),
    [
        (torch.zeros(8), torch.zeros(2, 4), ValueError, r"rewards must have shape \(num_prompts, num_generations\)"),
        (torch.zeros(2, 8), torch.zeros(8), ValueError, r"history must have shape .* num_prompts = 2 .*got \(8,\)"),
        (torch.zeros(2, 8), torch.zeros(3, 4), ValueError, r"history must have shape .* num_prompts = 2 .*\(3, 4\)"),
        (torch.zeros(2, 8), [[1.0]], TypeError, r"history must be a torch.Tensor .*got <class 'list'>"),
        (torch.zeros(2, 8), torch.zeros(2, 4) * 1j, TypeError, r"history must be real, got dtype torch.complex64"),
        (torch.zeros(2, 8), torch.zeros(2, 4, device="meta"), ValueError, r"history must be on the device .*got meta"),
        (
            torch.zeros(2, 8),
            torch.full((2, 4), -math.inf),
            ValueError,
            r"history must be finite .*got -inf at prompt 0",
        ),
        (torch.full((2, 8), math.inf), torch.zeros(2, 4), ValueError, r"rewards must be finite .*rollout 0 \(16 "),
    ],
)
def test_bad_arguments(rewards, history, error, message):
    with pytest.raises(error, match=message):
        tea.advantages_with_memory(max_at(4), rewards, history)


def test_k_beyond_the_union():
    for history in (torch.zeros(2, 4), torch.full((2, 4), NAN)):
        with pytest.raises(ValueError, match=r"k must be at most .* \(12\), got 13"):
            tea.advantages_with_memory(max_at(13), torch.zeros(2, 8), history)


@pytest.mark.parametrize("result", [torch.zeros(2, 8), [1.0]])
def test_bad_estimator(result):
    with pytest.raises(ValueError, match=r"must return a tensor of the shape that it is given, .* = \(2, 12\), got"):
        tea.advantages_with_memory(lambda union: result, torch.zeros(2, 8), torch.zeros(2, 4))


# --- RewardMemory ---


def rows(tensor):
    """Remembered rewards, newest first, as lists without the padding, which is at the end."""
    result = [[x for x in row if not math.isnan(x)] for row in tensor.tolist()]
    for row, kept in zip(tensor.tolist(), result, strict=True):
        assert row[: len(kept)] == kept
    return result


def test_recalls_the_last_rewards_newest_first():
    memory = tea.RewardMemory(5)
    assert len(memory) == 0
    assert memory.recall([]).shape == (0, 5)
    assert memory.recall(["a"]).isnan().all()
    memory.update(["a", 7], torch.tensor([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]]))
    memory.update(["a"], torch.tensor([[4.0, 5.0, 6.0]]))
    history = memory.recall([7, "b", "a", 7])
    assert history.shape == (4, 5)
    assert history.dtype == torch.float32
    assert rows(history) == [[30, 20, 10], [], [6, 5, 4, 3, 2], [30, 20, 10]]
    assert len(memory) == 2


def test_missing_rewards_are_not_stored():
    memory = tea.RewardMemory(4)
    mask = torch.tensor([[True, True, False], [True, True, True], [False, False, False]])
    memory.update(["x", "y", "z"], torch.tensor([[1, NAN, 3], [NAN, NAN, NAN], [1, 2, 3]]), mask)
    assert rows(memory.recall(["x", "y", "z"])) == [[1], [], []]
    assert len(memory) == 1


def test_rows_of_one_key_count_in_order():
    memory = tea.RewardMemory(4)
    memory.update(["a", "b", "a", "a"], torch.tensor([[1, 2], [-1, -2], [3, 4], [5, 6]]))
    assert rows(memory.recall(["a", "b"])) == [[6, 5, 4, 3], [-2, -1]]


def test_against_a_deque_per_prompt():
    generator = np.random.default_rng(0)
    for size in (1, 3, 8, 50):
        memory, expected = tea.RewardMemory(size), {}
        for _ in range(60):
            keys = [f"prompt {i}" for i in generator.integers(0, 25, size=generator.integers(0, 9))]
            rewards = generator.standard_normal((len(keys), generator.integers(1, 6))).astype(np.float32)
            rewards[generator.random(rewards.shape) < 0.2] = np.nan
            asked = [f"prompt {i}" for i in range(27)]
            memory.update(keys, torch.from_numpy(rewards))
            for key, row in zip(keys, rewards, strict=True):
                kept = [float(x) for x in row if not np.isnan(x)]
                if kept:
                    expected.setdefault(key, deque(maxlen=size)).extend(kept)
            assert rows(memory.recall(asked)) == [list(expected.get(key, ()))[::-1] for key in asked]
            assert len(memory) == len(expected)


@pytest.mark.parametrize("dtype", [F64, torch.bfloat16, torch.int64, torch.bool])
def test_any_real_dtype_is_stored_in_float32(dtype):
    memory = tea.RewardMemory(3)
    memory.update(["a"], torch.tensor([[1, 0]]).to(dtype))
    assert rows(memory.recall(["a"])) == [[0, 1]]


def filled(size, visits=7):
    memory = tea.RewardMemory(size)
    for step in range(visits):
        memory.update([f"{i}" for i in range(step, step + 4)] + [step], torch.randn(5, 3, generator=gen(step)))
    return memory


def test_state_survives_a_file(tmp_path):
    memory = filled(8)
    torch.save(memory.state_dict(), tmp_path / "memory.pt")
    loaded = tea.RewardMemory(8)
    loaded.update(["gone"], torch.zeros(1, 1))
    loaded.load_state_dict(torch.load(tmp_path / "memory.pt", weights_only=True))
    keys = [*(f"{i}" for i in range(12)), *range(8), "gone"]
    assert len(loaded) == len(memory)
    torch.testing.assert_close(loaded.recall(keys), memory.recall(keys), rtol=0, atol=0, equal_nan=True)
    for other in (memory, loaded):  # and both go on alike
        other.update(["3", "new", "3"], torch.tensor([[1.0], [2.0], [3.0]]))
    keys.append("new")
    torch.testing.assert_close(loaded.recall(keys), memory.recall(keys), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("size", [5, 20])
def test_state_of_another_size_keeps_the_newest(size):
    memory, other = filled(8), tea.RewardMemory(size)
    other.load_state_dict(memory.state_dict())
    keys = [str(i) for i in range(12)]
    assert rows(other.recall(keys)) == [row[:size] for row in rows(memory.recall(keys))]


def test_state_is_not_a_view():
    memory = filled(8)
    state = memory.state_dict()
    before = state["rewards"].clone()
    memory.update(state["keys"], torch.zeros(len(memory), 8))
    torch.testing.assert_close(state["rewards"], before, rtol=0, atol=0, equal_nan=True)
    empty = tea.RewardMemory(3)
    empty.load_state_dict(tea.RewardMemory(3).state_dict())
    assert len(empty) == 0


def test_trains_from_the_past_as_in_the_readme():
    """Visits add up until k is reached: the best of 16 from 4 rollouts per visit, from the fourth visit on."""
    memory, estimator = tea.RewardMemory(12), max_at(16)
    visits = torch.randn(6, 2, 4, generator=gen(30), dtype=torch.float32)
    for visit, rewards in enumerate(visits):
        advantages = tea.advantages_with_memory(estimator, rewards, memory.recall(["a", "b"]))
        memory.update(["a", "b"], rewards)
        union = torch.cat(list(visits[max(visit - 3, 0) : visit + 1].flip(0)), dim=1)
        raw = tea.max_at_k_advantages(union, min(16, union.shape[1]))[:, :4]
        expected = raw - raw.mean(1, keepdim=True)
        torch.testing.assert_close(advantages, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [0, -1, 2.0, True, "8"])
def test_bad_size(size):
    with pytest.raises(ValueError, match="size must be an integer >= 1, got"):
        tea.RewardMemory(size)


@pytest.mark.parametrize(
    ("keys", "rewards", "mask", "error", "message"),
    [
        (["a"], torch.zeros(2, 3), None, ValueError, r"num_prompts = 1, the number of keys, got \(2, 3\)"),
        (["a"], torch.zeros(3), None, ValueError, r"rewards must have shape .*got \(3,\)"),
        (["a"], [[1.0]], None, TypeError, r"rewards must be a real torch.Tensor .*got <class 'list'>"),
        (["a"], torch.zeros(1, 3), torch.ones(1, 3), ValueError, r"mask must be a bool tensor of shape \(1, 3\), got"),
        (
            ["a"],
            torch.zeros(1, 3),
            torch.ones(3, dtype=torch.bool),
            ValueError,
            r"mask must be .*got torch.bool \(3,\)",
        ),
        (["a"], torch.tensor([[0, math.inf]]), None, ValueError, r"rewards must be finite .* prompt 0, rollout 1"),
        (["a"], torch.tensor([[1e39]], dtype=F64), None, ValueError, r"finite in float32"),
        ([torch.tensor(1)], torch.zeros(1, 3), None, TypeError, r"keys must be strings or integers, got tensor\(1\)"),
        ("a", torch.zeros(1, 3), None, TypeError, r"one string or integer per prompt, got the string 'a'"),
    ],
)
def test_bad_update_stores_nothing(keys, rewards, mask, error, message):
    memory = tea.RewardMemory(4)
    with pytest.raises(error, match=message):
        memory.update(keys, rewards, mask)
    assert len(memory) == 0


def test_bad_state():
    memory = filled(8)
    with pytest.raises(ValueError, match=r"state must have the keys of .*rewards is missing"):
        memory.load_state_dict({"keys": []})
    with pytest.raises(ValueError, match=r"number of keys"):
        memory.load_state_dict({"keys": ["a"], "rewards": torch.zeros(2, 3)})
    assert len(memory) > 5
