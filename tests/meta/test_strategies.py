"""Search by strategies that others wrote."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from evosax.algorithms import SNES, SimpleGA

from jaxrl import meta
from jaxrl.meta.experiments import table_agent
from jaxrl.meta.lifetimes import num_updates_of

AGENT = table_agent(num_envs=4, rollout_length=4)
SLOW = AGENT.optimiser.replace(learning_rate=1e-3)
TUNED = meta.tuned(AGENT.replace(optimiser=SLOW), ["learning_rate"])
BANDITS = meta.RandomBandits(160.0, num_arms=3)
EVOLUTION = meta.Evolution(
    TUNED, BANDITS, num_updates=num_updates_of(AGENT, 160.0), fitness="final_rate", num_lives=16
)


def test_a_strategy_of_evosax_raises_a_rate_that_is_far_too_low():
    search = meta.StrategySearch(EVOLUTION, SNES(population_size=8, solution=TUNED.init()))
    found = meta.fit(jax.random.key(0), search, num_steps=20)
    rate = float(found.agent.optimiser.learning_rate)
    assert rate > 10 * 1e-3, rate
    held_out = meta.HeldOut(BANDITS, 160.0, 64)
    before, after = (
        meta.evaluate_rule(jax.random.key(1), agent, held_out).final_rate.mean()
        for agent in (TUNED.agent_of(TUNED.init()), found.agent)
    )
    assert float(after) > float(before) + 0.05
    assert np.all(found.metrics["nonfinite_fraction"] == 0.0)


def test_what_is_not_finite_is_told_the_least():
    """The strategy is told the least finite fitness, and minimises minus it."""
    told = []

    class Told:
        population_size, default_params = 3, ()
        init = staticmethod(lambda key, mean, params: mean)
        get_mean = staticmethod(lambda state: state)

        @staticmethod
        def ask(key, state, params):
            rows = jnp.array([-3.0, jnp.nan, -1.0])
            return {name: rows for name in state}, state

        @staticmethod
        def tell(key, population, fitness, state, params):
            told.append(np.asarray(fitness))
            return state, {}

    search = meta.StrategySearch(EVOLUTION, Told())
    _, metrics = search.step(search.init(jax.random.key(0)))
    assert told[0][1] == max(told[0][0], told[0][2]) and np.all(np.isfinite(told[0]))
    np.testing.assert_allclose(metrics["nonfinite_fraction"], 1 / 3, rtol=1e-6)


def test_a_strategy_without_a_mean_is_refused():
    strategy = SimpleGA(population_size=4, solution=TUNED.init())
    with pytest.raises(ValueError, match="SimpleGA has no get_mean"):
        meta.StrategySearch(EVOLUTION, strategy).init(jax.random.key(0))
