"""Contracts of every head, and the projections against independent references."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq, minimize
from scipy.special import softmax
from scipy.stats import norm

from jaxrl.core import Law
from jaxrl.operators import (
    Categorical,
    EnergyAtoms,
    Expectiles,
    Gaussian,
    HLGauss,
    Quantile,
    Scalar,
    TwoHot,
)

HEADS = {
    "scalar": Scalar(),
    "categorical": Categorical(-3.0, 5.0, num_atoms=17),
    "quantile": Quantile(num_atoms=8),
    "one_quantile": Quantile(num_atoms=1),
    "expectiles": Expectiles(num_atoms=7),
    "one_expectile": Expectiles(num_atoms=1),
    "gaussian": Gaussian(num_atoms=6),
    "two_hot": TwoHot(-3.0, 5.0, num_atoms=17),
    "hl_gauss": HLGauss(-6.0, 8.0, num_atoms=28),
    "particles": EnergyAtoms(num_atoms=6),
}


NUM_RANDOM, NUM_ATOMS = 12, 12


def stored_by(head, law):
    params = head.encode(law)
    return params, head.law(params), head.mean(params)


@jax.jit
def _measure(head, plain, given, steps, laws):
    """All that the contracts ask of a head, on laws of 12 atoms, in its one program."""

    def of_law(law):
        def numbers(law):
            params, stored, mean = stored_by(head, law)
            return (jnp.sum(jnp.sin(stored.atoms)), mean), (params, stored)

        (_, mean), pull, (params, stored) = jax.vjp(numbers, law, has_aux=True)
        one, zero = jnp.ones_like(mean), jnp.zeros_like(mean)
        return {
            "params": params,
            "law": stored,
            "mean": mean,
            "again": stored_by(head, stored)[1],
            "slopes": pull((one, zero))[0],
            "mean_slopes": pull((zero, one))[0].atoms,
            "loss_slopes": jax.grad(head.loss)(params, law),
        }

    found = jax.vmap(of_law)(laws)
    law = jax.tree.map(lambda x: x[3], laws)
    # A rounded kink has moved minimisers.
    losses = jax.vmap(lambda step: plain.loss(found["params"][3] + step, law))(steps)
    return found | {"given": (head.law(given), head.mean(given)), "losses": losses}


# As their likes of several numbers, and of the same grid; the tests of their own are below.
LIKE_ANOTHER = ("one_quantile", "one_expectile", "two_hot", "hl_gauss")


@pytest.fixture(
    params=[pytest.param(n, marks=pytest.mark.slow) if n in LIKE_ANOTHER else n for n in HEADS]
)
def name(request):
    return request.param


def random_law(seed=0, num_atoms=NUM_ATOMS, spread=2.5):
    """Unsorted, with a repeat and an impossible atom."""
    rng = np.random.default_rng(seed)
    probs, atoms = rng.dirichlet(np.ones(num_atoms)), rng.uniform(-spread, spread, num_atoms)
    probs[2], atoms[5] = 0.0, atoms[6]
    return Law((probs / probs.sum()).astype(np.float32), atoms.astype(np.float32))


def stacked(laws):
    return jax.tree.map(lambda *rows: np.stack(rows), *laws)


ORDER = np.random.default_rng(1).permutation(NUM_ATOMS)
EVEN = np.full(NUM_ATOMS, 1 / NUM_ATOMS, np.float32)


@functools.cache
def bank():
    """The laws of all contracts, by name; `0` to `11` are random."""
    laws = {seed: random_law(seed) for seed in range(NUM_RANDOM)}
    held = np.where(laws[0].probs > 0, laws[0].atoms, np.float32(np.nan))
    return laws | {
        "shuffled": Law(laws[0].probs[ORDER], held[ORDER]),
        "narrow": Law(EVEN, np.linspace(0.9, 1.1, NUM_ATOMS, dtype=np.float32)),
        "wide": Law(EVEN, np.linspace(-1.0, 3.0, NUM_ATOMS, dtype=np.float32)),
        "equal": Law(EVEN, np.full(NUM_ATOMS, 1.25, np.float32)),
    }


def moments(law):
    """Mean and variance, in float64."""
    probs, atoms = law.probs.astype(float), law.atoms.astype(float)
    mean = probs @ atoms
    return mean, probs @ (atoms - mean) ** 2


def measure(head, laws):
    rng = np.random.default_rng(2)
    given, steps = rng.normal(size=head.shape), 0.05 * rng.normal(size=(40, *head.shape))
    steps[0] = 0.0
    plain = head.replace(huber_threshold=0.0) if isinstance(head, Quantile) else head
    numbers = (np.asarray(x, np.float32) for x in (given, steps))
    return jax.device_get(_measure(head, plain, *numbers, stacked(laws)))


@functools.cache
def measured(name):
    """What `_measure` finds, and by law: `measured(name)["equal"]["mean"]`."""
    found = measure(HEADS[name], list(bank().values()))
    whole = {key: found.pop(key) for key in ("given", "losses")}
    each = {key: jax.tree.map(lambda x, i=i: x[i], found) for i, key in enumerate(bank())}
    return whole | each


def project_by_loops(law, low, high, num_atoms):
    """C51's algorithm 1 in float64 loops: floor, ceiling, two shares."""
    grid, spacing = np.linspace(low, high, num_atoms), (high - low) / (num_atoms - 1)
    result = np.zeros(num_atoms)
    for p, z in zip(law.probs.astype(float), law.atoms.astype(float), strict=True):
        place = (min(max(z, low), high) - low) / spacing
        left = min(int(np.floor(place)), num_atoms - 2)
        result[left] += p * (left + 1 - place)
        result[left + 1] += p * (place - left)
    return grid, result


