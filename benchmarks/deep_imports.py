"""Who reaches behind a package's door: `house.py` counts it, `tests/test_architecture.py` holds it.

A package's public names are those that its stub or `__all__` lists; everything else is behind its
door. Benchmarks, notebooks, documents and the examples of docstrings use doors only. A test may
look inside the package whose folder it stands in, `tests/core/` into `jaxrl.core`, since it tests a
module of it; of every other package it uses the door. Looking means to import, to name a module as
a text, as `monkeypatch.setattr` takes one, or as an attribute: `envs.registry`.
"""

from __future__ import annotations

import ast
import functools
import json
import pathlib
import re
from collections.abc import Iterator

PATH, PLAIN = re.compile(r"jaxrl(\.\w+)+"), re.compile(r"\w+(\.\w+)+")


def listed(tree: ast.Module) -> list[str] | None:
    """What `__all__` of a module holds."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return [ast.literal_eval(one) for one in getattr(node.value, "elts", [])]
    return None


@functools.cache
def door(folder: pathlib.Path) -> list[str] | None:
    """The names that a package lists; None where it lists none."""
    stub = folder / "__init__.pyi"
    if stub.exists():
        nodes = ast.parse(stub.read_text()).body
        return [one.asname or one.name for node in nodes for one in getattr(node, "names", [])]
    return listed(ast.parse((folder / "__init__.py").read_text()))


def behind(tree: pathlib.Path, path: str) -> str | None:
    """What `path` takes from behind a door: `jaxrl.core.files` of `jaxrl.core.files.take_lock`.

    None where it keeps to doors, or does not lead into jaxrl.
    """
    folder, parts = tree, path.split(".")
    for count, part in enumerate(parts):
        if (folder / part / "__init__.py").exists():
            folder = folder / part
        elif count == 0 or part == "*" or part.startswith("__"):
            return None
        else:
            names = door(folder)  # those of jaxrl itself are computed from its packages'
            is_module = (folder / part).with_suffix(".py").exists()
            hidden = is_module if names is None else part not in names
            return ".".join(parts[: count + 1]) if hidden else None
    return None


def paths(tree: pathlib.Path, code: str) -> Iterator[str]:
    """Every path into a library that a piece of code names."""
    bound: dict[str, str] = {}  # what names that imports give stand for
    nodes = list(ast.walk(ast.parse(code)))
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (one.name for one in node.names)
            bound |= {one.asname: one.name for one in node.names if one.asname}
            bound |= {first: first for first in (one.name.split(".")[0] for one in node.names)}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found = {one.asname or one.name: f"{node.module}.{one.name}" for one in node.names}
            yield from found.values()
            bound |= found
        elif isinstance(node, ast.Constant) and PATH.fullmatch(str(node.value)):
            yield str(node.value)
    for node in nodes:
        if isinstance(node, ast.Attribute) and PLAIN.fullmatch(ast.unparse(node)):
            first, _, rest = ast.unparse(node).partition(".")
            path = f"{bound.get(first, first)}.{rest}"
            if (tree / path.replace(".", "/")).with_suffix(".py").exists():  # else a local variable
                yield path


def shown(tree: pathlib.Path) -> Iterator[tuple[str, str]]:
    """Place and code of all that stands outside jaxrl/ or is shown to its users."""
    for path in [*tree.glob("tests/**/*.py"), *tree.glob("benchmarks/**/*.py")]:
        yield str(path.relative_to(tree)), path.read_text()
    for path in tree.glob("notebooks/*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        sources = ("".join(one["source"]) for one in cells if one["cell_type"] == "code")
        code = "\n".join(re.sub(r"^[%!].*", "", one, flags=re.M) for one in sources)
        yield str(path.relative_to(tree)), code
    for path in [*tree.glob("*.md"), *tree.glob("docs/**/*.md")]:
        for code in re.findall(r"```python\n(.*?)```", path.read_text(), re.S):
            yield str(path.relative_to(tree)), code
    for path in tree.glob("jaxrl/**/*.py"):
        examples = re.findall(r"^ *>>> ((?:from|import) .*)", path.read_text(), re.M)
        yield str(path.relative_to(tree)), "\n".join(examples)


def deep_imports(tree: pathlib.Path) -> list[str]:
    """`place: module` for everything that is taken from behind a door by who should not."""
    found = []
    for place, code in shown(tree):
        parts = pathlib.PurePath(place).parts
        own = f"jaxrl.{parts[1]}." if parts[0] == "tests" else "nobody"
        hidden = {behind(tree, path) for path in paths(tree, code)}
        found += sorted(f"{place}: {one}" for one in hidden if one and not one.startswith(own))
    return found
