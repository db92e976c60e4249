"""`share_prompts`: a prompt is run once for all of its rollouts, when sampling and in the training pass.

Private methods of TRL's trainer are overridden here, as in `tea/trainers/trainer.py`.
"""

from __future__ import annotations

import itertools
from typing import Any

import torch
import trl
from torch import Tensor
from torch.nn.functional import pad
from trl.models.utils import unwrap_model_for_generation

from tea.rollouts.shared import sample_shared, why_not_shared
from tea.trainers.config import TEAConfig
from tea.trainers.errors import UserError
from tea.trainers.resumable import ResumableGRPOTrainer
from tea.trainers.shared_prompts import pack


class SharesPrompts(ResumableGRPOTrainer):
    """The part of `AdvantageTrainer` that shares prompts."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._share_prompts = isinstance(self.args, TEAConfig) and self.args.share_prompts
        if self._share_prompts:
            self._check_sharing()

    def _check_sharing(self) -> None:
        """Raise a UserError that says why `share_prompts` is not to be had here."""
        model = self.accelerator.unwrap_model(self.model)
        base = model.get_base_model() if hasattr(model, "get_base_model") else model
        kinds = set(getattr(base.config.get_text_config(), "layer_types", None) or ["full_attention"])
        reason: str | None
        if self.use_vllm or getattr(self, "use_transformers_continuous_batching", False):
            reason = "vLLM and continuous batching share prompts by themselves: unset it"
        elif not hasattr(trl.trainer.utils, "add_fused_lm_head"):
            reason = f"it needs a newer trl than {trl.__version__}"
        elif self.is_fsdp_enabled:
            reason = "it does not know FSDP"
        elif getattr(self, "tools", None) or getattr(self, "environment_factories", None):
            reason = "completions of several turns are not sampled by it"
        elif base.config._attn_implementation != "sdpa":
            reason = f"it needs attn_implementation sdpa, not {base.config._attn_implementation}"
        elif kinds != {"full_attention"}:
            reason = f"the model has layers of {', '.join(sorted(kinds - {'full_attention'}))}"
        else:
            reason = why_not_shared(base, self.generation_config)
        if reason:
            raise UserError(f"share_prompts: {reason}")

    def _generate_single_turn(self, prompt_ids: list[list[int]], *args: Any, **kwargs: Any) -> Any:
        if not self._share_prompts:
            return super()._generate_single_turn(prompt_ids, *args, **kwargs)
        groups = [(list(prompt), len(list(rows))) for prompt, rows in itertools.groupby(prompt_ids)]
        with unwrap_model_for_generation(
            self.model_wrapped,
            self.accelerator,
            gather_deepspeed3_params=self.args.ds3_gather_for_generation,
            gradient_checkpointing_kwargs=self.args.gradient_checkpointing_kwargs,
        ) as model:
            training = model.training
            model.eval()
            prompts, counts = zip(*groups, strict=True)
            completions = sample_shared(model, prompts, counts, self.generation_config, max_rows=len(prompt_ids))
            model.train(training)
        return completions, None

    def _get_per_token_logps_and_entropies(
        self,
        model: Any,
        input_ids: Tensor,
        attention_mask: Tensor,
        logits_to_keep: int,
        batch_size: int | None = None,
        compute_entropy: bool = False,
        **kwargs: Any,
    ) -> Any:
        if not self._share_prompts or any(value is not None and value is not False for value in kwargs.values()):
            return super()._get_per_token_logps_and_entropies(
                model, input_ids, attention_mask, logits_to_keep, batch_size, compute_entropy, **kwargs
            )
        logps, entropies = [], []
        for ids, mask in zip(
            input_ids.split(batch_size or len(input_ids)),
            attention_mask.split(batch_size or len(input_ids)),
            strict=True,
        ):
            length = ids.shape[1] - logits_to_keep
            packed = pack(ids[:, :length], mask[:, :length], ids[:, length:], mask[:, length:])
            with self.accelerator.autocast():
                output = model(
                    input_ids=packed.input_ids,
                    attention_mask=packed.attention_mask,
                    position_ids=packed.position_ids,
                    labels=packed.labels,
                    use_cache=False,
                    fused_lm_head=True,
                )
            logps.append(packed.unpack(pad(output.log_probs, (1, 0))))
            if compute_entropy:
                entropies.append(packed.unpack(pad(output.entropy, (1, 0))))
        return torch.cat(logps), torch.cat(entropies) if compute_entropy else None, None
