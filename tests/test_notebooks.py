"""Every notebook runs from top to bottom, is short, and was saved with what it shows.

What it was saved with took minutes of training; here the same cells train for a few seconds.
"""

import json
import pathlib

import pytest

FOLDER = pathlib.Path(__file__).parents[1] / "notebooks"
MOST_CELLS, MOST_BYTES = 40, 400_000
NOTEBOOKS = [pytest.param(path, id=path.stem) for path in sorted(FOLDER.glob("*.ipynb"))]


# What is put in the place of what, once or more, before a notebook runs here.
SHORTER = {
    "bellman_operators": {
        'layout="constrained"': "layout=None",
        "in operators.items()}": "in list(operators.items())[1::2]}",
        "worst_case(functional, mdp": "jax.jit(worst_case)(functional, mdp",
        "fear(mdp.prob, outcomes)": "jax.jit(fear)(mdp.prob, outcomes)",
    },
    "discover_an_update_rule": {
        "num_steps=120,": "num_steps=8,",
        "evaluate_every=20": "evaluate_every=4",
        "num_lives=16": "num_lives=4",
        "num_lives=64": "num_lives=8",
        "num_tuning_lives=32": "num_tuning_lives=4",
        "total_steps=48_000.0": "total_steps=9_600.0",
        "height=7, width=7": "height=5, width=5",  # as before: programs are shared
    },
    "return_distributions": {
        'layout="constrained"': "layout=None",
        'jax.config.update("jax_disable_most_optimizations", False)': "pass",
        "num_steps=40_000": "num_steps=2_000",
        "hidden_sizes=(64,)": "hidden_sizes=(16,)",
        "Quantile(32)": "Quantile(16)",
        "[8, ATOMS, 32]": "[8, ATOMS]",
        "in (0.5, 0.05)": "in (0.5,)",
    },
    "risk_and_robustness": {
        'layout="constrained"': "layout=None",
        "START, HORIZON = 4, 7, 21, 40": "START, HORIZON = 4, 7, 21, 20",
        "Quantile(64)": "Quantile(16)",
        "(0.02, 0.05, 0.1, 0.25, 0.5)": "(0.02, 0.5)",
        "(10_000, counts[-1])": "(200, counts[-1])",
        "num_steps=36_000": "num_steps=2_000",
        "num_steps=60_000": "num_steps=2_000",
        "hidden_sizes=(64,)": "hidden_sizes=(16,)",
        "M, LIMIT = 3, 200": "M, LIMIT = 3, 120",
        "num_episodes=1000": "num_episodes=50",
        "num_episodes=100,": "num_episodes=20,",
        "jax.random.split(jax.random.key(0), 4)": "jax.random.split(jax.random.key(0), 2)",
    },
}


def shortened(notebook, name):
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for long, short in SHORTER.get(name, {}).items():
        assert any(long in cell.source for cell in code)
        for cell in code:
            cell.source = cell.source.replace(long, short)
    return notebook


def figures_of(notebook):
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    return [o for cell in code for o in cell["outputs"] if "image/png" in o.get("data", {})]


@pytest.mark.parametrize("path", NOTEBOOKS)
def test_notebook_is_short_and_was_saved_with_what_it_shows(path):
    notebook = json.loads(path.read_text())
    cells = notebook["cells"]
    assert cells[0]["cell_type"] == "markdown" and len(cells) <= MOST_CELLS
    assert path.stat().st_size < MOST_BYTES
    assert figures_of(notebook)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS)
def test_notebook_runs(path):
    import nbformat  # a second of every worker's, for a slow test
    from nbclient import NotebookClient

    notebook = shortened(nbformat.read(path, as_version=4), path.stem)
    saved = len(figures_of(notebook))
    client = NotebookClient(notebook, timeout=240, resources={"metadata": {"path": str(FOLDER)}})
    client.execute()  # raises at the first cell that fails
    assert len(figures_of(notebook)) == saved
