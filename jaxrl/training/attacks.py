"""Attacks on what an agent observes, within a budget; the environment itself is untouched.

An attack sees the true observation, the agent's parameters and its own past, and shifts what the
agent sees. It is a pure function round `agent.act`, so that evaluation, rollouts, `vmap` and `jit`
take an attacked agent like any other. The return under one attack is an upper bound on the return
under the worst one: only a certificate (`jaxrl.certify_smoothed`) bounds it from below.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from jaxrl.agents.readers import of_inner, response
from jaxrl.core import Struct, struct
from jaxrl.core.protocols import Policy
from jaxrl.core.types import Array, Key, PyTree, select


class Attack(Protocol):
    """What shifts observations; a struct."""

    def init(self, num_envs: int) -> PyTree:
        """What the attack carries through an episode, `[num_envs, ...]`, at its start."""
        ...

    def shift(
        self,
        key: Key,
        policy: Policy,
        policy_state: PyTree,
        observation: Array,
        memory: PyTree,
        state: PyTree,
    ) -> tuple[Array, PyTree]:
        """True `observation[B, ...]` -> what is added to it, `[B, ...]`, and what is carried on."""
        ...


class Ball(Struct):
    """A norm ball round each of B observations: `L2`, `LInf`, or one of your own."""

    # `shift[B, ...]` into the balls of `radius[B]`
    project: Callable[[Array, Array], Array] = struct.field(pytree_node=False)
    # The shift `[B, ...]` of norm 1 that climbs most along `gradient[B, ...]`; 0 where it vanishes
    steepest: Callable[[Array], Array] = struct.field(pytree_node=False)


def _shortened(shift: Array, radius: Array) -> Array:
    norm = l2_norm(shift)
    share = jnp.where(norm > radius, radius / jnp.maximum(norm, jnp.finfo(norm.dtype).tiny), 1.0)
    return shift * _lanes(share, shift)


def _normalised(gradient: Array) -> Array:
    norm = l2_norm(gradient)
    return gradient / _lanes(jnp.maximum(norm, jnp.finfo(norm.dtype).tiny), gradient)


def _clipped(shift: Array, radius: Array) -> Array:
    limit = _lanes(radius, shift)
    return jnp.clip(shift, -limit, limit)


L2 = Ball(_shortened, _normalised)  # Euclidean
LInf = Ball(_clipped, jnp.sign)  # of the largest entry


def squared_budget(attack: Any, num_envs: int) -> Array:
    """`attack.budget` squared, `[num_envs]`: what an attack with a budget has left at the start."""
    return jnp.full(num_envs, jnp.asarray(attack.budget, float) ** 2)


class GradientAttack(Struct):
    """Projected gradient steps away from the action that the agent would take.

    shift <- project(shift + step * steepest(grad objective(observation + shift)))

    The objective is, for discrete actions, the preference for the best other action minus that for
    the action taken (above 0 another one is taken), and for box actions the squared distance from
    the action taken. `num_steps = 1` is the fast gradient method, in the ball `LInf` that of the
    gradient's signs. The best shift met is used.

    Attributes:
        radius: of the ball, in every step [observation].
        budget: total l2 norm over an episode, sqrt(sum_t ||shift_t||^2) [observation]. Where it
            runs out, shifts shrink to what is left, then to nothing.
        ball: `L2` or `LInf`; the budget is in l2 in either case.
        num_steps: gradient steps in each step of the environment.
        frugal: with discrete actions, shift only where that changes the greedy action, and by no
            more than a bisection finds to be needed. Spares a budget for when it counts.

    Sources:
        Goodfellow, Shlens & Szegedy, "Explaining and harnessing adversarial examples" (2015);
        Madry et al., "Towards deep learning models resistant to adversarial attacks" (2018);
        on policies: Huang et al., "Adversarial attacks on neural network policies" (2017).
    """

    radius: float
    budget: float = float("inf")
    ball: Ball = L2
    num_steps: int = struct.field(pytree_node=False, default=10)
    frugal: bool = struct.field(pytree_node=False, default=False)

    init = squared_budget

    def shift(
        self,
        key: Key,
        policy: Policy,
        policy_state: PyTree,
        observation: Array,
        memory: PyTree,
        state: Array,
    ) -> tuple[Array, Array]:
        """A shift `[B, ...]` within ball and budget, and the squared budget then left, `[B]`."""
        response_key, start_key = jax.random.split(key)

        def rows(shift: Array) -> tuple[Array, bool]:
            return response(policy, response_key, policy_state, observation + shift, memory)

        nothing = jnp.zeros_like(observation)
        taken, discrete = rows(nothing)

        def objective(shift: Array) -> Array:
            moved, _ = rows(shift)
            if discrete:
                return margin(moved, jnp.argmax(taken, axis=-1))
            return jnp.sum((moved - taken) ** 2, axis=-1)

        radius = jnp.broadcast_to(jnp.asarray(self.radius, observation.dtype), state.shape)

        def project(shift: Array) -> Array:
            return within_budget(self.ball.project(shift, radius), state)

        step = min(2.0, 2.5 / self.num_steps) * _lanes(radius, observation)

        def climb(carry: tuple, _: None) -> tuple[tuple, None]:
            shift, best, highest = carry
            gradient = jax.grad(lambda moved: jnp.sum(objective(moved)))(shift)
            shift = project(shift + step * self.ball.steepest(gradient))
            height = objective(shift)
            best = select(height > highest, shift, best)
            return (shift, best, jnp.maximum(height, highest)), None

        # A little away from the centre, where the gradient of a distance vanishes.
        noise = jax.random.normal(start_key, observation.shape, observation.dtype)
        start = project(0.01 * _lanes(radius, observation) * self.ball.steepest(noise))
        carry = (start, nothing, objective(nothing))
        (_, best, _), _ = jax.lax.scan(climb, carry, None, length=self.num_steps)
        if self.frugal and discrete:
            best = _shortest(best, objective)
        return best, left_over(state, observation, best)


class SensorBias(Struct):
    """The same shift in every step, until the budget is spent: a fault rather than a strategy.

    Attributes:
        bias: what is added, broadcast to one observation [observation].
        budget: total l2 norm over an episode [observation].
    """

    bias: Any
    budget: float = float("inf")

    init = squared_budget

    def shift(
        self,
        key: Key,
        policy: Policy,
        policy_state: PyTree,
        observation: Array,
        memory: PyTree,
        state: Array,
    ) -> tuple[Array, Array]:
        """The bias, or what the budget leaves of it, `[B, ...]`, and the squared budget left."""
        bias = jnp.asarray(self.bias, observation.dtype)
        shift = within_budget(jnp.broadcast_to(bias, observation.shape), state)
        return shift, left_over(state, observation, shift)


class AttackedPolicy(Struct):
    """An agent that sees what an attack makes of the observations.

    The attack acts on the raw observation, before anything that the agent does to it: smoothing
    noise and running normalisation come after it. `extras["attack_norm"]` holds the l2 norm of
    each shift, `[B]`, as far as rounding left it.
    """

    agent: Any
    attack: Any

    num_envs = of_inner("num_envs")
    rollout_length = of_inner("rollout_length", "steps")
    discount = of_inner("discount", "per step")

    def initial_memory(self, num_envs: int) -> tuple[PyTree, PyTree]:
        """The agent's memory, and what the attack carries."""
        return self.agent.initial_memory(num_envs), self.attack.init(num_envs)

    def act(
        self,
        key: Key,
        state: PyTree,
        observation: PyTree,
        explore: bool = True,
        memory: PyTree = (),
    ) -> tuple[Array, dict[str, Any]]:
        """True `observation[B, ...]` -> the agent's action on the shifted one, extras."""
        if not jnp.issubdtype(getattr(observation, "dtype", int), jnp.floating):
            raise ValueError(
                "an attack shifts float observations; these are "
                f"{getattr(observation, 'dtype', type(observation).__name__)} (a tabular "
                "environment gives floats with one_hot=True)."
            )
        attack_key, act_key = jax.random.split(key)
        held, attack_state = memory or self.initial_memory(observation.shape[0])
        shift, attack_state = self.attack.shift(
            attack_key, self.agent, state, observation, held, attack_state
        )
        seen = observation + shift
        action, extras = self.agent.act(act_key, state, seen, explore, held)
        extras = {**extras, "attack_norm": l2_norm(seen - observation)}
        extras["memory"] = (extras.get("memory", ()), attack_state)
        return action, extras


