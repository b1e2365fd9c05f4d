"""Static and expected conditional risk for the actor-critic, against answers worked out apart."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq, linprog
from scipy.stats import norm

from jaxrl import outcome_mdp, train
from jaxrl.agents import ActorCriticAgent, Optimiser
from jaxrl.core import Box, Discrete, Linear, Progress, TimeStep, Transition
from jaxrl.envs import TabularEnv, make
from jaxrl.envs.control import Pendulum
from jaxrl.envs.wrappers import ExpectedConditionalRisk, TimeLimit
from jaxrl.functionals import CVaR, Mean
from jaxrl.networks import NetworkSettings
from jaxrl.planning import static_cvar
from jaxrl.rules import AdvantageActorCritic, PolicyOutputs, StaticRiskGradient
from jaxrl.training import start_training, train_iteration

SMALL = {
    "network": NetworkSettings(hidden_sizes=(16,)),
    "optimiser": Optimiser(learning_rate=Linear(3e-2, 0.0)),
    "discount": 1.0,
    "num_envs": 64,
    "rollout_length": 3,
    "num_epochs": 1,
    "num_minibatches": 1,
    "normalise_advantages": False,
}
NEUTRAL = ActorCriticAgent(rule=AdvantageActorCritic(), **SMALL)


def for_tail(first, last=None):
    """An agent for CVaR at a level, or at levels that move over its life."""
    levels = Linear(first, first if last is None else last)
    return ActorCriticAgent(rule=StaticRiskGradient(CVaR(levels), entropy_weight=0.01), **SMALL)


TAIL = for_tail(0.25)


def cvar_of(probs, values, level):
    """The dual program: the least mean under laws of at most probs / level."""
    solved = linprog(values, A_eq=np.ones((1, len(probs))), b_eq=[1.0], bounds=[
        (0.0, prob / level) for prob in probs
    ])  # fmt: skip
    return solved.fun


# --- the estimator of a gradient -----------------------------------------------------------------


def rollout_of(action, reward, terminated, first):
    return Transition(
        observation=np.zeros_like(reward),
        action=action,
        reward=reward,
        discount=1.0 - terminated.astype(np.float32),
        next_observation=np.zeros_like(reward),
        terminated=terminated,
        truncated=np.zeros_like(terminated),
        extras={"first_step": first},
    )


@jax.jit
@functools.partial(jax.vmap, in_axes=(None, None, 0))
def estimates(rule, logits, data):
    """Minus the slope of the mean loss in the logits of one state's policy, for each batch."""

    def loss(logits):
        log_prob = jax.nn.log_softmax(logits)[data.action]
        outputs = PolicyOutputs(log_prob, jnp.zeros_like(log_prob), jnp.zeros_like(log_prob))
        targets, _ = jax.lax.stop_gradient(rule.targets((), outputs, data, Progress.start()))
        return jnp.mean(jax.vmap(rule.loss, (0, 0, None))(outputs, targets, Progress.start()))

    return -jax.grad(loss)(logits)


def softmax_slopes(logits, function):
    """Central differences of `function(probs)` in the logits."""

    def at(shift):
        weights = np.exp(logits + shift)
        return function(weights / weights.sum())

    return [(at(1e-5 * row) - at(-1e-5 * row)) / 2e-5 for row in np.eye(len(logits))]


LOGITS = np.array([0.4, -0.3, 0.1])
CENTRES, SPREADS = np.array([1.0, 0.5, 1.5]), np.array([0.2, 0.1, 2.0])


def gaussian_cvar(probs, level):
    """Of a mixture of normals: x - E(x - G)^+ / level at the quantile x."""
    if level == 1.0:
        return probs @ CENTRES
    below = lambda x: norm.cdf((x - CENTRES) / SPREADS)  # noqa: E731
    x = brentq(lambda x: probs @ below(x) - level, -20.0, 20.0, xtol=1e-13)
    short = (x - CENTRES) * below(x) + SPREADS * norm.pdf((x - CENTRES) / SPREADS)
    return x - probs @ short / level


ATOMS = np.array([[0.0, 2.0], [1.0, 1.5], [-3.0, 5.0]])


def discrete_cvar(probs, level):
    return cvar_of(np.repeat(probs, 2) / 2, ATOMS.ravel(), level)


BANDITS = {
    "gaussian": (
        lambda rng, action: CENTRES[action] + SPREADS[action] * rng.standard_normal(action.shape),
        gaussian_cvar,
    ),
    "discrete": (
        lambda rng, action: ATOMS[action, rng.integers(2, size=action.shape)],
        discrete_cvar,
    ),
}


@pytest.mark.parametrize("bandit", BANDITS)
@pytest.mark.parametrize("level", [0.3, 1.0])
def test_the_estimator_is_the_gradient_of_cvar_on_a_bandit(bandit, level):
    """48 batches of 4096 episodes of one step; the bias is far below their standard error."""
    draw, exact = BANDITS[bandit]
    rng, probs = np.random.default_rng(0), np.exp(LOGITS) / np.exp(LOGITS).sum()
    action = rng.choice(3, size=(48, 4096), p=probs)
    reward = draw(rng, action).astype(np.float32)
    first = np.broadcast_to(np.arange(4096), action.shape)
    data = rollout_of(action, reward, np.ones(action.shape, bool), first)
    rule = StaticRiskGradient(CVaR(np.float32(level)))
    found = np.asarray(estimates(rule, LOGITS.astype(np.float32), data))
    error = np.std(found, axis=0) / np.sqrt(48)
    expected = np.array(softmax_slopes(LOGITS, lambda p: exact(p, level)))
    assert np.linalg.norm(expected) > 8 * np.linalg.norm(error)  # a wrong one would be seen
    np.testing.assert_array_less(np.abs(np.mean(found, axis=0) - expected), 4 * error)


def test_lengths_of_episodes_cause_no_bias():
    """Action 0 ends at once and pays 1; action 1 goes on for five steps and pays 0 at the end.

    In rollouts of 8 steps, half of the time begun inside an episode, taking whatever is whole would
    count too many short episodes.
    """
    num_envs, length = 4096, 8
    rng = np.random.default_rng(1)
    action = np.zeros((length, num_envs), int)
    reward, ended = np.zeros((length, num_envs)), np.zeros((length, num_envs), bool)
    left = rng.integers(5, size=num_envs)  # steps until the running episode ends; 0: a fresh start
    starts = left == 0
    for step in range(length):
        fresh = left == 0
        action[step] = np.where(fresh, rng.random(num_envs) < 0.5, 1)
        left = np.where(fresh, np.where(action[step] == 1, 5, 1), left) - 1
        ended[step] = left == 0
        reward[step] = fresh & (action[step] == 0)
    marks = TAIL.init(jax.random.key(0), TabularEnv(GAMBLES, time_limit=2.0)).marks
    marks = marks.replace(starts=starts, longest=np.float32(5.0))
    first = np.asarray(jax.jit(lambda marks, ended: marks.first_steps(ended))(marks, ended))
    data = rollout_of(action, reward.astype(np.float32), ended, first)
    outputs = PolicyOutputs(*[np.zeros(first.shape, np.float32)] * 3)
    rule = StaticRiskGradient(Mean())
    targets = jax.device_get(
        jax.jit(lambda *inputs: rule.targets((), *inputs, Progress.start())[0])(outputs, data)
    )
    begins = first == np.arange(length)[:, None]
    # All that begin where five steps still fit, and no others.
    begun = np.vstack([starts[None], ended[:-1]])
    np.testing.assert_array_equal(begins, begun & (np.arange(length)[:, None] <= length - 5))
    share = np.mean(targets.returns[begins])
    assert abs(share - 0.5) < 4 * 0.5 / np.sqrt(begins.sum())
    # All steps of an episode weigh as its first, and the whole ones alone: return less the mean.
    weight = np.where(targets.returns > 0.5, 1 - share, -share)
    weight = np.where(first >= 0, weight, 0.0) * first.size / begins.sum()
    np.testing.assert_allclose(targets.advantage, weight, atol=2e-4)
    whole = begins | (np.cumsum(ended[::-1], axis=0)[::-1] > 0) & begun  # the naive choice
    naive = np.mean(np.asarray(targets.returns + reward * (first < 0))[whole])
    assert abs(naive - 0.5) > 8 * 0.5 / np.sqrt(whole.sum())


# --- learning ------------------------------------------------------------------------------------

# In each of two stages: 1 for sure, or 6 and -2 with even odds. Over both, CVaR at 1/4 is 2 for
# (sure, sure), -1 for one gamble and -4 for two; the means are 2, 3 and 4.
GAMBLES = outcome_mdp(
    [[[1.0, 0.0], [0.5, 0.5]]] * 2,
    [[[1, 1]] * 2, [[1, 1]] * 2],
    [[[1.0, 1.0], [6.0, -2.0]]] * 2,
    terminal=[[[False, False]] * 2, [[True, True]] * 2],
)


