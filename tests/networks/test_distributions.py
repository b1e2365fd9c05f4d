"""Policy distributions against SciPy and Monte Carlo."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

from jaxrl.core import Discrete, MultiDiscrete
from jaxrl.networks import (
    CategoricalPolicy,
    GaussianPolicy,
    NetworkSettings,
    TanhGaussianPolicy,
    actor_critic,
)

NUM_DRAWS = 20_000
LOGITS = {
    "uniform": [0.0, 0.0, 0.0, 0.0],
    "peaked": [9.0, 0.0, -3.0, 1.0],
    "masked": [0.5, -np.inf, 1.5, -np.inf],
    "certain": [-np.inf, 2.0, -np.inf, -np.inf],
    "shifted": [1000.0, 1001.0, 999.0, 1000.5],
}


NAMES = list(LOGITS)
TABLE = np.float32(list(LOGITS.values()))
OTHER = np.arange(4, dtype=np.float32)


def probs_of(name):
    return scipy.special.softmax(np.array(LOGITS[name]))


@jax.jit
def _categorical(table, key):
    def measured(logits):
        policy, other = CategoricalPolicy(logits), CategoricalPolicy(jnp.asarray(OTHER))
        likeliest = lambda logits: CategoricalPolicy(logits).log_prob(jnp.argmax(logits))  # noqa: E731
        return {
            "log_prob": policy.log_prob(jnp.arange(4)),
            "entropy": policy.entropy(),
            "mode": policy.mode(),
            "kl": policy.kl(other),
            "kl to itself": policy.kl(policy),
            "kl to masked": policy.kl(CategoricalPolicy(table[NAMES.index("masked")])),
            "slope of log_prob": jax.grad(likeliest)(logits),
            "slope of entropy": jax.grad(lambda x: CategoricalPolicy(x).entropy())(logits),
        }

    many = CategoricalPolicy(jnp.broadcast_to(table, (NUM_DRAWS, *table.shape)))
    return jax.vmap(measured)(table), many.sample(key)


@functools.cache
def categorical():
    """Everything about every law of the table, and draws `[N, laws]`."""
    return jax.device_get(_categorical(TABLE, jax.random.key(0)))


def measured(name):
    return {key: leaf[NAMES.index(name)] for key, leaf in categorical()[0].items()}


@pytest.mark.parametrize("name", LOGITS)
def test_categorical_agrees_with_scipy(name):
    probs = probs_of(name)
    with np.errstate(divide="ignore"):
        np.testing.assert_allclose(measured(name)["log_prob"], np.log(probs), rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(measured(name)["entropy"], scipy.stats.entropy(probs), atol=1e-6)
    assert int(measured(name)["mode"]) == int(np.argmax(probs))


@pytest.mark.parametrize("name", ["uniform", "masked", "certain"])
def test_categorical_draws_follow_the_law(name):
    drawn = categorical()[1][:, NAMES.index(name)]
    assert drawn.dtype == np.int32
    counts = np.bincount(drawn, minlength=4)
    expected = probs_of(name) * NUM_DRAWS
    possible = expected > 0
    assert counts[~possible].sum() == 0
    if possible.sum() > 1:
        assert scipy.stats.chisquare(counts[possible], expected[possible]).pvalue > 1e-3


@pytest.mark.parametrize("name", ["uniform", "peaked", "masked", "certain"])
def test_categorical_kl(name):
    expected = scipy.stats.entropy(probs_of(name), scipy.special.softmax(OTHER.astype(float)))
    np.testing.assert_allclose(measured(name)["kl"], expected, rtol=1e-5)
    np.testing.assert_allclose(measured(name)["kl to itself"], 0.0, atol=1e-6)


def test_categorical_kl_to_a_law_that_forbids_what_happens_is_infinite():
    assert measured("uniform")["kl to masked"] == np.inf
    # The certain law is on an action of the masked law's zero; the masked one's own is none.
    assert measured("certain")["kl to masked"] == np.inf
    assert measured("masked")["kl to masked"] == 0.0


@pytest.mark.parametrize("name", LOGITS)
def test_categorical_gradients_are_finite_and_right(name):
    probs = probs_of(name)
    chosen = np.eye(4)[np.argmax(probs)]
    np.testing.assert_allclose(measured(name)["slope of log_prob"], chosen - probs, atol=1e-5)
    with np.errstate(divide="ignore", invalid="ignore"):
        surprise = -np.where(probs > 0, probs * np.log(probs), 0.0)
        # d/dl_i of -sum p log p is -p_i (log p_i + entropy).
        expected = surprise - probs * surprise.sum()
    np.testing.assert_allclose(measured(name)["slope of entropy"], expected, atol=1e-5)


LOC = np.float32([[0.0, 1.0, -2.0], [3.0, 0.5, 0.0]])
LOG_SCALE = np.log(np.float32([1.0, 0.1, 3.0]))
OTHER_LOC = np.float32([[0.5, 1.0, -1.0], [2.0, 0.4, 1.0]])
OTHER_LOG_SCALE = np.float32([0.2, 0.2, 0.2])
ACTION = np.float32([[0.3, 1.2, 4.0], [-1.0, 0.5, 0.1]])
LOW, HIGH = np.float32([-1.0, 0.0, -3.0]), np.float32([1.0, 4.0, 5.0])


@functools.cache
def gaussian():
    """Everything about one Gaussian policy, and draws of it `[N, 2, 3]`."""

    @jax.jit
    def run(loc, log_scale, other_loc, other_log_scale, action, key):
        policy, other = GaussianPolicy(loc, log_scale), GaussianPolicy(other_loc, other_log_scale)
        many = GaussianPolicy(jnp.broadcast_to(loc, (NUM_DRAWS, 2, 3)), log_scale)
        squashed = TanhGaussianPolicy(many.loc, log_scale, LOW, HIGH)
        moved = lambda loc, log_scale: GaussianPolicy(loc, log_scale).sample(key).sum()  # noqa: E731
        return {
            "log_prob": policy.log_prob(action),
            "entropy": policy.entropy(),
            "mode": policy.mode(),
            "kl": policy.kl(other),
            "kl to itself": policy.kl(policy),
            "drawn": many.sample(key),
            "sample": policy.sample(key),
            "slopes": jax.grad(moved, argnums=(0, 1))(loc, log_scale),
            "squashed": squashed.sample_with_log_prob(key),
            "squashed again": squashed.sample(key),
            "squashed apart": squashed.sample_with_log_probs(key),
            "squashed mode": TanhGaussianPolicy(loc, log_scale, LOW, HIGH).mode(),
        }

    numbers = (LOC, LOG_SCALE, OTHER_LOC, OTHER_LOG_SCALE, ACTION)
    return jax.device_get(run(*numbers, jax.random.key(0)))


def laws() -> scipy.stats.rv_continuous:
    scale = np.exp(np.broadcast_to(LOG_SCALE, LOC.shape).astype(float))
    return scipy.stats.norm(LOC.astype(float), scale)


def test_each_coordinate_of_a_squashed_draw_has_its_own_density():
    """That of SciPy's normal over the slope of the squash there; their sum is the action's."""
    action, log_probs = gaussian()["squashed apart"]
    whole, log_prob = gaussian()["squashed"]
    np.testing.assert_array_equal(action, whole)
    np.testing.assert_allclose(log_probs.sum(-1), log_prob, rtol=1e-5, atol=1e-4)
    half = 0.5 * (HIGH - LOW).astype(float)
    unit = (action - LOW) / half - 1.0
    inside = np.abs(unit) < 0.99  # nearer to the ends float32 does not determine the raw draw
    raw = np.arctanh(np.where(inside, unit, 0.0))
    expected = laws().logpdf(raw) - np.log(half * (1.0 - np.tanh(raw) ** 2))
    np.testing.assert_allclose(log_probs[inside], expected[inside], atol=2e-3)


def test_gaussian_agrees_with_scipy():
    reference, found = laws(), gaussian()
    np.testing.assert_allclose(found["log_prob"], reference.logpdf(ACTION).sum(-1), rtol=1e-5)
    np.testing.assert_allclose(found["entropy"], reference.entropy().sum(-1), rtol=1e-5)
    np.testing.assert_array_equal(found["mode"], LOC)


def test_gaussian_draws_follow_the_law_and_move_with_the_mean():
    drawn = gaussian()["drawn"]
    for row in range(2):
        for column in range(3):
            law = scipy.stats.norm(LOC[row, column], np.exp(LOG_SCALE[column]))
            assert scipy.stats.kstest(drawn[:, row, column], law.cdf).pvalue > 1e-3
    slopes = gaussian()["slopes"]
    np.testing.assert_array_equal(slopes[0], np.ones((2, 3)))
    # Of the log-scale: the distance from the mean, over both rows that share it.
    expected = (gaussian()["sample"] - LOC).sum(0)
    np.testing.assert_allclose(slopes[1], expected, rtol=1e-4, atol=1e-5)


def test_gaussian_kl_agrees_with_monte_carlo_and_vanishes_on_itself():
    """In closed form (Kullback 1959) in float64, and as the mean of the log-ratio of draws."""
    other = scipy.stats.norm(OTHER_LOC.astype(float), np.exp(OTHER_LOG_SCALE.astype(float)))
    ratio = (laws().logpdf(gaussian()["drawn"]) - other.logpdf(gaussian()["drawn"])).sum(-1)
    error = ratio.std(0) / NUM_DRAWS**0.5
    np.testing.assert_array_less(np.abs(ratio.mean(0) - gaussian()["kl"]), 5 * error)
    s, t = laws().std(), other.std()
    exact = (np.log(t / s) + (s**2 + (LOC - OTHER_LOC) ** 2) / (2 * t**2) - 0.5).sum(-1)
    np.testing.assert_allclose(gaussian()["kl"], exact, rtol=1e-5)
    np.testing.assert_allclose(gaussian()["kl to itself"], 0.0, atol=1e-6)


def test_a_squashed_gaussian_is_the_gaussian_through_tanh_with_the_density_of_the_image():
    """By the change of variables in float64, from the draw before the squashing."""
    found = gaussian()
    action, log_prob = found["squashed"]
    raw = found["drawn"].astype(float)  # the same key
    middle, half = (LOW + HIGH) / 2.0, (HIGH - LOW) / 2.0
    np.testing.assert_allclose(action, middle + half * np.tanh(raw), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(found["squashed again"], action)
    np.testing.assert_allclose(found["squashed mode"], middle + half * np.tanh(LOC), rtol=1e-5)
    slope = np.log(half) - 2.0 * np.log(np.cosh(raw))  # of middle + half tanh(u): half / cosh(u)^2
    expected = (laws().logpdf(raw) - slope).sum(-1)
    np.testing.assert_allclose(log_prob, expected, rtol=1e-4, atol=1e-4)


MASKS = np.array([[1, 1, 1, 1], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 0]], bool)


@functools.cache
def masked():
    """Laws under every mask, `[4, 4]`, and the slopes of what a loss is made of."""

    @jax.jit
    @jax.vmap
    def run(mask):
        policy = lambda logits: CategoricalPolicy(logits).masked(mask)  # noqa: E731
        legal = jnp.argmax(mask)
        logits, other = jnp.float32([1.0, -0.5, 2.0, 700.0]), jnp.float32([0.0, 1.0, -1.0, 3.0])
        return {
            "log_probs": policy(logits).log_probs(),
            "entropy": policy(logits).entropy(),
            "kl": policy(logits).kl(policy(other)),
            "mode": policy(logits).mode(),
            "drawn": jax.vmap(policy(other).sample)(jax.random.split(jax.random.key(0), 500)),
            "slopes": [
                jax.grad(lambda x: policy(x).log_prob(legal))(logits),
                jax.grad(lambda x: policy(x).entropy())(logits),
                jax.grad(lambda x: policy(x).kl(policy(other)))(logits),
                jax.grad(lambda x: policy(other).kl(policy(x)))(logits),
            ],
        }

    return jax.device_get(run(MASKS))


@pytest.mark.parametrize("row", range(4))
def test_a_masked_law_is_the_law_given_that_the_action_is_legal(row):
    """Softmax over the legal logits alone; over all, evenly, where none is."""
    found, mask = jax.tree.map(lambda leaf: leaf[row], masked()), MASKS[row]
    logits, other = np.array([1.0, -0.5, 2.0, 700.0]), np.array([0.0, 1.0, -1.0, 3.0])
    probs, others = np.full((2, 4), 0.25)
    if mask.any():
        probs, others = (scipy.special.softmax(np.where(mask, x, -np.inf)) for x in (logits, other))
    np.testing.assert_allclose(np.exp(found["log_probs"]), probs, atol=1e-6)
    assert np.all(np.exp(found["log_probs"])[~mask & mask.any()] == 0.0)
    np.testing.assert_allclose(found["entropy"], scipy.stats.entropy(probs), atol=1e-5)
    kept = others > 0
    divergence = scipy.stats.entropy(np.maximum(probs[kept], 1e-300), others[kept])
    np.testing.assert_allclose(found["kl"], divergence, rtol=1e-5, atol=1e-6)
    assert found["mode"] == np.argmax(probs)
    assert set(found["drawn"].tolist()) == set(np.flatnonzero(kept))
    for slope in found["slopes"]:
        assert np.all(np.isfinite(slope)) and np.all(slope[~mask] == 0.0)


def test_several_numbers_are_independent_categoricals():
    """Against the joint law of all six pairs, by NumPy."""
    model = actor_critic(
        NetworkSettings(hidden_sizes=()), Discrete(2), MultiDiscrete([3, 2]), False
    )
    where, mask = jnp.array([1]), jnp.array([[True, False, True, True, True]])
    inputs = (where, jnp.zeros(1, bool), ())

    @jax.jit
    def run(key):
        params = jax.tree.map(lambda x: x + 1.0, model.init(key, *inputs))
        kernel = 5.0 * jax.random.normal(
            key, params["params"]["policy_head"]["output"]["kernel"].shape
        )
        params["params"]["policy_head"]["output"]["kernel"] = kernel
        policy, *_ = model.apply(params, *inputs)
        legal = policy.masked(mask)
        pairs = jnp.stack(jnp.meshgrid(jnp.arange(3), jnp.arange(2), indexing="ij"), -1)
        each = lambda law: jax.vmap(lambda pair: law.log_prob(pair[None])[0])(pairs.reshape(-1, 2))  # noqa: E731
        drawn = jax.vmap(legal.sample)(jax.random.split(key, 4000))
        scores = policy.entropy(), legal.entropy(), legal.kl(policy), legal.mode()
        logits = jnp.concatenate([law.logits[0] for law in policy.parts])
        return logits, each(policy), each(legal), scores, drawn

    logits, log_probs, legal, scores, drawn = jax.device_get(run(jax.random.key(3)))
    first, second = logits[:3].astype(float), logits[3:].astype(float)
    joint = np.outer(scipy.special.softmax(first), scipy.special.softmax(second)).ravel()
    allowed = joint * np.repeat([1, 0, 1], 2)
    allowed /= allowed.sum()
    np.testing.assert_allclose(np.exp(log_probs), joint, atol=1e-5)
    np.testing.assert_allclose(np.exp(legal), allowed, atol=1e-5)
    divergence = scipy.stats.entropy(allowed, joint)
    expected = scipy.stats.entropy(joint), scipy.stats.entropy(allowed), divergence
    np.testing.assert_allclose([score[0] for score in scores[:3]], expected, rtol=1e-4, atol=1e-5)
    assert scores[3].tolist() == [list(divmod(int(np.argmax(allowed)), 2))]
    counts = np.bincount(drawn[:, 0] @ [2, 1], minlength=6)
    assert counts[allowed == 0].sum() == 0
    possible = allowed > 0
    assert scipy.stats.chisquare(counts[possible], allowed[possible] * 4000).pvalue > 1e-3
