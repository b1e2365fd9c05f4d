"""Parts of a user's own, by the doors alone: a type checker takes each for its contract.

`pyright` looks at this file as at the package. What a line with an annotation such as
`head: Head = Spread()` says, no test at run time could: that no part of it has to be cast.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl
from jaxrl import envs
from jaxrl.core import (
    COHERENT,
    Agent,
    Array,
    Box,
    CompositionFacts,
    Discrete,
    Environment,
    HeadFacts,
    ImprovementFacts,
    Key,
    Law,
    Progress,
    PyTree,
    RuleFacts,
    Struct,
    TimeStep,
    Transition,
    setting,
)
from jaxrl.core.protocols import Composition, Functional, Head, Improvement, Policy, UpdateRule
from jaxrl.functionals import CVaR
from jaxrl.operators import BellmanOperator, Quantile
from jaxrl.rules import PolicyOutputs, PolicyTargets, ProximalPolicy, advantage_targets


class Least(Struct):
    """The worst outcome. A class attribute is as good as a property; names are the user's."""

    facts = COHERENT

    def __call__(self, p: Array, v: Array) -> Array:
        return jnp.min(jnp.where(p > 0, v, jnp.inf))


class Spread(Struct):
    """The least and the greatest return: facts by a setting, and a shape that is a field."""

    exact: bool = setting(True, "store both ends")
    shape: tuple[int, ...] = jaxrl.core.struct.field(pytree_node=False, default=(2,))

    @property
    def facts(self) -> HeadFacts:
        return HeadFacts(mean_preserving=not self.exact)

    def law(self, params: Array) -> Law:
        return Law.of_samples(params)

    def encode(self, law: Law) -> Array:
        return jnp.stack([jnp.min(law.atoms), jnp.max(law.atoms)])

    def loss(self, params: Array, target: Law) -> Array:
        return jnp.sum((params - self.encode(target)) ** 2)

    def mean(self, params: Array) -> Array:
        return jnp.mean(params)


class Uniform(Struct):
    """Any action."""

    facts = ImprovementFacts(fixed=True)

    def __call__(self, q_values: Array, mask: Array | None = None) -> tuple[Array, Array]:
        legal = jnp.ones_like(q_values) if mask is None else mask.astype(q_values.dtype)
        return legal / jnp.sum(legal), jnp.zeros_like(q_values)


class Undiscounted(Struct):
    """r + next, until the end."""

    facts = CompositionFacts(contracts=False)

    def __call__(self, reward: Array, discount: Array, next_return: Array) -> Array:
        return reward + jnp.where(discount > 0, next_return, 0.0)


class Return(Struct):
    """A policy gradient, with a state of its own type."""

    lambda_: float = setting(0.9, "decay of traces", low=0.0, high=1.0)

    facts = RuleFacts()
    outputs = {}  # noqa: RUF012

    def init(self, params: PyTree) -> tuple[()]:
        return ()

    def targets(
        self, rule_state: tuple[()], outputs: PolicyOutputs, data: Transition, progress: Progress
    ) -> tuple[PolicyTargets, tuple[()]]:
        return advantage_targets(self.lambda_, outputs, data), rule_state

    def loss(self, outputs: PolicyOutputs, targets: PolicyTargets, progress: Progress) -> Array:
        return -outputs.log_prob * targets.advantage


class CountState(Struct):
    """Of `Count`."""

    number: Array


class Count(Struct):
    """Reach three by going up, from one or two."""

    cost: float = setting(1.0, "of a step", unit="return", low=0.0)

    observation_space = Box(0.0, 3.0, (1,))
    action_space = Discrete(2)

    def reset(self, key: Key) -> tuple[CountState, Array]:
        state = CountState(jax.random.randint(key, (), 1, 3))
        return state, self.seen(state)

    def step(self, key: Key, state: CountState, action: Array) -> tuple[CountState, TimeStep]:
        state = state.replace(number=jnp.clip(state.number + 2 * action - 1, 0, 3))
        reward, never = -self.cost * jnp.ones(()), jnp.zeros((), bool)
        ended = state.number == 3
        return state, TimeStep(self.seen(state), reward, terminated=ended, truncated=never)

    def seen(self, state: CountState) -> Array:
        return state.number[None].astype(jnp.float32)


class UpwardState(Struct):
    """Of `Upward`."""

    updates: Array


class Upward(Struct):
    """An agent that has nothing to learn."""

    num_envs: int = setting(2, "side by side", low=1)
    rollout_length: int = setting(4, "between two updates", low=1)
    discount: float = 1.0

    def check(self, env: Environment) -> None:
        if not isinstance(env.action_space, Discrete):
            raise ValueError("it counts.")

    def init(
        self, key: Key, env: Environment, total_steps: float | Array = float("inf")
    ) -> UpwardState:
        return UpwardState(jnp.zeros((), jnp.int32))

    def initial_memory(self, num_envs: int) -> tuple[()]:
        return ()

    def act(
        self,
        key: Key,
        state: UpwardState,
        observation: Array,
        explore: bool = True,
        memory: PyTree = (),
    ) -> tuple[Array, dict[str, Any]]:
        return jnp.ones(observation.shape[0], jnp.int32), {}

    def update(
        self, key: Key, state: UpwardState, trajectory: Transition
    ) -> tuple[UpwardState, dict[str, Array]]:
        return state.replace(updates=state.updates + 1), {"reward": jnp.mean(trajectory.reward)}


functional: Functional = Least()
head: Head = Spread()
improvement: Improvement = Uniform()
composition: Composition = Undiscounted()
rule: UpdateRule = Return()
env: Environment = Count()
policy: Policy = Upward()
agent: Agent = Upward()

# The package's own fit too, whichever way they state what they are.
theirs: tuple[Functional, Head, UpdateRule, Agent] = (
    CVaR(jnp.asarray(0.1)),  # a number may be an array
    Quantile(num_atoms=3),
    ProximalPolicy(),
    jaxrl.dqn(num_envs=2),
)


def test_an_operator_of_ones_own_parts() -> None:
    """It is built of them, and the worst of what is possible is 1."""
    operator = BellmanOperator(
        head, improvement, successor_functional=functional, composition=composition
    )
    assert operator.head.shape == (2,)
    worst = operator.successor_functional(jnp.array([0.5, 0.5, 0.0]), jnp.array([1.0, 2.0, 0.0]))
    assert float(worst) == 1.0
    assert operator.replace(head=theirs[1]).head.shape == (3,)


def test_an_agent_in_an_environment_and_a_rule_in_an_agent() -> None:
    """Up, and up again: an episode costs 1 or 2. The rule learns as any rule does."""
    envs.check(env)
    result = jaxrl.train(jax.random.key(0), agent, env, num_steps=24)
    assert np.all(
        (result.metrics["episode_return"] >= -2.0) & (result.metrics["episode_return"] < 0)
    )
    short = jaxrl.a2c(rule=rule, num_envs=2, rollout_length=4, hidden_sizes=(4,))
    learned = jaxrl.train(jax.random.key(0), short, env, num_steps=16)
    assert np.all(np.isfinite(learned.metrics["loss"]))


@pytest.mark.slow
def test_a_type_checker_takes_the_package_and_this_file() -> None:
    """With every rule of its basic mode, which pyproject.toml asks for."""
    pytest.importorskip("pyright")
    command = [sys.executable, "-m", "pyright", "--pythonpath", sys.executable]
    found = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout
