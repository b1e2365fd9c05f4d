"""Arguments of public functions: one clear sentence where a value cannot be meant."""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def check_whole(name: str, value: Any, low: int = 1, high: int = 2**63 - 1) -> int:
    """`value` as a Python integer; 1e6 is one too.

    Raises:
        ValueError: it is no whole number from `low` to `high`.

    Example:
        >>> check_whole("num_steps", 1e6), check_whole("num_seeds", np.int32(3))
        (1000000, 3)
    """
    whole = _is_number(value) and math.isfinite(value) and value == int(value)
    if not whole or not low <= value <= high:
        upto = f" and at most {high}" if high < 2**63 - 1 else ""
        raise ValueError(f"{name}={value!r} must be a whole number, at least {low}{upto}.")
    return int(value)


def check_number(name: str, value: Any, low: float = 0.0) -> float:
    """`value` as a Python float; `ValueError` unless it is a finite number, `low` or more."""
    if not _is_number(value) or not low <= value < math.inf:
        raise ValueError(f"{name}={value!r} must be a finite number, at least {low:g}.")
    return float(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool)


def check_prob(name: str, value: Any) -> None:
    """Raise `ValueError` unless `value` lies in [0, 1]; a traced one passes."""
    if not isinstance(value, jax.core.Tracer) and not 0.0 <= float(value) <= 1.0:
        raise ValueError(f"{name}={value} is out of range: give a value in [0, 1].")


def check_numbers(name: str, values: Any) -> list[float]:
    """A sequence of numbers as Python floats; `ValueError` for anything else."""
    try:
        array = np.asarray([*values])
    except (TypeError, ValueError):  # nothing to go through, or lists of unequal lengths
        array = np.asarray(None)
    if isinstance(values, dict) or array.ndim != 1 or array.dtype.kind not in "iuf":
        raise ValueError(f"{name}={values!r} must be a list of numbers.")
    return array.astype(float).tolist()


def check_path(name: str, value: Any) -> None:
    """Raise `ValueError` unless `value` names a file or a folder."""
    if not isinstance(value, (str, os.PathLike)):
        raise ValueError(f"{name}={value!r} must be a path: a string or a pathlib.Path.")


def check_names(name: str, value: Any) -> None:
    """Raise `ValueError` unless `value` maps names to something."""
    if not isinstance(value, Mapping) or not all(isinstance(entry, str) for entry in value):
        raise ValueError(f"{name}={value!r} must map names of settings to the values to combine.")


def check_key(key: Any) -> None:
    """Raise `ValueError` unless `key` is one PRNG key, typed or of the older kind."""
    dtype, shape = getattr(key, "dtype", None), getattr(key, "shape", None)
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if not ((typed and shape == ()) or (dtype == jnp.uint32 and shape == (2,))):
        what = f"{dtype}{list(shape)}" if dtype is not None and shape is not None else repr(key)
        raise ValueError(f"key is {what}: give one key, as jax.random.key(0) makes.")


def check_parts(name: str, value: Any, methods: tuple[str, ...], example: str) -> None:
    """Raise `ValueError` unless `value` is a struct (a frozen dataclass, its numbers leaves of the
    pytree) with these methods."""
    missing = [method for method in methods if not callable(getattr(value, method, None))]
    if isinstance(value, type) or missing:
        lacks = f"the class {value.__name__}" if isinstance(value, type) else repr(value)[:60]
        raise ValueError(
            f"{name} is {lacks}: give one with {', '.join(methods)}, such as {example}."
        )
    if not dataclasses.is_dataclass(value) or jax.tree.leaves(value) == [value]:
        raise ValueError(
            f"{name} of type {type(value).__name__} is no struct: let the class inherit from "
            "jaxrl.Struct, which makes it a pytree."
        )
