"""Contracts of every head, and the projections against independent references."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import brentq, minimize
from scipy.stats import norm

from jaxrl.core.law import Law
from jaxrl.losses import quantile_levels
from jaxrl.operators.heads import (
    Categorical,
    Expectiles,
    Gaussian,
    HLGauss,
    Particles,
    Quantile,
    Scalar,
    TwoHot,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")

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
    "particles": Particles(num_atoms=6),
}


def stored_by(head, law):
    params = head.encode(law)
    return params, head.law(params), head.mean(params)


@jax.jit
def roundtrip(head, law):
    """Parameters, the law they stand for, its mean; that law stored again; slopes of the encoding.

    The one program of all contracts on laws of 12 atoms.
    """
    params, stored, mean = stored_by(head, law)
    slopes = jax.grad(lambda x: jnp.sum(jnp.sin(head.law(head.encode(x)).atoms)))(law)
    return params, stored, mean, stored_by(head, stored)[1], slopes


@jax.jit
def read(head, params):
    return head.law(params), head.mean(params)


@jax.jit
def loss_at(head, params, law):
    return jax.vmap(lambda p: head.loss(p, law))(params)


@jax.jit
def slope(head, params, law):
    return jax.grad(head.loss)(params, law)


EVEN = jnp.full(12, 1 / 12, jnp.float32)  # of a strong type, or everything is compiled again


@pytest.fixture(params=HEADS.values(), ids=HEADS.keys())
def head(request):
    return request.param


def random_law(seed=0, num_atoms=12, spread=2.5):
    """Unsorted, with a repeat and an impossible atom."""
    rng = np.random.default_rng(seed)
    probs, atoms = rng.dirichlet(np.ones(num_atoms)), rng.uniform(-spread, spread, num_atoms)
    probs[2], atoms[5] = 0.0, atoms[6]
    return Law(jnp.asarray(probs / probs.sum(), jnp.float32), jnp.asarray(atoms, jnp.float32))


def project_by_loops(law, low, high, num_atoms):
    """C51's algorithm 1 in float64 loops: floor, ceiling, two shares."""
    grid, spacing = np.linspace(low, high, num_atoms), (high - low) / (num_atoms - 1)
    result = np.zeros(num_atoms)
    for p, z in zip(np.asarray(law.probs, float), np.asarray(law.atoms, float), strict=True):
        place = (min(max(z, low), high) - low) / spacing
        left = min(int(np.floor(place)), num_atoms - 2)
        result[left] += p * (left + 1 - place)
        result[left + 1] += p * (place - left)
    return grid, result


def test_parameters_stand_for_a_law_with_their_mean(head):
    params = jax.random.normal(jax.random.key(0), head.shape)
    law, mean = read(head, params)
    np.testing.assert_allclose(jnp.sum(law.probs), 1.0, rtol=1e-6)
    assert jnp.all(law.probs >= 0)
    np.testing.assert_allclose(mean, law.mean(), rtol=1e-5, atol=1e-6)


def test_what_a_head_can_store_it_keeps(head):
    """encode is a projection: encode(law(encode(x))) stands for the same law."""
    params, law, _, again, _ = roundtrip(head, random_law())
    assert params.shape == head.shape
    # Imputed tails move by more than the rounding of the expectiles that set them.
    slack = 2e-5 if isinstance(head, (Expectiles, HLGauss)) else 2e-6
    np.testing.assert_allclose(again.probs, law.probs, atol=slack)
    np.testing.assert_allclose(again.atoms, law.atoms, atol=slack)


def test_facts_are_as_stated(head):
    """stores_law: two laws of one mean are told apart; mean_preserving: means survive."""
    narrow, wide = (Law(EVEN, x) for x in (jnp.linspace(0.9, 1.1, 12), jnp.linspace(-1.0, 3.0, 12)))
    params = [roundtrip(head, law)[0] for law in (narrow, wide)]
    if head.shape not in ((1,), ()):  # one number cannot
        assert bool(jnp.any(jnp.abs(params[0] - params[1]) > 1e-3)) == head.stores_law
    laws = [random_law(seed) for seed in range(12)]
    kept = all(abs(roundtrip(head, law)[2] - law.mean()) < 1e-5 for law in laws)
    # HL-Gauss keeps them nearly: its own accuracy is tested below.
    assert kept == head.mean_preserving or isinstance(head, HLGauss)


