"""Static risk against every history-dependent policy of tiny models, in plain NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from jaxrl import outcome_mdp, stack_mdps
from jaxrl.core import struct
from jaxrl.functionals import CVaR
from jaxrl.operators import Categorical
from jaxrl.planning.exponential_risk import static_entropic, static_evar
from jaxrl.planning.nested_risk import chow_cvar_upper_bound, greedy_on_cvar, nested_cvar
from jaxrl.planning.return_laws import return_law
from jaxrl.planning.static_risk import static_cvar, static_var
from jaxrl.planning.stock import stock_augmented
from jaxrl.planning.stock_laws import stock_return_law
from jaxrl.returns import next_stock

pytestmark = pytest.mark.usefixtures("quick_compilation")

H = 3
LEVELS = (0.1, 0.35, 0.7, 1.0)


def random_mdp(seed, discount=1.0, num_states=2, num_actions=2, terminal=True, lattice=True):
    """Two outcomes a pair; rewards in {-1, 0, 1, 2} or normal."""
    rng = np.random.default_rng(seed)
    shape = (num_states, num_actions, 2)
    reward = rng.integers(-1, 3, shape) if lattice else rng.normal(size=shape)
    mask = np.ones(shape[:2], bool)
    if num_actions > 1:
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


def rollout_law(plan, mdp, state=None):
    """Every path of the policy, with its stock; checks the telescoping identity on the way."""
    rows, discount = arrays(mdp), float(mdp.discount)
    initial = np.eye(mdp.num_states)[state] if state is not None else rows["initial"]
    act = jax.jit(plan.action)
    probs, atoms = [], []

    def walk(t, s, stock, prob, gained):
        if t == len(plan.weights):
            probs.append(prob)
            atoms.append(gained)
            return
        a = int(act(t, s, stock))
        assert rows["legal"][s, a]
        for k in np.flatnonzero(rows["prob"][s, a]):
            total = gained + discount**t * rows["reward"][s, a, k]
            later = float(next_stock(stock, rows["reward"][s, a, k], discount))
            np.testing.assert_allclose(
                discount ** (t + 1) * later, float(plan.initial_stock) + total, atol=1e-4
            )
            chance, end = prob * rows["prob"][s, a, k], float(rows["terminal"][s, a, k])
            if end > 0:
                probs.append(chance * end)
                atoms.append(total)
            if end < 1:
                walk(t + 1, rows["next_state"][s, a, k], later, chance * (1.0 - end), total)

    for s in np.flatnonzero(initial):
        walk(0, s, float(plan.initial_stock), initial[s], 0.0)
    return np.array([probs]), np.array([atoms])


# ---- CVaR ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_static_cvar_is_the_best_of_all_history_dependent_policies(seed):
    mdp = random_mdp(seed)
    laws = all_laws(mdp, H)
    for level in LEVELS:
        plan = static_cvar(mdp, level=level, horizon=H)
        np.testing.assert_allclose(plan.value, cvar(*laws, level).max(), atol=1e-5)
        assert plan.error_bound < 1e-3
        np.testing.assert_allclose(cvar(*rollout_law(plan, mdp), level), plan.value, atol=1e-5)


@pytest.mark.parametrize("num_stocks", [40, 1000])
def test_off_the_lattice_the_bound_holds_and_the_policy_attains_it(num_stocks):
    with jax.enable_x64(True):
        for seed in range(3):
            mdp = random_mdp(seed, discount=0.8, lattice=False)
            laws = all_laws(mdp, H)
            for level in LEVELS:
                plan = static_cvar(mdp, level=level, horizon=H, num_stocks=num_stocks)
                best, bound = cvar(*laws, level).max(), float(plan.error_bound)
                assert abs(float(plan.value) - best) <= bound <= 30.0 / num_stocks
                attained = cvar(*rollout_law(plan, mdp), level)[0]
                assert attained >= float(plan.value) - bound - 1e-12


def test_exact_to_rounding_in_double_precision():
    with jax.enable_x64(True):
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


def test_the_best_policy_looks_at_what_is_missing():
    """At level 3/4. Always sure: 1 or 5, (1/2 + 5/4) / (3/4) = 7/3. Always the coin: 0, 4, 4 or 8,
    (0 + 2) / (3/4) = 8/3. The coin after 0 and sure after 4: 0, 4 or twice 5, 9/4 / (3/4) = 3."""
    mdp = adaptive_mdp()
    best = static_cvar(mdp, level=0.75, horizon=2)
    np.testing.assert_allclose(best.value, 3.0, atol=1e-5)
    after = [next_stock(best.initial_stock, reward, 1.0) for reward in (0.0, 4.0)]
    assert [int(best.action(1, 1, stock)) for stock in after] == [1, 0]
    for action, value in ((0, 7 / 3), (1, 8 / 3)):
        policy = np.array([[1.0, 0.0], np.eye(2)[action]])
        law = return_law(mdp, policy, horizon=2, num_atoms=8).law
        np.testing.assert_allclose(CVaR(0.75)(law.probs, law.atoms), value, atol=1e-5)
    # Nested: the second step is worth 4/3 by the coin, the first as much again.
    nested = nested_cvar(mdp, level=0.75, horizon=2)
    np.testing.assert_allclose(nested.value, 8 / 3, atol=1e-5)


# ---- value at risk ---------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_static_var_is_the_best_of_all_history_dependent_policies(seed):
    mdp = random_mdp(seed)
    laws = all_laws(mdp, H)
    for level in LEVELS[:3]:
        plan = static_var(mdp, level=level, horizon=H)
        np.testing.assert_allclose(plan.value, var(*laws, level).max(), atol=1e-5)
        assert plan.error_bound < 1e-3
        assert var(*rollout_law(plan, mdp), level) >= plan.value - 1e-5


def test_var_of_a_level_that_is_reached_exactly_is_the_lower_quantile():
    """0, 1 and 2 with 1/4, 1/2 and 1/4: P(G <= 0) reaches 1/4, P(G <= 1) reaches 3/4."""
    mdp = outcome_mdp([[[0.5, 0.5]]], [[[0, 0]]], [[[0.0, 1.0]]], 1.0)
    levels = jnp.array([0.25, 0.26, 0.75, 0.76])
    found = jax.vmap(lambda q: static_var(mdp, level=q, horizon=2).value)(levels)
    assert found.tolist() == [0.0, 1.0, 1.0, 2.0]


def test_var_off_the_lattice_is_bracketed():
    with jax.enable_x64(True):
        for seed in range(3):
            mdp = random_mdp(seed, discount=0.8, lattice=False)
            laws = all_laws(mdp, H)
            for level in LEVELS[:3]:
                plan = static_var(mdp, level=level, horizon=H, num_stocks=2000)
                best = var(*laws, level).max()
                assert float(plan.value) <= best <= float(plan.value + plan.error_bound)
                attained = var(*rollout_law(plan, mdp), level)[0]
                assert attained >= float(plan.value) - 1e-9


# ---- exponential -----------------------------------------------------------------------------


@pytest.mark.parametrize("discount", [0.7, 1.0])
def test_static_entropic_is_the_best_of_all_history_dependent_policies(discount):
    with jax.enable_x64(True):
        for seed in range(3):
            mdp = random_mdp(seed, discount=discount, lattice=False)
            laws = all_laws(mdp, H)
            for aversion in (-1.5, 1e-4, 0.3, 20.0):
                plan = static_entropic(mdp, risk_aversion=aversion, horizon=H)
                found = entropic(*laws, aversion)
                assert abs(float(plan.value) - found.max()) <= max(float(plan.error_bound), 1e-9)
                assert plan.error_bound < 1e-11
                law = return_law(mdp, plan.policy, horizon=H).law
                attained = entropic(law.probs[None], np.asarray(law.atoms[None]), aversion)
                np.testing.assert_allclose(attained, plan.value, atol=1e-8)


@pytest.mark.parametrize("discount", [0.7, 1.0])
def test_static_evar_is_certified_and_attained(discount):
    """Against five thousand temperatures for every policy."""
    with jax.enable_x64(True):
        temperatures = np.geomspace(1e-6, 1e3, 5_000)
        for seed in range(2):
            mdp = random_mdp(seed, discount=discount, lattice=False)
            laws = all_laws(mdp, H)
            for level in (0.02, 0.4, 0.97):
                plan = static_evar(mdp, level=level, horizon=H)
                scores = [entropic(*laws, 1 / t).max() + t * np.log(level) for t in temperatures]
                best = max(scores)  # a little below the supremum
                assert best - 1e-9 <= float(plan.value + plan.error_bound) <= best + 1e-4
                assert float(plan.value) <= best + 1e-4 and plan.error_bound < 1e-6
                law = return_law(mdp, plan.policy, horizon=H).law
                row = law.probs[None], np.asarray(law.atoms[None])
                attained = entropic(*row, float(plan.risk_aversion))[0]
                attained += np.log(level) / float(plan.risk_aversion)
                np.testing.assert_allclose(attained, plan.value, atol=1e-9)


def test_evar_at_the_ends_of_the_level():
    """A coin for 0 or 1, or 0.4 for sure: the mean, and as the level falls the least return."""
    mdp = outcome_mdp([[[0.5, 0.5]] * 2], [[[0, 0]] * 2], [[[0.0, 1.0], [0.4, 0.4]]], 1.0)
    found = jax.vmap(lambda level: static_evar(mdp, level=level, horizon=2).value)(
        jnp.array([1.0, 1e-6])
    )
    np.testing.assert_allclose(found, [1.0, 0.8], atol=1e-5)


# ---- orderings -------------------------------------------------------------------------------


def test_orderings_between_the_objectives():
    with jax.enable_x64(True):
        mdp = random_mdp(2, terminal=False)
        mean = static_cvar(mdp, level=1.0, horizon=H, initial_state=0).value
        neutral = static_entropic(mdp, risk_aversion=0.0, horizon=H, initial_state=0).value
        np.testing.assert_allclose(mean, neutral, atol=1e-10)
        for level in (0.35, 0.7):
            settings = {"level": level, "horizon": H, "initial_state": 0}
            best = static_cvar(mdp, **settings).value
            assert best <= static_var(mdp, **settings).value + 1e-10
            assert best <= chow_cvar_upper_bound(mdp, **settings) + 1e-10
            assert static_evar(mdp, **settings).value <= best + 1e-10
            nested = nested_cvar(mdp, **settings)
            law = return_law(mdp, nested.policy, horizon=H, initial_state=0).law
            of_nested = [CVaR(q)(law.probs, law.atoms) for q in (level, level**H)]
            assert of_nested[0] <= best + 1e-10
            # Nature's densities of three steps multiply to at most 1 / level^3.
            assert of_nested[1] - 1e-10 <= nested.value <= law.mean() + 1e-10


def one_choice_mdp(choices, sure):
    """A coin: state 1, where there are `choices` of two equally likely rewards, or `sure`."""
    num_actions = len(choices)
    reward = np.zeros((3, num_actions, 2))
    reward[1], reward[2] = choices, sure
    mask = np.zeros((3, num_actions), bool)
    mask[:, 0], mask[1] = True, True
    successor = np.broadcast_to(np.array([[[1, 2]], [[1, 1]], [[2, 2]]]), reward.shape)
    return outcome_mdp(np.full(reward.shape, 0.5), successor, reward, 1.0, mask=mask)


def test_nested_cvar_may_lie_above_the_static_one_of_the_same_policy():
    """-4 and 8 after heads, 3 after tails. Level 3/4: heads is worth (-2 + 2) / (3/4) = 0, and the
    whole (0 + 3/4) / (3/4) = 1; the return's law has (-1 + 3/2) / (3/4) = 2/3 there, its -4 in
    full."""
    mdp = one_choice_mdp([[-4.0, 8.0]], 3.0)
    settings = {"level": 0.75, "horizon": 2}
    np.testing.assert_allclose(nested_cvar(mdp, **settings).value, 1.0, atol=1e-6)
    np.testing.assert_allclose(static_cvar(mdp, **settings).value, 2 / 3, atol=1e-5)


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
    with jax.enable_x64(True):
        mdp = random_mdp(3, num_actions=1, terminal=False)
        exact = cvar(*all_laws(mdp, H), 0.35)[0]
        gaps = [
            float(chow_cvar_upper_bound(mdp, level=0.35, horizon=H, num_levels=n)) - exact
            for n in (6, 401)
        ]
        assert -1e-12 <= gaps[1] < 5e-3 < gaps[0]


def test_greedy_on_cvar_prefers_the_safe_action():
    """-6 or 10, or 1 for sure: the mean prefers the coin, at 2."""
    mdp = outcome_mdp([[[0.5, 0.5]] * 2], [[[0, 0]] * 2], [[[-6.0, 10.0], [1.0, 1.0]]], 0.5)
    for level, action, value in ((0.5, 1, 2.0), (1.0, 0, 4.0)):
        found = greedy_on_cvar(mdp, Categorical(-12.0, 20.0, num_atoms=33), level=level)
        assert int(jnp.argmax(found.policy[0])) == action
        np.testing.assert_allclose(found.values[0], value, atol=1e-3)


# ---- any expected utility --------------------------------------------------------------------


@struct.dataclass
class Homeostasis:
    """-weight x^2, so that the stock should end at 0."""

    weight: float

    def __call__(self, stock):
        return -self.weight * stock**2


def test_homeostasis_from_several_stocks_and_the_best_of_them():
    for seed in range(3):
        mdp = random_mdp(seed)
        probs, atoms = all_laws(mdp, H)
        stocks = np.arange(-4.0, 3.0)
        plan = stock_augmented(mdp, Homeostasis(0.5), horizon=H, initial_stock=stocks)
        expected = [np.max(np.sum(probs * -0.5 * (c + atoms) ** 2, axis=1)) for c in stocks]
        np.testing.assert_allclose(plan.utilities, expected, atol=1e-4)
        np.testing.assert_allclose(plan.value, max(expected), atol=1e-4)
        assert plan.initial_stock == stocks[np.argmax(expected)] and plan.error_bound < 1e-3
        law_probs, law_atoms = rollout_law(plan, mdp)
        end = float(plan.initial_stock) + law_atoms
        np.testing.assert_allclose(np.sum(law_probs * -0.5 * end**2), plan.value, atol=1e-4)


def test_static_cvar_is_one_of_them():
    mdp, level = random_mdp(0), 0.35
    found = stock_augmented(
        mdp,
        lambda stock: jnp.minimum(stock, 0.0),
        horizon=H,
        initial_stock=-np.arange(-3.0, 7.0),
        outer=lambda stock, utility: utility / level - stock,
    )
    np.testing.assert_allclose(
        found.value, static_cvar(mdp, level=level, horizon=H).value, atol=1e-5
    )


def test_off_the_lattice_a_lipschitz_constant_makes_the_bound():
    with jax.enable_x64(True):
        for seed in range(3):
            mdp = random_mdp(seed, discount=0.8, lattice=False)
            probs, atoms = all_laws(mdp, H)
            for num_stocks in (10, 100):
                plan = stock_augmented(
                    mdp, jnp.sin, horizon=H, initial_stock=0.3, lipschitz=1.0, num_stocks=num_stocks
                )
                best = np.max(np.sum(probs * np.sin(0.3 + atoms), axis=1))
                assert abs(float(plan.value) - best) <= plan.error_bound <= 20.0 / num_stocks
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


@pytest.mark.parametrize("lattice", [True, False])
def test_the_return_law_of_a_plan_is_that_of_all_its_paths(lattice):
    """Four plans on a model with a law of first states, and on one that ends by chance."""
    with jax.enable_x64(True):
        for seed in (1, 2):
            mdp = random_mdp(seed, discount=1.0 if lattice else 0.8, lattice=lattice)
            if seed == 2:
                mdp = mdp.replace(terminal=0.5 * mdp.terminal)
            settings = {"horizon": H} if lattice else {"horizon": H, "num_stocks": 40}
            plans = [static_cvar(mdp, level=level, **settings) for level in (0.35, 1.0)]
            plans.append(static_var(mdp, level=0.35, **settings))
            plans.append(stock_augmented(mdp, Homeostasis(0.5), initial_stock=-1.5, **settings))
            for plan in plans:
                found = stock_return_law(mdp, plan, num_atoms=64)
                assert found.is_exact and found.error_bound < 1e-11
                assert distance_to_the_walk(found, plan, mdp) < 1e-12


def test_on_a_lattice_the_law_has_the_value_that_was_planned():
    """CVaR, its quantile and the expected utility of the law, over a longer horizon than paths."""
    with jax.enable_x64(True):
        mdp, horizon = random_mdp(0, terminal=False), 25
        plan = static_cvar(mdp, level=0.1, horizon=horizon, initial_state=1)
        found = stock_return_law(mdp, plan, initial_state=1, num_atoms=plan.stocks.size)
        law = found.law
        assert found.is_exact and np.sum(np.asarray(law.probs) > 1e-6) > 10
        np.testing.assert_allclose(CVaR(0.1)(law.probs, law.atoms), plan.value, atol=1e-9)
        shortfall = law.probs @ jnp.minimum(plan.initial_stock + law.atoms, 0.0)
        (place,) = np.flatnonzero(plan.stocks == plan.initial_stock)
        np.testing.assert_allclose(shortfall, plan.utilities[place], atol=1e-9)
        quantile = static_var(mdp, level=0.1, horizon=horizon, initial_state=1)
        found = stock_return_law(mdp, quantile, initial_state=1, num_atoms=plan.stocks.size)
        rows = np.asarray(found.law.probs)[None], np.asarray(found.law.atoms)[None]
        np.testing.assert_allclose(var(*rows, 0.1), quantile.value, atol=1e-9)


def test_too_few_atoms_say_that_actions_may_differ():
    """A policy that never looks at the stock keeps the mean even then; nothing else is promised."""
    with jax.enable_x64(True):
        mdp = random_mdp(0, discount=0.8, num_actions=1, lattice=False, terminal=False)
        plan = static_cvar(mdp, level=0.35, horizon=H, num_stocks=40)
        few, all_ = (stock_return_law(mdp, plan, num_atoms=n) for n in (2, 64))
        assert not few.is_exact and jnp.isinf(few.error_bound) and all_.is_exact
        np.testing.assert_allclose(few.law.mean(), all_.law.mean(), atol=1e-12)


def test_ended_episodes_are_merged_with_a_bound():
    """One state that pays one of four normal rewards and ends: only returns are too many."""
    with jax.enable_x64(True):
        reward = np.random.default_rng(0).normal(size=(1, 1, 4))
        shape = np.zeros((1, 1, 4), int)
        mdp = outcome_mdp(np.full((1, 1, 4), 0.25), shape, reward, 1.0, terminal=shape == 0)
        plan = static_cvar(mdp, level=0.5, horizon=2)
        found = stock_return_law(mdp, plan, num_atoms=2)
        far = distance_to_the_walk(found, plan, mdp)
        assert not found.is_exact and 0 < far <= found.error_bound < 2.0


def test_return_laws_of_plans_by_vmap():
    mdps = [random_mdp(seed) for seed in (0, 2)]
    plan = lambda mdp: static_cvar(mdp, level=0.35, horizon=H, num_stocks=19)  # noqa: E731
    law = lambda mdp, plan: stock_return_law(mdp, plan, num_atoms=32).law  # noqa: E731
    plans = jax.vmap(plan)(stack_mdps(mdps))
    together = jax.vmap(law)(stack_mdps(mdps), plans)
    for i, mdp in enumerate(mdps):
        alone = law(mdp, jax.tree.map(lambda x, i=i: x[i], plans))
        np.testing.assert_allclose(together.probs[i], alone.probs, atol=1e-6)
        np.testing.assert_allclose(together.atoms[i], alone.atoms, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_atoms": 0}, "num_atoms=0"),
        ({"initial_state": 2}, r"initial_state=2 is outside \[0, 2\)"),
        ({"mdp": random_mdp(0, num_states=3)}, "of 2 states, the model of 3"),
        ({"mdp": stack_mdps([random_mdp(0)])}, "jax.vmap"),
    ],
    ids=str,
)
def test_bad_arguments_of_return_laws(change, message):
    mdp = random_mdp(0)
    with pytest.raises(ValueError, match=message):
        stock_return_law(**{"mdp": mdp, "plan": static_cvar(mdp, level=0.5, horizon=H)} | change)


# ---- machinery -------------------------------------------------------------------------------


def test_models_and_levels_by_vmap():
    mdps = [random_mdp(seed) for seed in (0, 2)]
    batch, levels = stack_mdps(mdps), jnp.array([0.2, 0.7])
    for verb, settings in ((static_cvar, {"num_stocks": 19}), (nested_cvar, {})):
        call = lambda mdp, level: verb(mdp, level=level, horizon=H, **settings)  # noqa: B023, E731
        together = jax.jit(jax.vmap(call))(batch, levels)
        for i in range(2):
            alone = call(mdps[i], float(levels[i]))
            np.testing.assert_allclose(together.value[i], alone.value, atol=1e-5)
    # Without concrete numbers there is no lattice, and a certified bound instead.
    traced = jax.jit(lambda mdp: static_cvar(mdp, level=0.2, horizon=H))(mdps[0])
    exact = static_cvar(mdps[0], level=0.2, horizon=H)
    assert exact.error_bound < 1e-4 < 2e-3 < traced.error_bound < 0.1
    assert abs(float(traced.value - exact.value)) <= traced.error_bound


@pytest.mark.parametrize("discount", [0.0, 1.0])
def test_a_constant_reward(discount):
    """One state, one action; nothing after the first step counts at discount 0."""
    mdp = outcome_mdp([[[1.0]]], [[[0]]], [[[-2.5]]], discount)
    for verb in (static_cvar, static_var, static_evar):
        plan = verb(mdp, level=0.3, horizon=3)
        np.testing.assert_allclose(plan.value, -2.5 * (3 if discount else 1), atol=1e-5)
        assert plan.error_bound < 0.02


def test_one_step_needs_no_table():
    mdp = outcome_mdp([[[0.5, 0.5]]], [[[0, 0]]], [[[0.1, 0.7]]], 0.9)
    plan = static_cvar(mdp, level=0.75, horizon=1)
    np.testing.assert_allclose(plan.value, 0.3, atol=1e-5)  # (0.05 + 0.7 / 4) / 0.75
    assert plan.table.shape[0] == 0 and int(plan.action(0, 0, plan.initial_stock)) == 0


def test_a_lattice_of_tenths_is_found():
    mdp = outcome_mdp([[[0.3, 0.7]] * 2], [[[0, 0]] * 2], [[[-0.3, 0.1], [0.0, -0.2]]], 1.0)
    plan = static_cvar(mdp, level=0.3, horizon=5)
    assert plan.stocks.size < 100 and plan.error_bound < 1e-4
    np.testing.assert_allclose(plan.steps, 0.1, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"level": 0.0}, "level=0.0 is out of range"),
        ({"level": 1.5}, "level=1.5 is out of range"),
        ({"horizon": 0}, "horizon=0"),
        ({"initial_state": 2}, r"initial_state=2 is outside \[0, 2\)"),
        ({"initial_state": -1}, "initial_state=-1"),
        ({"num_stocks": 2}, "num_stocks=2"),
        ({"mdp": stack_mdps([random_mdp(0)])}, "jax.vmap"),
    ],
    ids=str,
)
def test_bad_arguments(change, message):
    arguments = {"mdp": random_mdp(0), "level": 0.5, "horizon": H} | change
    for verb in (static_cvar, static_var, static_evar, nested_cvar, chow_cvar_upper_bound):
        if "num_stocks" not in change or verb in (static_cvar, static_var):
            with pytest.raises(ValueError, match=message):
                verb(**arguments)
