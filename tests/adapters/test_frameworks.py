"""The adapters on the real frameworks, where ``make test-adapters`` has installed them; see frameworks/__init__.py."""

import re

import pytest
from packaging.specifiers import SpecifierSet

from tea.adapters.framework import TESTED
from tests.adapters.frameworks import FRAMEWORKS, HERE, ROOT
from tests.adapters.frameworks.beside import _compatible


@pytest.mark.slow
@pytest.mark.parametrize("framework", FRAMEWORKS, ids=lambda f: f"{f.name}-{f.version[:8]}")
def test_own_path(framework):
    if framework.absent:
        pytest.skip(framework.absent)
    result = framework.run()
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_table_has_a_row_for_each():
    text = (ROOT / "docs" / "frameworks.md").read_text()
    table = re.search("<!-- frameworks -->\n(.*)<!-- /frameworks -->", text, re.DOTALL).group(1)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()[2:]]
    assert [(row[0], row[1].removeprefix("commit "), row[4]) for row in rows] == [
        (f.name, f.version[:8], f.how) for f in FRAMEWORKS
    ]
    assert {f"check_{f.check}.py" for f in FRAMEWORKS} == {path.name for path in HERE.glob("check_*.py")}


def test_the_versions_that_users_are_warned_by():
    packages = {f.name for f in FRAMEWORKS if not f.from_github}
    assert set(TESTED) == packages
    for name in packages:
        versions = [f.version for f in FRAMEWORKS if f.name == name]
        assert TESTED[name] == (min(versions), max(versions))


@pytest.mark.parametrize(
    ("ours", "theirs", "compatible"),
    [
        (">=5.20", "<5.11", False),
        (">=5.6", "<=5.16.1,>=5.6.1", True),
        (">=1.26", "<2.0.0", True),
        (">=1.16,<2", "==1.9.0", False),
        (">=2.6", "", True),
        ("", "==1.9.0", True),
        (">=5.16", ">=5.12,<5.17,!=5.16.0", True),
    ],
)
def test_whether_two_requirements_go_together(ours, theirs, compatible):
    assert _compatible(SpecifierSet(ours), SpecifierSet(theirs)) == compatible