def test_parameters_stand_for_a_law_with_their_mean(name):
    law, mean = measured(name)["given"]
    np.testing.assert_allclose(np.sum(law.probs), 1.0, rtol=1e-6)
    assert np.all(law.probs >= 0)
    np.testing.assert_allclose(mean, moments(law)[0], rtol=1e-5, atol=1e-6)


def test_what_a_head_can_store_it_keeps(name):
    """encode is a projection: encode(law(encode(x))) stands for the same law."""
    head, found = HEADS[name], measured(name)[0]
    assert found["params"].shape == head.shape
    # Imputed tails move by more than the rounding of the expectiles that set them.
    slack = 2e-5 if isinstance(head, (Expectiles, HLGauss)) else 2e-6
    np.testing.assert_allclose(found["again"].probs, found["law"].probs, atol=slack)
    np.testing.assert_allclose(found["again"].atoms, found["law"].atoms, atol=slack)


def test_facts_are_as_stated(name):
    """stores_law: two laws of one mean are told apart; mean_preserving: means survive; bounded:
    what lies beyond the ends of a grid is stored at them."""
    head, found = HEADS[name], measured(name)
    apart = np.abs(found["narrow"]["params"] - found["wide"]["params"])
    if head.shape not in ((1,), ()):  # one number cannot
        assert bool(np.any(apart > 1e-3)) == head.facts.stores_law
    far = Law(np.ones(1, np.float32), np.full(1, 1e3, np.float32))
    assert (head.mean(head.encode(far)) < 9.0) == head.facts.bounded
    off = [abs(found[i]["mean"] - moments(bank()[i])[0]) for i in range(NUM_RANDOM)]
    # HL-Gauss keeps them nearly: its own accuracy is tested below.
    assert (max(off) < 1e-5) == head.facts.mean_preserving or isinstance(head, HLGauss)


