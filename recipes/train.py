"""Train a language model for best-of-N.

    accelerate launch recipes/train.py --config configs/tea_ultrafeedback.yaml
    accelerate launch recipes/train.py --config configs/tea_ultrafeedback.yaml --target_n 512 --learning_rate 2e-6

Any field of TEAConfig (and so of TRL's GRPOConfig), ModelConfig and TrainArguments is a key of the YAML file and a
flag on the command line; `--help` lists them. To use a reward of your own without packaging it, write it here.
"""

from tea.trainers.script import command


def brevity(completions: list, **kwargs) -> list[float]:
    """An example of a reward function: pass it in `reward_funcs` below to subtract a point per 1000 characters."""
    texts = [c if isinstance(c, str) else c[-1]["content"] for c in completions]
    return [-len(text) / 1000 for text in texts]


if __name__ == "__main__":
    command(reward_funcs=[])
