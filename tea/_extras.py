"""What is not installed is said with the command that brings it, and what is installed but untested is said too."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

EXTRAS = {
    "trl": ("transformers", "trl", "peft", "accelerate", "datasets"),
    "vllm": ("vllm",),
}
"""Extra -> the modules that it brings (its distributions have the same names)."""


@contextmanager
def needs_extra(extra: str, what: str) -> Iterator[None]:
    """Imports inside it that fail for want of `extra` say so in one line.

    Raises:
        ModuleNotFoundError: With the pip command, if a module of that extra is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        module = (error.name or "").partition(".")[0]
        if module not in EXTRAS[extra]:
            raise
        raise ModuleNotFoundError(
            f"{what} needs {module}, which is not installed: pip install 'tea-rl[{extra}]'", name=module
        ) from None


def check_extra(extra: str, what: str) -> None:
    """Fail now, without importing anything, if a module of `extra` is not installed.

    Raises:
        ModuleNotFoundError: With the pip command.
    """
    with needs_extra(extra, what):
        for module in EXTRAS[extra]:
            if importlib.util.find_spec(module) is None:
                raise ModuleNotFoundError(name=module)


class UntestedVersionWarning(UserWarning):
    """An installed package is older or newer than every version that was tested."""


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0])[:3])


def warn_if_untested(package: str, tested: tuple[str, str]) -> None:
    """Warn (:class:`UntestedVersionWarning`) if the installed version is outside the tested range.

    Patch releases of the newest one count as tested; a package without a version says nothing.

    Args:
        package: As pip knows it.
        tested: The oldest and the newest tested version.
    """
    oldest, newest = tested
    try:
        version = importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return
    if _release(version) < _release(oldest) or _release(version)[:2] > _release(newest)[:2]:
        tested_range = f"{oldest} to {newest}" if oldest != newest else newest
        warnings.warn(
            f"{package} {version} is installed, tea was tested with {tested_range}: look at the first steps before a "
            "long run, and report what breaks",
            UntestedVersionWarning,
            stacklevel=4,
        )
