"""Lazy packages: a package's public names stand once, in its ``__init__.pyi``, and are imported on first use.

Type checkers read the stub; so does :func:`attach`. The stub may import from other packages too (lazy-loader's
``attach_stub`` takes only the package's own modules): :mod:`tea.bestofn` still serves names that live elsewhere now.
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any


def attach(package: str, file: str) -> tuple[Callable[[str], Any], Callable[[], list[str]], list[str]]:
    """``__getattr__, __dir__, __all__`` (PEP 562) of a package whose stub holds ``from module import name as name``.

    Args:
        package: the package's ``__name__``.
        file: its ``__file__``, beside which the stub lies.
    """
    stub = ast.parse(Path(file).with_suffix(".pyi").read_text(encoding="utf-8"))
    home = {
        alias.asname: (f"{package}.{node.module}" if node.level else str(node.module), alias.name)
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname is not None  # without `as`, a name in a stub is not public
    }

    def __getattr__(name: str) -> Any:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        module, attribute = home[name]
        value = getattr(importlib.import_module(module), attribute)
        setattr(sys.modules[package], name, value)
        return value

    def __dir__() -> list[str]:
        return sorted({*vars(sys.modules[package]), *home})

    return __getattr__, __dir__, sorted(home)
