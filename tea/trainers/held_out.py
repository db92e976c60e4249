"""`eval_best_of_n_steps`: best-of-N of held-out prompts, sampled in the trainer's own way.

Private methods of TRL's and transformers' trainers are called here, as in `tea/trainers/trainer.py`.
"""

from __future__ import annotations

import itertools
import os
import time
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from tea.trainers.best_of_n import BestOfNTracker
from tea.trainers.config import TEAConfig
from tea.trainers.metrics import best_of_n_forecast
from tea.trainers.resumable import ResumableGRPOTrainer


class MeasuresBestOfN(ResumableGRPOTrainer):
    """The part of `AdvantageTrainer` that evaluates it."""

    _target_n: int
    _tail_fraction: float
    _max_reward: float | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._measuring = False
        self.best_of_n: BestOfNTracker | None = None
        if isinstance(self.args, TEAConfig) and self.args.eval_best_of_n_steps:
            self.best_of_n = BestOfNTracker(self._target_n)
            self.extra_state.add("best_of_n", self.best_of_n)

    def _take_rewards(self) -> Tensor:
        """The rewards (B_global,) of the last rollouts, NaN where there is none."""
        raise NotImplementedError

    def evaluate(
        self,
        eval_dataset: Any = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """With `args.eval_best_of_n_steps`, measured best-of-N of the held-out prompts; else TRL's evaluation.

        Logs, with the prefix: see `BestOfNTracker.measure`; ``best_of_n_forecast``, what the estimator's model of the
        tail forecasts from the first `num_generations` of the same samples; and TRL's metrics of the completions.
        """
        tracker = self.best_of_n
        if tracker is None or eval_dataset is not None or isinstance(self.eval_dataset, dict):
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        step = self.state.global_step
        done = next((m.metrics for m in tracker.history if m.step == step), None)
        if done is not None:  # a run that goes on from this step's checkpoint evaluates on start again
            return {f"{metric_key_prefix}_{name}": value for name, value in done.items()}
        start = time.perf_counter()
        rewards = self._sample_held_out()
        forecast = self._forecast(torch.tensor(rewards[:, : self.num_generations])).nanmean().item()
        measured = tracker.measure(rewards, step) | {"best_of_n_forecast": forecast}
        measured["best_of_n_runtime"] = time.perf_counter() - start
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in measured.items()}
        self.model.eval()  # says to `log` which metrics these are
        self.log(metrics)
        self.model.train()
        inherited: Any = self  # mypy cannot follow the attribute through transformers' classes
        self.control = self.callback_handler.on_evaluate(self.args, self.state, inherited.control, metrics)
        if step == 0 and self.args.load_best_model_at_end and self.is_in_train:
            # The untrained model is a candidate like any other.
            self._determine_best_metric(metrics=metrics, trial=None)
            self._save_checkpoint(self.model, trial=None)
            # transformers takes step 0 for none.
            self.state.best_model_checkpoint = os.path.join(self.args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-0")
        fallen = tracker.fallen()
        if fallen is not None:
            stop = getattr(self.args, "eval_best_of_n_stop", True)
            warnings.warn(f"{fallen}{': stopping' if stop else ''}", stacklevel=2)
            self.control.should_training_stop = self.control.should_training_stop or stop
        return metrics

    def _sample_held_out(self) -> np.ndarray:
        """Rewards (num_prompts, n) of the current model's samples, the same on all processes.

        In the trainer's own way: with its generation, its rewards, on all of its processes, in batches of the size
        that it generates in training. The random state of the run is left alone, and the samples of every evaluation
        start from one seed.
        """
        args = self.args
        assert isinstance(args, TEAConfig)
        n = args.eval_best_of_n_samples or args.target_n
        limit = args.eval_best_of_n_prompts or None
        prompts = list(itertools.islice(iter(self.eval_dataset), limit))
        world, rank = self.accelerator.num_processes, self.accelerator.process_index
        rows = max(args.per_device_train_batch_size * args.steps_per_generation, args.per_device_eval_batch_size)
        together = max(rows // n, 1)  # prompts per process and pass
        padded = prompts + prompts[-1:] * (-len(prompts) % (together * world))  # all processes in step
        inherited: Any = self  # as above
        kept = inherited.num_generations_eval, inherited.beta, self.model.training
        devices = [args.device] if args.device.type == "cuda" else []
        collected = []
        self._measuring, self.beta = True, 0.0  # no reference model is needed to sample
        self.model.eval()
        try:
            with torch.random.fork_rng(devices), torch.no_grad():
                torch.manual_seed(args.seed + 7919 * rank)
                for first in range(0, len(padded), together * world):
                    mine = padded[first + rank * together : first + (rank + 1) * together]
                    parts = []
                    for count in [rows] * (n // rows) + [n % rows] * (n % rows > 0) if n > rows else [n]:
                        self.num_generations_eval = count
                        self._generate_and_score_completions([prompt for prompt in mine for _ in range(count)])
                        parts.append(self._take_rewards().view(-1, count).float().cpu())
                    collected.append(torch.cat(parts, dim=1))
        finally:
            self._measuring = False
            self.num_generations_eval, self.beta, training = kept
            self.model.train(training)
        return torch.cat(collected)[: len(prompts)].double().numpy()

    def _forecast(self, rewards: Tensor) -> Tensor:
        return best_of_n_forecast(rewards.float(), self._target_n, self._tail_fraction, self._max_reward)