def test_encoding_ignores_order_and_impossible_atoms(head):
    law = random_law()
    params = roundtrip(head, law)[0]
    order = jax.random.permutation(jax.random.key(1), 12)
    held = jnp.where(law.probs > 0, law.atoms, jnp.nan)
    shuffled = Law(law.probs[order], held[order])
    np.testing.assert_allclose(roundtrip(head, shuffled)[0], params, rtol=1e-5, atol=1e-5)
    slopes = slope(head, params, shuffled)
    np.testing.assert_allclose(slopes, slope(head, params, law), atol=1e-6)
    assert jnp.all(jnp.isfinite(slopes))


def test_the_loss_is_least_at_the_encoding(head):
    """No small step from the encoding lowers the loss (kinks included)."""
    if isinstance(head, Quantile):
        head = head.replace(huber_threshold=0.0)  # a rounded kink has moved minimisers
    law = random_law(3)
    params = roundtrip(head, law)[0]
    steps = 0.05 * jax.random.normal(jax.random.key(2), (40, *head.shape))
    steps = steps.at[0].set(0.0)
    losses = loss_at(head, params + steps, law)
    assert jnp.all(losses >= losses[0] - 1e-6) and jnp.any(losses > losses[0] + 1e-5)


def test_equal_atoms(head):
    law = Law(EVEN, jnp.full(12, 1.25, jnp.float32))
    params, stored, mean, _, _ = roundtrip(head, law)
    np.testing.assert_allclose(mean, 1.25, rtol=1e-5)
    assert jnp.all(jnp.isfinite(params)) and jnp.all(jnp.isfinite(stored.atoms))
    assert jnp.all(jnp.isfinite(slope(head, params, law)))


def test_gradients_through_encoding_are_finite(head):
    """In the atoms and the probabilities, ties, impossible atoms and certain laws included."""
    for law in (random_law(), Law(EVEN, jnp.full(12, 1.25, jnp.float32))):
        assert all(jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(roundtrip(head, law)[-1]))


def test_double_precision_is_kept(head):
    with jax.enable_x64(True):
        law = jax.tree.map(lambda x: jnp.asarray(np.asarray(x, float)), random_law())
        params, stored, _ = jax.eval_shape(stored_by, head, law)
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
        (Particles, {"num_atoms": 0}, "num_atoms"),
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

    params = jnp.linspace(0.0, 1.0, max(1, int(np.prod(kind.shape)))).reshape(kind.shape)
    first = call(kind, params, random_law())
    second = call(jax.tree.map(lambda x: 0.5 * x, kind), params, random_law())
    assert len(traces) == 1
    assert first != second


# ---- categorical -----------------------------------------------------------------------------


def test_categorical_projection_by_hand():
    """Grid 0, 1, 2. Half at 0.25: 3/4 of it to 0, 1/4 to 1. A quarter at -7 to 0, one at 9 to 2."""
    law = Law(jnp.array([0.25, 0.5, 0.25]), jnp.array([9.0, 0.25, -7.0]))
    np.testing.assert_allclose(Categorical(0.0, 2.0, 3).project(law), [0.625, 0.125, 0.25])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("spread", [2.5, 30.0])
def test_categorical_projection_is_the_algorithm(seed, spread):
    law = random_law(seed, spread=spread)
    head = HEADS["categorical"]
    grid, expected = project_by_loops(law, -3.0, 5.0, 17)
    np.testing.assert_allclose(head.support(), grid, atol=1e-6)
    np.testing.assert_allclose(head.project(law), expected, atol=2e-6)
    if spread < 3.0:  # inside the grid the mean stays
        np.testing.assert_allclose(head.mean(head.encode(law)), law.mean(), atol=5e-6)


def test_categorical_with_infinite_returns_puts_them_at_the_ends():
    law = Law(jnp.array([0.25, 0.75]), jnp.array([-jnp.inf, jnp.inf]))
    np.testing.assert_allclose(Categorical(-1.0, 1.0, 3).project(law), [0.25, 0.0, 0.75])


def test_categorical_projection_of_very_many_atoms():
    """The other form, of scatters: against NumPy's histogram of shares in float64."""
    rng = np.random.default_rng(0)
    atoms = rng.normal(size=40_000) * 4
    atoms[:2], atoms[10:500] = [np.inf, -np.inf], atoms[9]
    probs = rng.dirichlet(np.ones(40_000))
    head = HEADS["categorical"]
    ours = head.project(Law(jnp.asarray(probs, jnp.float32), jnp.asarray(atoms, jnp.float32)))
    place = (np.clip(atoms, -3.0, 5.0) + 3.0) / 0.5
    left = np.minimum(np.floor(place), 15).astype(int)
    expected = np.bincount(left, probs * (left + 1 - place), 17)
    expected += np.bincount(left + 1, probs * (place - left), 17)
    np.testing.assert_allclose(ours, expected, atol=2e-5)


