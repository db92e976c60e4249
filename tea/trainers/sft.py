"""Supervised relatives: fine-tuning for pass@N on demonstrations, and preference pairs from an evaluation."""

from __future__ import annotations

import math
import os
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from torch import Tensor
from trl import SFTConfig, SFTTrainer

from tea.estimators.group import check_target_n


def log_pass_at_n(log_prob: Tensor, target_n: float) -> Tensor:
    r"""Logarithm of the probability that one of N samples is the sequence, :math:`\log(1 - (1 - p)^N)`.

    Its gradient is that of log p times

    .. math:: F(p) = \frac{N p (1 - p)^{N-1}}{1 - (1 - p)^N}

    which is 1 for p far below 1 / N and 0 for p near 1: what N samples will find anyway is not learnt any further.
    Exact for the log-probability of a sequence of any length, however small, and at p = 1.
    Source: "Rethinking Fine-Tuning when Scaling Test-Time Compute", arXiv 2502.07154.

    Args:
        log_prob: log p <= 0, any shape, float; computed in float32 at least.
        target_n: N >= 1; 1: log p itself.

    Raises:
        ValueError: If ``target_n`` is below 1 or not finite.

    Checked by ``tests/trainers/test_sft.py``.
    """
    check_target_n(target_n)
    if target_n == 1:
        return log_prob
    s = log_prob.detach().to(torch.promote_types(log_prob.dtype, torch.float32)).clamp(max=0.0)
    log_miss = torch.where(s > -math.log(2.0), torch.log(-torch.expm1(s)), torch.log1p(-torch.exp(s)))  # log(1 - p)
    all_miss = target_n * log_miss
    # For N p below rounding, 1 - (1 - p)^N is N p, of which only the logarithm is a number.
    rare = all_miss > -1e-6
    value = torch.where(rare, s + math.log(target_n), torch.log(-torch.expm1(torch.where(rare, -1.0, all_miss))))
    value = value.clamp(max=0.0)
    weight = torch.exp(math.log(target_n) + s + (target_n - 1) * log_miss - value)
    # The value, with the gradient in closed form: at p = 1 the chain rule would multiply infinity by zero.
    return value.to(log_prob.dtype) + weight.to(log_prob.dtype) * (log_prob - log_prob.detach())


@dataclass
class PassAtNSFTConfig(SFTConfig):
    """[`~trl.SFTConfig`] with the number of samples that the model is deployed with.

    Args:
        target_n: N, samples per prompt at deployment, >= 1; 1 is plain fine-tuning.
    """

    target_n: int = field(default=128, metadata={"help": "N: samples per prompt at deployment."})

    def __post_init__(self) -> None:
        super().__post_init__()
        check_target_n(self.target_n)
        if self.packing or self.padding_free:
            raise ValueError(
                "the pass@N loss is one number per sequence: packing and padding_free, which put several into a row, "
                "must be off"
            )
        if self.loss_type != "nll" or self.label_smoothing_factor > 0:
            raise ValueError(
                f"the pass@N loss takes the place of the loss: loss_type must be 'nll' and label_smoothing_factor 0, "
                f"got {self.loss_type!r} and {self.label_smoothing_factor}"
            )


class PassAtNSFTTrainer(SFTTrainer):
    r"""[`~trl.SFTTrainer`] whose loss is :math:`-\log(1 - (1 - p)^N)` of every sequence, see :func:`log_pass_at_n`.

    p is the probability of all trained tokens of the sequence (of the completion, where there is one). Divided by the
    number of trained tokens of the batch, as TRL's loss is: with N = 1 it is TRL's. Logged besides: ``pass_at_n``, the
    mean probability that N samples hold the sequence, in place of TRL's token statistics.

    Args:
        model, args, train_dataset, ...: As TRL's; ``args`` a :class:`PassAtNSFTConfig`.

    Raises:
        TypeError: If ``args`` is no :class:`PassAtNSFTConfig`.
        ValueError: If a row of the dataset has no completion.
    """

    _name = "pass@N SFT"

    def __init__(self, model: Any, args: PassAtNSFTConfig, train_dataset: Any = None, **kwargs: Any) -> None:
        if not isinstance(args, PassAtNSFTConfig):
            raise TypeError(f"args must be a PassAtNSFTConfig, which has target_n, got {type(args).__name__}")
        check_completions(train_dataset)
        super().__init__(model, args, train_dataset=train_dataset, **kwargs)

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        labels = inputs["labels"][:, 1:]
        outputs = model(**{name: value for name, value in inputs.items() if name != "labels"}, use_cache=False)
        trained = labels != -100
        log_probs = torch.log_softmax(outputs.logits[:, :-1].float(), dim=-1)
        log_probs = log_probs.gather(-1, labels.masked_fill(~trained, 0).unsqueeze(-1)).squeeze(-1)
        found = log_pass_at_n(torch.where(trained, log_probs, 0.0).sum(1), self.args.target_n)
        # A row whose completion was cut off has p = 1 and no gradient.
        tokens = trained.sum() if num_items_in_batch is None else torch.as_tensor(num_items_in_batch)
        loss = -found.sum() / tokens.clamp(min=1)
        if self.args.average_tokens_across_devices and num_items_in_batch is not None:
            loss = loss * self.accelerator.num_processes
        mode = "train" if self.model.training else "eval"
        self._metrics[mode]["pass_at_n"].append(self.accelerator.gather_for_metrics(found.detach().exp()).mean().item())
        return (loss, outputs) if return_outputs else loss


