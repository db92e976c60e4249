"""Training from a YAML file: what ``recipes/train.py`` and ``tea train`` run."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from transformers import AutoConfig, AutoProcessor
from trl import DatasetMixtureConfig, ModelConfig, get_peft_config
from trl import get_quantization_config as quantization_config_of

from tea.rewards import RewardServerGone, load_reward
from tea.trainers.arguments import TrainArguments, parse
from tea.trainers.checkpoints import holds_a_model, list_checkpoints
from tea.trainers.checks import (
    check_disk,
    check_enough_prompts,
    check_prompts_fit_tokenizer,
    check_writable,
    first_prompt,
)
from tea.trainers.config import TEAConfig
from tea.trainers.data import GYM
from tea.trainers.errors import UserError, told_to_user
from tea.trainers.estimate import checkpoint_bytes, report, sizes_of
from tea.trainers.rewards import load_reward_model, model_error
from tea.trainers.selection import TrainingData, load_training_data, save_data_record
from tea.trainers.trainer import AdvantageTrainer

__all__ = ["command", "main", "parse"]


@dataclass
class Prepared:
    """Everything that a run needs but the policy's weights.

    Args:
        config: The policy's configuration.
        processor: Its tokenizer (or processor).
        data: What is trained on and what is held out.
        rewards: As TRL takes them: loaded models and functions.
    """

    config: Any
    processor: Any
    data: TrainingData
    rewards: list[Any]


def _check_output_dir(training_args: TEAConfig) -> None:
    """Refuse to write over an earlier run that is not to be continued, and where nothing can be written."""
    output_dir, resume = training_args.output_dir, training_args.resume_from_checkpoint
    checkpoints = list_checkpoints(output_dir)
    if checkpoints and resume is None:
        raise UserError(
            f"output_dir {output_dir!r} holds {checkpoints[-1].name} of an earlier run: go on with "
            "--resume_from_checkpoint auto, or choose another output_dir"
        )
    saved = holds_a_model(output_dir)
    if saved and not checkpoints and resume in (None, "auto"):
        raise UserError(
            f"output_dir {output_dir!r} holds a model ({saved}) and no checkpoint to go on from: it would be "
            "overwritten; choose another output_dir"
        )
    check_writable(output_dir)


def _measure_by_default(script_args: TrainArguments, training_args: TEAConfig) -> None:
    """With held-out prompts and unless told otherwise: measure best-of-N at every checkpoint and end with the best one.

    The untrained model is the first candidate, so that no run ends below it on these prompts.
    """
    told = training_args.eval_best_of_n_steps is not None or training_args.eval_strategy != "no"
    if script_args.held_out and not told and training_args.save_strategy == "steps" and training_args.save_steps >= 1:
        training_args.measure_best_of_n(int(training_args.save_steps))
        training_args.load_best_model_at_end = True


def prepare(
    script_args: TrainArguments,
    training_args: TEAConfig,
    model_args: ModelConfig,
    dataset_args: DatasetMixtureConfig,
    reward_funcs: Sequence[Any] = (),
) -> Prepared:
    """Check and load all but the policy's weights, the cheap things first.

    Raises:
        UserError: On anything that was given and cannot work.
    """
    _check_output_dir(training_args)
    _measure_by_default(script_args, training_args)
    if training_args.advantage_estimator is None:
        training_args.advantage_estimator = "tea"
    name = model_args.model_name_or_path
    if not name:
        raise UserError("there is no model to train: set model_name_or_path")
    scorer = [script_args.dataset_name] if str(script_args.dataset_name).startswith(GYM) else []
    specs = script_args.reward_funcs or (scorer if not script_args.reward_model_name_or_path else [])
    if not (reward_funcs or script_args.reward_model_name_or_path or specs):
        raise UserError("there is nothing to train against: set reward_model_name_or_path or reward_funcs")
    AdvantageTrainer.check_estimator(training_args)

    loading = {"revision": model_args.model_revision, "trust_remote_code": training_args.trust_remote_code}
    try:
        config = AutoConfig.from_pretrained(name, **loading)
        processor = AutoProcessor.from_pretrained(name, truncation_side="left", padding_side="left", **loading)
    except (OSError, ValueError) as error:
        raise UserError(f"model_name_or_path {name!r} cannot be loaded: {model_error(name, error)}") from error
    tokenizer = getattr(processor, "tokenizer", processor)

    with training_args.main_process_first(local=False, desc="data"):
        data = load_training_data(
            script_args,
            dataset_args,
            seed=training_args.seed,
            evaluated=training_args.eval_strategy != "no",
            length=PromptLength(tokenizer, training_args.chat_template_kwargs),
        )
    check_enough_prompts(data.train, training_args)
    _check_sizes(config, training_args, model_args)
    prompt = first_prompt(data.train)
    if isinstance(prompt, list):  # of text the trainer warns
        check_prompts_fit_tokenizer(prompt, tokenizer, name)

    rewards: list[Any] = list(reward_funcs)
    if script_args.reward_model_name_or_path:
        dtype = script_args.reward_model_dtype
        rewards.append(
            load_reward_model(
                script_args.reward_model_name_or_path, dtype=dtype, trust_remote_code=training_args.trust_remote_code
            )
        )
    for spec in specs:
        with told_to_user(ValueError, ImportError, OSError, what="reward_funcs"):
            rewards.append(load_reward(spec))
    return Prepared(config, processor, data, rewards)


def _check_sizes(config: Any, training_args: TEAConfig, model_args: ModelConfig) -> None:
    try:
        sizes = sizes_of(config, model_args)
    except (ValueError, NotImplementedError) as error:
        if "arget modules" in str(error):
            raise UserError(
                f"lora_target_modules {model_args.lora_target_modules} matches no layer: give all-linear or several "
                "names; a single one is a pattern for a layer's whole path"
            ) from error
        return  # what AutoModelForCausalLM does not know, such as a model of images too
    if training_args.save_strategy != "no":
        check_disk(training_args.output_dir, checkpoint_bytes(sizes))


class PromptLength:
    """Tokens of a prompt as it is trained on. A class, so that `datasets` can hash it for its cache."""

    def __init__(self, tokenizer: Any, template_options: Any) -> None:
        self.tokenizer = tokenizer
        self.template_options = template_options if isinstance(template_options, dict) else {}

    def __call__(self, prompt: Any) -> int:
        if isinstance(prompt, str):
            return len(self.tokenizer(prompt)["input_ids"])
        if self.tokenizer.chat_template is None:
            raise UserError("the prompts are conversations, but the model's tokenizer has no chat template")
        text = self.tokenizer.apply_chat_template(
            prompt, add_generation_prompt=True, tokenize=False, **self.template_options
        )
        return len(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def main(
    script_args: TrainArguments,
    training_args: TEAConfig,
    model_args: ModelConfig,
    dataset_args: DatasetMixtureConfig,
    reward_funcs: Sequence[Any] = (),
    callbacks: Sequence[Any] = (),
) -> AdvantageTrainer:
    """Train, save to ``output_dir``, and return the trainer.

    Args:
        script_args: What to train on and against.
        training_args: How; its ``advantage_estimator`` is "tea" unless set. ``resume_from_checkpoint="auto"``
            continues from the newest complete checkpoint in ``output_dir`` if there is one.
        model_args: TRL's: the model, its dtype, LoRA.
        dataset_args: TRL's: a mixture of datasets, instead of ``script_args.dataset_name``.
        reward_funcs: Further rewards, as TRL takes them.
        callbacks: Further callbacks of the trainer.

    Raises:
        UserError: On what cannot work, and when ``output_dir`` holds an earlier run that is not to be continued.
    """
    prepared = prepare(script_args, training_args, model_args, dataset_args, reward_funcs)
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
        reward_funcs=prepared.rewards,
        args=training_args,
        train_dataset=prepared.data.train,
        eval_dataset=prepared.data.held_out if training_args.eval_strategy != "no" else None,
        processing_class=prepared.processor,
        quantization_config=quantization_config_of(model_args),
        peft_config=get_peft_config(model_args),
        callbacks=list(callbacks),
    )
    trainer.data_source = script_args.dataset_name
    for note in prepared.data.notes:
        trainer.accelerator.print(note)
    if trainer.accelerator.is_main_process:
        save_data_record(
            prepared.data, training_args.output_dir, resumed=training_args.resume_from_checkpoint is not None
        )
    trainer.train(resume_from_checkpoint=training_args.resume_from_checkpoint)
    if trainer.stopped_by is not None:
        trainer.accelerator.print(
            f"stopped by {trainer.stopped_by} after step {trainer.state.global_step} of {trainer.state.max_steps}: "
            "go on with --resume_from_checkpoint auto"
        )
        return trainer
    trainer.save_final_model()
    trainer.create_model_card(model_name=os.path.basename(os.path.abspath(training_args.output_dir)))
    trainer.save_state()
    trainer.accelerator.print(f"model saved to {training_args.output_dir}")
    if training_args.push_to_hub:
        trainer.push_to_hub(dataset_name=script_args.dataset_name)
    return trainer


def dry_run(
    script_args: TrainArguments,
    training_args: TEAConfig,
    model_args: ModelConfig,
    dataset_args: DatasetMixtureConfig,
    reward_funcs: Sequence[Any] = (),
) -> list[str]:
    """Check everything that :func:`main` would, load all but the policy's weights, and say what the run will take."""
    prepared = prepare(script_args, training_args, model_args, dataset_args, reward_funcs)
    tokenizer = getattr(prepared.processor, "tokenizer", prepared.processor)
    length = PromptLength(tokenizer, training_args.chat_template_kwargs)
    return report(prepared.config, training_args, model_args, prepared.data, prepared.rewards, length)


def command(args: Sequence[str] | None = None, prog: str | None = None, reward_funcs: Sequence[Any] = ()) -> None:
    """Parse and train; what the user did wrong ends in one message on stderr and exit code 2."""
    try:
        script_args, training_args, model_args, dataset_args = parse(args, prog)
        if script_args.dry_run:
            lines = dry_run(script_args, training_args, model_args, dataset_args, reward_funcs)
            if training_args.process_index == 0:
                print("\n".join(lines))
        else:
            main(script_args, training_args, model_args, dataset_args, reward_funcs).end()
    except (UserError, RewardServerGone) as error:
        several = int(os.environ.get("WORLD_SIZE", "1")) > 1
        rank = f" (process {os.environ.get('RANK', '?')})" if several else ""
        print(f"\nerror{rank}: {error}", file=sys.stderr)  # below a progress bar that may stand there
        raise SystemExit(2) from None
