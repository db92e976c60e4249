"""The arguments of `tea train`: a YAML file, flags that override it, and help that can be read."""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn, cast

import yaml
from transformers import TrainingArguments
from trl import DatasetMixtureConfig, GRPOConfig, ModelConfig, ScriptArguments, TrlParser

from tea.trainers.config import TEAConfig
from tea.trainers.errors import UserError, told_to_user


@dataclass
class TrainArguments(ScriptArguments):
    """What to train on and against. See docs/data.md for the kinds of data.

    Args:
        dataset_name: Hub id; a JSONL, JSON, Parquet or CSV file; a directory of such files or one written by
            `Dataset.save_to_disk`; `reasoning_gym:TASK` or a mixture `reasoning_gym:TASK+TASK`, with its scorer.
        dataset_data_dir: Subdirectory of the dataset, such as hh-rlhf's helpful-base.
        prompt_column: Column that holds the prompts: strings or conversations. None: found by name and content.
        chat_prompts: Turn string prompts into a conversation with one user message.
        system_prompt: System message of those conversations; implies `chat_prompts`.
        deduplicate: "prompt" keeps one row of every prompt, "row" drops only rows that are the same in every column,
            "none" keeps all. Streamed data is never deduplicated.
        max_prompt_length: Prompts of more tokens are left out (with the chat template, as they are trained on).
        held_out: Prompts that are set aside by `seed` before training, as a number (1 or more) or a share. They are
            written to `output_dir`/held_out.jsonl. Best-of-N is measured on the first `eval_best_of_n_prompts` of them
            before training and at every checkpoint, and the run ends with the best of these models, unless
            `eval_best_of_n_steps` (0: never) or `eval_strategy` say otherwise.
        held_out_overlap: What to do when a prompt of the held-out data is in the training data too: "fail" or
            "drop" it from training.
        reward_model_name_or_path: Sequence-classification model that scores prompt and completion.
        reward_model_dtype: dtype of its weights; "auto" is the checkpoint's own.
        reward_funcs: Further rewards: a verifier's name, "package.module:function", "file.py:function", a server such
            as "vllm:URL"; see docs/rewards.md.
        dry_run: Check everything, print sizes, memory, rollouts and steps, and stop before training.
    """

    dataset_data_dir: str | None = field(
        default=None, metadata={"help": "Subdirectory of the dataset, such as hh-rlhf's helpful-base."}
    )
    prompt_column: str | None = field(
        default=None,
        metadata={
            "help": "Column of prompts, text or conversations. Default: found by name and content (prompt, messages, "
            "question, instruction, chosen)."
        },
    )
    chat_prompts: bool = field(
        default=False, metadata={"help": "Turn text prompts into a conversation with one user message."}
    )
    system_prompt: str | None = field(
        default=None, metadata={"help": "System message of those conversations; implies chat_prompts."}
    )
    deduplicate: str = field(
        default="prompt",
        metadata={"help": "Keep one row of every prompt, of every row, or all.", "choices": ["prompt", "row", "none"]},
    )
    max_prompt_length: int | None = field(
        default=None, metadata={"help": "Leave out prompts of more tokens, chat template included."}
    )
    held_out: float | None = field(
        default=None,
        metadata={"help": "Prompts set aside by the seed, never trained on: a number (1 or more) or a share."},
    )
    held_out_overlap: str = field(
        default="fail",
        metadata={
            "help": "When a held-out prompt is in the training data too: fail, or drop it from training.",
            "choices": ["fail", "drop"],
        },
    )
    reward_model_name_or_path: str | None = field(
        default=None, metadata={"help": "Sequence-classification model (path or hub id) that scores completions."}
    )
    reward_model_dtype: str = field(
        default="auto",
        metadata={
            "help": "dtype of the reward model's weights; auto is the checkpoint's own.",
            "choices": ["auto", "bfloat16", "float16", "float32"],
        },
    )
    reward_funcs: list[str] | None = field(
        default=None,
        metadata={
            "help": "Further rewards: a verifier (math_verify, exact_match, last_number, python_tests, ...), a server "
            "(vllm:URL, sglang:URL, openrlhf:URL, https://...), judge:URL, reasoning_gym:TASK, package.module:function "
            "or file.py:function; docs/rewards.md has all. TRL's own: trl.rewards:accuracy_reward."
        },
    )
    dry_run: bool = field(
        default=False,
        metadata={"help": "Check everything, print sizes, memory, rollouts and steps, and stop before training."},
    )

    def __post_init__(self) -> None:
        if self.held_out is not None and not (0 < self.held_out < 1 or self.held_out == int(self.held_out) >= 1):
            raise ValueError(f"held_out must be a share below 1 or a whole number of prompts, got {self.held_out:g}")
        if self.max_prompt_length is not None and self.max_prompt_length < 1:
            raise ValueError(f"max_prompt_length must be at least 1, got {self.max_prompt_length}")


