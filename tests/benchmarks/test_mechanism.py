"""The mechanism check against enumeration of all completions of a tiny policy."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import tea
from benchmarks.training import mechanism
from benchmarks.training.loop import Advantages
from benchmarks.training.mechanism import (
    BATCH,
    ROUND,
    SIZES,
    Budget,
    N,
    batch_weights,
    batches_of,
    check,
    direction,
    expected_weights,
    publish,
    report,
    weighted_gradients,
    without_nan,
)
from benchmarks.training.methods import METHODS, Method
from benchmarks.training.policy import build_policy, token_log_probs

PROMPTS, VOCABULARY, LENGTH = 4, 6, 2
BUDGET = Budget(prompts=PROMPTS, rollouts=2048, shuffles=2, rounds=1)


def tiny() -> tuple[Any, Any]:
    """Rewards 0 .. 35 in an order of each prompt's own, a fourth of them moved far up; and a random policy."""
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(PROMPTS, VOCABULARY**LENGTH, generator=generator).argsort(1).float()
    values = torch.where(values >= 27, 10 * values, values)
    task = SimpleNamespace(
        tokens=torch.arange(PROMPTS).unsqueeze(1),
        vocab_size=VOCABULARY,
        completion_length=LENGTH,
        values=values,
        reward=lambda index, completions: values[index, completions[:, 0] * VOCABULARY + completions[:, 1]],
    )
    torch.manual_seed(0)
    policy: Any = build_policy(task, width=16, layers=1, heads=2)  # type: ignore[arg-type]
    policy.set_attn_implementation("eager")
    return task, policy.eval()


def flat_gradient(policy: Any, value: Tensor) -> Tensor:
    return torch.cat([gradient.flatten() for gradient in torch.autograd.grad(value, list(policy.parameters()))])


def exact_gradient(task: Any, policy: Any, k: int) -> Tensor:
    """Of the expected best of k, by enumeration: the best is at most r with probability F(r) ** k."""
    completions = torch.cartesian_prod(*[torch.arange(VOCABULARY)] * LENGTH)
    total = torch.zeros(())
    for prompt in range(PROMPTS):
        log_probs, _ = token_log_probs(policy, task.tokens[[prompt] * len(completions)], completions)
        order = task.values[prompt].argsort()
        below = log_probs.sum(1).exp()[order].double().cumsum(0) ** k
        total = total + (below.diff(prepend=torch.zeros(1)) * task.values[prompt][order]).sum()
    return flat_gradient(policy, total)


@pytest.fixture(scope="module")
def found() -> tuple[Any, Any, dict[str, Any]]:
    task, policy = tiny()
    names = ["max_at_m", "bon_max_second", "max_at_n/2_memory", "grpo"]
    return task, policy, check(task, policy, names, BUDGET, seed=1)


