import dataclasses
import json

import numpy as np
import pytest

from tea.demo.cache import stage_keys
from tea.demo.report import verdict
from tea.demo.run import DemoConfig, fingerprint, main, plan

SMALL = DemoConfig(
    hidden_size=16,
    pretrain_examples=200,
    pretrain_steps=3,
    pretrain_batch_size=16,
    reward_pairs=200,
    reward_steps=3,
    reward_batch_size=16,
    steps=2,
    prompts_per_step=2,
    num_generations=4,
    target_n=8,
    held_out_prompts=6,
    num_samples=16,
    ns=(1, 4, 8, 16),
)
KINDS = ("pretrain", "reward_model", "train", "evaluate")


def keys(config, methods=("grpo", "tea")):
    return stage_keys(plan(config, methods), 1, dict.fromkeys(KINDS, 0))


@pytest.mark.parametrize(
    ("changes", "stale"),
    [
        ({}, set()),
        ({"ns": (1, 8)}, set()),
        ({"num_samples": 32}, {"samples_base", "samples_grpo", "samples_tea"}),
        ({"target_n": 16}, {"tea", "samples_tea"}),
        ({"learning_rate": 0.5}, {"grpo", "tea", "samples_grpo", "samples_tea"}),
        ({"reward_steps": 4}, {"reward_model", "grpo", "tea", "samples_base", "samples_grpo", "samples_tea"}),
        ({"pretrain_steps": 4}, {"base", "grpo", "tea", "samples_base", "samples_grpo", "samples_tea"}),
        ({"hidden_size": 32}, {"base", "reward_model", "grpo", "tea", "samples_base", "samples_grpo", "samples_tea"}),
    ],
)
def test_a_changed_setting_makes_stale_what_depends_on_it(changes, stale):
    before, after = keys(SMALL), keys(dataclasses.replace(SMALL, **changes))
    assert {name for name in before if before[name] != after[name]} == stale


def test_methods_differ_in_nothing_but_the_estimator():
    settings = {stage.name: stage.settings for stage in plan(DemoConfig(), ("grpo", "tea", "prefix_tea", "ladder"))}
    common = {k: v for k, v in settings["grpo"].items() if k != "method"}
    for method in ("tea", "prefix_tea", "ladder"):
        assert settings[method] == {**common, "method": method, "target_n": 128}
    assert common["batch_size"] % common["num_generations"] == 0
    assert common["num_generations"] == 16


def test_stages_come_after_what_they_need():
    stages = plan(DemoConfig(), ("grpo", "tea"))
    for i, stage in enumerate(stages):
        assert set(stage.needs.values()) <= {earlier.name for earlier in stages[:i]}


