"""Strategies that cannot be searched with are refused: see also test_outer_searches."""

import jax
import pytest
from evosax.algorithms import SimpleGA

from jaxrl import meta
from jaxrl.meta.experiments import table_agent

TUNED = meta.tuned(table_agent(num_envs=4, rollout_length=4), ["learning_rate"])
EVOLUTION = meta.Evolution(TUNED, meta.RandomBandits(160.0, num_arms=3), num_updates=10)


def test_a_strategy_without_a_mean_is_refused():
    strategy = SimpleGA(population_size=4, solution=TUNED.init())
    with pytest.raises(ValueError, match="SimpleGA has no get_mean"):
        meta.StrategySearch(EVOLUTION, strategy).init(jax.random.key(0))
