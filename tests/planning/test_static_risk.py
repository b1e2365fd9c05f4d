"""Static risk against every history-dependent policy of tiny models, in plain NumPy.

In double precision but where single is meant, with models of one shape: programs are shared.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from jaxrl import BellmanOperator, outcome_mdp, planning, stack_mdps
from jaxrl.core import struct
from jaxrl.functionals import CVaR
from jaxrl.operators import Categorical
from jaxrl.planning import (
    chow_cvar_upper_bound,
    distributional_value_iteration,
    nested_cvar,
    return_law,
    static_cvar,
    static_entropic,
    static_evar,
    static_var,
    stock_augmented,
)
from jaxrl.returns import next_stock

H = 3
LEVELS = (0.1, 0.35, 0.7, 1.0)


@pytest.fixture(autouse=True)
def double_precision():
    with jax.enable_x64(True):
        yield


@functools.cache
def random_mdp(
    seed, discount=1.0, num_states=2, num_actions=2, terminal=True, lattice=True, one_action=False
):
    """Two outcomes a pair; rewards in {-1, 0, 1, 2} or normal."""
    rng = np.random.default_rng(seed)
    shape = (num_states, num_actions, 2)
    reward = rng.integers(-1, 3, shape) if lattice else rng.normal(size=shape)
    mask = np.ones(shape[:2], bool)
    if one_action:
        mask[:, 1] = False
    else:
        mask[rng.integers(num_states), rng.integers(num_actions)] = False
    first = rng.dirichlet(np.ones(num_states)) if seed % 2 else None
    return outcome_mdp(
        rng.dirichlet(np.ones(2), shape[:2]),
        rng.integers(num_states, size=shape),
        reward,
        discount,
        terminal=rng.random(shape) < 0.3 if terminal else None,
        mask=mask,
        initial=first,
    )


def batch_of_one():
    return jax.tree.map(lambda x: np.asarray(x)[None], random_mdp(0))


def arrays(mdp):
    names = ("prob", "next_state", "reward", "terminal", "legal", "initial")
    return {name: np.asarray(getattr(mdp, name)) for name in names}


def product(laws):
    """Laws of independent choices, as rows: the atoms of each side by side."""
    probs, atoms = zip(*laws, strict=True)
    grids = [np.repeat, np.tile]
    while len(probs) > 1:
        n, m = len(probs[0]), len(probs[1])
        first = [
            np.concatenate([grids[0](x[0], m, 0), grids[1](x[1], (n, 1))], 1)
            for x in (probs, atoms)
        ]
        probs, atoms = (first[0], *probs[2:]), (first[1], *atoms[2:])
    return probs[0], atoms[0]


def all_laws(mdp, horizon, state=None):
    """The return's law under every deterministic history-dependent policy: `[policies, paths]`."""
    rows, discount = arrays(mdp), float(mdp.discount)

    def ahead(s, steps):
        if steps == 0:
            return np.ones((1, 1)), np.zeros((1, 1))
        found = []
        for a in np.flatnonzero(rows["legal"][s]):
            branches = []
            for k in range(rows["prob"].shape[2]):
                prob, end = rows["prob"][s, a, k], float(rows["terminal"][s, a, k])
                after = [(1.0 - end, ahead(rows["next_state"][s, a, k], steps - 1))]
                if end > 0:
                    after.append((end, (np.ones((1, 1)), np.zeros((1, 1)))))
                for share, (probs, atoms) in after:
                    if share > 0:
                        value = rows["reward"][s, a, k] + discount * atoms
                        branches.append((prob * share * probs, value))
            found.append(product(branches))
        widest = max(p.shape[1] for p, _ in found)
        pad = lambda x: np.pad(x, ((0, 0), (0, widest - x.shape[1])))  # noqa: E731
        return tuple(np.concatenate([pad(f[i]) for f in found]) for i in (0, 1))

    if state is not None:
        return ahead(state, horizon)
    starts = [
        (rows["initial"][s] * probs, atoms)
        for s in np.flatnonzero(rows["initial"])
        for probs, atoms in [ahead(s, horizon)]
    ]
    return product(starts)


def cvar(probs, atoms, level):
    """Rows of laws -> `[rows]`; the maximum form, over the atoms."""
    short = np.maximum(atoms[:, :, None] - atoms[:, None, :], 0.0)
    return np.max(atoms - np.einsum("rj,rij->ri", probs, short) / level, axis=1)


def var(probs, atoms, level):
    """The lower quantile."""
    order = np.argsort(atoms, axis=1)
    probs, atoms = np.take_along_axis(probs, order, 1), np.take_along_axis(atoms, order, 1)
    reached = np.cumsum(probs, axis=1) >= level - 1e-9
    return np.take_along_axis(atoms, np.argmax(reached, axis=1)[:, None], 1)[:, 0]


def entropic(probs, atoms, aversion):
    least = atoms.min(axis=1, keepdims=True)
    moment = np.sum(probs * np.exp(-aversion * (atoms - least)), axis=1)
    return least[:, 0] - np.log(moment) / aversion


