"""What of TRL's private surface the trainer stands on. A failure here names what a new TRL has moved."""

import inspect

from transformers import Trainer
from trl import GRPOTrainer
from trl.trainer.utils import RepeatSampler


def test_calculate_rewards_returns_the_gathered_rewards():
    parameters = list(inspect.signature(GRPOTrainer._calculate_rewards).parameters)
    assert parameters == ["self", "inputs", "prompts", "completions", "completion_ids_list"]
    source = inspect.getsource(GRPOTrainer._calculate_rewards)
    assert source.rstrip().endswith("return rewards_per_func")
    assert "rewards_per_func = gather(rewards_per_func)" in source


def test_generate_and_score_completions_computes_the_advantages():
    assert list(inspect.signature(GRPOTrainer._generate_and_score_completions).parameters) == ["self", "inputs"]
    source = inspect.getsource(GRPOTrainer._generate_and_score_completions)
    for line in (
        "rewards_per_func = self._calculate_rewards(inputs, prompts, completions, completion_ids_list)",
        'self._logs["advantages"].extend(all_process_advantages.tolist())',
        '"advantages": advantages,',
        'mode = "train" if self.model.training else "eval"',
    ):
        assert line in source, f"TRL's _generate_and_score_completions no longer has: {line}"


def test_advantages_are_one_per_completion():
    source = inspect.getsource(GRPOTrainer._compute_loss)
    assert 'advantages = inputs["advantages"]' in source


def test_rollouts_keep_what_is_added_to_them():
    """`tea/trainers/off_policy.py`: TRL shuffles and splits every tensor, and keeps log-probabilities of sampling."""
    source = inspect.getsource(GRPOTrainer._prepare_inputs)
    for line in (
        "generation_batch = shuffle_sequence_dict(generation_batch)",
        "generation_batches = split_tensor_dict(generation_batch, self.args.steps_per_generation)",
    ):
        assert line in source, f"TRL's _prepare_inputs no longer has: {line}"
    source = inspect.getsource(GRPOTrainer._generate_and_score_completions)
    assert "if self.args.gradient_accumulation_steps % generate_every != 0" in source
    assert 'output["old_per_token_logps"] = old_per_token_logps' in source
    parameters = list(inspect.signature(GRPOTrainer._get_per_token_logps_and_entropies).parameters)
    assert parameters[:5] == ["self", "model", "input_ids", "attention_mask", "logits_to_keep"]


def test_checkpoints_are_written_and_read_by_these():
    assert list(inspect.signature(GRPOTrainer._save_checkpoint).parameters) == ["self", "model", "trial"]
    assert list(inspect.signature(GRPOTrainer._load_optimizer_and_scheduler).parameters) == ["self", "checkpoint"]
    source = inspect.getsource(Trainer._save_checkpoint)
    assert 'checkpoint_folder = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"' in source
    assert "run_dir = self._get_output_dir(trial=trial)" in source


def test_groups_are_contiguous():
    """The reward memory takes one key from every num_generations rows."""
    source = inspect.getsource(GRPOTrainer._get_train_sampler)
    assert "mini_repeat_count=self.num_generations" in source


def test_resuming_overrides_these():
    """`tea/trainers/resumable.py`: what is saved and loaded, when, and from where."""
    for method, parameters in [
        (GRPOTrainer._get_train_sampler, ["self", "dataset"]),
        (Trainer._load_from_checkpoint, ["self", "resume_from_checkpoint", "model"]),
        (Trainer._push_from_checkpoint, ["self", "checkpoint_folder"]),
        (Trainer._get_output_dir, ["self", "trial"]),
        (
            Trainer._init_training_state,
            *[
                [
                    "self",
                    "max_steps",
                    "num_update_steps_per_epoch",
                    "num_train_epochs",
                    "resume_from_checkpoint",
                    "trial",
                ]
            ],
        ),
    ]:
        assert list(inspect.signature(method).parameters) == parameters, method
    sampler = inspect.getsource(RepeatSampler)
    assert "indexes = torch.randperm(self.num_samples, generator=self.generator).tolist()" in sampler
    assert "sampler_fn=self._get_train_sampler" in inspect.getsource(GRPOTrainer.get_train_dataloader)
    cycle = inspect.getsource(GRPOTrainer._prepare_inputs)
    assert "generate_every = self.args.steps_per_generation * self.num_iterations" in cycle
    assert "inputs = self._buffered_inputs[self._step % self.args.steps_per_generation]" in cycle
    save = inspect.getsource(Trainer._save_checkpoint)
    assert "self.state.best_model_checkpoint = best_checkpoint_dir" in save
    assert "self._push_from_checkpoint(output_dir)" in save
