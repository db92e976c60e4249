"""Whether this package and a framework can be in one environment, by what both declare."""

from __future__ import annotations

from email.parser import Parser
from typing import TYPE_CHECKING

import tomllib
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import Version

if TYPE_CHECKING:
    from tests.adapters.frameworks import Framework

from tests.adapters import frameworks


def _requirements(lines: list[str]) -> dict[str, SpecifierSet]:
    found: dict[str, SpecifierSet] = {}
    for requirement in map(Requirement, lines):
        # Of the framework's extras none: what a plain pip install brings.
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            name = canonicalize_name(requirement.name)
            found[name] = found.get(name, SpecifierSet()) & requirement.specifier
    return found


def _compatible(a: SpecifierSet, b: SpecifierSet) -> bool:
    """Whether a version satisfies both: the bounds themselves and what lies just beside them are tried."""
    candidates = set()
    for specifier in [*a, *b]:
        version = Version(specifier.version.removesuffix(".*"))
        release = [*version.release, 0, 0][:3]
        below = [release[0], release[1] - 1, 99] if release[1] > 0 else [max(release[0] - 1, 0), 99, 99]
        candidates |= {str(version), ".".join(map(str, below)), ".".join(map(str, [*release[:2], release[2] + 1]))}
        candidates.add(".".join(map(str, [release[0], release[1], release[2] - 1])) if release[2] > 0 else str(version))
    return not candidates or any(
        a.contains(c, prereleases=True) and b.contains(c, prereleases=True) for c in candidates
    )


def installs_beside(framework: Framework) -> str:
    """What of this package installs beside it, and what stands in the way of the rest."""
    project = tomllib.loads((frameworks.ROOT / "pyproject.toml").read_text())["project"]
    metadata = next(framework.directory.glob("*.dist-info/METADATA"), None)
    if metadata is not None:
        theirs = _requirements(Parser().parsestr(metadata.read_text()).get_all("Requires-Dist") or [])
    elif (framework.directory / "pyproject.toml").exists():
        declared = tomllib.loads((framework.directory / "pyproject.toml").read_text()).get("project", {})
        theirs = _requirements([line for line in declared.get("dependencies", []) if "@" not in line])
    else:
        return "unknown: it declares nothing"
    said = []
    extras = project["optional-dependencies"]
    for name, lines in (("base", project["dependencies"]), *([("[trl]", extras["trl"])] if "trl" in extras else [])):
        ours = _requirements(lines)
        against = [
            f"{package}{theirs[package]} against {ours[package] or 'any'}"
            for package in sorted(ours.keys() & theirs.keys())
            if not _compatible(ours[package], theirs[package])
        ]
        said.append(f"{name}: {'yes' if not against else 'no, ' + '; '.join(against)}")
    return ", ".join(said)
