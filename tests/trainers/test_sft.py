"""The pass@N loss against high precision, TRL's trainer at N = 1, and pairs from an evaluation."""

import json
import math
from fractions import Fraction

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset
from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

from tea.trainers.sft import (
    PassAtNSFTConfig,
    PassAtNSFTTrainer,
    best_and_worst,
    bonbon_options,
    check_completions,
    log_pass_at_n,
)
from tests.reference.tiny import tiny_llama

F64 = torch.float64


def exact(p: Fraction, n: int):
    found = 1 - (1 - p) ** n
    return found, Fraction(n) * p * (1 - p) ** (n - 1) / found


def log(fraction):
    return math.log(fraction.numerator) - math.log(fraction.denominator)


@pytest.mark.parametrize("n", [2, 16, 128])
@pytest.mark.parametrize("p", ["1e-300", "1e-30", "1e-9", "1e-7", "1e-4", "0.01", "0.3", "0.5", "0.9", "0.999999"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (F64, 2e-6)])
def test_value_and_gradient_are_exact(n, p, dtype, tolerance):
    p = Fraction(p)
    s = torch.tensor(log(p), dtype=dtype, requires_grad=True)
    found = log_pass_at_n(s, n)
    (weight,) = torch.autograd.grad(found, s)
    # p as rounded to the dtype.
    rounded = Fraction(math.exp(s.item())) if p > Fraction(1, 10**280) else p
    value, factor = exact(min(rounded, 1 - Fraction(1, 10**9)), n) if p < Fraction(9, 10) else exact(rounded, n)
    assert found.item() == pytest.approx(log(value), rel=tolerance, abs=1e-7)
    assert weight.item() == pytest.approx(float(factor), rel=max(tolerance, 1e-4 if p > 0.5 else tolerance), abs=1e-12)


def test_sequences_of_any_length():
    s = torch.tensor([-5000.0, -100.0, 0.0], requires_grad=True)
    found = log_pass_at_n(s, 128)
    assert found.tolist() == pytest.approx([-5000 + math.log(128), -100 + math.log(128), 0.0], rel=1e-6)
    (weight,) = torch.autograd.grad(found.sum(), s)
    assert weight.tolist() == pytest.approx([1.0, 1.0, 0.0])
    assert torch.equal(log_pass_at_n(s, 1), s)


ROWS = {"prompt": ["the", "fox", "dog", "a"], "completion": [" quick brown", " jumps over the dog", " lazy", " fox"]}


def settings(config, path, **options):
    defaults = {
        "output_dir": str(path),
        "per_device_train_batch_size": 2,
        "max_steps": 3,
        "learning_rate": 1e-2,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
        "bf16": False,
        "use_cpu": True,
        "gradient_checkpointing": False,
        "disable_tqdm": True,
        "seed": 3,
    }
    return config(**{**defaults, **options})


