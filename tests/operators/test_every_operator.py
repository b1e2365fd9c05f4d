"""Contracts of every functional x improvement x head that the library names.

A backup is `outcome_law` after `state_law`, so each half is compiled once for each of its parts,
and the halves are then put together in every way.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.core.law import Law
from jaxrl.functionals import Mean
from jaxrl.operators import BellmanOperator, FixedPolicy, Scalar, names

B, N, A = 8, 4, 3  # lookaheads, outcomes, actions
DISCOUNT = 0.9
GIVEN = {
    "interval": {"lower": jnp.full(N, 0.05), "upper": jnp.full(N, 0.8)},
    "scenarios": {"kernels": jnp.array([[0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]])},
    "fixed_policy": {"probs": jnp.array([0.2, 0.5, 0.3])},
    "categorical": {"num_atoms": 5},
    "quantile": {"num_atoms": 5},
    "expectiles": {"num_atoms": 5},
    "two_hot": {"num_atoms": 5},
    "hl_gauss": {"num_atoms": 5},
    "particles": {"num_atoms": 5},
}
FUNCTIONALS, IMPROVEMENTS, HEADS = (
    {name: kind(**GIVEN.get(name, {})) for name, kind in names()[slot].items()}
    for slot in ("functionals", "improvements", "heads")
)
PAIRS = [(i, h) for i in IMPROVEMENTS for h in HEADS]
# Raising these parameters raises the return they stand for.
RISING = ("scalar", "quantile", "particles")


def random_lookaheads():
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(N), B)
    probs[0] = [0.5, 0.0, 0.5, 0.0]
    discount = DISCOUNT * (rng.random((B, N)) > 0.2)
    return tuple(jnp.asarray(x, jnp.float32) for x in (probs, rng.normal(size=(B, N)), discount))


def states(improvement, head):
    """Three sets of successors, the third above the first: laws `[3, B, N, M]` and scores."""
    operator = BellmanOperator(head, improvement)
    first, second, rise = jax.random.normal(jax.random.key(1), (3, B, N, A, *head.shape))
    params = jnp.stack([first, second, first + jnp.abs(rise)])
    every = lambda f: jax.vmap(jax.vmap(jax.vmap(f)))  # noqa: E731
    law, scores = jax.jit(
        lambda params: (every(operator.state_law)(params), every(operator.scores)(params))
    )(params)
    return law, scores


@pytest.fixture(scope="module")
def successors():
    """Of every improvement and head: laws padded to one size `[P, 3, B, N, M]`, and q."""
    found = [states(IMPROVEMENTS[i], HEADS[h]) for i, h in PAIRS]
    width = max(law.atoms.shape[-1] for law, _ in found)

    def pad(x):
        return np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, width - x.shape[-1])])

    laws = Law(*(np.stack([pad(getattr(law, k)) for law, _ in found]) for k in ("probs", "atoms")))
    return laws, np.stack([scores for _, scores in found])


@jax.jit
def outcomes(functional, laws):
    """The backup's law `[P, 3, B, N M]`, and the functional of the expected outcomes."""
    operator = BellmanOperator(Scalar(), successor_functional=functional)
    probs, reward, discount = random_lookaheads()
    each = jax.vmap(
        jax.vmap(jax.vmap(operator.outcome_law), (None, None, None, 0)), (None,) * 3 + (0,)
    )
    law = each(probs, reward, discount, laws)
    values = reward + discount * laws.mean()
    return law, jax.vmap(jax.vmap(jax.vmap(functional), (None, 0)), (None, 0))(probs, values)


@pytest.mark.parametrize("name", FUNCTIONALS)
def test_backup_of_every_improvement_and_head(name, successors):
    functional, (next_laws, q_values) = FUNCTIONALS[name], successors
    law, expected = jax.tree.map(np.asarray, outcomes(functional, next_laws))
    means = np.asarray(law.mean())
    assert np.all(np.isfinite(law.probs)) and np.all(np.isfinite(law.atoms))
    # A distributional backup agrees with the scalar one.
    np.testing.assert_allclose(means, expected, atol=2e-4)
    np.testing.assert_allclose(law.probs.sum(-1), 1.0, atol=1e-4)
    assert law.probs.min() >= -1e-6

    far = np.abs(q_values[:, 0] - q_values[:, 1]).max(axis=(-1, -2))  # [P, B]
    moved = np.abs(means[:, 0] - means[:, 1])
    for pair, (i, h) in enumerate(PAIRS):
        operator = BellmanOperator(HEADS[h], IMPROVEMENTS[i], functional)
        if operator.contracts:
            assert np.all(moved[pair] <= DISCOUNT * far[pair] + 2e-4), (i, h)
        if functional.monotone and IMPROVEMENTS[i].nonexpansive and h in RISING:
            assert np.all(means[pair, 2] >= means[pair, 0] - 2e-4), (i, h)


def test_what_is_said_not_to_contract_does_expand_somewhere():
    """One pair of next values for each fact that is stated false."""
    step = {"probs": jnp.array([0.5, 0.5]), "discount": jnp.array([1.0, 1.0])}
    for name, low, high in [("mean_std", [0.0, 0.0], [0.0, 1.0])]:
        assert not BellmanOperator(successor_functional=FUNCTIONALS[name]).contracts
        steep = FUNCTIONALS[name].replace(weight=3.0)
        less, more = (steep(step["probs"], jnp.array(v)) for v in (low, high))
        assert more < less  # not monotone: a better outcome is worth less
    boltzmann = IMPROVEMENTS["boltzmann"].replace(temperature=1.0)
    assert not BellmanOperator(improvement=boltzmann).contracts

    def value(q):
        return jnp.sum(boltzmann(q)[0] * q)

    assert jnp.max(jnp.abs(jax.grad(value)(jnp.array([0.0, 4.0])))) > 1.0


def test_the_fixed_policy_ignores_the_values():
    assert isinstance(IMPROVEMENTS["fixed_policy"], FixedPolicy)
    probs, _ = IMPROVEMENTS["fixed_policy"](jnp.array([9.0, -9.0, 0.0]))
    np.testing.assert_allclose(probs, GIVEN["fixed_policy"]["probs"])
    assert float(Mean()(probs, jnp.ones(A))) == pytest.approx(1.0)
