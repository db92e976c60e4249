"""The versions that pyproject.toml allows are the ones that the tests run with."""

import os
import warnings

import pytest
import yaml

import tea
from tests.install import lowest
from tests.install.lowest import ROOT


def test_lowest_constraints_are_the_lower_bounds():
    expected = lowest.constraints()
    assert (lowest.ROOT / "constraints-lowest.txt").read_text() == expected, (
        "pyproject.toml has other bounds: python -m tests.install.lowest > constraints-lowest.txt"
    )


def test_constraints_are_allowed():
    for requirement in lowest.requirements("trl", "gym", "dev"):
        if requirement.name == "tea-rl":
            continue
        try:
            version = lowest.pinned(requirement.name)
        except LookupError:
            continue
        assert requirement.specifier.contains(version), requirement


def test_tested_range_goes_from_the_lowest_to_the_newest():
    from tea.trainers import TESTED

    bounds = {r.name: lowest.lower_bound(r) for r in lowest.requirements("trl")}
    for package, (oldest, newest) in TESTED.items():
        assert oldest == bounds[package]
        assert newest == lowest.pinned(package)


def test_every_direct_requirement_has_a_lower_bound():
    unbounded = [r.name for r in lowest.requirements("trl", "gym") if ">=" not in str(r.specifier)]
    assert unbounded == []


@pytest.mark.parametrize(
    ("installed", "warns"), [("1.9.0", False), ("1.16.3", False), ("1.8.0", True), ("1.17.0", True)]
)
def test_untested_version_of_trl_is_said_with_the_range(monkeypatch, installed, warns):
    from tea import _extras
    from tea.trainers import TESTED

    monkeypatch.setattr("importlib.metadata.version", lambda package: installed)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        _extras.warn_if_untested("trl", TESTED["trl"])
    messages = [str(warning.message) for warning in caught]
    assert len(messages) == warns
    for message in messages:
        assert message.startswith(f"trl {installed} is installed, tea was tested with 1.9 to 1.16.0: ")


def test_the_version_stands_everywhere_the_same():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == tea.__version__
    assert f'version = "{tea.__version__}"' in (ROOT / "pyproject.toml").read_text()
    assert {"cff-version", "message", "title", "authors"} <= set(citation)  # what the format requires
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert changelog.startswith("# Changelog\n\n## Unreleased") or f"\n## {tea.__version__}" in changelog


def test_the_workflow_runs_what_ci_runs():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text())
    assert {"run": ".ci/run"} in workflow["jobs"]["tests"]["steps"]
    assert os.access(ROOT / ".ci" / "run", os.X_OK)
