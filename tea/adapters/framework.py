"""What the adapters need of the frameworks: their modules, if installed, and their configs."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any


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
