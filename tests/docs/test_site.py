"""The site is whole before Zensical sees it (`make docs` lets it check links): pages, names, docstrings."""

import importlib
import json
import re

import pytest

from docs.tools import build
from tests.install.lowest import ROOT

NAV = re.findall(
    r'"([\w./-]+\.(?:md|ipynb))"', (ROOT / "zensical.toml").read_text().split("nav = [")[1].split("\n]")[0]
)


def test_every_page_is_in_the_navigation_and_every_entry_is_a_page():
    pages = {build.staged(path.relative_to(ROOT).as_posix()) for path in build.sources()}
    pages = {page for page in pages if page.endswith(".md")} | {f"docs/api/{name}.md" for name in build.PACKAGES}
    assert pages <= set(NAV), pages - set(NAV)
    assert len(NAV) == len(set(NAV))
    for entry in set(NAV) - pages:
        assert (ROOT / entry).is_file(), entry


@pytest.mark.parametrize("package", build.PACKAGES)
def test_the_api_has_every_public_name(package):
    text = build.api(package)
    module = importlib.import_module(package)
    for name in getattr(module, "__all__", []):
        if not name.startswith("_"):
            assert f"{package}.{name}" in text.replace("\n", " ").split() or f"{{#{package}.{name}}}" in text, name
    if package == "tea.adapters":
        for path in (ROOT / "tea" / "adapters").glob("[a-z]*.py"):
            assert f"tea.adapters.{path.stem}" in text or path.stem in ("framework", "groups", "verl_plugin")


def test_the_page_of_explain_has_the_rewards_of_the_figure():
    given = json.loads((ROOT / "docs" / "assets" / "explain.json").read_text())
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', build.explanation(), re.DOTALL)
    shown = json.loads(data[1])
    assert (shown["rewards"], shown["n"]) == (given["rewards"], given["target_n"])
    assert "](assets/explain.html)" in (ROOT / "docs" / "concepts.md").read_text()


def test_links_are_found_outside_of_code_only():
    text = "[a](x.md#y) [b](https://c) ![d](e.png)\n\n```python\nx[0](f.md)\n```\n[g](../h.py) [i](#j)"
    assert [path for _, _, path in build.links(text)] == ["x.md", "e.png", "../h.py"]


def test_marks_of_docstrings_become_markdown():
    pytest.importorskip("griffe")
    from docs.tools.docstrings import translate

    assert translate("See :func:`tea.f` and ``x``.") == "See `tea.f` and `x`."
    text = translate("Before.\n\n.. math:: c_n = \\int x\n\nAfter.")
    assert re.fullmatch(r"Before\.\n\n<math .*display=\"block\".*</math>\n\nAfter\.", text)
    block = translate("Before.\n\n.. math::\n\n    A_i = 1,\n    T = 2\n\nAfter.")
    assert block.count("<math") == 1
    assert "math::" not in block
    assert block.endswith("</math>\n\nAfter.")
