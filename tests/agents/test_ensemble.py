"""Successors from learned models: the law they learn, what backups make of it, what is refused."""

from __future__ import annotations

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
import scipy.integrate
import scipy.optimize
import scipy.stats

import jaxrl
from jaxrl import envs
from jaxrl.agents import Ensemble, Optimiser, Sampled, preset
from jaxrl.core import Box, Discrete, Law, Linear, Progress, TimeStep, struct
from jaxrl.functionals import CVaR, KLBall, Mean
from jaxrl.networks import NetworkSettings
from jaxrl.operators import BellmanOperator, Scalar
from jaxrl.planning import value_iteration
from jaxrl.replay import Batch, UniformReplay
from jaxrl.training import start_training, train_iteration

KEY = jax.random.key(0)
RISKY = BellmanOperator(successor_functional=CVaR(0.1))
SMALL = NetworkSettings(hidden_sizes=(32,), activation="silu", initialiser="lecun")
STEPS = 600


@struct.dataclass
class LinearGaussian:
    """x' = 0.8 x + 0.4 u + 0.3 e,  r = u / 2 - x + 0.2 e',  P(end) = 1 / (1 + exp(2 - 2 x))."""

    discrete: bool = struct.field(pytree_node=False, default=False)

    @property
    def observation_space(self):
        return Box(np.full(1, -np.inf, np.float32), np.full(1, np.inf, np.float32), (1,))

    @property
    def action_space(self):
        one = np.ones(1, np.float32)
        return Discrete(2) if self.discrete else Box(-one, one, (1,))

    def reset(self, key):
        x = jax.random.normal(key, (1,))
        return x, x

    def step(self, key, state, action):
        push = 2.0 * action - 1.0 if self.discrete else action[0]
        keys = jax.random.split(key, 3)
        x = 0.8 * state + 0.4 * push + 0.3 * jax.random.normal(keys[0], (1,))
        reward = 0.5 * push - state[0] + 0.2 * jax.random.normal(keys[1])
        ends = jax.random.uniform(keys[2]) < jax.nn.sigmoid(2.0 * state[0] - 2.0)
        return x, TimeStep(x, reward, ends, jnp.zeros((), bool), jnp.zeros(0), {})


ENV = LinearGaussian()


def transitions(key, env, size):
    """`size` transitions from standard normal states under uniform actions."""
    reset_key, action_key, step_key = jax.random.split(key, 3)
    state, observation = jax.vmap(env.reset)(jax.random.split(reset_key, size))
    action = jax.vmap(env.action_space.sample)(jax.random.split(action_key, size))
    _, step = jax.vmap(env.step)(jax.random.split(step_key, size), state, action)
    return probes.example_transition(observation, env.action_space).replace(
        action=action,
        reward=step.reward,
        next_observation=step.observation,
        terminated=step.terminated,
        discount=0.9 * (1.0 - step.terminated),
    )


SOURCE = Ensemble(
    num_samples=2000,
    num_models=3,
    network=SMALL,
    optimiser=Optimiser(learning_rate=Linear(1e-2, 1e-4), max_grad_norm=10.0),
)
SIZE = 128  # transitions in each batch


def learned_from(source, state, key, weights, junk, progress):
    """The state after one more batch, the first transition of which has `junk` in its reward."""
    data = transitions(key, ENV, SIZE)
    data = data.replace(reward=data.reward.at[0].add(junk))
    nothing = Law(jnp.ones((SIZE, 1)), jnp.zeros((SIZE, 1)))
    batch, zeros = Batch(data, weights, jnp.arange(SIZE)), jnp.zeros(SIZE)
    learned, _ = source.learn(state, BellmanOperator(), batch, nothing, zeros, progress)
    return state.replace(learned=learned)


@functools.cache
def untaught():
    fresh = jax.jit(lambda: SOURCE.init(KEY, ENV, BellmanOperator(), NetworkSettings()).learned)
    return jax.device_get(fresh())


def with_learned(learned):
    """And what `init` keeps beside it."""
    fresh = SOURCE.init(KEY, ENV, BellmanOperator(), NetworkSettings())
    return fresh.replace(learned=learned)


