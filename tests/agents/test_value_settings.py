"""Settings of the value agent: steps that last, average reward, channels, shifts, clipped grids.

Linear networks on one-hot observations are tables. What is learned is compared with linear systems
in NumPy or with the planners; problems of one shape share one program.
"""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from tables import FROM_REPLAY, HALF, Line, filled, kernel, rows, started

import jaxrl
from jaxrl import envs, planning
from jaxrl.agents import (
    AverageReward,
    ByFunction,
    BySign,
    ExpectedUtility,
    Generative,
    Munchausen,
    Optimiser,
    QNetworkAgent,
    RewardShift,
    StockConditioned,
    TargetUpdate,
    ValueChannels,
    Whole,
    preset,
)
from jaxrl.agents.action_values import clipped_fraction
from jaxrl.cli import main
from jaxrl.core import Law, Linear, PartFacts, Transition, struct
from jaxrl.envs.control import Pendulum
from jaxrl.envs.wrappers import DiscreteActions, HeldActions, Stock, TimeLimit
from jaxrl.functionals import CVaR
from jaxrl.networks import NetworkSettings
from jaxrl.operators import (
    BellmanOperator,
    Categorical,
    HLGauss,
    HTransform,
    Mapped,
    MinForm,
    Quantile,
    Scalar,
    Softmax,
    TwoHot,
)
from jaxrl.replay import UniformReplay

DISCOUNT, SIZES = 0.8, (4, 2, 2)  # states, actions, outcomes
KEY = jax.random.key(0)


def table_agent(**changes):
    settings = {
        "operator": BellmanOperator(Scalar(float("inf"))),
        "network": NetworkSettings(hidden_sizes=(), initialiser="lecun"),
        "optimiser": Optimiser(learning_rate=Linear(0.1, 0.0), max_grad_norm=100.0),
        "replay": UniformReplay(capacity=32_768),  # the mean of few draws is not their mean
        "target": TargetUpdate(period=1, step_size=0.05),
        "discount": DISCOUNT,
        "exploration": 1.0,
        "num_envs": 32,
        "rollout_length": 4,
        "num_updates": 8,
        "batch_size": 64,
        "warmup": 256,
    }
    return QNetworkAgent(**settings | changes)


def learn(agents, mdps, num_steps=20_000, restarts=5.0):
    """`[lane, S, A]` and the last metrics of a batch of agents, each on its MDP."""

    @jax.jit
    def run(agents, mdps):
        def lane(agent, mdp):
            env = envs.TabularEnv(mdp, restarts)
            result = jaxrl.train(KEY, agent, env, num_steps=num_steps, num_records=4)
            state = result.state.agent
            q_values = agent.scores(state.model.apply(state.params, np.arange(mdp.num_states)))
            return q_values, jax.tree.map(lambda leaf: leaf[-1], result.metrics)

        return jax.vmap(lane)(agents, mdps)

    return jax.device_get(run(agents, jaxrl.stack_mdps(mdps)))


def stacked(agents):
    return jax.tree.map(lambda *leaves: np.asarray(leaves, np.float32), *agents)


def random_numbers(seed):
    rng = np.random.default_rng(seed)
    prob = rng.dirichlet(np.ones(SIZES[2]), SIZES[:2])
    return rng, prob, rng.integers(SIZES[0], size=SIZES), rng.normal(size=SIZES)


EVEN = np.full(SIZES[0], 1.0 / SIZES[0])


def best_values(prob, next_state, reward, rate):
    """`q[S, A]` of the best policy: all policies tried, one linear system each (NumPy).

    `rate[S, A, K]` is what one outcome leaves of the value that follows.
    """
    num_states, num_actions, _ = prob.shape
    best = np.full(num_states, -np.inf)
    paid = np.sum(prob * reward, axis=-1)
    moves = np.zeros((num_states, num_actions, num_states))
    for s, a, k in np.ndindex(prob.shape):
        moves[s, a, next_state[s, a, k]] += prob[s, a, k] * rate[s, a, k]
    rows = np.arange(num_states)
    for policy in itertools.product(range(num_actions), repeat=num_states):
        matrix = np.eye(num_states) - moves[rows, policy]
        best = np.maximum(best, np.linalg.solve(matrix, paid[rows, policy]))
    return paid + moves @ best