@jax.jit
def _look(plan, time, state, stock, reward, discount):
    """The action at each node `[N]`, and the stocks after each of its rewards `[N, K]`."""
    later = jax.vmap(jax.vmap(next_stock, (None, 0, None)), (0, 0, None))(stock, reward, discount)
    return jax.vmap(plan.action, (None, 0, 0))(time, state, stock), later


MOST_NODES = 256


def look(plan, time, state, stock, rows, discount):
    """As `_look`, of the rewards of the actions taken; filled up to one size."""
    full = lambda x: np.concatenate([x, np.zeros(MOST_NODES - len(x), x.dtype)])  # noqa: E731
    num_nodes, state, stock = len(state), full(state.astype(np.int32)), full(stock)
    action = np.asarray(_look(plan, time, state, stock, rows["reward"][state, 0], discount)[0])
    found = _look(plan, time, state, stock, rows["reward"][state, action], discount)
    return action[:num_nodes], np.asarray(found[1])[:num_nodes]


def rollout_law(plan, mdp, state=None):
    """Every path of the policy, with its stock; checks the telescoping identity on the way."""
    rows, discount = arrays(mdp), float(mdp.discount)
    initial = np.eye(mdp.num_states)[state] if state is not None else rows["initial"]
    first, horizon = float(plan.initial_stock), len(plan.weights)
    (states,) = np.nonzero(initial)
    stocks, chances, gained = np.full(len(states), first), initial[states], np.zeros(len(states))
    probs, atoms = [], []
    for t in range(horizon):
        actions, later = look(plan, t, states, stocks, rows, discount)
        assert np.all(rows["legal"][states, actions])
        total = gained[:, None] + discount**t * rows["reward"][states, actions]
        np.testing.assert_allclose(discount ** (t + 1) * later, first + total, atol=1e-12)
        here = chances[:, None] * rows["prob"][states, actions]
        ends = rows["terminal"][states, actions].astype(float) if t + 1 < horizon else 1.0
        probs.append((here * ends).ravel())
        atoms.append(total.ravel())
        goes_on = (here * (1.0 - ends)).ravel() > 0
        chances = (here * (1.0 - ends)).ravel()[goes_on]
        states = rows["next_state"][states, actions].ravel()[goes_on]
        stocks, gained = later.ravel()[goes_on], total.ravel()[goes_on]
    probs, atoms = np.concatenate(probs), np.concatenate(atoms)
    return probs[None, probs > 0], atoms[None, probs > 0]


@functools.cache
def laws_of(mdp_seed, **settings):
    return all_laws(random_mdp(mdp_seed, **settings), H)


@functools.cache
def cvar_plan(seed, level):
    return static_cvar(random_mdp(seed), level=level, horizon=H)


# ---- CVaR ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, pytest.param(2, marks=pytest.mark.slow)])
def test_static_cvar_is_the_best_of_all_history_dependent_policies(seed):
    mdp, laws = random_mdp(seed), laws_of(seed)
    for level in LEVELS:
        plan = cvar_plan(seed, level)
        np.testing.assert_allclose(plan.value, cvar(*laws, level).max(), atol=1e-12)
        assert plan.error_bound < 1e-12
        np.testing.assert_allclose(cvar(*rollout_law(plan, mdp), level), plan.value, atol=1e-12)
        # Of the best policy for each target b: E min(G - b, 0).
        probs, atoms = laws
        short = [np.max(np.sum(probs * np.minimum(c + atoms, 0.0), 1)) for c in plan.stocks[:8]]
        np.testing.assert_allclose(plan.utilities[:8], short, atol=1e-12)


@pytest.mark.parametrize("discount", [0.5, pytest.param(0.9, marks=pytest.mark.slow)])
def test_discounted_rewards_on_a_lattice_are_exact_too(discount):
    """Whole rewards and three steps: returns are multiples of 1/4, or of 1/100."""
    for seed in range(2):
        mdp, laws = random_mdp(seed, discount=discount), laws_of(seed, discount=discount)
        for level in (0.05, 0.4):
            plan = static_cvar(mdp, level=level, horizon=H)
            best = cvar(*laws, level).max()
            assert abs(float(plan.value) - best) <= float(plan.error_bound) < 1e-9
            np.testing.assert_allclose(cvar(*rollout_law(plan, mdp), level), best, atol=1e-9)
            found = static_var(mdp, level=level, horizon=H)
            np.testing.assert_allclose(found.value, var(*laws, level).max(), atol=1e-9)


@pytest.mark.parametrize(
    "discount, horizon, step",
    [
        (1.0, 9, 1.0),
        (0.5, 3, 0.25),
        (0.9, 3, 0.01),
        (0.5, 14, None),
        (0.99, 4, None),
        (1e-6, 2, None),
    ],
)
def test_the_step_of_discounted_whole_rewards(discount, horizon, step):
    """None is claimed where 4,096 points are too few."""
    found = planning.stock.lattice_step(random_mdp(0, discount=discount), horizon)
    assert found == (step and pytest.approx(step, rel=1e-6))


