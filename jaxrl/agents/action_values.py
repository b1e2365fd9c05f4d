"""Values of discrete actions: the network that a head asks for, how it is fitted, how it acts."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.agents.chain import Pair
from jaxrl.core.law import Law
from jaxrl.core.protocols import Environment, Improvement
from jaxrl.core.spaces import is_masked, share_to_legal
from jaxrl.core.types import Array, Key, PyTree, Transition
from jaxrl.networks import CategoricalPolicy, ImplicitQNetwork, Network, QNetwork
from jaxrl.networks.models import last_layer
from jaxrl.operators import ImplicitQuantile

ValueNetwork = QNetwork | ImplicitQNetwork
_SLACK = 0.01  # of a step of the grid: rounding is no clipping
_NEVER = 1e-30  # a probability so small that it is never drawn, whose logarithm is finite


def value_network(network: Network, env: Environment, head: Any, dueling: bool) -> ValueNetwork:
    """The network from observations to `[..., A, *head.shape]`.

    Args:
        network: the torso's settings.
        env: with discrete actions.
        head: of an operator, or anything with a `shape`.
        dueling: split into value and advantage.
    """
    torso, num_actions = network.torso(env.observation_space), env.action_space.num_values
    if isinstance(head, ImplicitQuantile):
        return ImplicitQNetwork(torso, num_actions, head.num_atoms, head.num_cosines, dueling)
    return QNetwork(torso, num_actions, head.shape, dueling)


def regression_inputs(key: Key, head: Any, batch_size: int) -> tuple[Array, ...]:
    """What the network is given beside observations when it is fitted.

    For `ImplicitQuantile` fresh levels `[B, K]`, one uniform in each of K equal shares of [0, 1];
    else nothing.
    """
    if not isinstance(head, ImplicitQuantile):
        return ()
    shares = jnp.arange(head.num_atoms)
    draws = jax.random.uniform(key, (batch_size, head.num_atoms))
    return ((shares + draws) / head.num_atoms,)


def each(function: Callable[[Array], Any], params: Array, head: Any) -> Any:
    """`function` of one action's parameters over all leading axes of `params[..., *head.shape]`."""
    for _ in range(params.ndim - len(head.shape)):
        function = jax.vmap(function)
    return function(params)


def improved(improvement: Improvement, scores: Array) -> Array:
    """`scores[..., A]` -> the improvement's values `[...]` [return]."""
    probs, bonus = jnp.vectorize(improvement, signature="(a)->(a),(a)")(scores)
    return jnp.sum(probs * (scores + bonus), axis=-1)


def clipped_fraction(head: Any, target: Law, weights: Array) -> Array:
    """Share of the targets that lies beyond the ends of a head's grid and is stored at them.

    Of their probability where the head stores a law, of their means where it stores a mean. It is
    not small as long as returns do not fit: a value at an end gives a target beyond it.

    Args:
        head: one that is `bounded`.
        target: laws `[B, N]` [return].
        weights: `[B]`, 0 where a transition does not count.

    Returns:
        `[]`, in [0, 1].

    Example:
        >>> from jaxrl.operators import Categorical
        >>> head = Categorical(0.0, 1.0, num_atoms=3)
        >>> target = Law(jnp.array([[0.25, 0.75]]), jnp.array([[0.5, 1.5]]))
        >>> float(clipped_fraction(head, target, jnp.ones(1)))
        0.75
    """
    slack = _SLACK * (head.high - head.low) / head.num_atoms
    means = target.mean()[..., None]
    law = (target.probs, target.atoms) if head.facts.stores_law else (jnp.ones_like(means), means)
    probs, values = law
    is_out = (values < head.low - slack) | (values > head.high + slack)
    share = jnp.sum(jnp.where(is_out, probs, 0.0), axis=-1)
    counts = weights > 0
    return jnp.sum(jnp.where(counts, share, 0.0)) / jnp.maximum(jnp.sum(counts), 1)


def taken(outputs: Array, action: Array) -> Array:
    """The row of each action: `[B, A, ...]`, `[B]` -> `[B, ...]`."""
    return jax.vmap(lambda row, action: row[action])(outputs, action)


def pair(agent: Any, state: Any, data: Transition, params: PyTree) -> Pair:
    """The features of `data[B, ...]` and of what is done next, in the block of the action.

    Zeros stand in the blocks of the other actions, so that one vector of weights holds the last
    layer of all.

    Args:
        agent: with `rows` and `scores`, which choose the next action.
        state: its state.
        data: transitions.
        params: of the network that learns.
    """
    rows, selector = agent.rows(state, data.next_observation)
    scores = agent.scores(rows if selector is None else selector, data.next_observation)
    here = last_layer(state.model, params, data.observation)
    there = last_layer(state.model, state.target_params, data.next_observation)

    def block(features: Array, action: Array) -> Array:
        held = jnp.append(features, 1.0)
        return jnp.outer(jax.nn.one_hot(action, scores.shape[-1]), held).reshape(-1)

    return Pair(
        jax.vmap(block)(here.features, data.action),
        jax.vmap(block)(there.features, jnp.argmax(scores, axis=-1)),
        jnp.concatenate([here.kernel, here.bias[None]]).T.reshape(-1),
    )


