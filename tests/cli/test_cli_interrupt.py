"""Signals: the first is noted, the second ends the process even where Python does not run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jaxrl.cli import interrupt as signals

ROOT = Path(__file__).parents[2]
WAITING = """
import select
from jaxrl.cli.interrupt import catch_signals
with catch_signals(lambda text: print("noted", flush=True)):
    print("ready", flush=True)
    for _ in range(600):
        select.select([], [], [], 0.1)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_ends_the_process(number: signal.Signals) -> None:
    command = [sys.executable, "-c", WAITING]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.readline() == "noted\n"
        assert process.poll() is None
        process.send_signal(number)
        assert process.wait(timeout=30) == 128 + number


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP", "SIGUSR1"])
def test_one_signal_is_noted_and_the_handlers_come_back(name: str) -> None:
    number = getattr(signal, name)
    before = signal.getsignal(number)
    said: list[str] = []
    with signals.catch_signals(said.append) as interrupt:
        assert not interrupt.requested
        os.kill(os.getpid(), number)
        while not said:  # another thread notes it
            time.sleep(0.001)
    assert interrupt.requested and interrupt.exit_code == 128 + number
    assert len(said) == 1 and signal.getsignal(number) is before


def test_without_a_signal_nothing_is_noted() -> None:
    said: list[str] = []
    with signals.catch_signals(said.append) as interrupt:
        pass
    assert not interrupt.requested and said == []