# What most runs set, for the short help; every other flag is in `--help-all`.
_COMMON = (
    "model_name_or_path", "dtype", "use_peft", "lora_r", "lora_alpha", "load_in_4bit",
    "output_dir", "num_generations", "per_device_train_batch_size", "gradient_accumulation_steps",
    "max_completion_length", "temperature", "learning_rate", "max_steps", "num_train_epochs", "beta", "num_iterations",
    "use_vllm", "vllm_mode", "bf16", "gradient_checkpointing", "logging_steps", "save_steps", "save_total_limit",
    "eval_strategy", "eval_steps", "resume_from_checkpoint", "report_to", "seed",
)  # fmt: skip


def _own(derived: type, base: type) -> set[str]:
    return {f.name for f in fields(derived)} - {f.name for f in fields(base)}


class _TrainParser(TrlParser):
    """TRL's parser with short help, one message for a mistake, and YAML values checked like flags."""

    def error(self, message: str) -> NoReturn:  # instead of 250 flags and SystemExit
        raise UserError(message)

    def set_defaults_with_config(self, **values: Any) -> list[str]:
        by_name = {action.dest: action for action in reversed(self._actions)}
        for name, value in values.items():
            action = by_name.get(name)
            if action is None or value is None:
                continue
            if isinstance(value, list) and action.nargs == "+":
                values[name] = [self._checked(action, item) for item in value]
            elif action.nargs == "+":
                values[name] = [self._checked(action, value)]  # one value where a list is due: a list of one
            else:
                values[name] = self._checked(action, value)
        return cast(list[str], super().set_defaults_with_config(**values))

    def _checked(self, action: argparse.Action, value: Any) -> Any:
        """The value of a YAML file as the flag would have it: 1e-5 is a float though YAML says it is a string."""
        if isinstance(value, (list, dict)):
            if getattr(action.type, "__name__", "") in ("int", "float", "string_to_bool"):
                raise UserError(f"{action.dest} takes one value, got {value!r} in the YAML file")
            return value
        if isinstance(value, str) and action.type is str:
            return value
        if value is True or value is False or isinstance(value, str) or action.type in (int, float):
            return self._get_value(action, str(value))
        converted = self._get_value(action, str(value))
        return converted if type(converted) is not str or action.choices else value

    def _get_value(self, action: argparse.Action, string: str) -> Any:
        try:
            value = super()._get_value(action, string)
        except argparse.ArgumentError as error:
            kind = getattr(action.type, "__name__", "value").replace("string_to_bool", "true or false")
            raise UserError(f"{action.dest} must be {kind}, got {string!r}") from error
        if action.choices is not None and value not in action.choices:
            raise UserError(f"{action.dest} must be one of {', '.join(map(str, action.choices))}, got {string!r}")
        return value

    def grouped_help(self, everything: bool) -> str:
        """The project's own flags first, then the ones that most runs set, then (if `everything`) TRL's."""
        groups: dict[str, set[str]] = {
            "data and rewards": {f.name for f in fields(TrainArguments)} - {"ignore_bias_buffers"},
            "best of N": _own(TEAConfig, GRPOConfig),
            "what most runs set": set(_COMMON),
        }
        if everything:
            groups |= {
                "model (TRL's ModelConfig)": {f.name for f in fields(ModelConfig)},
                "GRPO (TRL's GRPOConfig)": _own(GRPOConfig, TrainingArguments),
                "mixtures of datasets (TRL's DatasetMixtureConfig)": {f.name for f in fields(DatasetMixtureConfig)},
                "training (transformers' TrainingArguments)": {f.name for f in fields(TrainingArguments)},
            }
        formatter = argparse.ArgumentDefaultsHelpFormatter(prog=self.prog, max_help_position=32, width=110)
        formatter.add_text(
            "Train for best-of-N from a YAML file. Every key of the file is a flag and every flag a key; flags win."
        )
        formatter.add_usage(f"{self.prog} --config FILE [--flag value ...]", [], [], prefix="usage: ")
        shown: set[str] = {"help"}
        for title, names in groups.items():
            # `--no_flag` of a boolean is left out: `--flag false` says the same. So are the spellings with hyphens.
            actions = [
                a for a in self._actions if a.dest in names - shown and not a.option_strings[0].startswith("--no_")
            ]
            shown |= names
            formatter.start_section(title)
            for action in actions:
                formatter.add_argument(_one_spelling(action))
            formatter.end_section()
        hidden = len({a.dest for a in self._actions} - shown)
        if hidden:
            formatter.add_text(f"{hidden} more flags, of TRL and transformers: {self.prog} --help-all")
        return formatter.format_help()


