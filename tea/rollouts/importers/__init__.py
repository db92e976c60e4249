"""Files of rollouts that other tools have written, recognised by what is in them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from tea.rollouts.importers import evalscope, inspect_ai, lighteval, lm_eval, own, scorio, trl, verifiers, verl
from tea.rollouts.importers.base import Importer, Peek, Samples

IMPORTERS: dict[str, Importer] = {
    importer.name: importer
    for importer in (
        own.RUN,
        trl.IMPORTER,
        verl.IMPORTER,
        verifiers.IMPORTER,
        inspect_ai.IMPORTER,
        evalscope.IMPORTER,
        lm_eval.IMPORTER,
        lighteval.IMPORTER,
        scorio.IMPORTER,
        own.TABLE,
    )
}
"""By the name that ``--format`` takes; the first that recognises a file reads it."""

_SUFFIXES = (".parquet", ".jsonl", ".json", ".eval", ".npy")


def load_samples(
    path: str | os.PathLike[str], format: str | None = None, *, texts: bool = False
) -> tuple[Importer, Samples]:
    """Read a file, or the files of one evaluation or training run somewhere under a directory.

    Args:
        path: file or directory.
        format: name in :data:`IMPORTERS`; default: recognised by content.
        texts: whether the completions are wanted.

    Raises:
        FileNotFoundError: no such file or directory.
        ValueError: an empty file or directory, nothing that is recognised (with what was looked for), several tools'
            files or several evaluations in one directory (with their names), or as the importer.
    """
    source = Path(path)
    if format is not None and format not in IMPORTERS:
        raise ValueError(f"--format must be one of {', '.join(IMPORTERS)}, got {format!r}")
    if source.is_dir():
        importer, paths = _in_directory(source, format)
    else:
        if not source.is_file():
            raise FileNotFoundError(f"{source}: no such file")
        if source.stat().st_size == 0:
            raise ValueError(f"{source}: the file is empty")
        importer, paths = _of_file(source, format), [source]
    try:
        samples = importer.read(paths, texts)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(
            f"{source}: this is not what {importer.tool} looks like ({type(error).__name__}: {error}); "
            f"looked for: {importer.looks_for}. --format names another"
        ) from error
    return importer, samples


def _of_file(source: Path, format: str | None) -> Importer:
    if format is not None:
        return IMPORTERS[format]
    peek = Peek(source)
    for importer in IMPORTERS.values():
        if importer.recognises(peek):
            return importer
    raise ValueError(f"{source}: unknown kind of file {source.suffix!r}. {_what_is_known()}")


def _in_directory(source: Path, format: str | None) -> tuple[Importer, Sequence[Path]]:
    files = sorted(
        Path(folder, name)
        for folder, folders, names in os.walk(source)
        for name in names
        if Path(name).suffix.lower() in _SUFFIXES and not name.startswith(".")
    )
    candidates = [importer for importer in IMPORTERS.values() if importer.name != "table"]
    if format is not None:
        candidates = [IMPORTERS[format]]
    found: dict[str, list[Path]] = {}
    for file in files:
        if file.stat().st_size == 0:
            continue
        peek = Peek(file)
        importer = next((one for one in candidates if one.recognises(peek)), None)
        if importer is not None:
            found.setdefault(importer.name, []).append(file)
    if not found:
        if (source / "run.json").is_file() and not (source / "samples.parquet").is_file():
            raise FileNotFoundError(
                f"{source}: an evaluation by `tea eval` that has not finished; run the same command again to resume it"
            )
        held = f"{len(files)} files, none of which is recognised" if files else "no file of a known kind"
        raise ValueError(f"{source}: the directory holds {held}. {_what_is_known()}")
    if len(found) > 1:
        kinds = "; ".join(f"{name}: {len(paths)} ({paths[0].relative_to(source)})" for name, paths in found.items())
        raise ValueError(f"{source}: files of several tools, {kinds}. Name one with --format, or give its file")
    ((name, paths),) = found.items()
    importer = IMPORTERS[name]
    units = sorted({path.parent for path in paths}) if importer.several else paths
    if len(units) > 1:
        listed = ", ".join(str(unit.relative_to(source)) for unit in units[:6]) + (", ..." if len(units) > 6 else "")
        raise ValueError(f"{source}: {len(units)} of them ({importer.tool}): {listed}. Give one")
    return importer, paths


def _what_is_known() -> str:
    return "Looked for: " + "; ".join(f"{one.name}: {one.looks_for}" for one in IMPORTERS.values())
