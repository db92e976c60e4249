"""Training from a YAML file: what ``recipes/train.py`` and ``tea train`` run."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datasets import DatasetDict, IterableDatasetDict, load_dataset, load_from_disk
from trl import DatasetMixtureConfig, ModelConfig, ScriptArguments, TrlParser, get_dataset, get_peft_config
from trl import get_quantization_config as quantization_config_of

from tea.rewards import load_reward
from tea.trainers.checkpoints import holds_a_model, list_checkpoints
from tea.trainers.config import TEAConfig
from tea.trainers.trainer import AdvantageTrainer

_FILE_FORMATS = {".jsonl": "json", ".json": "json", ".parquet": "parquet", ".csv": "csv"}


@dataclass
class TrainArguments(ScriptArguments):
    """What to train on and against.

    Args:
        dataset_name: Hub id; a JSONL, Parquet or CSV file; a directory of such files or one written by
            `Dataset.save_to_disk`.
        reward_model_name_or_path: Sequence-classification model that scores prompt and completion.
        reward_funcs: Further rewards: a verifier's name, "package.module:function", "file.py:function", a URL.
        prompt_column: Column that holds the prompts: strings or conversations.
        chat_prompts: Turn string prompts into a conversation with one user message.
        system_prompt: System message of those conversations; implies `chat_prompts`.
    """

    reward_model_name_or_path: str | None = field(
        default=None, metadata={"help": "Sequence-classification model (path or hub id) that scores completions."}
    )
    reward_funcs: list[str] | None = field(
        default=None,
        metadata={
            "help": "Further rewards: a verifier (exact_match, contains_answer, last_number), package.module:function, "
            "file.py:function or a URL. TRL's own: trl.rewards:accuracy_reward."
        },
    )
    prompt_column: str = field(default="prompt", metadata={"help": "Column of prompts, text or conversations."})
    chat_prompts: bool = field(
        default=False, metadata={"help": "Turn text prompts into a conversation with one user message."}
    )
    system_prompt: str | None = field(
        default=None, metadata={"help": "System message of those conversations; implies chat_prompts."}
    )


def make_parser(prog: str | None = None) -> TrlParser:
    """TRL's parser for the arguments of :func:`main`: ``--config file.yaml`` and flags that override it."""
    return TrlParser((TrainArguments, TEAConfig, ModelConfig, DatasetMixtureConfig), prog=prog)


def parse(args: Sequence[str] | None = None, prog: str | None = None) -> tuple[Any, ...]:
    """Parse the command line and the file behind ``--config``.

    Raises:
        ValueError: On a key or flag that does not exist, with the nearest ones that do.
    """
    parser = make_parser(prog)
    try:
        return parser.parse_args_and_config(args)
    except ValueError as error:
        unknown = re.findall(r"'--(\w+)", str(error))
        known = [action.dest for action in parser._actions]
        hints = [f"{word} -> {near[0]}" for word in unknown if (near := difflib.get_close_matches(word, known, n=1))]
        if not hints:
            raise
        raise ValueError(f"{error} Did you mean: {', '.join(hints)}?") from error


def load_training_data(script_args: TrainArguments, dataset_args: DatasetMixtureConfig) -> Any:
    """The dataset dictionary that the arguments name, with the prompts in column "prompt".

    Raises:
        ValueError: If no dataset or two are named, or a column or a split is not there (with those that are).
    """
    if bool(script_args.dataset_name) == bool(dataset_args.datasets):
        raise ValueError("name the data in exactly one of dataset_name and datasets")
    if dataset_args.datasets:
        data = get_dataset(dataset_args)
    else:
        name = script_args.dataset_name
        options: dict[str, Any] = {"streaming": script_args.dataset_streaming}
        if Path(name).suffix in _FILE_FORMATS and Path(name).is_file():
            data = load_dataset(_FILE_FORMATS[Path(name).suffix], data_files=name, **options)
        elif (Path(name) / "state.json").exists() or (Path(name) / "dataset_dict.json").exists():
            data = load_from_disk(name)
        else:
            data = load_dataset(name, name=script_args.dataset_config, **options)
    if not isinstance(data, (DatasetDict, IterableDatasetDict)):
        data = DatasetDict({script_args.dataset_train_split: data})

    column = script_args.prompt_column
    chat = script_args.chat_prompts or script_args.system_prompt is not None
    system = [{"role": "system", "content": script_args.system_prompt}] if script_args.system_prompt else []

    def to_conversation(row: dict[str, Any]) -> dict[str, Any]:
        if isinstance(row["prompt"], str):
            return {"prompt": [*system, {"role": "user", "content": row["prompt"]}]}
        return {"prompt": [*system, *row["prompt"]]}

    for split, rows in data.items():
        names = rows.column_names
        if names is not None and column not in names:
            raise ValueError(f"prompt_column {column!r} is not in split {split!r}, which has: {', '.join(names)}")
        if column != "prompt":
            if names is not None and "prompt" in names:
                rows = rows.remove_columns("prompt")
            rows = rows.rename_column(column, "prompt")
        data[split] = rows.map(to_conversation) if chat else rows
    return data