# --- steps that last, and shifted rewards: one program -------------------------------------------

SHIFT = 1.0


def lasting(seed=1):
    """A semi-Markov MDP, and the best values by linear systems."""
    rng, prob, next_state, reward = random_numbers(seed)
    duration = rng.integers(1, 6, size=SIZES)
    mdp = envs.semi_markov_mdp(prob, next_state, reward, duration, DISCOUNT, initial=EVEN)
    return mdp, best_values(prob, next_state, reward, DISCOUNT**duration)


def ending(seed=9, shift=0.0):
    """An MDP with ends, and the best values by linear systems."""
    rng, prob, next_state, reward = random_numbers(seed)
    ends = rng.random(SIZES) < 0.4
    reward = reward + shift
    mdp = jaxrl.outcome_mdp(prob, next_state, reward, DISCOUNT, initial=EVEN, terminal=ends)
    return mdp, best_values(prob, next_state, reward, DISCOUNT * (1.0 - ends))


ENDS = {
    "on": 0.5,
    "end": 0.0,
    "two units": 0.25,
    "perhaps": 0.2,
}  # what each leaves of the value that follows
SHIFTS = (0.0, 1.0, -1.0)
# Stored values, the shift included; the taken pair is (0, 0), and state 1 follows.
ONLINE = np.array([[2.0, 0.0], [1.0, 3.0], [0.0, 9.0]])
LAGGED = np.array([[7.0, 5.0], [4.0, 10.0], [6.0, -2.0]])


@functools.cache
def one_shifted_step():
    """One gradient step on the same transition throughout, `[shift, end]`; and the scores."""
    agent = preset("dqn").replace(**FROM_REPLAY | {"replay": UniformReplay(8, store_next=True)})
    state = started(agent.replace(parts=(RewardShift(),)), Line())
    state = state.replace(
        params=filled(state.params, advantage=ONLINE),
        target_params=filled(state.target_params, advantage=LAGGED),
    )
    data = rows((0, 1.0, 1, ""), (0, 1.0, 1, ""))

    def step(shift, discount):
        shifted = agent.replace(parts=(RewardShift(shift),))
        whole = data.replace(
            discount=jnp.broadcast_to(discount, (2, 2)),
            terminated=jnp.broadcast_to(1.0 - discount / HALF, (2, 2)),
        )
        after, metrics = shifted.update(KEY, jax.tree.map(jnp.asarray, state), whole)
        return after.params, metrics, shifted.scores(jnp.asarray(ONLINE))

    lanes = jax.vmap(jax.vmap(step, in_axes=(None, 0)), in_axes=(0, None))
    found = jax.jit(lanes)(np.array(SHIFTS, np.float32), np.array([*ENDS.values()], np.float32))
    return jax.device_get(found)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("shift", SHIFTS)
def test_a_shifted_agent_stores_all_values_higher_by_one_constant(shift, end):
    """K = shift / (1 - 1/2): the target r + d 10 + (1 - d) K is K above that of values 10 - K."""
    params, metrics, scores = jax.tree.map(
        lambda leaf: leaf[SHIFTS.index(shift), list(ENDS).index(end)], one_shifted_step()
    )
    discount, constant = ENDS[end], 2.0 * shift
    target = constant + 1.0 + discount * (10.0 - constant)
    expected = ONLINE.copy()
    expected[0, 0] = target
    np.testing.assert_allclose(kernel(params, "advantage"), expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], 0.5 * (target - 2.0) ** 2, rtol=1e-5)
    np.testing.assert_allclose(metrics["q_value"], 2.0 - constant, rtol=1e-5)
    np.testing.assert_allclose(scores, ONLINE - constant, rtol=1e-5)


@functools.cache
def shifted_lanes():
    problems = [lasting(), ending(), ending(), ending(), ending(shift=SHIFT)]
    shifts = (0.0, 0.0, SHIFT, -SHIFT, 0.0)
    agents = stacked([table_agent(parts=(RewardShift(shift),)) for shift in shifts])
    found, metrics = learn(agents, [mdp for mdp, _ in problems])
    return found, [exact for _, exact in problems], metrics