@functools.cache
def taught():
    """What the ensemble makes of the law above, and its losses; laws and backups at `POINTS`."""

    def teach(learned, key):
        def batch(state, inputs):
            key, step = inputs
            progress = Progress(step, jnp.float32(STEPS))
            state = learned_from(SOURCE, state, key, jnp.ones(SIZE), 0.0, progress)
            return state, state.learned.loss

        start = with_learned(learned)
        inputs = jax.random.split(key, STEPS), jnp.arange(STEPS)
        state, losses = jax.lax.scan(batch, start, inputs)
        data = at_points()
        laws = SOURCE.predict(state.learned, data.observation, data.action)
        return state.learned, losses, laws, backed_up(key, state)

    return jax.device_get(jax.jit(teach)(untaught(), KEY))


POINTS = np.array([[-1.0, 0.5], [0.0, -0.8], [0.6, 0.9], [1.2, 0.0]])  # x, u


def at_points():
    data = probes.example_transition(jnp.asarray(POINTS[:, :1], jnp.float32), ENV.action_space)
    return data.replace(action=jnp.asarray(POINTS[:, 1:], jnp.float32))


# --- the law that is learned ---------------------------------------------------------------------


@pytest.mark.slow
def test_every_network_finds_the_mean_the_spread_and_the_chance_of_an_end():
    _, losses, laws, *_ = taught()
    x, u = POINTS.T
    for model in range(3):
        np.testing.assert_allclose(laws.observation[model, :, 0], 0.8 * x + 0.4 * u, atol=0.04)
        np.testing.assert_allclose(laws.reward[model], 0.5 * u - x, atol=0.04)
        np.testing.assert_allclose(laws.observation_scale[model, :, 0], 0.3, rtol=0.12)
        np.testing.assert_allclose(laws.reward_scale[model], 0.2, rtol=0.12)
        ends = 1.0 / (1.0 + np.exp(2.0 - 2.0 * x))
        np.testing.assert_allclose(laws.terminated[model], ends, atol=0.06)
    # Of normalised numbers with the spreads below: the entropies of two normals and of the ends.
    spreads = np.array([0.3, 0.2]) / np.sqrt([0.04 + 0.16 / 3 + 0.09, 1.0 + 0.25 / 3 + 0.04])
    chance = 1.0 / (1.0 + np.exp(2.0 - 2.0 * scipy.stats.norm.ppf((np.arange(4000) + 0.5) / 4000)))
    least = np.sum(np.log(spreads)) + 1.0 + scipy.stats.bernoulli.entropy(chance).mean()
    np.testing.assert_allclose(np.mean(losses[-100:], axis=0), least, atol=0.05)
    assert not np.allclose(laws.observation[0], laws.observation[1], atol=1e-5)


@pytest.mark.slow
def test_inputs_and_outputs_are_normalised_by_what_was_seen():
    """Of u, uniform on [-1, 1], and of x' - x = 0.4 u - 0.2 x + 0.3 e with x standard normal."""
    learned = taught()[0]
    moments = learned.inputs, learned.outputs
    np.testing.assert_allclose(moments[0].mean, 0.0, atol=0.02)
    np.testing.assert_allclose(moments[0].variance, [1.0, 1.0 / 3.0], rtol=0.02)
    np.testing.assert_allclose(
        moments[1].variance, [0.04 + 0.16 / 3.0 + 0.09, 1.0 + 0.25 / 3.0 + 0.04], rtol=0.02
    )


def value(x):
    """Of a state, with a bend and a turning point."""
    return 2.0 * x + np.sin(3.0 * x)


