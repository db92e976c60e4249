"""Every config of ours, found by glob, trains for two steps on the twins of its model, reward model and data."""

import shutil
from pathlib import Path

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from tea.trainers import arguments
from tea.trainers.estimate import evaluations
from tea.trainers.merge import merge_adapter
from tea.trainers.script import main, parse
from tests.twins import DATASETS, SHORT_RUN, make_twin

ROOT = Path(__file__).parent.parent.parent
CONFIGS = sorted(p for p in (ROOT / "configs").rglob("*.yaml") if p.parent.name != "accelerate")
ACCELERATE = sorted((ROOT / "configs" / "accelerate").glob("*.yaml"))


def name_of(path):
    return str(path.relative_to(ROOT))


@pytest.fixture(scope="session")
def twins(tmp_path_factory):
    return tmp_path_factory.mktemp("twins")


def on_twins(path, twins, output_dir, **changes):
    """The arguments of a config with twins in place of what it names, and sizes for a CPU."""
    config = yaml.safe_load(path.read_text())
    options = {
        "model_name_or_path": make_twin(config["model_name_or_path"], twins),
        "output_dir": str(output_dir),
        **SHORT_RUN,
        "per_device_train_batch_size": 2 * config["num_generations"],
        # vLLM is no dependency, and bitsandbytes has a test of its own; what is left of these configs is run.
        "use_vllm": "false",
        "load_in_4bit": "false",
        **changes,
    }
    if config["dataset_name"] in DATASETS:
        options["dataset_name"] = make_twin(config["dataset_name"], twins)
    else:
        options["dataset_name"] = config["dataset_name"].replace("size=5000", "size=40")
    if "reward_model_name_or_path" in config:
        options["reward_model_name_or_path"] = make_twin(config["reward_model_name_or_path"], twins)
    return ["--config", str(path), *(word for key, value in options.items() for word in (f"--{key}", str(value)))]


def test_there_are_configs_of_every_kind():
    found = [yaml.safe_load(path.read_text()) for path in CONFIGS]
    paper = [c for path, c in zip(CONFIGS, found, strict=True) if path.parent.name == "paper"]
    assert len(paper) == 2 * 3 * 2 * 2  # estimators, policies, reward models, datasets
    assert any(c.get("reward_memory") for c in found)
    assert any(c["dataset_name"].startswith("reasoning_gym:") for c in found)
    assert any(c.get("vllm_mode") == "server" for c in found)
    assert any(c.get("load_in_4bit") for c in found)


@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_trains_saves_reloads_and_evaluates(path, twins, tmp_path):
    if "reasoning_gym" in path.name:
        pytest.importorskip("reasoning_gym")
    if "gsm8k" in path.name:
        pytest.importorskip("math_verify")
    trainer = main(*parse(on_twins(path, twins, tmp_path / "run")))
    assert trainer.state.global_step == 2
    assert trainer.advantage_estimator.spec.name == yaml.safe_load(path.read_text())["advantage_estimator"]
    # As often as a dry run would have said.
    assert (len(trainer.best_of_n.history), 2 * 3) == evaluations(trainer.args, 2, 4)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "run", dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "run")
    prompt = trainer.train_dataset[0]["prompt"]
    if isinstance(prompt, list):
        inputs = tokenizer.apply_chat_template(
            prompt, add_generation_prompt=True, return_tensors="pt", return_dict=True, **trainer.chat_template_kwargs
        )
    else:
        inputs = tokenizer(prompt, return_tensors="pt")
    with torch.no_grad():
        reloaded = model(**inputs).logits
        trained = trainer.model.eval().float()(**inputs).logits
    torch.testing.assert_close(reloaded, trained, rtol=1e-4, atol=1e-4)
    trainer.args.per_device_eval_batch_size = trainer.num_generations
    metrics = trainer.evaluate(trainer.train_dataset.select([0]))
    assert -1e3 < metrics["eval_reward"] < 1e3