def legal_scores(scores: Array, mask: PyTree) -> Array:
    """`scores[..., A]`, those that are false in `mask[..., A]` at -inf; as they are without one."""
    return jnp.where(mask, scores, -jnp.inf) if is_masked(mask) else scores


def epsilon_greedy(key: Key, scores: Array, epsilon: float | Array, mask: PyTree = ()) -> Array:
    """The best action, but a uniform one with probability `epsilon`, drawn anew for every row.

    Args:
        key: spent here.
        scores: `[B, A]` [return].
        epsilon: probability of a uniform action, in [0, 1].
        mask: `[B, A]` bool, true where legal; `()` where all are. None other is taken.

    Returns:
        `[B]` int32; ties go to the first of the best.

    Example:
        >>> epsilon_greedy(jax.random.key(0), jnp.array([[1.0, 3.0]]), 0.0).tolist()
        [1]
    """
    batch, num_actions = scores.shape
    draws = jax.random.uniform(key, (2, batch))
    uniform = jnp.minimum((draws[1] * num_actions).astype(jnp.int32), num_actions - 1)
    if is_masked(mask):
        uniform = share_to_legal(mask, draws[1])
    greedy = jnp.argmax(legal_scores(scores, mask), axis=-1).astype(jnp.int32)
    return jnp.where(draws[0] < epsilon, uniform, greedy)


def act(
    agent: Any,
    key: Key,
    state: PyTree,
    observation: PyTree,
    explore: bool = True,
    memory: PyTree = (),
    mask: PyTree = (),
) -> tuple[Array, dict[str, PyTree]]:
    """`observation[B, ...]` -> `action[B]` by `agent.q_values`, no extras; to explore, drawn from
    the law of `agent.exploring(state)`. Only what is true in `mask[B, A]` is taken, if one is
    given."""
    by = agent.exploring(state)
    return chosen(key, agent.q_values(state, observation), by, explore, mask), {}


def chosen(
    key: Key, scores: Array, by: float | Array | Improvement, explore: bool, mask: PyTree = ()
) -> Array:
    """The best actions `[B]` by `scores[B, A]`, or to explore draws from the law of `exploring`; of
    those that are true in `mask[B, A]`, if one is given."""
    if not explore:
        return jnp.argmax(legal_scores(scores, mask), axis=-1).astype(jnp.int32)
    if isinstance(by, Improvement):
        return exploring(scores, by, mask).sample(key)
    return epsilon_greedy(key, scores, by, mask)


def exploring(
    scores: Array, by: float | Array | Improvement, mask: PyTree = ()
) -> CategoricalPolicy:
    """The law that explores at `scores[..., A]`: an improvement's, or that of `epsilon_greedy` for
    the probability of a uniform action.

    Example:
        >>> from jaxrl.operators import Softmax
        >>> law = exploring(jnp.array([1.0, 3.0]), Softmax(temperature=2.0))
        >>> jnp.exp(law.log_probs()).round(2).tolist()  # a Boltzmann law: e^0.5 to e^1.5
        [0.27, 0.73]
    """
    if not isinstance(by, Improvement):
        return epsilon_greedy_law(scores, by, mask)
    law = functools.reduce(lambda one, _: jax.vmap(one), range(scores.ndim - 1), by)
    probs, _ = law(scores, *[mask] * is_masked(mask))
    return CategoricalPolicy(jnp.log(jnp.maximum(probs, _NEVER)))


def epsilon_greedy_law(
    scores: Array, epsilon: float | Array, mask: PyTree = ()
) -> CategoricalPolicy:
    """The law that `epsilon_greedy` draws from, which knows its divergence from another.

        p(a) = epsilon / A + (1 - epsilon) [a is the first of the best]

    It is the very law that acts, not a softened one, which would need a scale of the scores. So it
    has a slope in `epsilon` and none in `scores`.

    Args:
        scores: `[..., A]` [return].
        epsilon: `[]`, probability of a uniform action, in [0, 1].
        mask: `[..., A]` bool, true where legal, of which there are A; `()` where all are.

    Numerics:
        Below 1e-6 `epsilon` counts as 1e-6: every action has some probability, and every
        divergence between two such laws is finite.

    Example:
        >>> law = epsilon_greedy_law(jnp.array([1.0, 3.0]), 0.5)
        >>> jnp.exp(law.log_probs()).round(2).tolist()
        [0.25, 0.75]
    """
    count = num_actions = scores.shape[-1]
    if is_masked(mask):
        count = jnp.maximum(jnp.sum(mask, axis=-1, keepdims=True), 1)
    uniform = jnp.maximum(jnp.asarray(epsilon, scores.dtype), 1e-6) / count
    chosen = jnp.argmax(legal_scores(scores, mask), axis=-1)
    best = jax.nn.one_hot(chosen, num_actions, dtype=bool)
    others = (count - 1) * uniform
    law = CategoricalPolicy(jnp.where(best, jnp.log1p(-others), jnp.log(uniform)))
    return law.masked(mask) if is_masked(mask) else law
