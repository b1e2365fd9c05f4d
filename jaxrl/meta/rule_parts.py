"""Rules as plain data: structs by registered names, numbers as arrays."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.core import struct
from jaxrl.core.settings import near_names

_DTYPES = {
    *("bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"),
    *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
}
_WHERE_FLOAT64 = "load it inside `with jax.enable_x64(True):`"


class RuleFileError(ValueError):
    """Why a rule cannot be saved or a file not be loaded, and what to do."""


def known_parts(extra: Iterable[type] = ()) -> dict[str, type]:
    """Every struct that a file may name: those of this package, and `extra`.

    Args:
        extra: structs of your own.

    Raises:
        RuleFileError: one of `extra` is no struct, or has the name of another one.

    Example:
        >>> from jaxrl.core import Linear
        >>> known_parts()["Linear"] is Linear
        True
    """
    found = dict(struct.STRUCTS)
    for part in extra:
        if not (isinstance(part, type) and dataclasses.is_dataclass(part)):
            raise RuleFileError(f"{part!r} in parts is not a struct: give classes.")
        if found.setdefault(part.__name__, part) is not part:
            raise RuleFileError(f"{part.__name__} in parts has the name of another: rename it.")
    return found


def to_plain(rule: Any, parts: Mapping[str, type]) -> tuple[Any, list[np.ndarray]]:
    """A rule as JSON and the arrays that it points at, by position.

    Raises:
        RuleFileError: something in it is neither numbers, text nor a registered struct; the
            message has its path.
    """
    arrays: list[np.ndarray] = []

    def array(value: Any, kind: str, path: str) -> dict[str, Any]:
        data = np.asarray(value)
        if data.dtype.name not in _DTYPES:
            raise RuleFileError(f"{path} holds {data.dtype}: a rule file holds numbers only.")
        # numpy's file format does not know bfloat16.
        arrays.append(data.view("uint16") if data.dtype.name == "bfloat16" else data)
        return {kind: len(arrays) - 1, "dtype": data.dtype.name, "shape": list(data.shape)}

    def plain(value: Any, path: str) -> Any:
        if isinstance(value, jax.core.Tracer):
            raise RuleFileError(f"{path} is being traced: save outside of jit, vmap and grad.")
        if isinstance(value, jax.Array):
            if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
                raise RuleFileError(f"{path} is a PRNG key: a rule file holds no randomness.")
            return array(value, "array", path)
        if isinstance(value, np.ndarray):
            return array(value, "numpy", path)
        if isinstance(value, np.generic):
            return array(value, "scalar", path)
        if value is None or type(value) in (bool, int, str):
            return value
        if type(value) is float:
            return value if math.isfinite(value) else {"float": repr(value)}
        if type(value) in (tuple, list):
            kind = type(value).__name__
            return {kind: [plain(entry, f"{path}[{i}]") for i, entry in enumerate(value)]}
        if type(value) is dict:
            for name in value:
                if type(name) is not str:
                    raise RuleFileError(f"{path} has the key {name!r}: keys must be text.")
            return {
                "dict": [[name, plain(entry, f"{path}.{name}")] for name, entry in value.items()]
            }
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            name = type(value).__name__
            if parts.get(name) is not type(value):
                raise RuleFileError(
                    f"{path} is a {name}, which is not registered; "
                    f"{near_names(name, list(parts))} Give structs of your own in "
                    f"`parts=[{name}]`, to save and to load."
                )
            fields = {f.name: getattr(value, f.name) for f in dataclasses.fields(value)}
            return {
                "struct": name,
                "fields": {n: plain(entry, f"{path}.{n}") for n, entry in fields.items()},
            }
        if callable(value):
            raise RuleFileError(
                f"{path} is a function, and loading a rule file runs no code. Write the function "
                "as a struct with `__call__` and give it in `parts`, or save "
                "`meta.distil(rule)` in its place."
            )
        raise RuleFileError(f"{path} is a {type(value).__name__}, which a rule file cannot hold.")

    return plain(rule, type(rule).__name__), arrays


def from_plain(node: Any, arrays: list[np.ndarray], parts: Mapping[str, type]) -> Any:
    """The rule that `to_plain` described.

    Raises:
        RuleFileError: an unknown struct or field, or an array other than described.
    """
    if not isinstance(node, dict):
        if isinstance(node, list):
            raise RuleFileError("it holds a list where a value belongs: it is not from `save`.")
        return node
    if "struct" in node:
        return _struct(node, arrays, parts)
    if "dict" in node:
        return {name: from_plain(entry, arrays, parts) for name, entry in node["dict"]}
    if "tuple" in node:
        return tuple(from_plain(entry, arrays, parts) for entry in node["tuple"])
    if "list" in node:
        return [from_plain(entry, arrays, parts) for entry in node["list"]]
    if "float" in node:
        return float(node["float"])
    kind = next((kind for kind in ("array", "numpy", "scalar") if kind in node), None)
    if kind is None:
        raise RuleFileError(f"it holds the unknown entry {sorted(node)}: upgrade jaxrl.")
    data = arrays[node[kind]]
    if node["dtype"] == "bfloat16" and data.dtype.name == "uint16":
        data = data.view(jnp.bfloat16)
    if (data.dtype.name, list(data.shape)) != (node["dtype"], node["shape"]):
        raise RuleFileError(
            f"array {node[kind]} is {data.dtype.name}{list(data.shape)}, and "
            f"{node['dtype']}{node['shape']} was expected: it was altered; fetch it again."
        )
    if kind == "numpy":
        return data
    if kind == "scalar":
        return data[()]
    found = jnp.asarray(data)
    if found.dtype != data.dtype:
        raise RuleFileError(f"it holds {data.dtype.name} numbers: {_WHERE_FLOAT64}.")
    return found


def _struct(node: dict[str, Any], arrays: list[np.ndarray], parts: Mapping[str, type]) -> Any:
    name = node["struct"]
    if name not in parts:
        raise RuleFileError(
            f"it names {name!r}, which is not registered here; {near_names(name, list(parts))} "
            "Give a struct of your own in `parts`, or upgrade jaxrl."
        )
    part = parts[name]
    known = {f.name: f for f in dataclasses.fields(part)}
    strange = [field for field in node["fields"] if field not in known]
    if strange:
        raise RuleFileError(
            f"its {name} has {', '.join(map(repr, strange))}, unknown to this version; "
            f"{near_names(strange[0], list(known))} Load it with the version on its card."
        )
    fields = {n: from_plain(entry, arrays, parts) for n, entry in node["fields"].items()}
    missing = [
        field
        for field, info in known.items()
        if field not in fields
        and info.default is dataclasses.MISSING
        and info.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise RuleFileError(
            f"its {name} lacks {', '.join(map(repr, missing))}: load it with the version on its "
            "card."
        )
    return part(**fields)
