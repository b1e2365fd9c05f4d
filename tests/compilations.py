"""`pytest --compilations[=FILE.json]`: what each test compiled and cost, by folder and by file.

Programs are counted by the events that JAX reports of its own compiler, so that eager operations
count too; a program that the persistent cache had is counted as a hit. CPU-seconds are those of
the test's process with all its threads, and of the processes that it started and waited for.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import pathlib
import resource
import time
from collections.abc import Iterator

import jax
import pytest

_STAGES = {
    "/jax/core/compile/jaxpr_trace_duration": "trace",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lower",
    "/jax/core/compile/backend_compile_duration": "compile",
}
_FIELDS = ("programs", "hits", "trace", "lower", "compile", "cpu", "wall")
_SHOWN = 25  # rows of the table of files, and of that of tests


class Counts:
    """Totals of this process since it began, by field."""

    def __init__(self) -> None:
        self.total: collections.Counter[str] = collections.Counter()
        jax.monitoring.register_event_duration_secs_listener(self._duration)
        jax.monitoring.register_event_listener(self._event)

    def _duration(self, event: str, seconds: float, **_: object) -> None:
        if event in _STAGES:
            self.total[_STAGES[event]] += seconds
            self.total["programs"] += event.endswith("backend_compile_duration")

    def _event(self, event: str, **_: object) -> None:
        self.total["hits"] += event == "/jax/compilation_cache/cache_hits"

    def now(self) -> dict[str, float]:
        clock = os.times()
        cpu = clock.user + clock.system + clock.children_user + clock.children_system
        return {**{name: self.total[name] for name in _FIELDS}, "cpu": cpu, "wall": time.time()}


class Compilations:
    """Measures tests in the process that runs them, and prints where there is a terminal."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.counts = Counts()
        self.tests: dict[str, dict[str, float]] = {}
        self.workers: list[dict[str, float]] = []

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.before = self.counts.now()
        return (yield)

    @pytest.hookimpl(wrapper=True, trylast=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo) -> Iterator[None]:
        report = yield
        if call.when == "teardown":
            after = self.counts.now()
            spent = {name: after[name] - self.before[name] for name in _FIELDS}
            report.user_properties.append(("compilations", spent))
        return report

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        found = dict(report.user_properties).get("compilations")
        if report.when == "teardown" and found:
            self.tests[report.nodeid] = found

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.collected = self.counts.now()["cpu"]

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        mine = {
            "collection": getattr(self, "collected", 0.0),
            "cpu": self.counts.now()["cpu"],
            "megabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }
        if hasattr(self.config, "workeroutput"):
            self.config.workeroutput["compilations"] = mine
        elif not self.workers:
            self.workers.append(mine)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: object, error: object) -> None:
        if "compilations" in getattr(node, "workeroutput", {}):
            self.workers.append(node.workeroutput["compilations"])

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if hasattr(self.config, "workerinput"):
            return  # the process that gathers all workers writes
        write = terminalreporter.write_line
        for title, part in [("folder", 2), ("file", None), ("test", 0)]:
            write("")
            write(f"{title:60} tests programs hits trace lower compile cpu [s]")
            rows = by_part(self.tests, part).items()
            rows = sorted(rows, key=lambda row: -row[1]["cpu"])
            for name, sums in rows[: None if title == "folder" else _SHOWN]:
                write(f"{name[-60:]:60} {line(sums)}")
        whole = collections.Counter(tests=len(self.tests))
        for spent in self.tests.values():
            whole.update(spent)
        write(f"{'all':60} {line(whole)}")
        for worker in self.workers:
            write("worker: " + ", ".join(f"{name} {worker[name]:.0f}" for name in worker))
        file = self.config.getoption("--compilations")
        if file != "-":
            found = {"tests": self.tests, "workers": self.workers}
            pathlib.Path(file).write_text(json.dumps(found, indent=1))


def by_part(tests: dict[str, dict[str, float]], part: int | None) -> dict[str, collections.Counter]:
    """Sums over tests whose path has the same first `part` parts; 0 is each test, None its file."""
    sums: dict[str, collections.Counter] = collections.defaultdict(collections.Counter)
    for name, spent in tests.items():
        path = name.split("::")[0]
        folder = path.rsplit("/", 1)[0]
        sums[{0: name, None: path}.get(part, folder)].update({"tests": 1, **spent})
    return sums


def line(sums: collections.Counter) -> str:
    counts = f"{sums['tests']:5d} {int(sums['programs']):8d} {int(sums['hits']):4d}"
    stages = f"{sums['trace']:5.1f} {sums['lower']:5.1f} {sums['compile']:7.1f}"
    return f"{counts} {stages} {sums['cpu']:6.1f}"


def _report(file: str) -> str:
    """Not a test that was named after `--compilations`: it would be overwritten."""
    if file != "-" and not file.endswith(".json"):
        raise argparse.ArgumentTypeError(f"give --compilations=FILE.json, or it last; got {file}")
    return file


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--compilations",
        nargs="?",
        const="-",
        type=_report,
        metavar="FILE",
        help="count what each test compiles and costs; print tables, and write FILE (JSON)",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--compilations"):
        config.pluginmanager.register(Compilations(config))
