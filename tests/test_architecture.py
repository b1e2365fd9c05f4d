"""The house: imports go strictly down, files stay small, importing stays cheap."""

from __future__ import annotations

import ast
import pathlib
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


def imported_modules(tree: ast.AST) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            names.add(node.module)
    return {name for name in names if name.split(".")[0] == "jaxrl"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_file_keeps_to_its_floor_and_size(path: pathlib.Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 350
    package = path.relative_to(ROOT).parts[0]
    if package not in FLOORS:
        return  # jaxrl/__init__.py and __main__.py stand on the roof
    for module in imported_modules(ast.parse(text)):
        parts = module.split(".")
        assert len(parts) > 1, f"{path} imports the top level"
        assert parts[1] in FLOORS, f"{path} imports {module}, which has no floor"
        below = FLOORS[parts[1]] < FLOORS[package]
        assert below or parts[1] == package, f"{path} imports {module} from a floor not below it"


def test_every_package_has_a_floor() -> None:
    packages = {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()}
    assert packages <= set(FLOORS)


def test_no_module_imports_itself_in_a_circle() -> None:
    graph = {}
    for path in FILES:
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        top_level = [n for n in ast.parse(path.read_text()).body if not isinstance(n, ast.If)]
        graph[name] = imported_modules(ast.Module(top_level, [])) - {name}
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


def test_importing_the_top_level_loads_no_heavy_library() -> None:
    code = "import sys, jaxrl; assert not {'jax', 'gymnax', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_importing_environments_does_not_import_gymnax() -> None:
    code = "import sys, jaxrl.envs; assert 'gymnax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
