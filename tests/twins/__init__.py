"""Small twins of the models and datasets that our configs name, made on the spot.

A twin has what the loading code can see of the original: architecture class, kind of tokenizer, special tokens, chat
template of the same shape, dataset columns and splits. Weights are random, text is made up.
"""

from tests.twins.datasets import DATASETS
from tests.twins.models import MODELS

__all__ = ["DATASETS", "MODELS", "make_twin"]


def make_twin(name, folder):
    """Write the twin of a hub id below `folder`, and return its path."""
    path = folder / name.replace("/", "--")
    if not path.exists():
        {**MODELS, **DATASETS}[name](path)
    return str(path)
