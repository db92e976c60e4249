"""What a benchmark stores beside its numbers, reading and writing results, and writing README tables."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

PACKAGES = ("torch", "numpy", "scipy")


def environment() -> dict[str, Any]:
    """Commit (with "+changes" where the tree has uncommitted ones), versions and hardware."""
    root = Path(__file__).resolve().parent.parent

    def git(*arguments: str) -> str:
        try:
            return subprocess.run(
                ["git", *arguments], cwd=root, capture_output=True, text=True, check=True
            ).stdout.strip()
        except (OSError, subprocess.CalledProcessError):
            return ""

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "tea", "benchmarks/*.py")
    return {
        "commit": git("rev-parse", "--short", "HEAD") + ("+changes" if changed else ""),
        "python": platform.python_version(),
        "versions": {package: version(package) for package in PACKAGES},
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {platform.system()}",
        "processor": _processor(),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically."""
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(value, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def finished_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSONL file, none if there is no file; a last line that a crash has cut off is left out."""
    if not path.is_file():
        return []
    # What does not end in a newline is not finished.
    *lines, _ = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines]


def append_row(path: Path, row: dict[str, Any], allow_nan: bool = False) -> None:
    """Append a line, on disk when this returns, in the place of one that a crash has cut off."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        if file.tell() > 0:
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":
                content = path.read_bytes()
                file.truncate(content.rfind(b"\n") + 1)
        file.write((json.dumps(row, allow_nan=allow_nan) + "\n").encode())
        file.flush()
        os.fsync(file.fileno())


def replace_section(path: Path, name: str, text: str) -> None:
    """Replace what stands between ``<!-- name -->`` and ``<!-- /name -->`` in a Markdown file."""
    content = path.read_text(encoding="utf-8")
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    if start not in content or end not in content:
        raise ValueError(f"{path} has no section {start} ... {end}")
    before, rest = content.split(start, 1)
    after = rest.split(end, 1)[1]
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(f"{before}{start}\n{text}\n{end}{after}", encoding="utf-8")
    os.replace(temporary, path)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows])


def describe(found: dict[str, Any]) -> str:
    """One line of provenance for under a table."""
    versions = ", ".join(f"{k} {v}" for k, v in found["versions"].items())
    return f"Commit {found['commit']}, Python {found['python']}, {versions}; {found['processor']}, {found['machine']}."
