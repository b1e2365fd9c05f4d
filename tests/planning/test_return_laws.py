"""Return laws against every path of tiny models, in plain Python."""

import collections

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import wasserstein_distance

from jaxrl import outcome_mdp, stack_mdps
from jaxrl.core import Law
from jaxrl.planning import return_law, return_laws

S, A, K, H = 3, 2, 2, 4


def random_mdp(seed, discount=1.0, lattice=True, fractional=False):
    rng = np.random.default_rng(seed)
    shape = (S, A, K)
    ends = rng.random(shape) * 0.5 if fractional else rng.random(shape) < 0.25
    return outcome_mdp(
        rng.dirichlet(np.ones(K), (S, A)),
        rng.integers(S, size=shape),
        rng.integers(-2, 3, shape) if lattice else rng.normal(size=shape),
        discount,
        terminal=ends,
        initial=rng.dirichlet(np.ones(S)),
    )


def random_policy(seed, timed=True):
    rng = np.random.default_rng(seed)
    return rng.dirichlet(np.ones(A), (H, S) if timed else S)


def paths(mdp, policy, horizon, state=None):
    """return -> probability, by walking every path."""
    prob, successor, reward, ends = (
        np.asarray(x, np.float64 if x.dtype != jnp.int32 else int)
        for x in (mdp.prob, mdp.next_state, mdp.reward, mdp.terminal)
    )
    policy = np.broadcast_to(policy, (horizon, S, A))
    law = collections.defaultdict(float)

    def walk(t, s, gained, chance):
        if t == horizon:
            law[round(gained, 9)] += chance
            return
        for a in range(A):
            for k in range(K):
                total = gained + float(mdp.discount) ** t * reward[s, a, k]
                here = chance * policy[t, s, a] * prob[s, a, k]
                if ends[s, a, k] > 0:
                    law[round(total, 9)] += here * ends[s, a, k]
                if ends[s, a, k] < 1:
                    walk(t + 1, successor[s, a, k], total, here * (1 - ends[s, a, k]))

    starts = np.asarray(mdp.initial) if state is None else np.eye(S)[state]
    for s in range(S):
        walk(0, s, 0.0, starts[s])
    atoms, probs = np.array(sorted(law.items())).T
    return atoms[probs > 0], probs[probs > 0]


def used(found):
    keep = np.asarray(found.law.probs) > 0
    return np.asarray(found.law.atoms)[keep], np.asarray(found.law.probs)[keep]


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"discount": 0.7, "lattice": False},
        pytest.param({"discount": 0.9, "fractional": True}, marks=pytest.mark.slow),
        {"discount": 0.0, "lattice": False},
    ],
    ids=str,
)
def test_atoms_and_probabilities_are_those_of_the_paths(settings):
    with jax.enable_x64(True):
        mdp, policy = random_mdp(0, **settings), random_policy(0)
        for state in (None, 2):
            found = return_law(mdp, policy, horizon=H, initial_state=state, num_atoms=1024)
            assert found.is_exact and found.error_bound < 1e-11
            atoms, probs = used(found)
            expected_atoms, expected_probs = paths(mdp, policy, H, state)
            np.testing.assert_allclose(atoms, expected_atoms, atol=1e-8)
            np.testing.assert_allclose(probs, expected_probs, atol=1e-12)


@pytest.mark.slow
def test_a_lattice_needs_no_more_atoms_than_it_has_points():
    """Rewards -2 to 2 over four steps: 17 returns, of 4096 paths."""
    mdp, policy = random_mdp(1), random_policy(1)
    found = return_law(mdp, policy, horizon=H, num_atoms=17)
    assert found.is_exact
    expected_atoms, expected_probs = paths(mdp, policy, H)
    np.testing.assert_allclose(used(found)[0], expected_atoms, atol=1e-5)
    np.testing.assert_allclose(used(found)[1], expected_probs, atol=1e-6)
    assert not return_law(mdp, policy, horizon=H, num_atoms=5).is_exact


@pytest.mark.slow
@pytest.mark.parametrize("num_atoms", [1, 3, 20])
def test_too_few_atoms_keep_the_mean_and_say_how_far_they_are(num_atoms):
    with jax.enable_x64(True):
        for seed in range(4):
            mdp = random_mdp(seed, discount=0.8, lattice=False)
            policy = random_policy(seed, timed=False)
            found = return_law(mdp, policy, horizon=H, num_atoms=num_atoms)
            (atoms, probs), exact = used(found), paths(mdp, policy, H)
            far = wasserstein_distance(atoms, exact[0], probs, exact[1])
            assert not found.is_exact
            assert 0 < far <= found.error_bound
            np.testing.assert_allclose(probs @ atoms, exact[1] @ exact[0], atol=1e-9)
            assert np.all(np.diff(atoms) > 0)


def test_merging_ignores_impossible_atoms():
    """0.25 at 1 twice, 0.5 at 3; what is impossible may hold anything."""
    merged = jax.jit(return_laws.merge, static_argnums=1)
    probs = np.float32([0.25, 0.0, 0.5, 0.25, 0.0])
    impossible = np.float32([1.0, np.inf, 3.0, 1.0, np.nan])
    law, moved, fits = jax.device_get(merged(Law(probs, impossible), 3))
    assert law.probs.tolist() == [0.5, 0.5, 0.0] and law.atoms[:2].tolist() == [1.0, 3.0]
    assert moved == 0.0 and fits
    # 0.25 at 0 and 0.75 at 4, on one atom.
    two = Law(np.float32([0.25, 0.75, 0, 0, 0]), np.float32([0.0, 4.0, 9.0, 9.0, 9.0]))
    law, moved, fits = jax.device_get(merged(two, 1))
    assert law.atoms.tolist() == [3.0] and not fits
    assert float(moved) == 1.5  # 0.25 * 3 + 0.75 * 1


@pytest.mark.slow
def test_batches_of_models_and_policies():
    mdps = [random_mdp(seed, discount=0.9) for seed in range(2)]
    policies = jnp.stack([random_policy(seed) for seed in range(2)])
    call = lambda m, p: return_law(m, p, horizon=H, num_atoms=32)  # noqa: E731
    together = jax.vmap(call)(stack_mdps(mdps), policies)
    for i in range(2):
        alone = call(mdps[i], policies[i])
        np.testing.assert_allclose(together.law.probs[i], alone.law.probs, atol=1e-6)
        np.testing.assert_allclose(together.law.mean()[i], alone.law.mean(), atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"horizon": 0}, "horizon=0"),
        ({"horizon": 2.5}, "horizon=2.5"),
        ({"initial_state": S}, r"initial_state=3 is outside \[0, 3\)"),
        ({"num_atoms": 0}, "num_atoms=0"),
        ({"policy": np.full((S, A + 1), 0.5)}, r"shape \[3, 2\] or \[4, 3, 2\]"),
        ({"policy": np.full((S, A), 0.4)}, "summing to one"),
    ],
)
def test_bad_arguments(change, message):
    arguments = {"policy": random_policy(0), "horizon": H} | change
    with pytest.raises(ValueError, match=message):
        return_law(random_mdp(0), **arguments)