def check_completions(dataset: Any) -> None:
    """Raise ValueError if a row of a prompt-completion dataset has no completion; streams are not looked at."""
    if not isinstance(dataset, Dataset) or "completion" not in dataset.column_names:
        return
    for row, completion in enumerate(dataset["completion"]):
        text = completion if isinstance(completion, str) or completion is None else completion[-1:]
        if not text or (not isinstance(text, str) and not text[0].get("content")):
            raise ValueError(f"row {row} of the dataset has no completion, got {completion!r}: nothing to learn from")


def bonbon_options(n: int, tokens: float, alpha: float = 0.005) -> dict[str, Any]:
    r"""Options of TRL's [`~trl.DPOConfig`] that make its loss BoNBoN's, for pairs of best and worst of n samples.

    .. math::
        \alpha \, (-\log \pi(y^+)) + (1 - \alpha) \left( \log \frac{\pi(y^+)}{\pi_0(y^+)}
        - \log \frac{\pi(y^-)}{\pi_0(y^-)} - (n - 1) \sum_{j=1}^{n-1} \frac{1}{j} \right)^2

    The last term is what the difference of the two log-ratios is on average where the policy is best of n of the
    reference: nothing is left to tune but alpha. TRL divides both losses by the number of tokens; with beta and the
    weights for completions of that length its loss is this one. Where lengths differ, a longer pair counts for less and
    its difference is asked to be larger in proportion. Source: BoNBoN, arXiv 2406.00832, whose alpha is the default.

        pairs = best_and_worst("outputs/eval")  # of n = 64 samples per prompt
        options = bonbon_options(64, np.mean(pairs["chosen_tokens"] + pairs["rejected_tokens"]))
        DPOTrainer(model, DPOConfig(output_dir="outputs/bonbon", **options), train_dataset=pairs).train()

    Args:
        n: Samples per prompt that best and worst were taken from, at least 2.
        tokens: Mean number of trained tokens in a completion, the end of sequence among them; above 0.
        alpha: Weight of fine-tuning on the best one, in [0, 1].

    Returns:
        ``loss_type``, ``beta`` and ``loss_weights``.

    Raises:
        ValueError: On an argument out of range.

    Checked by ``tests/trainers/test_sft.py``.
    """
    if not isinstance(n, int) or n < 2:
        raise ValueError(f"n must be an integer of at least 2, got {n!r}: best and worst of one sample are the same")
    if not tokens > 0:
        raise ValueError(f"tokens must be above 0, got {tokens!r}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha must be in [0, 1], got {alpha!r}")
    target = (n - 1) * sum(1 / j for j in range(1, n))
    return {
        "loss_type": ["sft", "ipo"],
        "beta": float(tokens / (2 * target)),
        "loss_weights": [float(alpha * tokens), float((1 - alpha) * tokens**2)],
    }


def best_and_worst(path: str | os.PathLike[str], reward: str | None = None) -> Dataset:
    """Pairs for preference training from a finished ``tea eval``: of each prompt the best and the worst sample.

    The data of BoNBoN (arXiv 2406.00832): fine-tuning on the best of n, contrastive on best against worst. Train on it
    with TRL's ``DPOTrainer`` and :func:`bonbon_options`.

    Args:
        path: Directory of the evaluation.
        reward: Which reward; may be left out if there is one.

    Returns:
        Columns prompt, chosen, rejected; chosen_reward, rejected_reward; chosen_tokens, rejected_tokens, their lengths.
        One row per prompt whose rewards differ; a warning says how many had none to tell apart.

    Raises:
        FileNotFoundError: If there is no finished evaluation.
        ValueError: If the reward is not there, or several are and none is named, or no prompt has two different ones.
    """
    import pyarrow.parquet as pq

    from tea.rollouts import load_run
    from tea.rollouts.io import REWARD_PREFIX

    names = list(load_run(path).rewards)
    chosen = names[0] if reward is None and len(names) == 1 else (reward or "").removeprefix(REWARD_PREFIX)
    if chosen not in names:
        raise ValueError(f"name the reward to choose by, got {reward!r}; the evaluation has: {', '.join(names)}")
    samples = pq.read_table(os.path.join(path, "samples.parquet")).to_pydict()
    values = np.array(samples[REWARD_PREFIX + chosen], dtype=float)
    ids = np.array(samples["prompt_id"])
    rows, alike = [], 0
    for prompt in dict.fromkeys(samples["prompt_id"]):
        own = np.flatnonzero((ids == prompt) & ~np.isnan(values))  # a sample without a reward is neither
        if len(own) == 0 or values[own].max() == values[own].min():
            alike += 1
            continue
        best, worst = int(own[values[own].argmax()]), int(own[values[own].argmin()])
        rows.append(
            {
                "prompt": samples["prompt"][best],
                "chosen": samples["completion"][best],
                "rejected": samples["completion"][worst],
                "chosen_reward": float(values[best]),
                "rejected_reward": float(values[worst]),
                "chosen_tokens": int(samples["num_tokens"][best]),
                "rejected_tokens": int(samples["num_tokens"][worst]),
            }
        )
    if not rows:
        raise ValueError(f"{path}: no prompt has two samples of different {chosen}")
    if alike:
        warnings.warn(
            f"{alike} of {alike + len(rows)} prompts have no two samples of different reward and make no pair",
            stacklevel=2,
        )
    return Dataset.from_list(rows)
