"""Every named MDP keeps the contracts, and has the optimum that its book or a hand gives it."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gymnasium.envs.toy_text.frozen_lake import MAPS
from scipy.optimize import linprog

from jaxrl import envs
from jaxrl.envs import TabularEnv, make

LAKE_8X8 = MAPS["8x8"]
# name -> (builder, is_dense, is_endless)
NAMED = {
    "riverswim": (lambda: envs.riverswim(4), False, True),
    "deep sea": (lambda: envs.deep_sea(3), False, False),
    "garnet": (lambda: envs.garnet(jax.random.key(0), 5, 2, 3), False, True),
    "chain": (envs.chain, False, True),
    "cycle": (envs.cycle, False, True),
    "lake 4x4": (envs.frozen_lake, False, False),
    "lake without slips": (lambda: envs.frozen_lake(LAKE_8X8, slip_prob=0.0), False, False),
    "cliff": (envs.cliff_walking, False, False),
    "slippery cliff": (lambda: envs.cliff_walking(slip_prob=0.5), False, False),
    "windy grid": (lambda: envs.windy_gridworld(2 / 3, kings_moves=True), False, False),
    "windy walk": (envs.windy_walk, False, False),
    "gambler": (lambda: envs.gambler(10), False, False),
    "option": (lambda: envs.american_option(num_steps=3), False, False),
    "inventory": (envs.inventory, False, True),
    "machine": (envs.machine_replacement, True, True),
    "queue": (lambda: envs.access_control_queue(3), True, True),
}


def optimum(mdp, num_sweeps=2000):
    """Optimal values `[S]` and greedy actions by plain value iteration in numpy."""
    parts = (mdp.prob, mdp.reward, mdp.terminal)
    prob, reward, terminal = (np.asarray(part, np.float64) for part in parts)
    next_state, legal = np.asarray(mdp.next_state), np.asarray(mdp.legal)
    value, q_values = np.zeros(mdp.num_states), np.zeros(legal.shape)
    for _ in range(num_sweeps):
        worth = reward + float(mdp.discount) * (1 - terminal) * value[next_state]
        q_values = np.where(legal, np.sum(prob * worth, axis=-1), -np.inf)
        if np.array_equal(value, q_values.max(axis=1)):
            break
        value = q_values.max(axis=1)
    return value, q_values.argmax(axis=1)


dense = jax.jit(lambda mdp: mdp.dense())


def start_value(mdp):
    return float(np.asarray(mdp.initial) @ optimum(mdp)[0])


@pytest.fixture(autouse=True)
def _double():
    with jax.enable_x64(True):
        yield


@pytest.mark.parametrize("name", NAMED)
def test_tables_are_laws_in_range(name):
    build, is_dense, is_endless = NAMED[name]
    mdp = jax.device_get(build())
    prob, terminal = mdp.prob, mdp.terminal
    assert prob.dtype == np.float64 and mdp.next_state.dtype == jnp.int32
    assert np.all(prob >= 0) and np.all((terminal >= 0) & (terminal <= 1))
    np.testing.assert_allclose(prob.sum(axis=-1), 1.0, rtol=1e-12)
    np.testing.assert_allclose(np.asarray(mdp.initial).sum(), 1.0, rtol=1e-12)
    assert np.all((mdp.next_state >= 0) & (mdp.next_state < mdp.num_states))
    assert np.all(np.isfinite(mdp.reward)) and np.all(np.any(mdp.legal, axis=1))
    assert (mdp.is_dense, mdp.is_endless) == (is_dense, is_endless)
    dense = mdp.next_state.shape[-1] == mdp.num_states
    assert is_dense == (dense and bool(np.all(mdp.next_state == np.arange(mdp.num_states))))
    assert is_endless == (not terminal.any())


def padded(mdp):
    """The same MDP in arrays of one size for all, so that one program serves every row."""

    def pad(leaf):
        if leaf.ndim == 0:
            return leaf
        room = zip((70, 8, 16), leaf.shape, strict=False)
        return np.pad(leaf, [(0, size - have) for size, have in room])

    long = mdp.replace(reward=mdp.outcome_rewards, is_dense=False, is_endless=False)
    long = jax.device_get(long)
    return jax.tree.map(pad, long)


@jax.jit
def sampled(env, key, sizes):
    """64 steps from random pairs: the first state, the pairs, and what came."""
    reset_key, state_key, action_key, step_key = jax.random.split(key, 4)
    index = jax.random.randint(state_key, (64,), 0, sizes[0], jnp.int32)
    action = jax.random.randint(action_key, (64,), 0, sizes[1], jnp.int32)
    first, _ = env.reset(reset_key)

    def one(key, index, action):
        return env.step(key, first.replace(index=index), action)[1]

    steps = jax.vmap(one)(jax.random.split(step_key, 64), index, action)
    return first.index, index, action, steps


@pytest.mark.parametrize("name", NAMED)
def test_steps_are_outcomes_of_the_table(name):
    mdp = NAMED[name][0]()
    drawn = sampled(TabularEnv(padded(mdp)), jax.random.key(1), np.array(mdp.legal.shape))
    first, index, action, steps = jax.device_get(drawn)
    table = jax.device_get(mdp.replace(reward=mdp.outcome_rewards))
    assert table.initial[first] > 0
    matches = (
        (table.prob[index, action] > 0)
        & (table.next_state[index, action] == steps.observation[:, None])
        & (table.reward[index, action].astype(np.float32) == steps.reward[:, None])
        & (table.terminal[index, action] == steps.terminated[:, None])
    )
    assert np.all(np.any(matches, axis=-1))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: envs.chain(1), "at least 2"),
        (lambda: envs.chain(slip_prob=1.5), "slip_prob=1.5"),
        (lambda: envs.cycle(0), "at least 1"),
        (lambda: envs.frozen_lake(["SF", "G"]), "equal rows"),
        (lambda: envs.frozen_lake(["SX", "FG"]), "letters"),
        (lambda: envs.frozen_lake(["FF", "FG"]), "no start"),
        (lambda: envs.frozen_lake(slip_prob=-0.1), "slip_prob=-0.1"),
        (lambda: envs.cliff_walking(num_columns=2), "3 columns"),
        (lambda: envs.windy_gridworld(gust_prob=2.0), "gust_prob=2.0"),
        (lambda: envs.windy_walk(num_rows=1), "2 rows"),
        (lambda: envs.windy_walk(wind=float("nan")), "wind=nan"),
        (lambda: envs.gambler(1), "goal=1"),
        (lambda: envs.gambler(head_prob=1.1), "head_prob=1.1"),
        (lambda: envs.american_option(num_steps=0), "num_steps=0"),
        (lambda: envs.american_option(envs.OptionTerms(volatility=-0.2)), "volatility"),
        (lambda: envs.american_option(envs.OptionTerms(rate=0.9), 2), "raise num_steps"),
        (lambda: envs.inventory(0), "capacity=0"),
        (lambda: envs.inventory(demand=[0.5, 0.6]), "demand must be a law"),
        (lambda: envs.machine_replacement(1), "at least 2"),
        (lambda: envs.access_control_queue(free_prob=-1.0), "free_prob=-1.0"),
        (lambda: envs.access_control_queue(priorities=()), "one priority"),
    ],
)
def test_bad_numbers_give_one_clear_line(build, message):
    with pytest.raises(ValueError, match=message) as error:
        build()
    assert "\n" not in str(error.value)


# Chains


def test_chain_gains_what_strens_reports():
    # Strens (2000): 3677 is optimal over 1000 steps of the 5-state chain, hence 3.677 per step.
    mdp = envs.chain(discount=1.0)
    gain = optimum(mdp, 501)[0] - optimum(mdp, 500)[0]
    np.testing.assert_allclose(gain, 0.8**5 * 10 + 0.2 * 2, rtol=1e-9)
    assert round(1000 * gain[0]) == 3677
    assert optimum(mdp, 500)[1].tolist() == [0] * 5


@pytest.mark.parametrize("num_states", [1, 2, 5])
def test_cycle_has_the_gain_and_bias_it_states(num_states):
    mdp = envs.cycle(num_states, discount=0.9)
    to_go = -np.arange(num_states) % num_states
    bias = (num_states - 1) / (2 * num_states) - to_go / num_states
    assert bias.sum() == pytest.approx(0.0)  # every state is visited equally often
    reward = np.sum(np.asarray(mdp.prob * mdp.reward), axis=-1)
    better = np.max(reward + bias[np.asarray(mdp.next_state)[..., 0]], axis=1)
    np.testing.assert_allclose(better, bias + 1 / num_states, atol=1e-14)
    np.testing.assert_allclose(optimum(mdp)[0], 0.9**to_go / (1 - 0.9**num_states))


# Grids


def test_cliff_is_walked_along_its_edge():
    assert start_value(envs.cliff_walking()) == -13.0
    assert start_value(envs.cliff_walking(num_rows=3, num_columns=7)) == -8.0


def test_windy_gridworld_takes_the_steps_the_book_gives():
    assert start_value(envs.windy_gridworld()) == -15.0  # example 6.5
    assert start_value(envs.windy_gridworld(kings_moves=True)) == -7.0  # exercise 6.9


def test_stochastic_wind_is_that_of_exercise_6_10():
    # The exercise's own case: one cell right of the goal, moving left, lands with probability 1/3
    # each one above the goal, two above it, and on it. The goal is (3, 7), state 37.
    mdp = jax.device_get(envs.windy_gridworld(2 / 3, kings_moves=True))
    np.testing.assert_allclose(mdp.prob[38, 3], 1 / 3)
    assert sorted(mdp.next_state[38, 3].tolist()) == [17, 27, 37]
    np.testing.assert_allclose(mdp.prob[0, 0], [1, 0, 0])  # no wind, no gust


def test_windy_walk_by_hand():
    # From (2, 3) of 5 x 8 to the right: (2, 4), a gust to (3, 4), two cells to (4, 4), the hazard.
    mdp = jax.device_get(envs.windy_walk(wind=0.2, hazard_cost=7.0, goal_reward=3.0))
    assert mdp.next_state[19, 1].tolist() == [20, 28, 36]
    np.testing.assert_allclose(mdp.prob[19, 1], [0.8, 0.16, 0.04])
    assert mdp.reward[19, 1].tolist() == [-1.0, -1.0, -8.0]
    assert mdp.terminal[19, 1].tolist() == [False, False, True]
    # From (3, 7) down: the goal at (4, 7), gust or not.
    assert mdp.next_state[31, 2].tolist() == [39, 39, 39]
    assert mdp.reward[31, 2].tolist() == [2.0, 2.0, 2.0] and mdp.terminal[31, 2].all()


def test_more_wind_keeps_the_walker_from_the_hazard():
    assert start_value(envs.windy_walk(wind=0.0, discount=1.0)) == -9.0
    assert start_value(envs.windy_walk(wind=0.0, discount=1.0, goal_reward=5.0)) == -4.0
    values, heights = [], []
    for wind in (0.0, 0.05, 0.1, 0.3):
        mdp = envs.windy_walk(wind=wind)
        values.append(start_value(mdp))
        _, action = optimum(mdp)
        state, highest = 32, 4
        for _ in range(40):  # the way without gusts
            state = int(mdp.next_state[state, action[state], 0])
            highest = min(highest, state // 8)
        heights.append(highest)
    assert np.all(np.diff(values) < 0)
    assert heights[0] == 3 and np.all(np.diff(heights) <= 0) and heights[-1] <= 1


# Money


def test_gambler_has_the_values_of_bold_play():
    value, _ = optimum(envs.gambler())
    np.testing.assert_allclose(value[[25, 50, 75]], [0.16, 0.4, 0.64], atol=1e-12)
    np.testing.assert_allclose(envs.gambler(4).initial, [0, 1 / 3, 1 / 3, 1 / 3, 0])
    # With 64 = 2^6 the recursion of bold play ends after six doublings.
    bold = np.zeros(65)
    bold[64] = 1.0
    for odd in (32, 16, 8, 4, 2, 1):
        for capital in range(odd, 64, 2 * odd):
            low = capital <= 32
            bold[capital] = 0.4 * bold[2 * capital] if low else 0.4 + 0.6 * bold[2 * capital - 64]
    between = np.arange(1, 64)
    np.testing.assert_allclose(optimum(envs.gambler(64))[0][between], bold[between], atol=1e-12)


@pytest.mark.parametrize("head_prob", [0.5, 0.6])
def test_gambler_with_fair_and_good_odds(head_prob):
    capital, ratio = np.arange(1, 20), (1 - head_prob) / head_prob
    expected = capital / 20 if ratio == 1 else (1 - ratio**capital) / (1 - ratio**20)
    np.testing.assert_allclose(optimum(envs.gambler(20, head_prob))[0][1:20], expected, atol=1e-9)


def binomial_price(terms, num_steps, is_put):
    """Cox, Ross and Rubinstein, level by level."""
    step = terms.maturity / num_steps
    up = math.exp(terms.volatility * math.sqrt(step))
    chance = (math.exp((terms.rate - terms.dividend_yield) * step) - 1 / up) / (up - 1 / up)
    price = np.zeros(0)
    for time in range(num_steps, -1, -1):
        share = np.array([terms.spot * up**j / up ** (time - j) for j in range(time + 1)])
        now = np.maximum(terms.strike - share if is_put else share - terms.strike, 0.0)
        if price.size:
            hold = chance * price[1:] + (1 - chance) * price[:-1]
            now = np.maximum(now, math.exp(-terms.rate * step) * hold)
        price = now
    return float(price[0])


@pytest.mark.parametrize("is_put", [True, False])
@pytest.mark.parametrize("num_steps", [1, 7, 60])
def test_option_has_the_binomial_price(num_steps, is_put):
    terms = envs.OptionTerms(spot=95.0, rate=0.06, volatility=0.3, dividend_yield=0.04)
    mdp = envs.american_option(terms, num_steps, is_put)
    assert start_value(mdp) == pytest.approx(binomial_price(terms, num_steps, is_put), rel=1e-12)


@pytest.mark.slow
def test_call_without_dividends_tends_to_black_and_scholes():
    terms = envs.OptionTerms()
    drift = (terms.rate + terms.volatility**2 / 2) / terms.volatility  # one year, at the money
    normal = lambda x: 0.5 * (1 + math.erf(x / math.sqrt(2)))  # noqa: E731
    discounted = 100 * math.exp(-terms.rate)
    exact = 100 * normal(drift) - discounted * normal(drift - terms.volatility)
    for num_steps in (20, 80, 160):
        price = start_value(envs.american_option(terms, num_steps, is_put=False))
        assert abs(price - exact) < 4 / num_steps


# Operations


def test_inventory_is_puterman_s():
    mdp = envs.inventory(discount=1.0)
    # By hand, r(s, a) = 8 E min(D, s + a) - 4 [a > 0] - 2 a - (s + a) with E min(D, .) = 0, 3/4, 1.
    expected = [[0, -1, -2, -5], [5, 0, -3, 0], [6, -1, 0, 0], [5, 0, 0, 0]]
    np.testing.assert_allclose(dense(mdp)[1], expected, atol=1e-14)
    assert mdp.legal.tolist() == [[s + a <= 3 for a in range(4)] for s in range(4)]
    # Section 4.6.1: three months and no salvage value.
    value, action = optimum(mdp, 3)
    np.testing.assert_allclose(value, np.array([67, 129, 194, 227]) / 16, rtol=1e-12)
    assert action.tolist() == [3, 0, 0, 0]
    assert optimum(mdp, 2)[1].tolist() == [2, 0, 0, 0]
    assert optimum(mdp, 1)[1].tolist() == [0, 0, 0, 0]


def test_machine_with_two_conditions_by_hand():
    mdp = envs.machine_replacement(2)
    table = np.array(
        [  # R1, R2, W1, W2 (broken); do nothing, then repair
            [[0.2, 0, 0.8, 0], [1, 0, 0, 0]],
            [[0, 1, 0, 0], [0.6, 0.4, 0, 0]],
            [[0, 0, 0.2, 0.8], [0.6, 0.1, 0, 0.3]],
            [[0, 0, 0, 1], [0.6, 0.1, 0, 0.3]],
        ]
    )
    prob, reward = dense(mdp)
    np.testing.assert_allclose(prob, table, atol=1e-15)
    np.testing.assert_allclose(reward, table @ [-2, -10, 0, -20], atol=1e-14)
    assert mdp.initial.tolist() == [0, 0, 1, 0]
    # A worn machine is repaired and a new one is not; a broken one left alone costs 20 for ever.
    value, action = optimum(envs.machine_replacement())
    assert action[2] == 0 and action[-1] == 1 and np.all(np.diff(action[2:]) >= 0)
    assert value[-1] > -20 / (1 - 0.8)


def test_queue_rows_by_hand():
    # Two servers, one free, class 1 of (1, 8). Accepting leaves two busy, each freed at 0.1;
    # rejecting leaves one. The next class is a fair coin.
    mdp = envs.access_control_queue(2, 0.1, priorities=(1.0, 8.0))
    table, reward = jax.device_get(dense(mdp))
    np.testing.assert_allclose(table[3, 1].reshape(3, 2).sum(axis=1), [0.81, 0.18, 0.01])
    np.testing.assert_allclose(table[3, 0].reshape(3, 2).sum(axis=1), [0.0, 0.9, 0.1])
    np.testing.assert_allclose(table[3, 0].reshape(3, 2)[:, 0] * 2, [0.0, 0.9, 0.1])
    np.testing.assert_allclose(reward[3], [0.0, 8.0])
    np.testing.assert_array_equal(table[1, 0], table[1, 1])  # none free: accepting is rejecting
    np.testing.assert_array_equal(reward[1], [0.0, 0.0])


@pytest.mark.slow
def test_queue_turns_away_the_cheap_when_servers_are_scarce():
    mdp = envs.access_control_queue()
    table, reward = jax.device_get(dense(mdp))
    # The average-reward linear program: frequencies x(s, a) that balance.
    flow = np.eye(44)[:, None, :] - table
    balance = np.vstack([flow.reshape(88, 44).T, np.ones(88)])
    found = linprog(-reward.ravel(), A_eq=balance, b_eq=np.r_[np.zeros(44), 1.0])
    gain = -found.fun
    sweeps = optimum(mdp.replace(discount=1.0), 801), optimum(mdp.replace(discount=1.0), 800)
    np.testing.assert_allclose(sweeps[0][0] - sweeps[1][0], gain, rtol=1e-6)
    accepts = sweeps[0][1].reshape(11, 4)[1:]
    assert np.all(accepts[:, 3] == 1) and np.all(accepts[0, :2] == 0)
    assert np.all(np.diff(accepts, axis=0) >= 0) and np.all(np.diff(accepts, axis=1) >= 0)


# Names


@pytest.mark.parametrize(
    ("name", "parameters", "mdp"),
    [
        ("Chain", {"num_states": 4}, lambda: envs.chain(4)),
        ("FrozenLake-4x4", {"slip_prob": 0.0}, lambda: envs.frozen_lake(slip_prob=0.0)),
        ("FrozenLake-8x8", {}, lambda: envs.frozen_lake(LAKE_8X8)),
        ("CliffWalking", {"num_columns": 6}, lambda: envs.cliff_walking(num_columns=6)),
        ("WindyGridworld", {"gust_prob": 0.5}, lambda: envs.windy_gridworld(0.5)),
        ("WindyWalk", {"wind": 0.4}, lambda: envs.windy_walk(wind=0.4)),
        ("Gambler", {"goal": 8}, lambda: envs.gambler(8)),
        ("AmericanOption", {}, lambda: envs.american_option(num_steps=20)),
        ("Inventory", {"capacity": 5}, lambda: envs.inventory(5)),
        ("MachineReplacement", {}, envs.machine_replacement),
        (
            "AccessControlQueue",
            {"num_servers": 3, "free_prob": 0.1},
            lambda: envs.access_control_queue(3, 0.1),
        ),
    ],
)
def test_made_by_name_is_the_named_mdp(name, parameters, mdp):
    env, expected = make(name, **parameters), mdp()
    assert env.one_hot and env.observation_space.shape == (expected.num_states,)
    for field in ("prob", "next_state", "reward", "terminal", "initial", "legal"):
        np.testing.assert_array_equal(getattr(env.mdp, field), getattr(expected, field))
