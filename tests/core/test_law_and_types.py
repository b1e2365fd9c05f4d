"""Laws, and the lane-wise choice that resets and memories rest on."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.core.law import Law
from jaxrl.core.types import select


def test_mean_ignores_impossible_atoms():
    law = Law(jnp.array([0.25, 0.75, 0.0]), jnp.array([4.0, 8.0, jnp.inf]))
    assert float(law.mean()) == 7.0
    assert bool(
        jnp.all(jnp.isfinite(jax.grad(lambda atoms: law.replace(atoms=atoms).mean())(law.atoms)))
    )


def test_samples_weigh_the_same():
    law = Law.of_samples(jnp.array([[1.0, 2.0, 6.0, 7.0], [0.0, 0.0, 0.0, 4.0]]))
    assert law.mean().tolist() == [4.0, 1.0]
    np.testing.assert_allclose(jnp.sum(law.probs, -1), 1.0)


def test_push_moves_the_atoms_of_each_law_and_keeps_the_probabilities():
    law = Law(jnp.array([[0.5, 0.5], [0.1, 0.9]]), jnp.array([[0.0, 2.0], [1.0, 1.0]]))
    pushed = law.push(jnp.array([1.0, 0.0]), jnp.array([0.5, -3.0]))
    assert pushed.atoms.tolist() == [[1.0, 2.0], [-3.0, -3.0]]
    assert pushed.probs is law.probs


@pytest.mark.parametrize("lanes", [(3,), (3, 2)])
def test_select_chooses_lane_by_lane(lanes):
    pick = jnp.arange(np.prod(lanes)).reshape(lanes) % 2 == 0
    on_true = {"a": jnp.ones((*lanes, 4)), "b": jnp.ones(lanes, jnp.int32)}
    on_false = jax.tree.map(jnp.zeros_like, on_true)
    chosen = select(pick, on_true, on_false)
    assert chosen["b"].tolist() == pick.astype(int).tolist()
    assert chosen["a"].tolist() == jnp.broadcast_to(pick[..., None], (*lanes, 4)).tolist()


def test_select_chooses_keys_and_never_multiplies():
    pick = jnp.array([True, False])
    first, second = (jax.random.split(jax.random.key(seed), 2) for seed in (0, 1))
    chosen = select(pick, first, second)
    expected = [jax.random.key_data(first)[0], jax.random.key_data(second)[1]]
    assert jax.random.key_data(chosen).tolist() == [key.tolist() for key in expected]
    assert select(pick, jnp.array([1.0, jnp.nan]), jnp.array([jnp.nan, 2.0])).tolist() == [1.0, 2.0]
