"""Laws, and the lane-wise choice that resets and memories rest on."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from jaxrl.core import Law, types


def test_mean_ignores_impossible_atoms():
    law = Law(np.float32([0.25, 0.75, 0.0]), np.float32([4.0, 8.0, np.inf]))
    mean, slopes = jax.jit(jax.value_and_grad(Law.mean))(law)
    assert float(mean) == 7.0
    assert slopes.atoms.tolist() == [0.25, 0.75, 0.0]
    assert slopes.probs.tolist() == [4.0, 8.0, 0.0]


def test_samples_weigh_the_same():
    law = Law.of_samples(np.float32([[1.0, 2.0, 6.0, 7.0], [0.0, 0.0, 0.0, 4.0]]))
    assert law.mean().tolist() == [4.0, 1.0]
    assert law.probs.tolist() == [[0.25] * 4] * 2


def test_push_moves_the_atoms_of_each_law_and_keeps_the_probabilities():
    law = Law(np.float32([[0.5, 0.5], [0.1, 0.9]]), np.float32([[0.0, 2.0], [1.0, 1.0]]))
    pushed = law.push(np.float32([1.0, 0.0]), np.float32([0.5, -3.0]))
    assert pushed.atoms.tolist() == [[1.0, 2.0], [-3.0, -3.0]]
    assert pushed.probs is law.probs


@pytest.mark.parametrize("lanes", [(3,), (3, 2)])
def test_select_chooses_lane_by_lane(lanes):
    pick = np.arange(np.prod(lanes)).reshape(lanes) % 2 == 0
    on_true = {"a": np.ones((*lanes, 4), np.float32), "b": np.ones(lanes, np.int32)}
    on_false = {name: np.zeros_like(x) for name, x in on_true.items()}
    chosen = jax.jit(types.select)(pick, on_true, on_false)
    assert chosen["b"].tolist() == pick.astype(int).tolist()
    assert chosen["a"].tolist() == np.broadcast_to(pick[..., None], (*lanes, 4)).tolist()


def test_select_chooses_keys_and_never_multiplies():
    pick = np.array([True, False])
    first, second = (jax.random.split(jax.random.key(seed), 2) for seed in (0, 1))
    values = np.float32([1.0, np.nan]), np.float32([np.nan, 2.0])
    chosen, numbers = jax.jit(types.select)(pick, (first, values[0]), (second, values[1]))
    data = [np.asarray(jax.random.key_data(keys)) for keys in (first, second, chosen)]
    assert data[2].tolist() == [data[0][0].tolist(), data[1][1].tolist()]
    assert numbers.tolist() == [1.0, 2.0]


def test_a_part_is_traced_where_one_of_its_numbers_is():
    """Under `vmap` over one of two settings the other is known, and the part is not."""
    law = Law(np.float32([1.0]), np.float32([2.0]))
    assert not types.is_traced(law, 1.0, "name", None)
    found = []
    jax.vmap(lambda atoms: found.append(types.is_traced(1.0, law.replace(atoms=atoms))))(law.atoms)
    assert found == [True]
