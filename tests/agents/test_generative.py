"""Successors from the environment stepped again: what they are, what they cost, what is refused."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
import scipy.stats

import jaxrl
from jaxrl import envs
from jaxrl.agents import (
    Dual,
    Generative,
    Munchausen,
    NormalisedAgent,
    Optimiser,
    Sampled,
    TargetUpdate,
    preset,
)
from jaxrl.core import Linear, struct
from jaxrl.envs.control import CartPole
from jaxrl.envs.wrappers import RewardNoise, TimeLimit
from jaxrl.functionals import (
    CVaR,
    Entropic,
    KLBall,
    Mean,
    MeanStd,
    PerPair,
    Scenarios,
    SharedKL,
    TotalVariation,
    worst_case,
)
from jaxrl.networks import NetworkSettings
from jaxrl.operators import (
    BellmanOperator,
    Categorical,
    FixedPolicy,
    MirrorDescent,
    PerState,
    Quantile,
    Scalar,
    TwoHot,
)
from jaxrl.replay import UniformReplay
from jaxrl.training import start_training, train, train_iteration

KEY = jax.random.key(0)
RISKY = BellmanOperator(successor_functional=CVaR(0.1))


def small(operator=None, **changes):
    """A small Q-network agent."""
    settings = {
        "operator": BellmanOperator() if operator is None else operator,
        "network": NetworkSettings(hidden_sizes=(16,), activation="relu", initialiser="lecun"),
        "optimiser": Optimiser(learning_rate=Linear(3e-2, 2e-3), max_grad_norm=10.0),
        "replay": UniformReplay(capacity=1024),
        "target": TargetUpdate(period=20, step_size=1.0),
        "discount": 0.8,
        "num_envs": 8,
        "rollout_length": 4,
        "exploration": 1.0,
        "batch_size": 32,
        "num_updates": 4,
        "warmup": 128,
    }
    return preset("dqn").replace(**settings | changes)


def stored(env, num_envs=4, key=KEY):
    """Transitions of uniform actions, written to a replay and drawn from it again."""
    num_rows = 8
    reset_key, action_key, step_key, draw_key = jax.random.split(key, 4)
    state, observation = jax.vmap(env.reset)(jax.random.split(reset_key, num_envs))
    action = jax.vmap(env.action_space.sample)(jax.random.split(action_key, num_envs))
    _, step = jax.vmap(env.step)(jax.random.split(step_key, num_envs), state, action)
    example = probes.example_transition(observation, env.action_space, state)
    row = example.replace(
        action=action.astype(example.action.dtype),
        reward=step.reward,
        discount=0.9 * (1.0 - step.terminated),
        next_observation=step.observation,
        truncated=step.truncated,
        terminated=step.terminated,
    )
    replay = UniformReplay(capacity=num_rows * num_envs, num_envs=num_envs, store_next=True)
    trajectory = jax.tree.map(lambda leaf: jnp.stack([leaf] * num_rows), row)
    filled = replay.add(replay.init(example), trajectory)
    return replay.sample(draw_key, filled, num_envs).transition


def outcomes(source, env, data, key=KEY):
    state = source.init(key, env, BellmanOperator(), NetworkSettings())
    return source.outcomes(key, state, data, 0.9)


def in_one_program(function, *arguments):
    """`function(key, *arguments)` in NumPy."""
    return jax.device_get(jax.jit(function)(KEY, *arguments))


def again(source, env, **changes):
    """Stored transitions, changed so, and what may follow them."""

    def run(key, env, changes):
        num_envs = 1 if changes else 4
        data = stored(env, num_envs, key).replace(**changes)
        return data, outcomes(source, env, data, key)

    return in_one_program(run, env, changes)


# --- what the outcomes are -----------------------------------------------------------------------


FEW = ("CartPole-v1",)
EACH = [
    name if name in FEW else pytest.param(name, marks=pytest.mark.slow)
    for name in envs.names()
    if envs.facts_of(name).suite not in ("jaxrl", "registered")
]


@pytest.mark.slow
@pytest.mark.parametrize("name", EACH)
def test_every_gymnax_environment_can_be_stepped_again(name):
    """Discrete and continuous: its state goes through the replay and back into `step`."""
    env = envs.make(name)
    source = Generative(3)
    source.check(RISKY, env)
    found, (_, observation) = jax.eval_shape(
        lambda: (outcomes(source, env, stored(env)), env.reset(KEY))
    )
    assert found.reward.shape == found.discount.shape == found.probs.shape == (4, 3)
    assert found.observation.shape == (4, 3, *observation.shape)
    assert found.observation.dtype == observation.dtype


@pytest.mark.slow  # for what it compiles; below each setting is compared with its own steps
def test_a_deterministic_environment_gives_what_was_seen():
    data, found = again(Generative(2), envs.make("MountainCar-v0"))
    for draw in range(2):
        np.testing.assert_allclose(found.reward[:, draw], data.reward, rtol=1e-5)
        np.testing.assert_allclose(
            found.observation[:, draw], data.next_observation, rtol=1e-5, atol=1e-6
        )
    np.testing.assert_allclose(found.probs, 0.5)


def in_state(index, action):
    """What a transition from one state of a table holds."""
    state, _ = jax.eval_shape(envs.TabularEnv(envs.riverswim()).reset, KEY)
    state = state.replace(index=np.full(1, index), time=np.zeros(1, np.int32))
    return {"env_state": state, "action": np.full(1, action, np.int32)}


@pytest.mark.slow
def test_draws_have_the_law_of_the_table():
    """RiverSwim's middle state under "right": three outcomes, from many draws of one state."""
    mdp = envs.riverswim()
    _, found = again(Generative(3000), envs.TabularEnv(mdp), **in_state(2, 1))
    counts = np.bincount(found.observation[0], minlength=6)
    expected = np.asarray(jax.jit(lambda: mdp.dense()[0])()[2, 1], np.float64)
    expected *= 3000 / expected.sum()
    possible = expected > 0
    assert possible.sum() == 3 and counts[~possible].sum() == 0
    assert scipy.stats.chisquare(counts[possible], expected[possible]).pvalue > 1e-3


