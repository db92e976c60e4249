"""`off_policy_correction`: exactly unbiased by enumeration, whole groups again after TRL's shuffle, and refusals."""

import itertools
import math

import pytest
import torch
from datasets import Dataset

from tea.trainers import AdvantageTrainer
from tea.trainers.errors import UserError
from tests.reference.tiny import tiny_llama

K = 2
OPTIONS = {"advantage_estimator": "max_at_k", "k": K, "off_policy_correction": True, "normalize_advantages": "none"}


def by_subsets(rewards, ratios, k):
    """max@k of each rollout, without its own ratio, over all subsets of the others."""
    found = []
    for i, reward in enumerate(rewards):
        others = [j for j in range(len(rewards)) if j != i]
        total = 0.0
        for subset in itertools.combinations(others, k - 1):
            best = max(rewards[j] for j in subset)
            total += math.prod(ratios[j] for j in subset) * (max(reward, best) - best)
        found.append(k * total / math.comb(len(others), k - 1))
    return found


@pytest.fixture
def four_tokens(tmp_path, tokenizer):
    """A model with a vocabulary of four; its tokenizer is never asked."""
    model = tiny_llama(tokenizer)
    model.resize_token_embeddings(4)
    model.save_pretrained(tmp_path / "four")
    tokenizer.save_pretrained(tmp_path / "four")
    return str(tmp_path / "four")


@pytest.mark.parametrize("corrected", [True, False])
def test_the_loss_has_the_gradient_of_best_of_k_at_the_current_policy(build, four_tokens, corrected):
    """All groups of three one-token completions from an old policy, each as often as the old policy draws it."""
    m, levels = 3, torch.tensor([0.0, 1.0, 2.5, -0.5])
    trainer = build(
        AdvantageTrainer,
        model=four_tokens,
        dataset=Dataset.from_dict({"prompt": ["the"] * 4**m}),
        **{**OPTIONS, "off_policy_clip": None, "estimator_kwargs": {"center": False}},
        **{"num_generations": m, "per_device_train_batch_size": 3 * 4**m, "max_completion_length": 1},
        **{"num_iterations": 2, "loss_type": "dr_grpo", "epsilon": 1e6},
    )
    model = trainer.model.train()
    groups = torch.tensor(list(itertools.product(range(4), repeat=m)))
    rows = groups.numel()
    prompt = torch.full((rows, 1), 2)
    one = torch.ones(rows, 1, dtype=torch.long)
    with torch.no_grad():
        old = model(prompt[:1]).logits[0, -1].log_softmax(0)
        generator = torch.Generator().manual_seed(0)
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    rewards = levels[groups]
    order = torch.randperm(rows, generator=generator)  # as TRL's shuffle
    batch = {
        "prompt_ids": prompt,
        "prompt_mask": one,
        "completion_ids": groups.view(-1, 1)[order],
        "completion_mask": one,
        "old_per_token_logps": old[groups].view(-1, 1)[order],
        "rollout_index": order,
        "rewards": rewards.flatten()[order],
        "advantages": trainer._advantages_of(rewards).flatten()[order],
    }
    trainer._buffered_inputs = [batch]
    if corrected:
        trainer._correct()
    probability = old.exp()[groups].prod(1, keepdim=True).expand_as(groups).flatten()
    batch["advantages"] = batch["advantages"] * (probability * len(groups))[order]
    trainer.current_gradient_accumulation_steps = 1
    loss = trainer.compute_loss(model, batch)
    found = torch.autograd.grad(-loss, list(model.parameters()), allow_unused=True)

    p = model(prompt[:1]).logits[0, -1].softmax(0)
    tuples = torch.tensor(list(itertools.product(range(4), repeat=K)))
    best_of_k = (p[tuples].prod(1) * levels[tuples].amax(1)).sum()
    truth = torch.autograd.grad(best_of_k, list(model.parameters()), allow_unused=True)
    pairs = [(a, b) for a, b in zip(found, truth, strict=True) if b is not None]
    error = sum((a - b).square().sum() for a, b in pairs).sqrt() / sum(b.square().sum() for _, b in pairs).sqrt()
    assert error < 1e-3 if corrected else error > 0.05


