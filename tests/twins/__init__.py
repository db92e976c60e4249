"""Small twins of the models and datasets that our configs name, made on the spot.

A twin has what the loading code can see of the original: architecture class, kind of tokenizer, special tokens, chat
template of the same shape, dataset columns and splits. Weights are random, text is made up.
"""

from tests.twins.datasets import DATASETS
from tests.twins.models import MODELS

__all__ = ["DATASETS", "MODELS", "SHORT_RUN", "make_twin"]

# What `tea train` is given on top of a config to run it on twins: two steps on a CPU.
SHORT_RUN = {
    "max_steps": 2,
    "save_steps": 2,
    "logging_steps": 1,
    "gradient_accumulation_steps": 1,
    "max_completion_length": 6,
    "held_out": 4,
    "eval_best_of_n_samples": 3,
    "eval_best_of_n_prompts": 2,
    "warmup_steps": 0,
    "use_cpu": "true",
    "bf16": "false",
}


def make_twin(name, folder):
    """Write the twin of a hub id below `folder`, and return its path."""
    path = folder / name.replace("/", "--")
    if not path.exists():
        {**MODELS, **DATASETS}[name](path)
    return str(path)
