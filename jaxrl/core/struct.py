"""Frozen dataclasses that are pytrees: the form of every setting, law, state and agent.

They stand in for `flax.struct`, whose classes are registered through
`jax.tree_util.register_dataclass`: under jax 0.10.1 and 0.11.2 two of those have *equal* tree
structures whenever they have as many leaves and equal static fields, so that `jit` may run the
program traced for one class (`CVaR(0.1)`) on another (`Entropic(0.1)`). Classes registered with
their own functions are told apart.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, dataclass_transform

import jax
import numpy as np

T = TypeVar("T")

STRUCTS: dict[str, type] = {}  # those of this package that are loaded, by name


def field(
    *,
    pytree_node: bool = True,
    default: Any = dataclasses.MISSING,
    default_factory: Callable[[], Any] | Any = dataclasses.MISSING,
    converter: Callable[[Any], Any] | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> Any:
    """A field of a struct; `pytree_node=False` makes it static: part of the structure, no leaf.

    Args:
        pytree_node: whether the field is traced, swept and differentiated.
        default: the default value.
        default_factory: makes the default value; for structs within structs.
        converter: makes what the field holds of what the constructor or `replace` is given. JAX,
            which rebuilds structs with tracers, does not call it.
        metadata: anything else to know about the field.
    """
    metadata = {**(metadata or {}), "pytree_node": pytree_node}
    if converter is not None:
        metadata["converter"] = converter
    return dataclasses.field(default=default, default_factory=default_factory, metadata=metadata)


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def dataclass(cls: type[T]) -> type[T]:
    """Make `cls` a frozen dataclass and a pytree, with `.replace(**changes)`.

    Fields are children unless `field(pytree_node=False)`; static values must be hashable. Arrays
    are shown by dtype and shape, `float32[64,2]`, and single numbers as they are.
    """
    cls.__repr__ = vars(cls).get("__repr__", _repr)
    own = [one for one in vars(cls).values() if isinstance(one, dataclasses.Field)]
    if any("converter" in one.metadata for one in own):
        cls.__post_init__ = _converting(vars(cls).get("__post_init__", lambda owner: None))
    made: Any = dataclasses.dataclass(frozen=True, repr=False)(cls)
    is_node = {f.name: f.metadata.get("pytree_node", True) for f in dataclasses.fields(made)}
    children = tuple(name for name, node in is_node.items() if node)
    static = tuple(name for name, node in is_node.items() if not node)
    keys = tuple(jax.tree_util.GetAttrKey(name) for name in children)

    def flatten(owner: Any) -> tuple[tuple, tuple]:
        return tuple(getattr(owner, n) for n in children), tuple(getattr(owner, n) for n in static)

    def flatten_with_keys(owner: Any) -> tuple[tuple, tuple]:
        values, aux = flatten(owner)
        return tuple(zip(keys, values, strict=True)), aux

    def unflatten(aux: tuple, values: Iterable[Any]) -> Any:
        # JAX rebuilds with tracers and sentinels: nothing may check them.
        owner = object.__new__(made)
        for name, value in zip(children + static, (*values, *aux), strict=True):
            object.__setattr__(owner, name, value)
        return owner

    jax.tree_util.register_pytree_with_keys(made, flatten_with_keys, unflatten, flatten)
    made.replace = dataclasses.replace
    if made.__module__.startswith("jaxrl."):
        STRUCTS.setdefault(made.__name__, made)
    return made


def _converting(check: Callable[[Any], None]) -> Callable[[Any], None]:
    def post_init(owner: Any) -> None:
        for one in dataclasses.fields(owner):
            if "converter" in one.metadata:
                value = one.metadata["converter"](getattr(owner, one.name))
                object.__setattr__(owner, one.name, value)
        check(owner)

    return post_init


def _repr(owner: Any) -> str:
    fields = (f"{f.name}={_shown(getattr(owner, f.name))}" for f in dataclasses.fields(owner))
    return f"{type(owner).__name__}({', '.join(fields)})"


def _shown(value: Any) -> str:
    """As `repr`, but short for arrays, also those in tuples, lists and mappings."""
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key!r}: {_shown(entry)}' for key, entry in value.items())}}}"
    if type(value) in (tuple, list):
        left, right = "()" if type(value) is tuple else "[]"
        comma = "," if left == "(" and len(value) == 1 else ""
        return f"{left}{', '.join(map(_shown, value))}{comma}{right}"
    if isinstance(value, np.generic) or not hasattr(value, "dtype"):
        return repr(value)
    if value.shape == () and not isinstance(value, jax.core.Tracer):
        return str(value)
    return f"{value.dtype}[{','.join(map(str, value.shape))}]"