@pytest.mark.parametrize("clip", [1e3, 1.05])
def test_every_step_but_the_first_of_a_generation(build, clip):
    """Groups are put back together, over the micro batches that TRL has split them into."""
    trainer = build(
        AdvantageTrainer,
        **{**OPTIONS, "off_policy_clip": clip, "num_iterations": 2, "steps_per_generation": 2, "max_steps": 8},
        **{"gradient_accumulation_steps": 1, "estimator_kwargs": {"center": False}, "learning_rate": 1e-3},
    )
    correct, steps = trainer._correct, []

    def checked():
        before = [batch["advantages"].clone() for batch in trainer._buffered_inputs]
        correct()
        groups = {}
        for batch in trainer._buffered_inputs:
            with torch.no_grad():
                ids = torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1)
                mask = torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1)
                length = batch["completion_ids"].shape[1]
                logits = trainer.model(ids, attention_mask=mask).logits[:, -length - 1 : -1]
                logps = logits.log_softmax(-1).gather(-1, batch["completion_ids"].unsqueeze(-1)).squeeze(-1)
            moved = ((logps - batch["old_per_token_logps"]) * batch["completion_mask"]).sum(1).exp()
            rows = (batch["rollout_index"], batch["rewards"], moved.clamp(1 / clip, clip), batch["advantages"])
            for index, *row in zip(*(column.tolist() for column in rows), strict=True):
                groups.setdefault(index // 4, []).append(row)
        assert len(groups) == 4
        for group in groups.values():
            rewards, ratios, advantages = zip(*group, strict=True)
            assert list(advantages) == pytest.approx(by_subsets(rewards, ratios, K), rel=1e-3, abs=1e-5)
        changed = any(
            not torch.equal(a, b["advantages"]) for a, b in zip(before, trainer._buffered_inputs, strict=True)
        )
        assert changed or clip == 1.05  # where all are clipped before and after
        steps.append(trainer.state.global_step)

    trainer._correct = checked
    trainer.train()
    assert steps == [1, 2, 3, 5, 6, 7]  # four steps per generation
    logged = [entry for entry in trainer.state.log_history if "tea/off_policy_clipped" in entry]
    assert len(logged) == len(steps)
    assert all(0 < entry["tea/off_policy_effective_share"] <= 1 for entry in logged)
    assert any(entry["tea/off_policy_clipped"] > 0 for entry in logged) == (clip == 1.05)


def test_where_nothing_has_moved_nothing_changes(build):
    ends = []
    for correction in (True, False):
        trainer = build(AdvantageTrainer, **{**OPTIONS, "off_policy_correction": correction})
        trainer.train()
        ends.append([parameter.detach().clone() for parameter in trainer.model.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*ends, strict=True))


def test_says_what_it_cannot_do(build):
    with pytest.raises(
        UserError, match="off_policy_correction is known for advantage_estimator='max_at_k' only, got tea"
    ):
        build(AdvantageTrainer, advantage_estimator="tea", off_policy_correction=True)
    with pytest.raises(UserError, match="off_policy_correction cannot be had with reward_memory"):
        build(AdvantageTrainer, **OPTIONS, reward_memory=4)
    with pytest.raises(UserError, match="off_policy_correction needs scale_rewards 'auto' or 'none'"):
        build(AdvantageTrainer, **OPTIONS, scale_rewards="group")
    with pytest.raises(ValueError, match="off_policy_clip must be at least 1"):
        build(AdvantageTrainer, **OPTIONS, off_policy_clip=0.5)


@pytest.mark.parametrize(("clip", "old"), [(None, -1e4), (2.0, math.nan)])
def test_ratios_that_are_not_finite(build, clip, old):
    trainer = build(AdvantageTrainer, **{**OPTIONS, "off_policy_clip": clip, "num_iterations": 2})
    correct = trainer._correct

    def broken():
        trainer._buffered_inputs[0]["old_per_token_logps"].fill_(old)
        correct()

    trainer._correct = broken
    with pytest.raises(UserError, match="an importance ratio is not finite, after 1 steps"):
        trainer.train()
