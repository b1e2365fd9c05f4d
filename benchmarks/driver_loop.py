"""What the two drivers of `throughput.py` share: arguments, clock and the line protocol.

It runs in two virtual environments, so it needs jax and the standard library only.

A driver builds a `Program`, compiles it, prints one JSON line and then measures one call for each
line it reads (`--serve`), or `--repeats` calls at once. Waiting on a line costs no CPU time, so the
orchestrator can alternate two compiled drivers call by call.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import jax
from throughput_settings import SETTINGS


@dataclasses.dataclass(frozen=True)
class Program:
    """One training job of all seeds.

    Attributes:
        compile: Makes the executable; nothing may be compiled after it.
        run: Number of the call -> whatever training returns. It trains all seeds from scratch.
        score: Result of `run` -> mean episode return [return] of the trained policies.
        env_steps: Environment steps of one call, all seeds together.
    """

    compile: Callable[[], None]
    run: Callable[[int], Any]
    score: Callable[[Any], float]
    env_steps: int


def parse_arguments(description: str) -> argparse.Namespace:
    """Arguments common to the drivers."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--agent", choices=sorted({a for a, _ in SETTINGS}), default="ppo")
    parser.add_argument("--env", choices=sorted({e for _, e in SETTINGS}), default="CartPole-v1")
    parser.add_argument("--num-seeds", type=int, default=1)
    parser.add_argument("--num-steps", type=int, default=100_000, help="of each seed")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--serve", action="store_true", help="one call for each line of stdin")
    return parser.parse_args()


def drive(program: Program, arguments: argparse.Namespace) -> None:
    """Compile, warm up, measure and report as JSON lines on standard output.

    Lines: `{"ready": ..., "compile_s": ...}`, one `{"cpu_s", "wall_s", "env_steps"}` for each call,
    and at the end `{"cpu_s", "wall_s", "env_steps", "compile_s", "mean_return"}` with medians.
    CPU seconds are those of all threads of this process during the call, and nothing else.
    """
    start = time.perf_counter()
    program.compile()
    compile_s = time.perf_counter() - start
    # The first call pays for page faults and for starting threads: not measured.
    result = jax.block_until_ready(program.run(0))
    emit({"ready": True, "compile_s": compile_s, "jax": jax.__version__})

    measured = []
    calls = sys.stdin if arguments.serve else range(arguments.repeats)
    for number, _ in enumerate(calls, start=1):
        del result  # a second replay buffer beside the new one would be measured as page faults
        wall, cpu = time.perf_counter(), time.process_time()
        result = jax.block_until_ready(program.run(number))
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        measured.append((cpu, wall))
        emit({"cpu_s": cpu, "wall_s": wall, "env_steps": program.env_steps})

    emit(
        {
            "cpu_s": statistics.median(cpu for cpu, _ in measured) if measured else None,
            "wall_s": statistics.median(wall for _, wall in measured) if measured else None,
            "env_steps": program.env_steps,
            "compile_s": compile_s,
            "mean_return": program.score(result),
        }
    )


def emit(record: dict[str, Any]) -> None:
    """Print one JSON line at once."""
    print(json.dumps(record), flush=True)
