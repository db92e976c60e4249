"""What a run must remember beyond weights, optimizer and random states, to go on exactly.

One place for it: whatever has ``state_dict()`` and ``load_state_dict()`` is added by name and is in every checkpoint
from then on::

    trainer.extra_state.add("reward_memory", memory)
"""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from tea.trainers.checkpoints import CheckpointError

EXTRA_STATE_FILE = "trainer_extra_state.pt"
OLD_MEMORY_FILE = "reward_memory.pt"  # of version 0.1, which kept nothing else


class Stateful(Protocol):
    """What can be kept in a checkpoint. The state is loaded weights-only: tensors, numbers, strings, lists, dicts."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


class ExtraState:
    """Named parts of a run's state, saved to and loaded from one file (and one more per process)."""

    def __init__(self) -> None:
        self._parts: dict[str, tuple[Stateful, bool]] = {}

    def add(self, name: str, part: Stateful, *, per_process: bool = False) -> None:
        """Keep ``part`` in every checkpoint under ``name``.

        Args:
            name: Unique in the run.
            part: Its state must be the same on all processes, unless ``per_process``.
            per_process: Every process saves and loads its own.

        Raises:
            ValueError: If the name is taken.
        """
        if name in self._parts:
            raise ValueError(f"there is already a part {name!r} in the extra state")
        self._parts[name] = (part, per_process)

    def save(self, folder: str | os.PathLike[str], process_index: int, *, shared: bool) -> None:
        """Write this process's parts, and those of all processes if ``shared``."""
        for path, per_process in self._files(folder, process_index):
            parts = {name: part.state_dict() for name, (part, own) in self._parts.items() if own == per_process}
            if parts and (per_process or shared):
                torch.save({"format": 1, "parts": parts}, path)

    def load(self, folder: str | os.PathLike[str], process_index: int) -> None:
        """Load every part. One that the checkpoint does not have is warned about, and stays as it is.

        Raises:
            CheckpointError: If a file cannot be read.
        """
        found: dict[str, Any] = {}
        for path, _ in self._files(folder, process_index):
            if path.is_file():
                found |= load_file(path)["parts"]
        old_memory = Path(folder) / OLD_MEMORY_FILE
        if old_memory.is_file():
            found.setdefault("reward_memory", load_file(old_memory))
        for name, (part, _) in self._parts.items():
            if name in found:
                part.load_state_dict(found[name])
            else:
                warnings.warn(
                    f"{os.fspath(folder)} has no {name.replace('_', ' ')}: the run goes on without it, and not exactly "
                    "as it would have without the interruption",
                    stacklevel=2,
                )
        unused = [name for name in found if name not in self._parts]
        if unused:
            warnings.warn(f"{os.fspath(folder)} holds what this run does not use: {', '.join(unused)}", stacklevel=2)

    @staticmethod
    def _files(folder: str | os.PathLike[str], process_index: int) -> list[tuple[Path, bool]]:
        shared = Path(folder) / EXTRA_STATE_FILE
        return [(shared, False), (shared.with_stem(f"{shared.stem}_{process_index}"), True)]


def load_file(path: Path) -> dict[str, Any]:
    """Load tensors and plain values, and nothing that could run code.

    Raises:
        CheckpointError: If the file is damaged or holds other objects.
    """
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True))
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{path} is damaged, or holds objects that are not loaded: {reason}") from error
