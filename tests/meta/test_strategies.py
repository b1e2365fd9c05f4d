"""Search by strategies that others wrote: see also test_outer_searches."""

import jax
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


@pytest.mark.slow
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


def test_a_strategy_without_a_mean_is_refused():
    strategy = SimpleGA(population_size=4, solution=TUNED.init())
    with pytest.raises(ValueError, match="SimpleGA has no get_mean"):
        meta.StrategySearch(EVOLUTION, strategy).init(jax.random.key(0))
