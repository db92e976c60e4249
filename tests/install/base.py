"""What `pip install tea-rl` without an extra is good for, tried out.

python -m tests.install.base           in an environment that has the base only (`make test-base`)
python -m tests.install.base --block   anywhere: what does not belong to the base cannot be imported
"""

import contextlib
import importlib
import importlib.metadata
import io
import json
import os
import pkgutil
import random
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

EXTRA = {"transformers", "trl", "peft", "accelerate", "datasets", "tokenizers", "huggingface_hub", "pandas", "vllm"}
COMMANDS = [
    ["curve", "rewards.jsonl"],
    ["curve", "rewards.parquet", "--ns", "1,4", "--json"],
    ["forecast", "rewards.jsonl", "--ns", "32"],
    ["diagnose", "rewards.jsonl"],
    ["plan", "rewards.jsonl", "--cost", "0.01", "--max-n", "64"],
    ["compare", "rewards.jsonl", "other=rewards.parquet", "--output-dir", "report"],
    ["estimators"],
]
NEED_TRL = [
    ["train", "--config", "train.yaml"],
    ["eval", "org/model", "--dataset", "prompts.jsonl", "--output-dir", "run"],
    ["demo"],
]
REQUIRED = {
    "target_n": 64,
    "k": 4,
    "rank_weights": (0.5, 0.3, 0.2),
}  # options without a default


def base_distributions():
    """Names of everything that the base install brings, by the metadata of what is installed here."""
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    from tests.install.lowest import requirements

    found, left = set(), requirements()
    while left:
        requirement = left.pop()
        name = canonicalize_name(requirement.name)
        if name in found or (requirement.marker is not None and not requirement.marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # for another platform or Python
            left += map(Requirement, importlib.metadata.requires(name) or [])
    return found


class Without:
    """A finder of modules that does not see some of them."""

    def __init__(self, finder, foreign):
        self.finder, self.foreign = finder, foreign

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in self.foreign else self.finder.find_spec(name, path, target)


def block_extras():
    """Make the import system see only the standard library and what the base install brings."""
    from packaging.utils import canonicalize_name

    kept = base_distributions() | {"tea-rl", "setuptools"}
    modules = importlib.metadata.packages_distributions()
    foreign = {name for name, owners in modules.items() if not {canonicalize_name(owner) for owner in owners} & kept}
    assert foreign >= EXTRA & set(modules), EXTRA - foreign
    sys.meta_path[:] = [Without(finder, foreign) for finder in sys.meta_path]


def try_estimators():
    import torch

    import tea

    for name in tea.__all__:
        assert getattr(tea, name) is not None
    rewards = torch.rand(6, 8, generator=torch.Generator().manual_seed(0)).round()
    for spec in tea.list_estimators():
        options = {name: value for name, value in REQUIRED.items() if name in spec.parameters}
        advantages = tea.get_estimator(spec.name, **options)(rewards)
        assert advantages.shape == rewards.shape
        assert torch.isfinite(advantages).all(), spec.name


def try_adapters():
    import tea.adapters
    from tea.adapters.core import group_advantages
    from tea.adapters.slime import post_process_rewards

    for module in pkgutil.iter_modules(tea.adapters.__path__):
        if module.name != "verl_plugin":  # which registers itself, in verl
            importlib.import_module(f"tea.adapters.{module.name}")
    rewards = [0.0, 1.0, 2.0, 5.0]
    samples = [SimpleNamespace(reward=r, group_index=0, index=i) for i, r in enumerate(rewards)]
    _, advantages = post_process_rewards(SimpleNamespace(advantage_estimator="grpo", n_samples_per_prompt=4), samples)
    assert advantages[0] < advantages[3]
    import torch

    assert group_advantages("ladder", target_n=64)(torch.tensor(rewards), [7] * 4).shape == (4,)


def run(arguments):
    """Exit code, stdout and stderr of a command."""
    from tea.cli import app

    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            app(arguments)
        except SystemExit as end:
            return end.code, out.getvalue(), err.getvalue()
    return 0, out.getvalue(), err.getvalue()


def try_commands():
    import pyarrow as pa
    import pyarrow.parquet as pq

    generator = random.Random(0)
    rows = [{"prompt": f"p{i}", "reward": generator.gauss(i, 1)} for i in range(12) for _ in range(16)]
    Path("rewards.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pq.write_table(pa.Table.from_pylist(rows), "rewards.parquet")
    for arguments in COMMANDS:
        code, out, err = run(arguments)
        assert code == 0, (arguments, err)
        assert len(out) > 200, (arguments, out)
    assert Path("report/report.html").stat().st_size > 10_000


def refusal(use):
    try:
        use()
    except ModuleNotFoundError as error:
        return str(error)
    return "nothing was missing"


def try_what_is_missing():
    Path("train.yaml").write_text("dataset_name: prompts.jsonl\n")
    Path("prompts.jsonl").write_text('{"prompt": "one"}\n')
    for arguments in NEED_TRL:
        code, _, err = run(arguments)
        assert code == 2, (arguments, code, err)
        line = err.strip()
        assert "\n" not in line, line
        assert line.startswith("error: "), line
        assert line.endswith("which is not installed: pip install 'tea-rl[trl]'"), line
    import tea.rewards
    import tea.rollouts

    for name, use in {
        "tea.trainers": lambda: importlib.import_module("tea.trainers"),
        "sampling with transformers": lambda: tea.rollouts.TransformersGenerator,
        "loading prompts": lambda: tea.rollouts.load_prompts("prompts.jsonl"),
        "a reward model": lambda: tea.rewards.RewardModel,
    }.items():
        message = refusal(use)
        assert message.startswith(f"{name} needs "), message
        assert message.endswith("pip install 'tea-rl[trl]'"), message


if __name__ == "__main__":
    if "--block" in sys.argv:
        block_extras()
    with tempfile.TemporaryDirectory() as directory:
        os.chdir(directory)
        for step in (try_estimators, try_adapters, try_commands, try_what_is_missing):
            step()
            print(f"{step.__name__}: ok", flush=True)
    present = EXTRA & set(sys.modules)
    assert not present, present
