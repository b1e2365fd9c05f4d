"""Implicit gradients: they are those of the end of training, and say so where they are not."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize, root

from jaxrl import a2c, meta
from jaxrl.agents import GradientDescent, Optimiser
from jaxrl.core import Transition, tabular_mdp
from jaxrl.envs import TabularEnv, garnet
from jaxrl.networks import NetworkSettings
from jaxrl.rules import AdvantageActorCritic, with_reward

KEY = jax.random.key(0)
RANDOM = np.random.default_rng(0)
SYMMETRIC = np.diag([0.5, 1.0, 2.0, 3.0])
SKEWED = SYMMETRIC + np.triu(RANDOM.normal(size=(4, 4)), 1) - np.tril(np.ones((4, 4)), -1) * 0.2
CROSS, GOAL, DIRECT = RANDOM.normal(size=(4, 3)), RANDOM.normal(size=4), RANDOM.normal(size=3)


@jax.jit
def quadratic(solver, matrix, params, rule):
    """Training that ends where matrix params = CROSS rule."""
    return meta.ImplicitGradient(solver).hypergradient(
        lambda params, rule: {"x": matrix @ params["x"] - CROSS @ rule},
        lambda params, rule: 0.5 * jnp.sum((params["x"] - GOAL) ** 2) + DIRECT @ rule,
        {"x": params},
        rule,
    )


def solved(solver, matrix, rule=np.ones(3)):
    params = np.linalg.lstsq(matrix, CROSS @ rule)[0]
    with jax.enable_x64(True):
        found = quadratic(solver, jnp.asarray(matrix), jnp.asarray(params), jnp.asarray(rule))
        return params, jax.tree.map(np.asarray, found)


@pytest.mark.parametrize("matrix", [SYMMETRIC, SKEWED], ids=["hessian", "not a hessian"])
@pytest.mark.parametrize(
    "solver",
    [meta.NeumannSeries(num_terms=400, step_size=0.2), meta.MinimalResidual(num_terms=4)],
    ids=["series", "residual"],
)
def test_the_gradient_of_a_quadratic_is_exact(solver, matrix):
    params, found = solved(solver, matrix)
    exact = DIRECT + CROSS.T @ np.linalg.solve(matrix.T, params - GOAL)
    np.testing.assert_allclose(found.gradient, exact, rtol=1e-9)
    assert found.residual < 1e-9 and found.inner_norm < 1e-12


SHORT = [5, *(pytest.param(number, marks=pytest.mark.slow) for number in (1, 2, 20))]


@pytest.mark.parametrize("num_terms", SHORT)
def test_a_short_series_is_short_by_the_power_of_its_length(num_terms):
    """Along each eigenvector with eigenvalue m the part that is missing is (1 - step m)^K."""
    params, found = solved(meta.NeumannSeries(num_terms=num_terms, step_size=0.3), SYMMETRIC)
    left = (1.0 - 0.3 * np.diag(SYMMETRIC)) ** num_terms
    exact = DIRECT + CROSS.T @ ((1.0 - left) / np.diag(SYMMETRIC) * (params - GOAL))
    np.testing.assert_allclose(found.gradient, exact, rtol=1e-10)
    missing = np.linalg.norm(left * (params - GOAL)) / np.linalg.norm(params - GOAL)
    np.testing.assert_allclose(found.residual, missing, rtol=1e-9)


@pytest.mark.parametrize("damping", [0.0, 0.1])
@pytest.mark.parametrize("kind", [meta.NeumannSeries, meta.MinimalResidual])
def test_a_singular_jacobian_is_reported(kind, damping):
    """What the outer loss wants where training does not care cannot be solved for."""
    singular = np.diag([0.0, 1.0, 2.0, 3.0])
    params, found = solved(kind(num_terms=100, damping=damping), singular)
    wanted = params - GOAL
    least = abs(wanted[0]) / np.linalg.norm(wanted)  # out of the range
    assert found.residual >= least * (1.0 - 1e-9)
    assert np.all(np.isfinite(found.gradient))


# ---- a softmax policy in a table: the end of training from SciPy, its slope from differences ----


@functools.cache
def mdp():
    with jax.enable_x64(False), jax.ensure_compile_time_eval():
        return garnet(jax.random.key(3), 3, 2, 3)


@functools.cache
def following():
    """Probabilities `[state, action, next state]`."""
    prob, successor = jax.device_get((mdp().prob, mdp().next_state))
    found = np.zeros((3, 2, 3))
    for s, a, k in itertools.product(range(3), range(2), range(3)):
        found[s, a, int(successor[s, a, k])] += float(prob[s, a, k])
    return found


PRIMARY, HEURISTIC = RANDOM.normal(size=(3, 2)), RANDOM.normal(size=(3, 2))


def value(logits, reward, discount, np=jnp):
    """The discounted return of a softmax policy from a uniform first state."""
    probs = np.exp(logits - np.max(logits, axis=1, keepdims=True))
    probs = probs / np.sum(probs, axis=1, keepdims=True)
    move = np.einsum("sa,sat->st", probs, following())
    gain = np.sum(probs * reward, axis=1)
    return np.mean(np.linalg.solve(np.eye(3) - discount * move, gain))


def inner_loss(logits, rule):
    reward = PRIMARY + rule["weight"] * HEURISTIC
    return -value(logits, reward, rule["discount"]) + 0.05 * jnp.sum(logits**2)


@jax.jit
def trained(logits, rule):
    return jax.value_and_grad(inner_loss)(logits.reshape(3, 2), rule)


@jax.jit
def of_the_table(solver, logits, rule):
    outer = lambda logits, rule: -value(logits, PRIMARY, 0.95)  # noqa: E731
    through = meta.ImplicitGradient(solver)
    return through.hypergradient(jax.grad(inner_loss), outer, logits, rule)


@pytest.mark.slow
@pytest.mark.parametrize(
    "solver",
    [
        meta.NeumannSeries(num_terms=600, step_size=0.5),
        meta.MinimalResidual(num_terms=6),
    ],
    ids=["series", "residual"],
)
def test_the_gradient_of_a_tabular_policy_is_the_slope_of_its_trained_return(solver):
    rule = {"weight": 0.7, "discount": 0.8}
    with jax.enable_x64(True):

        def train(rule):
            def at(flat):
                loss, grad = trained(flat, rule)
                return float(loss), np.asarray(grad).ravel()

            found = minimize(at, np.zeros(6), jac=True, options={"gtol": 1e-11})
            return found.x.reshape(3, 2)

        best = train(rule)
        found = of_the_table(solver, jnp.asarray(best), rule)
        assert float(found.residual) < 1e-6 and float(found.inner_norm) < 1e-7
        for name in rule:
            ends = [
                -value(train({**rule, name: rule[name] + h}), PRIMARY, 0.95, np)
                for h in (1e-3, -1e-3)
            ]
            slope = (ends[0] - ends[1]) / 2e-3
            np.testing.assert_allclose(found.gradient[name], slope, rtol=1e-4)


# ---- the agents' own gradient -------------------------------------------------------------------

AGENT = a2c().replace(
    rule=AdvantageActorCritic(lambda_=1.0, entropy_weight=0.0),
    network=NetworkSettings(hidden_sizes=(), initialiser="lecun"),
    num_envs=8,
    rollout_length=3,
    discount=1.0,
    normalise_advantages=False,
    optimiser=GradientDescent(learning_rate=1.0, max_grad_norm=None),
)
PAID = RANDOM.normal(size=(3, 2, 2))  # by time, by state, by action; the action is the next state


@functools.cache
def env():
    return TabularEnv(mdp(), time_limit=3.0)


def every_sequence():
    """All 8 sequences of actions of an episode of three steps, each as likely as any other."""
    actions = np.array(list(itertools.product(range(2), repeat=3)))  # [8, 3]
    states = np.concatenate([np.zeros((8, 1), int), actions[:, :-1]], axis=1)
    reward = PAID[np.arange(3), states, actions]
    last = np.broadcast_to(np.arange(3) == 2, (8, 3))
    return actions, states, reward, last


def flat_policy(state):
    """The same state with a policy of even odds; its logits are the weights of a table."""
    params = state.agent.params
    zeroed = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), params)
    return state.replace(agent=state.agent.replace(params=zeroed))


@pytest.fixture(scope="module")
def learner():
    start = jax.jit(lambda key: meta.Life.start(key, AGENT, meta.Task(env(), jnp.float32(1e3))))
    life = start(KEY)
    actions, states, reward, last = every_sequence()
    trajectory = Transition(
        observation=np.int32(states.T),
        action=np.int32(actions.T),
        reward=np.float32(reward.T),
        discount=np.float32(1.0 - last.T),
        next_observation=np.int32(actions.T),
        terminated=np.float32(last.T),
        truncated=np.zeros((3, 8), bool),
        extras={"log_prob": np.full((3, 8), -np.log(2.0), np.float32)},
    )
    return flat_policy(life.train), trajectory


def policy_logits(params):
    """The leaf of the parameters that holds the logits `[3, 2]`."""
    tables = [leaf for leaf in jax.tree.leaves(params) if leaf.shape == (3, 2)]
    assert len(tables) == 1, jax.tree.map(jnp.shape, params)
    return tables[0]


def expected_return(logits, np=np):
    """Of the three steps, over all sequences, undiscounted."""
    actions, states, reward, _ = every_sequence()
    log_probs = logits - np.log(np.sum(np.exp(logits), axis=1, keepdims=True))
    return np.sum(np.exp(np.sum(log_probs[states, actions], axis=1)) * np.sum(reward, axis=1))


@pytest.mark.slow
def test_the_training_gradient_is_the_agents_and_moves_as_training_does(learner):
    """A gradient of the agent is minus the slope of the return per step; so is its Jacobian."""
    train, trajectory = learner
    params = train.agent.params

    @jax.jit
    def gradients(direction):
        def gradient(params, through_data):
            at = train.replace(agent=train.agent.replace(params=params))
            through = meta.ImplicitGradient(through_data=through_data)
            return through.training_gradient(KEY, AGENT, at, trajectory)

        tangent = jax.tree.map(lambda p: jnp.zeros_like(p), params)
        leaves, tree = jax.tree.flatten(tangent)
        tangent = jax.tree.unflatten(
            tree, [direction if leaf.shape == (3, 2) else leaf for leaf in leaves]
        )
        full = jax.jvp(lambda p: gradient(p, True), (params,), (tangent,))
        fixed = jax.jvp(lambda p: gradient(p, False), (params,), (tangent,))
        return full, fixed, AGENT.update(KEY, train.agent, trajectory)[0]

    direction = RANDOM.normal(size=(3, 2))
    full, fixed, updated = jax.device_get(gradients(np.float32(direction)))
    for ours, old, new in zip(
        jax.tree.leaves(full[0]),
        jax.tree.leaves(params),
        jax.tree.leaves(updated.params),
        strict=True,
    ):
        np.testing.assert_allclose(ours, old - new, atol=1e-6)

    def slope(logits):
        moved = []
        for index in np.ndindex(3, 2):
            shift = np.zeros((3, 2))
            shift[index] = 1e-4
            moved.append(expected_return(logits + shift) - expected_return(logits - shift))
        return np.reshape(moved, (3, 2)) / 2e-4

    np.testing.assert_allclose(policy_logits(full[0]), -slope(np.zeros((3, 2))) / 3.0, atol=1e-5)
    bend = (slope(1e-3 * direction) - slope(-1e-3 * direction)) / 2e-3
    np.testing.assert_allclose(policy_logits(full[1]), -bend / 3.0, atol=1e-4)
    # Without the data's part it is another matrix altogether.
    short = np.linalg.norm(np.asarray(policy_logits(fixed[1])) + bend / 3.0)
    assert short > 0.3 * np.linalg.norm(bend / 3.0)


# ---- learned rewards -----------------------------------------------------------------------------


HINT = np.array([[1.0, -0.5], [-1.0, 0.5], [0.0, 0.0]])


def primary(observation, action, reward):
    return reward


def odd_cells(observation, action):
    return jnp.asarray(HINT, jnp.float32)[observation, action]


def left_wall(observation, action):
    return 0.3 * ((observation == 0) & (action == 0))


def blend(rule, hint, hint_factor):
    rule = with_reward(rule, primary, hint=hint)
    return rule.replace(reward=rule.reward.replace(hint_factor=hint_factor))


@pytest.mark.slow
def test_the_full_gradient_is_the_slope_of_trained_returns_and_that_on_fixed_data_is_not():
    """The end of training is solved for on all sequences; the library sees each as often as it
    happens there, in 1000 episodes."""
    entropy_weight, weight = 1.0, 0.8
    actions, states, paid, last = every_sequence()

    def end_of_training(weight, guess):
        """Logits at which the expected gradient of the agent's loss is zero, by SciPy."""
        reward = paid + weight * HINT[states, actions]
        ahead = np.cumsum(reward[:, ::-1], axis=1)[:, ::-1]

        def gradient(logits):
            logits = logits.reshape(3, 2)
            probs = np.exp(logits) / np.sum(np.exp(logits), axis=1, keepdims=True)
            logs = np.log(probs)
            odds = np.prod(probs[states, actions], axis=1)
            found = 1e-3 * logits  # a hold for the state that is never met
            for t in range(3):
                for row in range(8):
                    s, a = states[row, t], actions[row, t]
                    score = (np.arange(2) == a) - probs[s]
                    bend = -probs[s] * (logs[s] - np.sum(probs[s] * logs[s]))
                    found[s] -= odds[row] * (score * ahead[row, t] + entropy_weight * bend)
            return found.ravel()

        solution = root(gradient, guess.ravel(), method="lm", tol=1e-12)
        assert solution.success
        return solution.x.reshape(3, 2)

    best = end_of_training(weight, np.zeros((3, 2)))
    ends = [expected_return(end_of_training(weight + h, best)) for h in (1e-3, -1e-3)]
    slope = (ends[0] - ends[1]) / 2e-3

    rule = blend(AGENT.rule.replace(entropy_weight=entropy_weight), odd_cells, weight)
    agent = AGENT.replace(rule=rule, num_envs=1000)
    start = jax.jit(
        lambda key: meta.Life.start(key, agent, meta.Task(env(), jnp.float32(1e6))).train
    )
    train = flat_policy(start(KEY))
    params = jax.tree.map(
        lambda leaf: jnp.asarray(best, jnp.float32) if leaf.shape == (3, 2) else leaf,
        train.agent.params,
    )
    odds = np.exp(best) / np.sum(np.exp(best), axis=1, keepdims=True)
    odds = np.prod(odds[states, actions], axis=1)
    rows = np.searchsorted(np.cumsum(odds), (np.arange(1000) + 0.5) / 1000)
    data = Transition(
        observation=jnp.asarray(states[rows].T),
        action=jnp.asarray(actions[rows].T),
        reward=jnp.asarray(paid[rows].T, jnp.float32),
        discount=jnp.asarray(1.0 - last[rows].T, jnp.float32),
        next_observation=jnp.asarray(actions[rows].T),
        terminated=jnp.asarray(last[rows].T, jnp.float32),
        truncated=jnp.zeros((3, rows.size), bool),
        extras={"log_prob": jnp.zeros((3, rows.size))},
    )
    free = meta.tuned(agent, ["rule.reward.hint_factor"])

    @jax.jit
    def slopes(params):
        def of(through_data):
            series = meta.NeumannSeries(num_terms=400, step_size=0.8)
            through = meta.ImplicitGradient(series, through_data)

            def inner(params, rule_params):
                at = train.replace(agent=train.agent.replace(params=params))
                agent = free.agent_of(rule_params)
                return through.training_gradient(KEY, agent, at, data)

            def outer(params, rule_params):
                cells, zero = jnp.arange(3), jnp.zeros(3, bool)
                model = train.agent.model
                policy, _ = model.apply(params, cells, zero, (), method="policy")
                return expected_return(policy.log_probs(), jnp)

            return through.hypergradient(inner, outer, params, free.init())

        return of(True), of(False)

    full, fixed = slopes(params)

    name = "rule.reward.hint_factor"
    assert float(full.residual) < 0.02
    np.testing.assert_allclose(full.gradient[name], slope, rtol=0.02)
    assert abs(float(fixed.gradient[name]) - slope) > 0.15 * abs(slope)


