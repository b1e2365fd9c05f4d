"""Meta-gradients of agents are the slopes of the outer loss: see also test_outer_gradients."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl import a2c, dqn, meta
from jaxrl.agents import Optimiser
from jaxrl.core import struct
from jaxrl.envs import TabularEnv, garnet
from jaxrl.networks import NetworkSettings
from jaxrl.rules import lpg

KEY = jax.random.key(0)
AGENT = a2c().replace(
    network=NetworkSettings(hidden_sizes=(), initialiser="lecun"),
    num_envs=4,
    rollout_length=6,
    optimiser=Optimiser(learning_rate=0.05, max_grad_norm=None),
)
NAMES = ("discount", "rule.lambda_", "rule.entropy_weight", "optimiser.learning_rate")


@functools.cache
def env():
    with jax.ensure_compile_time_eval():
        return TabularEnv(garnet(jax.random.key(3), 5, 2, 2), time_limit=6.0)


@functools.cache
def outer_loop():
    tasks = meta.Task(env(), 24.0 * 12)
    return meta.MetaGradient(meta.tuned(AGENT, NAMES), tasks, num_lives=4, num_updates=3)


@pytest.fixture(scope="module")
def begun():
    return jax.jit(outer_loop().init)(KEY)


def life_of(state, number=0):
    return jax.tree.map(lambda leaf: leaf[number], (state.lives, state.memory))


def window_of(outer, state):
    """The loss of one life, and the life after it, with the gradient, as a compiled function."""
    life, critic = life_of(state)
    window = jax.value_and_grad(lambda params: outer.window(params, life, critic), has_aux=True)
    return jax.jit(window)


def check_slopes(outer, state, step, rtol):
    """Gradients against central differences along each leaf's own gradient; the gradient."""
    window = window_of(outer, state)
    params = state.rule_params
    gradient = jax.device_get(window(params)[1])
    leaves, structure = jax.tree.flatten(gradient)
    for index, slope in enumerate(leaves):
        size = float(np.linalg.norm(slope))
        assert size > 1e-7, jax.tree_util.keystr(
            jax.tree_util.tree_leaves_with_path(gradient)[index][0]
        )
        shift = [np.zeros_like(leaf) for leaf in leaves]
        shift[index] = np.asarray(step * slope / size, np.float32)
        moved = [
            jax.tree.map(
                lambda p, s, sign=sign: np.asarray(p) + np.float32(sign) * s,
                params,
                jax.tree.unflatten(structure, shift),
            )
            for sign in (1.0, -1.0)
        ]
        up, down = (float(window(at)[0][0]) for at in moved)
        np.testing.assert_allclose((up - down) / (2.0 * step), size, rtol=rtol, atol=2e-5)
    return gradient


@pytest.mark.slow
def test_the_meta_gradient_is_the_slope_of_the_outer_loss(begun):
    """Small steps change no action that was drawn, so that the loss is smooth between them."""
    check_slopes(outer_loop(), begun, step=1e-2, rtol=0.05)


@pytest.mark.slow
def test_the_outer_step_learns_its_critic_and_replaces_the_old(begun):
    step = jax.jit(outer_loop().step)
    state, losses, replaced = begun, [], 0.0
    for _ in range(30):
        state, metrics = step(state)
        losses.append(float(metrics["outer_critic_loss"]))
        replaced += 4.0 * float(metrics["replaced_fraction"])
    assert int(state.step) == 30 and float(metrics["nonfinite_fraction"]) == 0.0
    # A life of 12 updates lasts 4 windows of 3: thirty of them spend 7 and a part of one per place.
    assert replaced == float(jnp.sum(state.births)) - 4 and 4 * 7 <= replaced <= 4 * 8
    assert not np.allclose(state.rule_params["discount"], begun.rule_params["discount"])
    lives = state.lives.train.iteration
    assert bool(jnp.all(lives % 3 == 0)) and bool(jnp.all(lives < 12))


