"""Soft actor-critic and TD3 with laws of returns: targets, losses, risk and annealing."""

import functools
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from jaxrl.agents import (
    Dual,
    Generative,
    Optimiser,
    Optimism,
    TargetUpdate,
    TruncatedMixture,
    VarianceAdjustment,
    preset,
    sac,
    td3,
)
from jaxrl.agents.chain import Step
from jaxrl.core import Box, Law, Linear, Progress, TimeStep, Transition, struct, values_at
from jaxrl.functionals import CVaR, Mean
from jaxrl.networks import NetworkSettings
from jaxrl.operators import BellmanOperator, Categorical, Gaussian, Quantile, Scalar, Softmax
from jaxrl.replay import UniformReplay
from jaxrl.training import train

NORMAL = Gaussian(min_scale=0.0)
NETWORK = NetworkSettings(hidden_sizes=(32,), activation="relu", initialiser="lecun")
SMALL = {
    "network": NETWORK,
    "optimiser": Optimiser(learning_rate=Linear(1e-2, 1e-3), max_grad_norm=1e3, epsilon=1e-8),
    "target": TargetUpdate(step_size=0.1),
    "replay": UniformReplay(capacity=4096),
    "discount": 0.8,
    "num_envs": 4,
    "rollout_length": 4,
    "num_updates": 256,
    "batch_size": 64,
    "warmup": 0,
}


@struct.dataclass
class Gamble:
    """One step: half of the action for sure, and (1 + action) times a fair coin of -1 or 1.

    The return of action a in [-1, 1] has mean a / 2 and standard deviation 1 + a: the mean is best
    at 1, and the mean of the worse half, -1 - a / 2, at -1, where nothing is at stake.
    """

    stake: float = 1.0

    @property
    def observation_space(self) -> Box:
        return Box(np.full(1, -1.0, np.float32), np.ones(1, np.float32), (1,))

    @property
    def action_space(self) -> Box:
        return Box(np.full(1, -1.0, np.float32), np.ones(1, np.float32), (1,))

    def reset(self, key):
        return jnp.zeros((1,)), jnp.zeros((1,))

    def step(self, key, state, action):
        coin = jnp.where(jax.random.bernoulli(key), 1.0, -1.0)
        reward = 0.5 * action[0] + self.stake * (1.0 + action[0]) * coin
        ended = jnp.ones((), bool)
        return state, TimeStep(state, reward, ended, ~ended, jnp.zeros((0,)), {})


def with_risk(agent, level):
    return agent.replace(operator=agent.operator.replace(return_functional=CVaR(level)))


LAW_AGENTS = {
    "dsac_t": preset("dsac_t").replace(
        **SMALL, initial_temperature=0.02, variance_adjustment=VarianceAdjustment(step_size=0.05)
    ),
    "tqc": preset("tqc").replace(
        **SMALL,
        initial_temperature=0.02,
        num_critics=3,
        operator=BellmanOperator(Quantile(num_atoms=4, huber_threshold=0.1)),
    ),
    "annealed_td3_quantile": td3(
        **SMALL,
        operator=BellmanOperator(Quantile(num_atoms=4, huber_threshold=0.1)),
        parts=(Optimism(Linear(0.7, 0.5, end=0.3)),),
    ),
}
ACTIONS = np.array([[-0.9], [-0.5], [0.0], [0.5]], np.float32)
LEVELS = (1.0, 0.5)  # of CVaR: the mean, and the mean of the worse half


def played(key, num_steps):
    """Uniform actions on the gamble, `[num_steps, num_envs]`."""
    action_key, step_key = jax.random.split(key)
    shape = (num_steps, SMALL["num_envs"])
    action = jax.random.uniform(action_key, (*shape, 1), minval=-1.0, maxval=1.0)
    step = jax.vmap(jax.vmap(lambda key, action: Gamble().step(key, jnp.zeros(1), action)[1]))
    steps = step(jax.random.split(step_key, shape), action)
    return Transition(
        observation=jnp.zeros((*shape, 1)),
        action=action,
        reward=steps.reward,
        discount=jnp.zeros(shape),
        next_observation=steps.observation,
        terminated=steps.terminated,
        truncated=steps.truncated,
        extras={},
    )


