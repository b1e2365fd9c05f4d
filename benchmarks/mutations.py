"""Faults put into a copy of the code, one at a time: does the suite notice?

    python benchmarks/mutations.py                     # all of mutations.toml
    python benchmarks/mutations.py --only agents       # those whose file or fault has this word
    python benchmarks/mutations.py --new               # never run, or noticed by no default test

A fault replaces one piece of one file, which must stand there once. The test files named with it
run in the copy, as they do by default (without the slow tests), and must fail. What was found goes
to results/mutations.json, and from there to the table in results/mutations.md, survivors first.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
LONGEST = 1200.0  # [s] of one fault's tests; a fault that makes them hang is noticed too


@dataclasses.dataclass(frozen=True)
class Fault:
    """One replacement in one file of `jaxrl/`, and the test files that should notice."""

    file: str
    old: str
    new: str
    tests: list[str]
    what: str = ""  # in words, where the replacement does not speak for itself

    @property
    def name(self) -> str:
        """What its result is kept under."""
        words = "\n".join((self.file, self.old, self.new))
        return f"{self.file} {hashlib.sha256(words.encode()).hexdigest()[:12]}"

    @property
    def told(self) -> str:
        """The fault in words, or what becomes what."""
        if self.what:
            return self.what
        return f"`{' '.join(self.old.split())}` becomes `{' '.join(self.new.split())}`"

    def put_into(self, copy: pathlib.Path) -> None:
        """Write the file with the fault.

        Raises:
            ValueError: the piece to replace does not stand there exactly once.
        """
        text = (ROOT / "jaxrl" / self.file).read_text()
        if text.count(self.old) != 1 or self.old == self.new:
            raise ValueError(
                f"{self.file} has {text.count(self.old)} places {self.old!r}; mend mutations.toml."
            )
        (copy / "jaxrl" / self.file).write_text(text.replace(self.old, self.new))

    def take_out_of(self, copy: pathlib.Path) -> None:
        """Write the file as it was."""
        shutil.copy(ROOT / "jaxrl" / self.file, copy / "jaxrl" / self.file)


def read_faults(only: str) -> list[Fault]:
    rows = tomllib.loads((HERE / "mutations.toml").read_text())["fault"]
    faults = [Fault(**{name: _piece(value) for name, value in row.items()}) for row in rows]
    return [fault for fault in faults if only in fault.file + fault.told]


def _piece(value: object) -> object:
    return value.strip("\n") if isinstance(value, str) else value


def make_copy(folder: pathlib.Path) -> pathlib.Path:
    left_out = shutil.ignore_patterns("__pycache__", "results")
    for name in ("jaxrl", "tests", "benchmarks"):
        shutil.copytree(ROOT / name, folder / name, ignore=left_out)
    shutil.copy(ROOT / "pyproject.toml", folder)
    return folder


def notice(tests: list[str], copy: pathlib.Path) -> tuple[str, float]:
    """The first test that fails, "" when none does, and the seconds it took."""
    options = ["-n", "0", "-x", "--tb=no", "-p", "no:cacheprovider"]
    cache = str(copy.parent / "programs")
    environment = dict(os.environ, JAX_COMPILATION_CACHE_DIR=cache, PYTHONDONTWRITEBYTECODE="1")
    began = time.time()
    command = [sys.executable, "-m", "pytest", *options, *tests]
    try:
        done = subprocess.run(
            command, cwd=copy, env=environment, capture_output=True, text=True, timeout=LONGEST
        )
    except subprocess.TimeoutExpired:
        return "(hangs)", time.time() - began
    took = time.time() - began
    if done.returncode == 0:
        return "", took
    failed = re.search(r"^(?:FAILED|ERROR) (.+?)(?: - |$)", done.stdout, re.MULTILINE)
    if done.returncode != 1 or failed is None:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout[-3000:]}\n{done.stderr[-2000:]}")
    return failed.group(1), took


def load_results() -> dict[str, str]:
    file = HERE / "results" / "mutations.json"
    return json.loads(file.read_text()) if file.exists() else {}


def default_tests() -> set[str]:
    """The tests that run by default, by name."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-n", "0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return {line for line in done.stdout.splitlines() if "::" in line}


def write_results(found: dict[str, str]) -> None:
    """The table of all faults whose tests have run; results of faults that are gone are dropped."""
    faults = [fault for fault in read_faults("") if fault.name in found]
    kept = {fault.name: found[fault.name] for fault in faults}
    (HERE / "results" / "mutations.json").write_text(json.dumps(kept, indent=1) + "\n")
    lines = [
        "# Faults put into the code, and the tests that notice",
        "",
        "`python benchmarks/mutations.py` puts each fault of mutations.toml into a copy and runs",
        "the default tests of the files named with it.",
        "",
        f"{len(faults)} faults, {sum(not kept[fault.name] for fault in faults)} survive.",
        "",
        "| package | file | fault | noticed by |",
        "| --- | --- | --- | --- |",
    ]
    for fault in sorted(faults, key=lambda fault: (bool(kept[fault.name]), fault.file)):
        package, _, file = fault.file.partition("/")
        who = kept[fault.name].split("/")[-1]
        cells = (package, file, fault.told, f"`{who}`" if who else "**survives**")
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    (HERE / "results" / "mutations.md").write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="a word in the file or the fault")
    parser.add_argument("--new", action="store_true", help="those that no default test noticed yet")
    arguments = parser.parse_args()
    faults, survive = read_faults(arguments.only), 0
    if arguments.new:
        known, there = load_results(), default_tests()
        faults = [fault for fault in faults if known.get(fault.name) not in there]
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name) / "copy"
        folder.mkdir()
        copy = make_copy(folder)
        for fault in faults:
            fault.put_into(copy)
            found, took = notice(fault.tests, copy)
            fault.take_out_of(copy)
            survive += not found
            print(
                f"{took:6.0f} s  {found or 'SURVIVES':60.60}  {fault.file}: {fault.told}",
                flush=True,
            )
            write_results(load_results() | {fault.name: found})
    sys.exit(survive > 0)


if __name__ == "__main__":
    main()
