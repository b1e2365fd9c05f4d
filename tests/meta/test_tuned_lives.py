"""Lives that tune themselves: the agent's own life where nothing is tuned, paired, batched."""

from __future__ import annotations

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_learner as toy

from jaxrl import a2c, dqn, meta
from jaxrl.agents import Optimiser
from jaxrl.envs import TabularEnv, garnet
from jaxrl.meta import SelfTuning
from jaxrl.networks import NetworkSettings

KEY = jax.random.key(0)
AGENT = a2c().replace(
    network=NetworkSettings(hidden_sizes=(), initialiser="lecun"),
    num_envs=4,
    rollout_length=6,
    optimiser=Optimiser(learning_rate=0.05, max_grad_norm=None),
)
PER_UPDATE = 24.0
NAMES = ("discount", "rule.entropy_weight", "optimiser.learning_rate")
OPTIMISER = Optimiser(learning_rate=0.1, max_grad_norm=None)
LEARNER = SelfTuning(meta.tuned(AGENT, NAMES), optimiser=OPTIMISER, num_updates=3)


@functools.cache
def env():
    with jax.ensure_compile_time_eval():
        return TabularEnv(garnet(jax.random.key(3), 5, 2, 2), time_limit=6.0)


def held_out_lives():
    return meta.HeldOut(meta.Task(env(), PER_UPDATE * 10), PER_UPDATE * 10, 3, last_part=0.5)


# A learner that is a line of arithmetic, in episodes of four steps.
SMALL = toy.Toy(num_envs=4, rollout_length=6)
SMALL_LEARNER = SelfTuning(
    meta.tuned(SMALL, ["push", "aim"]),
    critic=toy.Watcher(3, (6, 4)),
    optimiser=OPTIMISER,
    num_updates=3,
)
SMALL_HELD_OUT = meta.HeldOut(
    toy.Walks(PER_UPDATE * 10, spread=0.5, cuts=True, num_places=4), PER_UPDATE * 10, 3, 0.5
)
SMALL_BOOTSTRAPPED = SMALL_LEARNER.replace(
    objective=meta.Bootstrap(SMALL, num_further=1), num_updates=2
)
LEARNERS = {
    "return": lambda: (SMALL_LEARNER, SMALL_HELD_OUT),
    "bootstrap": lambda: (SMALL_BOOTSTRAPPED, SMALL_HELD_OUT),
    "actor-critic": lambda: (LEARNER, held_out_lives()),
}


def still(learner):
    """One that tunes nothing, by traced numbers: no new program."""
    return learner.replace(optimiser=OPTIMISER.replace(learning_rate=0.0))


def close(ours, theirs):
    for mine, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(mine, other, rtol=2e-4, atol=2e-5)


@functools.cache
def untuned(name):
    """Lives of the agent that tuning starts from, as a comparison has them."""
    learner, held_out = LEARNERS[name]()
    agent = learner.tuned.agent_of(learner.tuned.init())
    return toy.raw(held_out.lives(KEY, agent))


@pytest.mark.slow
@pytest.mark.parametrize("name", LEARNERS)
def test_a_life_that_tunes_nothing_is_the_life_of_the_agent(name):
    """Same tasks, same keys, same data: what the outer step looks at costs no environment step.

    Ten updates are no whole number of outer steps: the last one stands still from the tenth on.
    """
    learner, held_out = LEARNERS[name]()
    found, plain = toy.raw(still(learner).lives(KEY, held_out)), untuned(name)
    for measure in ("final_return", "lifetime_return", "final_rate", "lifetime_rate"):
        close(getattr(found.lifetime, measure), getattr(plain, measure))
    ours, theirs = found.lifetime.life.train, plain.life.train
    assert ours.iteration.tolist() == theirs.iteration.tolist() == [10] * 3
    close(ours.agent.params, theirs.agent.params)
    close(ours.rollout.observation, theirs.rollout.observation)
    close(found.lifetime.life.env, plain.life.env)
    np.testing.assert_array_equal(ours.key, theirs.key)
    per_step = learner.updates_per_step
    num_steps = math.ceil(10 / per_step)
    lived = np.full(num_steps, per_step)
    lived[-1] = 10 - per_step * (num_steps - 1)
    earned = found.rates @ lived / 10
    np.testing.assert_allclose(earned, plain.lifetime_rate, rtol=1e-4)
    started = toy.raw(learner.tuned.values(learner.tuned.init()))
    for number, row in found.watched.items():
        np.testing.assert_allclose(row, np.full((3, num_steps), started[number]), rtol=1e-6)


@pytest.mark.slow
def test_the_gradient_is_the_slope_of_the_loss():
    """Small steps change no action that was drawn, so that the loss is smooth between them."""
    life = meta.Life.start(KEY, AGENT, meta.Task(env(), jnp.float32(1e9)))
    critic = LEARNER.critic.init(KEY, env())
    loss = jax.jit(jax.value_and_grad(lambda params: LEARNER.window(params, life, critic)[0]))
    start = LEARNER.tuned.init()
    for name, slope in loss(start)[1].items():
        up, down = (loss({**start, name: start[name] + move})[0] for move in (1e-2, -1e-2))
        np.testing.assert_allclose((up - down) / 2e-2, slope, rtol=0.05, atol=3e-5)


@pytest.mark.slow
def test_learners_stand_beside_the_agents_of_a_comparison_in_the_same_lives():
    found = meta.compare(KEY, {"untuned": SMALL}, SMALL_HELD_OUT, measure="lifetime_rate")
    lives = still(SMALL_BOOTSTRAPPED).lives(jax.random.fold_in(KEY, 1), SMALL_HELD_OUT)
    lives = toy.raw(lives)
    both = found.beside("still", SMALL, lives.lifetime.lifetime_rate)
    difference = both.difference("still", "untuned")
    assert abs(difference.value) < 1e-5 and difference.high - difference.low < 1e-5
    scores = both.contenders["untuned"].scores
    x = toy.states_of((SMALL.push, SMALL.aim, SMALL.discount), 9)
    goals = lives.lifetime.life.env.goal  # each life has its own
    paid = [np.mean(1.0 - (x - goal) ** 2) + 0.15 for goal in goals]
    np.testing.assert_allclose(scores, paid, rtol=1e-5)
    assert "| still |" in both.table()
    with pytest.raises(ValueError, match="still has lives"):
        found.beside("still", SMALL, lives.lifetime.lifetime_rate[:2])


def test_what_cannot_be_tuned_is_refused():
    with pytest.raises(ValueError, match="last_part=0"):
        LEARNER.live(KEY, meta.Task(env(), jnp.float32(1.0)), num_updates=1, last_part=0.0)
    valued = LEARNER.replace(tuned=meta.tuned(dqn(), ["discount"]))
    with pytest.raises(ValueError, match="no policy"):
        valued.live(KEY, meta.Task(env(), jnp.float32(1.0)), num_updates=1)
