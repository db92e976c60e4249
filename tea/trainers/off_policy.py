"""`off_policy_correction`: best of k for the policy as it is, from rollouts of the policy as it was.

With several optimizer steps per generation (`num_iterations`, `steps_per_generation`) the policy moves away from its
samples. GRPO's loss multiplies every rollout by its own importance ratio; best of k is about subsets of a group, and a
subset counts by the product of the ratios of all its members, see `tea.max_at_k_off_policy_advantages`. TRL shuffles
the rollouts before the loss sees them, so that a micro batch holds parts of groups. Hence, before every optimizer step
but the first of a generation, one pass without gradients over all rollouts of the generation: their ratios, gathered
and put back into groups, give the advantages of that step.

Private methods of TRL's trainer are overridden here, as in `tea/trainers/trainer.py`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from tea.estimators import Estimator, max_at_k_off_policy_advantages
from tea.trainers.config import TEAConfig
from tea.trainers.errors import UserError
from tea.trainers.resumable import ResumableGRPOTrainer

# What TRL's own passes over a batch are given of it, where a model sees more than text.
_FORWARD = (
    *("pixel_values", "image_grid_thw", "num_images", "pixel_attention_mask", "spatial_shapes", "num_tiles"),
    *("image_sizes", "token_type_ids", "mm_token_type_ids", "image_position_ids"),
)


def check_off_policy(args: TEAConfig, estimator: Any) -> None:
    """Raise ValueError unless the options go together with `off_policy_correction`."""
    if not args.off_policy_correction:
        return
    name = estimator.spec.name if isinstance(estimator, Estimator) else None
    if name != "max_at_k":
        raise ValueError(
            f"off_policy_correction is known for advantage_estimator='max_at_k' only, got {name or 'another'}: set "
            "that, or leave the correction out, or num_iterations and steps_per_generation at their defaults"
        )
    if args.reward_memory > 0:
        raise ValueError(
            "off_policy_correction cannot be had with reward_memory: remembered rewards have no importance ratios"
        )
    if estimator.options.get("monotone") or estimator.options.get("scale", "none") != "none":
        raise ValueError(
            "off_policy_correction needs scale_rewards 'auto' or 'none' and monotone unset: the corrected advantages "
            "are neither divided by a group's standard deviation nor projected"
        )


class CorrectsOffPolicy(ResumableGRPOTrainer):
    """The part of `AdvantageTrainer` that corrects for a policy that has moved since it sampled."""

    advantage_estimator: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._corrects = isinstance(self.args, TEAConfig) and self.args.off_policy_correction
        self._advantages_of_step: int | None = None  # the optimizer step whose policy the buffered advantages are for

    def _normalized(self, advantages: Tensor, valid: Tensor, mode: str) -> Tensor:
        raise NotImplementedError

    def _keep_for_correction(self, output: dict[str, Any], rewards: Tensor) -> None:
        """Add to the rollouts of this process what the correction needs, and TRL shuffles and splits with the rest."""
        if not self._corrects or not self.model.training:
            return
        local = len(output["advantages"])
        first = self.accelerator.process_index * local
        output["rollout_index"] = torch.arange(first, first + local, device=rewards.device)  # among all processes'
        output["rewards"] = rewards.flatten()[first : first + local]
        self._advantages_of_step = self.state.global_step

    def _prepare_inputs(self, generation_batch: Any) -> dict[str, Any]:
        inputs = super()._prepare_inputs(generation_batch)
        if not self._corrects or not self.model.training or self._advantages_of_step == self.state.global_step:
            return inputs
        # After an optimizer step, or in a run that goes on between two.
        self._correct()
        self._advantages_of_step = self.state.global_step
        return self._buffered_inputs[self._step % self.args.steps_per_generation]

    @torch.no_grad()
    def _correct(self) -> None:
        batches = self._buffered_inputs
        if "old_per_token_logps" not in batches[0]:  # one generation per step, or several: nothing has moved
            return
        own = {
            "log_ratio": torch.cat([self._log_ratios(batch) for batch in batches]),
            "rewards": torch.cat([batch["rewards"] for batch in batches]),
            "index": torch.cat([batch["rollout_index"] for batch in batches]),
        }
        gathered = self.accelerator.gather(own)
        order = gathered["index"].argsort()
        rewards, log_ratio = (gathered[name][order].view(-1, self.num_generations) for name in ("rewards", "log_ratio"))
        ratios = self._clipped_ratios(log_ratio)
        estimator = self.advantage_estimator
        valid = ~torch.isnan(rewards)
        advantages = max_at_k_off_policy_advantages(
            rewards,
            ratios,
            estimator.options["k"],
            own_ratio=False,  # the loss multiplies by it
            center=estimator.options.get("center", True),
        )
        advantages = torch.where(valid, advantages.to(rewards.dtype), 0.0)
        flat = self._normalized(advantages, valid, "eval").flatten()  # not another sample for a running scale
        for batch in batches:
            batch["advantages"] = flat[batch["rollout_index"]]

    def _log_ratios(self, batch: dict[str, Any]) -> Tensor:
        """(B,) logarithm of the probability of each completion now over that when it was sampled."""
        logps, *_ = self._get_per_token_logps_and_entropies(
            self.model,
            torch.cat([batch["prompt_ids"], batch["completion_ids"]], dim=1),
            torch.cat([batch["prompt_mask"], batch["completion_mask"]], dim=1),
            batch["completion_ids"].shape[1],
            **{name: batch[name] for name in _FORWARD if name in batch},
        )
        mask = batch["completion_mask"] * batch.get("tool_mask", 1)
        return torch.where(mask.bool(), logps - batch["old_per_token_logps"], 0.0).float().sum(1)

    def _clipped_ratios(self, log_ratio: Tensor) -> Tensor:
        """(P, m) ratios of whole completions, clipped; logs how far the policy has moved.

        Raises:
            UserError: If a ratio is not finite.
        """
        clip = self.args.off_policy_clip
        bound = math.inf if clip is None else math.log(clip)
        ratios = log_ratio.clamp(-bound, bound).exp()
        share = torch.softmax(log_ratio.flatten(), dim=0)  # of the sum of the ratios, without overflow
        measured = torch.stack(
            (
                torch.isfinite(ratios).all().float(),
                1.0 / (share.square().sum() * share.numel()),
                (log_ratio.abs() > bound).float().mean(),
            )
        )
        finite, effective, clipped = measured.tolist()  # the only transfer to the host
        if not finite:
            raise UserError(
                "off_policy_correction: an importance ratio is not finite, after "
                f"{self.state.global_step} steps: the policy has moved too far from the one that sampled, or has "
                "diverged. Lower learning_rate or num_iterations, or set off_policy_clip (2.0 by default)"
            )
        self._metrics["train"]["tea/off_policy_effective_share"].append(effective)
        self._metrics["train"]["tea/off_policy_clipped"].append(clipped)
        return ratios