def _split(data: Any, name: str) -> Any:
    if name not in data:
        raise ValueError(f"there is no split {name!r} in the dataset, which has: {', '.join(data)}")
    return data[name]


def _check_output_dir(training_args: TEAConfig) -> None:
    """Refuse to write over an earlier run that is not to be continued."""
    output_dir, resume = training_args.output_dir, training_args.resume_from_checkpoint
    checkpoints = list_checkpoints(output_dir)
    if checkpoints and resume is None:
        raise ValueError(
            f"output_dir {output_dir!r} holds {checkpoints[-1].name} of an earlier run: go on with "
            "--resume_from_checkpoint auto, or choose another output_dir"
        )
    saved = holds_a_model(output_dir)
    if saved and not checkpoints and resume in (None, "auto"):
        raise ValueError(
            f"output_dir {output_dir!r} holds a model ({saved}) and no checkpoint to go on from: it would be "
            "overwritten; choose another output_dir"
        )


def main(
    script_args: TrainArguments,
    training_args: TEAConfig,
    model_args: ModelConfig,
    dataset_args: DatasetMixtureConfig,
    reward_funcs: Sequence[Any] = (),
) -> AdvantageTrainer:
    """Train, save to ``output_dir``, and return the trainer.

    Args:
        script_args: What to train on and against.
        training_args: How; its ``advantage_estimator`` is "tea" unless set. ``resume_from_checkpoint="auto"``
            continues from the newest complete checkpoint in ``output_dir`` if there is one.
        model_args: TRL's: the model, its dtype, LoRA.
        dataset_args: TRL's: a mixture of datasets, instead of ``script_args.dataset_name``.
        reward_funcs: Further rewards, as TRL takes them.

    Raises:
        ValueError: On bad arguments, and when ``output_dir`` holds an earlier run that is not to be continued.
    """
    _check_output_dir(training_args)
    if training_args.advantage_estimator is None:
        training_args.advantage_estimator = "tea"
    rewards: list[Any] = list(reward_funcs)
    if script_args.reward_model_name_or_path:
        rewards.append(script_args.reward_model_name_or_path)  # TRL loads it and places it on the device
    rewards += [load_reward(spec) for spec in script_args.reward_funcs or []]
    if not rewards:
        raise ValueError("there is nothing to train against: set reward_model_name_or_path or reward_funcs")
    data = load_training_data(script_args, dataset_args)

    model_init_kwargs: dict[str, Any] = {
        "revision": model_args.model_revision,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,
    }
    if isinstance(training_args.model_init_kwargs, dict):
        model_init_kwargs |= training_args.model_init_kwargs
    training_args.model_init_kwargs = model_init_kwargs

    trainer = AdvantageTrainer(
        model=model_args.model_name_or_path,
        reward_funcs=rewards,
        args=training_args,
        train_dataset=_split(data, script_args.dataset_train_split),
        eval_dataset=(_split(data, script_args.dataset_test_split) if training_args.eval_strategy != "no" else None),
        quantization_config=quantization_config_of(model_args),
        peft_config=get_peft_config(model_args),
    )
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    trainer.save_model(training_args.output_dir)
    trainer.accelerator.print(f"model saved to {training_args.output_dir}")
    if training_args.push_to_hub:
        trainer.push_to_hub(dataset_name=script_args.dataset_name)
    return trainer
