"""What pages of docs/ list is all there is, and is there."""

import re

import numpy as np
import pytest
import torch

from tea.estimators import list_estimators
from tests.install.lowest import ROOT

DOCS = ROOT / "docs"


def test_every_metric_has_its_line():
    pytest.importorskip("trl")
    from tea.trainers.best_of_n import BestOfNTracker
    from tea.trainers.metrics import tail_metrics

    logged = set()
    for path in (ROOT / "tea" / "trainers").glob("*.py"):
        logged |= set(re.findall(r'_metrics\[mode\]\["(tea/\w+)"\]', path.read_text()))
    assert "tea/advantage_time" in logged
    names, _ = tail_metrics(torch.randn(3, 8), torch.randn(3, 8), 16, 0.25)
    logged |= {f"tea/{name}" for name in names}
    tracker = BestOfNTracker(16)
    rewards = np.random.default_rng(0).normal(size=(4, 16))
    rewards[0, 0] = np.nan
    measured = {*tracker.measure(rewards, 0), *tracker.measure(rewards, 1)}
    measured |= set(re.findall(r'"(best_of_n_\w+)"', (ROOT / "tea/trainers/held_out.py").read_text())) - {
        "best_of_n_low"
    }
    logged |= {f"eval_{name}" for name in measured if name != "best_of_n_steps"}
    page = set(re.findall(r"`((?:tea/|eval_best_of_)\w+)`", (DOCS / "metrics.md").read_text()))
    options = {"eval_best_of_n_steps", "eval_best_of_n_samples", "eval_best_of_n_prompts"}
    assert logged <= page, logged - page
    assert page - options <= logged, page - options - logged


def test_every_source_has_its_module_and_its_test():
    page = (DOCS / "papers.md").read_text()
    rows = [line for line in page.splitlines() if line.startswith("| ") and "](../" in line]
    assert len(rows) >= 25
    for row in rows:
        code, test = row.split("|")[3:5]
        (module,) = re.findall(r"\]\(\.\./(tea/[\w/]+\.py)\)", code)
        (path, name) = re.findall(r"\[(\w+)\]\(\.\./(tests/[\w/]+\.py)\)", test)[0][::-1]
        assert (ROOT / module).is_file(), row
        assert re.search(rf"^def {name}\b|^class {name}\b", (ROOT / path).read_text(), re.MULTILINE), (path, name)


def test_every_number_of_a_source_in_the_library_is_on_the_page():
    page = (DOCS / "papers.md").read_text()
    cited = set()
    for path in (ROOT / "tea").rglob("*.py"):
        cited |= set(re.findall(r"(?<![\d.])(\d{4}\.\d{5})(?!\d)", path.read_text()))
    assert cited <= set(re.findall(r"\d{4}\.\d{5}", page)), cited - set(re.findall(r"\d{4}\.\d{5}", page))


def test_every_estimator_is_on_the_page_that_helps_to_choose():
    page = (DOCS / "choosing.md").read_text()
    for name in [*(spec.name for spec in list_estimators()), "auto"]:
        assert f"| `{name}` |" in page, name
