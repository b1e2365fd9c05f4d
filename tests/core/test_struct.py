"""The house's dataclass: frozen, a pytree, and told apart from every other class."""

from __future__ import annotations

import dataclasses

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.core import struct


@struct.dataclass
class Add:
    amount: float = 1.0
    sizes: tuple[int, ...] = struct.field(pytree_node=False, default=(1,))

    def __call__(self, x):
        return x + self.amount


@struct.dataclass
class Multiply:
    amount: float = 1.0
    sizes: tuple[int, ...] = struct.field(pytree_node=False, default=(1,))

    def __call__(self, x):
        return x * self.amount


@struct.dataclass
class Both:
    add: Add = struct.field(default_factory=Add)
    multiply: Multiply = struct.field(default_factory=lambda: Multiply(3.0))


def test_classes_with_equal_leaves_have_unequal_structures():
    add, multiply = (jax.tree.structure(one(2.0)) for one in (Add, Multiply))
    assert add != multiply
    assert add == jax.tree.structure(Add(5.0))


def test_a_jitted_function_is_not_shared_between_classes():
    apply = jax.jit(lambda operation, x: operation(x))
    assert float(apply(Add(3.0), 5.0)) == 8.0
    assert float(apply(Multiply(3.0), 5.0)) == 15.0
    mapped = jax.jit(jax.vmap(lambda operation, x: operation(x), in_axes=(0, None)))
    amounts = jnp.array([2.0, 3.0])
    assert mapped(Add(amounts), 5.0).tolist() == [7.0, 8.0]
    assert mapped(Multiply(amounts), 5.0).tolist() == [10.0, 15.0]


def test_static_fields_are_structure_and_others_leaves():
    assert jax.tree.leaves(Add(2.0, sizes=(3, 4))) == [2.0]
    assert jax.tree.structure(Add(2.0, (3,))) != jax.tree.structure(Add(2.0, (4,)))
    doubled = jax.tree.map(lambda leaf: 2 * leaf, Both())
    assert doubled == Both(Add(2.0), Multiply(6.0))


def test_a_changed_leaf_does_not_retrace_and_a_changed_static_field_does():
    apply = jax.jit(chex.assert_max_traces(lambda operation: operation.amount * 2, n=1))
    apply(Add(1.0)), apply(Add(2.0))
    with pytest.raises(AssertionError, match="traced"):
        apply(Add(2.0, sizes=(7,)))


def test_replace_copies():
    before = Both()
    after = before.replace(add=before.add.replace(amount=7.0))
    assert (before.add.amount, after.add.amount, after.multiply) == (1.0, 7.0, before.multiply)
    with pytest.raises(TypeError):
        before.replace(ad=Add())


@struct.dataclass
class Holder:
    params: dict[str, jax.Array]
    rate: jax.Array | float
    rows: tuple = ()


def test_a_struct_is_shown_on_one_short_line_with_shapes_for_arrays():
    params = {"kernel": jnp.ones((64, 2)), "bias": np.zeros(2, np.int32)}
    held = Holder(params, jnp.float32(0.1), rows=(jnp.ones(3),))
    assert repr(held) == (
        "Holder(params={'kernel': float32[64,2], 'bias': int32[2]}, rate=0.1, rows=(float32[3],))"
    )
    assert repr(Both()).startswith("Both(add=Add(amount=1.0, sizes=(1,)), multiply=Multiply(")
    shown = []
    jax.jit(lambda rate: shown.append(repr(Holder({}, rate, [jax.random.key(0), None]))))(1.0)
    assert shown == ["Holder(params={}, rate=float32[], rows=[key<fry>[], None])"]


def test_structs_are_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Add().amount = 2.0


def test_tree_paths_name_the_fields():
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(Both())]
    assert paths == [".add.amount", ".multiply.amount"]


def test_rebuilding_checks_nothing_so_that_tracers_and_sentinels_pass():
    structure = jax.tree.structure(Add())
    assert jax.tree.unflatten(structure, [None]).amount is None


def test_gradients_come_back_as_the_same_struct():
    grads = jax.grad(lambda both: both.multiply(both.add(2.0)))(Both())
    # (2 + a) m: the slope in a is m = 3, in m it is 2 + a = 3.
    assert grads == Both(Add(3.0), Multiply(3.0))


class Sum(struct.Struct):
    amount: float = 1.0
    sizes: tuple[int, ...] = struct.field(pytree_node=False, default=(1,), converter=tuple)

    def __post_init__(self):
        assert self.amount >= 0, "checked"

    def __call__(self, x):
        return x + self.amount


class Shifted(Sum):
    shift: float = struct.field(default=2.0, converter=float)

    def __repr__(self):
        return f"shifted by {self.shift}"


@struct.dataclass
class Decorated(Shifted):
    more: float = 3.0


def test_a_subclass_is_what_a_decorated_class_is():
    """Frozen, a pytree with a type of its own, shown alike; its fields and checks are inherited."""
    assert repr(Sum()) == repr(Add()).replace("Add", "Sum")
    assert jax.tree.structure(Sum()) != jax.tree.structure(Add())
    with pytest.raises(dataclasses.FrozenInstanceError):
        Sum().amount = 2.0
    further = Decorated(4.0, sizes=[5], more=6.0)
    assert jax.tree.leaves(further) == [4.0, 2.0, 6.0] and further.sizes == (5,)
    assert further.replace(shift=1.0) == Decorated(4.0, (5,), 1.0, 6.0)
    assert repr(further) == "shifted by 2.0" and further(1.0) == 5.0
    for wrong in (lambda: Shifted(-1.0), lambda: further.replace(amount=-1.0)):
        with pytest.raises(AssertionError, match="checked"):
            wrong()
    doubled = jax.jit(lambda tree: jax.tree.map(lambda leaf: 2 * leaf, tree))(further)
    assert doubled == Decorated(8.0, (5,), 4.0, 12.0)
    assert jax.tree.unflatten(jax.tree.structure(Sum()), [None]).amount is None
