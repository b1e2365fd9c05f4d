"""Meta-gradients: they are the slopes of the outer loss, however the work is cut."""

from __future__ import annotations

import functools
import os
import pathlib
import subprocess
import sys
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl import a2c, dqn, meta
from jaxrl.agents.optimiser import Optimiser
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
    tasks = meta.Fixed(env(), 24.0 * 12)
    return meta.MetaGradient(meta.tuned(AGENT, NAMES), tasks, num_lives=4, num_updates=3)


@pytest.fixture(scope="module")
def begun():
    return jax.jit(outer_loop().init)(KEY)


def life_of(state, number=0):
    return jax.tree.map(lambda leaf: leaf[number], (state.lives, state.critics))


def loss_and_slopes(outer, state):
    """The outer loss of one life as a compiled function, and its gradient."""
    life, critic = life_of(state)
    loss = jax.jit(lambda params: outer.window(params, life, critic)[0])
    return loss, jax.jit(jax.grad(lambda params: outer.window(params, life, critic)[0]))


def check_slopes(outer, state, step, rtol):
    """Gradients against central differences along each leaf's own gradient."""
    loss, gradient = loss_and_slopes(outer, state)
    params = state.rule_params
    slopes = gradient(params)
    leaves, structure = jax.tree.flatten(slopes)
    for index, slope in enumerate(leaves):
        size = float(jnp.linalg.norm(slope))
        assert size > 1e-7, jax.tree_util.keystr(
            jax.tree_util.tree_leaves_with_path(slopes)[index][0]
        )
        shift = [jnp.zeros_like(leaf) for leaf in leaves]
        shift[index] = step * slope / size
        moved = [
            jax.tree.map(
                lambda p, s, sign=sign: p + sign * s, params, jax.tree.unflatten(structure, shift)
            )
            for sign in (1.0, -1.0)
        ]
        measured = float(loss(moved[0]) - loss(moved[1])) / (2.0 * step)
        np.testing.assert_allclose(measured, size, rtol=rtol, atol=2e-5)


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
        meta.Fixed(env(), 1e9),
        critic=meta.OuterCritic(discount=0.5, lambda_=0.0),
        num_lives=2,
        num_updates=4,
    )
    state = jax.jit(outer.init)(KEY).replace(ends=jnp.full(2, jnp.inf))
    step = jax.jit(outer.step)
    losses, held = [], []
    for _ in range(160):
        state, metrics = step(state)
        losses.append(float(metrics["outer_critic_loss"]))
        held.append(outer.critic.values(life_of(state)[1].params, env(), jnp.arange(5)))
    assert np.mean(losses[-10:]) < 0.7 * np.mean(losses[:3])
    # The table it holds is the value of the policy that acts, from a linear solve.
    life, _ = life_of(state)
    mdp = env().mdp
    policy, _ = life.train.agent.model.apply(
        life.train.agent.params, jnp.arange(5), jnp.zeros(5, bool), (), method="policy"
    )
    probs = np.exp(np.asarray(policy.log_probs()))
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
def test_chunks_and_kept_states_change_nothing_but_rounding(begun):
    whole, _ = jax.jit(outer_loop().step)(begun)
    cut = outer_loop().replace(chunk=3, keep_every=outer_loop().num_updates)  # of 4: one is padded
    parts, _ = jax.jit(cut.step)(begun)
    for ours, theirs in zip(
        jax.tree.leaves(parts.rule_params), jax.tree.leaves(whole.rule_params), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


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
    every: ClassVar[bool] = False

    def loss(self, agent, env, state, trajectory, critic, critic_state):
        return self.inner.match(agent, state, self.goal, trajectory)


@pytest.mark.slow
def test_bootstrapping_moves_towards_a_target_that_stands_still(begun):
    objective = meta.Bootstrap(AGENT, num_further=2, value_weight=0.1)
    outer = outer_loop().replace(objective=objective)
    life, critic = life_of(begun)
    _, (after, _, _) = jax.jit(outer.window)(begun.rule_params, life, critic)
    goal = jax.jit(lambda state: objective.target(outer.agent(begun), env(), state))(after.train)
    held = outer_loop().replace(objective=Held(objective, goal))
    check_slopes(held, begun, step=1e-2, rtol=0.08)
    # The objective's own gradient is that of the held target.
    _, gradient = loss_and_slopes(outer, begun)
    _, expected = loss_and_slopes(held, begun)
    for ours, theirs in zip(
        jax.tree.leaves(gradient(begun.rule_params)),
        jax.tree.leaves(expected(begun.rule_params)),
        strict=True,
    ):
        np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"num_lives": 0}, "num_lives=0 is out of range"),
        ({"keep_every": 2}, "keep_every=2 does not divide num_updates=3"),
        ({"tuned": (dqn(), ["discount"])}, "QNetworkAgent has no policy_of.*Evolution"),
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


def learned_numbers(num_devices=1):
    """What two outer steps lead to, by name."""
    outer = outer_loop().replace(num_devices=num_devices)
    state, step = jax.jit(outer.init)(KEY), jax.jit(outer.step)
    for _ in range(2):
        state, _ = step(state)
    return {name: np.asarray(leaf) for name, leaf in state.rule_params.items()}


@pytest.mark.slow
def test_the_number_of_devices_changes_nothing_but_rounding(tmp_path):
    """Four pretended devices, in a process of its own: their number is fixed when JAX starts."""
    num_devices = 4
    file = tmp_path / "numbers.npz"
    code = (
        "import sys, jax, numpy; sys.path.insert(0, sys.argv[1]); import test_meta_gradients as t; "
        f"assert jax.device_count() == {num_devices}; "
        f"numpy.savez(sys.argv[2], **t.learned_numbers({num_devices}))"
    )
    flags = (
        f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={num_devices}"
    )
    folder = str(pathlib.Path(__file__).parent)
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", code, folder, str(file)], env=environment, check=True)
    for name, value in learned_numbers().items():
        np.testing.assert_allclose(np.load(file)[name], value, rtol=1e-4, atol=1e-5)
