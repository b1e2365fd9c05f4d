"""The house: imports go strictly down, importing stays cheap."""

from __future__ import annotations

import ast
import functools
import importlib
import json
import pathlib
import re
import subprocess
import sys

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


def shown() -> list[tuple[str, str]]:
    """The code of README, notebooks and benchmarks."""
    readme = (ROOT.parent / "README.md").read_text()
    found = [("README.md", text) for text in re.findall(r"```python\n(.*?)```", readme, re.S)]
    for path in (ROOT.parent / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        sources = ["".join(one["source"]) for one in cells if one["cell_type"] == "code"]
        found += [(path.name, re.sub(r"^[%!].*", "", text, flags=re.M)) for text in sources]
    return found + [(p.name, p.read_text()) for p in (ROOT.parent / "benchmarks").glob("*.py")]


def test_what_users_are_shown_comes_through_the_doors() -> None:
    behind, seen = [], 0
    for name, text in shown():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jaxrl."):
                seen += 1
                if not (ROOT.parent / str(node.module).replace(".", "/")).is_dir():
                    behind.append(f"{name}: {ast.unparse(node)}")
    assert seen > 50 and not behind, "\n".join(behind)


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
