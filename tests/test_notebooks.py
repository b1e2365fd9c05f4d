"""Every notebook runs from top to bottom, is short, and was saved with what it shows."""

import pathlib

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = pathlib.Path(__file__).parents[1] / "notebooks"
MOST_CELLS, MOST_BYTES = 40, 400_000
NOTEBOOKS = [pytest.param(path, id=path.stem) for path in sorted(FOLDER.glob("*.ipynb"))]


def figures_of(notebook):
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    return [o for cell in code for o in cell.outputs if "image/png" in o.get("data", {})]


@pytest.mark.parametrize("path", NOTEBOOKS)
def test_notebook_is_short_and_was_saved_with_what_it_shows(path):
    notebook = nbformat.read(path, as_version=4)
    assert notebook.cells[0].cell_type == "markdown" and len(notebook.cells) <= MOST_CELLS
    assert path.stat().st_size < MOST_BYTES
    assert figures_of(notebook)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS)
def test_notebook_runs(path):
    notebook = nbformat.read(path, as_version=4)
    saved = len(figures_of(notebook))
    client = NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(FOLDER)}})
    client.execute()  # raises at the first cell that fails
    assert len(figures_of(notebook)) == saved