@pytest.mark.parametrize("num_stocks", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_off_the_lattice_the_bound_holds_and_the_policy_attains_it(num_stocks):
    for seed in range(3):
        mdp = random_mdp(seed, discount=0.8, lattice=False)
        laws = laws_of(seed, discount=0.8, lattice=False)
        for level in LEVELS:
            plan = static_cvar(mdp, level=level, horizon=H, num_stocks=num_stocks)
            best, bound = cvar(*laws, level).max(), float(plan.error_bound)
            assert abs(float(plan.value) - best) <= bound <= 30.0 / num_stocks
            attained = cvar(*rollout_law(plan, mdp), level)[0]
            assert attained >= float(plan.value) - bound - 1e-12


@pytest.mark.slow
@pytest.mark.parametrize("solve, score", [(static_cvar, cvar), (static_var, var)])
@pytest.mark.parametrize("seed", range(4))
def test_off_the_lattice_a_small_law_is_exact(solve, score, seed):
    mdp = random_mdp(seed, discount=0.8, lattice=False)
    laws = laws_of(seed, discount=0.8, lattice=False)
    for level in LEVELS[:3]:
        plan = solve(mdp, level=level, horizon=H)
        best, bound = score(*laws, level).max(), float(plan.error_bound)
        assert abs(float(plan.value) - best) < 1e-9 and 0 < bound < 0.05


@pytest.mark.slow
def far_reward(big, discount=1.0):
    """The choice after the first draw matters little beside a rare reward, off every lattice."""
    prob, after, reward = np.zeros((3, 2, 3)), np.full((3, 2, 3), 2), np.zeros((3, 2, 3))
    prob[0], after[0, :, :2] = [0.495, 0.495, 0.01], 1
    reward[0] = [0.0, np.pi, big * np.sqrt(2.0)]
    prob[1:, :, 0], reward[1, 0, 0] = 1.0, 1.0
    prob[1, 1, :2], reward[1, 1, 1] = 0.5, np.e
    return outcome_mdp(
        prob, after, reward, discount, initial=[1.0, 0.0, 0.0], terminal=[False, False, True]
    )


FEW = {
    **{f"far {g}": functools.partial(far_reward, 1e4, g) for g in (1.0, 0.9, 0.0)},
    **{
        f"random {seed}": functools.partial(random_mdp, seed, discount, lattice=False)
        for seed, discount in [(0, 1.0), (1, 0.9), (2, 0.7), (3, 1.0), (4, 0.95), (5, 0.3)]
    },
}


QUICK = ("far 1.0", "far 0.9", "random 1")


@pytest.mark.parametrize("solve, score", [(static_cvar, cvar), (static_var, var)])
@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in FEW]
)
def test_few_stocks_off_every_lattice_are_planned_exactly(solve, score, name):
    mdp, horizon = FEW[name](), 2 if name.startswith("far") else H
    laws = all_laws(mdp, horizon, 0 if name.startswith("far") else None)
    for level in (0.2, 0.3, 0.5, 0.8, 0.95):  # the reference counts 1 - 1e-9 as 1
        plan = solve(mdp, level=level, horizon=horizon)
        best = score(*laws, level).max()
        np.testing.assert_allclose(plan.value, best, rtol=1e-9, atol=1e-9)
        assert plan.error_bound < 1e-9
        law = plan.return_law(mdp, num_atoms=64)
        kept = score(np.asarray(law.law.probs)[None], np.asarray(law.law.atoms)[None], level)[0]
        assert law.is_exact
        np.testing.assert_allclose(kept, best, rtol=1e-9, atol=1e-9)


def test_exact_to_rounding_in_double_precision():
    for seed in range(2):
        mdp = random_mdp(seed, terminal=False)
        plan = static_cvar(mdp, level=0.3, horizon=H, initial_state=1)
        best = cvar(*all_laws(mdp, H, state=1), 0.3).max()
        assert abs(float(plan.value) - best) <= float(plan.error_bound) < 1e-12


def adaptive_mdp():
    """A coin for 0 or 4; then 1 for sure, or a coin for 0 or 4. State 1 is the second choice."""
    half, coin = [0.5, 0.5], [0.0, 4.0]
    return outcome_mdp(
        [[half, half], [half, half]],
        np.ones((2, 2, 2), int),
        [[coin, coin], [[1.0, 1.0], coin]],
        1.0,
        mask=[[True, False], [True, True]],
    )