def corridor():
    """Five cells: the goal at the right end pays 1 and ends; a hint pays for the left wall."""
    transition, reward, terminal = np.zeros((5, 2, 5)), np.zeros((5, 2)), np.zeros((5, 2, 5))
    for cell in range(4):
        transition[cell, 0, max(cell - 1, 0)] = transition[cell, 1, cell + 1] = 1.0
    transition[4, :, 4] = reward[3, 1] = terminal[3, 1, 4] = 1.0
    mdp = tabular_mdp(transition, reward, 0.9, initial=np.eye(5)[1], terminal=terminal)
    return TabularEnv(mdp, time_limit=12.0)


def hinted(hint_factor):
    return AGENT.replace(
        rule=blend(AdvantageActorCritic(entropy_weight=0.03), left_wall, hint_factor),
        optimiser=Optimiser(learning_rate=0.05, max_grad_norm=None),
        num_envs=16,
        rollout_length=12,
        discount=0.9,
    )


@pytest.mark.slow
def test_a_misleading_hint_is_unlearned_where_the_plain_sum_fails():
    """Scored by the primary reward alone, whose best return is 1."""
    tasks = meta.Task(corridor(), 16 * 12 * 60.0)
    held_out = meta.HeldOut(tasks, 16 * 12 * 60.0, num_lives=16)

    def returns_of(agent):
        agent = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), agent)  # one program
        return np.asarray(held_out.lives(jax.random.key(5), agent).final_return)

    assert returns_of(hinted(0.0)).min() > 0.95
    assert np.nanmean(returns_of(hinted(1.0))) < 0.2
    names = ["rule.reward.hint_factor", "discount"]
    outer = meta.MetaGradient(
        meta.tuned(hinted(1.0), names),
        tasks,
        optimiser=Optimiser(learning_rate=0.05, max_grad_norm=1.0),
        num_lives=8,
        num_updates=6,
        through=meta.ImplicitGradient(
            meta.NeumannSeries(num_terms=40, step_size=1.0), num_rollouts=4
        ),
    )
    found = meta.fit(KEY, outer, num_steps=60, chunk_steps=60)
    learned = outer.tuned.values(found.state.rule_params)
    assert float(learned["rule.reward.hint_factor"]) < 0.5
    assert float(learned["discount"]) != pytest.approx(0.9, abs=0.01)
    assert returns_of(found.agent).min() > 0.95
    assert np.all(found.metrics["nonfinite_fraction"] == 0.0)
    assert np.mean(found.metrics["diverged_fraction"]) < 0.3
    assert np.mean(found.metrics["implicit_residual"][-20:]) < 0.8


def test_standardised_advantages_are_refused():
    outer = meta.MetaGradient(
        meta.tuned(a2c(), ["discount"]), meta.Task(env(), 1e3), through=meta.ImplicitGradient()
    )
    with pytest.raises(ValueError, match="normalise_advantages=False"):
        jax.eval_shape(lambda key: outer.step(outer.init(key)), KEY)
