"""Imports go one way; ALLOWED says which (the table in CONTRIBUTING.md)."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ALLOWED = {
    "estimators": set(),
    "rewards": set(),
    "adapters": {"estimators"},
    "bestofn": {"estimators"},
    "rollouts": {"rewards"},
    "report": {"bestofn"},
    "trainers": {"estimators", "bestofn", "rewards", "rollouts", "report"},
    "demo": {"estimators", "bestofn", "rewards", "rollouts", "report", "trainers"},
    "cli": {"estimators", "bestofn", "rewards", "rollouts", "report", "trainers", "demo"},
}

# What else a room may import; rooms that are not listed have their own reasons.
LIBRARIES = {
    "estimators": {"torch", "numpy", "scipy"},
    "bestofn": {"numpy", "scipy"},
    "report": {"numpy", "matplotlib", "jinja2"},
    "cli": {"typer", "rich"},
}
PURE = {"estimators", "bestofn"}  # numbers in, numbers out
FILES = {"os", "io", "pathlib", "json", "csv", "shutil", "tempfile", "subprocess"}
EXCEPTIONS = {("bestofn", "group_size.py"): {"torch"}}  # it tries the estimators out


def imports(path):
    """Every module that the file imports, wherever in it, as dotted names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module if not node.level else ".".join([*path.relative_to(ROOT).parts[: -node.level]])
            if node.module == "tea":
                yield from (f"tea.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", sorted((ROOT / "tea").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_upward_import(path):
    parts = path.relative_to(ROOT / "tea").parts
    layer = parts[0] if len(parts) > 1 else None
    for name in imports(path):
        if name.split(".")[0] in {"trl", "peft"} and layer is not None:
            assert layer in {"trainers", "demo"} or name != "trl", f"{path} imports {name}"
        if layer is None or not name.startswith("tea."):
            continue
        target = name.split(".")[1]
        if target in ALLOWED:
            assert target == layer or target in ALLOWED[layer], f"{layer} must not import {name}"
        else:
            assert target in ("__version__", "_extras", "_lazy"), f"{layer} must not import {name} from the top level"


@pytest.mark.parametrize("room", sorted(LIBRARIES))
def test_a_room_keeps_to_its_trade(room):
    for path in (ROOT / "tea" / room).rglob("*.py"):
        outside = {name.split(".")[0] for name in imports(path)} - {"tea"}
        libraries = outside - sys.stdlib_module_names
        assert libraries <= LIBRARIES[room] | EXCEPTIONS.get((room, path.name), set()), path
        assert room not in PURE or not outside & FILES, path
        if room == "bestofn" and path.name != "group_size.py":
            assert not any(name.startswith("tea.estimators") for name in imports(path)), path


def test_every_package_has_a_layer():
    packages = {p.parent.name for p in (ROOT / "tea").glob("*/__init__.py")}
    assert packages <= set(ALLOWED)


@pytest.mark.parametrize(
    ("statement", "absent"),
    [
        ("import tea", {"torch", "trl", "transformers", "scipy"}),
        ("import tea.cli", {"torch", "trl", "transformers", "scipy", "numpy"}),
        ("import tea; tea.tea_advantages", {"trl", "transformers", "datasets"}),
        ("import tea; tea.best_of_n_curve", {"trl", "transformers"}),
        ("import tea.rewards, tea.adapters", {"trl", "transformers"}),
    ],
)
def test_imports_are_lazy(statement, absent):
    code = f"{statement}; import sys; print(sorted({absent!r} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert result.stdout.strip() == "[]"
