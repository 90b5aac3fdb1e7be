"""The notebook of the docs runs from its first cell to its last, in a kernel of its own."""

from pathlib import Path

import nbformat
from nbclient import NotebookClient

from tests.conftest import PROJECT_ROOT

NOTEBOOK = PROJECT_ROOT / "docs" / "replay_plot_evaluate.ipynb"


def test_the_notebook_runs_and_finds_cars(tmp_path: Path) -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)  # type: ignore[no-untyped-call]
    for cell in notebook.cells:
        cell["outputs"] = []
    NotebookClient(notebook, timeout=280, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    text = "".join(output.get("text", "") for output in outputs)
    assert len(pictures) == 1
    assert "38 results" in text
    precision = float(text.rpartition("AP ")[2].split()[0])
    assert 0.3 < precision <= 1
