"""How many kernels a compiled training run starts: a measure of speed that no other load disturbs.

    python benchmarks/kernels.py                      # this checkout, written to results/
    python benchmarks/kernels.py --tree ../old        # beside it another one

On a CPU a run of small networks costs about what it starts: fusions, copies and products, each of
them for every trip of the loops around it. They are counted in the compiled program of
`jaxrl.train` over 20,000 steps with ten records. A branch counts half. `keys` are those inside the
hashes of random keys: loops of five trips over `u32`. What a kernel does is not weighed: compare
rows of one agent, and time what differs.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys

from provenance import made_by, told

RESULTS = pathlib.Path(__file__).resolve().parent / "results"
RUNS = {"ppo": "CartPole-v1", "pqn": "CartPole-v1", "dqn": "CartPole-v1", "sac": "Pendulum-v1"}
NUM_STEPS = 20_000
FREE = {"parameter", "tuple", "get-tuple-element", "bitcast", "constant", "after-all"}
CALLED = re.compile(r"(?:condition|body|to_apply|computations?)=(\{[^}]*\}|%[^\s,]+)")
LINE = re.compile(r"^\s+(?:ROOT )?%\S+ = (.+?) ([a-z][\w\-]*)\((.*)$")


def count(program: str) -> dict[str, float]:
    """Kernels that one call of an optimised HLO program starts: all, and in hashes of keys."""
    bodies: dict[str, list[str]] = {}
    entry = name = ""
    for line in program.splitlines():
        if head := re.match(r"^(ENTRY )?%?(\S+) \(.*\{$", line):
            name = head[2]
            entry = name if head[1] else entry
        elif LINE.match(line):
            bodies.setdefault(name, []).append(line)
    found = {"all": 0.0, "keys": 0.0}

    def walk(body: str, times: float, hashes: bool) -> None:
        for line in bodies.get(body, []):
            kind, operation, rest = LINE.match(line).groups()  # pyright: ignore
            called = re.findall(r"%([^\s,}]+)", " ".join(CALLED.findall(rest)))
            if operation == "while":
                trips = re.search(r"known_trip_count\D+(\d+)", rest)
                trips = int(trips[1]) if trips else 1
                for name in called:
                    walk(name, times * trips, hashes or (trips == 5 and "u32[" in kind))
            elif operation in ("call", "conditional"):
                for name in called:
                    walk(name, times / len(called), hashes)
            elif operation not in FREE:
                found["all"] += times
                found["keys"] += times * hashes

    walk(entry, 1.0, False)
    return found


def measure() -> dict[str, dict[str, float]]:
    """By agent, of the jaxrl that Python finds."""
    import jax

    import jaxrl
    from jaxrl import envs

    rows = {}
    for name, task in RUNS.items():
        agent, env = getattr(jaxrl, name)(), envs.make(task)  # as older checkouts have it too

        def run(key, agent=agent, env=env):
            return jaxrl.train(key, agent, env, num_steps=NUM_STEPS, num_records=10).metrics

        rows[name] = count(jax.jit(run).lower(jax.random.key(0)).compile().as_text())
    return rows


def measured(tree: pathlib.Path) -> dict[str, dict[str, float]]:
    """The same of another checkout, in a process of its own."""
    environment = dict(os.environ, PYTHONPATH=str(tree.resolve()))
    command = [sys.executable, __file__, "--print"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def table(ours: dict, others: dict, by: str) -> str:
    lines = [
        "# Kernels of a training run",
        "",
        "Written by `benchmarks/kernels.py`, which says what is counted.",
        "",
    ]
    lines += ["| agent | task | kernels / step | of them keys | of another checkout | ratio |"]
    lines += ["|---|---|---|---|---|---|"]
    for name, row in ours.items():
        cells = [
            name,
            RUNS[name],
            f"{row['all'] / NUM_STEPS:.1f}",
            f"{row['keys'] / row['all']:.0%}",
        ]
        other = others.get(name)
        cells += (
            [f"{other['all'] / NUM_STEPS:.1f}", f"{row['all'] / other['all']:.3f}"]
            if other
            else ["", ""]
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", f"{by}."]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tree", type=pathlib.Path, help="another checkout, to compare with")
    parser.add_argument("--print", action="store_true", help="print the counts; write nothing")
    arguments = parser.parse_args()
    ours = measure()
    if arguments.print:
        print(json.dumps(ours))
        return
    others, by = {}, told(made_by())
    if arguments.tree:
        others = measured(arguments.tree)
        commit = ["git", "-C", str(arguments.tree), "rev-parse", "--short", "HEAD"]
        done = subprocess.run(commit, capture_output=True, text=True, check=True)
        by = by.replace(str(arguments.tree), done.stdout.strip())
    page = table(ours, others, by)
    (RESULTS / "kernels.md").write_text(page)
    print(page)


if __name__ == "__main__":
    main()
