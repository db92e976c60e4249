"""Inspect's logs, ``.eval`` or ``.json``: samples with id, epoch and one score per scorer.

The numbers come from the log itself (``EvalSample``, read in inspect-ai 0.3.285), so that Inspect need not be
installed. C, P and I count as 1, 0.5 and 0 and N (no answer) as 0, as by Inspect's ``value_to_float``. A scorer that
gives a dictionary of values makes a reward of each, ``scorer/key``. A sample that ended in an error has no reward.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tea.rollouts.importers.base import Importer, Peek, Samples, columns_of, is_number, text_of

_GRADES = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0, "yes": 1.0, "no": 0.0, "true": 1.0, "false": 0.0}
_ZSTD = 93


def _recognises(peek: Peek) -> bool:
    if peek.suffix == ".eval":
        return zipfile.is_zipfile(peek.path)
    return peek.suffix == ".json" and '"eval_id"' in peek.start


def _member(path: Path, archive: zipfile.ZipFile, name: str) -> bytes:
    """A file in the archive; zipfile itself reads zstandard from Python 3.14 on only."""
    entry = archive.getinfo(name)
    if entry.compress_type != _ZSTD:
        return archive.read(name)
    import pyarrow as pa

    with path.open("rb") as file:
        file.seek(entry.header_offset)
        header = file.read(30)  # lengths of the name and of the extra field stand in its last four bytes
        file.seek(int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little"), 1)
        raw = file.read(entry.compress_size)
    return bytes(pa.decompress(raw, decompressed_size=entry.file_size, codec="zstd", asbytes=True))


def _of_archive(path: Path) -> list[dict[str, Any]]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name for name in archive.namelist() if name.startswith("samples/") and name.endswith(".json")]
            return [json.loads(_member(path, archive, name)) for name in names]
    except (zipfile.BadZipFile, json.JSONDecodeError, OSError) as error:
        raise ValueError(f"{path}: not a readable Inspect log, perhaps cut short ({error})") from error


def _number(value: Any) -> float | None:
    if is_number(value):
        return float(value)
    return _GRADES.get(value) if isinstance(value, str) else None


def _read(paths: Sequence[Path], texts: bool) -> Samples:
    (path,) = paths
    if path.suffix.lower() == ".json":
        try:
            logged = json.loads(path.read_text(encoding="utf-8")).get("samples") or []
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}: line {error.lineno}: not valid JSON ({error.msg}), perhaps cut short") from error
    else:
        logged = _of_archive(path)
    if not logged:
        raise ValueError(f"{path}: the log holds no samples (log_samples=False, or it ended before the first)")
    logged.sort(key=lambda sample: sample["epoch"])
    rows, scorers = [], {}
    for sample in logged:
        row = {
            "id": sample["id"],
            "epoch": sample["epoch"],
            "prompt": text_of(sample["input"]),
            "completion": (sample.get("output") or {}).get("completion", ""),
            "answer": sample.get("target"),
        }
        for scorer, score in (sample.get("scores") or {}).items():
            value = score["value"]
            parts = (
                {f"{scorer}/{key}": v for key, v in value.items()} if isinstance(value, Mapping) else {scorer: value}
            )
            row.update({name: _number(part) for name, part in parts.items()})
            scorers.update(dict.fromkeys(name for name, part in parts.items() if _number(part) is not None))
        rows.append(row)
    columns = columns_of(rows)
    return Samples(dict(columns), key="id", rewards=tuple(scorers), places=[(path, len(rows))])


IMPORTER = Importer(
    name="inspect",
    tool="a log of Inspect",
    looks_for=".eval archive, or .json with eval_id, with samples",
    recognises=_recognises,
    read=_read,
)
