"""The order of atoms: one order, whatever program it stands in."""

from __future__ import annotations

import jax
import numpy as np

from jaxrl.functionals.ordering import running_totals

RNG = np.random.default_rng(0)
PROBS = RNG.dirichlet(np.ones(8), 500).astype(np.float32)
REWARDS, VALUES = RNG.normal(size=(2, 500, 8)).astype(np.float32)


def test_every_atom_is_below_or_above_every_other_and_neither_of_itself():
    """Of values that are computed in the same program, whose copies the compiler may round
    differently: what lies below, the atom itself and what lies above make the whole."""

    def totals(probs, reward, value):
        _, [(itself, below, above)] = running_totals(reward + np.float32(0.9) * value, probs)
        return below, itself, above

    below, itself, above = map(np.asarray, jax.jit(jax.vmap(totals))(PROBS, REWARDS, VALUES))
    np.testing.assert_allclose(below + itself + above, 1.0, atol=1e-6)
    ranks = np.argsort(np.argsort(REWARDS + np.float32(0.9) * VALUES, axis=1), axis=1)
    expected = [[p[r < rank].sum() for rank in r] for p, r in zip(PROBS, ranks, strict=True)]
    np.testing.assert_allclose(below, expected, atol=1e-6)
