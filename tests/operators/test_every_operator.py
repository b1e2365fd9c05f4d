"""Contracts of functionals x every improvement x every head that the library names.

A backup is `outcome_law` after `state_law`, so each half is compiled once for each of its parts,
and the halves are then put together in every way. In `state_law` an improvement sees nothing of a
head but its means: every improvement meets one head, and every head an improvement that selects
and one that mixes.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.core import Law
from jaxrl.operators import BellmanOperator, Scalar, bellman

B, N, A = 8, 4, 3  # lookaheads, outcomes, actions
DISCOUNT = 0.9
GIVEN = {
    "interval": {"lower": np.full(N, 0.05, np.float32), "upper": np.full(N, 0.8, np.float32)},
    "scenarios": {"kernels": np.float32([[0.4, 0.3, 0.2, 0.1], [0.1, 0.2, 0.3, 0.4]])},
    "fixed_policy": {"probs": np.float32([0.2, 0.5, 0.3])},
    "categorical": {"num_atoms": 5},
    "quantile": {"num_atoms": 5},
    "implicit_quantile": {"num_atoms": 5},
    "expectiles": {"num_atoms": 5},
    "two_hot": {"num_atoms": 5},
    "hl_gauss": {"num_atoms": 5},
    "energy_atoms": {"num_atoms": 5},
}
FUNCTIONALS, IMPROVEMENTS, HEADS = (
    {name: kind(**GIVEN.get(name, {})) for name, kind in bellman.names()[slot].items()}
    for slot in ("functionals", "improvements", "heads")
)
PAIRS = [(i, "quantile") for i in IMPROVEMENTS]
PAIRS += [(i, h) for h in HEADS if h != "quantile" for i in ("greedy", "softmax")]
# A backup sees nothing of a functional but its value, its slope and what it states. Of these one is
# linear, one a sum of others, and the rest differ in what they state, in what they are given for
# each outcome or in how their slope is made; values and slopes of all are in tests/functionals.
TRIED = ("mean", "cvar", "var", "entropic", "mean_std", "cumulative_prospect", "kl_ball")
TRIED += ("total_variation", "interval", "scenarios", "kl_penalty")
# Raising these parameters raises the return they stand for.
RISING = ("scalar", "quantile", "energy_atoms")


def random_steps():
    """`[B, N]` each: probabilities, rewards, discounts."""
    rng = np.random.default_rng(0)
    probs = rng.dirichlet(np.ones(N), B)
    probs[0] = [0.5, 0.0, 0.5, 0.0]
    discount = DISCOUNT * (rng.random((B, N)) > 0.2)
    return tuple(x.astype(np.float32) for x in (probs, rng.normal(size=(B, N)), discount))


@jax.jit
def states(params):
    """Of each pair, from three sets of `params[h][3, B, N, A, ...]`: laws and scores."""
    every = lambda f: jax.vmap(jax.vmap(jax.vmap(f)))  # noqa: E731
    operators = [(BellmanOperator(HEADS[h], IMPROVEMENTS[i]), params[h]) for i, h in PAIRS]
    return [(every(o.state_law)(given), every(o.scores)(given)) for o, given in operators]


@pytest.fixture(scope="module")
def successors():
    """Of every pair: steps and laws of one size `[P 3 B, N, ...]`, scores `[P, 3, B, N, A]`.

    Three sets of successors, the third above the first.
    """
    rng = np.random.default_rng(1)
    params = {}
    for name, head in HEADS.items():
        first, second, rise = rng.normal(size=(3, B, N, A, *head.shape))
        params[name] = np.stack([first, second, first + np.abs(rise)]).astype(np.float32)
    found = jax.tree.map(np.asarray, states(params))
    width = max(law.atoms.shape[-1] for law, _ in found)

    def pad(x):
        return np.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, width - x.shape[-1])])

    def every_law(name):
        padded = np.stack([pad(getattr(law, name)) for law, _ in found])
        return padded.reshape(-1, N, width)

    step = tuple(np.tile(x, (3 * len(PAIRS), 1)) for x in random_steps())
    q_values = np.stack([scores for _, scores in found])
    return step, Law(every_law("probs"), every_law("atoms")), q_values


@jax.jit
def outcomes(functional, step, laws):
    """The backup's law `[T, N M]`, and the functional of the expected outcomes `[T]`."""
    operator = BellmanOperator(Scalar(), successor_functional=functional)
    probs, reward, discount = step
    law = jax.vmap(operator.outcome_law)(*step, laws)
    return law, jax.vmap(functional)(probs, reward + discount * laws.mean())


# A few of them together are quick in test_bellman.py, and each alone in the tests of its kind.
@pytest.mark.slow
@pytest.mark.parametrize("name", TRIED)
def test_backup_of_every_improvement_and_head(name, successors):
    functional, (step, next_laws, q_values) = FUNCTIONALS[name], successors
    law, expected = jax.tree.map(np.asarray, outcomes(functional, step, next_laws))
    assert np.all(np.isfinite(law.probs)) and np.all(np.isfinite(law.atoms))
    # A distributional backup agrees with the scalar one.
    means = np.sum(law.probs * law.atoms, -1)
    np.testing.assert_allclose(means, expected, atol=2e-4)
    np.testing.assert_allclose(law.probs.sum(-1), 1.0, atol=1e-4)
    assert law.probs.min() >= -1e-6

    means = means.reshape(-1, 3, B)
    far = np.abs(q_values[:, 0] - q_values[:, 1]).max(axis=(-1, -2))  # [P, B]
    moved = np.abs(means[:, 0] - means[:, 1])
    for pair, (i, h) in enumerate(PAIRS):
        operator = BellmanOperator(HEADS[h], IMPROVEMENTS[i], functional)
        if operator.contracts:
            assert np.all(moved[pair] <= DISCOUNT * far[pair] + 2e-4), (i, h)
        if functional.monotone and IMPROVEMENTS[i].facts.nonexpansive and h in RISING:
            assert np.all(means[pair, 2] >= means[pair, 0] - 2e-4), (i, h)


def test_what_is_said_not_to_contract_does_expand_somewhere():
    """More is worth less to mean - 3 std; V of Boltzmann has a slope above 1 at (0, 4)."""
    assert not BellmanOperator(successor_functional=FUNCTIONALS["mean_std"]).contracts
    steep = FUNCTIONALS["mean_std"].replace(weight=3.0)
    probs, values = np.float32([0.5, 0.5]), np.float32([[0.0, 0.0], [0.0, 1.0]])
    worths = jax.jit(jax.vmap(steep, (None, 0)))(probs, values)
    np.testing.assert_allclose(worths, [0.0, 0.5 - 3.0 * 0.5], atol=1e-6)
    boltzmann = IMPROVEMENTS["boltzmann"].replace(temperature=1.0)
    assert not BellmanOperator(improvement=boltzmann).contracts
    slope = jax.jit(jax.grad(lambda q: jnp.sum(boltzmann(q)[0] * q)))
    # pi_a (1 + q_a - V), with V = 4 pi_1.
    probs = np.exp([0.0, 4.0]) / np.sum(np.exp([0.0, 4.0]))
    exact = probs * (1 + np.array([0.0, 4.0]) - 4 * probs[1])
    np.testing.assert_allclose(slope(np.float32([0.0, 4.0])), exact, atol=1e-6)
    assert np.max(exact) > 1.0
