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
from typing import Any, Self, TypeVar, dataclass_transform

import jax.core
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
class Struct:
    """The base of every struct: a subclass is a frozen dataclass and a pytree.

    Fields are children unless `field(pytree_node=False)`; static values must be hashable. Arrays
    are shown by dtype and shape, `float32[64,2]`, and single numbers as they are.

    Example:
        >>> class Point(Struct):
        ...     x: float
        ...     y: float = 0.0
        >>> Point(1.0).replace(y=2.0)
        Point(x=1.0, y=2.0)
    """

    def __init_subclass__(cls, **words: Any) -> None:
        super().__init_subclass__(**words)
        _make(cls)

    def replace(self, /, **changes: Any) -> Self:
        """A copy with other values of the fields named in `changes`."""
        return dataclasses.replace(self, **changes)  # pyright: ignore[reportArgumentType]

    def __repr__(self: Any) -> str:
        fields = (f"{f.name}={_shown(getattr(self, f.name))}" for f in dataclasses.fields(self))
        return f"{type(self).__name__}({', '.join(fields)})"


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def dataclass(cls: type[T]) -> type[T]:
    """Make a struct of `cls`, for a class that cannot inherit from `Struct`."""
    if not issubclass(cls, Struct):
        made: Any = cls
        made.replace, made.__repr__ = Struct.replace, vars(cls).get("__repr__", Struct.__repr__)
        _make(made)
    return cls


def _make(cls: Any) -> None:
    """Turn `cls` into a frozen dataclass and register it as a pytree."""
    own = [one for one in vars(cls).values() if isinstance(one, dataclasses.Field)]
    if any("converter" in one.metadata for one in own):
        cls.__post_init__ = _converting(getattr(cls, "__post_init__", lambda owner: None))
    dataclasses.dataclass(frozen=True, repr=False)(cls)
    is_node = {f.name: f.metadata.get("pytree_node", True) for f in dataclasses.fields(cls)}
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
        owner = object.__new__(cls)
        for name, value in zip(children + static, (*values, *aux), strict=True):
            object.__setattr__(owner, name, value)
        return owner

    jax.tree_util.register_pytree_with_keys(cls, flatten_with_keys, unflatten, flatten)
    if cls.__module__.startswith("jaxrl."):
        STRUCTS.setdefault(cls.__name__, cls)


def _converting(check: Callable[[Any], None]) -> Callable[[Any], None]:
    def post_init(owner: Any) -> None:
        for one in dataclasses.fields(owner):
            if "converter" in one.metadata:
                value = one.metadata["converter"](getattr(owner, one.name))
                object.__setattr__(owner, one.name, value)
        check(owner)

    return post_init


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