@pytest.mark.slow
def test_the_best_policy_looks_at_what_is_missing():
    """At level 3/4. Always sure: 1 or 5, (1/2 + 5/4) / (3/4) = 7/3. Always the coin: 0, 4, 4 or 8,
    (0 + 2) / (3/4) = 8/3. The coin after 0 and sure after 4: 0, 4 or twice 5, 9/4 / (3/4) = 3."""
    with jax.enable_x64(False):
        mdp = adaptive_mdp()
        best = static_cvar(mdp, level=0.75, horizon=2)
        assert best.value.dtype == jnp.float32
        np.testing.assert_allclose(best.value, 3.0, atol=1e-5)
        after = best.initial_stock + np.float32([0.0, 4.0])  # nothing is discounted
        act = jax.jit(jax.vmap(best.action, (None, None, 0)))
        assert np.asarray(act(1, 1, after)).tolist() == [1, 0]
        policies = np.stack([[[1.0, 0.0], np.eye(2)[action]] for action in (0, 1)])
        laws = jax.jit(jax.vmap(lambda p: return_law(mdp, p, horizon=2, num_atoms=8).law))
        found = jax.device_get(laws(policies.astype(np.float32)))
        np.testing.assert_allclose(cvar(found.probs, found.atoms, 0.75), [7 / 3, 8 / 3], rtol=1e-6)
        # Nested: the second step is worth 4/3 by the coin, the first as much again.
        nested = nested_cvar(mdp, level=0.75, horizon=2)
        np.testing.assert_allclose(nested.value, 8 / 3, atol=1e-5)


# ---- value at risk ---------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1, pytest.param(2, marks=pytest.mark.slow)])
def test_static_var_is_the_best_of_all_history_dependent_policies(seed):
    mdp, laws = random_mdp(seed), laws_of(seed)
    for level in np.linspace(0.05, 0.95, 19):
        plan = static_var(mdp, level=level, horizon=H)
        np.testing.assert_allclose(plan.value, var(*laws, level).max(), atol=1e-12)
        assert plan.error_bound < 1e-12
        assert var(*rollout_law(plan, mdp), level) >= plan.value - 1e-12


@pytest.mark.slow
def test_var_of_a_level_that_is_reached_exactly_is_the_lower_quantile():
    """0, 1 and 2 with 1/4, 1/2 and 1/4: P(G <= 0) reaches 1/4, P(G <= 1) reaches 3/4."""
    mdp = outcome_mdp([[[0.5, 0.5]]], [[[0, 0]]], [[[0.0, 1.0]]], 1.0)
    levels = jnp.array([0.25, 0.26, 0.75, 0.76])
    found = jax.vmap(lambda q: static_var(mdp, level=q, horizon=2).value)(levels)
    assert found.tolist() == [0.0, 1.0, 1.0, 2.0]


@pytest.mark.slow
def test_var_off_the_lattice_is_bracketed():
    for seed in range(3):
        mdp = random_mdp(seed, discount=0.8, lattice=False)
        laws = laws_of(seed, discount=0.8, lattice=False)
        for level in LEVELS[:3]:
            plan = static_var(mdp, level=level, horizon=H, num_stocks=2000)
            best = var(*laws, level).max()
            assert float(plan.value) - 1e-12 <= best <= float(plan.value + plan.error_bound)
            attained = var(*rollout_law(plan, mdp), level)[0]
            assert attained >= float(plan.value) - 1e-9


# ---- exponential -----------------------------------------------------------------------------


@jax.jit
def _law_of_timed(mdp, policy):
    return return_law(mdp, policy, horizon=H).law


def law_of_timed(mdp, policy):
    """The law of a policy over time and state, as one row."""
    law = jax.device_get(_law_of_timed(mdp, policy))
    return law.probs[None], law.atoms[None]


@pytest.mark.parametrize("discount", [pytest.param(0.7, marks=pytest.mark.slow), 1.0])
def test_static_entropic_is_the_best_of_all_history_dependent_policies(discount):
    for seed in range(3):
        mdp = random_mdp(seed, discount=discount, lattice=False)
        laws = laws_of(seed, discount=discount, lattice=False)
        for aversion in (-1.5, 1e-4, 0.3, 20.0):
            plan = static_entropic(mdp, risk_aversion=aversion, horizon=H)
            found = entropic(*laws, aversion)
            assert abs(float(plan.value) - found.max()) <= max(float(plan.error_bound), 1e-9)
            assert plan.error_bound < 1e-11
            attained = entropic(*law_of_timed(mdp, plan.policy), aversion)
            np.testing.assert_allclose(attained, plan.value, atol=1e-8)


TEMPERATURES = np.geomspace(1e-6, 1e3, 5_000)


@functools.cache
def best_entropic(seed, discount):
    """The greatest entropic risk at each of the temperatures, over all policies."""
    probs, atoms = laws_of(seed, discount=discount, lattice=False)
    atoms = np.where(probs > 0, atoms, atoms.max(axis=1, keepdims=True))
    least = atoms.min(axis=1, keepdims=True)
    found = [
        np.max(least[:, 0] - t * np.log(np.sum(probs * np.exp((least - atoms) / t), axis=1)))
        for t in TEMPERATURES
    ]
    means = np.sum(probs * atoms, axis=1)
    return np.array(found), means.max(), least.max()