def test_categorical_projection_contracts_the_cramer_distance():
    """Projected laws are no further apart than the laws: the property behind C51's convergence."""
    grid_step = 8.0 / 16
    head, fine = HEADS["categorical"], np.linspace(-30, 30, 20001)

    def squared_distance(first, second):
        def cdf(law):
            return (np.asarray(law.probs) * (np.asarray(law.atoms) <= fine[:, None])).sum(1)

        return np.sum((cdf(first) - cdf(second)) ** 2) * (fine[1] - fine[0])

    for seed in range(3):
        first, second = random_law(seed), random_law(seed + 10)
        gap = np.cumsum(np.asarray(head.project(first) - head.project(second)))
        assert np.sum(gap**2) * grid_step <= squared_distance(first, second) + 1e-2


# ---- quantile --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_quantile_encoding_is_numpys_weighted_quantile(seed):
    law = random_law(seed)
    expected = np.quantile(
        np.asarray(law.atoms, float),
        (2 * np.arange(8) + 1) / 16,
        weights=np.asarray(law.probs, float),
        method="inverted_cdf",
    )
    np.testing.assert_allclose(HEADS["quantile"].encode(law), expected, rtol=1e-6)


@pytest.mark.parametrize("bad", [np.inf, np.nan])
def test_quantile_encoding_keeps_a_possible_extreme_apart_from_impossible_atoms(bad):
    law = Law(jnp.array([0.0, 0.5, 0.5]), jnp.array([7.0, 1.0, bad]))
    np.testing.assert_array_equal(Quantile(4).encode(law), [1.0, 1.0, bad, bad])


def test_quantile_stores_its_own_samples():
    samples = jnp.array([3.0, -1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0])
    np.testing.assert_array_equal(
        HEADS["quantile"].encode(Law.of_samples(samples)), jnp.sort(samples)
    )


def test_scalar_loss_by_hand():
    """Mean 3 against 1: error 2; squared 2, Huber with threshold 1: 1 (2 - 1/2)."""
    law = Law.of_samples(jnp.array([1.0, 5.0]))
    assert float(Scalar(np.inf).loss(jnp.array(1.0), law)) == 2.0
    assert float(Scalar(1.0).loss(jnp.array(1.0), law)) == 1.5


def test_quantile_encoding_of_very_many_atoms():
    atoms = np.random.default_rng(0).normal(size=20_000)
    ours = Quantile(8).encode(Law.of_samples(jnp.asarray(atoms, jnp.float32)))
    expected = np.quantile(atoms, (2 * np.arange(8) + 1) / 16, method="inverted_cdf")
    np.testing.assert_allclose(ours, expected, atol=2e-3)


# ---- particles -------------------------------------------------------------------------------


def test_no_search_finds_nearer_particles():
    """SciPy minimises the energy distance, in float64 by its integral over the two distribution
    functions, from several starts; the encoding is as near."""
    law = random_law(5)
    probs, atoms = np.asarray(law.probs, float), np.asarray(law.atoms, float)
    grid = np.linspace(-4, 4, 4001)
    target = (probs * (atoms <= grid[:, None])).sum(1)

    def distance(x):
        return np.sum((np.mean(x <= grid[:, None], axis=1) - target) ** 2) * (grid[1] - grid[0])

    ours = distance(np.asarray(Particles(6).encode(law), float))
    for seed in range(3):
        start = np.random.default_rng(seed).uniform(-2.5, 2.5, 6)
        found = minimize(distance, start, method="Nelder-Mead", options={"maxiter": 800}).fun
        assert ours <= found + 2e-3


def test_particle_gradients_from_samples_average_to_that_of_the_mixture():
    """What a Wasserstein loss lacks: the loss is linear in its target."""
    head, law = Particles(4), random_law(6)
    params = jnp.array([-1.0, 0.3, 0.4, 2.0])
    whole = slope(head, params, law)
    atoms = np.asarray(law.atoms)
    single = [slope(head, params, law.replace(atoms=jnp.full(12, z))) for z in atoms]
    np.testing.assert_allclose(law.probs @ jnp.stack(single), whole, atol=1e-6)