def exact(functional, x, u, discount):
    """The functional of r + discount V(x') (1 - end), by quadrature over x'."""
    mean, ends = 0.5 * u - x, 1.0 / (1.0 + np.exp(2.0 - 2.0 * x))

    def expectation(of_mean):
        """E of a function whose expectation over r with mean m is `of_mean(m)`."""
        nodes = np.linspace(-6.0, 6.0, 2001)
        density = scipy.stats.norm.pdf(nodes)
        after = of_mean(mean + discount * value(0.8 * x + 0.4 * u + 0.3 * nodes))
        going = scipy.integrate.simpson(density * after, x=nodes)
        return ends * of_mean(mean) + (1.0 - ends) * going

    if isinstance(functional, Mean):
        return expectation(lambda m: m)
    if isinstance(functional, KLBall):  # max_t -t log E exp(-X / t) - t radius

        def dual(log_t):
            t = np.exp(log_t)
            cumulant = np.log(expectation(lambda m: np.exp(-m / t + 0.5 * (0.2 / t) ** 2)))
            return t * cumulant + t * functional.radius

        return -scipy.optimize.minimize_scalar(dual, bounds=(-2.0, 4.0), method="bounded").fun

    def shortfall(b):  # max_b b - E (b - X)+ / level

        def below(m):
            z = (b - m) / 0.2
            return 0.2 * (z * scipy.stats.norm.cdf(z) + scipy.stats.norm.pdf(z))

        return expectation(below) / functional.level - b

    return -scipy.optimize.minimize_scalar(shortfall, bounds=(-9.0, 9.0), method="bounded").fun


FUNCTIONALS = (Mean(), CVaR(0.1), KLBall(0.3))


def backed_up(key, state):
    found = SOURCE.outcomes(key, state, at_points(), 0.9)
    after = 2.0 * found.observation[..., 0] + jnp.sin(3.0 * found.observation[..., 0])

    def backup(functional):
        operator = BellmanOperator(successor_functional=functional)
        return jax.vmap(
            lambda *row: operator.backup(
                jaxrl.Lookahead(
                    reward=row[0], discount=row[1], probs=row[2], next_params=row[3][:, None]
                )
            ).mean()
        )(found.reward, found.discount, found.probs, after)

    return [backup(functional) for functional in FUNCTIONALS]


@pytest.mark.slow
def test_backups_through_the_ensemble_are_near_those_of_the_law():
    """Of 6000 draws; the spread of a return is about 1."""
    found = np.asarray(taught()[3])
    known = np.array([[exact(f, x, u, 0.9) for x, u in POINTS] for f in FUNCTIONALS])
    np.testing.assert_allclose(found[0], known[0], atol=0.06)
    np.testing.assert_allclose(found[1:], known[1:], atol=0.06)
    assert np.all(known[0] - known[1:] > 0.3)  # so that the mean would not do


# --- what the outcomes are -----------------------------------------------------------------------


@functools.cache
def drawn():
    """The laws of fresh networks at `POINTS`, and four draws of each, mixed or the worst case."""

    def draw(key, learned):
        state, data = with_learned(learned), at_points()
        laws = SOURCE.predict(learned, data.observation, data.action)
        found = [
            SOURCE.replace(num_samples=4, over_models=over).outcomes(key, state, data, 0.9)
            for over in (None, CVaR(0.4))
        ]
        return laws, *found, SOURCE.outcomes(key, state, data, 0.9)

    return jax.device_get(jax.jit(draw)(KEY, untaught()))


@pytest.mark.parametrize("over", [None, CVaR(0.4)])
def test_draws_of_a_network_lie_side_by_side_and_a_worst_case_shares_them(over):
    laws, mixed, worst, _ = drawn()
    found = mixed if over is None else worst
    assert found.reward.shape == (4, 12) and found.observation.shape == (4, 12, 1)
    np.testing.assert_allclose(found.probs, 1.0 / 12.0)
    assert set(np.unique(found.discount)) <= {0.0, np.float32(0.9)}
    reward = found.reward.reshape(4, 3, 4)  # points, networks, draws
    noise = (reward - laws.reward.T[..., None]) / laws.reward_scale.T[..., None]
    assert np.all(np.abs(noise) < 5.0)
    assert np.allclose(noise[:, 0], noise[:, 1], atol=1e-3) == (over is not None)


