"""The house: imports go strictly down and through doors, importing stays cheap."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import pathlib
import subprocess
import sys

import deep_imports
import pytest

import jaxrl

ROOT = pathlib.Path(jaxrl.__file__).parent
FLOORS = {
    "core": 0,
    "functionals": 1,
    "returns": 1,
    "losses": 1,
    "operators": 2,
    "envs": 2,
    "networks": 2,
    "replay": 2,
    "planning": 3,
    "rules": 3,
    "agents": 4,
    "training": 5,
    "meta": 6,
    "report": 7,
    "cli": 8,  # may call on `report`
}
FILES = sorted(ROOT.rglob("*.py"))


@functools.cache
def imports(path: pathlib.Path) -> list[tuple[str, ast.stmt]]:
    """Every module that a file imports, and the statement of the file that does it."""
    found = []
    for statement in ast.parse(path.read_text()).body:
        for node in ast.walk(statement):
            if isinstance(node, ast.Import):
                found += [(alias.name, statement) for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: imports are absolute"
                module = node.module or ""
                for name in (alias.name for alias in node.names):
                    inside = ROOT.parent / module.replace(".", "/") / name
                    is_module = inside.is_dir() or inside.with_suffix(".py").exists()
                    found.append((f"{module}.{name}" if is_module else module, statement))
    return found


def of_ours(path: pathlib.Path) -> set[str]:
    """Modules of jaxrl that a file imports, for types alone too."""
    return {name for name, _ in imports(path) if name.split(".")[0] == "jaxrl"}


def faults(path: pathlib.Path) -> list[str]:
    """What a file does against its floor."""
    found: list[str] = []
    package = path.relative_to(ROOT).parts[0]
    if package not in FLOORS:
        return found  # jaxrl/__init__.py and __main__.py stand on the roof
    for module in of_ours(path):
        parts = module.split(".")
        if len(parts) < 2:
            found.append("imports the top level")
        elif parts[1] not in FLOORS:
            found.append(f"imports {module}, which has no floor")
        elif FLOORS[parts[1]] >= FLOORS[package] and parts[1] != package:
            found.append(f"imports {module} from a floor not below it")
    return found


def test_file_keeps_to_its_floor() -> None:
    assert len(FILES) > 200
    failed = [f"{path.relative_to(ROOT)} {fault}" for path in FILES for fault in faults(path)]
    assert not failed, "\n".join(failed)


def test_every_package_has_a_floor() -> None:
    packages = {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()}
    assert packages <= set(FLOORS)


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = {}
    for path in FILES:
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        graph[name] = of_ours(path) - {name}
    done: set[str] = set()

    def visit(module: str, above: tuple[str, ...]) -> None:
        assert module not in above, " -> ".join((*above, module))
        if module in done:
            return
        for other in graph.get(module, ()):
            visit(other, (*above, module))
        done.add(module)

    for module in graph:
        visit(module, ())


def test_public_names_exist() -> None:
    for name in jaxrl.__all__:
        assert getattr(jaxrl, name) is not None
    for path in FILES:
        if path.name == "__init__.py" and path.parent != ROOT and path.parent.name != "cli":
            package = ".".join(path.relative_to(ROOT.parent).parent.parts)
            door = importlib.import_module(package)
            assert all(hasattr(door, name) for name in getattr(door, "__all__", ())), package


def test_who_is_outside_a_package_comes_through_its_door() -> None:
    """Benchmarks, notebooks, documents and examples; tests of other packages: see the helper."""
    assert not deep_imports.deep_imports(ROOT.parent)


TAKEN = {
    "import jaxrl.core.files": "core.files",
    "import jaxrl.core.files as f": "core.files",
    "from jaxrl.core import files": "core.files",
    "from jaxrl.core.files import take_lock": "core.files",
    "from jaxrl import envs\nenvs.registry.make": "envs.registry",
    "import jaxrl\njaxrl.envs.wrappers.limits.TimeLimit": "envs.wrappers.limits",
    "patch('jaxrl.report.plots.learning_curves')": "report.plots",
    "from jaxrl.meta.experiments import Experiment": "meta.experiments.Experiment",
    "from jaxrl.cli.command import main": "cli.command",
    "import jaxrl.envs\nimport jaxrl.envs.wrappers as w\nw.TimeLimit": None,
    "from jaxrl import Box, core, envs\nfrom jaxrl.cli import main": None,
    "from jaxrl.core import notation, struct\nstruct.dataclass": None,
    "from jaxrl.core.protocols import Head\nfrom jaxrl.core import *": None,
    "from jaxrl import operators\noperators.items\nenvs = {}\nenvs.values": None,
    "from numpy import linalg\nimport jax.numpy as jnp\nlinalg.norm": None,
}


@pytest.mark.parametrize("code", TAKEN)
def test_what_is_behind_a_door_is_seen_however_it_is_taken(code: str) -> None:
    tree = ROOT.parent
    found = {deep_imports.behind(tree, path) for path in deep_imports.paths(tree, code)} - {None}
    assert found == ({f"jaxrl.{TAKEN[code]}"} if TAKEN[code] else set())


def test_no_public_name_is_that_of_a_module_beside_it() -> None:
    """It would hide the module, or be hidden by it, as imports come. A module may be public."""
    hidden, seen = [], 0
    for init in ROOT.rglob("__init__.py"):
        package = ".".join(init.relative_to(ROOT.parent).parent.parts)
        door = importlib.import_module(package)
        for name in door.__all__:
            seen += 1
            beside = (init.parent / name).is_dir() or init.with_name(f"{name}.py").exists()
            if beside and not inspect.ismodule(getattr(door, name)):
                hidden.append(f"{package}.{name}")
    assert seen > 300 and not hidden, hidden


def test_importing_the_top_level_loads_no_heavy_library() -> None:
    code = "import sys, jaxrl; assert not {'jax', 'gymnax', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_file_imports_gymnax_as_it_is_imported() -> None:
    """Nor do the libraries that we import: that is asked for in a process of its own, below."""
    places = [
        (path, isinstance(statement, ast.Import | ast.ImportFrom))
        for path in FILES
        for name, statement in imports(path)
        if name.split(".")[0] == "gymnax"
    ]
    assert places  # in functions
    assert not [str(path) for path, at_once in places if at_once]


@pytest.mark.slow
def test_importing_environments_does_not_import_gymnax() -> None:
    code = "import sys, jaxrl.envs; assert 'gymnax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
