"""The long run of one policy: gain, bias, limiting and deviation matrix."""

from __future__ import annotations

import math
from functools import partial

import jax
import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.mdp import TabularMDP
from jaxrl.core.types import Array
from jaxrl.planning.occupancy import check_policy


@struct.dataclass
class GainAndBias:
    """The long run of one policy, for every first state."""

    gain: Array  # [S] [return per step], limit gain_s = sum limit[s, :] r
    bias: Array  # [S] [return], deviation r: what starting in s adds to n gain, in the mean over n
    limit: Array  # [S, S], share of time spent in each state; rows sum to one
    deviation: Array  # [S, S] [steps], (I - P + limit)^-1 - limit
    recurrent: Array  # [S] bool, the states that are met for ever once they are


def gain_and_bias(mdp: TabularMDP, policy: Array) -> GainAndBias:
    """Gain and bias of one policy, exactly, for any number of classes and any period.

        gain = P gain,  gain + bias = r + P bias,  limit bias = 0

    with P and r the chain and the reward of the policy. The bias is the limit of the discounted
    value less gain / (1 - discount), as the discount tends to 1.

    Args:
        mdp: the model; its discount is not used, and where an episode ends the next begins from
            `initial`.
        policy: `[S, A]` probabilities.

    Returns:
        `GainAndBias`.

    Raises:
        ValueError: the policy is not one.

    Numerics:
        The classes are read off the pattern of zeros, and one linear system is solved; so a
        probability of 1e-12 is a way out and one of 0 is none. In a class, the error grows with
        the time it takes to forget the first state.

    Example:
        >>> from jaxrl import tabular_mdp
        >>> mdp = tabular_mdp([[[0.0, 1.0]], [[1.0, 0.0]]], [[0.0], [1.0]])  # a cycle of two
        >>> found = gain_and_bias(mdp, jnp.ones((2, 1)))
        >>> found.gain.tolist(), found.bias.tolist()
        ([0.5, 0.5], [-0.25, 0.25])

    Sources:
        Puterman (1994), Markov Decision Processes, sections 8.2 and 9.1 and appendix A; Veinott
        (1969), Discrete dynamic programming with sensitive discount optimality criteria.
    """
    check_policy(mdp, policy)
    return _gain_and_bias(mdp, jnp.asarray(policy, mdp.prob.dtype))


@jax.jit
def _gain_and_bias(mdp: TabularMDP, policy: Array) -> GainAndBias:
    kernel, reward = restarting_tables(mdp)
    chain = jnp.einsum("sa,sat->st", policy, kernel)
    eye = jnp.eye(chain.shape[0], dtype=chain.dtype)
    deviation, limit, recurrent, _ = long_run(chain, eye)
    earned = jnp.sum(policy * jnp.where(policy > 0, reward, 0.0), axis=1)
    return GainAndBias(limit @ earned, deviation @ earned, limit, deviation, recurrent)


def restarting_tables(mdp: TabularMDP) -> tuple[Array, Array]:
    """`P[S, A, S]`, whose rows sum to one because what ends begins anew, and `r[S, A]`."""
    kernel, reward = mdp.dense()
    if mdp.is_endless:
        return kernel, reward
    ends = jnp.sum(mdp.prob * mdp.terminal, axis=-1, keepdims=True)
    return kernel + ends * mdp.initial, reward


def long_run(chain: Array, rewards: Array) -> tuple[Array, Array, Array, Array]:
    """What M reward vectors `[S, M]` come to under one policy's chain `[S, S]`.

    In each closed class the first state's relative value is set to zero and its column taken by the
    gain, which leaves a square system; transient states then follow by another.

    Returns:
        biases `[S, M]`, the limiting matrix `[S, S]`, the recurrent states `[S]`, and the time
        scale `[]` [steps]: by how much the systems magnify rounding.
    """
    num_states, dtype = chain.shape[0], chain.dtype
    eye = jnp.eye(num_states, dtype=bool)
    reach = eye | (chain > 0)
    for _ in range(math.ceil(math.log2(num_states))):
        reach = (reach.astype(dtype) @ reach.astype(dtype)) > 0.5
    recurrent = jnp.all(~reach | reach.T, axis=1)
    first = jnp.argmax(reach, axis=1)  # of the class, where recurrent
    is_first = recurrent & (first == jnp.arange(num_states))
    of_class = jnp.arange(num_states)[None, :] == first[:, None]

    # Both systems as one of two blocks: nothing but its own class follows a recurrent state.
    stays = jnp.where(recurrent[:, None] == recurrent[None, :], eye - chain, 0.0)
    system = jnp.where(recurrent[:, None] & of_class, 1.0, stays)
    solve = partial(jax.scipy.linalg.lu_solve, jax.scipy.linalg.lu_factor(system))
    within = recurrent[:, None]
    time = jnp.max(jnp.sum(jnp.abs(solve(eye.astype(dtype))), axis=1))

    shares = jnp.maximum(solve(is_first.astype(dtype), trans=1), 0.0)
    limit = jnp.where(within & reach, shares, 0.0)
    limit = limit / jnp.where(within, jnp.sum(limit, axis=1, keepdims=True), 1.0)
    limit = limit + jnp.maximum(solve(jnp.where(within, 0.0, chain @ limit)), 0.0)
    limit = limit / jnp.sum(limit, axis=1, keepdims=True)
    gain = limit @ rewards
    bias = jnp.where(within & ~is_first[:, None], solve(jnp.where(within, rewards, 0.0)), 0.0)
    bias = bias - jnp.where(within, limit @ bias, 0.0)
    bias = bias + solve(jnp.where(within, 0.0, rewards - gain + chain @ bias))
    return bias, limit, recurrent, time