class Lesson:
    """One agent on uniform play at each level of risk: one program, and how often it was traced.

    Four updates of 256 gradient steps are a life.
    """

    def __init__(self, name):
        self.agent, self.traces = LAW_AGENTS[name], 0

        def update(key, agent, level, state):
            self.traces += 1
            play_key, update_key = jax.random.split(key)
            return with_risk(agent, level).update(update_key, state, played(play_key, 256))[0]

        def read(state):
            places = jnp.zeros((len(ACTIONS), 1))
            laws = self.agent.return_laws(state, places, ACTIONS)
            values = self.agent.q_values(state, places, ACTIONS)
            best, _ = self.agent.act(jax.random.key(0), state, places[:1], explore=False)
            return laws, values, best[0, 0]

        self.update = jax.jit(update)
        life = 4 * 256 * SMALL["num_envs"]
        self.start = jax.jit(lambda key: self.agent.init(key, Gamble(), life))(jax.random.key(0))
        self.first, self.last = zip(
            *(self.learn(self.agent, level, 4) for level in LEVELS), strict=True
        )
        self.read = [jax.tree.map(np.asarray, found) for found in map(jax.jit(read), self.last)]

    def learn(self, agent, level, num_updates):
        """The states after the first update and after the last one."""
        state, states = self.start, []
        for key in jax.random.split(jax.random.key(1), num_updates):
            state = self.update(key, agent, level, state)
            states.append(state)
        return states[0], states[-1]


@functools.cache
def lesson(name):
    return Lesson(name)


@pytest.fixture(
    params=[
        pytest.param("dsac_t", marks=pytest.mark.slow),
        pytest.param("tqc", marks=pytest.mark.slow),
        pytest.param("annealed_td3_quantile", marks=pytest.mark.slow),
    ]
)
def taught(request):
    return lesson(request.param)


# --- learning a known law ------------------------------------------------------------------------


def test_the_law_of_every_action_is_learned(taught):
    laws, values, _ = taught.read[0]
    means = np.sum(laws.probs * laws.atoms, axis=-1)
    spread = np.sqrt(np.sum(laws.probs * (laws.atoms - means[..., None]) ** 2, axis=-1))
    for critic in range(taught.agent.num_critics):
        np.testing.assert_allclose(values[critic], 0.5 * ACTIONS[:, 0], atol=0.15)
        np.testing.assert_allclose(means[critic], values[critic], atol=1e-5)
        np.testing.assert_allclose(spread[critic], 1.0 + ACTIONS[:, 0], atol=0.15)


def test_the_actor_gambles_by_the_mean_and_not_by_the_worse_half(taught):
    (*_, bold), (*_, careful) = taught.read
    np.testing.assert_allclose([bold, careful], [1.0, -1.0], atol=0.4)


def test_levels_and_schedules_are_traced(taught):
    """Half of every number, down to the schedule of the annealing and the refined loss."""
    halved = jax.tree.map(lambda value: 0.5 * value, taught.agent)
    changed, _ = taught.learn(halved, 0.25, 1)
    assert taught.traces == 1
    pairs = zip(*map(jax.tree.leaves, (taught.first[1].learner, changed.learner)), strict=True)
    assert any(not np.array_equal(first, second) for first, second in pairs)


@pytest.mark.slow  # for what it compiles
def test_a_grid_too_narrow_reports_the_fraction_clipped():
    """Rewards are the targets here, as every episode is one step: those beyond the ends count."""
    agent = td3(**{**SMALL, "num_updates": 16, "batch_size": 512})
    trajectory = played(jax.random.key(3), 256)
    beyond = {end: np.mean(np.abs(np.asarray(trajectory.reward)) > end) for end in (0.5, 3.0)}
    assert beyond[3.0] == 0.0 < 0.1 < beyond[0.5]

    @jax.jit
    def metrics(agent):
        state = agent.init(jax.random.key(0), Gamble(), total_steps=1e4)
        return agent.update(jax.random.key(1), state, trajectory)[1]

    for end, share in beyond.items():
        with_ends = agent.replace(operator=BellmanOperator(Categorical(-end, end, num_atoms=5)))
        found = float(metrics(with_ends)["clipped_fraction"])
        assert found == pytest.approx(share, abs=0.02)  # of 8192 draws
    assert metrics._cache_size() == 1
    assert "clipped_fraction" not in jax.eval_shape(metrics, agent)


