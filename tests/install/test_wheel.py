"""The wheel has everything that the package reads at run time."""

import os
import subprocess
import sys
import zipfile

import pytest

from tests.install.lowest import ROOT

IGNORED = {"__pycache__"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    directory = tmp_path_factory.mktemp("wheel")
    source = directory / "source"  # setuptools leaves a build directory behind
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE", "tea"):
        os.symlink(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
    result = subprocess.run([*command, "-w", str(directory), str(source)], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    (path,) = directory.glob("*.whl")
    return path


def test_every_file_of_the_package_is_in_it(wheel):
    files = {str(path.relative_to(ROOT)) for path in (ROOT / "tea").rglob("*") if path.is_file()}
    files = {name for name in files if not IGNORED & set(name.split(os.sep))}
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if name.startswith("tea/")}
    assert packed == files
    assert {"tea/py.typed", "tea/__init__.pyi"} <= packed


def test_it_installs_where_there_is_nothing_and_its_names_resolve(wheel, tmp_path):
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(tmp_path)]
    subprocess.run([*command, str(wheel)], check=True, capture_output=True)
    code = "import tea; print(tea.__file__); [getattr(tea, name) for name in tea.__all__]; print(tea.__version__)"
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    file, version = result.stdout.split()
    assert file == str(tmp_path / "tea" / "__init__.py")
    assert f"tea_rl-{version}-" in wheel.name