def test_one_sample_is_trls_trainer(tmp_path, model_path):
    data = Dataset.from_dict(ROWS)
    plain = SFTTrainer(model_path, settings(SFTConfig, tmp_path), train_dataset=data)
    ours = PassAtNSFTTrainer(model_path, settings(PassAtNSFTConfig, tmp_path, target_n=1), train_dataset=data)
    for trainer in (plain, ours):
        trainer.train()
    losses = [[row["loss"] for row in t.state.log_history if "loss" in row] for t in (plain, ours)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    for a, b in zip(plain.model.parameters(), ours.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_many_samples_leave_alone_what_they_find_anyway(tmp_path, model_path):
    """Overfitted on one row each: the plain loss goes on to p = 1, pass@N is content with p of a few over N."""
    data = Dataset.from_dict({name: values[:1] * 2 for name, values in ROWS.items()})
    found = {}
    for n in (1, 128):
        trainer = PassAtNSFTTrainer(
            model_path,
            settings(PassAtNSFTConfig, tmp_path, target_n=n, max_steps=60, learning_rate=3e-3),
            train_dataset=data,
        )
        trainer.train()
        found[n] = trainer.state.log_history[-2]["pass_at_n"], trainer
    assert found[128][0] > 0.99
    likelihood = {n: trainer.evaluate(trainer.train_dataset)["eval_loss"] for n, (_, trainer) in found.items()}
    assert likelihood[1] < 0.05
    assert likelihood[128] < 0.01  # of its own loss: nothing left to learn


def test_bad_input(tmp_path, model_path):
    with pytest.raises(ValueError, match="row 1 of the dataset has no completion, got ''"):
        PassAtNSFTTrainer(
            model_path,
            settings(PassAtNSFTConfig, tmp_path),
            train_dataset=Dataset.from_dict({"prompt": ["a", "b"], "completion": ["c", ""]}),
        )
    chat = [[{"role": "assistant", "content": "x"}], [{"role": "assistant", "content": ""}]]
    with pytest.raises(ValueError, match="row 1 of the dataset has no completion"):
        check_completions(Dataset.from_dict({"completion": chat}))
    with pytest.raises(TypeError, match="args must be a PassAtNSFTConfig, which has target_n, got SFTConfig"):
        PassAtNSFTTrainer(model_path, settings(SFTConfig, tmp_path), train_dataset=Dataset.from_dict(ROWS))
    with pytest.raises(ValueError, match="packing and padding_free"):
        settings(PassAtNSFTConfig, tmp_path, packing=True)
    with pytest.raises(ValueError, match="target_n must be a finite number >= 1"):
        settings(PassAtNSFTConfig, tmp_path, target_n=0)


def test_best_and_worst_of_an_evaluation(tmp_path):
    table = pa.table(
        {
            "prompt_id": [0] * 3 + [1] * 3,
            "sample_id": [0, 1, 2] * 2,
            "prompt": ["p"] * 3 + ["q"] * 3,
            "completion": ["x", "y", "z", "u", "v", "w"],
            "num_tokens": [1, 2, 3] * 2,
            "finished": [True] * 6,
            "rewards/r": [0.5, 2.0, -1.0, 1.0, 1.0, 1.0],
        }
    )
    pq.write_table(table, tmp_path / "samples.parquet")
    (tmp_path / "run.json").write_text(json.dumps({"rewards": [{"name": "r"}]}))
    with pytest.warns(UserWarning, match="1 of 2 prompts have no two samples of different reward"):
        pairs = best_and_worst(tmp_path)
    assert pairs.to_list() == [
        {
            **{"prompt": "p", "chosen": "y", "rejected": "z", "chosen_reward": 2.0, "rejected_reward": -1.0},
            **{"chosen_tokens": 2, "rejected_tokens": 3},
        }
    ]
    with pytest.raises(ValueError, match="got 'other'; the evaluation has: r"):
        best_and_worst(tmp_path, "other")
    with pytest.raises(FileNotFoundError, match="not the output directory of an evaluation"):
        best_and_worst(tmp_path / "nothing")


def test_bonbon_is_the_loss_of_the_paper(tmp_path, model_path, tokenizer):
    """TRL's trainer with our options against the formula, on completions of one length."""
    rows = {"prompt": ["the ", "over "], "chosen": ["1234", "5678"], "rejected": ["9876", "1111"]}
    n, alpha, length = 6, 0.2, 5  # four digits and the end of sequence
    reference = tiny_llama(tokenizer, seed=3)
    trainer = DPOTrainer(
        model_path,
        ref_model=reference,
        args=settings(DPOConfig, tmp_path, **bonbon_options(n, length, alpha)),
        train_dataset=Dataset.from_dict(rows),
        processing_class=tokenizer,
    )
    model = trainer.model.eval()
    batch = next(iter(trainer.get_train_dataloader()))
    loss = trainer.compute_loss(model, batch)
    found = torch.autograd.grad(loss, list(model.parameters()))

    def log_prob(of, prompt, completion):
        prompt = tokenizer(prompt)["input_ids"]
        completion = [*tokenizer(completion)["input_ids"], tokenizer.eos_token_id]
        assert len(completion) == length
        logits = of(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
        return logits.log_softmax(-1).gather(1, torch.tensor(completion)[:, None]).sum()

    total = 0.0
    for prompt, chosen, rejected in zip(*rows.values(), strict=True):
        best, worst = log_prob(model, prompt, chosen), log_prob(model, prompt, rejected)
        with torch.no_grad():
            base = log_prob(reference, prompt, chosen) - log_prob(reference, prompt, rejected)
        target = (n - 1) * (1 + 1 / 2 + 1 / 3 + 1 / 4 + 1 / 5)
        total += -alpha * best + (1 - alpha) * (best - worst - base - target) ** 2
    expected = torch.autograd.grad(total / 2, list(model.parameters()))
    assert loss.item() == pytest.approx(total.item() / 2, rel=1e-4)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_the_difference_that_bonbon_asks_for():
    """What best of n of the reference has on average: its log density at the best minus that at the worst."""
    n = 5
    ranks = torch.rand(200_000, n, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    difference = (n - 1) * (ranks.amax(1).log() - ranks.amin(1).log())
    asked = 1 / (2 * bonbon_options(n, 1)["beta"])
    assert asked == pytest.approx(difference.mean().item(), abs=4 * difference.std().item() / 200_000**0.5)
    for bad, message in [((1, 5), "n must be"), ((4, 0), "tokens must be"), ((4, 5, 1.5), "alpha must be")]:
        with pytest.raises(ValueError, match=message):
            bonbon_options(*bad)