@pytest.mark.slow
def test_nested_risk_over_generated_successors_is_the_known_bias():
    """16 coins, the worst 8 averaged: -1 plus twice the expected share of missing tails."""
    agent = td3(
        **SMALL | {"num_updates": 4, "warmup": 512},
        operator=BellmanOperator(Scalar(float("inf")), successor_functional=CVaR(0.5)),
        successors=Generative(num_samples=16),
    )
    result = jax.jit(lambda key: train(key, agent, Gamble(), num_steps=3000, num_records=2))(
        jax.random.key(0)
    )
    tails = np.arange(9)
    missing = np.sum(scipy.stats.binom.pmf(tails, 16, 0.5) * (8 - tails)) / 8
    action = jnp.array([[-0.8], [0.0], [0.8]])
    values = agent.q_values(result.state.agent, jnp.zeros((3, 1)), action)
    known = 0.5 * action[:, 0] + (1.0 + action[:, 0]) * (2.0 * missing - 1.0)
    np.testing.assert_allclose(values, jnp.stack([known, known]), atol=0.12)


# --- targets, by hand ----------------------------------------------------------------------------


@struct.dataclass
class Rows:
    """What may follow one transition."""

    reward: np.ndarray
    discount: np.ndarray
    probs: np.ndarray
    observation: np.ndarray


def outcomes(reward, discount):
    reward, discount = np.array([reward], np.float32), np.array([discount], np.float32)
    probs = np.full_like(reward, 1.0 / reward.size)
    return Rows(reward, discount, probs, np.zeros((1, reward.size, 1), np.float32))


@jax.jit
def law_of(agent, rows, next_params, bonus):
    return jax.tree.map(lambda leaf: leaf[0], agent.targets(rows, next_params, bonus))


def target(head, next_params, rows, bonus=None, **changes):
    """The law of one transition, in NumPy, with its mean and its standard deviation."""
    agent = td3(operator=BellmanOperator(head)).replace(**changes)
    law = jax.device_get(law_of(agent, rows, np.asarray(next_params, np.float32), bonus))
    mean = np.sum(law.probs * law.atoms)
    return law, mean, np.sqrt(np.sum(law.probs * (law.atoms - mean) ** 2))


def test_the_target_is_the_law_of_the_critic_of_smaller_mean():
    """R = 1, D = 1/2, bonus -1: atoms 1 + (z - 1) / 2."""
    one = outcomes([1.0], [0.5])
    two = Quantile(num_atoms=2)
    law, *_ = target(two, [[[0.0, 4.0]], [[1.0, 2.0]]], one, np.array([-1.0], np.float32))
    np.testing.assert_allclose(law.atoms, [1.0, 1.5])
    assert target(Scalar(), [[3.0], [2.0]], one)[1] == 2.0
    raw = np.log(np.expm1([6.0, 1.0]))  # of standard deviations 6 and 1
    _, mean, spread = target(NORMAL, [[[2.0, raw[0]]], [[3.0, raw[1]]]], one)
    np.testing.assert_allclose([mean, spread], [2.0, 3.0], rtol=1e-5)


def test_after_the_end_nothing_is_bootstrapped():
    law, *_ = target(Quantile(num_atoms=2), [[[np.inf, np.nan]]], outcomes([1.0], [0.0]))
    np.testing.assert_array_equal(law.atoms, [1.0, 1.0])


def test_nature_reweights_the_laws_of_generated_successors():
    """The worse half of two equal successors is the first, law and all."""
    operator = BellmanOperator(Quantile(num_atoms=2), successor_functional=CVaR(0.5))
    law, mean, _ = target(
        operator.head,
        [[[0.0, 4.0], [1.0, 3.0]]],
        outcomes([0.0, 10.0], [1.0, 1.0]),
        operator=operator,
        successors=Generative(num_samples=2),
    )
    assert mean == pytest.approx(2.0)
    np.testing.assert_allclose(np.sort(law.atoms[law.probs > 0]), [0.0, 4.0])