def test_fingerprint_is_stable_and_differs_by_kind():
    codes = [fingerprint(kind)["code"] for kind in ("pretrain", "train", "evaluate")]
    assert codes == [fingerprint(kind)["code"] for kind in ("pretrain", "train", "evaluate")]
    assert len(set(codes)) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "seed must not be negative, got -1"),
        ({"methods": ("grpo", "reinforce")}, "methods must be one or more of grpo, tea, prefix_tea, ladder"),
        ({"methods": ()}, "methods must be one or more of"),
        ({"methods": ("tea", "tea")}, "each once; got tea, tea"),
        ({"workers": 0}, "workers must be at least 1, got 0"),
        ({"config": dataclasses.replace(SMALL, ns=(1, 32))}, "ns must be from 1 to num_samples=16"),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_made(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        main(**{"output_dir": tmp_path / "out", "config": SMALL, **arguments})
    assert not (tmp_path / "out").exists()


def test_two_demos_do_not_write_to_one_place(tmp_path):
    from filelock import FileLock

    (tmp_path / "seed1").mkdir()
    with FileLock(tmp_path / "seed1" / ".lock"), pytest.raises(RuntimeError, match="another demo is writing to"):
        main(output_dir=tmp_path, config=SMALL)


def result(**values):
    """Results with the given best-of-8 by policy, each interval 0.2 wide, and differences known to 0.1."""
    policies = {name: {"reward_model": {"ns": [1, 8], "values": [0.0, value]}} for name, value in values.items()}
    comparisons = [
        {
            "policy": name,
            "versus": other,
            "score": "reward_model",
            "n": 8,
            "difference": values[name] - values[other],
            "ci_low": values[name] - values[other] - 0.1,
            "ci_high": values[name] - values[other] + 0.1,
            "separate_intervals": abs(values[name] - values[other]) > 0.4,
        }
        for name in values
        for other in ("grpo", "base")
        if name not in (other, "base")
    ]
    return {"target_n": 8, "policies": policies, "comparisons": comparisons}


def test_verdict_names_the_winner_and_the_margin():
    assert verdict(result(base=1.0, grpo=2.0, tea=3.0)) == (
        "Best of 8 by the reward model: TEA is highest, at 3.00, 1.00 above GRPO's 2.00 (paired 95 % interval "
        "0.90 to 1.10); their own intervals do not overlap."
    )


def test_verdict_is_as_plain_when_tea_loses():
    assert "GRPO is highest, at 3.00, 2.00 above base model's 1.00" in verdict(result(base=1.0, grpo=3.0, tea=2.0))
    text = verdict(result(base=3.2, grpo=3.0, tea=2.0))
    assert "base model is highest, at 3.20, 0.20 above GRPO's 3.00 (paired 95 % interval 0.10 to 0.30)" in text
    assert "their own intervals overlap. TEA minus GRPO is -1.00 (-1.10 to -0.90)." in text


def test_verdict_says_what_tea_is_worth_when_another_wins():
    text = verdict(result(base=1.0, grpo=2.0, tea=2.5, ladder=3.0))
    assert "ladder is highest, at 3.00, 1.00 above GRPO's 2.00 (paired 95 % interval 0.90 to 1.10)" in text
    assert text.endswith(" TEA minus GRPO is +0.50 (0.40 to 0.60).")
    assert "TEA minus" not in verdict(result(base=1.0, grpo=2.0, tea=3.0, ladder=2.5))


@pytest.mark.slow
def test_from_nothing_to_the_table_and_again(tmp_path, capfd):
    first = main(output_dir=tmp_path, methods=("grpo", "tea"), config=SMALL)
    root = tmp_path / "seed1"
    printed = capfd.readouterr().out
    for part in ("base model", "GRPO", "TEA", "held-out prompts", "Best of 8 by the reward model:"):
        assert part in printed

    assert json.loads((root / "results.json").read_text()) == json.loads(json.dumps(first))
    assert {"seed", "commit", "versions", "hardware", "seconds", "config", "stages"} <= set(first)
    assert set(first["policies"]) == {"base", "grpo", "tea"}
    for policy in first["policies"].values():
        for score in ("reward_model", "gold"):
            curve = policy[score]
            assert curve["ns"] == [1, 2, 4, 8, 16]
            intervals = zip(curve["ci_low"], curve["values"], curve["ci_high"], strict=True)
            assert all(low < value < high for low, value, high in intervals)
        assert policy["reward_model"]["values"] == sorted(policy["reward_model"]["values"])
    assert {entry["n"] for entry in first["comparisons"]} == {8}
    assert first["stages"]["tea"]["metrics"]["advantage_share_of_step"] > 0
    assert (root / "best_of_n.png").read_bytes().startswith(b"\x89PNG")
    assert not list(root.glob("*/trainer"))

    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    trained = {name: AutoModelForCausalLM.from_pretrained(root / name) for name in ("base", "grpo", "tea")}
    weights = {name: model.lm_head.weight.detach().numpy() for name, model in trained.items()}
    assert not np.allclose(weights["grpo"], weights["base"])
    assert not np.allclose(weights["tea"], weights["grpo"])
    assert AutoModelForSequenceClassification.from_pretrained(root / "reward_model").config.num_labels == 1

    written = {path: path.stat().st_mtime_ns for path in root.glob("*/stage.json")}
    assert len(written) == 7
    again = main(output_dir=tmp_path, methods=("grpo", "tea"), config=SMALL)
    assert {path: path.stat().st_mtime_ns for path in root.glob("*/stage.json")} == written
    assert all(stage["reused"] for stage in again["stages"].values())
    assert again["policies"] == first["policies"]
