"""What short runs of every preset come to, to the bit.

    python benchmarks/digests.py [--against COMMIT]

A digest is of every number of a run: metrics and the agent's final state, leaf by leaf. A change
that only moves code leaves them as they are; `results/digests.json` keeps them by commit. They hold
for one machine and one version of jax: take both sides of a comparison there. With `--against` the
digests of the commit that are on record are compared, and what differs is named.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import pathlib
import sys
from typing import Any

import jax
import numpy as np
from provenance import made_by, told

import jaxrl
from jaxrl import envs
from jaxrl.agents import PRESETS, preset

FILE = pathlib.Path(__file__).parent / "results" / "digests.json"
NUM_STEPS = 6_000


def digest(tree: Any) -> str:
    """Of the bytes of every leaf, in order."""
    total = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        if jax.dtypes.issubdtype(getattr(leaf, "dtype", np.float64), jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        total.update(np.asarray(leaf).tobytes())
    return total.hexdigest()[:16]


def of_preset(name: str) -> str:
    """A short run of one seed."""
    agent, env = preset(name), envs.make("CartPole-v1")
    try:
        agent.check(env)
    except ValueError:
        env = envs.make("Pendulum-v1")
        agent.check(env)
    program = jax.jit(lambda key: jaxrl.train(key, agent, env, num_steps=NUM_STEPS, num_records=2))
    result = program(jax.random.key(3))
    return digest((result.metrics, result.state.agent))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", help="a commit whose digests are on record")
    parser.add_argument("names", nargs="*", help="presets; all by default")
    arguments = parser.parse_args()
    made = made_by()
    found = {}
    for name in arguments.names or PRESETS:
        found[name] = of_preset(name)
        print(f"{name:24s} {found[name]}", flush=True)
    kept = json.loads(FILE.read_text()) if FILE.exists() else {}
    old = kept.get(made["commit"], {}).get("digests", {})
    kept[made["commit"]] = {"made": told(made), "digests": {**old, **found}}
    FILE.write_text(json.dumps(kept, indent=1) + "\n")
    if arguments.against:
        before = kept[arguments.against]["digests"]
        differ = [name for name in found if before.get(name, found[name]) != found[name]]
        print(f"differ from {arguments.against}: {', '.join(differ) or 'none'}")
        sys.exit(bool(differ))


if __name__ == "__main__":
    main()
