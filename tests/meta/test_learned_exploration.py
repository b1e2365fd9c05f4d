"""Exploration as something to learn: its slopes, and where it goes."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl import meta, pqn
from jaxrl.agents import GradientDescent, Optimiser
from jaxrl.core import outcome_mdp
from jaxrl.envs import TabularEnv
from jaxrl.meta.inner import collect, differentiable_iteration
from jaxrl.networks import NetworkSettings
from jaxrl.rules import reactive_exploration

KEY = jax.random.key(0)


def arms(reward):
    """A bandit of three arms, each of which pays one of two rewards `[3, 2]` by even odds."""
    with jax.enable_x64(False), jax.ensure_compile_time_eval():
        mdp = outcome_mdp(
            np.full((1, 3, 2), 0.5), np.zeros((1, 3, 2), int), np.asarray(reward)[None], 0.0
        )
        return TabularEnv(mdp, time_limit=4.0)


@functools.cache
def settled_arms():
    return arms([[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]])


@functools.cache
def noise():
    return arms([[1.0, -1.0], [1.0, -1.0], [1.0, -1.0]])


PLAIN = pqn().replace(
    network=NetworkSettings(hidden_sizes=(), initialiser="lecun"),
    optimiser=GradientDescent(learning_rate=1.0, max_grad_norm=None),
    discount=0.0,
    exploration=0.02,
    num_envs=2,
    rollout_length=6,
    num_epochs=1,
    num_minibatches=1,
)


@functools.cache
def explorer():
    with jax.enable_x64(False), jax.ensure_compile_time_eval():
        return PLAIN.replace(exploration=reactive_exploration(KEY, num_hidden=6, num_recent=3))


@functools.cache
def free():
    return meta.tuned(explorer())


# ---- exploration that answers to the rewards of late ---------------------------------------------


def test_it_remembers_the_latest_rewards_first_and_answers_by_its_network():
    exploration = explorer().exploration
    memory = exploration.init()
    for reward in (1.0, 2.0, 3.0, 4.0):
        memory = exploration.remember(memory, np.float32([[reward - 1.0, reward + 1.0]]))
    assert memory.tolist() == [4.0, 3.0, 2.0]
    w = jax.tree.map(np.asarray, exploration.weights)
    units = np.maximum(np.array([4.0, 3.0, 2.0]) @ w["hidden"] + w["bias"], 0.0)
    share = 1.0 / (1.0 + np.exp(-(units @ w["output"] + w["shift"])))
    np.testing.assert_allclose(exploration(memory), 0.01 + 0.98 * share, rtol=1e-5)
    np.testing.assert_allclose(exploration(exploration.init()), 0.3, rtol=1e-5)


@pytest.mark.parametrize(
    "settings, message",
    [({"num_recent": 0}, "at least 1"), ({"start": 0.995}, "rise"), ({"lowest": -0.1}, "rise")],
)
def test_what_does_not_fit_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        reactive_exploration(KEY, **settings)


def test_it_is_saved_and_loaded(tmp_path):
    card = meta.Card("exploration that nothing was learned for")
    found = meta.load(meta.save(explorer().exploration, tmp_path / "a.rule", card=card))
    memory = np.float32([1.0, -2.0, 0.5])
    assert float(found(memory)) == float(explorer().exploration(memory))
    assert found.num_recent == 3


# ---- as a learner of an outer loop ---------------------------------------------------------------

OBJECTIVE = meta.Bootstrap(PLAIN)
CRITIC = meta.OuterCritic()


def outcomes(rule_params):
    """After three updates: how far from the target; the return climbed with exploration held;
    the values. Again, to read them, with the exploration before, after, and of the target."""
    agent = free().agent_of(rule_params)
    life = meta.Life.start(KEY, explorer(), meta.Task(noise(), jnp.float32(1e9)))
    advantages = functools.partial(CRITIC.advantages, CRITIC.init(KEY, noise()), noise())

    def update(train, _):
        return differentiable_iteration(agent, noise(), train)[0], train.agent.exploration

    train, explored = jax.lax.scan(update, life.train, None, 3)
    data = collect(agent, noise(), train)[1]
    target = OBJECTIVE.target(agent, noise(), train)
    match = OBJECTIVE.match(agent, train, target, data)
    still = train.agent.replace(exploration=jax.lax.stop_gradient(train.agent.exploration))
    held = train.replace(agent=still)
    climbed = meta.PolicyReturn().loss(agent, noise(), held, data, advantages)
    values = jnp.mean(agent.values(train.agent, data.observation))
    found = jnp.stack([match, climbed, values])
    return found, (found, explored[1], train.agent.exploration, target.agent.exploration)


slopes_of = jax.jit(jax.jacrev(outcomes, has_aux=True))


@pytest.mark.slow
def test_the_match_has_a_slope_where_the_updates_have_none():
    """In float64, by differences in a random direction of each of the weights."""
    generator = np.random.default_rng(0)
    with jax.enable_x64(True):
        start = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), free().init())
        slopes, (_, before, after, target) = slopes_of(start)
        assert free().names == ("exploration.weights",)
        assert float(before) != float(after) and float(target) == pytest.approx(0.02)
        for name, slope in slopes["exploration.weights"].items():
            slope, leaf = np.asarray(slope), start["exploration.weights"][name]
            assert np.all(slope[1:] == 0.0), name  # exploration only changes data
            move = generator.normal(size=leaf.shape)

            def moved(by, name=name, leaf=leaf, move=move):
                weights = {**start["exploration.weights"], name: leaf + by * move}
                return float(slopes_of({"exploration.weights": weights})[1][0][0])

            found = (moved(1e-5) - moved(-1e-5)) / 2e-5
            assert abs(found) > 1e-6, name
            np.testing.assert_allclose(np.sum(slope[0] * move), found, rtol=1e-6)


@pytest.mark.slow
def test_a_network_that_is_constant_explores_as_the_number_does():
    """The same actions, parameters and law."""
    flat = explorer().exploration.weights | {"output": jnp.zeros(6)}
    agent = explorer().replace(exploration=explorer().exploration.replace(weights=flat))
    task = meta.Task(noise(), jnp.float32(1e9))
    number = float(agent.exploration(agent.exploration.init()))

    @jax.jit
    def lived(agent):
        life = meta.Life.start(KEY, agent, task)
        train, data, _ = differentiable_iteration(agent, noise(), life.train)
        return (
            train.agent.params,
            data.action,
            agent.policy(train.agent, data.observation).log_probs(),
        )

    ours, theirs = lived(agent), lived(PLAIN.replace(exploration=number))
    jax.tree.map(
        lambda mine, other: np.testing.assert_allclose(mine, other, rtol=1e-6), ours, theirs
    )


@pytest.mark.slow
def test_exploration_goes_where_greedy_actions_change():
    """Down to the plain agent's where values are settled. Where rewards are noise the greedy
    action is any of the three by even odds, and the best match of that is to be uniform."""
    learner = meta.SelfTuning(
        free(),
        objective=meta.Bootstrap(PLAIN, num_further=1),
        optimiser=Optimiser(learning_rate=0.05, max_grad_norm=None),
        num_updates=1,
    )

    @jax.jit
    @jax.vmap
    def explored(env):
        task = meta.Task(env, jnp.float32(1e9))
        return learner.live(
            KEY, task, num_updates=400, watch=lambda agent, state: state.exploration
        ).watched

    settled, noisy = explored(
        jax.tree.map(lambda *leaves: jnp.stack(leaves), settled_arms(), noise())
    )
    assert np.max(settled[-20:]) < 0.06 and np.min(noisy[-20:]) > 0.6