def margin(rows: Array, chosen: Array) -> Array:
    """How far the best other action stands above `chosen[B]`: above 0, another one is taken.

    Returns:
        `[B]`, in the unit of `rows[B, A]`.
    """
    is_chosen = jax.nn.one_hot(chosen, rows.shape[-1], dtype=bool)
    other = jnp.max(jnp.where(is_chosen, -jnp.inf, rows), axis=-1)
    return other - jnp.sum(jnp.where(is_chosen, rows, 0.0), axis=-1)


def l2_norm(rows: Array) -> Array:
    """Euclidean norm `[B]` of each of `rows[B, ...]`."""
    return jnp.sqrt(jnp.sum(rows.reshape(rows.shape[0], -1) ** 2, axis=-1))


def within_budget(shift: Array, squared_budget: Array) -> Array:
    """`shift[B, ...]`, shortened to what `squared_budget[B]` allows, with a margin for rounding."""
    return L2.project(shift, (1.0 - 1e-5) * jnp.sqrt(squared_budget).astype(shift.dtype))


def left_over(squared_budget: Array, observation: Array, shift: Array) -> Array:
    """`squared_budget[B]` less what a shift takes of it, as far as rounding lets it through."""
    spent = l2_norm((observation + shift) - observation) ** 2
    return jnp.maximum(squared_budget - spent, 0.0)


def _shortest(shift: Array, objective: Any) -> Array:
    """The least share of `shift[B, ...]` found to change the action; nothing where none does."""
    works = objective(shift) > 0

    def halve(_: int, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = 0.5 * (low + high)
        enough = objective(_lanes(middle, shift) * shift) > 0
        return jnp.where(enough, low, middle), jnp.where(enough, middle, high)

    ends = (jnp.zeros_like(works, shift.dtype), jnp.ones_like(works, shift.dtype))
    _, share = jax.lax.fori_loop(0, 8, halve, ends)
    return _lanes(jnp.where(works, share, 0.0), shift) * shift


def _lanes(values: Array, like: Array) -> Array:
    """`values[B]` with axes of length 1 for those of `like[B, ...]`."""
    return values.reshape(values.shape + (1,) * (like.ndim - 1))
