"""The methods: each is what it adds to the options that all share."""

from __future__ import annotations

from typing import Any

M, N = 16, 128

# What every run has: the same prompts, rollouts and updates.
SHARED: dict[str, Any] = {
    "num_generations": M,
    "target_n": N,
    "per_device_train_batch_size": 4 * M,
    "max_steps": 24,
    "lr_scheduler_type": "constant",
    "loss_type": "dr_grpo",
    "share_prompts": True,
    "gradient_checkpointing": False,
    "dtype": "float32",
    "bf16": False,
    "save_strategy": "no",
    "logging_steps": 1,
    "report_to": "none",
}
LEARNING_RATES = (3e-6, 1e-5, 3e-5)

METHODS: dict[str, dict[str, Any]] = {
    "grpo": {"advantage_estimator": "grpo"},
    "grpo_kl": {"advantage_estimator": "grpo", "beta": 0.06},
    "dr_grpo": {"advantage_estimator": "dr_grpo", "scale_rewards": "none"},
    "max_rl": {"advantage_estimator": "max_rl"},
    "max_at_m": {"advantage_estimator": "max_at_k", "k": M},
    "pass_at_n": {"advantage_estimator": "pass_at_n"},
    "eb_bon": {"advantage_estimator": "eb_bon"},
    "tea_published": {"advantage_estimator": "tea", "monotone": False},
    "prefix_tea_published": {"advantage_estimator": "prefix_tea", "monotone": False},
    "max_at_2m_memory": {"advantage_estimator": "max_at_k", "k": 2 * M, "reward_memory": M},
    # Held to the untrained model, which keeps answers that training has not seen succeed.
    "pass_at_n_kl": {"advantage_estimator": "pass_at_n", "beta": 0.06},
    "max_at_m_kl": {"advantage_estimator": "max_at_k", "k": M, "beta": 0.06},
    # A quarter of the rollouts per prompt, and four times the prompts.
    "grpo_m4": {"advantage_estimator": "grpo", "num_generations": 4},
    "pass_at_n_kl_m4": {"advantage_estimator": "pass_at_n", "beta": 0.06, "num_generations": 4},
    # What the defaults were: every batch divided by its own scale, every group too, gradients clipped to one norm.
    "pass_at_n_old_scale": {
        "advantage_estimator": "pass_at_n",
        "normalize_advantages": "batch",
        "scale_rewards": "group",
        "max_grad_norm": 1.0,
    },
}
# Four times the prompts per update; with --max-steps 6 as many rollouts as the others.
METHODS |= {
    f"{name}_16_prompts": {**METHODS[name], "gradient_accumulation_steps": 4}
    for name in ("grpo", "max_at_m", "pass_at_n", "pass_at_n_kl")
}
MAIN = ("grpo", "grpo_kl", "pass_at_n", "pass_at_n_kl")
# What the README shows, of tasks with right and wrong answers and of graded ones.
SHORT, SHORT_GRADED = ("grpo", "pass_at_n_kl"), ("grpo", "max_at_m")
