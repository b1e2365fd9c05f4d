"""What a rule does, as arrays to look at: its drift, its response to a reward, its schedules."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.agents.actor_critic import ActorCriticAgent
from jaxrl.core import Struct
from jaxrl.core.protocols import rule_facts
from jaxrl.core.schedules import Schedule, value_at, values_at
from jaxrl.core.types import Array, Progress, Transition
from jaxrl.meta.distilling import drift_at
from jaxrl.networks import CategoricalPolicy
from jaxrl.rules import DriftPolicy, PolicyOutputs
from jaxrl.rules.learned_reward import WithReward

_SETTLE = 16  # steps after the pulse, for a recurrent rule to forget where it began
_NUM_ACTIONS = 4  # of the uniform policy


class DriftMap(Struct):
    """A drift over ratio and advantage, at points of a life."""

    shares: Array  # [P], of the life that is over
    ratio: Array  # [R]
    advantage: Array  # [A] [return]
    drift: Array  # [P, A, R] [return]
    slope: Array  # [P, A, R], in the ratio [return]

    @property
    def push(self) -> Array:
        """The slope in the ratio of what is climbed, A ratio - drift, `[P, A, R]` [return].

        Where it is positive the action is made likelier. At ratio 1 it is the advantage.
        """
        return self.advantage[:, None] - self.slope


class PulseResponse(Struct):
    """How a reward moves the advantages of the steps before it."""

    shares: Array  # [P], of the life that is over
    pulses: Array  # [S], rewards given [return]
    lags: Array  # [L] int32, 0 .. L - 1 steps before the reward
    advantage: Array  # [P, S, L], change of the advantage at each lag [return]
    discount: float  # of the trajectory [per step]

    @property
    def decay(self) -> Array:
        """The factor per step of the geometric decay that is nearest, `[P, S]`.

        It is discount x lambda_ for generalised advantages: the return estimate that the rule
        implies, in one number.
        """
        now, earlier = self.advantage[..., :-1], self.advantage[..., 1:]
        power = jnp.sum(now**2, -1)
        return jnp.sum(now * earlier, -1) / jnp.where(power > 0, power, jnp.nan)


class Probe(Struct):
    """All there is to see of a rule; None or empty where it has no such part."""

    drift: DriftMap | None
    response: PulseResponse | None
    curves: dict[str, Array]  # [N] each, of schedules by dotted path, evenly over the life
    total_steps: float  # of the life that was looked at [steps]


def probe(
    rule: Any,
    *,
    total_steps: float = 1e6,
    num_points: int = 61,
    shares: Sequence[float] = (0.0, 0.5, 1.0),
    most_ratio: float = 3.0,
    most_advantage: float = 3.0,
    num_lags: int = 32,
    pulses: Sequence[float] = (1.0, -1.0),
) -> Probe:
    """Look at a drift, a rule, a schedule or a whole agent.

    A *drift* and its slope are shown on a grid of ratios and advantages. A *response* is what one
    reward changes in the advantages of the steps that led to it,

        advantage[p, s, k] = A_{t-k}(reward pulses_s at t) - A_{t-k}(no reward)

    on a trajectory without ends of a uniform policy of four actions, values of 0 and heads of 0.
    Generalised advantages answer with (discount lambda_)^k times the reward; a learned policy
    gradient with the pi_hat that it makes of it, which shows what return it estimates. It is a
    nonlinear function, looked at in one place: where predictions have been learned it may differ.
    *Curves* are what the schedules say over the life.

    Args:
        rule: with a drift (`DriftPolicy`, ...), with targets that do not look at observations, or
            any struct that holds schedules; the path of a bare schedule is "".
        total_steps: the life that timed parts see [steps].
        num_points: of each axis of the map, odd for one at ratio 1 and at advantage 0; of curves.
        shares: points of the life, in [0, 1]; one is kept where they do not matter.
        most_ratio: ratios are spaced evenly in their logarithm from 1 / `most_ratio` to it, > 1.
        most_advantage: advantages from minus to plus this [return].
        num_lags: steps before a reward that are looked at.
        pulses: rewards [return]; they are discounted as the agent does, or by 0.99.

    Raises:
        ValueError: fewer than 2 points or lags, or `most_ratio` is not above 1.

    Example:
        >>> from jaxrl.agents import preset
        >>> found = probe(preset("dpo"), num_points=5)
        >>> found.drift.drift.shape, list(found.curves)
        ((1, 5, 5), ['optimiser.learning_rate'])
        >>> f"{float(found.response.decay[0, 0]):.4f}"  # discount 0.99, lambda_ 0.95
        '0.9405'
    """
    if num_points < 2 or num_lags < 2:
        raise ValueError(
            f"num_points={num_points} and num_lags={num_lags}: a line needs at least 2."
        )
    if not most_ratio > 1.0:
        raise ValueError(f"most_ratio={most_ratio} must be above 1.")
    at = partial(_at, total_steps)
    discount = rule.discount if isinstance(rule, ActorCriticAgent) else 0.99
    inner: Any = rule
    while isinstance(inner, (ActorCriticAgent, WithReward)):
        inner = inner.rule
    drift, response, points = None, None, jnp.asarray(shares)
    if isinstance(inner, DriftPolicy) or (callable(inner) and not isinstance(inner, Schedule)):
        edge = math.log(most_ratio)
        log_ratio = jnp.linspace(-edge, edge, num_points)
        advantage = jnp.linspace(-most_advantage, most_advantage, num_points)
        drift = _drift_map(lambda share: drift_at(inner, at(share)), points, log_ratio, advantage)
    if hasattr(inner, "targets") and not rule_facts(inner).needs_episodes:
        rewards = jnp.asarray([0.0, *pulses])
        response = _pulse_response(inner, at, points, rewards, num_lags, discount)
    line = jnp.linspace(0.0, 1.0, num_points)
    leaves = jax.tree_util.tree_leaves_with_path(rule, is_leaf=lambda x: isinstance(x, Schedule))
    curves = {
        jax.tree_util.keystr(path, simple=True, separator="."): jax.vmap(
            lambda share, leaf=leaf: value_at(leaf, at(share))
        )(line)
        for path, leaf in leaves
        if isinstance(leaf, Schedule)
    }
    return Probe(drift, response, curves, total_steps)


def _drift_map(drift_of: Callable, shares: Array, log_ratio: Array, advantage: Array) -> DriftMap:
    """A drift and its slope on a grid."""

    @jax.jit
    @jax.vmap
    def look(share: Array) -> tuple[Array, Array]:
        drift = drift_of(share)
        grid = jnp.broadcast_arrays(log_ratio, advantage[:, None])
        values, slope = jax.vmap(jax.vmap(jax.value_and_grad(drift)))(*grid)
        return values, slope / jnp.exp(log_ratio)

    drift, slope = look(shares)
    if bool(jnp.all(drift == drift[:1])):
        shares, drift, slope = shares[:1], drift[:1], slope[:1]
    return DriftMap(shares, jnp.exp(log_ratio), advantage, drift, slope)


def _pulse_response(
    rule: Any,
    at: Callable[[Array], Progress],
    shares: Array,
    rewards: Array,
    num_lags: int,
    discount: float,
) -> PulseResponse:
    """What `rewards[1:]` change, against the first, at points of the life."""
    length = num_lags + _SETTLE
    policy = CategoricalPolicy(jnp.zeros((length, _NUM_ACTIONS)))
    heads = {name: jnp.zeros((length, *shape)) for name, shape in rule.outputs.items()}
    zeros, steps = jnp.zeros(length), jnp.arange(length)

    def advantages(reward: Array, share: Array) -> Array:
        progress = at(share)
        now = values_at(rule, progress)
        trajectory = Transition(
            observation=zeros,
            action=jnp.zeros(length, jnp.int32),
            reward=jnp.where(steps == num_lags - 1, reward, 0.0),
            discount=jnp.full(length, discount),
            next_observation=zeros,
            terminated=zeros,
            truncated=jnp.zeros(length, bool),
            extras={},
        )
        outputs = PolicyOutputs(
            log_prob=jnp.full(length, -math.log(_NUM_ACTIONS)),
            entropy=policy.entropy(),
            value=zeros,
            next_value=zeros,
            policy=policy,
            heads=heads,
            next_heads=heads,
        )
        targets, _ = now.targets(now.init(()), outputs, trajectory, progress)
        return targets.advantage[num_lags - 1 :: -1]

    over_pulses = jax.vmap(advantages, (0, None))
    found = jax.jit(jax.vmap(over_pulses, (None, 0)))(rewards, shares)
    if bool(jnp.all(found == found[:1])):
        shares, found = shares[:1], found[:1]
    return PulseResponse(
        shares=shares,
        pulses=rewards[1:],
        lags=jnp.arange(num_lags),
        advantage=found[:, 1:] - found[:, :1],
        discount=discount,
    )


def _at(total_steps: float, share: Array) -> Progress:
    step = jnp.round(share * total_steps).astype(jnp.int32)
    return Progress.start(total_steps).replace(step=step)
