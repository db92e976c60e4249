"""The rewards of the tasks, as `tea train` and `tea eval` load them."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any


def right_answer(completions: list[str], answer: list[str], **columns: object) -> list[float]:
    """1 where the completion, a line, is the answer and nothing else; else 0."""
    return [float(text.strip() == right) for text, right in zip(completions, answer, strict=True)]


def words_used_fluently(completions: list[str], prompts: list[str], **columns: object) -> list[float]:
    """Share of the five given words that the sentence uses, times its fluency under the untrained model.

    Fluency is the root of exp of the mean log-probability of the sentence's tokens, given nothing: in (0, 1], about 0.1
    for a plain sentence and 0.001 for a bare list of the words. An empty line scores 0.
    """
    given = [re.findall(r"\w+", prompt.rsplit("Words:", 1)[1].split("\n")[0].lower()) for prompt in prompts]
    sentences = [text.strip() for text in completions]
    used = [
        sum(word in set(re.findall(r"\w+", text.lower())) for word in words) / len(words)
        for words, text in zip(given, sentences, strict=True)
    ]
    return [share * fluent for share, fluent in zip(used, _fluency(sentences), strict=True)]


@lru_cache(maxsize=1)
def _untrained() -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from benchmarks.language.model import prepare

    folder = prepare()
    tokenizer = AutoTokenizer.from_pretrained(folder, padding_side="right")
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval(), tokenizer


def _fluency(sentences: list[str]) -> list[float]:
    import torch

    model, tokenizer = _untrained()
    start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    found = []
    for first in range(0, len(sentences), 256):
        rows = [tokenizer(text)["input_ids"] for text in sentences[first : first + 256]]
        longest = max(map(len, rows), default=0)
        if longest == 0:
            found += [0.0] * len(rows)
            continue
        ids = torch.tensor([[start, *row, *[start] * (longest - len(row))] for row in rows])
        kept = torch.arange(longest)[None, :] < torch.tensor([len(row) for row in rows])[:, None]
        with torch.no_grad():
            logits = model(ids[:, :-1]).logits.float()
        log_probs = -torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
        count = kept.sum(1)
        mean = (log_probs * kept).sum(1) / count.clamp(min=1)
        found += torch.where(count > 0, (mean / 2).exp(), 0.0).tolist()
    return found