def test_truncation_drops_the_greatest_atoms_of_the_pool():
    """3 critics of 5 atoms, share 2/5: the least 9 of 15 count, as in a NumPy sort."""
    head = Quantile(num_atoms=5)
    params = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)
    operator = BellmanOperator(head)
    risky = operator.replace(return_functional=CVaR(3.0 / 15.0))

    @jax.jit
    def read(share, params):
        mixture = TruncatedMixture(share)
        law = mixture.law(head, params)
        scores = mixture.score(operator, params), mixture.score(risky, params)
        return law.mean(), jnp.sum(law.probs), *scores

    least = np.sort(params.ravel())[:9]
    # The actor's scores see the whole pool: the mean of all, and that of the worst fifth.
    scores = (params.mean(), least[:3].mean())
    np.testing.assert_allclose(read(0.4, params), (least.mean(), 1.0, *scores), atol=1e-5)
    np.testing.assert_allclose(read(0.0, params), (params.mean(), 1.0, *scores), atol=1e-5)


def test_the_score_of_two_critics_is_the_smaller_one():
    params = np.array([[0.0, 4.0], [1.0, 2.0]], np.float32)  # means 2 and 1.5, worse halves 0 and 1
    operator = BellmanOperator(Quantile(num_atoms=2))
    risky = operator.replace(return_functional=CVaR(0.5))
    read = jax.jit(lambda params: [sac().pessimism.score(o, params) for o in (operator, risky)])
    np.testing.assert_allclose(read(params), [1.5, 0.0], atol=1e-6)


# --- the refined loss of Gaussian critics --------------------------------------------------------


@jax.jit
def refined_slope(bound, params, atoms, mean_scale):
    loss = VarianceAdjustment(bound=bound).loss
    return jax.grad(loss, argnums=1)(NORMAL, params, Law.of_samples(atoms), mean_scale)


@pytest.mark.parametrize(
    "mean, scale, mean_scale, atoms",
    [
        (0.5, 1.0, 1.0, [0.0, 2.0]),  # nothing clipped
        (0.5, 1.0, 0.1, [-8.0, 2.0]),  # errors of the spread clipped to 0.3, small weight
        (0.0, 0.2, 5.0, [1.0, 3.0]),  # the weight is held at 10
        (0.0, 1.0, 40.0, [70.0, 90.0]),  # linear in the mean, errors of 70 and 90 in the spread
    ],
)
def test_the_refined_gradients_are_the_published_ones(mean, scale, mean_scale, atoms):
    """d/dq = -w clip(E[Z] - q, -50, 50) and d/ds = w (s^2 - E[2 H]) / (s + 0.1), in NumPy."""
    params = np.array([mean, np.log(np.expm1(scale))], np.float32)
    grads = refined_slope(3.0, params, np.array(atoms, np.float32), mean_scale)
    errors = np.clip(np.array(atoms) - mean, -3.0 * mean_scale, 3.0 * mean_scale)
    inner = np.minimum(np.abs(errors), 50.0)
    squares = 2.0 * inner * (np.abs(errors) - 0.5 * inner)
    weight = np.clip(mean_scale**2 / (scale**2 + 0.1), 0.1, 10.0)
    by_mean = -weight * np.clip(np.mean(atoms) - mean, -50.0, 50.0)
    by_scale = weight * (scale**2 - squares.mean()) / (scale + 0.1)
    slope = -np.expm1(-scale)  # d scale / d raw of a softplus
    np.testing.assert_allclose(grads, [by_mean, by_scale * slope], rtol=2e-5)


def test_the_refined_loss_rests_at_mean_and_deviation():
    params = np.array([4.0, np.log(np.expm1(3.0))], np.float32)
    rest = refined_slope(1e3, params, np.array([1.0, 7.0], np.float32), 2.0)
    np.testing.assert_allclose(rest, [0.0, 0.0], atol=1e-5)


