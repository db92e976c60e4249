"""What `tea train --dry-run` says a run takes: counted by hand, and against what PyTorch keeps."""

import pytest
import torch
import trl
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM
from trl import ModelConfig

from tea.trainers import TEAConfig
from tea.trainers.estimate import (
    _SAVED,
    Sizes,
    checkpoint_bytes,
    evaluations,
    hours,
    memory,
    peak,
    rows_together,
    sizes_of,
    steps_and_rollouts,
)


def test_sizes_of_a_full_and_a_lora_model(model_path):
    config = AutoConfig.from_pretrained(model_path)
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
    count = sum(p.numel() for p in model.parameters())
    full = sizes_of(config, ModelConfig(dtype="float32"))
    assert (full.parameters, full.trained, full.weight_bytes) == (count, count, 4.0)
    # 2 layers, 2 heads of 16, of keys and values 1: these of 4 bytes each.
    assert (full.attention, full.normalised_attention) == ((2 + 1) * 16, False)
    assert full.cache_per_token == 2 * 2 * 1 * 16 * 4
    assert checkpoint_bytes(full) == 12 * count
    lora = sizes_of(
        config, ModelConfig(dtype="bfloat16", use_peft=True, lora_r=4, lora_target_modules=["q_proj", "o_proj"])
    )
    # rank 4 on two square 32 x 32 projections of two layers
    assert lora.trained == 2 * 2 * 4 * (32 + 32)
    assert lora.parameters == count + lora.trained
    assert (lora.weight_bytes, lora.trained_bytes) == (2.0, 4.0)
    assert lora.cache_per_token == full.cache_per_token / 2


SIZES = Sizes(
    parameters=1000,
    trained=1000,
    layers=2,
    hidden=32,
    intermediate=64,
    attention=48,
    normalised_attention=False,
    vocabulary=300,
    cache_per_token=256.0,
    weight_bytes=4.0,
    trained_bytes=4.0,
)


def arguments(**options):
    defaults = {"num_generations": 4, "per_device_train_batch_size": 8, "max_completion_length": 10, "max_steps": 5}
    quiet = {"output_dir": "unused", "use_cpu": True, "bf16": False, "gradient_checkpointing": False}
    return TEAConfig(**{**quiet, **defaults, **options})


@pytest.mark.skipif(not hasattr(trl.trainer.utils, "add_fused_lm_head"), reason="this trl has no fused head")
def test_memory_by_hand():
    always, training, generating = memory(SIZES, arguments(), prompt_length=6, reward=100.0).values()
    assert always == {"weights": 4000, "AdamW": 8000, "reward models": 100}
    layer = 24 * 32 + 16 * 64 + 8 * 48
    # The fused head: eight float32 copies of a tile on a CPU, and the gradient of its weights.
    logits = 32 * 8 * 16 * 300 + 4 * 300 * 32
    assert training == {"activations": 8 * 16 * 2 * layer, "logits": logits, "gradients beyond these": 0}
    assert generating == {"keys and values": 8 * 16 * 256, "sampling": 12 * 8 * 300}
    args = arguments(gradient_checkpointing=True, beta=0.1, gradient_accumulation_steps=2)
    parts = memory(SIZES, args, prompt_length=6, reward=0.0)
    assert parts["while training"]["gradients"] == 4000
    assert parts[""] == {"weights": 4000, "AdamW": 8000, "reference model": 4000}
    assert parts["while training"]["activations (checkpointed)"] == 8 * 16 * (2 * 32 * 4 + layer)
    assert peak(parts) == 16000 + sum(parts["while training"].values())
    # Held-out prompts are sampled in batches of their own size.
    args = arguments(eval_best_of_n_steps=2, per_device_eval_batch_size=4000)
    parts = memory(SIZES, args, prompt_length=6, reward=0.0)
    assert parts["while generating"]["keys and values"] == 4000 * 16 * 256
    assert peak(parts) == 12000 + sum(parts["while generating"].values())


