"""Twins of policies and reward models."""

from functools import partial

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3ForSequenceClassification,
)

# Written anew in the shape of the originals: what matters is which tokens stand where.
LLAMA3_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|start_header_id|>{{ message['role'] }}<|end_header_id|>\n\n"
    "{{ message['content'] | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
CHATML_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
SPECIAL = {
    "llama": [
        "<|begin_of_text|>",
        "<|end_of_text|>",
        "<|start_header_id|>",
        "<|end_header_id|>",
        "<|eot_id|>",
        "<|pad|>",
    ],
    "qwen": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
}


def tokenizer(family):
    """Byte-level BPE, as both families have; Llama's has no padding token, and Qwen's no first one."""
    core = Tokenizer(models.BPE(unk_token=None))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=SPECIAL[family],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(["how many teas does she pour into each cup"] * 4, trainer)
    tokens = (
        {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
        if family == "llama"
        else {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    )
    wrapped = PreTrainedTokenizerFast(tokenizer_object=core, **tokens)
    wrapped.chat_template = LLAMA3_TEMPLATE if family == "llama" else CHATML_TEMPLATE
    return wrapped


def write(path, family, config_class, model_class, *, reward=False, template=True, **options):
    """Write a model of two layers and its tokenizer to `path`."""
    words = tokenizer(family)
    if not template:
        words.chat_template = None
    sizes = {
        "vocab_size": len(words),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "bos_token_id": words.bos_token_id,
        "eos_token_id": words.eos_token_id,
        "pad_token_id": words.pad_token_id,
        "initializer_range": 0.2,
    }
    torch.manual_seed(len(str(model_class)))
    config = config_class(**sizes, **({"num_labels": 1} if reward else {}), **options)
    # Checkpoints of the originals are bfloat16.
    model_class(config).to(torch.bfloat16).save_pretrained(path)
    words.save_pretrained(path)


_llama = partial(write, family="llama", config_class=LlamaConfig, model_class=LlamaForCausalLM)
_llama_tied = partial(_llama, tie_word_embeddings=True)
_qwen3 = partial(write, family="qwen", config_class=Qwen3Config, model_class=Qwen3ForCausalLM, head_dim=16)
_qwen3_tied = partial(_qwen3, tie_word_embeddings=True)
_qwen2 = partial(write, family="qwen", config_class=Qwen2Config, model_class=Qwen2ForCausalLM, tie_word_embeddings=True)
_llama_reward = partial(
    write, family="llama", config_class=LlamaConfig, model_class=LlamaForSequenceClassification, reward=True
)
_qwen3_reward = partial(
    write, family="qwen", config_class=Qwen3Config, model_class=Qwen3ForSequenceClassification, reward=True, head_dim=16
)

MODELS = {
    "meta-llama/Llama-3.2-1B-Instruct": _llama_tied,
    "meta-llama/Llama-3.1-8B-Instruct": _llama,
    "Qwen/Qwen3-4B-Instruct-2507": _qwen3_tied,
    "Qwen/Qwen3-0.6B": _qwen3_tied,
    "Qwen/Qwen2.5-0.5B-Instruct": _qwen2,
    "Skywork/Skywork-Reward-V2-Llama-3.1-8B": _llama_reward,
    "Skywork/Skywork-Reward-V2-Qwen3-8B": _qwen3_reward,
    "Skywork/Skywork-Reward-V2-Qwen3-0.6B": _qwen3_reward,
}
