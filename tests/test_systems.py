"""The scripts of `benchmarks/systems`: each can say what the table of the systems needs.

The default tests run none of them. `-m slow` runs those that train nothing, and compares their
verdicts with the recorded ones.
"""

from __future__ import annotations

import ast
import importlib
import json
import pathlib
import types

import pytest

import jaxrl

ROOT = pathlib.Path(jaxrl.__file__).parents[1]
FOLDER = ROOT / "benchmarks" / "systems"
NAMES = sorted(path.stem for path in FOLDER.glob("*.py") if not path.name.startswith("_"))
EXACT = [name for name in NAMES if "\nEXACT = True\n" in (FOLDER / f"{name}.py").read_text()]


loaded = importlib.import_module  # pytest has the folder on its path


@pytest.fixture
def command() -> types.ModuleType:
    """`python -m benchmarks.systems`."""
    return loaded("benchmarks.systems.__main__")


@pytest.mark.parametrize("name", NAMES)
def test_a_system_has_what_its_row_needs(name: str, command: types.ModuleType) -> None:
    """A title, the command, a claim; `main`; and the four lines of the row, printed last."""
    script = FOLDER / f"{name}.py"
    title = command.title(script)
    assert title["claim"] and title["name"]
    doc = ast.get_docstring(ast.parse(script.read_text()))
    assert doc is not None and f"\n    python benchmarks/systems/{name}.py\n\n" in doc
    assert "laim" in command.about(script)[1], "say what is claimed"
    module = loaded(name)
    main = next(x for x in ast.parse(script.read_text()).body if getattr(x, "name", "") == "main")
    last = ast.unparse(main.body[-1])
    assert callable(module.main) and last.startswith("row(started"), "end with the row"


def test_a_row_is_read_as_it_was_printed(
    command: types.ModuleType, capsys: pytest.CaptureFixture
) -> None:
    loaded("_row").row(0.0, False, measured="3 of 4: x", control="2", interval="exact")
    found = command.cells("first: 1\n" + capsys.readouterr().out)
    assert found.pop("seconds").isdigit()
    assert found == {"measured": "3 of 4: x", "control": "2", "interval": "exact", "holds": "no"}


def test_estimates_are_pooled_as_independent_ones() -> None:
    mean, low, high = loaded("_row").pooled([(1.0, -2.0, 4.0), (3.0, -1.0, 7.0)])
    assert (mean, low, high) == (2.0, -0.5, 4.5)  # widths 3 and 4: 5 / 2


def test_the_interval_of_a_mean_is_that_of_student() -> None:
    """Of 1, 2, 3: 2 +- 4.303 / sqrt(3), by the tables of Student's t at 2 degrees of freedom."""
    mean, low, high = loaded("_row").mean_interval([1.0, 2.0, 3.0])
    assert (mean, round(high - mean, 3), round(mean - low, 3)) == (2.0, 2.484, 2.484)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXACT)
def test_what_is_exact_comes_out_as_recorded(
    name: str, command: types.ModuleType, capsys: pytest.CaptureFixture
) -> None:
    loaded(name).main()
    found = command.cells(capsys.readouterr().out)
    record = json.loads((ROOT / "benchmarks/results/systems.json").read_text())[name]
    assert found["holds"] == command.cells(record["printed"])["holds"]
    assert all(found[cell] for cell in command.CELLS)
