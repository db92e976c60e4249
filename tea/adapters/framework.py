"""What the adapters need of the frameworks: their modules, if installed, their versions and their configs."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from tea import _extras
from tea._extras import UntestedVersionWarning as UntestedVersionWarning

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


def warn_if_untested(package: str) -> None:
    """Warn (:class:`UntestedVersionWarning`) if the installed version is outside the range in ``TESTED``."""
    _extras.warn_if_untested(package, TESTED[package])


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