def test_draws_have_the_laws_predicted():
    """2000 of each network at each point: rewards and successors are normal, ends a coin's."""
    laws, *_, found = drawn()
    for draws, mean, scale in (
        (found.reward, laws.reward, laws.reward_scale),
        (found.observation[..., 0], laws.observation[..., 0], laws.observation_scale[..., 0]),
    ):
        noise = (draws.reshape(4, 3, 2000) - mean.T[..., None]) / scale.T[..., None]
        assert scipy.stats.kstest(noise.ravel(), "norm").pvalue > 1e-3
    ended = (found.discount == 0.0).reshape(4, 3, 2000).mean(axis=-1)
    error = np.sqrt(laws.terminated * (1.0 - laws.terminated) / 2000).T
    assert np.all(np.abs(ended - laws.terminated.T) < 4.5 * error)


def test_over_models_takes_the_worst_network():
    source = Ensemble(num_samples=4, num_models=3, over_models=CVaR(1.0 / 3.0))
    functional = source.operator(BellmanOperator()).successor_functional
    values = np.arange(12.0, dtype=np.float32)
    values[7] = -9.0  # means 1.5, 1.5, 9.5 after the change
    probs = np.full(12, 1.0 / 12.0, np.float32)
    found = jax.jit(lambda f, v: f(probs, v))(functional, values)
    np.testing.assert_allclose(found, (4.0 + 5.0 + 6.0 - 9.0) / 4.0, rtol=1e-5)


# --- learning ------------------------------------------------------------------------------------


ONLY = np.eye(SIZE, dtype=np.float32)[:48]


@functools.cache
def one_batch():
    """What is learned from one batch: by the weights of its transitions, and some junk in one.

    The first three learn without the first transition, twice, and with it; then come 48 that learn
    from one transition each, under a share of 1/2 and under all.
    """

    def learn(key, learned, weights, junk, bootstrap):
        state = with_learned(learned)
        source = SOURCE.replace(bootstrap=bootstrap)
        after = learned_from(source, state, key, weights, junk, Progress.start()).learned
        data = transitions(key, ENV, SIZE)
        before = after.replace(params=learned.params)  # what the loss was taken of
        return after, data, source.predict(before, data.observation, data.action)

    all_but_first = np.ones(SIZE, np.float32)
    all_but_first[0] = 0.0
    weights = [all_but_first, all_but_first, np.ones(SIZE, np.float32), *ONLY, *ONLY]
    junk = np.array([0.0, 1e3, 1e3, *np.zeros(96)], np.float32)
    bootstrap = np.array([1.0] * 3 + [0.5] * 48 + [1.0] * 48, np.float32)
    learn = jax.jit(jax.vmap(learn, in_axes=(None, None, 0, 0, 0)))
    return jax.device_get(learn(KEY, untaught(), np.stack(weights), junk, bootstrap))


def test_what_does_not_count_changes_nothing():
    first, second, counted = (
        jax.tree.map(lambda leaf, index=index: leaf[index], one_batch()[0]) for index in range(3)
    )
    jax.tree.map(np.testing.assert_array_equal, first, second)
    assert float(first.inputs.count) == SIZE - 1.0
    # One reward of 1000 more among 128, the same up to its own size otherwise.
    mean = first.outputs.mean[-1] * (SIZE - 1) / SIZE
    np.testing.assert_allclose(counted.outputs.mean[-1], mean + 1e3 / SIZE, atol=5.0 / SIZE)
    before = jax.tree.leaves(untaught().params.network)
    after = jax.tree.leaves(first.params.network)
    assert all(not np.array_equal(*pair) for pair in zip(before, after, strict=True))


def test_the_loss_is_minus_the_likelihood_of_what_was_seen():
    """Of SciPy's laws, in units of the spreads seen and without the constant log 2 pi / 2."""
    learned, data, laws = jax.tree.map(lambda leaf: leaf[0], one_batch())  # not of the first row
    unit = np.sqrt(learned.outputs.variance)
    normal = scipy.stats.norm.logpdf
    moved = normal(
        data.next_observation[:, 0], laws.observation[..., 0], laws.observation_scale[..., 0]
    )
    paid = normal(data.reward, laws.reward, laws.reward_scale)
    ended = scipy.stats.bernoulli.logpmf(data.terminated.astype(int), laws.terminated)
    known = -(moved + paid + ended + np.log(unit).sum() + np.log(2.0 * np.pi))
    np.testing.assert_allclose(learned.loss, known[:, 1:].mean(axis=1), rtol=1e-4)


