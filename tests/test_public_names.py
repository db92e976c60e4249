"""The public names of the lazy packages: what the stub says, what is there, and what a type checker sees."""

import ast
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAZY = sorted(
    ".".join(stub.parent.relative_to(ROOT).parts) for stub in (ROOT / "tea").rglob("__init__.pyi")
)  # tea, tea.bestofn, ...


@pytest.mark.parametrize("package", LAZY)
def test_stub_and_runtime_agree(package):
    module = importlib.import_module(package)
    stub = ast.parse(Path(module.__file__).with_suffix(".pyi").read_text())
    imported = {
        alias.asname: importlib.import_module("." * node.level + node.module, package)
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert set(module.__all__) - {"__version__"} == set(imported)
    assert set(module.__all__) <= set(dir(module))
    for name, home in imported.items():
        assert getattr(module, name) is getattr(home, name)
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'tee_advantages'"):
        _ = module.tee_advantages


def test_the_top_level_serves_every_estimator():
    import tea.estimators

    assert set(tea.__all__) == {*tea.estimators.__all__, "best_of_n_curve", "__version__"}


def test_names_that_moved_are_served_from_their_old_package():
    import tea.bestofn as old
    from tea import report, rollouts

    assert old.evaluate is rollouts.evaluate
    assert old.load_run is rollouts.load_run
    assert old.read_rewards is rollouts.read_rewards
    assert old.compare is report.compare
    assert old.write_report is report.write_report
    assert inspect.getmodule(old.best_of_n_curve).__name__.startswith("tea.bestofn.")


def test_a_type_checker_sees_the_types(tmp_path):
    pytest.importorskip("mypy")
    script = tmp_path / "user.py"
    script.write_text(
        "import tea\nfrom tea.bestofn import compare, read_rewards\nfrom tea.rewards import load_reward\n"
        "reveal_type(tea.best_of_n_curve([[1.0]]))\nreveal_type(read_rewards('f'))\nreveal_type(compare([]))\n"
        "reveal_type(load_reward('r'))\ntea.best_of_n_curve([[1.0]], levle=0.9)\ntea.tee_advantages\n"
    )
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml"), str(script)]
    found = subprocess.run(command, capture_output=True, text=True, cwd=ROOT).stdout
    for revealed in (
        "tea.bestofn.curve.BestOfNCurve",
        "tea.rollouts.grouping.RewardTable",
        "tea.report.comparison.Comparison",
        "tea.rewards.base.RewardFunction",
    ):
        assert f'note: Revealed type is "{revealed}"' in found
    assert 'Unexpected keyword argument "levle"' in found
    assert 'Module has no attribute "tee_advantages"' in found
    assert "Found 2 errors" in found
