"""What minibatches are drawn from: steps, lanes, or groups of lanes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl
from jaxrl import rules
from jaxrl.agents.minibatches import descend
from jaxrl.core import RuleFacts, struct
from jaxrl.envs import TabularEnv, riverswim
from jaxrl.training import rollout, start_rollout


@struct.dataclass
class Added:
    """An optimiser whose parameters are the sum of all gradients."""

    def step(self, grads, state, params, progress):
        """Added."""
        return params + grads, state


@struct.dataclass
class Learner:
    """What `descend` reads of an agent and of its state."""

    params: jax.Array
    optimiser: Added = Added()
    progress: int = 0
    num_epochs: int = struct.field(pytree_node=False, default=5)
    num_minibatches: int = struct.field(pytree_node=False, default=4)


@pytest.mark.parametrize("unit", [1, 3])
def test_neighbours_stay_together(unit):
    """How often each pair of 24 lanes is in one minibatch of 6, over five epochs."""

    def pairs(params, batch):
        inside = jnp.sum(jax.nn.one_hot(batch[0], 24), axis=0)
        return (jnp.zeros(()),), jnp.outer(inside, inside)

    data = jnp.stack([jnp.arange(24)] * 2)  # [T, B]
    learner = Learner(jnp.zeros((24, 24)))
    once = jax.jit(lambda key: descend(key, learner, learner, pairs, data, 1, unit)[0].params)
    met = np.asarray(once(jax.random.key(0)))
    np.testing.assert_array_equal(met.diagonal(), 5)
    np.testing.assert_array_equal(met.sum(axis=1), 5 * 6)
    group = np.arange(24) // 3
    neighbours = met[(group[:, None] == group) & ~np.eye(24, dtype=bool)]
    if unit == 3:
        np.testing.assert_array_equal(neighbours, 5)
        assert np.all(met[group[:, None] != group] < 5)
    else:
        assert np.mean(neighbours) < 2.5


@functools.cache
def env():
    return TabularEnv(riverswim(4), time_limit=5.0)


def seen_by(lanes):
    """The shape of a minibatch in `loss`, and what of `targets` is seen in which order."""
    shapes = []

    class Lanes(rules.ProximalPolicy):
        facts = RuleFacts(lanes=lanes)

        def loss(self, outputs, targets, progress):
            shapes.append(outputs.log_prob.shape)
            return super().loss(outputs, targets, progress)

    agent = jaxrl.ppo(rule=Lanes(), num_envs=8, rollout_length=5, num_minibatches=2)
    agent.check(env())

    def once(key):
        state = agent.init(key, env())
        start = start_rollout(key, agent, env())
        return agent.update(key, state, rollout(key, agent, env(), state, start)[1])

    jax.eval_shape(once, jax.random.key(0))
    return agent, shapes[0]


@pytest.mark.parametrize("lanes, shape", [(0, (20,)), (1, (5, 4)), (4, (5, 4))])
def test_a_rule_is_shown_whole_lanes(lanes, shape):
    agent, seen = seen_by(lanes)
    assert seen == shape and agent.group_size == max(lanes, 1)


@pytest.mark.slow
def test_order_does_not_matter_to_a_rule_of_steps():
    """With one minibatch, an update on lanes is one on steps, but for rounding."""

    class Lanes(rules.ProximalPolicy):
        facts = RuleFacts(lanes=1)

    agent = jaxrl.ppo(num_envs=4, rollout_length=6, num_minibatches=1, num_epochs=2)
    world = env()

    @jax.jit
    def learned(agent, key):
        state = agent.init(key, world)
        start = start_rollout(key, agent, world)
        return agent.update(key, state, rollout(key, agent, env(), state, start)[1])[0].params

    found = [learned(agent.replace(rule=rule), jax.random.key(0)) for rule in (agent.rule, Lanes())]
    for one, other in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