@pytest.mark.parametrize("discount", [pytest.param(0.7, marks=pytest.mark.slow), 1.0])
def test_static_evar_is_certified_and_attained(discount):
    """Against five thousand temperatures for every policy; at the ends of the level, the best mean
    and the best least return."""
    for seed in range(2):
        mdp = random_mdp(seed, discount=discount, lattice=False)
        scores, mean, least = best_entropic(seed, discount)
        for level in (0.02, 0.4, 0.97):
            plan = static_evar(mdp, level=level, horizon=H)
            best = np.max(scores + TEMPERATURES * np.log(level))  # a little below the supremum
            assert best - 1e-9 <= float(plan.value + plan.error_bound) <= best + 1e-4
            assert float(plan.value) <= best + 1e-4 and plan.error_bound < 1e-6
            attained = entropic(*law_of_timed(mdp, plan.policy), float(plan.risk_aversion))[0]
            attained += np.log(level) / float(plan.risk_aversion)
            np.testing.assert_allclose(attained, plan.value, atol=1e-9)
        ends = [static_evar(mdp, level=level, horizon=H).value for level in (1.0, 1e-9)]
        np.testing.assert_allclose(ends, [mean, least], atol=1e-6)


@pytest.mark.slow
def test_evar_at_the_ends_of_the_level():
    """A coin for 0 or 1, or 0.4 for sure: the mean, and as the level falls the least return."""
    with jax.enable_x64(False):
        mdp = outcome_mdp([[[0.5, 0.5]] * 2], [[[0, 0]] * 2], [[[0.0, 1.0], [0.4, 0.4]]], 1.0)
        found = jax.vmap(lambda level: static_evar(mdp, level=level, horizon=2).value)(
            jnp.array([1.0, 1e-6])
        )
        np.testing.assert_allclose(found, [1.0, 0.8], atol=1e-5)


# ---- nested ----------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
def test_nested_cvar_is_the_recursion_in_numpy(seed):
    """V_t(s) = max_a CVaR(r + discount V_{t+1}(s') or nothing where it ends), and of the start."""
    mdp, level, discount = random_mdp(seed, discount=0.8, lattice=False), 0.35, 0.8
    rows, values = arrays(mdp), np.zeros(2)
    for _ in range(H):
        going_on = discount * ~rows["terminal"]
        outcomes = rows["reward"] + going_on * values[rows["next_state"]]
        flat = cvar(rows["prob"].reshape(-1, 2), outcomes.reshape(-1, 2), level)
        q_values = np.where(rows["legal"], flat.reshape(2, 2), -np.inf)
        values = q_values.max(axis=1)
    found = nested_cvar(mdp, level=level, horizon=H)
    start = rows["initial"] > 0
    expected = cvar(rows["initial"][None, start], values[None, start], level)[0]
    np.testing.assert_allclose(found.value, expected, atol=1e-12)
    np.testing.assert_array_equal(np.argmax(found.policy[0], axis=1), q_values.argmax(axis=1))


# ---- orderings -------------------------------------------------------------------------------


@pytest.mark.slow
def test_orderings_between_the_objectives():
    mdp = random_mdp(2)
    mean = cvar_plan(2, 1.0).value
    neutral = static_entropic(mdp, risk_aversion=0.0, horizon=H).value
    np.testing.assert_allclose(mean, neutral, atol=1e-10)
    for level in (0.35, 0.7):
        settings = {"level": level, "horizon": H}
        best = cvar_plan(2, level).value
        assert best <= static_var(mdp, **settings).value + 1e-10
        assert best <= chow_cvar_upper_bound(mdp, **settings) + 1e-10
        assert static_evar(mdp, **settings).value <= best + 1e-10
        nested = nested_cvar(mdp, **settings)
        law = law_of_timed(mdp, nested.policy)
        assert cvar(*law, level)[0] <= best + 1e-10
        # Nature's densities of three steps (the first state is sure) multiply to 1 / level^3.
        mean_of_law = np.sum(law[0] * law[1])
        assert cvar(*law, level**H)[0] - 1e-10 <= nested.value <= mean_of_law + 1e-10


def one_choice_mdp(choices, sure):
    """A coin: state 1, where there are `choices` of two equally likely rewards, or `sure`."""
    num_actions = len(choices)
    reward = np.zeros((3, num_actions, 2))
    reward[1], reward[2] = choices, sure
    mask = np.zeros((3, num_actions), bool)
    mask[:, 0], mask[1] = True, True
    successor = np.broadcast_to(np.array([[[1, 2]], [[1, 1]], [[2, 2]]]), reward.shape)
    return outcome_mdp(np.full(reward.shape, 0.5), successor, reward, 1.0, mask=mask)


@pytest.mark.slow
def test_nested_cvar_may_lie_above_the_static_one_of_the_same_policy():
    """-4 and 8 after heads, 3 after tails. Level 3/4: heads is worth (-2 + 2) / (3/4) = 0, and the
    whole (0 + 3/4) / (3/4) = 1; the return's law has (-1 + 3/2) / (3/4) = 2/3 there, its -4 in
    full."""
    mdp = one_choice_mdp([[-4.0, 8.0]], 3.0)
    settings = {"level": 0.75, "horizon": 2}
    np.testing.assert_allclose(nested_cvar(mdp, **settings).value, 1.0, atol=1e-6)
    np.testing.assert_allclose(static_cvar(mdp, **settings).value, 2 / 3, atol=1e-5)


