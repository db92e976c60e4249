"""Run the tutorials, and store what they print.

python -m docs.tools.notebooks      # two minutes on one core
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

TUTORIALS = Path(__file__).resolve().parents[1] / "tutorials"


def run(path: Path) -> Any:
    """The notebook with its outputs; CellExecutionError if a cell fails."""
    notebook = nbformat.read(path, as_version=4)
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(path.parent)}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # the time of day
        if cell.cell_type == "code":  # what libraries say on the side
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    return notebook


if __name__ == "__main__":
    for notebook in sorted(TUTORIALS.glob("*.ipynb")):
        nbformat.write(run(notebook), notebook)
        print(f"wrote {notebook}")
