"""Train for best-of-N with Unsloth's kernels. Needs a GPU.

python recipes/unsloth_train.py
"""

import unsloth
from datasets import load_dataset

from tea.trainers import TEAConfig, TEATrainer


def brevity(completions: list, **kwargs: object) -> list[float]:
    """Replace it by your reward: here a point off per 1000 characters."""
    return [-len(completion[0]["content"]) / 1000 for completion in completions]


def main() -> None:
    """Train a LoRA adapter of a small model."""
    model, tokenizer = unsloth.FastLanguageModel.from_pretrained("unsloth/Qwen3-0.6B", max_seq_length=1024)
    model = unsloth.FastLanguageModel.get_peft_model(model, r=32)
    trainer = TEATrainer(
        model=model,
        processing_class=tokenizer,
        reward_funcs=brevity,
        args=TEAConfig(output_dir="outputs/unsloth", num_generations=16, target_n=128, max_completion_length=256),
        train_dataset=load_dataset("trl-lib/ultrafeedback-prompt", split="train"),
    )
    trainer.train()


if __name__ == "__main__":
    main()