@pytest.mark.slow
def test_the_risk_level_recursion_overestimates_in_control():
    """After heads 0 for sure, or -1 or 3; after tails 1. Both policies have a CVaR of 0 at 1/2:
    0 is the worst half, or -1 and 1 are a quarter each. The recursion lets the action answer to the
    share u of its law that nature takes: min over u of max(0, tail of the coin) + 1 - u, which is
    1/3 at u = 2/3, where 3 (u - 1/2) - 1/2 = 0."""
    mdp = one_choice_mdp([[0.0, 0.0], [-1.0, 3.0]], 1.0)
    settings = {"level": 0.5, "horizon": 2}
    np.testing.assert_allclose(cvar(*all_laws(mdp, 2), 0.5), [0.0, 0.0], atol=1e-6)
    np.testing.assert_allclose(static_cvar(mdp, **settings).value, 0.0, atol=1e-5)
    bound = chow_cvar_upper_bound(mdp, **settings, num_levels=301)
    np.testing.assert_allclose(bound, 1 / 3, atol=1e-4)


def test_the_risk_level_recursion_evaluates_a_policy():
    """With nothing to choose it is exact but for the interpolation of levels."""
    mdp = random_mdp(3, one_action=True)
    for level in (0.35, 0.7):
        exact = cvar(*all_laws(mdp, H), level)[0]
        gap = float(chow_cvar_upper_bound(mdp, level=level, horizon=H)) - exact
        assert -1e-12 <= gap < 5e-3


@pytest.mark.slow
def test_the_risk_level_recursion_is_the_better_the_finer():
    mdp = random_mdp(3, one_action=True)
    exact = cvar(*all_laws(mdp, H), 0.35)[0]
    gaps = [
        float(chow_cvar_upper_bound(mdp, level=0.35, horizon=H, num_levels=n)) - exact
        for n in (6, 401)
    ]
    assert -1e-12 <= gaps[1] < 5e-3 < gaps[0]


@pytest.mark.slow
def test_greedy_on_cvar_prefers_the_safe_action():
    """-6 or 10, or 1 for sure: the mean prefers the coin, at 2."""
    with jax.enable_x64(False):
        mdp = outcome_mdp([[[0.5, 0.5]] * 2], [[[0, 0]] * 2], [[[-6.0, 10.0], [1.0, 1.0]]], 0.5)
        for level, action, value in ((0.5, 1, 2.0), (1.0, 0, 4.0)):
            head = Categorical(-12.0, 20.0, num_atoms=33)
            operator = BellmanOperator(head, return_functional=CVaR(level))
            found = distributional_value_iteration(mdp, operator)
            assert int(np.argmax(found.policy[0])) == action
            np.testing.assert_allclose(found.values[0], value, atol=1e-3)


# ---- any expected utility --------------------------------------------------------------------


@struct.dataclass
class Homeostasis:
    """-weight x^2, so that the stock should end at 0."""

    weight: float

    def __call__(self, stock):
        return -self.weight * stock**2


@pytest.mark.slow
def test_homeostasis_from_several_stocks_and_the_best_of_them():
    for seed in range(3):
        mdp = random_mdp(seed)
        probs, atoms = laws_of(seed)
        stocks = np.arange(-4.0, 3.0)
        plan = stock_augmented(mdp, Homeostasis(0.5), horizon=H, initial_stock=stocks)
        expected = [np.max(np.sum(probs * -0.5 * (c + atoms) ** 2, axis=1)) for c in stocks]
        np.testing.assert_allclose(plan.utilities, expected, atol=1e-12)
        np.testing.assert_allclose(plan.value, max(expected), atol=1e-12)
        assert plan.initial_stock == stocks[np.argmax(expected)] and plan.error_bound < 1e-11
        law_probs, law_atoms = rollout_law(plan, mdp)
        end = float(plan.initial_stock) + law_atoms
        np.testing.assert_allclose(np.sum(law_probs * -0.5 * end**2), plan.value, atol=1e-12)


