"""scorio's results: an integer array (M, N) of categories, ``.npy``, M questions and N trials of each.

The categories are taken as the rewards themselves: 0 and 1 for wrong and right, or grades that grow with quality.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tea.rollouts.formats import read_npy
from tea.rollouts.importers.base import Importer, Peek, Samples


def _recognises(peek: Peek) -> bool:
    if peek.suffix != ".npy":
        return False
    try:
        array = np.load(peek.path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError):
        return False
    return array.ndim == 2 and array.dtype.kind in "iub"


def _read(paths: Sequence[Path], texts: bool) -> Samples:
    (path,) = paths
    samples = Samples(dict(read_npy(path)), rewards=("reward",), default="reward", places=[(path, 0)])
    found = sorted({int(value) for row in samples.columns["reward"] for value in row})
    if not set(found) <= {0, 1}:
        samples.notes.append(f"categories {found[0]} to {found[-1]} are taken as rewards: the larger the better")
    return samples


IMPORTER = Importer(
    name="scorio",
    tool="categories as scorio takes them",
    looks_for=".npy with whole numbers, (questions, trials)",
    recognises=_recognises,
    read=_read,
)