def test_running_means_of_spreads_start_at_the_first_batch():
    adjustment = VarianceAdjustment(step_size=0.25)
    move, even = jax.jit(adjustment.move), np.array([0.5, 0.5], np.float32)
    first = move(adjustment.init(2), np.array([[1.0, 3.0], [4.0, 4.0]]), even)
    np.testing.assert_allclose(first, [2.0, 4.0])
    second = move(first, np.array([[6.0, 6.0], [0.0, 0.0]]), even)
    np.testing.assert_allclose(second, [3.0, 3.0])
    empty = move(second, np.zeros((2, 2)), np.zeros(2, np.float32))
    np.testing.assert_array_equal(empty, second)


# --- annealing -----------------------------------------------------------------------------------


@jax.jit
def resting_value(level, targets):
    """Where the slope of the critics' loss in one value for all of `targets[B]` vanishes."""
    agent = td3(parts=(Optimism(level),))
    step = Step(agent, jax.random.key(0), types.SimpleNamespace(parts=((),)), None, (), None)
    weights = jnp.full(targets.shape, 1.0 / targets.size)

    def loss(value):
        params = jnp.broadcast_to(value, (1, targets.size))
        law = Law(jnp.ones((targets.size, 1)), targets[:, None])
        return agent.loss(params, law, weights, (), step)[0]

    def halve(_, bounds):
        middle = 0.5 * (bounds[0] + bounds[1])
        below = jax.grad(loss)(middle) < 0
        return jnp.where(below, middle, bounds[0]), jnp.where(below, bounds[1], middle)

    bounds = jnp.min(targets) - 1.0, jnp.max(targets) + 1.0
    return jax.lax.fori_loop(0, 40, halve, bounds)[0]


def test_the_annealed_value_is_the_expectile_and_tends_to_the_greatest_joint_outcome():
    """q = (0, 1, 4) by action; chance adds nothing, or -3, 0 and 3."""
    by_action, chance = np.array([0.0, 1.0, 4.0], np.float32), np.array([-3.0, 0.0, 3.0])
    sure, random = np.tile(by_action, 3), (by_action[:, None] + chance).ravel().astype(np.float32)
    for level in (0.5, 0.7, 0.9):
        expected = scipy.stats.expectile(random, alpha=level)
        np.testing.assert_allclose(resting_value(level, random), expected, atol=1e-4)
    optimality = by_action.max() + chance.mean()
    np.testing.assert_allclose(resting_value(0.999, sure), optimality, atol=0.02)
    np.testing.assert_allclose(resting_value(0.999, random), by_action.max() + 3.0, atol=0.06)


def test_at_one_half_every_weight_is_one_and_the_default_ends_there():
    errors = np.array([-2.0, 0.0, 3.0], np.float32)
    weigh = jax.jit(lambda part, now: values_at(part, now).weigh((), None, errors))
    total = np.float32(100.0)
    start, end = (Progress(np.int32(step), total) for step in (0, 100))
    level = Linear(0.5, 0.5)
    np.testing.assert_array_equal(weigh(Optimism().replace(level=level), start), np.ones(3))
    np.testing.assert_allclose(weigh(Optimism(), end), np.ones(3), atol=1e-6)
    np.testing.assert_allclose(weigh(Optimism(), start), [0.2, 1.8, 1.8], atol=1e-6)


# --- bad input -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change, message",
    [
        ({"operator": BellmanOperator(improvement=Softmax(1.0))}, "the actor is the improvement"),
        (
            {"operator": BellmanOperator(return_functional=CVaR(0.1))},
            "stores a mean only",
        ),
        ({"operator": BellmanOperator(successor_functional=CVaR(0.1))}, "successors=Generative"),
        ({"variance_adjustment": VarianceAdjustment()}, "use Gaussian"),
        ({"successors": Dual()}, "successors=Generative"),
    ],
)
@pytest.mark.parametrize("kind", [sac, td3])
def test_what_critics_cannot_serve_is_refused(kind, change, message):
    with pytest.raises(ValueError, match=message):
        kind(**change).check(Gamble())
    kind().check(Gamble())


@pytest.mark.parametrize(
    "name",
    [
        "tqc",
        *(
            pytest.param(n, marks=pytest.mark.slow)
            for n in ("dsac_t", "annealed_sac", "annealed_td3")
        ),
    ],
)
def test_presets_can_learn_with_continuous_actions(name):
    agent = preset(name)
    agent.check(Gamble())
    assert isinstance(agent.operator.return_functional, Mean)
