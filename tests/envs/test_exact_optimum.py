"""The exact optimum of every tabular environment is its `mdp` away, and is what is earned there."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl import planning
from jaxrl.envs import facts_of, make, names

TABULAR = [
    name for name in names() if facts_of(name).is_tabular
]  # by name: none is built at import
# Sizes that let most share a program; what is not named here is as large as by default.
SMALLER = {
    "AmericanOption": {"num_steps": 10},
    "AccessControlQueue": {"num_servers": 2},
    "RegimeOption": {"num_steps": 5},
}
COMMON = (104, 5, 12)  # shape [S, A, K] into which all but the gambler fit
NUM_EPISODES, NUM_STEPS, NUM_UNDISCOUNTED_STEPS = 256, 1000, 200


def padded(mdp):
    """The same MDP in arrays of one shape, where it fits, so that one program serves many.

    New actions are illegal; new states are never reached, and end at once for nothing.
    """
    if not all(have <= size for have, size in zip(mdp.prob.shape, COMMON, strict=True)):
        return mdp
    num_states, num_actions, _ = mdp.prob.shape
    mdp, rewards = jax.device_get((mdp, mdp.outcome_rewards))

    def pad(leaf, filler):
        room = [(0, size - have) for size, have in zip(COMMON, leaf.shape, strict=False)]
        return np.pad(leaf, room, constant_values=filler)

    names = ("prob", "next_state", "initial", "legal")
    wide = {name: pad(getattr(mdp, name), 0) for name in names}
    wide["terminal"] = pad(mdp.terminal, True)
    wide["reward"] = pad(rewards, 0)
    is_new = (np.arange(COMMON[0]) >= num_states)[:, None] | (np.arange(COMMON[1]) >= num_actions)
    wide["prob"][..., 0] += is_new
    wide["legal"][num_states:, 0] = True
    return mdp.replace(**wide, is_dense=False, is_endless=False)


@functools.partial(jax.jit, static_argnames="num_steps")
def episodes(env, actions, keys, num_steps):
    """Discounted return of each episode, and the weight of what it leaves unseen.

    Args:
        env: a tabular environment.
        actions: `[T, S]`, the last row for ever.
        keys: `[B]`.
        num_steps: of each episode at most.
    """

    def episode(key):
        reset_key, loop_key = jax.random.split(key)
        state, _ = env.reset(reset_key)

        def body(carry, time):
            state, total, weight = carry
            action = actions[jnp.minimum(time, len(actions) - 1), state.index]
            state, step = env.step(jax.random.fold_in(loop_key, time), state, action)
            total = total + weight * step.reward
            ended = (step.terminated > 0) | step.truncated
            return (state, total, jnp.where(ended, 0.0, weight * env.mdp.discount)), None

        zero = jnp.zeros((), env.mdp.discount.dtype)
        return jax.lax.scan(body, (state, zero, zero + 1.0), jnp.arange(num_steps))[0][1:]

    return jax.vmap(episode)(keys)


@pytest.mark.slow
@pytest.mark.parametrize("name", TABULAR)
def test_the_planned_optimum_is_earned(name):
    with jax.enable_x64(True):
        env = make(name, one_hot=False, **SMALLER.get(name, {}))
        env = env.replace(mdp=padded(env.mdp))
        if float(env.mdp.discount) < 1.0:
            # The clock is no part of the problem that the discount poses.
            env = env.replace(time_limit=math.inf)
            solution, num_steps = planning.value_iteration(env.mdp), NUM_STEPS
            assert bool(solution.converged) and float(solution.error_bound) <= 1e-6
            values, policy = solution.values, solution.policy[None]
        else:
            # Some policy never ends: the optimum over so many steps, whether or not it has ended.
            num_steps = NUM_UNDISCOUNTED_STEPS
            assert num_steps <= float(env.time_limit)
            plan = planning.finite_horizon(env.mdp, horizon=num_steps)
            values, policy = plan.values[0], plan.policy
        expected = float(np.asarray(env.mdp.initial) @ np.asarray(values))
        keys = jax.random.split(jax.random.key(11), NUM_EPISODES)
        values, actions = np.asarray(values), np.argmax(policy, axis=-1)
        earned, left = jax.device_get(episodes(env, actions, keys, num_steps))
        unseen = float(np.max(np.abs(values))) * left.mean() if num_steps == NUM_STEPS else 0.0
    error = earned.std(ddof=1) / math.sqrt(NUM_EPISODES)
    rounding = 1e-5 * max(1.0, abs(expected))  # rewards are stepped in float32
    assert unseen <= max(1e-4, 1e-3 * abs(expected))  # by the end little is to come
    assert abs(earned.mean() - expected) <= 4 * error + unseen + rounding
