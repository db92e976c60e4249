"""The model card of a run: what was trained, how, by which command, and what it is worth under best-of-N."""

from __future__ import annotations

import platform
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from huggingface_hub import ModelCard, ModelCardData

from tea.estimators import Estimator
from tea.rewards.base import reward_source
from tea.trainers.watch import measured_curves

if TYPE_CHECKING:
    from tea.trainers.trainer import AdvantageTrainer

_MODULES = {"tea-rl": "tea"}
_PACKAGES = ("tea-rl", "trl", "transformers", "torch", "peft", "accelerate", "datasets", "vllm")

# What a reader of a card wants to know of the training arguments, if they are set.
_ARGUMENTS = (
    "learning_rate", "lr_scheduler_type", "max_steps", "num_train_epochs", "generation_batch_size",
    "per_device_train_batch_size", "gradient_accumulation_steps", "num_iterations", "beta", "epsilon", "loss_type",
    "scale_rewards", "temperature", "top_p", "max_completion_length", "reward_memory", "reward_weights", "seed",
)  # fmt: skip


def command_line() -> str:
    """The command of this process, as a user would type it again."""
    name = Path(sys.argv[0]).name if sys.argv else ""
    if name in ("__main__.py", "tea"):
        return shlex.join(["tea", *sys.argv[1:]])
    return shlex.join(["python", *sys.argv]) if name.endswith(".py") else shlex.join([name or "python", *sys.argv[1:]])


def model_card(
    trainer: AdvantageTrainer, model_name: str | None, dataset_name: str | None, tags: set[str]
) -> ModelCard:
    """The card of the trainer's model as it is now."""
    args = trainer.args
    base = str(getattr(trainer.model.config, "_name_or_path", "") or "")
    peft = getattr(trainer.model, "peft_config", None)
    dataset = dataset_name or trainer.data_source
    estimator = trainer.advantage_estimator
    options = dict(estimator.options) if isinstance(estimator, Estimator) else {}
    on_hub = bool(base) and not Path(base).exists() and base.count("/") <= 1
    data = ModelCardData(
        base_model=base if on_hub else None,
        datasets=dataset if dataset and not Path(dataset).exists() and ":" not in dataset else None,
        library_name="peft" if peft else "transformers",
        model_name=model_name,
        tags=sorted({"generated_from_trainer", *tags}),
    )
    rewards = [
        f"`{name}` ({_reward(reward)})"
        for name, reward in zip(trainer.reward_func_names, trainer.reward_funcs, strict=True)
    ]
    n = trainer.target_n
    rows = [
        ("base model", f"`{base}`" + (f", LoRA of rank {next(iter(peft.values())).r}" if peft else "")),
        ("data", f"`{dataset}`" if dataset else "not named"),
        ("reward", ", ".join(rewards)),
        ("advantage estimator", f"`{trainer.estimator_name}`"),
        ("its options", ", ".join(f"{key} = {value}" for key, value in options.items()) or "none"),
        ("m, rollouts per prompt", str(trainer.num_generations)),
        ("N, samples at deployment of which the best is returned", f"{n:g}"),
        ("steps", str(trainer.state.global_step)),
        *((name, str(getattr(args, name))) for name in _ARGUMENTS if getattr(args, name, None) not in (None, -1, 0)),
    ]
    text = [
        f"# {model_name or 'model'}",
        f"Trained with tea (tea-rl) for best-of-{n:g}: sample {n:g} responses, score them "
        "with the reward below and return the best. Alone, one response may be no better than the base model's.",
        "\n".join(["| | |", "|---|---|", *(f"| {name} | {_cell(value)} |" for name, value in rows)]),
        f"## Command\n\n    {command_line()}",
        "## Best of N\n\n" + _curve(trainer.state.log_history),
        "## Versions\n\n" + "\n".join(f"- {name} {found}" for name, found in _versions()),
    ]
    if isinstance(estimator, Estimator):
        text.append(f"## Source of the estimator\n\n{estimator.spec.summary}: {estimator.spec.source}")
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(text) + "\n")


def _cell(value: str) -> str:
    return value.replace("|", "\\|").replace("\n", " ")


def _reward(reward: Any) -> str:
    config = getattr(reward, "config", None)
    if config is not None:
        return f"`{getattr(config, '_name_or_path', '') or type(reward).__name__}`"
    return f"`{reward_source(reward)}`"


def _versions() -> list[tuple[str, str]]:
    installed = [name for name in _PACKAGES if find_spec(_MODULES.get(name, name)) is not None]
    return [("Python", platform.python_version()), *((name, _version(name)) for name in installed)]


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # a checkout on the path, not installed
        return "(from source)"


def _curve(history: list[dict[str, Any]]) -> str:
    curves = measured_curves(history)
    if not curves:
        return "Not measured during training. `tea eval` and `tea compare` measure it on held-out prompts."
    first, last = curves[0], curves[-1]
    ns = [n for n in first[1] if n in last[1]]
    lines = ["| held-out prompts | " + " | ".join(f"N = {n}" for n in ns) + " |", "|---|" + "---|" * len(ns)]
    for step, values in (first, last) if len(curves) > 1 else (first,):
        name = "base model" if step == 0 else f"step {step}"
        lines.append(f"| {name} | " + " | ".join(f"{values[n]:.4g}" for n in ns) + " |")
    return "\n".join(lines)