@pytest.mark.slow
def test_static_cvar_is_one_of_them():
    level = 0.35
    found = stock_augmented(
        random_mdp(0),
        lambda stock: jnp.minimum(stock, 0.0),
        horizon=H,
        initial_stock=-np.arange(-3.0, 7.0),
        outer=lambda stock, utility: utility / level - stock,
    )
    np.testing.assert_allclose(found.value, cvar_plan(0, level).value, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("num_stocks", [10, 100])
def test_off_the_lattice_a_lipschitz_constant_makes_the_bound(num_stocks):
    for seed in range(3):
        mdp = random_mdp(seed, discount=0.8, lattice=False)
        probs, atoms = laws_of(seed, discount=0.8, lattice=False)
        plan = stock_augmented(
            mdp, jnp.sin, horizon=H, initial_stock=0.3, lipschitz=1.0, num_stocks=num_stocks
        )
        best = np.max(np.sum(probs * np.sin(0.3 + atoms), axis=1))
        assert abs(float(plan.value) - best) <= plan.error_bound <= 20.0 / num_stocks


@pytest.mark.slow
def test_without_a_lipschitz_constant_there_is_no_bound():
    mdp = random_mdp(0, discount=0.8, lattice=False)
    unknown = stock_augmented(mdp, jnp.sin, horizon=H, initial_stock=0.3)
    assert jnp.isinf(unknown.error_bound)


# ---- the law of the return under a plan ------------------------------------------------------


def distance_to_the_walk(found, plan, mdp, state=None):
    """Wasserstein-1, by SciPy, to the law of every path of the policy."""
    (probs,), (atoms,) = rollout_law(plan, mdp, state)
    counts = np.asarray(found.law.probs)
    return wasserstein_distance(
        np.asarray(found.law.atoms)[counts > 0], atoms, counts[counts > 0], probs
    )


@pytest.mark.parametrize(
    ("lattice", "fractional"),
    [
        (True, False),
        pytest.param(True, True, marks=pytest.mark.slow),
        pytest.param(False, False, marks=pytest.mark.slow),
        pytest.param(False, True, marks=pytest.mark.slow),
    ],
)
def test_the_return_law_of_a_plan_is_that_of_all_its_paths(lattice, fractional):
    """Four plans on a model with a law of first states, and on one that ends by chance."""
    seed = 2 if fractional else 1
    mdp = random_mdp(seed, discount=1.0 if lattice else 0.8, lattice=lattice)
    if fractional:
        mdp = mdp.replace(terminal=0.5 * mdp.terminal)
    settings = {"horizon": H} if lattice else {"horizon": H, "num_stocks": 40}
    plans = [static_cvar(mdp, level=level, **settings) for level in (0.35, 1.0)]
    plans.append(static_var(mdp, level=0.35, **settings))
    if not lattice or fractional:
        plans.append(stock_augmented(mdp, Homeostasis(0.5), initial_stock=-1.5, **settings))
    for plan in plans:
        found = plan.return_law(mdp, num_atoms=64)
        assert found.is_exact and found.error_bound < 1e-11
        assert distance_to_the_walk(found, plan, mdp) < 1e-12


@pytest.mark.slow
def test_on_a_lattice_the_law_has_the_value_that_was_planned():
    """CVaR, its quantile and the expected utility of the law, over a longer horizon than paths."""
    with jax.enable_x64(True):
        mdp, horizon = random_mdp(0, terminal=False), 25
        plan = static_cvar(mdp, level=0.1, horizon=horizon, initial_state=1)
        found = plan.return_law(mdp, initial_state=1, num_atoms=plan.stocks.size)
        law = found.law
        assert found.is_exact and np.sum(np.asarray(law.probs) > 1e-6) > 10
        np.testing.assert_allclose(CVaR(0.1)(law.probs, law.atoms), plan.value, atol=1e-9)
        shortfall = law.probs @ jnp.minimum(plan.initial_stock + law.atoms, 0.0)
        (place,) = np.flatnonzero(plan.stocks == plan.initial_stock)
        np.testing.assert_allclose(shortfall, plan.utilities[place], atol=1e-9)
        quantile = static_var(mdp, level=0.1, horizon=horizon, initial_state=1)
        found = quantile.return_law(mdp, initial_state=1, num_atoms=plan.stocks.size)
        rows = np.asarray(found.law.probs)[None], np.asarray(found.law.atoms)[None]
        np.testing.assert_allclose(var(*rows, 0.1), quantile.value, atol=1e-9)


@pytest.mark.slow
def test_too_few_atoms_say_that_actions_may_differ():
    """A policy that never looks at the stock keeps the mean even then; nothing else is promised."""
    with jax.enable_x64(True):
        mdp = random_mdp(0, discount=0.8, one_action=True, lattice=False, terminal=False)
        plan = static_cvar(mdp, level=0.35, horizon=H, num_stocks=40)
        few, all_ = (plan.return_law(mdp, num_atoms=n) for n in (2, 64))
        assert not few.is_exact and jnp.isinf(few.error_bound) and all_.is_exact
        np.testing.assert_allclose(few.law.mean(), all_.law.mean(), atol=1e-12)


@pytest.mark.slow
def test_ended_episodes_are_merged_with_a_bound():
    """One state that pays one of four normal rewards and ends: only returns are too many."""
    with jax.enable_x64(True):
        reward = np.random.default_rng(0).normal(size=(1, 1, 4))
        shape = np.zeros((1, 1, 4), int)
        mdp = outcome_mdp(np.full((1, 1, 4), 0.25), shape, reward, 1.0, terminal=shape == 0)
        plan = static_cvar(mdp, level=0.5, horizon=2)
        found = plan.return_law(mdp, num_atoms=2)
        far = distance_to_the_walk(found, plan, mdp)
        assert not found.is_exact and 0 < far <= found.error_bound < 2.0


@pytest.mark.slow
def test_return_laws_of_plans_by_vmap():
    mdps = [random_mdp(seed) for seed in (0, 2)]
    law = lambda mdp, plan: plan.return_law(mdp, num_atoms=32).law  # noqa: E731

    @jax.jit
    @jax.vmap
    def solve(mdp):
        plan = static_cvar(mdp, level=0.35, horizon=H, num_stocks=19)
        return plan, law(mdp, plan)

    plans, together = solve(stack_mdps(mdps))
    for i, mdp in enumerate(mdps):
        alone = law(mdp, jax.tree.map(lambda x, i=i: x[i], plans))
        np.testing.assert_allclose(together.probs[i], alone.probs, atol=1e-6)
        np.testing.assert_allclose(together.atoms[i], alone.atoms, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_atoms": 0}, "num_atoms=0"),
        ({"initial_state": 2}, r"initial_state=2 is outside \[0, 2\)"),
        ("three states", "of 2 states, the model of 3"),
        ("a batch", "jax.vmap"),
    ],
    ids=str,
)
def test_bad_arguments_of_return_laws(change, message):
    if change == "three states":
        change = {"mdp": random_mdp(0, num_states=3)}
    change = {"mdp": batch_of_one()} if change == "a batch" else change
    with pytest.raises(ValueError, match=message):
        cvar_plan(0, 0.35).return_law(**{"mdp": random_mdp(0)} | change)


