"""Budgets shared by the actions of a state: linear and conic programs, certificates, limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linprog

from jaxrl.functionals import SharedKL, SharedL1, TotalVariation

NUM_STATES = 24
KINDS = (SharedL1, SharedKL)
TIGHT = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}
CONIC = {"solver": "CLARABEL", "tol_gap_abs": 1e-11, "tol_gap_rel": 1e-11, "tol_feas": 1e-11}


@jax.jit
def play(functionals, probs, values, mask):
    """Game value, policy, derivatives; then the value of that policy and its derivatives."""

    def one(functional, probs, values, mask):
        def game(functional, probs, values):
            return functional.over_actions(probs, values, mask)

        def reply(functional, policy, probs, values):
            return functional.for_policy(policy, probs, values)

        (value, policy), by_game = jax.value_and_grad(game, (0, 1, 2), has_aux=True)(
            functional, probs, values
        )
        against = jax.value_and_grad(reply, (0, 1, 2, 3))(functional, policy, probs, values)
        return value, policy, by_game, against

    return jax.vmap(one)(functionals, probs, values, mask)


@jax.jit
def reply(functionals, policy, probs, values):
    """Value of a policy; its derivatives in the functional, the policy, probs and values."""
    one = jax.value_and_grad(lambda f, *given: f.for_policy(*given), (0, 1, 2, 3))
    return jax.vmap(one)(functionals, policy, probs, values)


@jax.jit
def value_alone(functionals, probs, values):
    return jax.vmap(lambda f, p, v: f.over_actions(p, v)[0])(functionals, probs, values)


def solve(functionals, probs, values, mask=None, dtype=float):
    mask = np.ones(probs.shape[:2], bool) if mask is None else mask
    with jax.enable_x64(dtype is float):
        given = jax.tree.map(lambda x: jnp.asarray(x, dtype), (functionals, probs, values))
        return jax.tree.map(np.asarray, play(*given, jnp.asarray(mask)))


def random_states(actions, atoms, seed=0):
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(atoms, 0.7), (NUM_STATES, actions))
    if atoms > 2:
        probs = np.where(rng.random(probs.shape) < 0.2, 0.0, probs)
        probs[..., 0] += 1e-3
    values = rng.normal(size=probs.shape) + 0.3 * rng.normal(size=(NUM_STATES, actions, 1))
    if atoms > 3:
        values[::3, :, 2] = values[::3, :, 1]
    values *= 10 ** rng.uniform(-6, 6, (NUM_STATES, 1, 1))
    values += rng.choice([0, 1, -1], (NUM_STATES, 1, 1)) * 10 ** rng.uniform(
        0, 5, (NUM_STATES, 1, 1)
    )
    budgets = 10 ** rng.uniform(-8, 0.8, NUM_STATES)
    return probs / probs.sum(-1, keepdims=True), values, budgets


def l1_program(probs, values, budget):
    """Least u with q_a.v_a <= u for all a: one linear program in q = p + up - down and u."""
    (actions, atoms), size = probs.shape, probs.size
    low, spread = values.min(), np.ptp(values)
    gaps = (values - low) / spread
    rows = np.zeros((actions + 1, 2 * size + 1))
    sums = np.zeros((actions, 2 * size + 1))
    for a in range(actions):
        own = slice(a * atoms, (a + 1) * atoms)
        rows[a, :size][own], rows[a, size:-1][own] = gaps[a], -gaps[a]
        sums[a, :size][own], sums[a, size:-1][own] = 1.0, -1.0
    rows[:actions, -1] = -1.0
    rows[actions, :-1] = 1.0 / budget
    ups = [(0, None if p > 0 else 0) for p in probs.ravel()]
    solved = linprog(
        np.eye(2 * size + 1)[-1],
        A_ub=rows,
        b_ub=np.append(-np.sum(probs * gaps, 1), 1.0),
        A_eq=sums,
        b_eq=np.zeros(actions),
        bounds=[*ups, *((0, p) for p in probs.ravel()), (None, None)],
        options=TIGHT,
    )
    assert solved.success, solved.message
    return low + spread * solved.fun


def kl_program(probs, values, budget):
    """The same with relative entropies: an exponential cone program."""
    import cvxpy as cp  # takes seconds

    low, spread = values.min(), np.ptp(values)
    level, spent, constraints = cp.Variable(), 0.0, []
    for p, v in zip(probs, (values - low) / spread, strict=True):
        law = cp.Variable(int(np.sum(p > 0)))
        spent = spent + cp.sum(cp.rel_entr(law, p[p > 0]))
        constraints += [cp.sum(law) == 1, law @ v[p > 0] <= level]
    program = cp.Problem(cp.Minimize(level), [*constraints, spent <= budget])
    return low + spread * program.solve(**CONIC)


def distances(kind, laws, probs):
    """`[A]`: L1 distance or relative entropy of each law."""
    if kind is SharedL1:
        return np.abs(laws - probs).sum(-1)
    ratios = np.where((laws > 0) & (probs > 0), laws, 1.0) / np.where(laws > 0, probs, 1.0)
    return np.sum(np.where(laws > 0, laws * np.log(np.where(laws > 0, ratios, 1.0)), 0.0), -1)


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        (SharedL1, (4, 7)),
        pytest.param(SharedL1, (2, 36), marks=pytest.mark.slow),  # sorts beyond 32 atoms
        pytest.param(SharedKL, (4, 7), marks=pytest.mark.slow),
    ],
)
def test_game_is_certified_from_both_sides(kind, shape):
    """The laws keep the budget and hold every action at the value; the policy then earns it."""
    probs, values, budgets = random_states(*shape)
    game, policy, (by_own, by_probs, weights), (earned, by_reply) = solve(
        kind(budgets), probs, values
    )
    scales = np.abs(values).max((1, 2))
    np.testing.assert_allclose(policy.sum(1), 1.0, rtol=1e-12)
    assert np.all(policy >= 0) and np.all(np.isfinite(by_probs))
    np.testing.assert_allclose(weights.sum(2), policy, atol=1e-12)
    played = policy > 0
    laws = np.where(played[..., None], weights / np.where(played, policy, 1)[..., None], probs)
    used = distances(kind, laws, probs).sum(1)
    assert np.all(used <= budgets * (1 + 1e-6) + 1e-13)
    levels = np.sum(laws * values, 2)  # actions not played keep their means
    held = played | (by_own.budget < 0)[:, None]  # with budget to spare, it lowers those as well
    excess = np.where(held, levels - game[:, None], 0.0)
    assert np.all(excess <= 1e-11 * scales[:, None])  # nature grants no more
    assert np.all(np.abs(earned - game) <= 1e-11 * scales)  # the policy earns no less
    # Two laws of the best reply may differ, but not what it costs more budget to improve them.
    np.testing.assert_allclose(
        by_reply[0].budget, by_own.budget, rtol=1e-4, atol=1e-7 * scales.max()
    )


def test_l1_is_the_linear_program():
    probs, values, budgets = random_states(4, 7, seed=1)
    game = solve(SharedL1(budgets), probs, values)[0]
    for i in range(NUM_STATES):
        expected = l1_program(probs[i], values[i], budgets[i])
        assert abs(game[i] - expected) <= 1e-9 * np.abs(values[i]).max()


@pytest.mark.slow
def test_kl_is_the_conic_program():
    probs, values, _ = random_states(4, 7, seed=2)
    budgets = np.geomspace(1e-3, 10.0, NUM_STATES)
    game = solve(SharedKL(budgets), probs, values)[0]
    for i in range(0, NUM_STATES, 4):
        expected = kl_program(probs[i], values[i], budgets[i])
        assert abs(game[i] - expected) <= 1e-8 * np.abs(values[i]).max()


@pytest.mark.parametrize("kind", [SharedL1, pytest.param(SharedKL, marks=pytest.mark.slow)])
def test_limits_and_masks(kind):
    """No budget: the greatest mean; a great one: the greatest least value; masked or lost, out."""
    probs, values, _ = random_states(4, 7)
    mask = np.ones((NUM_STATES, 4), bool)
    mask[:, 1] = False
    values[:, 1] = np.where(np.arange(7) < 3, np.nan, np.inf)
    values[:, 2, 0] = -np.inf  # a possible catastrophe: never the best action here
    values[:, 0] = np.where(probs[:, 0] > 0, values[:, 0], np.nan)
    safe = [0, 3]
    held = np.where(probs > 0, values, 0.0)[:, safe]
    means = np.sum(probs[:, safe] * held, 2).max(1)
    lows = np.where(probs[:, safe] > 0, held, np.inf).min(2).max(1)
    for budget, expected in ((0.0, means), (1e3, lows)):
        functionals = kind(np.full(NUM_STATES, budget))
        game, policy, (by_own, by_probs, weights), _ = solve(functionals, probs, values, mask)
        assert np.all(np.abs(game - expected) <= 1e-11 * np.abs(held).max((1, 2)))
        assert np.all(policy[:, 1:3] == 0) and np.all(np.isfinite(by_own.budget))
        assert np.all(np.isfinite(by_probs)) and np.all(np.isfinite(weights))
    assert np.all(solve(functionals, probs, values, np.zeros_like(mask))[0] == -np.inf)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_random_policy_never_earns_more(kind):
    probs, values, budgets = random_states(4, 7, seed=3)
    value = solve(kind(budgets), probs, values)[0]
    policies = np.random.default_rng(0).dirichlet(np.full(4, 0.5), (NUM_STATES))
    with jax.enable_x64(True):
        earned = reply(kind(jnp.asarray(budgets)), policies, probs, values)[0]
    assert np.all(np.asarray(earned) <= value + 1e-12 * np.abs(values).max((1, 2)))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_of_a_policy_are_differences(kind):
    probs, values, _ = random_states(4, 7, seed=4)
    probs = 0.9 * probs + 0.1 / 7
    values = np.random.default_rng(1).normal(size=values.shape)
    budgets = np.geomspace(0.01, 1.0, NUM_STATES)
    rng = np.random.default_rng(5)
    given = (budgets, rng.dirichlet(np.ones(4), NUM_STATES), probs, values)
    with jax.enable_x64(True):

        def call(budgets, *rest):
            return reply(kind(jnp.asarray(budgets)), *map(jnp.asarray, rest))

        by_functional, *others = call(*given)[1]
        ours = (by_functional.budget, *others)
        for k, slope in enumerate(ours):
            by = rng.normal(size=given[k].shape)
            if k == 2:
                by -= by.mean(-1, keepdims=True)
            up, down = (
                call(*(x + s * 1e-6 * by if j == k else x for j, x in enumerate(given)))[0]
                for s in (1, -1)
            )
            expected = np.asarray(up - down) / 2e-6
            found = np.sum(np.reshape(slope * by, (NUM_STATES, -1)), 1)
            error = np.abs(found - expected) / (1 + np.abs(expected))
            assert np.median(error) < 1e-8 and np.mean(error < 1e-5) > 0.9, k


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_float32_is_within_its_rounding(kind):
    probs, values, budgets = (np.asarray(x, np.float32) for x in random_states(4, 7, seed=6))
    game = np.asarray(value_alone(kind(budgets), probs, values))
    expected = solve(kind(budgets), probs, values)[0]
    unit = np.finfo(np.float32).eps / 2
    assert game.dtype == np.float32
    assert np.all(np.abs(game - expected) <= 64 * 7 * unit * np.abs(values).max((1, 2)))


@pytest.mark.slow
def test_one_action_has_the_whole_budget():
    """For L1 that is total variation; for KL, the conic program of one action."""
    probs, values, budgets = random_states(1, 7)
    scales = np.abs(values).max((1, 2))
    with jax.enable_x64(True):
        apply = jax.jit(jax.vmap(lambda f, p, v: f(p, v)))
        given = jnp.asarray(probs[:, 0]), jnp.asarray(values[:, 0])
        single = apply(SharedL1(jnp.asarray(budgets)), *given)
        variation = apply(TotalVariation(jnp.asarray(budgets / 2)), *given)
        entropy = apply(SharedKL(jnp.asarray(budgets)), *given)
    assert np.all(np.abs(single - variation) <= 1e-13 * scales)
    for i in np.flatnonzero((budgets > 1e-3) & (budgets < 1))[:3]:
        assert abs(entropy[i] - kl_program(probs[i], values[i], budgets[i])) <= 1e-8 * scales[i]