# ---- expectiles ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_expectiles_solve_their_equation(seed):
    law = random_law(seed)
    p, z = np.asarray(law.probs, float), np.asarray(law.atoms, float)
    ours = HEADS["expectiles"].encode(law)
    for value, level in zip(ours, (2 * np.arange(7) + 1) / 14, strict=True):

        def balance(e, level=level):
            return level * p @ np.maximum(z - e, 0) - (1 - level) * p @ np.maximum(e - z, 0)

        np.testing.assert_allclose(value, brentq(balance, -3, 3), atol=2e-6)


@jax.jit
def impute(head, samples):
    params = jax.vmap(lambda x: head.encode(Law.of_samples(x)))(samples)
    laws = jax.vmap(head.law)(params)
    return params, laws, jax.vmap(head.encode)(laws)


@pytest.mark.parametrize(
    ("num_atoms", "wide", "slack"), [(3, True, 1e-13), (21, True, 1e-13), (21, False, 1e-5)]
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
        given = jnp.asarray(samples, float if wide else jnp.float32)
        params, laws, again = impute(Expectiles(num_atoms), given)
        size = np.max(np.abs(params), axis=1, keepdims=True)
        assert np.max(np.abs(again - params) / size) < slack
        assert np.all(np.asarray(laws.probs) >= 0)
        np.testing.assert_allclose(laws.probs.sum(1), 1.0, rtol=1e-5)
        inner = np.asarray(laws.atoms)
        assert np.all(inner.min(1) >= samples.min(1) - 1e-3 * size[:, 0])
        assert np.all(inner.max(1) <= samples.max(1) + 1e-3 * size[:, 0])


def test_parameters_that_no_law_has_still_give_one_of_their_mean():
    params = jax.random.normal(jax.random.key(0), (200, 7)) * jnp.logspace(-4, 4, 200)[:, None]
    params = params.at[0].set(0.0).at[1].set(jnp.array([3.0, -1, 2, 0, 5, -2, 1]))
    laws = jax.jit(jax.vmap(HEADS["expectiles"].law))(params)
    assert jnp.all(jnp.isfinite(laws.atoms)) and jnp.all(laws.probs >= 0)
    np.testing.assert_allclose(laws.probs.sum(1), 1.0, rtol=1e-5)
    scale = jnp.max(jnp.abs(params), axis=1) + 1e-30
    assert jnp.all(jnp.abs(laws.mean() - params[:, 3]) <= 2e-5 * scale)


def test_expectile_backups_do_not_collapse_without_end():
    """Z = U + Z'/2 with U = 0 or 1, even odds: uniform on [0, 2], and known expectiles. The naive
    reading of expectiles as atoms shrinks the law at every backup; the imputed one does not."""
    head = Expectiles(21)
    rewards = jnp.array([0.0, 1.0])

    def backup(law):
        atoms = (rewards[:, None] + 0.5 * law.atoms[None, :]).reshape(-1)
        return head.encode(Law(0.5 * jnp.tile(law.probs, 2), atoms))

    imputed = jax.jit(lambda e: jax.lax.fori_loop(0, 40, lambda _, e: backup(head.law(e)), e))
    naive = jax.jit(lambda e: jax.lax.fori_loop(0, 40, lambda _, e: backup(Law.of_samples(e)), e))
    levels = np.asarray(quantile_levels(21), float)
    root = np.sqrt(levels / (1 - levels))
    exact = 2 * root / (1 + root)  # of the uniform law on [0, 2]
    start = jnp.ones(21)
    assert np.max(np.abs(imputed(start) - exact)) < 0.02
    assert np.max(np.abs(naive(start) - exact)) > 0.1


# ---- gaussian --------------------------------------------------------------------------------


def test_gaussian_stores_two_moments():
    head = Gaussian(5, min_scale=0.0)
    for scale in (1e-4, 1.0, 300.0):
        law = random_law(2)
        law = law.replace(atoms=law.atoms * scale)
        stored = roundtrip(head, law)[1]
        p, z = np.asarray(law.probs, float), np.asarray(law.atoms, float)
        variance = p @ (z - p @ z) ** 2
        np.testing.assert_allclose(stored.mean(), p @ z, atol=1e-6 * scale)
        np.testing.assert_allclose(np.var(np.asarray(stored.atoms, float)), variance, rtol=1e-5)


def test_gaussian_loss_is_scipys_log_density():
    head, law = HEADS["gaussian"], random_law(4)
    params = jnp.array([0.4, -0.3])
    scale = 1e-3 + np.log1p(np.exp(-0.3))
    expected = -np.asarray(law.probs) @ norm.logpdf(np.asarray(law.atoms), 0.4, scale)
    np.testing.assert_allclose(head.loss(params, law), expected, rtol=1e-5)


def test_gaussian_of_a_certain_return_is_as_narrow_as_allowed():
    law = Law.of_samples(jnp.full(3, 2.0))
    for least in (0.0, 0.5):
        head = Gaussian(min_scale=least)
        np.testing.assert_allclose(head.scale(head.encode(law)), least, atol=1e-30)


# ---- histograms of a scalar ------------------------------------------------------------------

NUM_VALUES = 400
HISTOGRAMS = {"two_hot": TwoHot(-4.0, 4.0, 33), "hl_gauss": HLGauss(-4.0, 4.0, 32)}


@pytest.fixture(params=HISTOGRAMS.values(), ids=HISTOGRAMS.keys())
def histogram(request):
    return request.param


@jax.jit
def decode(histogram, values):
    params = jax.vmap(lambda y: histogram.encode(Law(jnp.ones(1), y[None])))(values)
    return params, jax.vmap(histogram.mean)(params)


def test_histograms_give_values_back(histogram):
    """Two-hot everywhere, HL-Gauss 4 sigma (3 bins of 1/4) inside the ends, to 2e-4 of a bin."""
    end = 3.25 if isinstance(histogram, HLGauss) else 4.0
    values = jnp.linspace(-end, end, NUM_VALUES)
    np.testing.assert_allclose(decode(histogram, values)[1], values, atol=0.25 * 2e-4)


def test_histograms_take_every_finite_value(histogram):
    """A law with finite logits, all at the near end far out; increasing in the value."""
    size = np.concatenate([np.linspace(3, 8, 100), np.logspace(1, 38, 100)])
    values = jnp.asarray(np.concatenate([-size[::-1], size]), jnp.float32)
    params, means = decode(histogram, values)
    assert jnp.all(jnp.isfinite(params))
    np.testing.assert_allclose(jnp.sum(jax.nn.softmax(params), axis=1), 1.0, rtol=1e-5)
    assert jnp.all(jnp.diff(means) >= -1e-5)
    support = histogram.support()
    np.testing.assert_allclose(means[jnp.array([0, -1])], support[jnp.array([0, -1])], rtol=1e-5)


def test_histogram_losses_have_finite_gradients_everywhere(histogram):
    @jax.jit
    def slopes(params, values):
        def loss(params, value):
            return histogram.loss(params, Law(jnp.ones(1), value[None]))

        return jax.vmap(jax.grad(loss, (0, 1)), (None, 0))(params, values)

    found = slopes(jnp.ones(histogram.shape), jnp.array([0.3, 4.0, 7.0, -1e4, 1e30]))
    assert all(jnp.all(jnp.isfinite(x)) for x in found)


@jax.jit
def log_project(histogram, value):
    return histogram.log_project(value)


def test_hl_gauss_is_the_normal_law_in_bins():
    """Against SciPy's distribution function, cut off at the ends, in float64."""
    edges, sigma = np.linspace(-4, 4, 33), 0.75 * 0.25
    for value in (0.1, -3.9, 4.0, 4.6, -5.5):
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
        with jax.enable_x64(True):
            ours = jnp.exp(log_project(HISTOGRAMS["hl_gauss"], jnp.asarray(value)))
        np.testing.assert_allclose(ours, mass / mass.sum(), atol=1e-9)


def test_hl_gauss_bias_at_the_end_is_as_stated():
    """Half the Gaussian is cut off: SciPy's masses of the other half, times the centres."""
    head, sigma = HISTOGRAMS["hl_gauss"], 0.75 * 0.25
    edges = np.linspace(-4, 4, 33)
    mass = 2 * np.diff(norm.cdf((edges - 4.0) / sigma))
    drawn = 4.0 - mass @ (edges[1:] + edges[:-1]) / 2
    decoded = decode(head, jnp.full(NUM_VALUES, 4.0))[1][0]
    np.testing.assert_allclose(4.0 - decoded, drawn, rtol=1e-4)
    assert 0.8 * sigma < drawn < sigma
