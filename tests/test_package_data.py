"""What is no Python file and yet belongs to the package: without its stubs, not even ``import tea`` works."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_a_build_holds_stubs_and_templates(tmp_path):
    pytest.importorskip("setuptools", minversion="77")
    command = ["egg_info", "--egg-base", str(tmp_path), "build_py", "--build-lib", str(tmp_path / "lib")]
    code = f"import sys, setuptools; sys.argv = ['setup.py', *{command!r}]; setuptools.setup()"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
    built = {path.relative_to(tmp_path / "lib") for path in (tmp_path / "lib").rglob("*") if path.is_file()}
    expected = {
        path.relative_to(ROOT)
        for path in (ROOT / "tea").rglob("*")
        if path.is_file() and path.suffix in (".py", ".pyi", ".typed", ".j2")
    }
    assert Path("tea/report/page.html.j2") in expected
    assert built >= expected
    code = "import tea.bestofn, tea.report; assert 'lib' in tea.__file__; tea.best_of_n_curve; tea.report.write_report"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path / "lib", env={"PYTHONPATH": ""}, check=True)