@pytest.mark.slow
def test_steps_that_last_reach_the_semi_markov_optimum():
    found, exact, _ = shifted_lanes()
    np.testing.assert_allclose(found[0], exact[0], atol=0.08)
    # A learner blind to durations would find these instead.
    _, prob, next_state, reward = random_numbers(1)
    blind = best_values(prob, next_state, reward, np.full(SIZES, DISCOUNT))
    assert np.max(np.abs(blind - exact[0])) > 0.5


@pytest.mark.slow
@pytest.mark.parametrize("lane", [1, 2, 3])
def test_a_corrected_shift_leaves_values_and_policy(lane):
    found, exact, _ = shifted_lanes()
    np.testing.assert_allclose(found[lane], exact[lane], atol=0.08)
    np.testing.assert_array_equal(np.argmax(found[lane], 1), np.argmax(exact[1], 1))


@pytest.mark.slow
def test_without_correction_the_policy_is_another():
    """Rewards raised in the environment itself: the optimum of that MDP, not of the one asked."""
    found, exact, _ = shifted_lanes()
    np.testing.assert_allclose(found[4], exact[4], atol=0.08)
    assert np.any(np.argmax(found[4], 1) != np.argmax(exact[1], 1))


@pytest.mark.slow
def test_reported_values_are_without_the_shift():
    """Lanes 1 to 3 differ in the shift only, which is worth +-5."""
    _, _, metrics = shifted_lanes()
    np.testing.assert_allclose(metrics["q_value"][2:4], metrics["q_value"][1], atol=0.01)


def test_generative_outcomes_keep_their_durations():
    mdp, _ = lasting()
    env, source = envs.TabularEnv(mdp), Generative(64)
    operator = BellmanOperator(successor_functional=CVaR(0.3))
    source.check(operator, env)
    index, none = 2, np.zeros(1)
    data = Transition(
        observation=np.array([index]),
        action=np.ones(1, np.int32),
        reward=none,
        discount=none,
        next_observation=np.array([index]),
        terminated=none > 0,
        truncated=none > 0,
        extras={},
        env_state=walk_state(np.array([index]), np.zeros(1, np.int32)),
    )

    @jax.jit
    def step_again(env, data):
        state = source.init(KEY, env, operator, NetworkSettings())
        return source.outcomes(KEY, state, data, DISCOUNT)

    outcomes = step_again(env, data)
    known = DISCOUNT * (1.0 - np.asarray(mdp.terminal[index, 1]))
    pairs = set(zip(*map(np.ravel, (outcomes.observation, outcomes.discount)), strict=True))
    expected = set(zip(np.asarray(mdp.next_state[index, 1]), known, strict=True))
    assert {(int(s), round(float(d), 5)) for s, d in pairs} == {
        (int(s), round(float(d), 5)) for s, d in expected
    }


def test_windows_of_steps_that_last_multiply_their_discounts():
    """Durations 2, 3, 1: reward 1 + g^2 10 + g^5 100, and g^6 of what follows."""
    durations = np.array([2.0, 3.0, 1.0, 1.0, 1.0])[:, None]
    times, none = np.arange(5.0)[:, None], np.zeros((5, 1))
    trajectory = Transition(
        observation=times,
        action=none,
        reward=np.array([1.0, 10.0, 100.0, 0.0, 0.0])[:, None],
        discount=DISCOUNT**durations,
        next_observation=times + 1,
        terminated=1.0 - DISCOUNT ** (durations - 1),
        truncated=none > 0,
        extras={},
    )

    @jax.jit
    def draw(trajectory):
        replay = UniformReplay(capacity=8, num_step=3)
        state = replay.init(jax.tree.map(lambda leaf: leaf[0], trajectory))
        return replay.sample(KEY, replay.add(state, trajectory), 32).transition

    drawn = draw(trajectory)
    first = int(np.argmin(drawn.observation))
    assert float(drawn.observation[first]) == 0.0
    g = DISCOUNT
    assert float(drawn.reward[first]) == pytest.approx(1 + 10 * g**2 + 100 * g**5, rel=1e-5)
    assert float(drawn.discount[first]) == pytest.approx(g**6, rel=1e-5)


