"""The order of atoms: one order, whatever program it stands in."""

from __future__ import annotations

import os

import jax
import numpy as np
import pytest

from jaxrl.functionals import Contamination, CVaR, KLBall, PowerDistortion, TotalVariation, VaR

RNG = np.random.default_rng(0)
PROBS = RNG.dirichlet(np.ones(8), 500).astype(np.float32)
REWARDS, VALUES = RNG.normal(size=(2, 500, 8)).astype(np.float32)
REWARDS[::2, 1], VALUES[::2, 1] = REWARDS[::2, 4], VALUES[::2, 4]  # equal atoms, the first below


@pytest.mark.parametrize("optimised", [True, False])
def test_every_atom_is_below_or_above_every_other_and_neither_of_itself(optimised):
    """Of values that are computed in the same program, whose copies the compiler may round
    differently: the worst of two draws is an atom with the square of what lies above it or at it,
    less the square of what lies above; these make the whole."""
    if not optimised and "fusion_emitters=false" in os.environ.get("XLA_FLAGS", ""):
        pytest.skip("unoptimised and without its emitters XLA drops the barrier between the copies")

    def worst_of_two(probs, reward, value):
        return PowerDistortion(2.0)(probs, reward + np.float32(0.9) * value)

    weigh = jax.jit(jax.vmap(jax.grad(worst_of_two, argnums=1)))
    jax.config.update("jax_disable_most_optimizations", not optimised)
    try:
        weights = np.asarray(weigh(PROBS, REWARDS, VALUES))
    finally:
        jax.config.update("jax_disable_most_optimizations", True)
    np.testing.assert_allclose(weights.sum(1), 1.0, atol=1e-6)
    order = np.argsort(REWARDS.astype(float) + 0.9 * VALUES.astype(float), axis=1, kind="stable")
    ranks = np.argsort(order, axis=1)
    above = [[p[r > rank].sum() for rank in r] for p, r in zip(PROBS, ranks, strict=True)]
    above = np.array(above, float)
    np.testing.assert_allclose(weights, (above + PROBS) ** 2 - above**2, atol=1e-6)


@pytest.mark.parametrize(
    "functional",
    [KLBall(0.2), TotalVariation(0.2), VaR(0.4), Contamination(0.2)],
    ids=lambda functional: type(functional).__name__,
)
def test_a_worst_case_finds_its_atoms_among_values_of_the_same_program(functional):
    """Of all laws of four draws from two outcomes, at values that are computed beside them."""
    laws = np.arange(5, dtype=np.float32)[:, None] / 4
    laws = np.concatenate([laws, 1 - laws], axis=1)

    @jax.jit
    def both(reward, value, given):
        every = jax.vmap(jax.vmap(functional, (0, None)), (None, 0))
        return every(laws, reward + np.float32(0.8) * value), every(laws, given)

    reward, value = REWARDS[:, :2], VALUES[:, :2]
    given = (reward.astype(float) + 0.8 * value).astype(np.float32)
    found, expected = both(reward, value, given)
    np.testing.assert_allclose(found, expected, atol=1e-5)


LEVELS = np.array([0.01, 0.3, 0.5, 0.9, 1.0], np.float32)


@jax.jit
def tails_of(probs, values):
    tail = lambda level: CVaR(level)(probs, values)  # noqa: E731
    return jax.vmap(lambda x: (tail(x), VaR(x)(probs, values), jax.grad(tail)(x)))(LEVELS)


@pytest.mark.parametrize("size", [3_000, 100_000])
@pytest.mark.parametrize("weights", ["equal", "spread", "heavy"])
def test_tails_of_many_atoms_are_those_of_numpy(size, weights):
    """Rounding of a sum of N terms is no share of the tail, however small the atoms are."""
    rng = np.random.default_rng(size)
    probs = {
        "equal": np.ones(size),
        "spread": rng.exponential(size=size),
        "heavy": rng.pareto(0.5, size),
    }[weights]
    probs, values = (probs / probs.sum()).astype(np.float32), rng.normal(size=size)
    values = values.astype(np.float32)
    tails, quantiles, slopes = map(np.asarray, tails_of(probs, values))
    order = np.argsort(values)
    p, v = probs[order].astype(float), values[order].astype(float)
    p /= p.sum()
    up_to = np.cumsum(p)
    taken = np.clip(LEVELS[:, None] - (up_to - p), 0.0, p)
    np.testing.assert_allclose(tails, (taken @ v) / LEVELS, atol=2e-5)
    # The rank of a quantile is right to half an atom, and to the rounding of the cumulative sum.
    place = np.searchsorted(v, quantiles)
    slack = np.minimum(0.5 * p[place], size * 1.2e-7) + 2e-5
    assert np.all(up_to[place] > LEVELS - slack) and np.all(
        up_to[place] - p[place] < LEVELS + slack
    )
    # d(level CVaR) / d level is the quantile, to the next atoms where rounding chooses.
    np.testing.assert_allclose((tails + LEVELS * slopes)[:-1], quantiles[:-1], atol=2e-2)