STAGES = TabularEnv(GAMBLES, time_limit=2.0)
start = jax.jit(lambda agent: start_training(jax.random.key(0), agent, STAGES, 28_800.0))


@jax.jit
def run(agent, state, num_iterations):
    """So many updates, each after 3 steps of 64 environments: 150 of them are a life."""

    def iterate(_, state):
        return train_iteration(agent, STAGES, state)[0]

    return jax.lax.fori_loop(0, num_iterations, iterate, state)


@jax.jit
def greedy(agent, state):
    return agent.act(jax.random.key(1), state, np.arange(2), explore=False)[0]


def learned(agent):
    """Greedy actions in both states at the end of a life."""
    state = run(agent, start(agent), 150)
    return greedy(agent, state.agent).tolist()


@pytest.mark.slow
def test_it_learns_what_is_best_for_the_tail():
    assert learned(TAIL) == [0, 0]
    assert learned(for_tail(1.0)) == [1, 1]  # the mean


@pytest.mark.slow
def test_plain_learning_takes_the_gambles():
    assert learned(NEUTRAL) == [1, 1]


@pytest.mark.slow
def test_the_level_moves_with_the_life():
    """A quarter of the way from 1/8 to 5/8 the update is that of the level 1/4."""
    state = start(TAIL)
    progress = state.agent.progress.replace(step=np.float32(7200))
    state = state.replace(agent=state.agent.replace(progress=progress))
    moving, fixed, other = (
        run(agent, state, 1).agent.params for agent in (for_tail(0.125, 0.625), TAIL, for_tail(0.5))
    )
    jax.tree.map(np.testing.assert_array_equal, moving, fixed)
    pairs = zip(*map(jax.tree.leaves, jax.device_get((moving, other))), strict=True)
    assert any(not np.array_equal(*pair) for pair in pairs)


@pytest.mark.slow
def test_marks_follow_the_rollouts():
    """Rollouts of 3 steps in episodes of 2: every second one begins inside an episode."""
    state = start(TAIL)
    assert np.asarray(state.agent.marks.starts).all()
    assert float(state.agent.marks.longest) == 2.0
    for begins in (False, True, False):
        state = run(TAIL, state, 1)
        np.testing.assert_array_equal(state.agent.marks.starts, begins)


@pytest.mark.slow
@pytest.mark.optimised
def test_a_falling_level_stops_an_option_best_where_a_fixed_one_is_blind():
    """A put worth 5 at once. At level 1/2 of a fresh policy all waiting ends badly, and the fixed
    level sells at once; the falling one first learns that waiting can pay. Against the optimum of
    all policies of the history, within its error bound."""
    inner = make("AmericanOption", strike=105.0, num_steps=10, volatility=0.3)
    env, discount = TimeLimit(inner, 11), float(inner.mdp.discount)
    keys = jax.random.split(jax.random.key(0), 1)

    @jax.jit
    def attained(agent):
        """CVaR of 100,000 greedy episodes."""

        def one(key):
            state = train(key, agent, env, num_steps=300 * 256 * 22, num_records=1).state.agent

            def episode(key):
                def step(carry, key):
                    inner, observation, weight = carry
                    action = agent.act(key, state, observation[None], explore=False)[0][0]
                    inner, step = env.step(key, inner, action)
                    ends = (step.terminated >= 1) | step.truncated
                    later = jnp.where(ends, 0.0, weight * discount)
                    return (inner, step.observation, later), weight * step.reward

                carry = (*env.reset(key), jnp.ones(()))
                return jnp.sum(jax.lax.scan(step, carry, jax.random.split(key, 11))[1])

            returns = jax.vmap(episode)(jax.random.split(key, 100_000))
            return CVaR(0.5)(jnp.full(100_000, 1e-5), returns)

        return jax.vmap(one)(keys)

    def agent(levels):
        return ActorCriticAgent(
            rule=StaticRiskGradient(CVaR(levels), entropy_weight=Linear(3.0, 0.0)),
            network=NetworkSettings(hidden_sizes=(32,)),
            optimiser=Optimiser(learning_rate=Linear(5e-3, 0.0)),
            discount=discount,
            num_envs=256,
            rollout_length=22,
            num_epochs=1,
            num_minibatches=1,
            normalise_advantages=False,
        )

    exact = static_cvar(inner.mdp, level=0.5, horizon=11, num_stocks=8193)
    assert exact.error_bound < 0.1
    np.testing.assert_allclose(attained(agent(Linear(0.5, 0.5))), 5.0, atol=1e-3)
    falling = attained(agent(Linear(1.0, 0.5, end=0.25)))
    np.testing.assert_allclose(falling, exact.value, atol=exact.error_bound + 0.15)


