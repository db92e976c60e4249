"""Runs the commands of README and docs, in a folder where the names that they give are small twins.

What is run is what is printed, plus sizes for a CPU. `tea` runs in this process. What takes too long for a test, or
installs something, is checked for what it names, see ``CHECKED``; what can be neither is marked in the page, with the
reason: ``<!-- skip: next "needs a GPU" -->``.
"""

import importlib.util
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from typer.testing import CliRunner

from tests.install.lowest import ROOT, requirements
from tests.twins import DATASETS, MODELS, SHORT_RUN

TRAIN = {**SHORT_RUN, "per_device_train_batch_size": 32}
SIZES = {
    "train": [word for name, value in TRAIN.items() for word in (f"--{name}", str(value))],
    "eval": ["-n", "16", "--max-completion-length", "6", "--device", "cpu"],
}


def write_folder(folder):
    """The files that README and docs speak of."""
    for name, write in {**MODELS, **DATASETS}.items():
        if name in (ROOT / "README.md").read_text() + pages_and_configs():
            write(folder / name)
    shutil.copytree(ROOT / "configs", folder / "configs")
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    MODELS["Skywork/Skywork-Reward-V2-Qwen3-0.6B"](folder / "org" / "reward-model")
    MODELS["Qwen/Qwen3-0.6B"](folder / "outputs" / "tea")
    write_demo(folder / "outputs" / "demo" / "seed1")
    (run,) = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "quickstart.md").read_text(), re.DOTALL)
    (folder / "run.yaml").write_text(run)
    questions = [f"How long should pot {i} steep?" for i in range(8)]
    rows = [{"prompt": [{"role": "user", "content": q}], "answer": str(i)} for i, q in enumerate(questions)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    rng = np.random.default_rng(0)
    table = [{"prompt": f"pot {i}", "reward": float(rng.normal(i % 5))} for i in range(32) for _ in range(64)]
    (folder / "rewards.jsonl").write_text("".join(json.dumps(row) + "\n" for row in table))
    completions = folder / "outputs" / "grpo" / "completions"
    completions.mkdir(parents=True)
    for step in range(1, 31):
        rows = [
            {
                "step": step,
                "prompt": f"pot {step * 4 + i}",
                "completion": "3 minutes",
                "length": float(rng.normal(step)),
            }
            for i in range(4)
            for _ in range(16)
        ]
        rows = [{**row, "advantage": 0.0} for row in rows]
        pq.write_table(pa.Table.from_pylist(rows), completions / f"completions_{step:05d}.parquet")
    fixtures = ROOT / "tests" / "rollouts" / "importers" / "fixtures"
    shutil.copy(
        fixtures / "lm_eval/guesser/samples_sums_2026-01-01T00-00-00.000000.jsonl",
        folder / "samples_gsm8k_2026-01-01.jsonl",
    )
    evaluation = [
        {"example_id": i, "prompt": f"pot {i}", "completion": "3", "answer": "3", "reward": float(rng.normal(i % 5))}
        for i in range(32)
        for _ in range(64)
    ]
    target = folder / "outputs" / "evals" / "math--qwen" / "1a2b"
    target.mkdir(parents=True)
    (target / "results.jsonl").write_text("".join(json.dumps(row) + "\n" for row in evaluation))


def write_demo(folder):
    """Models and prompts as `tea demo` leaves them, untrained; and the quickstart's run.yaml."""
    from transformers import LlamaForCausalLM, LlamaForSequenceClassification

    from tea.demo.run import write_prompts
    from tea.demo.stages import _model_config, build_tokenizer

    tokenizer = build_tokenizer()
    sizes = {"hidden_size": 16, "num_layers": 2, "num_heads": 4}
    for name, kind, options in (
        ("base", LlamaForCausalLM, {}),
        ("reward_model", LlamaForSequenceClassification, {"num_labels": 1}),
    ):
        kind(_model_config(sizes, tokenizer, **options)).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    write_prompts(folder, 64)


def pages_and_configs():
    """What may name a model or a dataset."""
    files = [*(ROOT / "docs").rglob("*.md"), *(ROOT / "configs").glob("*.yaml")]
    return "\n".join(path.read_text() for path in files)


def split(block):
    """The commands of a block, each as words: comments, line breaks and chains taken apart."""
    lines = re.sub(r"\\\n", " ", block).splitlines()
    for line in lines:
        words = shlex.split(line, comments=True)
        while "&&" in words:
            at = words.index("&&")
            yield words[:at]
            words = words[at + 1 :]
        if words:
            yield words


def run(words, done):
    """Run or check one command; `done` has those that were run already, with what they printed."""
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):  # an environment variable
        words = words[1:]
    name = words[0].removeprefix(".venv/bin/")
    if name == "accelerate" and "recipes/train.py" in words:
        at = words.index("recipes/train.py")
        check_accelerate(words[2:at])
        words, name = ["tea", "train", *words[at + 1 :]], "tea"
    if name == "python" and words[1:3] == ["-m", "tea"]:
        words, name = ["tea", *words[3:]], "tea"
    key = shlex.join(words)
    if key not in done:
        if name == "tea":
            done[key] = "" if words[1] == "demo" else tea(words[1:])  # tests/demo runs the demo
        else:
            done[key] = CHECKED[name](words)
    return done[key]


def tea(words):
    """Run ``tea`` here, with sizes for a CPU after what is printed; returns what it prints."""
    from tea.cli import app

    extra = [] if "--help" in words else SIZES.get(words[0], [])
    if words[0] == "train" and "--resume_from_checkpoint" not in words:
        output_dir = Path(yaml.safe_load(Path(words[words.index("--config") + 1]).read_text())["output_dir"])
        while output_dir.is_dir() and any(output_dir.iterdir()):  # a page repeats another's command
            output_dir = output_dir.with_name(output_dir.name + "_again")
        extra = [*extra, "--output_dir", str(output_dir)]
    result = CliRunner().invoke(app, [*words, *extra], env={"COLUMNS": "100", "HF_HUB_OFFLINE": "1"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, f"{shlex.join(['tea', *words])} ended with {result.exit_code}:\n{result.output}"
    return result.output


def check_make(words):
    """The target is there."""
    subprocess.run(["make", "--dry-run", *words[1:]], cwd=ROOT, check=True, capture_output=True)


def check_pip(words):
    """The extras that are named are there."""
    assert words[1] == "install", words
    for extras in re.findall(r"(?:tea-rl|\.)\[([\w,]+)\]", " ".join(words)):
        requirements(*extras.split(","))
    for at, word in enumerate(words):
        if word == "-c":
            assert (ROOT / words[at + 1]).is_file(), words


def check_python(words):
    """The module or the file is there."""
    if words[1] == "-m":
        if words[2] == "pytest":
            check_pytest(words[2:])
        elif words[2] != "build":
            assert importlib.util.find_spec(words[2]) is not None, words
    else:
        assert (ROOT / words[1]).is_file(), words


def check_pytest(words):
    """The files are there."""
    for word in words[1:]:
        if "/" in word:
            assert (ROOT / word.split("::")[0]).exists(), words


def check_accelerate(words):
    """The file that `accelerate launch` is given can be read by it."""
    from accelerate.commands.config.config_args import load_config_from_file

    if "--config_file" in words:
        load_config_from_file(str(ROOT / words[words.index("--config_file") + 1]))


CHECKED = {
    "make": check_make,
    "pip": check_pip,
    "python": check_python,
    "pytest": check_pytest,
    "cd": lambda words: None,
}