def test_an_end_zeroes_the_discount_of_its_outcome_only():
    """From the last cell before the goal of a slippery lake, some draws end and some go on."""
    env = envs.TabularEnv(envs.frozen_lake(), time_limit=1.0)  # every step truncates too
    _, found = again(Generative(32), env, **in_state(14, 2))
    ended = found.observation[0] == 15
    assert 0 < ended.sum() < 32
    np.testing.assert_allclose(found.discount[0], np.where(ended, 0.0, 0.9))
    np.testing.assert_allclose(found.reward[0], np.where(ended, 1.0, 0.0))


@pytest.mark.slow
def test_each_setting_is_that_of_the_grid():
    """A wrapped environment under 2 x 2 settings, against stepping each by hand."""
    env = TimeLimit(envs.make("Pendulum-v1"), 50)
    spread = (("g", 8.0, 12.0), ("env.m", 0.5, 1.5))
    grid = np.array([(8.0, 0.5), (8.0, 1.5), (12.0, 0.5), (12.0, 1.5)], np.float32)

    def run(key, env, grid):
        def one(g, m):
            setting = env.replace(env=env.env.with_parameters({"g": g, "m": m}))
            keys = jax.random.split(key, 4)
            return jax.vmap(setting.step)(keys, data.env_state, data.action)[1]

        data = stored(env, key=key)
        return outcomes(Generative(1, 4, spread), env, data, key), jax.vmap(one)(*grid.T)

    found, steps = in_one_program(run, env, grid)
    np.testing.assert_allclose(found.observation, np.moveaxis(steps.observation, 0, 1), rtol=1e-5)
    np.testing.assert_allclose(found.reward, steps.reward.T, rtol=1e-5)
    np.testing.assert_allclose(found.probs, 0.25)


def one_state(reward):
    """One state, one action and this reward for ever."""
    whole = np.ones((1, 1, 1))
    return jaxrl.outcome_mdp(whole, np.zeros((1, 1, 1), int), whole * reward, 0.9)


@pytest.mark.slow
def test_settings_given_outright_are_stepped_each():
    numbers = [1.0, 10.0, 100.0]
    env = envs.TabularEnv(one_state(1.0))
    models = jax.tree.map(lambda leaf: np.stack([np.asarray(leaf)] * 3), env)
    reward = models.mdp.reward * np.reshape(numbers, (3, 1, 1, 1)).astype(np.float32)
    models = models.replace(mdp=models.mdp.replace(reward=reward))
    source = Generative(2, 3, models=models)
    source.check(RISKY, env)
    _, found = again(source, env)
    np.testing.assert_allclose(found.reward, np.repeat(numbers, 2)[None].repeat(4, axis=0))