@pytest.mark.parametrize(
    "changes, env, words",
    [
        ({}, TabularEnv(GAMBLES), "nothing says how long.*TimeLimit"),
        ({}, TabularEnv(GAMBLES, time_limit=5.0), "Set rollout_length to 5"),
        ({"normalise_advantages": True}, TabularEnv(GAMBLES, time_limit=2.0), "=False"),
    ],
)
def test_rollouts_that_may_hold_no_episode_are_refused(changes, env, words):
    with pytest.raises(ValueError, match=words):
        TAIL.replace(**changes).check(env)


@pytest.mark.parametrize(
    "env, longest",
    [
        (TimeLimit(TabularEnv(GAMBLES, time_limit=9.0), 4), 4),
        (TimeLimit(TabularEnv(GAMBLES), 3), 3),
        (TimeLimit(Pendulum(), 400), 200),
    ],
)
def test_the_shortest_limit_counts(env, longest):
    TAIL.replace(rollout_length=longest).check(env)
    with pytest.raises(ValueError, match=rf"may take {longest}.* steps"):
        TAIL.replace(rollout_length=longest - 1).check(env)


@pytest.mark.slow  # imports gymnax
def test_the_limit_of_a_gymnax_task_counts():
    with pytest.raises(ValueError, match=r"may take 500.* steps"):
        TAIL.check(make("CartPole-v1"))


# --- expected conditional risk -------------------------------------------------------------------

DISCOUNT, LEVEL, WEIGHT = 0.9, 0.3, 0.6
# Three states; from each, action 0 and 1 lead on, at random, with rewards of the outcome.
LAW = np.array([[[0.5, 0.3, 0.2], [0.1, 0.1, 0.8]], [[0.6, 0.2, 0.2], [0.25] * 2 + [0.5]],
                [[1.0, 0.0, 0.0], [0.2, 0.4, 0.4]]])  # fmt: skip
PAY = np.array([[[1.0, 0.0, 2.0], [1.0, 1.0, 1.0]], [[0.0, 1.0, -1.0], [2.0, -2.0, 1.0]],
                [[-1.0, 0.0, 0.0], [2.0, 0.0, -2.0]]])  # fmt: skip
ENDS = np.zeros((3, 2, 3), bool)
ENDS[:, :, 2] = [[False, True], [True, False], [True, True]]
CHAIN = outcome_mdp(
    LAW,
    np.broadcast_to([0, 1, 2], (3, 2, 3)),
    PAY,
    terminal=ENDS,
    initial=[1.0, 0.0, 0.0],
)
STEPS = 3  # then the clock ends the process, for good
LEVELS = np.arange(-2.0, 3.0)  # every reward is one of them


def outcomes(state, action):
    return [
        (LAW[state, action, k], PAY[state, action, k], ENDS[state, action, k], k)
        for k in range(3)
        if LAW[state, action, k] > 0
    ]


@functools.cache
def next_reward_law(state, action, rule):
    """Of the next reward when `rule[successor]` follows: probabilities and values; 0 at an end."""
    law = []
    for prob, _, ends, successor in outcomes(state, action):
        if ends:
            law.append((prob, 0.0))
        else:
            more = outcomes(successor, rule[successor])
            law.extend((prob * q, reward) for q, reward, _, _ in more)
    return tuple(np.array(law).T)


@functools.cache
def risk(state, action, rule):
    probs, values = next_reward_law(state, action, rule)
    return (1 - WEIGHT) * probs @ values + WEIGHT * cvar_of(probs, values, LEVEL)


def objective(first, second, third):
    """E r_0 + discount rho(r_1) + discount^2 E rho(r_2 | s_1), every CVaR by its linear program.

    `first` is an action, `second[s_1]` too, and so is `third[s_1][s_2]`.
    """
    total = DISCOUNT * risk(0, first, second)
    for prob, reward, ends, s_1 in outcomes(0, first):
        total += prob * reward
        if not ends:
            total += prob * DISCOUNT**2 * risk(s_1, second[s_1], third[s_1])
    return total


