"""Which numbers of an agent an outer loop may change, and how it holds them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl import a2c, ppo
from jaxrl.core import Progress, values_at
from jaxrl.meta import tuned
from jaxrl.rules import lpg

INF = float("inf")
NAMES = ("discount", "rule.lambda_", "rule.entropy_weight", "optimiser.learning_rate")


@pytest.mark.parametrize(
    "low, high", [(0.0, 1.0), (-2.0, 3.0), (0.0, INF), (-INF, 1.0), (-INF, INF)]
)
def test_a_range_maps_the_line_onto_itself_and_back(low, high):
    span = tuned(ppo(), ["discount"]).ranges[0].replace(low=low, high=high)
    free = np.linspace(-4.0, 4.0, 41, dtype=np.float32)

    @jax.jit
    def there_and_back(free):
        value = span.value(free)
        return value, span.free(value)

    value, back = jax.device_get(there_and_back(free))
    assert np.all((value > low) & (value < high))
    np.testing.assert_allclose(back, free, rtol=1e-4, atol=1e-4)
    order = np.diff(value)
    assert np.all(order > 0) or np.all(order < 0)


def test_free_numbers_give_the_agent_back_and_others_stay():
    rule = tuned(a2c(), NAMES)
    params = rule.init()
    assert set(params) == set(NAMES)
    same = rule.agent_of(params)
    for name in NAMES:
        part, other = same, a2c()
        for step in name.split("."):
            part, other = getattr(part, step), getattr(other, step)
        np.testing.assert_allclose(part, other, rtol=1e-5)
    moved = rule.agent_of({**params, "discount": params["discount"] + 1.0})
    # A step of one in the log-odds: odds of 99 become 99 e.
    odds = 99.0 * np.e
    np.testing.assert_allclose(moved.discount, odds / (1.0 + odds), rtol=1e-5)
    assert float(moved.rule.value_weight) == a2c().rule.value_weight
    np.testing.assert_allclose(rule.values(params)["discount"], 0.99, rtol=1e-5)


def test_learned_weights_are_free_by_default_and_held_as_they_are():
    rule = lpg(jax.random.key(0), num_hidden=4, num_predictions=3)
    found = tuned(a2c().replace(rule=rule))
    assert found.names == ("rule.weights",)
    jax.tree.map(np.testing.assert_array_equal, found.init()["rule.weights"], rule.weights)
    doubled = jax.tree.map(lambda leaf: 2.0 * np.asarray(leaf), found.init())
    agent = found.agent_of(doubled)
    np.testing.assert_allclose(agent.rule.weights["bias"], 2.0 * np.asarray(rule.weights["bias"]))
    part = tuned(a2c().replace(rule=rule), ["rule.weights.bias"])
    assert list(part.init()) == ["rule.weights.bias"]


def test_no_number_is_part_of_a_program():
    traces = []

    @jax.jit
    def discount(rule, params):
        traces.append(1)
        return rule.agent_of(params).discount

    for value in (0.5, 0.9):
        rule = tuned(ppo().replace(discount=value), ["clip_epsilon", "discount"])
        np.testing.assert_allclose(discount(rule, rule.init()), value, rtol=1e-6)
    assert len(traces) == 1


@pytest.mark.parametrize(
    "free, error, message",
    [
        (["discont"], KeyError, "did you mean discount"),
        (["num_envs"], ValueError, "not a float"),
        (["optimiser.learning_rate"], ValueError, "schedule.*learning_rate.initial"),
        (["rule.nothing.there"], KeyError, "unknown number"),
        ([], ValueError, "no learned rule"),
    ],
)
def test_what_cannot_be_free_is_refused(free, error, message):
    with pytest.raises(error, match=message):
        tuned(ppo(), free)


def test_a_number_at_the_end_of_its_range_is_refused():
    with pytest.raises(ValueError, match=r"discount=1\.0 lies at an end.*start inside"):
        tuned(ppo().replace(discount=1.0), ["discount"])


def test_numbers_of_a_schedule_are_free_as_they_are():
    rule = tuned(ppo(), ["optimiser.learning_rate.initial"])
    np.testing.assert_allclose(rule.init()["optimiser.learning_rate.initial"], 1e-3)


def test_a_timed_number_starts_as_its_constant_and_follows_its_slopes():
    rule = tuned(a2c(), ["learning_rate", "entropy_weight"], timed=True)
    params = rule.init()
    life = Progress.start(1e6)
    for progress in (life, life.advance(600_000)):
        agent = values_at(rule.agent_of(params), progress)
        np.testing.assert_allclose(agent.optimiser.learning_rate, 1e-3, rtol=1e-5)
        np.testing.assert_allclose(agent.rule.entropy_weight, 0.01, rtol=1e-5)
    name = "optimiser.learning_rate.slopes"
    bent = rule.agent_of({**params, name: jnp.array([1.0, -3.0, 2.0, 4.0])})
    rate = bent.optimiser.learning_rate(life.advance(500_000))
    # s = 0.5, l = 1: the exponent is 0.5 - 0.75 + 2 + 2.
    np.testing.assert_allclose(rate, 1e-3 * np.exp(3.75), rtol=1e-5)
