"""Which memory and which observation an actor-critic reads: what its rule is told, step by step.

A rule that only takes notes is told the outputs of the network for a rollout with episodes that end
either way. They must be those of the network applied by hand, one step after the other, with the
memory that the play itself had.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.agents import ActorCriticAgent, GradientDescent
from jaxrl.core import Box, Discrete, TimeStep, struct
from jaxrl.networks import NetworkSettings
from jaxrl.rules import PolicyTargets
from jaxrl.training import rollout, start_rollout

NUM_ENVS, LENGTH = 4, 12


@struct.dataclass
class Walk:
    """Observations that are never the same twice; odd episodes terminate, even ones are cut."""

    observation_space = Box(-np.ones(2), np.ones(2), (2,))
    action_space = Discrete(3)

    def reset(self, key):
        place = jax.random.uniform(key)
        state = (place, jnp.zeros(()), jax.random.bernoulli(jax.random.fold_in(key, 1)))
        return state, jnp.stack([place, 0.0])

    def step(self, key, state, action):
        place, time, odd = state
        place, time = jax.random.uniform(key), time + 1.0
        over = place + 0.3 * time > 1.2
        observation = jnp.stack([place, 0.1 * time])
        step = TimeStep(observation, place, over & odd, over & ~odd, jnp.zeros(0), {})
        return (place, time, odd), step


@struct.dataclass
class Notes:
    """Keeps what it is told as its state; its loss is how far the unrolled network is from it."""

    outputs = {}  # noqa: RUF012

    def init(self, params):
        return ()

    def targets(self, rule_state, outputs, trajectory, progress):
        targets = PolicyTargets(
            outputs.value, outputs.value, outputs.log_prob, outputs.value, outputs.policy
        )
        return targets, outputs

    def loss(self, outputs, targets, progress):
        policy = jnp.sum((outputs.policy.logits - targets.policy.logits) ** 2, axis=-1)
        return (
            (outputs.value - targets.value) ** 2
            + (outputs.log_prob - targets.log_prob) ** 2
            + policy
        )


KINDS = {"memory": (5, False), "shared_memory": (5, True)}
ROWS = ["memory", *(pytest.param(n, marks=pytest.mark.slow) for n in KINDS if n != "memory")]


@functools.cache
def told(kind: str):
    """The trajectory, what the rule was told, the loss, and outputs stepped by hand."""
    width, shared = KINDS[kind]
    agent = ActorCriticAgent(
        rule=Notes(),
        network=NetworkSettings(hidden_sizes=(6,), recurrent_size=width, initialiser="lecun"),
        optimiser=GradientDescent(learning_rate=0.5, max_grad_norm=None),
        num_envs=NUM_ENVS,
        rollout_length=LENGTH,
        num_epochs=2,
        num_minibatches=2,
        shared_torso=shared,
        normalise_advantages=False,
    )
    env = Walk()

    @jax.jit
    def play(keys):
        state = agent.init(keys[0], env)
        start = start_rollout(keys[1], agent, env)
        # As if episodes were under way.
        memory = jax.tree.map(lambda leaf: jax.random.normal(keys[2], leaf.shape), start.memory)
        start = start.replace(memory=memory)
        _, trajectory, _ = rollout(keys[3], agent, env, state, start)
        after, metrics = agent.update(keys[4], state, trajectory)
        apply = state.model.apply
        no_start = jnp.zeros(NUM_ENVS, bool)

        def by_hand(memory, row):
            """The play's own memory goes in at each step, and comes out for the true successor."""
            observation, following, ended = row
            policy, value, _, later = apply(state.params, observation, no_start, memory)
            _, next_value, _, _ = apply(state.params, following, no_start, later)
            fresh = agent.initial_memory(NUM_ENVS)
            kept = jax.tree.map(lambda new, old: jnp.where(ended[:, None], new, old), fresh, later)
            return kept, (policy.logits, value, next_value)

        ended = trajectory.terminated | trajectory.truncated
        rows = (trajectory.observation, trajectory.next_observation, ended)
        _, stepped = jax.lax.scan(by_hand, start.memory, rows)
        return trajectory, after.rule_state, metrics["loss"], stepped, start.memory

    return jax.device_get(play(jax.random.split(jax.random.key(0), 5)))


@pytest.mark.parametrize("kind", ROWS)
def test_the_rule_is_told_the_outputs_at_the_memory_of_each_step(kind):
    trajectory, outputs, _, (logits, value, next_value), start = told(kind)
    assert trajectory.terminated.sum() > 3 and trajectory.truncated.sum() > 3
    assert all(np.any(leaf != 0) for leaf in jax.tree.leaves(start))
    np.testing.assert_allclose(outputs.policy.logits, logits, atol=1e-5)
    np.testing.assert_allclose(outputs.value, value, atol=1e-5)
    np.testing.assert_allclose(outputs.next_value, next_value, atol=1e-5)


@pytest.mark.parametrize("kind", ROWS)
def test_the_value_of_a_successor_is_that_of_the_next_step_unless_the_episode_ended(kind):
    trajectory, outputs, _, _, _ = told(kind)
    goes_on = ~(trajectory.terminated | trajectory.truncated)[:-1]
    np.testing.assert_allclose(
        outputs.next_value[:-1][goes_on], outputs.value[1:][goes_on], atol=1e-5
    )
    # The next step of an ended episode is another one's first, of another observation.
    assert np.all(np.abs(outputs.next_value[:-1] - outputs.value[1:])[~goes_on] > 1e-4)


@pytest.mark.parametrize("kind", ROWS)
def test_log_probabilities_are_those_of_what_was_done(kind):
    trajectory, outputs, _, (logits, _, _), _ = told(kind)
    log_probs = logits - np.log(np.sum(np.exp(logits), axis=-1, keepdims=True))
    expected = np.take_along_axis(log_probs, trajectory.action[..., None], axis=-1)[..., 0]
    np.testing.assert_allclose(outputs.log_prob, expected, atol=1e-5)
    np.testing.assert_allclose(trajectory.extras["log_prob"], expected, atol=1e-5)


@pytest.mark.parametrize("kind", ROWS)
def test_the_loss_unrolls_what_was_played_in_every_minibatch(kind):
    """Nothing is off, so that the loss is 0 in every minibatch of every epoch and nothing moves."""
    _, _, loss, _, _ = told(kind)
    assert loss < 1e-9