def test_gradients_in_chunks_are_those_of_autograd_on_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    _, policy = tiny()
    generator = torch.Generator().manual_seed(1)
    sequences = torch.randint(VOCABULARY, (50, 1 + LENGTH), generator=generator)
    sequences[20:30] = sequences[:10]
    weights = torch.randn(3, 50, generator=generator)
    weights[1, :32] = 0.0
    monkeypatch.setattr(mechanism, "CHUNK", 16)
    gradients = weighted_gradients(policy, sequences, LENGTH, weights)
    log_probs, _ = token_log_probs(policy, sequences[:, :-LENGTH], sequences[:, -LENGTH:])
    for row, gradient in zip(weights, gradients, strict=True):
        log_probs, _ = token_log_probs(policy, sequences[:, :-LENGTH], sequences[:, -LENGTH:])
        whole = flat_gradient(policy, (row * log_probs.sum(1)).sum())
        torch.testing.assert_close(gradient, whole, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("prompts", [4, 16, 64])
@pytest.mark.parametrize("m", SIZES)
def test_batches_use_every_rollout_once_in_groups_of_one_prompt(m: int, prompts: int) -> None:
    positions = batches_of(prompts, m)
    assert positions.shape == (prompts * ROUND // BATCH, BATCH // m, m)
    assert positions.flatten().sort().values.tolist() == list(range(prompts * ROUND))
    prompt = positions // ROUND
    assert (prompt == prompt[:, :, :1]).all()
    for batch in prompt[:, :, 0]:
        assert len(batch.unique()) == min(prompts, BATCH // m)


def test_weights_of_batches_are_advantages_over_their_size() -> None:
    rewards = torch.randn(4, ROUND, generator=torch.Generator().manual_seed(0))
    weights = batch_weights(METHODS["grpo"].advantages(ROUND, N), rewards, ROUND)
    expected = METHODS["grpo"].advantages(ROUND, N)(rewards, torch.arange(4)) / BATCH
    torch.testing.assert_close(weights, expected.view(1, -1))


def test_expected_weights_of_one_group_are_its_advantages_in_any_order() -> None:
    generator = torch.Generator().manual_seed(0)
    rewards = torch.randn(4, 64, generator=generator)
    orders = [torch.rand(4, 64, generator=generator).argsort(1) for _ in range(2)]
    expected = tea.ladder_advantages(rewards, N) / rewards.numel()
    torch.testing.assert_close(expected_weights("ladder", 64, rewards, orders), expected)


def test_a_group_remembers_rollouts_of_its_prompt_but_not_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    m, rewards = 4, torch.arange(2 * 256.0).view(2, 256)
    calls: list[tuple[Tensor, Tensor]] = []

    def note(rewards: Tensor, index: Tensor) -> Tensor:
        calls.append((rewards, index))
        return rewards

    class Noted(Method):
        def advantages(self, num_generations: int, target_n: int) -> Advantages:
            return note

    monkeypatch.setitem(METHODS, "noted", Noted("noted", "grpo", memory=lambda m, n: n - m))
    weights = expected_weights("noted", m, rewards, [torch.rand(2, 256).argsort(1)])
    torch.testing.assert_close(weights, rewards / rewards.numel())
    (history, of), *batches = calls
    assert history.shape == (128, N)
    assert all(groups.shape == (BATCH // m, m) for groups, _ in batches)
    groups, index = (torch.cat(parts) for parts in zip(*batches, strict=True))
    assert of.tolist() == list(range(128)) == sorted(index.tolist())
    history = history[index]
    for remembered, group in zip(history, groups, strict=True):
        assert len({*remembered.tolist(), *group.tolist()}) == N + m
        assert len({*(remembered // 256).tolist(), *(group // 256).tolist()}) == 1


def test_direction_takes_the_noise_out() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = torch.zeros(2, 40_000)
    first[0] = 1.0
    second[:2] = torch.tensor([0.6, 0.8])
    noise = [[0.01 * torch.randn(40_000, generator=generator) for _ in range(2)] for _ in range(2)]
    halves, reference = (
        torch.stack([vector + part for part in parts]) for vector, parts in zip((first, second), noise, strict=True)
    )
    # Noise of norm 2 to a signal of norm 1.
    assert torch.cosine_similarity(halves[0], reference[1], dim=0).item() < 0.3
    assert direction(halves, reference) == pytest.approx(0.6, abs=0.05)
    assert math.isnan(direction(torch.stack((first, -first)), reference))


def test_directions_are_those_of_the_exact_gradients(found: tuple[Any, Any, dict[str, Any]]) -> None:
    task, policy, result = found
    best = exact_gradient(task, policy, N)
    for m in SIZES:
        exact = torch.cosine_similarity(exact_gradient(task, policy, m), best, dim=0).item()
        measured = result["cosines"]["max_at_m"][str(m)]["plain"]["direction"]
        assert measured == pytest.approx(exact, abs=0.05), m
        # With a memory, best of 64 from m rollouts without bias.
        measured = result["cosines"]["max_at_n/2_memory"][str(m)]["plain"]["direction"]
        exact = torch.cosine_similarity(exact_gradient(task, policy, max(m, N // 2)), best, dim=0).item()
        assert measured == pytest.approx(exact, abs=0.05), m


def test_the_reference_is_good(found: tuple[Any, Any, dict[str, Any]]) -> None:
    for reference in found[2]["reference"].values():
        assert reference["split_half"] > 0.95
        assert reference["ceiling"] == pytest.approx(math.sqrt(reference["split_half"]))


def test_a_batch_sees_less_than_the_expected_gradient_and_grpo_has_another_direction(
    found: tuple[Any, Any, dict[str, Any]],
) -> None:
    cosines = found[2]["cosines"]
    for m in map(str, SIZES):
        assert cosines["max_at_m"][m]["plain"]["batch"] < cosines["max_at_m"][m]["plain"]["direction"] + 0.02
        assert cosines["grpo"][m]["plain"]["direction"] < 0.9
        for quantity in ("direction", "batch"):  # the same estimator twice
            once, again = (cosines[name][m]["plain"][quantity] for name in ("max_at_m", "bon_max_second"))
            assert once == pytest.approx(again, abs=1e-3)


def test_report_and_readme(found: tuple[Any, Any, dict[str, Any]], tmp_path: Any) -> None:
    rows = [without_nan({"task": "survey", "seed": seed, **found[2]}) for seed in (1, 2)]
    environment = {"commit": "c", "python": "3", "versions": {}, "processor": "p", "machine": "m"}
    text = report({"rows": rows, "budget": {}, "environment": environment})
    assert "| grpo | " in text
    assert "nan" not in text
    readme = tmp_path / "README.md"
    assert not publish(readme, text)
    readme.write_text("# Training\n", encoding="utf-8")
    for _ in range(2):
        assert publish(readme, text)
        content = readme.read_text(encoding="utf-8")
        assert content.startswith("# Training\n")
        assert content.count("<!-- mechanism -->") == content.count("<!-- /mechanism -->") == content.count(text) == 1


@pytest.mark.parametrize(
    "bad", [{"prompts": 6}, {"prompts": 2}, {"rollouts": 300}, {"rollouts": 256}, {"rounds": 0}, {"shuffles": 0}]
)
def test_a_bad_budget_is_an_error(bad: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must be"):
        Budget(**bad)
