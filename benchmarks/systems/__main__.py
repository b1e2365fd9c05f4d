"""Systems of the research literature on the toolkit: each claim, its control, what was measured.

    python -m benchmarks.systems              # all of them, one after another
    python -m benchmarks.systems s01 r04      # the others' results stay

A system is a script in this folder: its docstring says whose claim it is and what would show it.
What it prints goes to `results/systems.md` as it is, whether it comes out for the paper or against.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import pathlib
import subprocess
import sys

FOLDER = pathlib.Path(__file__).parent
ROOT, RESULTS = FOLDER.parents[1], FOLDER.parent / "results"
sys.path.insert(0, str(FOLDER.parent))

from provenance import made_by, told  # noqa: E402


def measured(script: pathlib.Path) -> str:
    """What a script prints."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(script)]
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, check=True, text=True
    ).stdout


def section(name: str, record: dict) -> str:
    """A system in Markdown: title, claim, what was printed, and by what."""
    tree = ast.parse((FOLDER / f"{name}.py").read_text())
    title, _, rest = (ast.get_docstring(tree) or name).partition("\n")
    claim = rest.partition(f"{name}.py")[2].strip()
    return (
        f"## {title}\n\n{claim}\n\n```\n{record['printed'].strip()}\n```\n\n{told(record['by'])}\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="beginnings of the names; all by default")
    chosen = parser.parse_args().names
    scripts = sorted(path for path in FOLDER.glob("*.py") if not path.name.startswith("_"))
    file = RESULTS / "systems.json"
    records = json.loads(file.read_text()) if file.exists() else {}
    for script in scripts:
        if chosen and not any(script.stem.startswith(name) for name in chosen):
            continue
        print(f"{script.stem}:", flush=True)
        by = made_by() | {"command": f"python benchmarks/systems/{script.name}"}
        records[script.stem] = {"printed": measured(script), "by": by}
        print(records[script.stem]["printed"], flush=True)
        file.write_text(json.dumps(records, indent=1, sort_keys=True) + "\n")
    parts = [
        section(script.stem, records[script.stem]) for script in scripts if script.stem in records
    ]
    intro = (
        "# Systems of the literature\n\nWritten by `python -m benchmarks.systems`, as measured.\n\n"
    )
    (RESULTS / "systems.md").write_text(intro + "\n".join(parts))


if __name__ == "__main__":
    main()