def in_risk(env, **changes):
    settings = {"level": LEVEL, "weight": WEIGHT, "discount": DISCOUNT, "low": -2.0, "high": 2.0}
    return ExpectedConditionalRisk(env, num_thresholds=5, **(settings | changes))


LIMITED = TimeLimit(TabularEnv(CHAIN, one_hot=True), STEPS, horizon_is_terminal=True)


@jax.jit
def play(env, table, keys):
    """Discounted sums of the wrapped rewards and the task's, of `table[time, state]` actions."""

    def episode(key):
        state, observation = env.reset(key)

        def step(carry, inputs):
            state, observation, alive, weight = carry
            key, actions = inputs
            action = actions[jnp.argmax(observation[:3])]
            state, step = env.step(key, state, action)
            gain = jnp.where(alive, weight, 0.0)
            seen = (gain * step.reward, gain * step.info["reward"])
            alive = alive & (step.terminated < 1) & ~step.truncated
            return (state, step.observation, alive, weight * env.discount), seen

        carry = (state, observation, jnp.ones((), bool), jnp.ones(()))
        keys = jax.random.split(key, STEPS)
        return jax.tree.map(jnp.sum, jax.lax.scan(step, carry, (keys, table))[1])

    return jax.vmap(episode)(keys)


def best_thresholds(first, second, third):
    """Indices on the grid of the lower quantiles of the next reward, by time and state."""
    found = np.zeros((STEPS, 3), int)
    rules = ((first,) * 3, second, third)
    for time, state in itertools.product(range(STEPS - 1), range(3)):
        probs, values = next_reward_law(state, rules[time][state], rules[time + 1])
        order = np.argsort(values)
        reached = np.cumsum(probs[order]) >= LEVEL - 1e-9
        found[time, state] = np.searchsorted(LEVELS, values[order][np.argmax(reached)])
    found[-1] = np.searchsorted(LEVELS, 0.0)  # nothing comes after the last step
    return 5 * np.array(rules) + found, found


@pytest.mark.slow  # 100,000 episodes of each
def test_the_wrapped_mean_is_expected_conditional_risk():
    """With quantiles announced; with other thresholds it is less."""
    keys = jax.random.split(jax.random.key(0), 100_000)
    env = in_risk(LIMITED)
    for first, second, third in ((1, (1, 1, 1), (1, 1, 1)), (0, (0, 1, 0), (1, 0, 1))):
        table, found = best_thresholds(first, second, third)
        sums, plain = map(np.asarray, play(env, table, keys))
        error = np.std(sums) / np.sqrt(len(sums))
        exact = objective(first, second, (third,) * 3)
        assert abs(np.mean(sums) - exact) < 4 * error
        assert abs(np.mean(plain) - exact) > 10 * error  # the mean is another number
        for shift in (-1, 1):
            other = table + np.clip(found + shift, 0, 4) - found
            assert np.mean(np.asarray(play(env, other, keys)[0])) < exact - 4 * error


def augmented_optimum():
    """Dynamic programming over (state, threshold) with the wrapper's rewards, one step at a time.

    Every reward is what `ExpectedConditionalRisk.step` pays where the inner step is forced.
    """
    env = in_risk(Forced())
    cases = list(itertools.product((True, False), range(5), range(5), range(5), (0.0, 1.0)))

    def paid(first, before, after, reward, ends):
        state, _ = env.reset(jax.random.key(0))
        kept = jnp.stack([before, jnp.where(first, 1.0, 0.0)])  # the threshold, and whether first
        state = state.replace(inner=jnp.stack([reward, ends]), kept=kept)
        return env.step(jax.random.key(0), state, after)[1].reward

    columns = [np.array(column) for column in zip(*cases, strict=True)]
    grid = LEVELS.astype(np.float32)
    paid = jax.jit(jax.vmap(paid))
    found = paid(columns[0], grid[columns[1]], columns[2], grid[columns[3]], columns[4])
    rewards = dict(zip(cases, np.asarray(found), strict=True))

    def value(time, state, before):
        best = -np.inf
        for action, after in itertools.product(range(2), range(5)):
            total = 0.0
            for prob, reward, ends, successor in outcomes(state, action):
                last = float(ends or time + 1 == STEPS)
                place = int(np.searchsorted(LEVELS, reward))
                total += prob * rewards[time == 0, before, after, place, last]
                if not last:
                    total += prob * DISCOUNT * value(time + 1, successor, after)
            best = max(best, total)
        return best

    return value(0, 0, 2)