def test_a_worst_case_shares_its_draws_between_settings_and_a_mixture_does_not():
    env = RewardNoise(envs.TabularEnv(one_state(0.0)), scale=1.0)
    spread = (("scale", 0.5, 1.0),)

    def run(key, env):
        data = stored(env, key=key)
        sources = Generative(3, 2, spread, over_models=CVaR(0.5)), Generative(3, 2, spread)
        return [outcomes(source, env, data, key).reward for source in sources]

    worst, mixed = in_one_program(run, env)
    np.testing.assert_allclose(2.0 * worst[:, :3], worst[:, 3:], rtol=1e-5)
    assert np.all(np.abs(2.0 * mixed[:, :3] - mixed[:, 3:]) > 1e-4)
    assert len(np.unique(mixed)) == mixed.size


# --- a functional of functionals -----------------------------------------------------------------


def nested(inner, outer, num_groups):
    """`outer` over groups of `inner`, as a source with so many models asks for."""
    source = Generative(2, num_groups, over_models=outer)
    return source.operator(BellmanOperator(successor_functional=inner)).successor_functional


VALUE_AND_WEIGHTS = jax.jit(lambda f, p, v: (f(p, v), worst_case(f, p, v)))


@pytest.mark.slow
def test_weights_within_and_over_groups_multiply():
    """The worst group is the second, [3, 1]; half of its mass is on its lower value."""
    functional = nested(CVaR(0.5), CVaR(0.5), num_groups=2)
    probs, values = np.full(4, 0.25, np.float32), np.array([5.0, 4.0, 3.0, 1.0], np.float32)
    value, weights = VALUE_AND_WEIGHTS(functional, probs, values)
    assert float(value) == 1.0 and weights.tolist() == [0.0, 0.0, 0.0, 1.0]
    averse = nested(Entropic(0.7), Mean(), num_groups=2)
    weights = VALUE_AND_WEIGHTS(averse, probs, values)[1]
    np.testing.assert_allclose(weights.sum(), 1.0, rtol=1e-6)
    tilted = np.exp(-0.7 * np.asarray(values)).reshape(2, 2)
    np.testing.assert_allclose(weights, (0.5 * tilted / tilted.sum(1, keepdims=True)).ravel(), 1e-5)


def test_nested_means_are_the_mean_whatever_the_masses():
    probs = np.array([0.1, 0.0, 0.6, 0.3, 0.0, 0.0], np.float32)
    values = np.arange(6.0, dtype=np.float32)
    functional = nested(Mean(), Mean(), num_groups=3)
    value, weights = VALUE_AND_WEIGHTS(functional, probs, values)
    np.testing.assert_allclose(value, 2.1, rtol=1e-6)
    np.testing.assert_allclose(weights, probs, atol=1e-6)


def test_a_distributional_backup_is_reweighted_by_the_product():
    """Two settings, two draws each: the law put in the head is that of the worse setting."""
    head = Categorical(0.0, 4.0, num_atoms=5)
    source = Generative(2, 2, (("scale", 0.0, 1.0),), over_models=CVaR(0.5))
    operator = source.operator(BellmanOperator(head))
    lookahead = jaxrl.Lookahead(
        reward=np.array([4.0, 3.0, 1.0, 2.0], np.float32),
        discount=np.zeros(4, np.float32),
        probs=np.full(4, 0.25, np.float32),
        next_params=np.zeros((4, 1, 5), np.float32),
    )
    projected = jax.jit(lambda lookahead: head.project(operator.backup(lookahead)))(lookahead)
    np.testing.assert_allclose(projected, [0.0, 0.5, 0.5, 0.0, 0.0], atol=1e-6)


# --- machinery -----------------------------------------------------------------------------------


@functools.cache
def lesson(operator, source):
    """An agent on every probe at once, and the number of times its program was traced."""
    traces = []

    @jax.jit
    def learn(key, agent, envs):
        traces.append(None)
        run = functools.partial(jaxrl.train, num_steps=6400, num_records=4)
        return jax.vmap(run, in_axes=(None, None, 0))(key, agent, envs)

    agent = small(operator, successors=source)
    return agent, learn, learn(KEY, agent, probes.stack_probes()), traces


def taught():
    return lesson(BellmanOperator(Scalar(), successor_functional=CVaR(0.3)), Generative(2))