def learns(lanes):
    """Which networks learn from which of 48 transitions, each alone in its batch, `[48, 3]`."""
    before = jax.tree.leaves(untaught().params.network)
    after = jax.tree.leaves(one_batch()[0].params.network)
    moved = [(new[lanes] != old).reshape(48, 3, -1) for old, new in zip(before, after, strict=True)]
    return np.any(np.concatenate(moved, axis=-1), axis=-1)


def test_each_network_keeps_to_its_share_of_transitions():
    half, whole = learns(slice(3, 51)), learns(slice(51, 99))
    assert whole.all()
    # Of 144 fair coins within 4 standard deviations, and of each 48.
    assert abs(half.mean() - 0.5) < 4 * 0.5 / 12
    assert np.all(np.abs(half.mean(axis=0) - 0.5) < 4 * 0.5 / 48**0.5)
    assert not np.array_equal(half[:, 0], half[:, 1])


# --- agents --------------------------------------------------------------------------------------

TINY = {"num_envs": 2, "rollout_length": 2, "batch_size": 8, "warmup": 4}
FEW = Ensemble(num_samples=2, num_models=2, network=SMALL)


def agent(name, source=FEW, **changes):
    base = preset(name)
    operator = base.operator.replace(successor_functional=CVaR(0.1))
    return base.replace(**{"operator": operator, "successors": source} | TINY | changes)


@pytest.mark.slow  # for what it traces
@pytest.mark.parametrize("name", ["qr_dqn", "td3"])  # the others learn with it below
def test_every_agent_with_a_replay_takes_it(name):
    env, learner = LinearGaussian(discrete="dqn" in name), agent(name)
    learner.check(env)

    @jax.eval_shape
    def shapes():
        state = start_training(KEY, learner, env, 100.0)
        return state, train_iteration(learner, env, state)[0]

    before, after = shapes
    assert jax.tree.structure(after) == jax.tree.structure(before)
    assert [x.shape for x in jax.tree.leaves(after)] == [x.shape for x in jax.tree.leaves(before)]


@struct.dataclass
class Pictures(LinearGaussian):
    """Of ten by ten points in three colours."""

    @property
    def observation_space(self):
        return Box(0.0, 1.0, (10, 10, 3))


