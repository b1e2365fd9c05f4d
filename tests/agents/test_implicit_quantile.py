"""Implicit quantiles: the head and its network; test_implicit_laws.py learns with them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxrl import envs
from jaxrl.agents import preset
from jaxrl.agents.action_values import regression_inputs
from jaxrl.core import Discrete, Law
from jaxrl.networks import ImplicitQNetwork, NetworkSettings
from jaxrl.operators import ImplicitQuantile, Quantile

KEY = jax.random.key(0)
K = 8
LEVELS = (np.arange(K, dtype=np.float32) + 0.5) / K  # in the middle of equal shares
HEAD, PLAIN = ImplicitQuantile(K, num_cosines=16, huber_threshold=0.0), Quantile(K, 0.0)


def random_law(seed=0, size=11):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.ones(size)).astype(np.float32)
    return Law(probs, rng.normal(size=size).astype(np.float32))


# --- the head ------------------------------------------------------------------------------------


def test_at_the_mid_levels_it_is_the_quantile_head():
    law, other = random_law(0), random_law(1)

    @jax.jit
    def both(law, other):
        ours, plain = HEAD.encode(law), PLAIN.encode(law)
        return [
            (head.law(p), head.mean(p), head.loss(p, other), head.law(head.encode(head.law(p))))
            for head, p in ((HEAD, ours), (PLAIN, plain))
        ], ours

    (ours, plain), params = both(law, other)
    assert params.shape == HEAD.shape
    np.testing.assert_array_equal(params[:, 1], LEVELS)
    for found, expected in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_the_loss_is_least_at_the_quantiles_of_the_levels_that_travel_along():
    """At any levels, in any order; the quantiles are NumPy's."""
    rng = np.random.default_rng(2)
    atoms = rng.normal(size=15).astype(np.float32)
    law = Law(np.full(15, 1 / 15, np.float32), atoms)
    levels = rng.uniform(size=K).astype(np.float32)
    exact = np.quantile(atoms, levels, method="inverted_cdf")

    @jax.jit
    def losses(values):
        return jax.vmap(lambda row: HEAD.loss(jnp.stack([row, levels], -1), law))(values)

    values = np.concatenate([exact[None], exact + 0.1 * rng.normal(size=(64, K))])
    found = np.asarray(losses(values.astype(np.float32)))
    # The pinball loss of each level, meaned over atoms and, as in QR-DQN, summed over levels or
    # meaned: its differences are what they are up to that factor.
    errors = atoms - values[:, :, None]
    pinball = np.mean(errors * (levels[:, None] - (errors < 0)), axis=-1).sum(axis=-1)
    ratio = found / pinball
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-4)
    assert np.all(found[1:] >= found[0] - 1e-6) and np.max(found) > found[0] + 1e-3


def test_levels_are_given_and_not_learned():
    params = np.random.default_rng(0).uniform(size=HEAD.shape).astype(np.float32)
    slope = jax.jit(jax.grad(HEAD.replace(huber_threshold=1.0).loss))(params, random_law())
    assert np.any(slope[:, 0] != 0) and np.all(slope[:, 1] == 0)


def test_levels_for_the_regression_are_stratified_and_uniform():
    (levels,) = jax.device_get(jax.jit(lambda key: regression_inputs(key, HEAD, 2000))(KEY))
    shares = np.floor(levels * K)
    np.testing.assert_array_equal(shares, np.broadcast_to(np.arange(K), shares.shape))
    assert scipy.stats.kstest(levels[:, 3] * K - 3, "uniform").pvalue > 1e-3
    assert regression_inputs(KEY, PLAIN, 2000) == ()


# --- the network ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "hidden_sizes, dueling",
    [pytest.param((), False, id="linear"), pytest.param((8, 8), True, id="dueling")],
)
def test_a_value_depends_on_its_own_level_only(hidden_sizes, dueling):
    torso = NetworkSettings(hidden_sizes=hidden_sizes).torso(Discrete(3))
    model = ImplicitQNetwork(torso, 2, K, 16, dueling)
    observation = np.arange(3)
    levels = np.random.default_rng(0).uniform(size=(3, K)).astype(np.float32)

    @jax.jit
    def run(key, levels):
        params = model.init(key, observation)
        turned = model.apply(params, observation, jnp.roll(levels, 2, axis=-1))
        return model.apply(params, observation, levels), turned, model.apply(params, observation)

    values, turned, middle = jax.device_get(run(KEY, levels))
    assert values.shape == (3, 2, K, 2)
    np.testing.assert_allclose(np.roll(values, 2, axis=-2), turned, atol=1e-6)
    np.testing.assert_allclose(values[..., 1], np.broadcast_to(levels[:, None], (3, 2, K)))
    np.testing.assert_allclose(middle[..., 1], np.broadcast_to(LEVELS, (3, 2, K)))
    assert np.ptp(values[..., 0], axis=-1).min() > 0


@pytest.mark.parametrize("name", ["sac", "td3"])
def test_critics_of_continuous_actions_refuse_it(name):
    agent = preset(name)
    agent = agent.replace(operator=agent.operator.replace(head=HEAD))
    with pytest.raises(ValueError, match="use Quantile"):
        agent.check(envs.make("Pendulum-v1"))