@pytest.mark.slow
@pytest.mark.parametrize("probe", probes.BUILDERS)
def test_values_of_probes_are_the_known_ones(probe):
    """Nothing in a probe is random once its episode has begun, so that risk changes nothing; ends
    and truncations are those of the draws."""
    agent, _, result, _ = taught()
    lane = list(probes.BUILDERS).index(probe)
    state = jax.tree.map(lambda leaf: leaf[lane], result.state.agent)
    for known in probes.known_values(probe, 0.8):
        values = agent.scores(state.model.apply(state.params, jnp.asarray(known.observation)))
        values = values if known.action is None else values[int(known.action)]
        np.testing.assert_allclose(values, known.value, atol=0.1 * max(1.0, abs(known.value)))


@pytest.mark.slow
def test_no_number_of_the_operator_or_the_environment_retraces():
    agent, learn, result, traces = taught()
    changed = agent.replace(
        operator=agent.operator.replace(successor_functional=CVaR(0.9)), discount=0.5
    )
    stacked = probes.stack_probes()
    other = learn(jax.random.key(1), changed, stacked.replace(base=2.0 * stacked.base))
    assert not np.array_equal(other.metrics["loss"], result.metrics["loss"])
    assert len(traces) == 1


def test_states_are_stored_only_where_they_are_stepped_again():
    """A probe's state is a float and an integer: 8 bytes a transition, besides the settings."""
    env = probes.delayed()
    sizes = {}
    for name, source in {"sampled": Sampled(), "generative": Generative(4)}.items():
        agent = small(RISKY if name == "generative" else None, successors=source)
        state = jax.eval_shape(lambda agent=agent: start_training(KEY, agent, env, 100.0))
        sizes[name] = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
        kept = state.agent.replay.memory.env_state
        assert len(jax.tree.leaves(kept)) == (2 if name == "generative" else 0)
    num_settings = len(jax.tree.leaves(env))
    assert sizes["generative"] - sizes["sampled"] == 8 * 1024 + 4 * num_settings


@pytest.mark.slow  # for what it compiles
def test_the_caller_s_environment_outlives_a_sweep():
    """The agent keeps a copy: its state is donated from call to call."""
    env = jax.tree.map(jnp.asarray, probes.delayed())
    agent = small(RISKY, successors=Generative(2), warmup=32)
    for _ in range(2):
        result = jaxrl.sweep(KEY, agent, env, num_seeds=1, num_steps=512, num_records=2)
        assert np.all(np.isfinite(np.asarray(result.metrics["loss"])))
    assert float(env.last) == 1.0


# --- what is refused -----------------------------------------------------------------------------

PROBE = probes.one_step()


@struct.dataclass
class Stateless:
    """An environment whose state is not in its state."""

    inner: probes.Probe = PROBE
    carries_key: bool = struct.field(pytree_node=False, default=False)

    @property
    def observation_space(self):
        return self.inner.observation_space

    @property
    def action_space(self):
        return self.inner.action_space

    def reset(self, key):
        return key if self.carries_key else (), self.inner.reset(key)[1]

    def step(self, key, state, action):
        return state, self.inner.step(key, self.inner.reset(key)[0], action)[1]