REFUSED = {
    "one sampled successor": (agent("dqn", Sampled()), LinearGaussian(True), "Generative"),
    "one sampled successor, SAC": (agent("sac", Sampled()), ENV, "Generative"),
    "discrete observations": (
        agent("dqn"),
        envs.TabularEnv(envs.riverswim()),
        "one of 6 states.*Generative.*TabularMDP",
    ),
    "images": (agent("dqn"), Pictures(True), "images.*Generative"),
    "n-step windows": (
        agent("dqn", replay=UniformReplay(num_step=3)),
        LinearGaussian(True),
        "num_step=1",
    ),
    "one draw": (agent("dqn", Ensemble(1, 1)), LinearGaussian(True), "num_samples"),
    "one draw of each network": (
        agent("sac", Ensemble(1, 4, over_models=CVaR(0.5))),
        ENV,
        "num_samples",
    ),
    "one network": (agent("sac", Ensemble(4, 1, over_models=CVaR(0.5))), ENV, "num_models=1"),
    "a recurrent network": (
        agent("sac", Ensemble(network=NetworkSettings(recurrent_size=8))),
        ENV,
        "recurrent_size",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_modelled_or_fed_is_refused_with_the_remedy(case):
    learner, env, remedy = REFUSED[case]
    with pytest.raises(ValueError, match=f"(?s){remedy}"):
        learner.check(env)


# --- learning with it ----------------------------------------------------------------------------


FRESH = {"num_envs": 4, "rollout_length": 6, "num_minibatches": 3, "num_epochs": 1}


@pytest.mark.parametrize("name", ["pqn", "ppo"])
def test_models_learn_from_the_rollouts_of_agents_without_a_replay(name):
    """A step on each third of a rollout, in turn; and what is backed up is what they draw."""
    env = LinearGaussian(discrete=True)
    operator = BellmanOperator(Scalar(), successor_functional=CVaR(0.1))
    learner = preset(name).replace(**FRESH, operator=operator, successors=FEW)
    learner.check(env)

    @jax.jit
    def both(key):
        state = start_training(key, learner, env, 100.0).agent
        rows = transitions(key, env, 24)
        trajectory = jax.tree.map(lambda x: x.reshape(6, 4, *x.shape[1:]), rows)
        trajectory = trajectory.replace(extras={"log_prob": jnp.zeros((6, 4))})
        after, _ = learner.update(key, state, trajectory)
        source = state.source
        for third in range(3):
            part = jax.tree.map(lambda x, at=8 * third: x[at : at + 8], rows)
            batch = Batch(part, jnp.ones(8), jnp.arange(8))
            learned, _ = FEW.learn(source, operator, batch, None, None, state.progress)
            source = source.replace(learned=learned)
        return after.source.learned, source.learned, state.source.learned

    found, expected, before = jax.device_get(both(KEY))
    chex.assert_trees_all_close(found, expected, rtol=2e-4, atol=1e-6)
    assert not np.allclose(jax.tree.leaves(found.params)[0], jax.tree.leaves(before.params)[0])


@struct.dataclass
class Gamble:
    """x' = 0.7 x + 0.3 e; the sure thing pays 0.5 + 0.1 e', the risk 1 + x / 2 + 0.8 e'."""

    discrete: bool = struct.field(pytree_node=False, default=True)

    @property
    def observation_space(self):
        return Box(np.full(1, -np.inf, np.float32), np.full(1, np.inf, np.float32), (1,))

    @property
    def action_space(self):
        one = np.ones(1, np.float32)
        return Discrete(2) if self.discrete else Box(0 * one, one, (1,))

    def reset(self, key):
        x = jax.random.uniform(key, (1,), minval=-1.5, maxval=1.5)
        return x, x

    def step(self, key, state, action):
        """A continuous action is the share that goes to the risk."""
        risk = jnp.asarray(action, jnp.float32) if self.discrete else action[0]
        keys = jax.random.split(key)
        x = 0.7 * state + 0.3 * jax.random.normal(keys[0], (1,))
        mean = (1.0 - risk) * 0.5 + risk * (1.0 + 0.5 * state[0])
        scale = (1.0 - risk) * 0.1 + risk * 0.8
        reward = mean + scale * jax.random.normal(keys[1])
        no = jnp.zeros((), bool)
        return x, TimeStep(x, reward, no, no, jnp.zeros(0), {})


GRID = np.linspace(-2.1, 2.1, 43)


def gamble_q_values(functional, discount):
    """Of the gamble at the points of `GRID`, by the exact planner, `[43, 2]`."""
    edges = np.concatenate([[-np.inf], 0.5 * (GRID[1:] + GRID[:-1]), [np.inf]])
    after = scipy.stats.norm.cdf((edges[None] - 0.7 * GRID[:, None]) / 0.3)
    after = np.diff(after, axis=1)  # [S, S]
    nodes, weights = np.polynomial.hermite_e.hermegauss(24)
    weights = weights / weights.sum()
    probs = (after[:, :, None] * weights).reshape(43, 1, -1).repeat(2, axis=1)
    following = np.broadcast_to(np.arange(43)[:, None], (43, 24)).reshape(-1)
    following = np.broadcast_to(following, probs.shape)
    mean = np.stack([np.full(43, 0.5), 1.0 + 0.5 * GRID], axis=1)  # [S, A]
    reward = mean[:, :, None] + np.array([0.1, 0.8])[None, :, None] * np.tile(nodes, 43)
    mdp = jaxrl.outcome_mdp(probs, following, reward, discount)
    solved = value_iteration(mdp, BellmanOperator(successor_functional=functional), tolerance=1e-3)
    return np.asarray(solved.q_values)


def trained(learner, env, levels, num_steps):
    """The final states under CVaR at each of `levels`, one program for all; at 1 it is the mean."""

    def run(level):
        operator = BellmanOperator(successor_functional=CVaR(level))
        agent = learner.replace(operator=operator)
        return jaxrl.train(KEY, agent, env, num_steps=num_steps, num_records=4).state.agent

    return jax.jit(jax.vmap(run))(jnp.array(levels))


@pytest.mark.slow
@pytest.mark.optimised
def test_a_q_network_learns_the_nested_values():
    """The mean takes the risk from x = -1, CVaR from about 0.8."""
    levels = (1.0, 0.25)
    learner = preset("dqn").replace(
        network=NetworkSettings(hidden_sizes=(32, 32), activation="silu", initialiser="lecun"),
        optimiser=Optimiser(learning_rate=Linear(3e-3, 1e-4), max_grad_norm=10.0),
        successors=Ensemble(num_samples=16, num_models=2, network=SMALL),
        discount=0.8,
        exploration=1.0,
        num_envs=8,
        rollout_length=4,
        num_updates=4,
        batch_size=64,
        warmup=256,
    )
    state = trained(learner, Gamble(), levels, 12_000)
    known = np.stack([gamble_q_values(CVaR(level), 0.8) for level in levels])
    inside = np.abs(GRID) < 1.05
    known, points = known[:, inside], jnp.asarray(GRID[inside, None])
    found = np.asarray(jax.vmap(lambda s: s.model.apply(s.params, points))(state))
    assert np.max(np.abs(found - known).mean(axis=(1, 2))) < 0.15
    gain = known[:, :, 1] - known[:, :, 0]  # of the risk
    agrees = (found.argmax(axis=2) == known.argmax(axis=2))[np.abs(gain) > 0.2]
    assert np.mean(agrees) > 0.95
    assert gain[0].min() > -1e-3 and gain[1].min() < 0.0 < gain[1].max()


@pytest.mark.slow
@pytest.mark.optimised
def test_learners_without_a_replay_learn_the_nested_values():
    levels = (1.0, 0.25)
    learner = preset("pqn").replace(
        network=NetworkSettings(hidden_sizes=(32, 32), activation="silu", initialiser="lecun"),
        optimiser=Optimiser(learning_rate=Linear(3e-3, 1e-4), max_grad_norm=10.0),
        successors=Ensemble(num_samples=16, num_models=2, network=SMALL),
        discount=0.8,
        exploration=1.0,
        lambda_=0.0,
        num_envs=16,
        rollout_length=32,
        num_epochs=2,
        num_minibatches=8,
    )
    state = trained(learner, Gamble(), levels, 60_000)
    known = np.stack([gamble_q_values(CVaR(level), 0.8) for level in levels])
    inside = np.abs(GRID) < 1.05
    points = jnp.asarray(GRID[inside, None])
    found = np.asarray(jax.vmap(lambda s: s.model.apply(s.params, points))(state))
    assert np.max(np.abs(found - known[:, inside]).mean(axis=(1, 2))) < 0.15


@pytest.mark.slow
def test_a_continuous_agent_takes_the_risk_only_where_it_ignores_it():
    """At x = 0 the mean is 0.5 + risk / 2; CVaR at 0.1 is about 0.3 - 0.7 risk.

    Its models learn from every batch: 64 transitions in each gradient step.
    """
    learner = preset("sac").replace(
        network=NetworkSettings(hidden_sizes=(32,), activation="silu"),
        optimiser=Optimiser(learning_rate=Linear(3e-3, 3e-4)),
        successors=Ensemble(num_samples=8, num_models=2, network=SMALL),
        discount=0.5,
        num_envs=8,
        rollout_length=4,
        num_updates=4,
        batch_size=64,
        warmup=512,
    )
    state = trained(learner, Gamble(discrete=False), (1.0, 0.1), 8_000)
    act = jax.jit(jax.vmap(lambda s: learner.act(KEY, s, jnp.zeros((1, 1)), explore=False)[0]))
    of_the_mean, averse = np.asarray(act(state)).ravel()
    assert of_the_mean > 0.7 and averse < 0.3
    learned, batches = state.source.learned, np.asarray(state.learner.num_updates)
    count = np.asarray(learned.inputs.count)
    assert np.all(count > 0.95 * 64 * batches) and np.all(count <= 64 * batches)
    assert np.all(np.isfinite(learned.loss)) and np.all(learned.loss != 0.0)
