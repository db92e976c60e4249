"""The scale of the advantages: from the run, kept across checkpoints, and none where TRL's own is asked for."""

import math

import pytest
import torch

import tea
from tea.estimators.scale import RunningScale
from tea.trainers import AdvantageTrainer, TEAConfig, TEATrainer


def by_hand(batches, decay):
    """The largest average so far, with plain numbers: after each batch."""
    total = weight = peak = 0.0
    scales = []
    for batch in batches:
        values = [x for x in batch if not math.isnan(x)]
        if values:
            total = decay * total + (1 - decay) * sum(x * x for x in values) / len(values)
            weight = decay * weight + (1 - decay)
            peak = max(peak, total / weight)
        scales.append(math.sqrt(peak) or 1.0)
    return scales


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_scale_against_plain_numbers(decay):
    nan = math.nan
    batches = [[0.0, 0.0, nan], [nan] * 3, [3.0, -1.0, nan], [0.1, -0.1, 0.0], [5.0, 2.0, -7.0], [1e-6, 0.0, -1e-6]]
    scale, got = RunningScale(decay), []
    for batch in batches:
        rewards = torch.tensor(batch)
        scale.update(rewards.nan_to_num(), ~rewards.isnan())
        got.append(scale.scale(rewards.device).item())
    assert got == pytest.approx(by_hand(batches, decay), rel=1e-5)
    assert got == sorted(got, key=lambda x: (x != 1.0, x))  # it never shrinks


def test_state_goes_on():
    batches = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)).double()
    whole, half = RunningScale(), RunningScale()
    for batch in batches:
        whole.update(batch, torch.ones(4, dtype=torch.bool))
    for batch in batches[:3]:
        half.update(batch, torch.ones(4, dtype=torch.bool))
    resumed = RunningScale()
    resumed.load_state_dict(half.state_dict())
    for batch in batches[3:]:
        resumed.update(batch, torch.ones(4, dtype=torch.bool))
    assert torch.equal(resumed.scale(batches.device), whole.scale(batches.device))


def test_decay_out_of_range():
    with pytest.raises(ValueError, match=r"decay must be in \[0, 1\), got 1"):
        RunningScale(1)


def record(trainer):
    """What the estimator got and what was trained on, batch by batch."""
    seen = []
    estimate, generate = trainer._advantages_of, trainer._generate_and_score_completions

    def advantages_of(rewards, *args):
        seen.append([rewards.clone(), None])
        return estimate(rewards, *args)

    def generated(inputs):
        output = generate(inputs)
        seen[-1][1] = output["advantages"].clone()
        return output

    trainer._advantages_of, trainer._generate_and_score_completions = advantages_of, generated
    trainer.train()
    return seen


def test_default_scale_comes_from_the_run(build):
    """A solved batch stays small: it is divided by what the batches before it had."""
    shrink = iter([1.0, 1e-4, 1.0])

    def reward(completions, **kwargs):
        size = next(shrink)
        return [size * text.count("o") / 4 + size * len(text) / 40 for text in completions]

    seen = record(build(TEATrainer, reward_funcs=reward, target_n=32))
    raw = [tea.tea_advantages(rewards, 32) for rewards, _ in seen]
    scales = by_hand([a.flatten().tolist() for a in raw], 0.9)
    for (_, trained), advantages, scale in zip(seen, raw, scales, strict=True):
        torch.testing.assert_close(trained, advantages.flatten() / scale)
    sizes = [trained.pow(2).mean().sqrt().item() for _, trained in seen]
    assert sizes[0] == pytest.approx(1, abs=1e-5)
    assert sizes[1] < 1e-3


@pytest.mark.parametrize("value", ["batch", True, "True"])
def test_scale_of_each_batch(build, value):
    seen = record(build(TEATrainer, target_n=32, normalize_advantages=value))
    for rewards, trained in seen:
        expected = tea.normalize_advantages(tea.tea_advantages(rewards, 32)).flatten()
        torch.testing.assert_close(trained, expected)


@pytest.mark.parametrize(("name", "scale"), [("pass_at_n", "none"), ("grpo", "group"), ("rloo", "group")])
def test_default_division_of_groups(name, scale):
    """By their standard deviation for what aims at the mean, as in TRL; by nothing for what aims at the best."""
    spec = tea.estimators.get_estimator_spec(name)
    assert TEAConfig(advantage_estimator=name, report_to="none", bf16=False).estimator_options(spec)["scale"] == scale
    explicit = TEAConfig(advantage_estimator=name, scale_rewards="batch", report_to="none", bf16=False)
    assert explicit.estimator_options(spec)["scale"] == "batch"


def test_no_scale(build):
    seen = record(build(TEATrainer, target_n=32, normalize_advantages=False))
    for rewards, trained in seen:
        torch.testing.assert_close(trained, tea.tea_advantages(rewards, 32).flatten())


def test_scale_is_kept_in_the_checkpoint(build, tmp_path):
    options = {"target_n": 32, "output_dir": str(tmp_path), "save_strategy": "steps", "save_steps": 2, "max_steps": 4}
    whole = build(TEATrainer, **options)
    whole.train()
    resumed = build(TEATrainer, **options)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert resumed._scale.state_dict() == whole._scale.state_dict()
    assert whole._scale.state_dict()["peak"] > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normalize_advantages": "sometimes"}, "normalize_advantages must be running, batch or none, got 'sometimes'"),
        ({"scale_rewards": "groups"}, "scale_rewards must be auto, group, batch or none, got 'groups'"),
    ],
)
def test_unknown_value(options, message):
    with pytest.raises(ValueError, match=message):
        TEAConfig(report_to="none", bf16=False, **options)


def test_callables_are_left_alone(build):
    seen = record(build(AdvantageTrainer, trainer_kwargs={"advantage_estimator": lambda r: 3 * (r - r.mean())}))
    for rewards, trained in seen:
        torch.testing.assert_close(trained, (3 * (rewards - rewards.mean())).flatten())


@pytest.mark.parametrize(("estimator", "given", "norm"), [("grpo", None, 1.0), ("tea", None, 1e6), ("tea", 0.5, 0.5)])
def test_clipping_is_no_scale_of_its_own(build, estimator, given, norm):
    trainer = build(AdvantageTrainer, advantage_estimator=estimator, max_grad_norm=given)
    assert trainer.args.max_grad_norm == norm
    trainer.train()
    assert any(row["grad_norm"] > 0 for row in trainer.state.log_history if "grad_norm" in row)