def _one_spelling(action: argparse.Action) -> argparse.Action:
    return argparse.Action(
        option_strings=action.option_strings[:1],
        dest=action.dest,
        nargs=action.nargs,
        default=action.default if action.default not in (None, argparse.SUPPRESS) else argparse.SUPPRESS,
        choices=action.choices,
        help=action.help,
        metavar=None if action.choices else action.dest.split("_")[-1].upper(),
    )


def make_parser(prog: str | None = None) -> _TrainParser:
    """The parser of :func:`parse`: ``--config file.yaml`` and flags that override it."""
    return _TrainParser((TrainArguments, TEAConfig, ModelConfig, DatasetMixtureConfig), prog=prog)


def parse(args: Sequence[str] | None = None, prog: str | None = None) -> tuple[Any, ...]:
    """Parse the command line and the file behind ``--config``.

    Returns:
        `TrainArguments`, `TEAConfig`, TRL's `ModelConfig` and `DatasetMixtureConfig`.

    Raises:
        UserError: On a file that cannot be read, a key or flag that does not exist (with the nearest ones that do),
            and a value that cannot be.
    """
    words = list(sys.argv[1:] if args is None else args)
    parser = make_parser(prog)
    if {"-h", "--help", "--help-all", "--help_all"} & set(words):
        print(parser.grouped_help(everything=bool({"--help-all", "--help_all"} & set(words))))
        raise SystemExit(0)
    # `--config=FILE` and `--config FILE` are the same, which TRL's parser does not know.
    words = [part for word in words for part in (word.split("=", 1) if word.startswith("--config=") else [word])]
    known = {name.lstrip("-").replace("-", "_") for action in parser._actions for name in action.option_strings}
    # First, and not by building the dataclasses: what they find wrong may follow from the word that is not known.
    flags = [word[2:].split("=")[0].replace("-", "_") for word in words if word.startswith("--")]
    unknown = [key for key in [*_read_config(words), *flags] if key not in known | {"config", "env"}]
    if unknown:
        near = {word: difflib.get_close_matches(word, sorted(known), n=1) for word in unknown}
        hints = ", ".join(f"{word} -> {match[0]}" for word, match in near.items() if match)
        hint = f"Did you mean: {hints}? " if hints else ""
        raise UserError(f"there is no option {', '.join(unknown)}. {hint}`tea train --help-all` lists all.")
    # A ValueError or TypeError here is a check of a value: the dataclasses do nothing else.
    with told_to_user(ValueError, TypeError, OSError):
        return cast("tuple[Any, ...]", parser.parse_args_and_config(words))


def _read_config(words: list[str]) -> dict[str, Any]:
    if words.count("--config") > 1:
        raise UserError("--config is given twice; one file can be read")
    if "--config" not in words:
        return {}
    position = words.index("--config") + 1
    if position == len(words) or words[position].startswith("--"):
        raise UserError("--config needs a YAML file after it, such as --config configs/tea_ultrafeedback.yaml")
    path = Path(words[position])
    if not path.is_file():
        beside = sorted(p.name for p in path.parent.glob("*.yaml")) if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, beside, n=3) or beside[:3]
        there = f"; {path.parent} has {', '.join(near)}" if near else ""
        raise UserError(f"the config file {str(path)!r} does not exist{there}")
    try:
        config = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"the config file {str(path)!r} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(config, dict):
        raise UserError(f"the config file {str(path)!r} must hold `key: value` lines, got {type(config).__name__}")
    return config