def test_encoding_ignores_order_and_impossible_atoms(name):
    found, shuffled = measured(name)[0], measured(name)["shuffled"]
    np.testing.assert_allclose(shuffled["params"], found["params"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(shuffled["loss_slopes"], found["loss_slopes"], atol=2e-5)


def test_the_loss_is_least_at_the_encoding(name):
    """No small step from the encoding lowers the loss (kinks included)."""
    losses = measured(name)["losses"]
    assert np.all(losses >= losses[0] - 1e-6) and np.any(losses > losses[0] + 1e-5)


def test_equal_atoms(name):
    found = measured(name)["equal"]
    np.testing.assert_allclose(found["mean"], 1.25, rtol=1e-5)
    np.testing.assert_allclose(moments(found["law"])[0], 1.25, rtol=1e-5)
    assert np.all(np.isfinite(found["params"])) and np.all(np.isfinite(found["loss_slopes"]))


def test_gradients_through_encoding_are_finite(name):
    """In the atoms and the probabilities, ties, impossible atoms and certain laws included. And
    the mean moves with the atoms: by their probabilities where the head keeps the mean."""
    head = HEADS[name]
    for law in (0, "equal"):
        found = measured(name)[law]
        assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(found["slopes"]))
        if head.facts.mean_preserving:
            np.testing.assert_allclose(found["mean_slopes"], bank()[law].probs, atol=2e-5)
        np.testing.assert_allclose(np.sum(found["mean_slopes"]), 1.0, atol=1e-3)


def test_double_precision_is_kept(name):
    with jax.enable_x64(True):
        law = jax.tree.map(lambda x: x.astype(float), random_law())
        params, stored, _ = jax.eval_shape(stored_by, HEADS[name], law)
        assert params.dtype == stored.atoms.dtype == stored.probs.dtype == jnp.float64


@pytest.mark.parametrize(
    ("kind", "settings", "match"),
    [
        (Categorical, {"low": 1.0, "high": 1.0}, "low"),
        (TwoHot, {"low": 1.0, "high": 0.0}, "low"),
        (HLGauss, {"sigma_ratio": 0.0}, "sigma_ratio"),
        (Expectiles, {"num_atoms": 4}, "num_atoms"),
        (Gaussian, {"min_scale": -1.0}, "min_scale"),
        (Quantile, {"huber_threshold": -1.0}, "huber_threshold"),
        (EnergyAtoms, {"num_atoms": 0}, "num_atoms"),
        (Scalar, {"huber_threshold": 0.0}, "huber_threshold"),
    ],
)
def test_settings_out_of_range_are_refused(kind, settings, match):
    with pytest.raises(ValueError, match=match):
        kind(**settings)


@pytest.mark.parametrize(
    "kind",
    [
        Scalar(1.0),
        Quantile(4, 1.0),
        Categorical(-1.0, 1.0, 4),
        Gaussian(4, 0.1),
        HLGauss(-1.0, 1.0, 4, 0.7),
    ],
)
def test_a_changed_float_does_not_retrace(kind):
    traces = []

    @jax.jit
    def call(head, params, law):
        traces.append(1)
        return head.loss(params, law)

    params = np.linspace(0.0, 1.0, max(1, int(np.prod(kind.shape))), dtype=np.float32)
    given = params.reshape(kind.shape), random_law()
    halved = jax.tree.map(lambda x: 0.5 * x, kind)
    first, second = float(call(kind, *given)), float(call(halved, *given))
    assert len(traces) == 1
    assert first != second


# ---- worked by hand --------------------------------------------------------------------------

SAMPLES = np.float32([3.0, -1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0])
MANY = 20_000


@functools.cache
def by_hand():
    """Of laws of other sizes, in one program."""
    inf, nan = np.inf, np.nan
    rng = np.random.default_rng(0)
    atoms = rng.normal(size=MANY).astype(np.float32)
    scattered = atoms * 4
    scattered[:2], scattered[10:500] = [inf, -inf], scattered[9]
    law = lambda probs, atoms: Law(np.float32(probs), np.float32(atoms))  # noqa: E731
    many = law(rng.dirichlet(np.ones(MANY)), scattered)

    laws = {
        "shares": law([0.25, 0.5, 0.25], [9.0, 0.25, -7.0]),
        "ends": law([0.25, 0.75], [-inf, inf]),
        "infinite": law([0.0, 0.5, 0.5], [7.0, 1.0, inf]),
        "missing": law([0.0, 0.5, 0.5], [7.0, 1.0, nan]),
        "own": law(np.full(8, 1 / 8), SAMPLES),
        "pair": law([0.5, 0.5], [1.0, 5.0]),
        "certain": law([0.5, 0.25, 0.25], [2.0, 2.0, 2.0]),
        "scattered": many,
        "many": law(np.full(MANY, 1 / MANY), atoms),
        "random": random_law(4),
    }

    @jax.jit
    def run(laws):
        narrow = lambda head: head.scale(head.encode(laws["certain"]))  # noqa: E731
        return {
            "shares": Categorical(0.0, 2.0, 3).project(laws["shares"]),
            "ends": Categorical(-1.0, 1.0, 3).project(laws["ends"]),
            "support": HEADS["categorical"].support(),
            "scattered": HEADS["categorical"].project(laws["scattered"]),
            "infinite": Quantile(4).encode(laws["infinite"]),
            "missing": Quantile(4).encode(laws["missing"]),
            "own": HEADS["quantile"].encode(laws["own"]),
            "quantiles": Quantile(8).encode(laws["many"]),
            "squared": Scalar(inf).loss(jnp.array(1.0), laws["pair"]),
            "huber": Scalar(1.0).loss(jnp.array(1.0), laws["pair"]),
            "normal": HEADS["gaussian"].loss(jnp.array([0.4, -0.3]), laws["random"]),
            "narrowest": [narrow(Gaussian(min_scale=least)) for least in (0.0, 0.5)],
        }

    return jax.device_get(run(laws)), atoms, many


# ---- categorical -----------------------------------------------------------------------------


def test_categorical_projection_by_hand():
    """Grid 0, 1, 2. Half at 0.25: 3/4 of it to 0, 1/4 to 1. A quarter at -7 to 0, one at 9 to 2."""
    np.testing.assert_allclose(by_hand()[0]["shares"], [0.625, 0.125, 0.25])


@functools.cache
def projected():
    """(seed, spread) -> the law, its categorical projection, and the mean of what is stored."""
    head = HEADS["categorical"]
    which = [(seed, spread) for seed in (0, 1, 2, 3, 10, 11, 12) for spread in (2.5, 30.0)]
    laws = [random_law(seed, spread=spread) for seed, spread in which]
    project = jax.jit(jax.vmap(lambda law: (head.project(law), head.mean(head.encode(law)))))
    found = jax.device_get(project(stacked(laws)))
    return dict(zip(which, zip(laws, *found, strict=True), strict=True))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("spread", [2.5, 30.0])
def test_categorical_projection_is_the_algorithm(seed, spread):
    law, probs, mean = projected()[seed, spread]
    grid, expected = project_by_loops(law, -3.0, 5.0, 17)
    np.testing.assert_allclose(by_hand()[0]["support"], grid, atol=1e-6)
    np.testing.assert_allclose(probs, expected, atol=2e-6)
    if spread < 3.0:  # inside the grid the mean stays
        np.testing.assert_allclose(mean, moments(law)[0], atol=5e-6)


def test_categorical_with_infinite_returns_puts_them_at_the_ends():
    np.testing.assert_allclose(by_hand()[0]["ends"], [0.25, 0.0, 0.75])


def test_categorical_projection_of_very_many_atoms():
    """The other form, of scatters: against NumPy's histogram of shares in float64."""
    found, _, many = by_hand()
    place = (np.clip(many.atoms.astype(float), -3.0, 5.0) + 3.0) / 0.5
    left, probs = np.minimum(np.floor(place), 15).astype(int), many.probs.astype(float)
    expected = np.bincount(left, probs * (left + 1 - place), 17)
    expected += np.bincount(left + 1, probs * (place - left), 17)
    np.testing.assert_allclose(found["scattered"], expected, atol=2e-5)


def test_categorical_projection_contracts_the_cramer_distance():
    """Projected laws are no further apart than the laws: the property behind C51's convergence."""
    for seed in range(3):
        (first, here, _), (second, there, _) = projected()[seed, 2.5], projected()[seed + 10, 2.5]
        gap = np.cumsum(here.astype(float) - there)
        # The integral of the squared difference of distribution functions, over its steps.
        signed = np.concatenate([first.probs, -second.probs]).astype(float)
        atoms = np.concatenate([first.atoms, second.atoms]).astype(float)
        order = np.argsort(atoms)
        squares = np.cumsum(signed[order])[:-1] ** 2 @ np.diff(atoms[order])
        assert np.sum(gap**2) * 0.5 <= squares + 1e-6


# ---- quantile --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_quantile_encoding_is_numpys_weighted_quantile(seed):
    law = bank()[seed]
    expected = np.quantile(
        law.atoms.astype(float),
        (2 * np.arange(8) + 1) / 16,
        weights=law.probs.astype(float),
        method="inverted_cdf",
    )
    np.testing.assert_allclose(measured("quantile")[seed]["params"], expected, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_quantile_encoding_keeps_a_possible_extreme_apart_from_impossible_atoms(bad):
    found = by_hand()[0]["infinite" if bad == np.inf else "missing"]
    np.testing.assert_array_equal(found, [1.0, 1.0, bad, bad])


def test_quantile_stores_its_own_samples():
    np.testing.assert_array_equal(by_hand()[0]["own"], np.sort(SAMPLES))


def test_scalar_loss_by_hand():
    """Mean 3 against 1: error 2; squared 2, Huber with threshold 1: 1 (2 - 1/2)."""
    assert by_hand()[0]["squared"] == 2.0
    assert by_hand()[0]["huber"] == 1.5


def test_quantile_encoding_of_very_many_atoms():
    found, atoms, _ = by_hand()
    expected = np.quantile(atoms, (2 * np.arange(8) + 1) / 16, method="inverted_cdf")
    np.testing.assert_allclose(found["quantiles"], expected, atol=2e-3)


# ---- particles -------------------------------------------------------------------------------


def test_no_search_finds_nearer_particles():
    """SciPy minimises the energy distance, in float64 by its integral over the two distribution
    functions, from several starts; the encoding is as near."""
    probs, atoms = (np.asarray(x, float) for x in (bank()[5].probs, bank()[5].atoms))

    def distance(x):
        signed = np.concatenate([np.full(6, 1 / 6), -probs])
        places = np.concatenate([x, atoms])
        order = np.argsort(places)
        return np.cumsum(signed[order])[:-1] ** 2 @ np.diff(places[order])

    ours = distance(measured("particles")[5]["params"].astype(float))
    for seed in range(3):
        start = np.random.default_rng(seed).uniform(-2.5, 2.5, 6)
        options = {"maxiter": 4000, "maxfev": 8000, "xatol": 1e-9, "fatol": 1e-12}
        found = minimize(distance, start, method="Nelder-Mead", options=options).fun
        assert ours <= found + 1e-6


def test_particle_gradients_from_samples_average_to_that_of_the_mixture():
    """What a Wasserstein loss lacks: the loss is linear in its target."""
    law = bank()[6]
    params = np.float32([-1.0, 0.3, 0.4, 2.0, 2.2, -1.7])
    atoms = np.concatenate([law.atoms[None], np.tile(law.atoms[:, None], (1, NUM_ATOMS))])
    slope = jax.vmap(lambda z: jax.grad(HEADS["particles"].loss)(params, law.replace(atoms=z)))
    whole, *single = np.asarray(jax.jit(slope)(atoms))
    np.testing.assert_allclose(law.probs @ np.stack(single), whole, atol=1e-6)
    # Of the energy distance 2 E|X - z| - E|X - X'|: the weight below less that above, and pairs.
    below = np.sum(law.probs * np.sign(params[:, None] - law.atoms), axis=1)
    pairs = np.sum(np.sign(params[:, None] - params), axis=1) / 6
    np.testing.assert_allclose(whole / whole[0], (below - pairs) / (below - pairs)[0], rtol=1e-4)


# ---- expectiles ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_expectiles_solve_their_equation(seed):
    p, z = bank()[seed].probs.astype(float), bank()[seed].atoms.astype(float)
    ours = measured("expectiles")[seed]["params"]
    for value, level in zip(ours, (2 * np.arange(7) + 1) / 14, strict=True):

        def balance(e, level=level):
            return level * p @ np.maximum(z - e, 0) - (1 - level) * p @ np.maximum(e - z, 0)

        np.testing.assert_allclose(value, brentq(balance, -3, 3), atol=2e-6)


@jax.jit
def impute(head, samples):
    params = jax.vmap(lambda x: head.encode(Law.of_samples(x)))(samples)
    laws = jax.vmap(head.law)(params)
    return params, laws, jax.vmap(head.encode)(laws)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_atoms", "wide", "slack"),
    [
        pytest.param(3, True, 1e-13, marks=pytest.mark.slow),
        (21, True, 1e-13),
        pytest.param(21, False, 1e-5, marks=pytest.mark.slow),
    ],
)
def test_imputed_laws_have_the_expectiles(num_atoms, wide, slack):
    """For equal atoms, heavy tails, two points, lumps and rare outliers."""
    rng = np.random.default_rng(0)
    shape = (20, 40)
    samples = np.concatenate(
        [
            rng.normal(size=shape),
            rng.standard_cauchy(size=shape),
            1.0 * (rng.uniform(size=shape) < 0.3),
            np.where(rng.uniform(size=shape) < 0.9, 0.0, rng.exponential(size=shape)),
            100.0 * (np.arange(40) == 7) + 0.01 * rng.normal(size=shape),
        ]
    )
    with jax.enable_x64(wide):
        given = samples.astype(float if wide else np.float32)
        params, laws, again = jax.device_get(impute(Expectiles(num_atoms), given))
    size = np.max(np.abs(params), axis=1, keepdims=True)
    assert np.max(np.abs(again - params) / size) < slack
    assert np.all(laws.probs >= 0)
    np.testing.assert_allclose(laws.probs.sum(1), 1.0, rtol=1e-5)
    inner = laws.atoms
    assert np.all(inner.min(1) >= samples.min(1) - 1e-3 * size[:, 0])
    assert np.all(inner.max(1) <= samples.max(1) + 1e-3 * size[:, 0])


def test_parameters_that_no_law_has_still_give_one_of_their_mean():
    rng = np.random.default_rng(0)
    params = rng.normal(size=(200, 7)) * np.logspace(-4, 4, 200)[:, None]
    params[0], params[1] = 0.0, [3.0, -1, 2, 0, 5, -2, 1]
    params = params.astype(np.float32)
    laws = jax.device_get(jax.jit(jax.vmap(HEADS["expectiles"].law))(params))
    assert np.all(laws.probs >= 0)
    np.testing.assert_allclose(laws.probs.sum(1), 1.0, rtol=1e-5)
    scale = np.max(np.abs(params), axis=1) + 1e-30
    means = np.sum(laws.probs.astype(float) * laws.atoms, axis=1)
    assert np.all(np.abs(means - params[:, 3]) <= 2e-5 * scale)


@pytest.mark.slow
def test_expectile_backups_do_not_collapse_without_end():
    """Z = U + Z'/2 with U = 0 or 1, even odds: uniform on [0, 2], and known expectiles. The naive
    reading of expectiles as atoms shrinks the law at every backup; the imputed one does not."""
    head = Expectiles(21)
    rewards = np.float32([0.0, 1.0])

    def backup(law):
        atoms = (rewards[:, None] + 0.5 * law.atoms[None, :]).reshape(-1)
        return head.encode(Law(0.5 * jnp.tile(law.probs, 2), atoms))

    @jax.jit
    def iterate(start):
        imputed = jax.lax.fori_loop(0, 40, lambda _, e: backup(head.law(e)), start)
        return imputed, jax.lax.fori_loop(0, 40, lambda _, e: backup(Law.of_samples(e)), start)

    imputed, naive = jax.device_get(iterate(np.ones(21, np.float32)))
    levels = (2 * np.arange(21) + 1) / 42
    root = np.sqrt(levels / (1 - levels))
    exact = 2 * root / (1 + root)  # of the uniform law on [0, 2]
    assert np.max(np.abs(imputed - exact)) < 0.02
    assert np.max(np.abs(naive - exact)) > 0.1


# ---- gaussian --------------------------------------------------------------------------------


def test_gaussian_stores_two_moments():
    scales, law = (1e-4, 1.0, 300.0), random_law(2)
    laws = [law.replace(atoms=law.atoms * np.float32(scale)) for scale in scales]
    found = measure(HEADS["gaussian"].replace(min_scale=0.0), laws * 5 + laws[:1])["law"]
    for row, scale in enumerate(scales):
        mean, variance = moments(laws[row])
        stored = Law(found.probs[row], found.atoms[row])
        np.testing.assert_allclose(moments(stored)[0], mean, atol=1e-6 * scale)
        np.testing.assert_allclose(moments(stored)[1], variance, rtol=1e-5)


def test_gaussian_loss_is_scipys_log_density():
    law, scale = random_law(4), HEADS["gaussian"].min_scale + np.log1p(np.exp(-0.3))
    expected = -law.probs @ norm.logpdf(law.atoms, 0.4, scale)
    np.testing.assert_allclose(by_hand()[0]["normal"], expected, rtol=1e-5)


def test_gaussian_of_a_certain_return_is_as_narrow_as_allowed():
    np.testing.assert_allclose(by_hand()[0]["narrowest"], [0.0, 0.5], atol=1e-30)


# ---- histograms of a scalar ------------------------------------------------------------------

NUM_VALUES = 400
HISTOGRAMS = {"two_hot": TwoHot(-4.0, 4.0, 33), "hl_gauss": HLGauss(-4.0, 4.0, 32)}


@pytest.fixture(params=HISTOGRAMS.values(), ids=HISTOGRAMS.keys())
def histogram(request):
    return request.param


@jax.jit
def _decode(histogram, values):
    def of_value(value):
        law = Law(jnp.ones(1), value[None])
        loss = lambda params, value: histogram.loss(params, law.replace(atoms=value[None]))  # noqa: E731
        slopes = jax.grad(loss, (0, 1))(jnp.ones(histogram.shape), value)
        params = histogram.encode(law)
        return params, histogram.mean(params), slopes

    return jax.vmap(of_value)(values)


def decode(histogram, values):
    """Encoded values, their means, and slopes of the loss at equal logits."""
    full = np.zeros(NUM_VALUES, np.float32)
    full[: len(values)] = values
    found = jax.device_get(_decode(histogram, full))
    return jax.tree.map(lambda x: x[: len(values)], found)


def test_histograms_give_values_back(histogram):
    """Two-hot everywhere, HL-Gauss 4 sigma (3 bins of 1/4) inside the ends, to 2e-4 of a bin."""
    end = 3.25 if isinstance(histogram, HLGauss) else 4.0
    values = np.linspace(-end, end, NUM_VALUES)
    np.testing.assert_allclose(decode(histogram, values)[1], values, atol=0.25 * 2e-4)


def test_histograms_take_every_finite_value(histogram):
    """A law with finite logits, all at the near end far out; increasing in the value."""
    size = np.concatenate([np.linspace(3, 8, 100), np.logspace(1, 38, 100)])
    params, means, _ = decode(histogram, np.concatenate([-size[::-1], size]))
    assert np.all(np.isfinite(params))
    np.testing.assert_allclose(np.sum(softmax(params, axis=1), axis=1), 1.0, rtol=1e-5)
    assert np.all(np.diff(means) >= -1e-5)
    end = 4.0 - 0.125 * isinstance(histogram, HLGauss)  # the centre of a bin of 1/4
    np.testing.assert_allclose(means[[0, -1]], [-end, end], rtol=1e-5)


def test_histogram_losses_have_finite_gradients_everywhere(histogram):
    """In the logits it is softmax less the encoded value, whatever the value."""
    values = np.float32([0.3, 4.0, 7.0, -1e4, 1e30])
    params, _, (by_params, by_value) = decode(histogram, values)
    expected = 1 / params.shape[1] - softmax(params, axis=1)
    np.testing.assert_allclose(by_params, expected, atol=1e-6)
    # Equal logits cost the same whatever the target; at the end itself the projection has a kink.
    assert np.all(np.isfinite(by_value))
    np.testing.assert_allclose(by_value[values != 4.0], 0.0, atol=1e-5)


def test_hl_gauss_is_the_normal_law_in_bins():
    """Against SciPy's distribution function, cut off at the ends, in float64."""
    edges, sigma = np.linspace(-4, 4, 33), 0.75 * 0.25
    values = np.array([0.1, -3.9, 4.0, 4.6, -5.5])
    with jax.enable_x64(True):
        found = np.asarray(jax.jit(jax.vmap(HISTOGRAMS["hl_gauss"].log_project))(values))
    for value, log_probs in zip(values, found, strict=True):
        log_cdf = norm.logcdf((edges - value) / sigma)
        log_survival = norm.logsf((edges - value) / sigma)
        mass = np.where(
            edges[:-1] > value,
            np.exp(log_survival[:-1] - log_survival[0])
            - np.exp(log_survival[1:] - log_survival[0]),
            np.exp(log_cdf[1:] - log_cdf[-1]) - np.exp(log_cdf[:-1] - log_cdf[-1]),
        )
        # The bin of the value itself mixes both; take it from the plain difference there.
        here = np.searchsorted(edges, value) - 1
        if 0 <= here < 32:
            total = norm.cdf((4 - value) / sigma) - norm.cdf((-4 - value) / sigma)
            mass = np.diff(norm.cdf((edges - value) / sigma)) / total
        np.testing.assert_allclose(np.exp(log_probs), mass / mass.sum(), atol=1e-9)


def test_hl_gauss_bias_at_the_end_is_as_stated():
    """Half the Gaussian is cut off: SciPy's masses of the other half, times the centres."""
    head, sigma = HISTOGRAMS["hl_gauss"], 0.75 * 0.25
    edges = np.linspace(-4, 4, 33)
    mass = 2 * np.diff(norm.cdf((edges - 4.0) / sigma))
    drawn = 4.0 - mass @ (edges[1:] + edges[:-1]) / 2
    decoded = decode(head, np.float32([4.0]))[1][0]
    np.testing.assert_allclose(4.0 - decoded, drawn, rtol=1e-4)
    assert 0.8 * sigma < drawn < sigma
