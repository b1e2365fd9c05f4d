"""One table of every named agent that plays discrete actions, and the contracts they all keep.

`sac` and `td3` keep the same contracts in test_continuous.py.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest

import jaxrl
from jaxrl.agents import PRESETS, IteratedCopies, NormalisedAgent, Optimiser, TargetUpdate, preset
from jaxrl.core import Linear
from jaxrl.networks import NetworkSettings
from jaxrl.operators import BellmanOperator, Categorical, ImplicitQuantile, Quantile, Scalar
from jaxrl.replay import PrioritisedReplay, UniformReplay
from jaxrl.training import train

NETWORK = NetworkSettings(hidden_sizes=(16,), activation="relu", initialiser="lecun")
OPTIMISER = Optimiser(learning_rate=Linear(3e-2, 2e-3), max_grad_norm=10.0)
DISCOUNT = 0.8
ON_POLICY = {
    "network": NETWORK,
    "optimiser": OPTIMISER,
    "discount": DISCOUNT,
    "num_envs": 8,
    "rollout_length": 8,
}
FROM_REPLAY = ON_POLICY | {
    "rollout_length": 4,
    "target": TargetUpdate(period=20, step_size=1.0),
    "replay": UniformReplay(capacity=1024),
    "exploration": 1.0,
    "batch_size": 32,
    "num_updates": 4,
    "warmup": 128,
}
ATOMS = Categorical(low=-2.0, high=6.0, num_atoms=17)
SMALL = {
    "a2c": ON_POLICY | {"num_epochs": 4, "num_minibatches": 2},
    "ppo": ON_POLICY | {"num_minibatches": 2},
    "mdpo": ON_POLICY | {"num_minibatches": 2},
    "dpo": ON_POLICY | {"num_minibatches": 2},
    "lpo": ON_POLICY | {"num_minibatches": 2},
    "dqn": FROM_REPLAY,
    "double_dqn": FROM_REPLAY,
    "munchausen_dqn": FROM_REPLAY,
    "iterated_dqn": FROM_REPLAY | {"target": IteratedCopies(3, period=20, refresh=5)},
    "c51": FROM_REPLAY | {"operator": BellmanOperator(ATOMS)},
    "qr_dqn": FROM_REPLAY | {"operator": BellmanOperator(Quantile(num_atoms=5))},
    "iqn": FROM_REPLAY
    | {"operator": BellmanOperator(ImplicitQuantile(num_atoms=5, num_cosines=8))},
    "rainbow": FROM_REPLAY
    | {
        "operator": BellmanOperator(ATOMS),
        "replay": PrioritisedReplay(capacity=1024, num_step=3),
    },
    "pqn": ON_POLICY
    | {"network": NETWORK.replace(layer_norm=True), "num_minibatches": 2, "exploration": 0.5},
}
ACTOR_CRITICS = ("a2c", "ppo", "mdpo", "dpo", "lpo")
# Lessons are slow: what a gradient step of every agent does is in test_which_network.py, by hand.
# The others differ from one of these by a rule (tests/rules) or a head (tests/operators), and their
# first step is held by hand too. Actor-critics have a lesson in actions of either kind.
ROWS = [
    pytest.param(name, name != "dpo", marks=pytest.mark.slow)
    for name in ("ppo", "dpo", "munchausen_dqn", "iterated_dqn", "iqn", "rainbow", "pqn")
]
# One row for each class of agents, and for each way to draw more keys than the others.
MACHINES = [row for row in ROWS if row.values[0] != "munchausen_dqn"]
PROBES = tuple(probes.BUILDERS)
NUM_STEPS = 6400
TOLERANCE = dict.fromkeys(SMALL, 0.1) | {"munchausen_dqn": 0.15}  # which settles last
# Whatever `probes.known_values` asks for.
OBSERVATIONS = np.array([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]], np.float32)


def small(name):
    return PRESETS[name]().replace(**SMALL[name])


class Lesson:
    """One agent on every probe at once: one program, its traces and its results."""

    def __init__(self, name: str, discrete: bool):
        self.agent, self.traces = small(name), 0
        self.envs = jax.device_get(probes.stack_probes(discrete))

        def one(key, agent, env):
            result = train(key, agent, env, num_steps=NUM_STEPS, num_records=10)
            state, nothing = result.state.agent, (jnp.zeros(len(OBSERVATIONS), bool), ())
            greedy, _ = agent.act(key, state, OBSERVATIONS[:1], explore=False)
            if name in ACTOR_CRITICS:
                values, _ = state.model.apply(state.params, OBSERVATIONS, *nothing, method="value")
            else:
                values = agent.q_values(state, OBSERVATIONS)
            return state, result.metrics, values, greedy[0]

        @jax.jit
        def learn(seed, agent, envs):
            self.traces += 1
            return jax.vmap(one, in_axes=(None, None, 0))(jax.random.key(seed), agent, envs)

        self.one = one
        self.learn = lambda seed, agent: jax.device_get(learn(seed, agent, self.envs))
        self.state, self.metrics, self.values, self.greedy = self.learn(0, self.agent)

    def value(self, probe: str, observation):
        """`[]`, or `[A]` of a value agent."""
        place = np.flatnonzero((np.asarray(observation) == OBSERVATIONS).all(axis=1))
        return self.values[PROBES.index(probe)][place[0]]


@functools.cache
def lesson(name: str, discrete: bool) -> Lesson:
    return Lesson(name, discrete)


def test_every_preset_has_a_row():
    continuous = {"sac", "td3", "dsac_t", "tqc", "annealed_sac", "annealed_td3"}
    elsewhere = {"differential_dqn", "log_dqn"}  # test_value_settings.py: other fixed points
    elsewhere |= {"cvar_pg"}  # test_risk_policy_gradient.py: another objective
    assert set(SMALL) | continuous | elsewhere == set(PRESETS)


def test_an_unknown_preset_names_the_near_ones():
    with pytest.raises(KeyError, match="qr_dqn"):
        preset("qrdqn")


# --- known values --------------------------------------------------------------------------------


@pytest.mark.parametrize("probe", PROBES)
@pytest.mark.parametrize("name, discrete", ROWS)
def test_values_are_the_known_ones(name, discrete, probe):
    taught = lesson(name, discrete)
    for known in probes.known_values(probe, DISCOUNT, discrete):
        if name in ACTOR_CRITICS and known.action is not None:
            continue
        if name == "munchausen_dqn" and known.action == 0.0:
            # The worse action pays 0 and is more than the clip of 1 below the other: 0.9 (-1).
            known = dataclasses.replace(known, value=-0.9)
        values = taught.value(probe, known.observation)
        values = values if known.action is None else values[int(known.action)]
        np.testing.assert_allclose(values, known.value, atol=TOLERANCE[name])


@pytest.mark.parametrize("name, discrete", ROWS)
def test_the_greedy_action_is_the_best_one(name, discrete):
    found = lesson(name, discrete).greedy[PROBES.index("chosen")]
    np.testing.assert_allclose(found.ravel(), 1 if discrete else probes.BEST, atol=0.05)


# --- machinery -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name, discrete", MACHINES)
def test_same_key_same_bits_another_key_others_and_no_number_retraces(name, discrete):
    taught = lesson(name, discrete)
    again = taught.learn(0, taught.agent)
    jax.tree.map(np.testing.assert_array_equal, taught.state, again[0])
    other = taught.learn(1, taught.agent)
    assert not np.array_equal(other[1]["loss"], taught.metrics["loss"])
    halved = jax.tree.map(lambda value: 0.5 * value, taught.agent)
    changed = taught.learn(0, halved)
    assert not np.array_equal(changed[1]["loss"], taught.metrics["loss"])
    assert taught.traces == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ppo", "rainbow"])
def test_a_lane_is_a_single_run(name):
    """Within float tolerance, which training amplifies: so for the first records."""
    taught = lesson(name, True)
    lane = PROBES.index("delayed")
    single = jax.jit(taught.one)(jax.random.key(0), taught.agent, probes.delayed())[1]
    for metric, values in single.items():
        lanes = taught.metrics[metric][lane]
        np.testing.assert_allclose(lanes[:2], values[:2], rtol=2e-2, atol=2e-3)


@pytest.mark.slow
def test_a_grid_too_narrow_reports_the_fraction_clipped():
    """Rewards of 1 for ever are worth 5: a grid to 6 holds them, one to 2 does not."""
    taught, lane = lesson("rainbow", True), PROBES.index("truncated")
    narrow = taught.agent.replace(operator=BellmanOperator(ATOMS.replace(high=2.0)))
    again = taught.learn(0, narrow)[1]
    wide, clipped = (m["clipped_fraction"][lane, -1] for m in (taught.metrics, again))
    # Values of 5 less what is not yet learned; after rewards of 1 a grid to 2 is too narrow.
    assert wide < 0.01 and clipped > 0.5 and taught.traces == 1
    assert "clipped_fraction" not in lesson("munchausen_dqn", True).metrics


# --- what cannot work ----------------------------------------------------------------------------


VALUE_AGENTS = [name for name in SMALL if name not in ACTOR_CRITICS]


@pytest.mark.parametrize("name", VALUE_AGENTS)
def test_value_agents_refuse_continuous_actions_and_memory(name):
    agent = small(name)
    with pytest.raises(ValueError, match="discrete"):
        agent.check(probes.one_step(discrete=False))
    with pytest.raises(ValueError, match="recurrent_size"):
        agent.replace(network=NETWORK.replace(recurrent_size=4)).check(probes.one_step())
    agent.check(probes.one_step())


@pytest.mark.parametrize("name", [n for n in VALUE_AGENTS if n != "pqn"])
def test_a_batch_larger_than_the_replay_is_refused(name):
    with pytest.raises(ValueError, match="2000"):
        small(name).replace(batch_size=2000).check(probes.one_step())


@pytest.mark.parametrize("name", [*ACTOR_CRITICS, "pqn"])
def test_minibatches_that_do_not_divide_are_refused(name):
    with pytest.raises(ValueError, match=r"64 .* num_minibatches=7"):
        small(name).replace(num_minibatches=7).check(probes.one_step())


@pytest.mark.parametrize("name", ACTOR_CRITICS)
def test_a_recurrent_agent_divides_environments_not_steps(name):
    agent = small(name).replace(network=NETWORK.replace(recurrent_size=4), num_minibatches=16)
    with pytest.raises(ValueError, match="num_envs = 8 "):
        agent.check(probes.one_step())
    agent.replace(num_minibatches=8).check(probes.one_step())


@pytest.mark.parametrize("name", ["dqn", "c51", "qr_dqn", "rainbow"])
def test_risk_over_successors_that_are_not_seen_is_refused(name):
    """With one sampled successor CVaR would silently be the mean."""
    from jaxrl.functionals import CVaR

    agent = small(name)
    nested = agent.replace(operator=agent.operator.replace(successor_functional=CVaR(0.1)))
    with pytest.raises(ValueError, match=r"CVaR\(level=0.1\) ranges over successors"):
        nested.check(probes.one_step())
    greedy = agent.replace(operator=agent.operator.replace(return_functional=CVaR(0.1)))
    if agent.operator.head.facts.stores_law:
        greedy.check(probes.one_step())
        return
    with pytest.raises(ValueError, match="stores a mean only"):
        greedy.check(probes.one_step())


@pytest.mark.parametrize("name", SMALL)
def test_training_refuses_settings_out_of_range(name):
    agent = dataclasses.replace(small(name), discount=1.5)  # unlooked at, unlike `agent.replace`
    with pytest.raises(ValueError, match="discount"):
        train(jax.random.key(0), agent, probes.one_step(), num_steps=10)


def test_presets_take_settings_by_short_and_dotted_name():
    assert jaxrl.ppo(learning_rate=2e-4).optimiser.learning_rate == 2e-4
    assert jaxrl.td3(**{"actor.smoothing": 0.4}) == jaxrl.td3(smoothing=0.4)
    parts = jaxrl.sac(target_entropy=-2.0, actor=jaxrl.SquashedGaussian(0.5), num_envs=2)
    assert parts.actor == jaxrl.SquashedGaussian(0.5, -2.0) and parts.num_envs == 2
    inner = NormalisedAgent(jaxrl.ppo()).replace(entropy_weight=0.5)
    assert inner.agent.rule.entropy_weight == 0.5


@pytest.mark.parametrize("build", [jaxrl.ppo, jaxrl.ppo().replace, jaxrl.sac])
def test_settings_are_refused_where_they_are_written(build):
    with pytest.raises(KeyError, match=r"learning_rat'; did you mean optimiser\.learning_rate"):
        build(learning_rat=1e-3)
    with pytest.raises(ValueError, match=r"optimiser\.learning_rate=-1\.0 is out of range"):
        build(learning_rate=-1.0)
    with pytest.raises(ValueError, match=r"discount=1\.5 is out of range"):
        build(discount=1.5)


def test_the_scalar_head_is_the_default():
    assert isinstance(PRESETS["dqn"]().operator.head, Scalar)