REFUSED = {
    "one sampled successor": (small(RISKY), "Generative.* return_functional"),
    "and the opt-in is named": (small(RISKY), "accept_bias=True"),
    "one draw": (small(RISKY, successors=Generative(1)), "num_samples"),
    "one draw in each setting": (
        small(RISKY, successors=Generative(1, 2, (("base", 0.0, 1.0),), over_models=CVaR(0.5))),
        "num_samples",
    ),
    "one setting": (small(successors=Generative(4, over_models=CVaR(0.5))), "num_models=1"),
    "settings that do not differ": (small(successors=Generative(4, 2)), "spread"),
    "no room for settings": (
        small(successors=Generative(4, 1, (("base", 0.0, 1.0),))),
        "num_models=1",
    ),
    "no grid": (
        small(successors=Generative(4, 5, (("base", 0.0, 1.0), ("cue", 0.0, 1.0)))),
        "4 or 9",
    ),
    "an empty range": (small(successors=Generative(4, 2, (("base", 1.0, 1.0),))), "low < high"),
    "n-step windows": (
        small(RISKY, successors=Generative(4), replay=UniformReplay(capacity=1024, num_step=3)),
        "num_step=1",
    ),
    "models of another size": (
        small(successors=Generative(4, 3, models=probes.stack_probes(names=("cued", "chosen")))),
        "num_models=3",
    ),
    "models of another kind": (small(successors=Generative(4, 2, models=(1.0,))), "built like"),
    "normalised": (NormalisedAgent(small(RISKY, successors=Generative(4))), "fresh rollouts"),
    "a budget shared over actions": (
        small(BellmanOperator(successor_functional=SharedKL(0.1)), successors=Generative(4)),
        "one action",
    ),
    "a functional for each pair": (
        small(
            BellmanOperator(successor_functional=PerPair(CVaR(jnp.full((2, 2), 0.5)))),
            successors=Generative(4),
        ),
        "table",
    ),
    "numbers for each outcome": (
        small(
            BellmanOperator(successor_functional=Scenarios(jnp.full((2, 4), 0.25))),
            successors=Generative(4),
        ),
        "in no order",
    ),
    "a policy for each state": (
        small(BellmanOperator(improvement=PerState(FixedPolicy(jnp.full((3, 2), 0.5))))),
        "table",
    ),
    "mirror descent without its penalties": (
        small(BellmanOperator(improvement=MirrorDescent(1.0, 1.0, False))),
        "log_reference",
    ),
    "mirror descent twice": (
        small(BellmanOperator(improvement=MirrorDescent(1.0, 1.0)), parts=(Munchausen(),)),
        "is itself a Munchausen bonus",
    ),
    "Munchausen over n steps": (
        small(parts=(Munchausen(),), replay=UniformReplay(capacity=1024, num_step=3)),
        "num_step=1",
    ),
    "a dual of a law": (
        small(BellmanOperator(Quantile(5), successor_functional=CVaR(0.1)), successors=Dual()),
        "stores a law",
    ),
    "no dual": (
        small(BellmanOperator(successor_functional=MeanStd(0.1)), successors=Dual()),
        "KLBall.* do",
    ),
    "a dual beyond the possible": (
        small(
            BellmanOperator(successor_functional=TotalVariation(0.1, support="full")),
            successors=Dual(),
        ),
        "full",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_fed_is_refused_with_the_remedy(case):
    agent, remedy = REFUSED[case]
    with pytest.raises(ValueError, match=f"(?s){remedy}"):
        agent.check(PROBE)


def test_an_unknown_parameter_names_the_near_ones():
    agent = small(successors=Generative(4, 2, (("bases", 0.0, 1.0),)))
    with pytest.raises(KeyError, match="base"):
        agent.check(PROBE)


@pytest.mark.parametrize("carries_key, problem", [(False, "holds no"), (True, "random key")])
def test_an_environment_without_a_usable_state_is_refused(carries_key, problem):
    agent = small(RISKY, successors=Generative(4))
    with pytest.raises(ValueError, match=problem):
        agent.check(Stateless(carries_key=carries_key))
    agent.check(PROBE)


def test_environments_given_outright_are_no_settings_of_the_agent():
    """Each of their numbers is one for each of them, and in the range of the environment's own."""
    env = CartPole()
    models = jax.tree.map(lambda leaf: jnp.full(2, leaf), env)
    agent = small(successors=Generative(1, 2, models=models, over_models=CVaR(0.5)))

    def check(models):
        changed = agent.replace(successors=agent.successors.replace(models=models))
        jax.eval_shape(lambda key: train(key, changed, env, num_steps=32), KEY)

    check(models)
    models = models.replace(gravity=jnp.asarray([9.8, -9.8]))
    with pytest.raises(ValueError, match=r"gravity=.* is out of range"):
        check(models)


ACCEPTED = {
    "a mixture of settings, one draw of each": small(
        RISKY, successors=Generative(1, 3, (("base", 0.0, 1.0),))
    ),
    "the worst mean": small(
        successors=Generative(1, 2, (("base", 0.0, 1.0),), over_models=CVaR(0.5))
    ),
    "the accepted bias": small(RISKY, successors=Sampled(accept_bias=True)),
    "a dual of a mean": small(
        BellmanOperator(TwoHot(), successor_functional=KLBall(0.1)), successors=Dual()
    ),
}


@pytest.mark.slow  # for what it traces; steps of each source are above and in test_dual_step.py
@pytest.mark.parametrize("case", ACCEPTED)
def test_what_is_fed_enough_is_accepted_and_can_be_traced(case):
    agent = ACCEPTED[case]
    agent.check(PROBE)
    jax.eval_shape(
        lambda key: train_iteration(agent, PROBE, start_training(key, agent, PROBE, 100.0)), KEY
    )
