"""The tutorials run from beginning to end, on the models that lie beside them; their cells assert what they claim."""

import pytest

from tests.install.lowest import ROOT

pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")

from docs.tools import notebooks


@pytest.mark.parametrize("path", sorted(notebooks.TUTORIALS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_the_notebook_runs(path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    found = notebooks.run(path)
    cells = [cell for cell in found.cells if cell.cell_type == "code"]
    assert any(output.get("name") == "stdout" for cell in cells for output in cell.outputs)
    stored = [cell for cell in notebooks.nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert [len(cell.outputs) > 0 for cell in stored] == [len(cell.outputs) > 0 for cell in cells], "run them again"
