"""Checkpoints on disk: complete or absent, found again, and kept until the next one is there.

A checkpoint is written into ``.partial/`` inside the run's folder. When all of it is on the disk a manifest with the
size of every file is added, and the folder is renamed to ``checkpoint-STEP``. Nothing here imports torch or trl.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tea.trainers.errors import UserError

PARTIAL_DIR = ".partial"
MANIFEST_FILE = "manifest.json"
STATE_FILE = "trainer_state.json"
MANIFEST_FORMAT = 1

_CHECKPOINT = re.compile(r"^checkpoint-(\d+)$")
# One of these is in every folder that `save_model` has written to.
_MODEL_FILES = ("config.json", "adapter_config.json", "model.safetensors", "pytorch_model.bin")


class CheckpointError(UserError):
    """A checkpoint that cannot be written, read, or used for this run."""


def list_checkpoints(run_dir: str | os.PathLike[str]) -> list[Path]:
    """The folders ``checkpoint-STEP`` of a run, the lowest step first; complete or not."""
    folder = Path(run_dir)
    if not folder.is_dir():
        return []
    found = [(int(match[1]), path) for path in folder.iterdir() if (match := _CHECKPOINT.match(path.name))]
    return [path for _, path in sorted(found) if path.is_dir()]


def write_manifest(folder: Path, **content: Any) -> None:
    """Flush every file of the folder to the disk and write the manifest: sizes in bytes, and ``content``."""
    sizes = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            sizes[path.relative_to(folder).as_posix()] = path.stat().st_size
            _flush(path)
    manifest = folder / MANIFEST_FILE
    manifest.write_text(json.dumps({"format": MANIFEST_FORMAT, **content, "files": sizes}, indent=1) + "\n")
    _flush(manifest)
    for path in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        _flush(path)


def read_manifest(folder: str | os.PathLike[str]) -> dict[str, Any] | None:
    """What :func:`write_manifest` wrote; None for a checkpoint of another program, or of an earlier version.

    Raises:
        CheckpointError: If the manifest cannot be read.
    """
    path = Path(folder) / MANIFEST_FILE
    if not path.is_file():
        return None
    try:
        manifest = json.loads(path.read_text())
        if isinstance(manifest["files"], dict):
            return dict(manifest)
    except (OSError, ValueError, TypeError, KeyError):
        pass
    raise CheckpointError(f"{MANIFEST_FILE} is damaged")


def what_is_missing(folder: str | os.PathLike[str]) -> str | None:
    """Why a checkpoint is not complete, in a few words; None if it is.

    One without a manifest is complete if its trainer_state.json can be read and no file is empty.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return "there is no such folder"
    try:
        manifest = read_manifest(folder)
    except CheckpointError as error:
        return str(error)
    for name, size in (manifest["files"] if manifest is not None else {STATE_FILE: None}).items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if size is not None and path.stat().st_size != size:
            return f"{name} has {path.stat().st_size:,} of {size:,} bytes"
    if manifest is None:
        for path in sorted(folder.iterdir()):
            written = path.is_file() and path.suffix in {".json", ".pt", ".pth", ".safetensors", ".bin"}
            if written and path.stat().st_size == 0:
                return f"{path.name} is empty"
        try:
            json.loads((folder / STATE_FILE).read_text())["global_step"]
        except (OSError, ValueError, TypeError, KeyError):
            return f"{STATE_FILE} is damaged"
    return None


def newest_complete(run_dir: str | os.PathLike[str]) -> tuple[Path | None, dict[str, str]]:
    """The complete checkpoint with the highest step, and what is wrong with those above it, by name.

    Raises:
        CheckpointError: If there are checkpoints and none of them is complete.
    """
    skipped: dict[str, str] = {}
    for path in reversed(list_checkpoints(run_dir)):
        reason = what_is_missing(path)
        if reason is None:
            return path, skipped
        skipped[path.name] = reason
    if skipped:
        listed = "; ".join(f"{name}: {reason}" for name, reason in skipped.items())
        raise CheckpointError(
            f"{os.fspath(run_dir)!r} has no complete checkpoint to go on from ({listed}); remove these to begin anew"
        )
    return None, skipped


def check_complete(folder: str | os.PathLike[str]) -> None:
    """Raise CheckpointError, with what is missing, unless the checkpoint is complete."""
    reason = what_is_missing(folder)
    if reason is not None:
        raise CheckpointError(
            f"checkpoint {os.fspath(folder)!r} cannot be resumed from: {reason}; 'auto' takes the newest complete one"
        )


def publish(partial: Path, final: Path) -> None:
    """Rename a finished folder to its place; what is there already, of the same step, is deleted after that."""
    old = partial.with_name(f"{partial.name}.replaced")
    if final.exists():
        os.replace(final, old)
    os.replace(partial, final)
    _flush(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def publish_files(partial: Path, folder: Path) -> None:
    """Move finished files into a folder that holds others; config.json, without which nothing loads, comes last."""
    for path in sorted(partial.iterdir(), key=lambda path: path.name in _MODEL_FILES[:2]):
        _flush(path)
        os.replace(path, folder / path.name)
    _flush(folder)


def rotate(run_dir: str | os.PathLike[str], limit: int | None, keep: Mapping[str, Any] | set[str | None]) -> None:
    """Delete the oldest checkpoints beyond ``limit`` (None or 0: none), but no folder in ``keep``."""
    if not limit or limit < 1:
        return
    kept = {os.path.realpath(path) for path in keep if path is not None}
    found = list_checkpoints(run_dir)
    surplus = len(found) - max(limit, len(kept))
    for path in found:
        if surplus > 0 and os.path.realpath(path) not in kept:
            shutil.rmtree(path, ignore_errors=True)
            surplus -= 1


def holds_a_model(output_dir: str | os.PathLike[str]) -> str | None:
    """The file that says that a model has been saved there; None if there is none."""
    return next((name for name in _MODEL_FILES if (Path(output_dir) / name).exists()), None)


def _flush(path: Path) -> None:
    """Until then a crash of the machine may lose what has been written (and a folder's renames)."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:  # some network file systems cannot flush folders
        if not path.is_dir():
            raise
    finally:
        os.close(descriptor)
