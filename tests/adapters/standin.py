"""Stand-ins for frameworks that are not installed: modules put into sys.modules for a test."""

import sys
import types


def install(monkeypatch, name, **attributes):
    """A module of that dotted name, and its parents, with these attributes."""
    parts = name.split(".")
    for i in range(1, len(parts) + 1):
        monkeypatch.setitem(sys.modules, ".".join(parts[:i]), types.ModuleType(".".join(parts[:i])))
    for key, value in attributes.items():
        setattr(sys.modules[name], key, value)
    return sys.modules[name]
