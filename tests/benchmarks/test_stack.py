"""Models that run side by side are transformers' models, and their runs those that they have alone."""

import pytest
import torch
from torch import nn

from benchmarks.training import loop
from benchmarks.training.methods import METHODS, PSI_ORACLE
from benchmarks.training.policy import build_policy, sample, token_log_probs
from benchmarks.training.stack import Adam, Stack
from benchmarks.training.task import tasks

TINY = {"width": 16, "layers": 2, "heads": 2}
M, LENGTH = 5, 10


@pytest.fixture
def task():
    return tasks()["survey"](1)


@pytest.fixture
def models(task):
    found = []
    for seed in range(3):
        torch.manual_seed(seed)
        model = build_policy(task, **TINY)
        for name, parameter in model.named_parameters():
            if "norm" in name:
                nn.init.uniform_(parameter, 0.5, 1.5)  # ones would hide where they are
        found.append(model)
    return found


@pytest.mark.parametrize("length", [LENGTH, 1])
def test_samples_log_probs_and_gradients_are_those_of_transformers(task, models, length):
    stack = Stack.of(models)
    stack.flat.requires_grad_()
    index = torch.tensor([[0, 1], [2, 3], [4, 5]])
    generators = [torch.Generator().manual_seed(seed) for seed in range(3)]
    completions = stack.sample(task.tokens[index], M, length, generators)
    weights = torch.randn(3, 2 * M, length, generator=torch.Generator().manual_seed(9))
    log_probs = stack.log_probs(task.tokens[index], completions)
    (log_probs * weights).sum().backward()
    every = stack.all_log_probs(task.tokens[index], completions).detach()
    for i, model in enumerate(models):
        rows = task.tokens[index[i]].repeat_interleave(M, 0)
        expected = sample(model.eval(), task.tokens[index[i]], M, length, torch.Generator().manual_seed(i))
        assert torch.equal(completions[i], expected)
        alone, entropy = token_log_probs(model, rows, expected)
        torch.testing.assert_close(log_probs[i], alone, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(-(every[i].exp() * every[i]).sum(-1), entropy, rtol=1e-4, atol=1e-5)
        (alone * weights[i]).sum().backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(parameter.grad)
    torch.testing.assert_close(stack.flat.grad, Stack.of(models).flat, rtol=1e-3, atol=1e-4)


def test_adam_is_torchs():
    start = torch.randn(2, 7, generator=torch.Generator().manual_seed(0))
    rates, bounds = (1e-2, 3e-2), (1.0, 1e6)
    flat = start.clone().requires_grad_()
    ours = Adam(flat)
    alone = [row.clone().requires_grad_() for row in start]
    theirs = [torch.optim.AdamW([row], lr=rate, weight_decay=0.0) for row, rate in zip(alone, rates, strict=True)]
    for step in range(5):
        (flat**4).sum().backward()
        ours.step(torch.tensor(rates) * (1 - step / 5), torch.tensor(bounds))
        for row, optimizer, rate, bound in zip(alone, theirs, rates, bounds, strict=True):
            (row**4).sum().backward()
            nn.utils.clip_grad_norm_([row], bound)
            optimizer.param_groups[0]["lr"] = rate * (1 - step / 5)
            optimizer.step()
            optimizer.zero_grad()
    torch.testing.assert_close(flat.detach(), torch.stack(alone).detach())


@pytest.mark.parametrize("change", [{}, {"beta": 0.1}, {"num_iterations": 2}])
def test_a_run_is_the_one_that_it_is_alone(task, models, change):
    def members():
        for name, rate in (("max_at_m", 1e-2), ("grpo", 3e-3), (PSI_ORACLE, 1e-2), ("eb_bon", 1e-2)):
            method = METHODS[name]
            settings = loop.Settings(4, 6, 4, rate, max_grad_norm=method.max_grad_norm, **change)
            yield loop.Member(method.advantages(4, 128), settings)

    together = loop.train(task, models[0], [*members()], seed=1)
    start = Stack.of(models[:1]).flat[0]
    for trained, member in zip(together, members(), strict=True):
        alone = loop.train(task, models[0], [member], seed=1)
        assert (alone.flat[0] - start).abs().max() > 1e-3
        torch.testing.assert_close(trained.flat, alone.flat, rtol=1e-3, atol=1e-4)
        found, expected = (loop.evaluate(task, of, 1, num_samples=8)["curve"] for of in (trained, alone))
        assert found == pytest.approx(expected, abs=1e-3)


def test_what_differs_in_shape_is_refused(task, models):
    of = METHODS["grpo"].advantages(4, 128)
    members = [loop.Member(of, loop.Settings(4, 6, updates, 1e-3)) for updates in (3, 4)]
    with pytest.raises(ValueError, match="same settings"):
        loop.train(task, models[0], members, seed=1)