def test_qlora_trains_on_a_4_bit_base_and_resumes(twins, tmp_path):
    pytest.importorskip("bitsandbytes")
    path = ROOT / "configs" / "tea_ultrafeedback_qlora.yaml"
    options = {"load_in_4bit": "true", "save_steps": 1}
    whole = main(*parse(on_twins(path, twins, tmp_path / "whole", **options)))
    assert any(type(module).__name__ == "Linear4bit" for module in whole.model.modules())
    run = tmp_path / "run"
    (run).mkdir()
    shutil.copytree(tmp_path / "whole" / "checkpoint-1", run / "checkpoint-1")
    resumed = main(*parse(on_twins(path, twins, run, **options, resume_from_checkpoint="auto")))
    assert resumed.state.global_step == 2
    # TRL trains these adapters in bfloat16, transformers reads them as float32: near, not the same, docs/train.md says.
    for (name, a), b in zip(whole.model.named_parameters(), resumed.model.parameters(), strict=True):
        if "lora" in name:
            torch.testing.assert_close(a, b, rtol=0.01, atol=1e-4, check_dtype=False)
    # The adapter on the base in full precision is near the one on its rounding, and merges.
    merged = AutoModelForCausalLM.from_pretrained(merge_adapter(str(run)), dtype=torch.float32)
    base = AutoModelForCausalLM.from_pretrained(make_twin("Qwen/Qwen3-0.6B", twins), dtype=torch.float32)
    changed = [n for n, p in merged.named_parameters() if not torch.equal(p, base.get_parameter(n))]
    assert changed
    assert all("proj" in name for name in changed)


@pytest.mark.parametrize("path", [*CONFIGS, *ACCELERATE], ids=name_of)
def test_first_line_is_the_command(path):
    first = path.read_text().splitlines()[0]
    assert first.startswith("# ")
    command = first[2:].split()
    named = [Path(word) for word in command if word.endswith((".yaml", ".py"))]
    assert path.relative_to(ROOT) in named
    assert all((ROOT / file).is_file() for file in named), first
    assert "accelerate launch" in first


@pytest.mark.parametrize("path", [p for p in CONFIGS if p.name.startswith("grpo_")], ids=name_of)
def test_baselines_differ_in_the_estimator_and_the_kl_term_alone(path):
    others = [p for p in CONFIGS if p.parent == path.parent and p.name.split("_", 1)[0] in ("tea", "pass")]
    suffix = path.name.removeprefix("grpo_")
    (twin,) = [p for p in others if p.name.removeprefix("tea_").removeprefix("pass_at_n_") == suffix]
    a, b = (yaml.safe_load(p.read_text()) for p in (path, twin))
    differ = {key for key in a.keys() | b.keys() if a.get(key) != b.get(key)}
    assert differ - {"beta"} == {"advantage_estimator", "output_dir"}
    assert "beta" not in a
    assert a["advantage_estimator"] == "grpo"


@pytest.mark.parametrize("path", [p for p in CONFIGS if p.name.startswith("tea_")], ids=name_of)
@pytest.mark.parametrize(("m", "n"), [(16, 128), (16, 512), (32, 256), (64, 512)])
def test_the_grid_of_the_paper_is_two_flags(path, m, n):
    # The launcher says how many processes there are.
    args = parse(["--config", str(path), "--num_generations", str(m), "--target_n", str(n), "--use_cpu", "--bf16", "0"])
    assert args[1].generation_batch_size % m == 0


@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_trained_weights_are_not_16_bit_but_for_adapters(path):
    config = yaml.safe_load(path.read_text())
    assert config.get("use_peft") or config.get("dtype", "float32") == "float32"
    assert config["bf16"] is True
    assert config.get("use_peft") is None or config["lora_dropout"] == 0.0


@pytest.mark.parametrize("path", ACCELERATE, ids=name_of)
def test_accelerate_reads_its_configs(path):
    config = load_config_from_file(str(path))
    content = yaml.safe_load(path.read_text())
    assert config.distributed_type.value == content["distributed_type"]
    assert config.num_processes == content["num_processes"]
    if path.stem == "fsdp2":
        assert config.fsdp_config["fsdp_version"] == 2
    if path.stem == "zero3":
        assert config.deepspeed_config["zero_stage"] == 3


def test_every_key_is_known():
    known = {action.dest for action in arguments.make_parser()._actions}
    for path in CONFIGS:
        assert not set(yaml.safe_load(path.read_text())) - known, path
