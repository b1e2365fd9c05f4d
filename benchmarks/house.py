"""How large the house is and how its doors open: jaxrl/ at two commits, side by side.

    python benchmarks/house.py [BEFORE [AFTER]] [--quick]

Lines of code leave out docstrings, comments and blank lines. A public name is one that a package's
`__all__` or stub lists or, in a package without one, any name without an underscore that stands at
the top of its modules. A deep import takes something from behind a package's door where it should
not: `deep_imports.py` says who may. Repeated lines are those of runs of six that stand in two
places or more, blank lines aside. CPU seconds are the least of three runs of the command. The table
is written to `results/house.md`; `--quick` leaves the commands out and writes nothing.
"""

from __future__ import annotations

import argparse
import ast
import collections
import io
import os
import pathlib
import re
import resource
import subprocess
import sys
import tarfile
import tempfile
from typing import Any

from deep_imports import deep_imports, door
from provenance import ROOT, made_by, told

RESULTS = pathlib.Path(__file__).parent / "results"
BEFORE = "1004af8"  # the last commit before the house was made smaller
COMMANDS = ("--help", "train --help", "list", "list agents", "list functionals", "list envs")
RUN = 6  # lines of a run that counts as repeated


def docstrings(tree: ast.AST) -> set[int]:
    """Numbers of the lines that docstrings stand on."""
    found: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and node.body:
            first = node.body[0]
            if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
                found |= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    return found


def code(text: str) -> list[str]:
    """The lines of code of a file."""
    skipped = docstrings(ast.parse(text))
    lines = (line.strip() for n, line in enumerate(text.splitlines(), 1) if n not in skipped)
    return [line for line in lines if line and not line.startswith("#")]


def public(folder: pathlib.Path) -> int:
    """Public names of a package, those of packages inside it included."""
    names = door(folder)
    inner = sum(public(path.parent) for path in folder.glob("*/__init__.py"))
    if names is not None:
        return len(names) + inner
    count = 0
    for path in folder.glob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)):
                count += not node.name.startswith("_")
            elif isinstance(node, ast.Assign):
                count += not ast.unparse(node.targets[0]).startswith("_")
    return count + inner


def cpu_seconds(tree: pathlib.Path, words: str) -> float:
    """The least of three runs, as a process of its own."""
    found = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run(
            [sys.executable, "-m", "jaxrl", *words.split()],
            cwd=tree,
            env={**os.environ, "PYTHONPATH": str(tree), "JAX_PLATFORMS": "cpu"},
            capture_output=True,
            text=True,
        )
        if done.returncode == 1:  # a refusal is 2; an older commit may need what is not installed
            raise RuntimeError(done.stderr)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        found.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(found)


def measured(tree: pathlib.Path, quick: bool) -> dict[str, Any]:
    """Every row of the table."""
    house = tree / "jaxrl"
    files = {path: path.read_text() for path in sorted(house.rglob("*.py"))}
    lines = {path: code(text) for path, text in files.items()}
    rows: dict[str, Any] = {"lines of code": sum(map(len, lines.values()))}
    for package in sorted(path.parent for path in house.glob("*/__init__.py")):
        inside = [path for path in lines if package in path.parents]
        rows[f"of {package.name}"] = sum(len(lines[path]) for path in inside)
    nodes = [node for text in files.values() for node in ast.walk(ast.parse(text))]
    runs = collections.Counter(
        tuple(one[at : at + RUN]) for one in lines.values() for at in range(len(one) - RUN + 1)
    )
    rows |= {
        "files": len(files),
        "classes": sum(isinstance(node, ast.ClassDef) for node in nodes),
        "public names": public(house),
        "getattr with a default": sum(
            isinstance(node, ast.Call)
            and ast.unparse(node.func) == "getattr"
            and len(node.args) == 3
            for node in nodes
        ),
        "isinstance": sum(
            isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance" for node in nodes
        ),
        "repeated runs of six lines": sum(count > 1 for count in runs.values()),
        "deep imports": len(deep_imports(tree)),
        "words not confirmed": sum(
            len(re.findall(r"to\s+confirm\)|as we\s+remember", text)) for text in files.values()
        ),
    }
    for words in () if quick else COMMANDS:
        rows[f"CPU-s of `jaxrl {words}`"] = round(cpu_seconds(tree, words), 2)
    return rows


def at_commit(commit: str, quick: bool) -> dict[str, Any]:
    """The rows of a commit, unpacked on its own."""
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True)
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as packed:
            packed.extractall(folder, filter="data")
        return measured(pathlib.Path(folder), quick)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("commits", nargs="*")
    parser.add_argument("--quick", action="store_true", help="no commands; prints only")
    arguments = parser.parse_args()
    commits = [*arguments.commits, *(BEFORE, "HEAD")[len(arguments.commits) :]]
    before, after = (at_commit(one, arguments.quick) for one in commits)
    table = [f"| | {commits[0]} | {made_by()['commit']} |", "|---|---|---|"]
    table += [
        f"| {name} | {before.get(name, '')} | {after.get(name, '')} |"
        for name in dict.fromkeys([*before, *after])
    ]
    print("\n".join(table))
    if not arguments.quick:
        head = f"# The house, before and after\n\nWritten by {told(made_by())}.\n\n"
        (RESULTS / "house.md").write_text(head + "\n".join(table) + "\n")


if __name__ == "__main__":
    main()
