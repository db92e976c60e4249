"""What works without the extra [trl], and what the rest says."""

import subprocess
import sys

from tests.install.lowest import ROOT


def test_base_install():
    """In an environment in which only the base can be imported; `make test-base` makes a real one."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.install.base", "--block"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.splitlines() == [
        f"try_{name}: ok" for name in ("estimators", "adapters", "commands", "what_is_missing")
    ]
