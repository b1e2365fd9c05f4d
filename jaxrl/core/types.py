"""What crosses the agent-environment line, and what a rollout records."""

from __future__ import annotations

from typing import Any

import jax.core
import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.totals import add_exactly

Array = jax.Array
Key = jax.Array
Number = float | Array  # of a setting: it may be traced, swept and differentiated
PyTree = Any


class TimeStep(struct.Struct):
    """What an environment returns for one action.

    `terminated` and `truncated` are never both true: the MDP ended, or the clock did. `terminated`
    may be a probability in [0, 1] (constraints as terminations).
    """

    observation: PyTree  # the true successor, before any reset
    reward: Array  # [] float32 [return], or a vector of channels
    terminated: Array  # [] bool or float in [0, 1]
    truncated: Array  # [] bool
    # Made where they are needed, because an array made at import would start the backend.
    cost: Array = struct.field(default_factory=lambda: jnp.zeros((0,), jnp.float32))  # [num_costs]
    info: dict[str, Array] = struct.field(default_factory=dict)  # static keys


class Transition(struct.Struct):
    """One step of experience; a trajectory is the same struct with leading axes `[T, B]`.

    `discount` is gamma^tau (1 - terminated): a number per transition. Termination zeroes
    `discount`; truncation zeroes the trace decay and keeps the bootstrap from `next_observation`.
    """

    observation: PyTree
    action: Array
    reward: Array
    discount: Array
    next_observation: PyTree  # the true successor, before any reset
    terminated: Array
    truncated: Array
    extras: dict[str, PyTree]  # what the agent's `act` recorded: log_prob, value, memory, ...
    env_state: PyTree = ()  # the state acted in, kept only where a learner asks for it
    cost: PyTree = ()  # [num_costs] of the step; () where the environment has none
    mask: PyTree = ()  # [A] bool, which actions were legal; () where the environment does not say
    next_mask: PyTree = ()  # likewise in `next_observation`

    @property
    def trace(self) -> PyTree:
        """What a policy drew, of which the action is a function, and which its law scores: the
        action itself unless `extras["trace"]` says otherwise."""
        return self.extras.get("trace", self.action)


class Progress(struct.Struct):
    """How far a life has come: what schedules read.

    Traced, so that a longer life never recompiles. Steps are counted exactly up to 2^47 (10^14).
    """

    step: Array  # [] float32, environment steps taken so far, rounded beyond 2^24
    total_steps: Array  # [] float32, environment steps of the whole life; inf when unlimited
    rest: Array | float = 0.0  # [] float32, what `step` rounds away

    @classmethod
    def start(cls, total_steps: float | Array = float("inf")) -> Progress:
        """Progress at step 0 of a life of `total_steps` environment steps."""
        zero = jnp.zeros((), jnp.float32)
        return cls(zero, jnp.asarray(total_steps, jnp.float32), zero)

    def advance(self, num_steps: int | Array) -> Progress:
        """Progress after `num_steps` more environment steps."""
        step = jnp.asarray(self.step)
        step = step if jnp.issubdtype(step.dtype, jnp.floating) else step.astype(jnp.float32)
        rest = jnp.asarray(self.rest, step.dtype)
        low = jnp.asarray(num_steps) & 0xFFFF  # each part of an int32 is a float32
        for part in (num_steps - low, low):
            step, rest = add_exactly(step, rest, part)
        return self.replace(step=step, rest=rest)

    @property
    def fraction(self) -> Array:
        """Share of the life that is over, in [0, 1]; 0 for an unlimited life."""
        return jnp.clip(self.step / self.total_steps, 0.0, 1.0)


def select(predicate: Array, on_true: PyTree, on_false: PyTree) -> PyTree:
    """Choose between two pytrees of equal structure, lane by lane.

    Args:
        predicate: `[...]` bool; its axes lead those of every leaf.
        on_true: pytree of arrays `[..., *]` taken where `predicate` holds.
        on_false: pytree of arrays `[..., *]` taken elsewhere.
    """

    def choose(a: Array, b: Array) -> Array:
        a, b = jnp.asarray(a), jnp.asarray(b)
        lanes = predicate.reshape(predicate.shape + (1,) * (jnp.ndim(a) - predicate.ndim))
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            return jax.random.wrap_key_data(
                jnp.where(lanes[..., None], jax.random.key_data(a), jax.random.key_data(b)),
                impl=jax.random.key_impl(a),
            )
        return jnp.where(lanes, a, b)

    return jax.tree.map(choose, on_true, on_false)


def is_traced(*parts: Any) -> bool:
    """Whether a number in them is not known yet."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(parts))


def typed_like(example: PyTree, tree: PyTree) -> PyTree:
    """`tree` with every leaf in the type that it has in `example`: a carry that keeps its types,
    whatever the types of the settings that it is computed with."""
    return jax.tree.map(lambda old, new: jnp.asarray(new, jnp.result_type(old)), example, tree)
