"""Systems of the research literature on the toolkit: each claim, its control, what was measured.

    python -m benchmarks.systems              # all of them, one after another
    python -m benchmarks.systems s01 r04      # the others' results stay
    python -m benchmarks.systems --exact      # those without training, a minute or two
    python -m benchmarks.systems --table      # runs nothing, writes the table anew

A system is a script in this folder. Its docstring begins with a title `ID, name: claim in a few
words.` (the id is that of the handbook of systems, if it has one), gives the command, and says
whose claim it is and what would show it. The last it prints is its row, by `row` of `_row.py`: what
was measured, the control, the interval, whether the claim holds. `EXACT = True` says that it
trains nothing: identities, planners and records of other benchmarks.

All that is printed goes to `results/systems.json`, and from there to `results/systems.md`, as it
is, whether it comes out for the paper or against.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import pathlib
import re
import subprocess
import sys

FOLDER = pathlib.Path(__file__).parent
ROOT, RESULTS = FOLDER.parents[1], FOLDER.parent / "results"
sys.path.insert(0, str(FOLDER.parent))

from provenance import made_by, told  # noqa: E402

CELLS = ("measured", "control", "interval")
TITLE = re.compile(r"(?:(?P<id>[A-Z]-\d\d), )?(?P<name>[^:]+): (?P<claim>.+)\.")
VERDICT = re.compile(r"holds: (?P<holds>yes|no); (?P<seconds>\d+) CPU-seconds")


def scripts() -> list[pathlib.Path]:
    """Every system's script; those with an id of the handbook first, in its order."""
    found = [path for path in FOLDER.glob("*.py") if not path.name.startswith("_")]
    return sorted(found, key=lambda path: (not title(path)["id"], path.name))


def about(script: pathlib.Path) -> tuple[str, str]:
    """First line of a script's docstring, and what follows the command in it."""
    text = ast.get_docstring(ast.parse(script.read_text())) or script.stem
    first, _, rest = text.partition("\n")
    return first, rest.partition(script.name)[2].strip()


def title(script: pathlib.Path) -> dict[str, str]:
    """`id` (or ""), `name` and `claim` of a system.

    Raises:
        ValueError: the docstring does not begin with such a title.
    """
    found = TITLE.fullmatch(about(script)[0])
    if found is None:
        raise ValueError(
            f"{script.name}: begin its docstring with `ID, name: claim in a few words.`"
        )
    return {name: text or "" for name, text in found.groupdict().items()}


def is_exact(script: pathlib.Path) -> bool:
    """Whether it says that it trains nothing."""
    return "\nEXACT = True\n" in script.read_text()


def measured(script: pathlib.Path) -> str:
    """What a script prints."""
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, str(script)]
    environment = {**os.environ, "PYTHONPATH": path}
    return subprocess.run(
        command, env=environment, stdout=subprocess.PIPE, check=True, text=True
    ).stdout


def cells(printed: str) -> dict[str, str]:
    """The row in what a script printed: `measured`, `control`, `interval`, `holds`, `seconds`."""
    lines = [line.partition(": ") for line in printed.splitlines()]
    found = {name: text for name, colon, text in lines if colon and name in CELLS}
    verdict = VERDICT.search(printed)
    return found | (verdict.groupdict() if verdict else {})


def table(records: dict[str, dict]) -> str:
    """A line for each system."""
    lines = [
        "| id | system | claim | measured | control | interval | holds | CPU-s |",
        "|" + "---|" * 8,
    ]
    for script in scripts():
        if script.stem in records:
            row = title(script) | cells(records[script.stem]["printed"])
            names = ("id", "name", "claim", *CELLS, "holds", "seconds")
            lines.append(f"| {' | '.join(row.get(name, '') for name in names)} |")
    seconds = [int(cells(record["printed"]).get("seconds", 0)) for record in records.values()]
    lines += ["", f"{len(records)} systems, {sum(seconds) / 60:.0f} minutes of CPU time in all."]
    return "\n".join(lines)


def note(script: pathlib.Path, record: dict) -> str:
    """What stands below the table: what was done, what was printed before the row, by what."""
    first, claim = about(script)
    own = [
        line
        for line in record["printed"].strip().splitlines()
        if line.partition(": ")[0] not in CELLS and not VERDICT.fullmatch(line)
    ]
    printed = "```\n" + "\n".join(own) + "\n```\n\n" if own else ""
    return f"## {first}\n\n{claim}\n\n{printed}{told(record['by'])}\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="beginnings of the names; all by default")
    parser.add_argument("--exact", action="store_true", help="only those that train nothing")
    parser.add_argument("--table", action="store_true", help="only write the table of the records")
    options = parser.parse_args()
    file = RESULTS / "systems.json"
    records = json.loads(file.read_text()) if file.exists() else {}
    for script in scripts():
        named = any(script.stem.startswith(name) for name in options.names)
        if options.table or not (named or not options.names):
            continue
        if options.exact and not is_exact(script):
            continue
        print(f"{script.stem}:", flush=True)
        by = made_by() | {"command": f"python benchmarks/systems/{script.name}"}
        records[script.stem] = {"printed": measured(script), "by": by}
        print(records[script.stem]["printed"], flush=True)
        file.write_text(json.dumps(records, indent=1, sort_keys=True) + "\n")
    notes = [note(script, records[script.stem]) for script in scripts() if script.stem in records]
    intro = (
        "# Systems of the literature\n\nWritten by `python -m benchmarks.systems`, as measured: a "
        "row for each system, and notes on it below.\n\n"
    )
    (RESULTS / "systems.md").write_text(f"{intro}{table(records)}\n\n" + "\n".join(notes))


if __name__ == "__main__":
    main()
