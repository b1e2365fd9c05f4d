"""No key is spent twice in the first state or a step of an outer loop, as JAX traces them."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import toy_learner as toy
from jax.errors import KeyReuseError
from jax.experimental.key_reuse import _core

from jaxrl import meta
from jaxrl.envs.wrappers import LogUniform
from jaxrl.meta.levels import play_episodes

AGENT = toy.Toy(rollout_length=2, num_envs=2)
TASKS = toy.Walks(total_steps=LogUniform(8.0, 80.0), spread=0.5)


def searched(agent):
    return meta.tuned(agent, ["push"])


def gradient_of(agent, **changes):
    settings = {"critic": toy.Watcher(3, (2, 2)), "num_lives": 2, "num_updates": 2} | changes
    return meta.MetaGradient(searched(agent), TASKS, **settings)


def evolution_of(agent):
    return meta.Evolution(searched(agent), TASKS, num_updates=2, num_pairs=2, num_centre_lives=2)


class Random:
    """A strategy that spends its keys."""

    population_size, default_params = 2, ()
    init = staticmethod(lambda key, mean, params: {"mean": mean, "at": jax.random.normal(key)})
    get_mean = staticmethod(lambda state: state["mean"])
    ask = staticmethod(
        lambda key, state, params: ({"push": jax.random.normal(key, (2,))}, state),
    )
    tell = staticmethod(
        lambda key, population, fitness, state, params: (
            {**state, "at": jax.random.normal(key)},
            {},
        )
    )


LOOPS = {
    "gradient": gradient_of,
    "critic": lambda agent: gradient_of(agent, critic=meta.OuterCritic()),
    "bootstrap": lambda agent: gradient_of(agent, objective=meta.Bootstrap(agent, num_further=1)),
    "own rules": lambda agent: gradient_of(agent, own_rules=True, chunk=1),
    "implicit": lambda agent: gradient_of(
        agent,
        critic=toy.Watcher(4, (2, 2)),
        through=meta.ImplicitGradient(meta.NeumannSeries(2), through_data=False),
    ),
    "evolution": evolution_of,
    "persistent": lambda agent: meta.PersistentEvolution(
        searched(agent), TASKS, window=2, num_pairs=2, num_centre_lives=2
    ),
    "strategy": lambda agent: meta.StrategySearch(evolution_of(agent), Random()),
    "curated": lambda agent: meta.Curated(
        gradient_of(agent), agent, meta.LevelReplay(num_levels=4), num_episodes=2, max_steps=2
    ),
}


def parts_of(name, agent):
    """Functions with their arguments: the first state, and a step from one."""
    if name == "self-tuning":
        learner = meta.SelfTuning(
            searched(agent),
            critic=toy.Watcher(3, (2, 2)),
            num_updates=2,
            objective=_bootstrap(agent),
        )

        def life(key):
            task = meta.Task(toy.Walk(), np.float32(1e3))
            return learner.live(key, task, num_updates=3)

        return [(life, jax.random.key(0))]
    outer = LOOPS[name](agent)
    return [
        (outer.init, jax.random.key(0)),
        (outer.step, jax.eval_shape(outer.init, jax.random.key(0))),
    ]


def _bootstrap(agent):
    return meta.Bootstrap(agent, num_further=1)


NAMES = [*LOOPS, "self-tuning"]


def _played(curated, key, life, antagonist):
    play = (curated.num_episodes, curated.max_steps, True)
    return play_episodes(key, curated.antagonist, life.env, antagonist.train.agent, *play).mean


@pytest.fixture
def check(monkeypatch):
    """JAX's check, told of two operations that pass a key on: it takes both for its end."""
    for operation, argument in ((jax.lax.transpose_p, 0), (jax.lax.select_n_p, 1)):
        passes = _core.KeyReuseSignature(_core.Forward(argument, 0))
        monkeypatch.setitem(_core.key_reuse_signatures, operation, passes)
    # A regret shows both of its agents the same draws, as it says: here one plays alone.
    monkeypatch.setattr(meta.Curated, "_regret", _played)
    return _core.check_key_reuse


def some(*quick):
    """All names, of which those that others contain, or that cost more, are slow."""
    rows = [pytest.param(n, marks=[] if n in quick else [pytest.mark.slow]) for n in NAMES]
    return pytest.mark.parametrize("name", rows)


@some("curated", "evolution", "persistent")
def test_no_key_is_spent_twice(name, check):
    for function, argument in parts_of(name, AGENT):
        try:
            check(function, argument)
        except KeyReuseError as error:  # its context is the whole program
            where = error.__cause__ or error
            pytest.fail(
                f"{function}: {str(error).splitlines()[0]} {str(where)[:300]}", pytrace=False
            )


@some("evolution")
def test_a_learner_that_spends_its_key_twice_is_seen(name, check):
    """The check reaches the learner's own lines, through every loop round them."""
    function, argument = parts_of(name, AGENT.replace(careless=True))[-1]
    with pytest.raises(KeyReuseError):
        check(function, argument)