def walk_state(index, time):
    """Of a table: where it stands, and since when."""
    state, _ = jax.eval_shape(envs.TabularEnv(walk()).reset, KEY)
    return state.replace(index=index, time=time)


def walk(length=6, stay=False):
    """States in a row, reward s + 1 in state s; the last step ends. Action 1 moves, 0 may stay."""
    states = np.arange(length)
    after = np.stack([states if stay else states + 1, states + 1], axis=1)[..., None]
    reward = np.broadcast_to(states[:, None, None] + 1.0, after.shape)
    ends = after >= length
    after = np.minimum(after, length - 1)
    return jaxrl.outcome_mdp(np.ones(after.shape), after, reward, DISCOUNT, terminal=ends)


HELD = HeldActions(envs.TabularEnv(walk()), durations=(1, 3, 4), discount=DISCOUNT)


@functools.cache
def held():
    """Steps from states 0 and 3 by each duration of action 1, `[start, duration]`."""

    def step(start, index):
        state = walk_state(start, jnp.int32(0))
        after, step = HELD.step(KEY, state, 3 + index)
        return after.index, step

    starts, indices = np.meshgrid(
        np.array([0, 3], np.int32), np.arange(3, dtype=np.int32), indexing="ij"
    )
    return jax.device_get(jax.jit(jax.vmap(jax.vmap(step)))(starts, indices))