class Forced:
    """A step pays and ends as its state says."""

    observation_space = Box(np.zeros(()), np.ones(()), (1,))
    action_space = Discrete(1)

    def reset(self, key):
        return jnp.zeros(2), jnp.zeros(1)

    def step(self, key, state, action):
        nothing = jnp.zeros((), bool)
        return state, TimeStep(jnp.zeros(1), state[0], state[1], nothing, jnp.zeros(0), {})


def test_the_best_mean_of_the_wrapped_task_is_the_best_risk():
    """Over all 8192 policies of the history, scored by linear programs."""
    rules = list(itertools.product(range(2), repeat=3))
    scores = {
        policy: objective(*policy)
        for policy in itertools.product(range(2), rules, itertools.product(rules, repeat=3))
    }
    best = max(scores.values())
    np.testing.assert_allclose(augmented_optimum(), best, atol=1e-5)
    # What was announced must be seen: no policy of time and state alone is as good.
    assert best > max(score for (_, _, third), score in scores.items() if len({*third}) == 1) + 1e-3


def test_no_weight_is_the_task_itself_and_the_first_step_is_marked():
    keys = jax.random.split(jax.random.key(0), 100_000)
    table = 5 * np.ones((STEPS, 3), int) + np.arange(3)
    sums, plain = play(in_risk(LIMITED, weight=0.0), table, keys)
    np.testing.assert_allclose(sums, plain, atol=1e-6)
    env = in_risk(LIMITED)

    @jax.jit
    def begin(key):
        state, observation = env.reset(key)
        after = env.step(key, state, 8)[1].observation  # action 1, threshold 1
        return observation, after, env.observation_space.contains(after)

    observation, after, contained = jax.device_get(begin(jax.random.key(0)))
    assert observation.shape == env.observation_space.shape == (5,)
    assert observation[3:].tolist() == [0.0, 1.0]
    assert after[3:].tolist() == [1.0, 0.0] and contained


def test_box_actions_announce_in_their_last_coordinate():
    env = ExpectedConditionalRisk(Pendulum(), level=0.5, weight=0.5, low=-3.0, high=0.0)
    space = env.action_space
    assert space.shape == (2,) and space.low.tolist() == [-2.0, -3.0]
    assert space.high.tolist() == [2.0, 0.0]
    action = np.array([0.5, -9.0], np.float32)
    begin = jax.jit(lambda key: env.step(key, env.reset(key)[0], action)[1])
    first = jax.device_get(begin(jax.random.key(1)))
    assert first.observation[-2:].tolist() == [-3.0, 0.0]
    np.testing.assert_allclose(first.reward, first.info["reward"] - 0.99 * 0.5 * 3.0, rtol=1e-5)


# The choice leads to 1 for sure, or with even odds to 4 or -1: 1.5 in the mean, -1 in CVaR at 1/2.
FORK = outcome_mdp(
    [[[1.0, 0.0], [0.5, 0.5]]] + [[[1.0, 0.0]] * 2] * 3,
    [[[1, 1], [2, 3]]] + [[[0, 0]] * 2] * 3,
    [[[0.0, 0.0]] * 2, [[1.0, 1.0]] * 2, [[4.0, 4.0]] * 2, [[-1.0, -1.0]] * 2],
    terminal=[[[False, False]] * 2] + [[[True, True]] * 2] * 3,
    initial=[1.0, 0.0, 0.0, 0.0],
)


@pytest.mark.slow
def test_an_actor_critic_learns_to_avert_the_risk():
    env = ExpectedConditionalRisk(
        TabularEnv(FORK), 0.5, 0.8, discount=1.0, low=-1.0, high=4.0, num_thresholds=6
    )
    start = jnp.array([1.0, 0, 0, 0, 0, 1])[None]
    chosen = {}
    for weight in (0.0, 0.8):
        result = jax.jit(lambda env: train(jax.random.key(0), NEUTRAL, env, num_steps=100_000))(
            env.replace(weight=weight)
        )
        action, _ = NEUTRAL.act(jax.random.key(1), result.state.agent, start, explore=False)
        chosen[weight] = divmod(int(action[0]), 6)
    assert chosen[0.0][0] == 1
    assert chosen[0.8] == (0, 2)  # safe, and the threshold is the 1 that follows