# ---- machinery -------------------------------------------------------------------------------


@pytest.mark.slow
def test_models_and_levels_by_vmap():
    mdps = [random_mdp(seed) for seed in (0, 2)]
    batch, levels = stack_mdps(mdps), jnp.array([0.2, 0.5])

    @jax.jit
    @jax.vmap
    def solve(mdp, level):
        return [verb(mdp, level=level, horizon=H) for verb in (static_cvar, nested_cvar)]

    static, nested = jax.device_get(solve(batch, levels))
    for i, (mdp, level) in enumerate(zip(mdps, (0.2, 0.5), strict=True)):
        alone = nested_cvar(mdp, level=level, horizon=H)
        np.testing.assert_allclose(nested.value[i], alone.value, atol=1e-5)
        # Without concrete numbers there is no lattice, and a certified bound instead.
        exact = static_cvar(mdp, level=level, horizon=H)
        assert exact.error_bound < 1e-4 < 2e-3 < static.error_bound[i] < 0.1
        assert abs(float(static.value[i] - exact.value)) <= static.error_bound[i]


@pytest.mark.slow
@pytest.mark.parametrize("discount", [0.0, 1.0])
def test_a_constant_reward(discount):
    """One state, one action; nothing after the first step counts at discount 0."""
    mdp = outcome_mdp([[[1.0]]], [[[0]]], [[[-2.5]]], discount)
    for verb in (static_cvar, static_var, static_evar):
        plan = verb(mdp, level=0.3, horizon=3)
        np.testing.assert_allclose(plan.value, -2.5 * (3 if discount else 1), atol=1e-5)
        assert plan.error_bound < 0.02


@pytest.mark.slow
def test_one_step_needs_no_table():
    mdp = outcome_mdp([[[0.5, 0.5]]], [[[0, 0]]], [[[0.1, 0.7]]], 0.9)
    plan = static_cvar(mdp, level=0.75, horizon=1)
    np.testing.assert_allclose(plan.value, 0.3, atol=1e-5)  # (0.05 + 0.7 / 4) / 0.75
    assert plan.table.shape[0] == 0 and int(plan.action(0, 0, plan.initial_stock)) == 0


@pytest.mark.slow
def test_a_lattice_of_tenths_is_found():
    mdp = outcome_mdp([[[0.3, 0.7]] * 2], [[[0, 0]] * 2], [[[-0.3, 0.1], [0.0, -0.2]]], 1.0)
    plan = static_cvar(mdp, level=0.3, horizon=5)
    assert plan.stocks.size < 100 and plan.error_bound < 1e-4
    np.testing.assert_allclose(np.diff(plan.edges), 0.1, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"level": 0.0}, "level=0.0 is out of range"),
        ({"level": 1.5}, "level=1.5 is out of range"),
        ({"horizon": 0}, "horizon=0"),
        ({"initial_state": 2}, r"initial_state=2 is outside \[0, 2\)"),
        ({"initial_state": -1}, "initial_state=-1"),
        ({"num_stocks": 2}, "num_stocks=2"),
        ("a batch", "jax.vmap"),
    ],
    ids=str,
)
def test_bad_arguments(change, message):
    change = {"mdp": batch_of_one()} if change == "a batch" else change
    arguments = {"mdp": random_mdp(0), "level": 0.5, "horizon": H} | change
    for verb in (static_cvar, static_var, static_evar, nested_cvar, chow_cvar_upper_bound):
        if "num_stocks" not in change or verb in (static_cvar, static_var):
            with pytest.raises(ValueError, match=message):
                verb(**arguments)


@pytest.mark.parametrize("aversion", [1e39, 1e-50, np.nan])
def test_a_risk_aversion_that_float32_has_not_is_refused(aversion):
    with pytest.raises(ValueError, match="risk_aversion="):
        static_entropic(random_mdp(0), risk_aversion=aversion, horizon=H)