@pytest.mark.parametrize("start", [0, 3])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_hold_is_its_unit_steps(start, index):
    """From state s for tau steps or to the end: sum of g^j (s + j + 1)."""
    after, step = jax.tree.map(lambda leaf: leaf[start // 3, index], held())
    duration = min(HELD.durations[index], 6 - start)
    paid = sum(DISCOUNT**j * (start + j + 1) for j in range(duration))
    assert float(step.reward) == pytest.approx(paid, rel=1e-6)
    assert float(step.info["duration"]) == duration
    ended = start + duration == 6
    rate = DISCOUNT * (1.0 - float(step.terminated))
    assert rate == pytest.approx(0.0 if ended else DISCOUNT**duration, rel=1e-6)
    assert (float(step.terminated) >= 1) == ended and not bool(step.truncated)
    assert ended or int(after) == start + duration


def test_a_clock_cuts_a_hold_where_it_is():
    """After 2 of 4 unit steps: gamma^2 of what follows, which is bootstrapped."""
    env = HELD.replace(env=TimeLimit(envs.TabularEnv(walk()), 2))
    step = jax.jit(lambda env: env.step(KEY, env.reset(KEY)[0], jnp.int32(5))[1])(env)
    assert bool(step.truncated) and float(step.info["duration"]) == 2
    assert DISCOUNT * (1 - float(step.terminated)) == pytest.approx(DISCOUNT**2, rel=1e-6)
    assert float(step.reward) == pytest.approx(1 + 2 * DISCOUNT)


def test_holds_of_random_length_have_the_geometric_law():
    """P(duration > j) = (1 - p)^j below the longest, here of 3."""
    env = HELD.replace(durations=(3,), stop_probability=0.3)

    @jax.jit
    def run(key):
        state, _ = env.reset(key)
        step = lambda key: env.step(key, state, jnp.int32(1))[1].info["duration"]  # noqa: E731
        return jax.vmap(step)(jax.random.split(key, 4000))

    counts = np.bincount(np.asarray(run(KEY)).astype(int), minlength=4)
    expected = 4000 * np.array([0.3, 0.21, 0.49])
    assert scipy.stats.chisquare(counts[1:], expected).pvalue > 1e-3


def test_a_discount_that_is_not_the_wrapper_s_is_refused():
    with pytest.raises(ValueError, match=r"0\.9.*HeldActions by 0\.8"):
        table_agent(discount=0.9).check(TimeLimit(HELD, 10))
    table_agent().check(TimeLimit(HELD, 10))
    for agent in (jaxrl.ppo(), jaxrl.pqn()):
        with pytest.raises(ValueError, match=r"0\.99.*HeldActions by 0\.8"):
            agent.check(TimeLimit(HELD, 10))
    for agent in (jaxrl.sac(), jaxrl.td3()):
        with pytest.raises(ValueError, match=r"0\.99.*HeldActions by 0\.8"):
            agent.check(HeldActions(Pendulum(), durations=(2,), discount=DISCOUNT))
    with pytest.raises(ValueError, match="durations"):
        HeldActions(envs.TabularEnv(walk()), durations=(0, 2))
    with pytest.raises(ValueError, match="at least 1 unit step"):
        envs.semi_markov_mdp([[[1.0]]], [[[0]]], [[[0.0]]], 0.5)
    stock = table_agent(operator=BellmanOperator(Quantile(2)), parts=(StockConditioned(),))
    with pytest.raises(ValueError, match="StockConditioned counts every step as one"):
        stock.check(Stock(HELD, discount=DISCOUNT))


@pytest.mark.slow
def test_an_agent_learns_how_long_to_hold():
    """Values of (action, duration) against the unit steps written out by hand."""
    mdp = walk(stay=True)
    env = HeldActions(envs.TabularEnv(mdp, 40.0), durations=(1, 3), discount=DISCOUNT)
    run = jaxrl.train(KEY, table_agent(), env, num_steps=60_000, num_records=2)
    state = run.state.agent
    found = state.model.apply(state.params, jnp.arange(6))
    value = np.zeros(7)
    exact = np.zeros((6, 4))
    for _ in range(500):
        for s, (a, i) in itertools.product(range(6), itertools.product(range(2), range(2))):
            here, total, rate = s, 0.0, 1.0
            for _ in range((1, 3)[i]):
                if here < 6:
                    total += rate * (here + 1)
                    rate *= DISCOUNT
                    here = here + 1 if a else here
            exact[s, 2 * a + i] = total + rate * value[here]
        value[:6] = exact.max(axis=1)
    np.testing.assert_allclose(found, exact, atol=0.01)


# --- average reward ------------------------------------------------------------------------------


def queue():
    return envs.access_control_queue(2, 0.3, (1.0, 3.0))


def episodic_chain():
    """As many states as `queue`; episodes end, and the next begins at random."""
    rng = np.random.default_rng(3)
    size = queue().num_states
    table, reward = rng.dirichlet(np.ones(size), (size, 2)), rng.normal(size=(size, 2, size)) + 1.0
    ends = rng.random((size, 2, size)) < 0.3
    initial = rng.dirichlet(np.ones(size))
    return jaxrl.tabular_mdp(table, reward, DISCOUNT, initial=initial, terminal=ends)


def restarting(mdp):
    """`[S, A, S]` and expected rewards `[S, A]`, an end leading to the law of first states."""
    prob, ends = np.asarray(mdp.prob, float), np.asarray(mdp.terminal, float)
    again = np.sum(prob * ends, axis=-1)[..., None] * np.asarray(mdp.initial)
    return prob * (1 - ends) + again, np.sum(prob * np.asarray(mdp.reward), axis=-1)


def gain_and_bias(table, paid):
    """Of a chain: g + h = r + P h with h(0) = 0, by one linear system (NumPy)."""
    size = len(paid)
    matrix = np.eye(size) - table
    matrix[:, 0] = 1.0  # the gain takes the place of h(0)
    gain, *bias = np.linalg.solve(matrix, paid)
    return gain, np.array([0.0, *bias])


def best_average(mdp):
    """The best gain of all policies and its q-values, and the gain of uniform actions."""
    table, paid = restarting(mdp)
    rows, best = np.arange(mdp.num_states), (-np.inf, None)
    for policy in itertools.product(range(2), repeat=mdp.num_states):
        best = max(best, gain_and_bias(table[rows, policy], paid[rows, policy]), key=lambda x: x[0])
    return best[0], paid - best[0] + table @ best[1], gain_and_bias(table.mean(1), paid.mean(1))[0]


AVERAGED = table_agent(parts=(AverageReward(Linear(0.05, 0.0)),), discount=1.0)


@functools.cache
def averaged():
    mdps = [queue(), episodic_chain()]
    return learn(stacked([AVERAGED, AVERAGED]), mdps, 30_000, restarts=20.0), mdps


@pytest.mark.slow
@pytest.mark.parametrize("lane", [0, 1], ids=["queue", "episodes"])
def test_the_average_reward_is_the_best_gain(lane):
    """Though the acting policy is the uniform one, whose own gain is another."""
    (found, metrics), mdps = averaged()
    gain = float(metrics["average_reward"][lane])
    best, q_values, acting = best_average(mdps[lane])
    assert gain == pytest.approx(best, abs=0.04) and gain > acting + 0.1
    ours, exact = (q - np.mean(q) for q in (np.asarray(found[lane]), q_values))
    np.testing.assert_allclose(ours, exact, atol=0.2)


@pytest.mark.slow
def test_a_risk_averse_gain_from_stepping_again():
    """CVaR over successors, where an end is one outcome of a known worth."""
    mdp, functional = episodic_chain(), CVaR(0.5)
    operator = BellmanOperator(Scalar(float("inf")), successor_functional=functional)
    agent = AVERAGED.replace(operator=operator, successors=Generative(64), batch_size=32)
    _, metrics = learn(stacked([agent]), [mdp], restarts=20.0)
    operator = BellmanOperator(successor_functional=functional)
    known = planning.relative_value_iteration(mdp, operator, tolerance=1e-3)
    assert float(metrics["average_reward"][0]) == pytest.approx(float(known.gain), abs=0.03)
    assert float(known.gain) < best_average(mdp)[0] - 0.3


AVERAGE = table_agent(parts=(AverageReward(),), discount=1.0)
CHANNELS = table_agent(parts=(ValueChannels(),))
SHIFTED = table_agent(parts=(RewardShift(1.0),))


@struct.dataclass
class Nothing:
    """A part without a method."""

    facts = PartFacts()


ZERO = "both decide where values have their zero: leave one out"
REFUSED = {
    "average-discount": (AVERAGE, {"discount": 0.9}, "set discount=1"),
    "average-windows": (AVERAGE, {"replay": UniformReplay(num_step=2)}, "num_step=1"),
    "average-law": (AVERAGE, {"operator": BellmanOperator(Quantile(3))}, "stores a law"),
    "average-channels": (AVERAGE, {"parts": (*AVERAGE.parts, ValueChannels())}, ZERO),
    "average-shift": (AVERAGE, {"parts": (RewardShift(1.0), *AVERAGE.parts)}, ZERO),
    "average-mapped": (AVERAGE, {"operator": BellmanOperator(composition=Mapped())}, "sums"),
    "average-utility": (
        AVERAGE,
        {"operator": BellmanOperator(successor_functional=ExpectedUtility())},
        "translation equivariant",
    ),
    "shift-stock": (SHIFTED, {"parts": (*SHIFTED.parts, StockConditioned())}, ZERO),
    "channels-munchausen": (
        CHANNELS,
        {"parts": (ValueChannels(), Munchausen())},
        "ValueChannels and Munchausen both decide a bonus of the policy: leave one out",
    ),
    "twice": (CHANNELS, {"parts": (Munchausen(), Munchausen())}, "Munchausen and Munchausen both"),
    "no tuple": (CHANNELS, {"parts": Munchausen()}, "give a tuple of parts"),
    "no part": (CHANNELS, {"parts": (Nothing(),)}, "each with a method"),
    "channels-soft": (CHANNELS, {"operator": BellmanOperator(improvement=Softmax(0.1))}, "Greedy"),
    "channels-law": (CHANNELS, {"operator": BellmanOperator(Quantile(3))}, "Scalar"),
    "channels-windows": (CHANNELS, {"replay": UniformReplay(num_step=2)}, "num_step=1"),
    "channels-mappings": (CHANNELS, {"parts": (ValueChannels(Whole()),)}, "2 mappings for 1"),
    "channels-split": (
        CHANNELS,
        {"parts": (ValueChannels(ByFunction(BySign(), (1.0, 1.0))),)},
        "does not split",
    ),
    "shift-undiscounted": (SHIFTED, {"discount": 1.0}, "discount below 1"),
    "shift-law": (
        SHIFTED,
        {"operator": BellmanOperator(Quantile(3), composition=MinForm())},
        "sums of rewards",
    ),
    "shift-utility": (
        SHIFTED,
        {"operator": BellmanOperator(Quantile(3), return_functional=ExpectedUtility())},
        "does not move",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_makes_no_sense_is_refused(name):
    agent, changes, said = REFUSED[name]
    env = envs.TabularEnv(walk())
    agent.check(env)
    with pytest.raises(ValueError, match=said):
        agent.replace(**changes).check(env)


# --- channels ------------------------------------------------------------------------------------

CURVE = HTransform(1e-2)


def test_channels_choose_one_action_for_all_and_average_returns():
    """By sum of channels the second action (5 - 1) beats the first (6 - 3): U = r + d (5, 1)."""
    channels = ValueChannels(BySign(), (CURVE, CURVE), value_rate=0.5)

    def curve(x):  # of not negative numbers
        return np.sqrt(x + 1.0) - 1.0 + 1e-2 * x

    returns = np.array([[6.0, 3.0], [5.0, 1.0]])
    step = jaxrl.Lookahead(
        reward=np.array([2.0, -4.0], np.float32),
        discount=np.array([0.5, 0.0], np.float32),
        probs=np.array([0.25, 0.75], np.float32),
        next_params=np.stack([curve(returns), np.full((2, 2), np.nan)]).astype(np.float32),
    )

    @jax.jit
    def read(step, stored):
        target = channels.backup(BellmanOperator(), step)
        return target, jax.grad(channels.loss)(stored, target)

    # Half of the way in ordinary space, then mapped; the slope is the rest in mapped space.
    held = np.array([1.0, 2.0])
    target, slope = read(step, curve(held).astype(np.float32))
    known = np.array([0.25 * (2 + 2.5), 0.25 * 0.5 + 0.75 * 4])
    np.testing.assert_allclose(target, known, rtol=1e-4)
    np.testing.assert_allclose(slope, curve(held) - curve(held + 0.5 * (known - held)), rtol=1e-3)


def noisy(noise, seed=2):
    """Rewards +-noise around those of one deterministic MDP."""
    rng = np.random.default_rng(seed)
    next_state = np.repeat(rng.integers(SIZES[0], size=(*SIZES[:2], 1)), 2, axis=-1)
    reward = rng.normal(size=(*SIZES[:2], 1)) + noise * np.array([1.0, -1.0])
    return jaxrl.outcome_mdp(np.full(SIZES, 0.5), next_state, reward, DISCOUNT, initial=EVEN)


def channelled(split, mappings, noises_and_rates):
    """How far from the mean returns each learner ends, `[lane, S, A]`."""
    agents = [
        table_agent(parts=(ValueChannels(split, mappings, value_rate=rate),))
        for _, rate in noises_and_rates
    ]
    found, _ = learn(stacked(agents), [noisy(noise) for noise, _ in noises_and_rates], 30_000)
    exact = planning.value_iteration(noisy(0.0), tolerance=1e-4).q_values
    return np.asarray(found - exact)


@pytest.mark.slow
def test_channels_by_sign_reach_the_planner():
    """Where nothing is random, at every rate; where rewards are, with a small one."""
    lanes = ((0.0, 0.05), (0.0, 1.0), (2.0, 0.05))
    off = np.abs(channelled(BySign(), (CURVE, CURVE), lanes)).max(axis=(1, 2))
    assert off[0] < 0.05 and off[1] < 0.05 and off[2] < 0.4


@pytest.mark.slow
def test_a_small_value_rate_averages_rewards_and_not_their_mappings():
    """With one channel: a rate of 1 ends where the composition `Mapped` does, 0.02 does not."""
    off = channelled(Whole(), (CURVE,), ((0.0, 0.1), (3.0, 1.0), (3.0, 0.02)))
    operator = BellmanOperator(composition=Mapped(CURVE))
    solve = jax.vmap(lambda mdp: planning.value_iteration(mdp, operator, tolerance=1e-3).q_values)
    plain, mapped = CURVE.inverse(solve(jaxrl.stack_mdps([noisy(0.0), noisy(3.0)])))
    np.testing.assert_allclose(off[0], 0.0, atol=0.05)
    np.testing.assert_allclose(off[1], mapped - plain, atol=0.5)
    assert np.abs(mapped - plain).max() > 2.5
    assert np.abs(off[2]).max() < 0.25 * np.abs(mapped - plain).max()


# --- grids that are too narrow -------------------------------------------------------------------

TARGET = Law(
    np.array([[0.2, 0.5, 0.3], [1.0, 0.0, 0.0]], np.float32),
    np.array([[-2.0, 0.0, 5.0], [0.5] * 3], np.float32),
)
CLIPPED = {
    "law": (Categorical(-1.0, 1.0, 5), [1.0, 1.0], 0.25),  # 1/2 of the first, none of the second
    "mean": (TwoHot(-1.0, 1.0, 5), [1.0, 1.0], 0.5),  # its mean is 1.1
    "gauss": (HLGauss(-1.0, 2.0, 5), [1.0, 1.0], 0.0),
    "weights": (Categorical(-1.0, 1.0, 5), [0.0, 1.0], 0.0),
    "rounding": (Categorical(-2.0001, 4.9999, 5), [1.0, 1.0], 0.0),
}


clipped = jax.jit(clipped_fraction)


@pytest.mark.parametrize("name", CLIPPED)
def test_the_clipped_fraction_counts_what_a_grid_cannot_hold(name):
    head, weights, expected = CLIPPED[name]
    found = float(clipped(head, TARGET, np.array(weights, np.float32)))
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_a_run_that_clips_ends_with_a_warning(tmp_path, capsys):
    words = ["train", "--agent", "c51", "--env", "WindyCliff", "--head", "categorical:-3,0,11"]
    words += ["--num-seeds", "1", "--num-steps", "4000", "--run-dir", str(tmp_path / "run")]
    words += ["--set", "num_envs=4", "hidden_sizes=8", "warmup=64", "batch_size=32"]
    assert main(words) == 0
    assert "of the targets lay beyond the ends of Categorical" in capsys.readouterr().err


# --- the presets ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.optimised
def test_a_deep_network_learns_the_gain_of_the_queue():
    """The estimate, and what the greedy policy itself earns for ever."""
    agent, mdp = preset("differential_dqn"), envs.access_control_queue()
    env = envs.TabularEnv(mdp)
    run = jax.jit(lambda key: jaxrl.train(key, agent, env, num_steps=50_000, num_records=10))
    result = run(KEY)
    best = float(planning.relative_value_iteration(mdp, tolerance=1e-4).gain)
    assert float(result.metrics["average_reward"][-1]) == pytest.approx(best, abs=0.1)
    state = result.state.agent
    q_values = agent.scores(state.model.apply(state.params, jnp.arange(mdp.num_states)))
    policy, rows = np.argmax(q_values, axis=1), np.arange(mdp.num_states)
    table, paid = restarting(mdp)
    assert gain_and_bias(table[rows, policy], paid[rows, policy])[0] > best - 0.1


def test_values_and_laws_are_read_from_the_network():
    """Of the operator: a greedy value, and laws whose scores are the action values."""
    operator = BellmanOperator(Quantile(num_atoms=4), return_functional=CVaR(0.5))
    agent = QNetworkAgent(operator=operator, parts=(RewardShift(-1.0),), batch_size=4)
    state = agent.init(jax.random.key(0), DiscreteActions(Pendulum(), 5))
    seen = jax.random.normal(jax.random.key(1), (2, 3))
    scores, laws = agent.q_values(state, seen), agent.return_laws(state, seen)
    assert laws.atoms.shape == (2, 5, 4)
    np.testing.assert_allclose(
        jax.vmap(jax.vmap(CVaR(0.5)))(laws.probs, laws.atoms), scores, rtol=1e-5
    )
    np.testing.assert_allclose(agent.values(state, seen), jnp.max(scores, -1), rtol=1e-6)
