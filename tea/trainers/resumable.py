"""TRL's GRPO trainer with checkpoints that are complete or absent, and an exact resume.

With `trainer.py`, `sharing.py`, `held_out.py` and `off_policy.py` this is where private methods of TRL's and
transformers' trainers are used; ``tests/trainers/test_hook.py`` names what a new version has moved.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object, send_to_device
from datasets import IterableDataset
from safetensors import SafetensorError
from transformers import TrainerState
from trl import GRPOTrainer

from tea.trainers.checkpoints import (
    PARTIAL_DIR,
    STATE_FILE,
    CheckpointError,
    check_complete,
    newest_complete,
    publish,
    publish_files,
    read_manifest,
    rotate,
    write_manifest,
)
from tea.trainers.errors import refuse_pickled
from tea.trainers.extra_state import ExtraState
from tea.trainers.identity import compare_runs, describe_data, describe_model
from tea.trainers.signals import StopOnSignal

# Options that say how a run goes on. A resumed run that differs in one of them is warned about.
_OPTIONS = (
    *("seed", "shuffle_dataset", "max_steps", "num_train_epochs"),
    *("per_device_train_batch_size", "gradient_accumulation_steps", "steps_per_generation", "world_size"),
    *("num_generations", "num_iterations", "max_completion_length", "temperature", "top_p", "top_k"),
    *("learning_rate", "lr_scheduler_type", "optim", "loss_type", "beta", "epsilon", "scale_rewards"),
    *("off_policy_correction", "off_policy_clip"),
)


class _GenerationCycle:
    """Where a process stands between two generations: rollouts that have been paid for are not thrown away."""

    def __init__(self, trainer: ResumableGRPOTrainer) -> None:
        self.trainer = trainer

    def state_dict(self) -> dict[str, Any]:
        trainer = self.trainer
        done = trainer._step % (trainer.args.steps_per_generation * trainer.num_iterations) == 0
        rollouts = None if done else trainer._buffered_inputs
        return {"step": trainer._step, "world_size": trainer.args.world_size, "rollouts": rollouts}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        trainer = self.trainer
        trainer._step = state["step"]
        rollouts = state["rollouts"]
        fits = (
            state["world_size"] == trainer.args.world_size
            and rollouts is not None
            and len(rollouts) == trainer.args.steps_per_generation
        )
        trainer._buffered_inputs = send_to_device(rollouts, trainer.accelerator.device) if fits else None


class _ReferenceModel:
    """The reference of the KL term, where it moves (`sync_ref_model`)."""

    def __init__(self, trainer: ResumableGRPOTrainer) -> None:
        self.trainer = trainer

    def state_dict(self) -> dict[str, Any]:
        model = self.trainer.accelerator.unwrap_model(self.trainer.ref_model)
        return {name: tensor.cpu() for name, tensor in model.state_dict().items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.trainer.accelerator.unwrap_model(self.trainer.ref_model).load_state_dict(state)


class ResumableGRPOTrainer(GRPOTrainer):
    """[`~trl.GRPOTrainer`] that goes on after an interruption as if there had been none.

    At any step, in any epoch, and between the steps that share one generation (`num_iterations`,
    `steps_per_generation`), a resumed run has the weights that it would have had, to the last bit on one device. Not
    so with vLLM, whose random state nobody saves, and with another number of processes.

    On SIGTERM it saves a checkpoint at the end of the current step and stops, see `stopped_by`.

    `extra_state` is what checkpoints keep beyond TRL's own: add to it whatever has a state of its own.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._staging: str | None = None  # the folder that a checkpoint is being written into
        self._push_when_published = False
        self._saved_at: tuple[str, int] | None = None
        self._description: dict[str, Any] = {}
        super().__init__(*args, **kwargs)
        self._signals = StopOnSignal(self.accelerator)
        self.add_callback(self._signals)
        self.extra_state = ExtraState()
        self.extra_state.add("generation_cycle", _GenerationCycle(self), per_process=True)
        if self.args.sync_ref_model and self.ref_model is not None:
            if self.is_deepspeed_enabled or self.is_fsdp_enabled:
                warnings.warn(
                    "sync_ref_model: the moving reference model is sharded and not in the checkpoints; a resumed run "
                    "starts with the original one",
                    stacklevel=2,
                )
            else:
                self.extra_state.add("reference_model", _ReferenceModel(self))

    def run_description(self) -> dict[str, Any]:
        """What this run is, for its checkpoints: a run that differs in model or data must not go on from them."""
        options = {name: getattr(self.args, name) for name in _OPTIONS if hasattr(self.args, name)}
        return {
            "model": describe_model(self.accelerator.unwrap_model(self.model)),
            "data": describe_data(self.train_dataset),
            "rewards": list(self.reward_func_names),
            "options": options,
        }

    if not hasattr(GRPOTrainer, "end"):  # before transformers 5.18

        def end(self) -> None:
            """Finish the trackers and destroy the distributed process group: the last thing that a script does."""
            self.accelerator.end_training()

    @property
    def stopped_by(self) -> str | None:
        """The signal that has ended the training before its last step, "SIGTERM"; None if there was none."""
        return self._signals.received if self.state.global_step < self.state.max_steps else None

    # --- Resuming ---

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train, as [`~transformers.Trainer.train`] does.

        Args:
            resume_from_checkpoint: A folder; or "auto" or True for the newest complete checkpoint in `output_dir`,
                which with "auto" need not exist. What was skipped is warned about.

        Raises:
            CheckpointError: If the checkpoint is damaged, or is one of another estimator, model or dataset.
        """
        self._description = self.run_description()  # before FSDP or DeepSpeed take the model apart
        self._saved_at = None
        checkpoint = self._find_checkpoint(resume_from_checkpoint)
        if checkpoint is not None:
            self._check_same_run(checkpoint)
        with self._signals:
            return super().train(checkpoint, *args, **kwargs)

    def _find_checkpoint(self, chosen: str | bool | None) -> str | None:
        if chosen is None or chosen is False:
            return None
        if chosen is not True and chosen != "auto":
            check_complete(chosen)
            return chosen
        found, skipped = newest_complete(self.args.output_dir)
        if found is None and chosen is True:
            raise CheckpointError(f"output_dir {self.args.output_dir!r} has no checkpoint to resume from")
        if skipped and found is not None and self.accelerator.is_main_process:
            listed = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
            warnings.warn(f"resuming from {found.name}; skipped what is not complete: {listed}", stacklevel=3)
        return None if found is None else str(found)

    def _check_same_run(self, checkpoint: str) -> None:
        manifest = read_manifest(checkpoint)
        if manifest is None:
            return
        if manifest.get("model_only"):
            raise CheckpointError(f"{checkpoint} holds the model only (save_only_model): there is no way on from it")
        other_run, otherwise = compare_runs(manifest.get("run", {}), self._description)
        if other_run:
            raise CheckpointError(
                f"{checkpoint} is of another run: {'; '.join(other_run)}. Resume with what it was started with; or, to "
                "begin a new run from its weights, give it as the model"
            )
        if otherwise and self.accelerator.is_main_process:
            warnings.warn(
                f"the run goes on from {checkpoint} in another way than it would have: {'; '.join(otherwise)}",
                stacklevel=3,
            )

    def _init_training_state(self, max_steps: int, *args: Any, **kwargs: Any) -> tuple[int, int]:
        epochs, batches = super()._init_training_state(max_steps, *args, **kwargs)
        epoch = self.state.epoch or 0.0
        if isinstance(self.train_dataset, IterableDataset) and epoch > 0:
            # transformers takes `max_steps` for the length of the stream, which may have ended and begun again.
            epochs = int(epoch)
            batches = round((epoch - epochs) * max_steps * self.args.gradient_accumulation_steps)
        return epochs, batches

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        self._train_sampler = super()._get_train_sampler(dataset)
        return self._train_sampler

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        with refuse_pickled(resume_from_checkpoint):
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with refuse_pickled(str(checkpoint)):
            super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is None:
            return
        state = TrainerState.load_from_json(os.path.join(checkpoint, STATE_FILE))
        self._step = state.global_step * self.args.gradient_accumulation_steps  # for checkpoints that do not know it
        self.extra_state.load(checkpoint, self.accelerator.process_index)
        sampler = getattr(self, "_train_sampler", None)  # a streamed dataset has none
        if sampler is not None and sampler.shuffle:
            for _ in range(int(state.epoch or 0)):  # the epochs that are over each drew their order from it
                torch.randperm(sampler.num_samples, generator=sampler.generator)

    # --- Saving ---

    def _get_output_dir(self, trial: Any = None) -> str:
        return self._staging or super()._get_output_dir(trial)

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self._staging is not None:  # the upload runs beside the training: not from a folder about to be renamed
            self._push_when_published = True
        else:
            super()._push_from_checkpoint(checkpoint_folder)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        run_dir = self._get_output_dir(trial)
        step = self.state.global_step
        if self._saved_at == (run_dir, step):  # asked for twice, at the end of a step and of its epoch
            return
        name = f"checkpoint-{step}"
        staging, final = os.path.join(run_dir, PARTIAL_DIR), os.path.join(run_dir, name)
        if self.args.should_save:
            shutil.rmtree(staging, ignore_errors=True)  # of a save that was cut short
        self.accelerator.wait_for_everyone()
        with self._one_error_for_all(final):
            self._staging = staging
            try:
                super()._save_checkpoint(model, trial)
            finally:
                self._staging = None
            self._finish_checkpoint(Path(staging, name), final)
        self.accelerator.wait_for_everyone()
        with self._one_error_for_all(final):
            if self.args.should_save:
                write_manifest(
                    Path(staging, name), step=step, model_only=self.args.save_only_model, run=self._description
                )
                publish(Path(staging, name), Path(final))
        self.accelerator.wait_for_everyone()
        self._saved_at = (run_dir, step)
        if self.args.should_save:
            shutil.rmtree(staging, ignore_errors=True)
            rotate(run_dir, self.args.save_total_limit, {final, self.state.best_model_checkpoint})
        if self._push_when_published:
            self._push_when_published = False
            super()._push_from_checkpoint(final)

    def save_final_model(self) -> None:
        """Save the trained model to `output_dir` as one that loads in plain transformers, sharded or not in training.

        It is written beside first: a crash leaves no half of a model.

        Raises:
            CheckpointError: If the disk refuses it.
        """
        folder = self.args.output_dir
        staging = os.path.join(folder, PARTIAL_DIR, "model")
        if self.is_fsdp_enabled:
            self.accelerator.state.fsdp_plugin.set_state_dict_type("FULL_STATE_DICT")
        if self.args.should_save:
            shutil.rmtree(staging, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        with self._one_error_for_all(os.path.join(folder, "the model")):
            self.save_model(staging, _internal_call=True)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            publish_files(Path(staging), Path(folder))
            shutil.rmtree(os.path.dirname(staging), ignore_errors=True)
        self.accelerator.wait_for_everyone()

    def _finish_checkpoint(self, folder: Path, final: str) -> None:
        """Add what TRL does not save, and call the checkpoint by the name that it will have."""
        folder.mkdir(parents=True, exist_ok=True)
        self.extra_state.save(folder, self.accelerator.process_index, shared=self.args.should_save)
        if self.state.best_model_checkpoint == str(folder):
            self.state.best_model_checkpoint = final
            if self.args.should_save:
                self.state.save_to_json(os.path.join(folder, STATE_FILE))

    @contextmanager
    def _one_error_for_all(self, final: str) -> Iterator[None]:
        """Turn what the disk refuses into one message, on every process: none may wait for one that has stopped."""
        error: Exception | None = None
        try:
            yield
        except (OSError, RuntimeError, SafetensorError) as caught:
            error = caught
            if not _is_of_the_disk(caught):
                raise
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            messages = [str(error)] if error is not None else []  # the others may be waiting inside the save
        else:
            messages = [text for text in gather_object([str(error) if error is not None else ""]) if text]
        if messages:
            run_dir = os.path.dirname(final)
            free = shutil.disk_usage(run_dir).free if os.path.isdir(run_dir) else 0
            raise CheckpointError(
                f"{final} could not be written, {free / 1e9:.1f} GB are free there: {messages[0]}. What had been saved "
                "before is as it was: make room (a checkpoint is written before an older one goes), then go on with "
                "resume_from_checkpoint 'auto'"
            ) from error


def _is_of_the_disk(error: Exception) -> bool:
    return isinstance(error, OSError) or any(text in str(error) for text in ("os error", "PytorchStreamWriter"))
