"""Agents with networks and optimisers of others: flax modules, pairs of functions, optax."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn, nnx
from probes import Probe

import jaxrl
from jaxrl.agents import PRESETS, Dual, Ensemble, GradientDescent, Optimiser
from jaxrl.agents.optimiser import as_optimiser
from jaxrl.core import Progress
from jaxrl.functionals import CVaR
from jaxrl.operators import BellmanOperator
from jaxrl.training import Checkpoints

KEY = jax.random.key(0)
BANDIT = Probe(merit=1.0)  # action 1 pays 1, action 0 nothing, and the episode ends
BOX = Probe(discrete=False, merit=1.0)


class Torso(nnx.Module):
    def __init__(self, size, *, rngs):
        self.hidden = nnx.Linear(2, size, rngs=rngs)
        self.norm = nnx.LayerNorm(size, rngs=rngs)

    def __call__(self, x):
        return jnp.tanh(self.norm(self.hidden(x)))


NNX = functools.partial(Torso, 8)
PAIR = (
    lambda key, x: 0.5 * jax.random.normal(key, (x.shape[-1] + 1, 8)),
    lambda params, x: jnp.tanh(x @ params[1:] + params[0]),
)
FAST = jaxrl.pqn(num_envs=8, rollout_length=4, num_epochs=1, num_minibatches=2, exploration=0.5)


def learned(agent, env=BANDIT, num_steps=2_048, **more):
    """A sweep of two seeds."""
    return jaxrl.sweep(
        KEY, agent, env, num_seeds=2, num_steps=num_steps, num_records=2, lanes=2, **more
    )


def values(agent, result):
    """Of both actions, by seed."""
    states = jax.tree.map(lambda leaf: leaf[0], result.agent_states)
    return jax.vmap(lambda state: agent.q_values(state, jnp.zeros((1, 2))))(states)[:, 0]


def check_learned(agent):
    result = learned(agent)
    np.testing.assert_allclose(values(agent, result), [[0.0, 1.0]] * 2, atol=0.1)
    first, second = jax.tree.map(
        lambda leaf: leaf[0], result.agent_states.params["params"]["torso"]
    )["given"]["own"]["hidden"]["kernel"]
    assert not np.allclose(first, second)  # each seed draws its own
    return result


def test_a_module_of_nnx_learns_under_adamw():
    agent = FAST.replace(network=NNX, optimiser=optax.adamw(3e-2))
    check_learned(agent)
    again = agent.replace(network=functools.partial(Torso, 8))
    assert jax.tree.structure(again) == jax.tree.structure(agent)  # so JAX runs the same program


@pytest.mark.slow
def test_a_module_of_nnx_learns_under_muon():
    check_learned(FAST.replace(network=NNX, optimiser=optax.contrib.muon(3e-2)))


@pytest.mark.parametrize("name", ["adamw", "sgd", "clipped"])
def test_steps_are_those_of_optax(name):
    made = {
        "adamw": optax.adamw(1e-2, weight_decay=0.1),
        "sgd": optax.sgd(optax.linear_schedule(0.1, 0.0, 2)),
        "clipped": optax.chain(optax.clip_by_global_norm(0.5), optax.adam(1e-2)),
    }[name]
    ours = as_optimiser(made)
    params = expected = {"w": jnp.array([[1.0, -2.0]]), "b": jnp.array([0.5])}
    state, theirs = ours.init(params), made.init(params)
    for _ in range(2):
        grads = jax.tree.map(lambda x: 2.0 * x, params)
        params, state = ours.step(grads, state, params, Progress.start())
        updates, theirs = made.update(grads, theirs, expected)
        expected = optax.apply_updates(expected, updates)
    jax.tree.map(np.testing.assert_array_equal, (params, state), (expected, theirs))


def test_what_is_no_optimiser_is_refused():
    for given in (3, optax.adamw, Optimiser, None):
        with pytest.raises(ValueError, match="makes no steps: give Optimiser"):
            jaxrl.dqn().replace(optimiser=given)
    asks = as_optimiser(optax.lbfgs())
    with pytest.raises(ValueError, match="needs no values of the loss"):
        asks.step(jnp.ones(2), asks.init(jnp.ones(2)), jnp.ones(2), Progress.start())
    own = GradientDescent()
    assert as_optimiser(own) is own


def test_settings_that_are_gone_with_a_part_are_asked_for_in_vain():
    agent = jaxrl.dqn().replace(optimiser=optax.adamw(1e-3), network=nn.Dense(4))
    for name, told in (("learning_rate", "optax transformation"), ("hidden_sizes", "of your own")):
        with pytest.raises(KeyError, match=rf"unknown setting '{name}'.*{told}.*: give another"):
            agent.replace(**{name: 1e-3})
        with pytest.raises(KeyError, match=told):
            learned(agent, over={name: [1e-3]})
    with pytest.raises(KeyError) as error:
        jaxrl.dqn().replace(learning_rat=1.0)
    assert "another" not in str(error.value)


def test_every_agent_takes_them():
    """By shapes alone: states of a first update are those before it."""
    network, optimiser = nn.Dense(4), optax.adamw(1e-3)
    for name, build in PRESETS.items():
        agent = build()
        if not {"network", "optimiser"} <= {field for field in agent.__dataclass_fields__}:
            continue
        agent = agent.replace(network=network, optimiser=optimiser)
        assert agent.optimiser.transformation is optimiser, name
        assert agent.network.module == network, name


SMALL = {"warmup": 8, "batch_size": 4, "num_envs": 2}
ROWS = {
    "dqn": lambda: (jaxrl.dqn(dueling=True, double=True, **SMALL), NNX, BANDIT),
    "iqn": lambda: (jaxrl.iqn(**SMALL), nn.Dense(8), BANDIT),
    "ppo": lambda: (jaxrl.ppo(num_envs=2, rollout_length=8, num_minibatches=2), PAIR, BANDIT),
    "sac": lambda: (jaxrl.sac(**SMALL), NNX, BOX),
    "td3": lambda: (jaxrl.td3(**SMALL), nnx.Linear(2, 8, rngs=nnx.Rngs(0)), BOX),
    "ensemble": lambda: (
        jaxrl.dqn(
            operator=BellmanOperator(successor_functional=CVaR(0.5)),
            successors=Ensemble(num_models=2, network=PAIR, optimiser=optax.contrib.muon(1e-3)),
            **SMALL,
        ),
        PAIR,
        BANDIT,
    ),
    "dual": lambda: (
        jaxrl.dqn(
            operator=BellmanOperator(successor_functional=CVaR(0.5)),
            successors=Dual(optimiser=optax.sgd(1e-3)),
            **SMALL,
        ),
        NNX,
        BANDIT,
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ROWS)
def test_every_kind_of_agent_learns_in_a_sweep(name):
    agent, network, env = ROWS[name]()
    result = learned(agent.replace(network=network, optimiser=optax.adamw(1e-3)), env, 64)
    losses = [one for metric, one in result.metrics.items() if metric.endswith("loss")]
    assert losses and all(np.all(np.isfinite(one)) for one in losses)


class StopsHalfway:
    def on_start(self, *_):
        pass

    def on_record(self, *_):
        pass

    def on_chunk(self, share):
        return share < 1.0


@pytest.mark.slow
def test_a_run_goes_on_from_its_checkpoint(tmp_path):
    agent = FAST.replace(network=NNX, optimiser=optax.contrib.muon(3e-2))
    whole = learned(agent)
    folder = Checkpoints(tmp_path)
    assert learned(agent, checkpoints=folder, observer=StopsHalfway()).interrupted
    again = learned(agent, checkpoints=folder)
    jax.tree.map(np.testing.assert_array_equal, whole.agent_states, again.agent_states)
    with pytest.raises(
        ValueError, match=r"network\.module\.args\.0: 8 \(checkpoint\) != 9 \(here\)"
    ):
        learned(agent.replace(network=functools.partial(Torso, 9)), checkpoints=folder)
    with pytest.raises(ValueError, match=r"optimiser\.transformation"):
        learned(agent.replace(optimiser=optax.contrib.muon(1e-2)), checkpoints=folder)