def test_steps_and_rollouts_by_hand():
    args = arguments()
    assert steps_and_rollouts(args, prompts=100) == (5, 8, 40)
    # 2 prompts per generation batch, 8 of them an epoch, two updates of each batch, three epochs.
    args.max_steps, args.num_iterations = -1, 2
    assert steps_and_rollouts(args, prompts=17) == (48, 8, 192)
    assert steps_and_rollouts(args, prompts=None) == (None, 8, None)


def test_evaluations_are_counted():
    assert evaluations(arguments(), 5, 30) == (0, 0)
    # Before training, after 2 and 4 steps and after the last; 20 prompts of 128 samples.
    best_of_n = {"eval_best_of_n_steps": 2, "eval_best_of_n_prompts": 20, "target_n": 128}
    assert evaluations(arguments(**best_of_n), 5, 30) == (4, 20 * 128)
    assert evaluations(arguments(**{**best_of_n, "eval_best_of_n_prompts": 0}), 4, 30) == (3, 30 * 128)
    assert evaluations(arguments(**best_of_n, eval_best_of_n_samples=8), None, 30) is None
    # TRL's evaluation takes all prompts, with num_generations each.
    plain = {"eval_strategy": "steps", "eval_steps": 2, "num_generations_eval": 2}
    assert evaluations(arguments(**plain), 4, 30) == (2, 60)
    assert evaluations(arguments(eval_strategy="epoch", num_train_epochs=3), 12, 30) == (3, 120)


def test_hours_add_up():
    args = arguments(eval_best_of_n_steps=2)
    one, two = hours(SIZES, args, 6.0, 96, 10), hours(SIZES, args, 6.0, 192, 10)
    assert two == pytest.approx(2 * one)
    held_out = hours(SIZES, args, 6.0, 0, 10, measured=96)
    assert hours(SIZES, args, 6.0, 96, 10, measured=96) == pytest.approx(one + held_out)
    assert 0 < held_out < one  # they are not trained on
    assert rows_together(args) == 8


def saved_bytes(model, tokens, *, autocast):
    """What is kept for the backward pass of the layers, each tensor's memory once, without the parameters."""
    parameters = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = (storage.nbytes(), tensor)  # held on to, so that no address is used again
        return tensor

    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    with (
        torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast),
    ):
        base.model(input_ids=torch.zeros(2, tokens, dtype=torch.long), use_cache=False)
    return sum(size for size, _ in kept.values())


@pytest.mark.parametrize("kind", _SAVED)
@pytest.mark.parametrize(
    ("config_class", "model_class"), [(LlamaConfig, LlamaForCausalLM), (Qwen3Config, Qwen3ForCausalLM)]
)
def test_activations_are_what_pytorch_keeps(config_class, model_class, kind):
    found = {}
    for layers in (1, 2):
        for tokens in (16, 48):
            config = config_class(
                vocab_size=64, hidden_size=256, intermediate_size=512, num_hidden_layers=layers, head_dim=32,
                num_attention_heads=8, num_key_value_heads=4, attn_implementation="sdpa",
            )  # fmt: skip
            model = model_class(config)
            if kind == "bfloat16":
                lora = LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM")
                model = get_peft_model(model.to(torch.bfloat16), lora)
            found[layers, tokens] = saved_bytes(model, tokens, autocast=kind != "float32")
    # A layer and a token more, without what there is once: the weights that autocast has rounded.
    per_token = (found[2, 48] - found[1, 48] - found[2, 16] + found[1, 16]) / (2 * 32)
    sizes = sizes_of(config, ModelConfig(dtype="float32"))
    units = (sizes.hidden, sizes.intermediate, sizes.attention, sizes.attention * sizes.normalised_attention)
    assert sizes.normalised_attention == (model_class is Qwen3ForCausalLM)
    assert per_token == pytest.approx(sum(a * b for a, b in zip(_SAVED[kind], units, strict=True)), rel=0.05)
