"""What the test suite costs, by folder, beside what it cost before.

    python benchmarks/suite.py after                    # the default tests, on an idle machine
    python benchmarks/suite.py after --busy 2           # with two endless loops beside them
    python benchmarks/suite.py after --part slow        # the others; --part whole: all of them
    python benchmarks/suite.py before --tree ../old     # those of another checkout
    python benchmarks/suite.py after --part slow --reports a.json b.json   # runs of parts of it

Each run starts without compiled programs. It is measured by the plugin tests/compilations.py of
this checkout, kept in results/suite.json, and told in results/suite.md. Where a part takes too long
for one run, its folders may be run one by one with `--compilations=FILE` and read from the files.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
RESULTS = HERE / "results"
PARTS = {"default": "not slow", "slow": "slow", "whole": "slow or not slow"}


def measure(tree: pathlib.Path, part: str, num_busy: int) -> dict:
    """One run of the suite of `tree`: seconds, memory of a worker, and sums by folder."""
    with tempfile.TemporaryDirectory() as folder:
        report = pathlib.Path(folder) / "report.json"
        paths = os.pathsep.join([str(HERE.parent / "tests"), str(tree)])
        environment = dict(
            os.environ, PYTHONPATH=paths, JAX_COMPILATION_CACHE_DIR=f"{folder}/programs"
        )
        options = ["-n", "2", "-p", "compilations", f"--compilations={report}", "-m", PARTS[part]]
        loops = [subprocess.Popen([sys.executable, "-c", "while 1: 1"]) for _ in range(num_busy)]
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.time()
        try:
            done = subprocess.run(
                [sys.executable, "-m", "pytest", *options], cwd=tree, env=environment
            )
            wall, after = time.time() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
        finally:
            for loop in loops:
                loop.kill()
                loop.wait()
        found = json.loads(report.read_text())
    usage = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"passed": done.returncode == 0, "wall": wall, "cpu": usage} | summary(found)


def read(reports: list[pathlib.Path]) -> dict:
    """The same of runs that were measured before, without a wall time."""
    found: dict = {"tests": {}, "workers": []}
    for report in reports:
        one = json.loads(report.read_text())
        found["tests"] |= one["tests"]
        found["workers"] += one["workers"]
    cpu = sum(worker["cpu"] for worker in found["workers"])
    return {"passed": True, "wall": None, "cpu": cpu} | summary(found)


def summary(found: dict) -> dict:
    folders: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for name, spent in found["tests"].items():
        place = name.split("/")[1]
        row = {x: spent[x] for x in ("programs", "hits", "cpu")}
        folders["tests" if ".py" in place else place].update({"tests": 1, **row})
    return {
        "megabytes": max(worker["megabytes"] for worker in found["workers"]),
        "collection": max(worker["collection"] for worker in found["workers"]),
        "folders": {name: dict(sums) for name, sums in sorted(folders.items())},
    }


def table(results: dict[str, dict]) -> str:
    lines = [
        "# What the test suite costs",
        "",
        "Measured by `python benchmarks/suite.py`: two workers (one where read from reports), no",
        f"compiled programs at first, Python {sys.version.split()[0]} on {os.cpu_count()} cores.",
        "CPU-minutes count all processes and the collection; `hits` were in the cache by then.",
        "",
        "| run | wall [min] | CPU [min] | tests | programs | hits | largest worker [MB] |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, run in results.items():
        sums = collections.Counter()
        for row in run["folders"].values():
            sums.update(row)
        wall = f"{run['wall'] / 60:.1f}" if run["wall"] else "not kept"
        minutes = f"{wall} | {run['cpu'] / 60:.1f}"
        counts = f"{sums['tests']} | {sums['programs']} | {sums['hits']}"
        failed = "" if run["passed"] else " (some fail)"
        lines.append(f"| {name}{failed} | {minutes} | {counts} | {run['megabytes']:.0f} |")
    idle = [name for name in results if "busy" not in name]
    lines += [
        "",
        "By folder, tests / programs / CPU-seconds of the tests:",
        "",
        f"| folder | {' | '.join(idle)} |",
        "| --- " * (len(idle) + 1) + "|",
    ]
    for folder in sorted({folder for name in idle for folder in results[name]["folders"]}):
        rows = [results[name]["folders"].get(folder) for name in idle]
        cells = [f"{r['tests']} / {r['programs']} / {r['cpu']:.0f}" if r else "" for r in rows]
        lines.append(f"| {folder} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="what the checkout is called in the table")
    parser.add_argument("--tree", type=pathlib.Path, default=HERE.parent)
    parser.add_argument("--part", choices=PARTS, default="default")
    parser.add_argument("--busy", type=int, default=0, help="endless loops beside the tests")
    parser.add_argument("--reports", type=pathlib.Path, nargs="+", help="files to read instead")
    asked = parser.parse_args()
    file = RESULTS / "suite.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    name = f"{asked.name}, {asked.part}" + (f", {asked.busy} busy loops" if asked.busy else "")
    if asked.reports:
        results[name] = read(asked.reports)
    else:
        results[name] = measure(asked.tree.resolve(), asked.part, asked.busy)
    file.write_text(json.dumps(results, indent=1) + "\n")
    (RESULTS / "suite.md").write_text(table(results))


if __name__ == "__main__":
    main()
