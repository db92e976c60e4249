"""A sequence-classification model as a reward function."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch

from tea._extras import needs_extra
from tea.rewards.base import Text, reward_text

with needs_extra("trl", "a reward model"):
    from transformers import (
        AutoConfig,
        AutoModelForSequenceClassification,
        AutoTokenizer,
        PreTrainedModel,
        PreTrainedTokenizerBase,
    )


class RewardModel:
    """Scores prompt + completion with the single logit of a sequence-classification model.

    The text is built as TRL's GRPOTrainer builds it for reward models: conversations through the reward tokenizer's
    chat template, plain text by concatenation, no special tokens added, padded on the right.

    Args:
        model: model id, local path, or a loaded model with one label.
        tokenizer: the reward model's tokenizer; loaded from `model`'s path by default.
        name: name of the reward (column name, logs); default: last part of the model's path.
        batch_size: texts per forward pass; texts are sorted by length first.
        batch_tokens: tokens per forward pass, padding included, beside `batch_size`; default: no such bound.
        max_length: texts longer than this many tokens raise; default: the model's `max_position_embeddings`.
        device: where to put the model; default: CUDA if present (for one of several processes, its own), for a loaded
            model where it is.
        dtype: weights' dtype when loading, "auto" for the checkpoint's own.
        quantization: "8bit" or "4bit" (NF4) weights through bitsandbytes, which needs a GPU; untested by this
            project. None: the weights as they are.
        trust_remote_code: passed to transformers.

    Raises:
        ValueError: the model has more than one label or no trained score head, no padding token can be found, or
            `batch_size` < 1.
    """

    def __init__(
        self,
        model: str | PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        name: str | None = None,
        batch_size: int = 32,
        batch_tokens: int | None = None,
        max_length: int | None = None,
        device: str | torch.device | None = None,
        dtype: str | torch.dtype = "auto",
        quantization: str | None = None,
        trust_remote_code: bool = False,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if batch_tokens is not None and batch_tokens < 1:
            raise ValueError(f"batch_tokens must be at least 1, got {batch_tokens}")
        if quantization not in (None, "8bit", "4bit"):
            raise ValueError(f"quantization must be '8bit' or '4bit', got {quantization!r}")
        if isinstance(model, str):
            self.source = model
            device = device or default_device()
            quantized = {} if quantization is None else _quantized(quantization, dtype, device)
            loaded: Any = load_scorer(model, dtype=dtype, trust_remote_code=trust_remote_code, **quantized)
            device = None if quantized else device  # bitsandbytes has put it there
        else:
            self.source = model.config._name_or_path or type(model).__name__
            loaded = model
        check_one_label(loaded.config)
        if tokenizer is None:
            tokenizer = AutoTokenizer.from_pretrained(self.source, trust_remote_code=trust_remote_code)
        if tokenizer.pad_token_id is None:
            if tokenizer.eos_token is None:
                raise ValueError(
                    f"the tokenizer of reward model {self.source!r} has neither a padding nor an end token"
                )
            tokenizer.pad_token = tokenizer.eos_token
        # Sequence classifiers read the logit at the last token that is not padding: they must know which it is.
        loaded.config.pad_token_id = tokenizer.pad_token_id
        self.model = loaded.eval() if device is None else loaded.to(device).eval()
        self.tokenizer = tokenizer
        self.batch_size = batch_size
        self.batch_tokens = batch_tokens
        self.max_length = max_length or getattr(loaded.config, "max_position_embeddings", None)
        self.fingerprint = weights_fingerprint(loaded)
        self.__name__ = name or self.source.rstrip("/").split("/")[-1]

    def __call__(self, prompts: Sequence[Text], completions: Sequence[Text], **kwargs: Any) -> list[float | None]:
        """Score each completion; see :class:`tea.rewards.RewardFunction`.

        Raises:
            ValueError: a text is longer than `max_length` tokens, or conversations are given and the tokenizer has
                no chat template.
        """
        if len(completions) == 0:
            return []
        texts = [
            reward_text(self.tokenizer, prompt, completion, self.source)
            for prompt, completion in zip(prompts, completions, strict=True)
        ]
        ids = self.tokenizer(texts, add_special_tokens=False)["input_ids"]
        lengths = torch.tensor([len(row) for row in ids])
        if self.max_length is not None and int(lengths.max()) > self.max_length:
            index = int(lengths.argmax())
            raise ValueError(
                f"completion {index} with its prompt is {int(lengths[index])} tokens, more than the {self.max_length} "
                f"that reward model {self.source!r} takes; nothing is cut silently"
            )
        order = torch.argsort(lengths, stable=True).tolist()
        scores = torch.empty(len(ids), dtype=torch.float64)
        for batch in self._batches(order, lengths.tolist()):
            scores[batch] = self._forward([ids[i] for i in batch])
        return list(scores.tolist())

    def _batches(self, order: list[int], lengths: list[int]) -> Iterator[list[int]]:
        """`order`, shortest text first, in batches within `batch_size` and `batch_tokens`."""
        batch: list[int] = []
        for index in order:
            too_many = self.batch_tokens is not None and (len(batch) + 1) * lengths[index] > self.batch_tokens
            if batch and (len(batch) == self.batch_size or too_many):
                yield batch
                batch = []
            batch.append(index)
        yield batch

    @torch.no_grad()
    def _forward(self, rows: list[list[int]]) -> torch.Tensor:
        # The tokenizer's own padding side may be the policy's (left): a reward model is padded on the right.
        inputs = self.tokenizer.pad({"input_ids": rows}, padding=True, padding_side="right", return_tensors="pt")
        logits = self.model(**inputs.to(self.model.device)).logits
        return logits[:, 0].double().cpu()


def _quantized(kind: str, dtype: str | torch.dtype, device: str | torch.device) -> dict[str, Any]:
    from transformers import BitsAndBytesConfig

    compute = torch.bfloat16 if dtype == "auto" else dtype
    if kind == "8bit":
        config = BitsAndBytesConfig(load_in_8bit=True)
    else:
        config = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=compute)
    return {"quantization_config": config, "device_map": {"": device}}


class UntrainedScorer(ValueError):
    """A model that gives something else than one trained score."""


def check_one_label(config: Any) -> None:
    """Raise UntrainedScorer, with its labels, unless the model that `config` is of has exactly one."""
    if config.num_labels != 1:
        labels = ", ".join(str(label) for label in list(config.id2label.values())[:5])
        raise UntrainedScorer(
            f"reward model {config._name_or_path!r} has {config.num_labels} labels ({labels}); a reward needs exactly 1"
        )


def load_scorer(source: str, **options: Any) -> PreTrainedModel:
    """Load a sequence-classification model with one label, and with all of its weights from the checkpoint.

    Args:
        source: model id or local path.
        options: for `from_pretrained`: dtype, revision, trust_remote_code, ...

    Raises:
        UntrainedScorer: the model has more than one label, or weights that the checkpoint does not have (a causal
            language model gets a random score head, and scores at random).
    """
    shared = {name: options[name] for name in ("revision", "trust_remote_code") if name in options}
    config = AutoConfig.from_pretrained(source, **shared)
    classifies = any("SequenceClassification" in name for name in config.architectures or [])
    if classifies:
        check_one_label(config)
    model, info = AutoModelForSequenceClassification.from_pretrained(
        source, num_labels=1, output_loading_info=True, **options
    )
    missing = sorted(info["missing_keys"])
    if missing and not getattr(model, "_hf_peft_config_loaded", False):  # an adapter brings its head by itself
        kind = f" (it is a {config.architectures[0]})" if config.architectures else ""
        raise UntrainedScorer(
            f"reward model {source!r} has no trained score head{kind}: {', '.join(missing[:3])} would be random; give "
            "a model that was trained as a reward model (AutoModelForSequenceClassification with one label)"
        )
    return cast(PreTrainedModel, model)


def weights_fingerprint(model: torch.nn.Module) -> str:
    """A hash of every parameter's name, shape and a sample of its values: tells retrained weights from the old ones."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        flat = parameter.detach().reshape(-1)
        sample = flat[:: max(1, flat.numel() // 64)][:64].float().cpu()
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        digest.update(sample.numpy().tobytes())
    return digest.hexdigest()[:16]


def default_device() -> str:
    """CUDA if present, on the device of this process where a launcher started several; else the CPU."""
    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{int(os.environ.get('LOCAL_RANK', '0')) % torch.cuda.device_count()}"
