"""A prompt run once for its group: TRL's log-probabilities, entropies and gradients, and the exact samples."""

import pytest
import torch

from tea.trainers import AdvantageTrainer
from tea.trainers.errors import UserError
from tea.trainers.shared_prompts import pack


def rows(seed=0):
    """Eight rows of three prompts of unequal length, shuffled; completions of unequal length."""
    generator = torch.Generator().manual_seed(seed)
    prompts = [[5, 6, 7, 8], [9, 4], [11, 12, 13]]
    owner = torch.tensor([0, 2, 0, 1, 0, 2, 1, 0])
    prompt_ids, prompt_mask = torch.ones(8, 4, dtype=torch.long), torch.zeros(8, 4, dtype=torch.long)
    for row, p in enumerate(owner.tolist()):
        prompt_ids[row, 4 - len(prompts[p]) :] = torch.tensor(prompts[p])
        prompt_mask[row, 4 - len(prompts[p]) :] = 1
    completion_ids = torch.randint(3, 200, (8, 5), generator=generator)
    lengths = torch.tensor([5, 1, 3, 2, 5, 4, 0, 2])  # 0: a truncated one that is masked
    completion_mask = (torch.arange(5) < lengths[:, None]).long()
    return prompt_ids, prompt_mask, completion_ids, completion_mask


@pytest.mark.parametrize("model_name", ["llama", "qwen3"])
@pytest.mark.parametrize("batch_size", [None, 3])
def test_log_probabilities_and_gradients_are_trls(build, tokenizer, tmp_path, model_name, batch_size):
    from tests.reference.tiny import tiny_llama, tiny_qwen3

    folder = str(tmp_path / "model")
    (tiny_llama if model_name == "llama" else tiny_qwen3)(tokenizer).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    trainer = build(AdvantageTrainer, model=folder, share_prompts=True, temperature=0.7)
    prompt_ids, prompt_mask, completion_ids, completion_mask = rows()
    ids, mask = torch.cat([prompt_ids, completion_ids], 1), torch.cat([prompt_mask, completion_mask], 1)
    weights = torch.randn(8, 5, generator=torch.Generator().manual_seed(1)) * completion_mask
    results = {}
    for shared in (True, False):
        trainer._share_prompts = shared
        trainer.model.zero_grad()
        logps, entropies, _ = trainer._get_per_token_logps_and_entropies(
            trainer.model, ids, mask, 5, batch_size=batch_size, compute_entropy=True
        )
        (logps * weights).sum().backward()
        gradients = [p.grad.clone() for p in trainer.model.parameters()]
        results[shared] = [logps.detach() * completion_mask, entropies.detach() * completion_mask, *gradients]
    assert results[True][0].abs().sum() > 10
    for a, b in zip(results[True], results[False], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_fewer_tokens_are_run():
    packed = pack(*rows())
    assert packed.input_ids.shape == (3, 4 + 4 * 6)  # three prompts, up to four completions of five and a copy


def test_trains_like_rows_of_their_own(build):
    """With advantages that depend on the rollouts: the same rollouts, and weights equal to the order of summation."""
    ends = []
    for shared in (True, False):
        trainer = build(AdvantageTrainer, share_prompts=True, max_steps=2, beta=0.1, learning_rate=1e-3)
        original = trainer._get_per_token_logps_and_entropies

        def logps(*args, shared=shared, trainer=trainer, original=original, **kwargs):
            trainer._share_prompts = shared
            try:
                return original(*args, **kwargs)
            finally:
                trainer._share_prompts = True

        trainer._get_per_token_logps_and_entropies = logps
        trainer.train()
        ends.append([p.detach().clone() for p in trainer.model.parameters()])
    for a, b in zip(*ends, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_the_prompt_is_sampled_from_once(build):
    trainer = build(AdvantageTrainer, share_prompts=True, max_steps=1)
    seen = []
    trainer.model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    trainer.train()
    assert seen[0][0] == 2  # prompts, of eight rollouts
    assert trainer.state.log_history[0]["grad_norm"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model_init_kwargs": {"attn_implementation": "eager"}}, "share_prompts: it needs attn_implementation sdpa"),
        ({"generation_kwargs": {"num_beams": 2}}, "share_prompts: the generation settings num_beams are not known"),
    ],
)
def test_says_why_not(build, options, message):
    with pytest.raises(UserError, match=message):
        build(AdvantageTrainer, share_prompts=True, **options)
