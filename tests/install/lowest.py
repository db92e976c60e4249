"""The lowest version of everything that pyproject.toml asks for, as pip constraints.

python -m tests.install.lowest > constraints-lowest.txt
"""

import re
import sys
from pathlib import Path

from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

ROOT = Path(__file__).parents[2]
HEADER = """\
# The lowest versions that pyproject.toml allows, which `make test-lowest` runs with. Written by
# `python -m tests.install.lowest`. torch is not at its lowest: there is no CPU build of it to test with.
"""


def requirements(*extras):
    """What the install with those extras names itself."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]
    return [Requirement(line) for line in lines]


def pinned(name, file="constraints.txt"):
    """The version that a constraints file gives."""
    found = re.search(rf"^{re.escape(name)}==([^\s;]+)", (ROOT / file).read_text(), re.MULTILINE)
    if found is None:
        raise LookupError(f"{file} has no {name}")
    return found.group(1)


def lower_bound(requirement):
    (bound,) = (s.version for s in requirement.specifier if s.operator == ">=")
    return bound


def constraints():
    lines = [
        f"{r.name}=={pinned('torch') if r.name == 'torch' else lower_bound(r)}"
        for r in requirements("trl", "gym", "verify")
    ]
    return HEADER + "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(constraints(), end="")
