"""What the adapters need of the frameworks: their modules, if installed, their versions and their configs."""

from __future__ import annotations

import importlib
import re
import warnings
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any

# The oldest and the newest version of each package that the adapters were run against; docs/frameworks.md says how.
TESTED: dict[str, tuple[str, str]] = {
    "google-tunix": ("0.1.7", "0.1.7"),
    "rlinf": ("0.3.0", "0.3.0"),
    "skyrl": ("0.3.0", "0.4.0"),
    "skyrl-train": ("0.3.1", "0.3.1"),
    "tinker-cookbook": ("0.6.1", "0.6.1"),
    "trinity-rft": ("0.6.0", "0.6.0"),
    "verl": ("0.9.1", "0.9.1"),
}


class UntestedVersionWarning(UserWarning):
    """An installed package is older or newer than every version that was tested."""


def _release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0])[:3])


def warn_if_untested(package: str, tested: tuple[str, str] | None = None) -> None:
    """Warn (:class:`UntestedVersionWarning`) if the installed version is outside the tested range.

    Patch releases of the newest one count as tested; a package without a version says nothing.

    Args:
        package: As pip knows it.
        tested: The oldest and the newest tested version. None: from ``TESTED``.
    """
    oldest, newest = TESTED[package] if tested is None else tested
    try:
        version = metadata.version(package)
    except metadata.PackageNotFoundError:
        return
    if _release(version) < _release(oldest) or _release(version)[:2] > _release(newest)[:2]:
        tested_range = f"{oldest} to {newest}" if oldest != newest else newest
        warnings.warn(
            f"{package} {version} is installed, tea was tested with {tested_range}: look at the first advantages "
            "before a long run, and report what breaks",
            UntestedVersionWarning,
            stacklevel=3,
        )


def import_framework(package: str, *modules: str) -> Any:
    """The first of ``modules`` that can be imported.

    Raises:
        ImportError: If none can, saying what was tried and why each failed.
    """
    failed = []
    for module in modules:
        try:
            return importlib.import_module(module)
        except ImportError as error:  # noqa: PERF203 (a list of two)
            failed.append(f"{module}: {error}")
    raise ImportError(f"this needs {package}, which cannot be imported ({'; '.join(failed)})")


def plain_options(config: Any) -> dict[str, Any] | None:
    """The mapping ``tea`` of a framework's config (mapping or object), as plain dict and lists; None if it has none.

    Raises:
        TypeError: If it is no mapping.
    """
    given = config.get("tea") if isinstance(config, Mapping) else getattr(config, "tea", None)
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise TypeError(f"tea in the config must be a mapping of estimator options, got {given!r}")
    return _plain(given)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(value[key]) for key in value}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value
