"""What a run is, in a form that its checkpoints keep: a checkpoint of another run is not resumed from by mistake."""

from __future__ import annotations

import datetime
import decimal
import hashlib
import json
import os
import pickle
from collections.abc import Mapping
from typing import Any

import torch

# A checkpoint that differs in one of these is of another run. What else differs changes how the run goes on.
_MUST_AGREE = ("estimator", "model", "data")
_SAMPLED_ROWS = 256


def task_key(example: Mapping[str, Any], columns: tuple[str, ...] | None = None) -> str:
    """A hash of a row of the dataset, over all of its columns or those named: the same in every process and tomorrow.

    All columns, because a reward function or an environment may tell tasks apart by any of them. Columns without a
    value do not count.
    """
    names = example if columns is None else columns
    content = {name: example[name] for name in names if example.get(name) is not None}
    return hashlib.blake2b(_encode(content), digest_size=16).hexdigest()


def _encode(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, default=_digest).encode()


def _digest(value: Any) -> str:
    """What stands in a hash for a value that JSON does not know."""
    if isinstance(value, (datetime.date, datetime.time, datetime.timedelta, decimal.Decimal)):
        return str(value)
    if isinstance(value, torch.Tensor):
        value = value.cpu().numpy()
    if hasattr(value, "tobytes"):  # an image or an array: two of another shape may have the same bytes
        shape = getattr(value, "shape", None) or getattr(value, "size", None)
        content = repr(shape).encode() + value.tobytes() if shape else value.tobytes()
    else:
        content = value if isinstance(value, bytes) else pickle.dumps(value)
    return hashlib.blake2b(content).hexdigest()


def describe_data(dataset: Any) -> dict[str, Any] | None:
    """Number of rows, columns, and a hash of up to 256 rows spread evenly; a streamed dataset's columns alone."""
    if dataset is None:
        return None
    columns = getattr(dataset, "column_names", None)
    description: dict[str, Any] = {"columns": sorted(columns) if columns else None}
    try:
        rows = len(dataset)
    except TypeError:
        return description
    sample = range(0, rows, max(1, -(-rows // _SAMPLED_ROWS)))
    keys = "".join(task_key(dataset[i]) for i in sample)
    return {"rows": rows, **description, "content": hashlib.blake2b(keys.encode(), digest_size=8).hexdigest()}


def describe_model(model: torch.nn.Module) -> dict[str, Any]:
    """Name, architecture, and the number of its parameters, all and trained."""
    config = getattr(model, "config", None)
    name = getattr(config, "_name_or_path", None) or None
    if name is not None and os.path.isdir(name):
        name = os.path.basename(os.path.normpath(name))  # the same files may lie elsewhere when the run goes on
    sizes = [
        (getattr(parameter, "ds_numel", parameter.numel()), parameter.requires_grad)  # ds_: DeepSpeed holds a shard
        for parameter in model.parameters()
    ]
    base = getattr(model, "get_base_model", None)
    return {
        "name": name,
        "architecture": type(base() if callable(base) else model).__name__,
        "parameters": sum(size for size, _ in sizes),
        "trained_parameters": sum(size for size, trained in sizes if trained),
    }


def compare_runs(checkpoint: Mapping[str, Any], current: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """How two descriptions of a run differ, field by field, in words.

    Returns:
        What makes it another run, and what only makes it go on in another way. Fields that one of the two does not
        have are not compared: another version of the library may describe more.
    """
    other_run: list[str] = []
    otherwise: list[str] = []
    before, now = _flat(checkpoint), _flat(current)
    for field in [name for name in now if name in before]:
        if before[field] != now[field]:
            text = f"{field} is {now[field]!r}, in the checkpoint {before[field]!r}"
            (other_run if field.split(".")[0] in _MUST_AGREE else otherwise).append(text)
    return other_run, otherwise


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in json.loads(json.dumps(tree, default=str)).items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
