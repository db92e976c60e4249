"""Runs `tea`, as a user would: nothing of the benchmark is private."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def tea(*arguments: str, log: Path) -> None:
    """Run a command of the product, its output into a file.

    Raises:
        SystemExit: If it fails, with the end of its output.
    """
    with log.open("w") as out:
        done = subprocess.run(
            [sys.executable, "-m", "tea", *arguments], stdout=out, stderr=subprocess.STDOUT, check=False
        )
    if done.returncode != 0:
        raise SystemExit(f"tea {' '.join(arguments)} failed:\n{log.read_text()[-3000:]}")