@pytest.mark.slow
def test_the_outer_critic_learns_the_values_of_a_fixed_policy():
    """With a learner that hardly moves, what the critic holds is the value of its policy."""
    still = AGENT.replace(optimiser=Optimiser(learning_rate=1e-9, max_grad_norm=None))
    outer = meta.MetaGradient(
        meta.tuned(still, ["discount"]),
        meta.Task(env(), 1e9),
        critic=meta.OuterCritic(discount=0.5, lambda_=0.0),
        num_lives=2,
        num_updates=4,
    )

    @jax.jit
    def followed(key):
        def step(state, _):
            state, metrics = outer.step(state)
            critic = life_of(state)[1]
            held = outer.critic.values(critic.params, env(), jnp.arange(5))
            return state, (metrics["outer_critic_loss"], held)

        start = outer.init(key).replace(ends=jnp.full(2, jnp.inf))
        state, rows = jax.lax.scan(step, start, None, 160)
        life, _ = life_of(state)
        policy, _ = life.train.agent.model.apply(
            life.train.agent.params, jnp.arange(5), jnp.zeros(5, bool), (), method="policy"
        )
        return *rows, policy.log_probs()

    losses, held, log_probs = jax.device_get(followed(KEY))
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:3])
    # The table it holds is the value of the policy that acts, from a linear solve.
    mdp = env().mdp
    probs = np.exp(log_probs)
    prob, reward = np.asarray(mdp.prob), np.broadcast_to(mdp.reward, mdp.prob.shape)
    move = np.zeros((5, 5))
    for s in range(5):
        for a in range(2):
            for k in range(prob.shape[-1]):
                move[s, int(mdp.next_state[s, a, k])] += probs[s, a] * prob[s, a, k]
    gain = np.einsum("sa,sak,sak->s", probs, prob, reward)
    exact = np.linalg.solve(np.eye(5) - 0.5 * move, gain)
    np.testing.assert_allclose(np.mean(held[-80:], axis=0), exact, atol=0.05)


@pytest.mark.slow
def test_learned_weights_have_the_slopes_of_the_outer_loss():
    rule = lpg(jax.random.key(1), num_hidden=4, num_predictions=3)
    agent = AGENT.replace(rule=rule, normalise_advantages=False)
    outer = meta.MetaGradient(meta.tuned(agent), outer_loop().tasks, num_lives=2, num_updates=3)
    check_slopes(outer, jax.jit(outer.init)(KEY), step=3e-2, rtol=0.02)


@struct.dataclass
class Held:
    """A bootstrapped objective whose target does not move."""

    inner: meta.Bootstrap
    goal: Any
    every = False
    num_further = 0

    def loss(self, agent, env, state, data, advantages):
        return self.inner.match(agent, state, self.goal, data)


@pytest.mark.slow
def test_bootstrapping_moves_towards_a_target_that_stands_still(begun):
    objective = meta.Bootstrap(AGENT, num_further=2, value_weight=0.1)
    outer = outer_loop().replace(objective=objective)
    (_, (after, _, _)), gradient = window_of(outer, begun)(begun.rule_params)
    goal = jax.jit(lambda state: objective.target(outer.agent(begun), env(), state))(after.train)
    held = outer_loop().replace(objective=Held(objective, goal))
    # The objective's own gradient is that of the held target.
    expected = check_slopes(held, begun, step=1e-2, rtol=0.08)
    for ours, theirs in zip(jax.tree.leaves(gradient), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"num_lives": 0}, "num_lives=0 is out of range"),
        ({"keep_every": 2}, "keep_every=2 does not divide num_updates=3"),
        ({"tuned": (dqn(), ["discount"])}, "QNetworkAgent has no policy.*Evolution"),
        ({"tuned": (AGENT.replace(num_minibatches=5), NAMES)}, "num_minibatches"),
    ],
    ids=["lives", "kept states", "no policy", "minibatches"],
)
def test_what_cannot_be_differentiated_is_refused(changes, message):
    if "tuned" in changes:
        changes = {"tuned": meta.tuned(*changes["tuned"])}
    outer = outer_loop().replace(**changes)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(outer.init, KEY)
