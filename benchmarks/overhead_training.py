"""What chunks cost over one scan, and what makes a sweep compile."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax

import jaxrl
from jaxrl import envs
from jaxrl.agents import preset
from jaxrl.core import PyTree, replace_setting

ENVIRONMENT = "CartPole-v1"
NUM_STEPS = {"ppo": 1_200_000, "dqn": 330_000}  # about 6 CPU-seconds on a 2.6 GHz core
_COMPILED = "/jax/core/compile/backend_compile_duration"
Trainer = Callable[[int], None]  # number of the call -> waits for the trained agent


def training_trainers(agent_name: str, num_steps: int) -> dict[str, Trainer]:
    """`{"sweep", "scan"}`: a chunked sweep of one seed, and `jaxrl.train` as one program; warm.

    Both take the same number of steps and record as often. The settings are arguments of both
    programs. Neither writes checkpoints.
    """
    agent, env = preset(agent_name), envs.make(ENVIRONMENT)

    def whole(key: jax.Array, agent: Any, env: Any) -> PyTree:
        result = jaxrl.train(key, agent, env, num_steps=num_steps)
        return result.state.agent, result.metrics

    program = jax.jit(whole).lower(jax.random.key(0), agent, env).compile()

    def scan(number: int) -> None:
        jax.block_until_ready(program(jax.random.key(number), agent, env))

    def sweep(number: int) -> None:
        key = jax.random.key(number)
        result = jaxrl.sweep(key, agent, env, num_seeds=1, num_steps=num_steps, lanes=1)
        jax.block_until_ready(result.agent_states)

    scan(0)
    sweep(0)
    return {"sweep": sweep, "scan": scan}


def compilations(agent_name: str) -> dict[str, int]:
    """How many programs XLA is asked for by a first sweep and by each changed one after it.

    A program found in the compilation cache on disk counts too.
    """
    agent, env = preset(agent_name), envs.make(ENVIRONMENT)
    # A number in place of a schedule is another struct, so the first sweep has the number already.
    agent = replace_setting(agent, "learning_rate", 1e-3)
    changed = {"learning_rate": 2e-3, "discount": 0.9}
    if agent_name == "ppo":
        changed["entropy_weight"] = 0.02
    count = [0]

    def listen(event: str, _: float, **__: Any) -> None:
        count[0] += event == _COMPILED

    def sweep(seed: int = 0, first_seed: int = 0, agent: Any = agent, env: Any = env) -> int:
        before = count[0]
        jaxrl.sweep(
            jax.random.key(seed), agent, env, num_seeds=2, num_steps=4096, first_seed=first_seed
        )
        return count[0] - before

    jax.monitoring.register_event_duration_secs_listener(listen)
    counts = {"first sweep": sweep(), "same again": sweep()}
    counts["new key"] = sweep(seed=1)
    counts["new first_seed"] = sweep(first_seed=7)
    for name, value in changed.items():
        counts[name] = sweep(agent=replace_setting(agent, name, value))
    counts["gravity of the environment"] = sweep(env=env.with_parameters({"gravity": 12.0}))
    return counts
