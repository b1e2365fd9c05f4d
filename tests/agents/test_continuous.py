"""Soft actor-critic and TD3: known values, machinery, bad input, and Pendulum."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
import scipy.stats

from jaxrl import SquashedGaussian, sac, td3
from jaxrl.agents import Optimiser, TargetUpdate
from jaxrl.agents.action_box import ActionBox
from jaxrl.core import Box, Linear
from jaxrl.networks import NetworkSettings, TanhGaussianPolicy
from jaxrl.replay import UniformReplay
from jaxrl.training import start_training, train, train_iteration

SMALL = {
    "network": NetworkSettings(hidden_sizes=(32,), activation="relu", initialiser="lecun"),
    "optimiser": Optimiser(learning_rate=Linear(1e-2, 1e-3), max_grad_norm=1e3, epsilon=1e-8),
    "target": TargetUpdate(step_size=0.1),
    "replay": UniformReplay(capacity=4096),  # all that is played, also beside the best action
    "discount": 0.8,
    "num_envs": 4,
    "rollout_length": 4,
    "num_updates": 4,
    "batch_size": 64,
    "warmup": 512,
}
AGENTS = {
    "sac": sac(**SMALL, initial_temperature=0.02),
    "td3": td3(**SMALL),
}
ENV = probes.delayed(discrete=False)
PROBES = list(probes.BUILDERS)
NUM_STEPS = 4000
STEPS = SMALL["num_envs"] * SMALL["rollout_length"]  # of an iteration
FIRST = SMALL["warmup"] // STEPS  # the iteration that learns first
# Whatever `probes.known_values` asks for.
OBSERVATIONS = np.array([[0.0, 0.0], [1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]], np.float32)
ACTIONS = np.array([[1.5], [2.0], [2.5]], np.float32)


@pytest.fixture(scope="module", params=AGENTS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def agent(name):
    return AGENTS[name]


class Machine:
    """One compiled program of an agent: five lives side by side, each with numbers of its own."""

    def __init__(self, agent):
        self.agent, self.traces = agent, 0

        def life(seed, agent, env, num_iterations):
            state = start_training(jax.random.key(seed), agent, env, NUM_STEPS)
            metric = "entropy" if isinstance(agent.actor, SquashedGaussian) else "q_value"

            def iterate(index, carry):
                state, tally = train_iteration(agent, env, carry[0])
                late = index >= num_iterations * 3 // 4
                return state, carry[1] + jnp.where(late, tally.metrics[metric], 0.0)

            carry = state, jnp.zeros(())
            state, total = jax.lax.fori_loop(0, num_iterations, iterate, carry)
            state, where = state.agent, OBSERVATIONS
            greedy, _ = agent.act(jax.random.key(seed), state, where, explore=False)
            there = jnp.broadcast_to(where[:1], (len(ACTIONS), 2))
            values = agent.q_values(state, where, greedy), agent.q_values(state, there, ACTIONS)
            return state, total, greedy, values

        def lives(*arguments):
            self.traces += 1
            return jax.vmap(life, in_axes=(0, 0, 0, None))(*arguments)

        self.lives = jax.jit(lives)

    def run(self, num_iterations, seeds=(0,) * 5, agents=None, envs=None):
        agents = [self.agent] * 5 if agents is None else agents
        envs = [ENV] * 5 if envs is None else envs
        numbers = jax.tree.map(lambda *leaves: np.asarray(leaves, np.float32), *envs)
        agents = jax.tree.map(lambda *leaves: np.asarray(leaves, np.float32), *agents)
        found = self.lives(np.asarray(seeds), agents, numbers, np.int32(num_iterations))
        return jax.device_get(found)


@functools.cache
def machine_of(name):
    return Machine(AGENTS[name])


@pytest.fixture(scope="module")
def machine(name):
    return machine_of(name)


@functools.cache
def trained(name):
    """A life on every probe: the state, a sum over its last quarter, greedy actions and values."""
    envs = [builder(discrete=False) for builder in probes.BUILDERS.values()]
    return machine_of(name).run(NUM_STEPS // STEPS, seeds=(3,) * 5, envs=envs)


def lane(tree, index):
    return jax.tree.map(lambda leaf: leaf[index], tree)


# --- known values --------------------------------------------------------------------------------


def check_known_values(found, probe, tolerance):
    *_, (by_greedy, by_action) = lane(found, PROBES.index(probe))
    for known in probes.known_values(probe, SMALL["discount"], discrete=False):
        if known.action is None:
            place = (np.asarray(known.observation) == OBSERVATIONS).all(axis=1)
            values = by_greedy[:, np.flatnonzero(place)[0]]
        else:
            values = by_action[:, ACTIONS[:, 0].tolist().index(known.action)]
        assert values.shape == (2,)
        np.testing.assert_allclose(values, known.value, atol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("probe", probes.BUILDERS)
def test_values_are_the_known_ones(name, probe):
    check_known_values(trained(name), probe, 0.1)


@pytest.mark.slow
def test_windows_of_three_steps_have_the_same_values():
    """With stored successors one step of each agent is worked out in test_which_network.py."""
    envs = [builder(discrete=False) for builder in probes.BUILDERS.values()]
    agent = AGENTS["td3"].replace(replay=UniformReplay(capacity=4096, num_step=3))
    found = Machine(agent).run(NUM_STEPS // STEPS, (3,) * 5, envs=envs)
    for probe in probes.BUILDERS:
        check_known_values(found, probe, 0.1)


@pytest.mark.slow
def test_the_policy_finds_the_best_action(name):
    greedy = trained(name)[2][PROBES.index("chosen"), 0]
    np.testing.assert_allclose(greedy, probes.BEST, atol=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sac"], indirect=True)
def test_the_temperature_holds_the_target_entropy(name):
    """Where the action matters, entropy and return trade off, and the constraint binds."""
    total = trained(name)[1][PROBES.index("chosen")]
    num_late = NUM_STEPS // STEPS - NUM_STEPS // STEPS * 3 // 4
    np.testing.assert_allclose(total / num_late, -1.0, atol=0.1)


# --- one learner at a time -----------------------------------------------------------------------


@pytest.mark.slow
def test_nothing_is_learned_before_warm_up(name, machine):
    """16 steps an iteration and a warm-up of 512: the thirty-second is the first to learn."""
    fresh, before, after = (machine.run(n)[0].learner for n in (0, FIRST - 1, FIRST))
    jax.tree.map(np.testing.assert_array_equal, before, fresh)
    assert before.num_updates.tolist() == [0] * 5
    assert after.num_updates.tolist() == [4] * 5


def test_actions_are_uniform_until_warm_up_and_the_policy_after(name, agent):
    """Of TD3 the greedy action and normal noise, cut at the ends; of SAC the tanh of a normal."""

    @jax.jit
    def draw(seed, step, exploration):
        state = agent.init(jax.random.key(seed), ENV, NUM_STEPS)
        state = state.replace(progress=state.progress.replace(step=step))
        where = jnp.zeros((2000, 2))
        acting = agent.replace(exploration=exploration) if name == "td3" else agent
        drawn, _ = acting.act(jax.random.key(seed), state, where)
        greedy, _ = acting.act(jax.random.key(seed + 1), state, where, explore=False)
        return drawn, greedy, state.actor.apply(state.learner.params.actor, where[:1])

    def unit(action):
        return 2.0 * (np.asarray(action)[:, 0] - probes.LOW) / (probes.HIGH - probes.LOW) - 1.0

    early, *_ = draw(1, agent.warmup - 1, 0.1)
    assert scipy.stats.kstest((unit(early) + 1.0) / 2.0, "uniform").pvalue > 1e-3
    late, greedy, policy = draw(1, agent.warmup, 0.1)
    assert np.all(unit(greedy) == unit(greedy)[0])
    if name == "td3":
        np.testing.assert_allclose(unit(greedy), np.asarray(policy)[0, 0], atol=1e-6)
        inside = np.abs(unit(late)) < 1.0 - 1e-6
        bounds = (np.array([-1.0, 1.0]) - unit(greedy)[0]) / 0.1
        law = scipy.stats.truncnorm(*bounds, loc=unit(greedy)[0], scale=0.1)
        assert scipy.stats.kstest(unit(late)[inside], law.cdf).pvalue > 1e-3
        quiet, *_ = draw(1, agent.warmup, 0.0)
        np.testing.assert_array_equal(quiet, greedy)
    else:
        loc, scale = float(policy.loc[0, 0]), float(np.exp(policy.log_scale[0, 0]))
        np.testing.assert_allclose(unit(greedy), np.tanh(loc), atol=1e-6)
        raw = np.arctanh(np.clip(unit(late).astype(np.float64), -1 + 1e-7, 1 - 1e-7))
        assert scipy.stats.kstest(raw, scipy.stats.norm(loc, scale).cdf).pvalue > 1e-3


@functools.cache
def varied(name):
    """Nine learning iterations of five lives that differ in their key and in one number."""
    agent = AGENTS[name]
    changes = {
        # The bounds of the noise on lagged actions, and no noise at all.
        "td3": [{"smoothing": 0.9, "smoothing_clip": 0.0}, {"smoothing": 0.0}, {"smoothing": 0.9}],
        # What entropy is asked for: a fresh policy has about -0.1 nats.
        "sac": [{"target_entropy": -3.0}, {"target_entropy": 0.6}, {"target_entropy": -3.0}],
    }[name]
    agents = [agent, agent, *[agent.replace(**change) for change in changes]]
    return machine_of(name).run(FIRST + 8, (0, 1, 0, 0, 0), agents)[0].learner


@pytest.mark.slow
def test_same_key_same_bits_and_another_key_others(name, machine):
    params = varied(name).params
    again = machine.run(FIRST + 8)[0].learner.params
    jax.tree.map(np.testing.assert_array_equal, lane(params, 0), lane(again, 0))
    first, other = (jax.tree.leaves(lane(params, index)) for index in (0, 1))
    assert not any(np.allclose(*pair) for pair in zip(first, other, strict=True))


@pytest.mark.slow
def test_a_changed_float_does_not_retrace(name, agent, machine):
    """Every number that is no size is data, down to the optimiser's and the copy's."""
    varied(name)
    machine.run(2, agents=[jax.tree.map(lambda value: 0.5 * value, agent)] * 5)
    assert machine.traces == 1
    leaves = jax.tree_util.tree_leaves_with_path(agent)
    floats = [field.name for field in dataclasses.fields(agent) if isinstance(field.default, float)]
    names = {jax.tree_util.keystr(path).split(".")[1] for path, _ in leaves}
    assert set(floats) <= names


@pytest.mark.slow
@pytest.mark.parametrize("name", ["td3"], indirect=True)
def test_clipped_away_smoothing_is_no_smoothing(name):
    params = varied(name).params
    _, _, clipped, without, smoothed = (lane(params, index) for index in range(5))
    jax.tree.map(np.testing.assert_array_equal, clipped, without)
    pairs = zip(*map(jax.tree.leaves, (smoothed.critic, without.critic)), strict=True)
    assert all(not np.array_equal(*pair) for pair in pairs)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sac"], indirect=True)
def test_the_temperature_moves_against_the_surplus_of_entropy(name, agent):
    """A fresh policy has about -0.1 nats: too much for -3, so that the temperature falls.

    While the sign of the surplus stays, Adam moves by its rate in each of the 36 steps, or almost:
    the rate of these first steps has fallen to 0.0087 on its way from 0.01 to 0.001.
    """
    _, _, low, high, _ = varied(name).params.log_temperature - np.log(
        agent.actor.initial_temperature
    )
    np.testing.assert_allclose([low, high], [-0.31, 0.31], atol=0.05)


def test_a_temperature_beyond_float32_leaves_finite_losses():
    """exp(100) is infinite, but the losses still are numbers and the temperature still moves."""
    agent = AGENTS["sac"].replace(warmup=0, batch_size=8)

    @jax.jit
    def iterated(key):
        state = start_training(key, agent, ENV, NUM_STEPS)
        learner = state.agent.learner
        params = learner.params.replace(log_temperature=jnp.array(100.0))
        state = state.replace(agent=state.agent.replace(learner=learner.replace(params=params)))
        return train_iteration(agent, ENV, state)

    after, tally = iterated(jax.random.key(0))
    assert all(np.isfinite(value) for value in tally.metrics.values()), tally.metrics
    assert float(after.agent.learner.params.log_temperature) != 100.0


# --- parts ---------------------------------------------------------------------------------------

LAWS = [(0.0, 1.0), (1.5, 0.3), (-0.4, 2.5), (6.0, 0.1)]


@functools.cache
def tanh_gaussians():
    """Draws and their log-densities of each of `LAWS` on [-1, 3], and of one on [-1, 1]."""

    def draw(key, loc, scale, low, high, size):
        shape = (size, 1)
        policy = TanhGaussianPolicy(
            jnp.full(shape, loc), jnp.full(shape, jnp.log(scale)), low[None], high[None]
        )
        return *policy.sample_with_log_prob(key), policy.sample(key)

    def draws(key, loc, scale):
        few = lambda *law: draw(key, *law, jnp.array(-1.0), jnp.array(3.0), 500)  # noqa: E731
        many = draw(key, 0.3, 0.8, jnp.array(-1.0), jnp.array(1.0), 200_000)
        return jax.vmap(few)(loc, scale), many

    return jax.device_get(jax.jit(draws)(jax.random.key(0), *np.array(LAWS, np.float32).T))


@pytest.mark.parametrize("loc, scale", LAWS)
def test_tanh_gaussian_density_is_the_slope_of_its_distribution(loc, scale):
    """log pi(a) against d/da Phi((atanh(unit(a)) - loc) / scale) in float64 SciPy."""
    low, high = -1.0, 3.0
    action, log_prob, sampled = (rows[LAWS.index((loc, scale))] for rows in tanh_gaussians()[0])
    np.testing.assert_array_equal(action, sampled)
    assert np.all(np.isfinite(log_prob))
    unit = 2.0 * (action[:, 0].astype(np.float64) - low) / (high - low) - 1.0
    inside = np.abs(unit) < 0.99  # nearer to the ends, float32 actions do not determine atanh
    step = 1e-4 * (1.0 - np.abs(unit[inside]))

    def distribution(unit):
        return scipy.stats.norm.cdf((np.arctanh(unit) - loc) / scale)

    rise = distribution(unit[inside] + step) - distribution(unit[inside] - step)
    density = rise / (2.0 * step) * 2.0 / (high - low)
    np.testing.assert_allclose(log_prob[inside], np.log(density), atol=5e-3)


def test_tanh_gaussian_entropy_agrees_with_quadrature():
    """-E log pi from draws, against the integral of -p log p on a float64 grid."""
    loc, scale = 0.3, 0.8
    _, log_prob, _ = tanh_gaussians()[1]
    raw = np.linspace(loc - 10 * scale, loc + 10 * scale, 40_001)
    log_density = scipy.stats.norm.logpdf(raw, loc, scale) - np.log(1.0 / np.cosh(raw) ** 2)
    weights = scipy.stats.norm.pdf(raw, loc, scale)
    entropy = -np.trapezoid(weights * log_density, raw)
    np.testing.assert_allclose(-np.mean(log_prob), entropy, atol=0.01)


def test_action_box_maps_ends_to_ends_and_back():
    low, high = np.array([[-2.0, 0.0, 5.0]]), np.array([[2.0, 1e6, 5.0]])
    space = Box(low.astype(np.float32), high.astype(np.float32), (1, 3))
    unit = np.array([[-1.0, -1.0, 0.0], [1.0, 1.0, 0.0], [0.5, -0.25, 0.0]], np.float32)

    @jax.jit
    def read(unit):
        box = ActionBox.of(space)
        drawn = box.from_unit(box.uniform(jax.random.key(0), 100))
        action = box.from_unit(unit)
        return action, box.to_unit(action), jax.vmap(space.contains)(drawn)

    action, back, contained = jax.device_get(read(unit))
    assert action.shape == (3, 1, 3) and contained.all()
    np.testing.assert_array_equal(action[0], low)
    np.testing.assert_array_equal(action[1], high)
    np.testing.assert_allclose(action[2], [[1.0, 375_000.0, 5.0]], rtol=1e-6)
    np.testing.assert_allclose(back, unit, atol=1e-6)


# --- bad input -----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Shaped:
    """A probe with other actions."""

    action_space: Box
    observation_space: Box = ENV.observation_space


@pytest.mark.parametrize(
    "env, change, message",
    [
        (probes.one_step(discrete=True), {}, "discrete"),
        (Shaped(Box(-np.inf * np.ones(2), np.ones(2), (2,))), {}, "finite bounds"),
        (Shaped(Box(np.ones(2), -np.ones(2), (2,))), {}, "exceed"),
        (Shaped(Box(np.zeros(2), np.ones(2), (2,), np.dtype("int32"))), {}, "real numbers"),
        (ENV, {"network": NetworkSettings(recurrent_size=8)}, "recurrent_size"),
        (ENV, {"batch_size": 5000}, "batch of 5000 is larger"),
        (ENV, {"num_envs": 3}, "multiple of num_envs"),
    ],
)
def test_what_cannot_work_is_refused(agent, env, change, message):
    with pytest.raises(ValueError, match=message):
        agent.replace(**change).check(env)


def test_it_is_refused_inside_a_program_too(agent):
    with pytest.raises(ValueError, match="discrete"):
        jax.jit(lambda env: train(jax.random.key(0), agent, env, num_steps=10))(probes.one_step())
