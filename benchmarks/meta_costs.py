"""What outer loops cost: memory, compilations, and the variance that common lives take away."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl import a2c
from jaxrl.agents import Optimiser
from jaxrl.core import Array, Key, replace_setting
from jaxrl.envs.control import CartPole
from jaxrl.meta import (
    Evolution,
    MetaGradient,
    PersistentEvolution,
    RandomGrids,
    Task,
    explain,
    fit,
    tuned,
)
from jaxrl.meta.experiments import table_agent
from jaxrl.rules import lpg

NAMES = ("optimiser.learning_rate", "rule.entropy_weight", "rule.lambda_", "discount")
NUM_UPDATES = (5, 10, 20)
_COMPILED = "/jax/core/compile/backend_compile_duration"


def costs() -> dict[str, Any]:
    """All that `costs_table` shows."""
    return {
        "memory": {
            "LPG, table, grids": memory(_learned()),
            "LPG, table, grids, keep_every = 5": memory(_learned().replace(keep_every=5)),
            "A2C, 2 x 64 units, cart-pole": memory(_deep(64)),
            "A2C, 2 x 256 units": memory(_deep(256)),
            "A2C, 2 x 256 units, keep_every = 5": memory(_deep(256).replace(keep_every=5)),
        },
        "compilations": compilations(),
        "variance": {f"{sigma:g}": variances(sigma) for sigma in (0.03, 0.1, 0.3)},
    }


def memory(outer: MetaGradient) -> dict[str, list[int]]:
    """Working bytes of an outer step by the number of updates, and those of the learners."""
    found = [explain(outer.replace(num_updates=count)) for count in NUM_UPDATES]
    return {
        "updates": list(NUM_UPDATES),
        "working_bytes": [one.temporary_bytes for one in found],
        "state_bytes": [one.state_bytes for one in found],
    }


def compilations() -> dict[str, list[int]]:
    """Programs of a first `fit`, the numbers changed after it, and the programs they needed."""
    evolution = Evolution(tuned(table_agent(), NAMES), RandomGrids(3200.0), 10, num_pairs=2)
    loops = {
        "MetaGradient": _tabular().replace(num_lives=2, num_updates=2),
        "Evolution": evolution,
        "PersistentEvolution": PersistentEvolution(
            evolution.tuned, evolution.tasks, window=2, num_pairs=2
        ),
    }
    count = [0]

    def listen(event: str, _: float, **__: Any) -> None:
        count[0] += event == _COMPILED

    jax.monitoring.register_event_duration_secs_listener(listen)

    def programs(outer: Any) -> int:
        before = count[0]
        fit(jax.random.key(0), outer, num_steps=1)
        return count[0] - before

    found = {}
    for name, outer in loops.items():
        first, agent = programs(outer), outer.tuned.agent
        changed = [
            outer.replace(tuned=outer.tuned.replace(agent=replace_setting(agent, setting, 0.013)))
            for setting in NAMES
        ]
        changed += [outer.replace(optimiser=outer.optimiser.replace(learning_rate=0.017))]
        if hasattr(outer, "sigma"):
            changed += [outer.replace(sigma=0.21)]
        found[name] = [first, len(changed), sum(map(programs, changed))]
    return found


def variances(sigma: float, num_draws: int = 1024) -> dict[str, float]:
    """The variance of f+ - f- over directions and lives, for three ways to choose the lives of f-.

    f is the final reward rate of a tabular A2C on random grids, of which four numbers are changed.
    """
    outer = Evolution(
        tuned(table_agent(), NAMES), RandomGrids(32_000.0), 100, fitness="final_rate", sigma=sigma
    )
    centre = outer.tuned.init()
    leaves, form = jax.tree.flatten(centre)

    def one(key: Key) -> Array:
        noise_key, *others = jax.random.split(key, 5)
        noise = jax.random.normal(noise_key, (len(leaves),))

        def of(sign: float, task_key: Key, life_key: Key) -> Array:
            moved = [leaf + sign * sigma * e for leaf, e in zip(leaves, noise, strict=True)]
            found = outer.measures_of(jax.tree.unflatten(form, moved), task_key, life_key)
            return found["final_rate"]

        plus = of(1.0, others[0], others[1])
        minus = [(0, 1), (0, 2), (3, 2)]
        return jnp.stack([plus - of(-1.0, others[task], others[life]) for task, life in minus])

    gaps = np.asarray(jax.jit(jax.vmap(one))(jax.random.split(jax.random.key(0), num_draws)))
    return dict(zip(("same life", "same task", "nothing"), gaps.var(axis=0).tolist(), strict=True))


def costs_table(found: Mapping[str, Any]) -> str:
    """Markdown."""
    lines = [
        "Working memory of a meta-gradient step of 8 lives, by the updates K that it goes through:",
        "",
        "| learner | " + " | ".join(f"K = {count}" for count in NUM_UPDATES) + " | state |",
        "|---|" + "---|" * (len(NUM_UPDATES) + 1),
    ]
    for name, one in found["memory"].items():
        sizes = [f"{size / 1e6:.1f} MB" for size in (*one["working_bytes"], one["state_bytes"][0])]
        lines.append(f"| {name} | {' | '.join(sizes)} |")
    lines += [
        "",
        "| outer loop | programs of the first fit | numbers changed | programs they needed |",
        "|---|---|---|---|",
    ]
    for name, numbers in found["compilations"].items():
        lines.append(f"| {name} | {' | '.join(map(str, numbers))} |")
    lines += [
        "",
        "Variance of f+ - f- (final reward rate of a life) in units of that of pairs that share "
        "task, start and seed:",
        "",
        "| sigma | same task, other seed | another task, other seed |",
        "|---|---|---|",
    ]
    for sigma, one in found["variance"].items():
        shared = one["same life"]
        lines.append(
            f"| {sigma} | {one['same task'] / shared:.1f} | {one['nothing'] / shared:.1f} |"
        )
    return "\n".join(lines)


def _learned() -> MetaGradient:
    agent = table_agent(lpg(jax.random.key(0), num_hidden=32, num_predictions=8))
    return MetaGradient(
        tuned(agent.replace(normalise_advantages=False)), RandomGrids(96_000.0), num_lives=8
    )


def _deep(width: int) -> MetaGradient:
    agent = a2c().replace(num_envs=16, rollout_length=16)
    agent = agent.replace(network=agent.network.replace(hidden_sizes=(width, width)))
    return MetaGradient(tuned(agent, NAMES), Task(CartPole(), 1e5), num_lives=8)


def _tabular() -> MetaGradient:
    agent = table_agent(optimiser=Optimiser(learning_rate=0.1, max_grad_norm=None))
    return MetaGradient(tuned(agent, NAMES), RandomGrids(96_000.0), num_lives=8)
