"""What pip's resolver says to tea beside the frameworks that it has adapters for. Nothing is installed.

`make test-installs`, with a package registry at hand; the table in docs/install.md is its output.
"""

import json
import subprocess
import sys

import pytest

from tests.install import lowest
from tests.install.test_wheel import wheel  # noqa: F401 (a fixture)

pytestmark = pytest.mark.registry

SHOWN = ("trl", "transformers", "peft", "accelerate", "datasets", "numpy")
# Framework, extra of tea, Python version if not this one.
CASES = [
    ("verl==0.9.1", "", None),
    ("skyrl==0.4.0", "", "3.12"),
    ("tinker-cookbook==0.6.1", "", None),
    ("verl==0.9.1", "trl", None),
    ("skyrl==0.4.0", "trl", "3.12"),
    ("unsloth==2026.10.9", "trl", None),
    ("axolotl==0.19.0", "trl", None),
]


def resolve(directory, python, *requirements):
    """What pip would install, name -> version; its complaint if it cannot."""
    (directory / "constraints.txt").write_text(f"torch=={lowest.pinned('torch')}\n")
    report = directory / "report.json"
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--ignore-installed"]
    command += ["--report", str(report), "-c", str(directory / "constraints.txt")]
    if python is not None:
        command += ["--python-version", python, "--only-binary=:all:", "--target", str(directory / "nothing")]
    result = subprocess.run([*command, *requirements], capture_output=True, text=True, timeout=900)
    if result.returncode != 0:
        return result.stderr
    found = json.loads(report.read_text())["install"]
    return {entry["metadata"]["name"].lower(): entry["metadata"]["version"] for entry in found}


@pytest.fixture(scope="module")
def registry():
    command = [sys.executable, "-m", "pip", "index", "versions", "verl", "--timeout", "10", "--retries", "0"]
    if subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("no package registry can be reached")


@pytest.mark.parametrize(("framework", "extra", "python"), CASES, ids=[f"{c[0]}+{c[1] or 'base'}" for c in CASES])
def test_installs_beside(registry, wheel, tmp_path, framework, extra, python):  # noqa: F811
    ours = f"{wheel}[{extra}]" if extra else str(wheel)
    found = resolve(tmp_path, python, ours, framework)
    if isinstance(found, str):
        alone = resolve(tmp_path, python, framework)
        if isinstance(alone, str):
            pytest.skip(f"{framework} cannot be installed by itself: {alone.strip().splitlines()[-1]}")
        pytest.fail(f"{framework} beside tea-rl[{extra}]: {found}")
    assert "tea-rl" in found
    versions = ", ".join(f"{name} {found[name]}" for name in SHOWN if name in found)
    print(f"\n| {framework} | {extra or 'base'} | yes | {versions} |")
