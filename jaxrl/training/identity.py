"""Whose a checkpoint is: a run written down, so that another one is told apart with a reason."""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.core.settings import moved_names

_MOST_NUMBERS = 8  # of an array that is written out; larger ones are told by their digest
_MOST_LINES = 8  # of a difference
# What stands for agents that were classes of their own when a checkpoint was saved.
_SINCE = {
    "SoftActorCriticAgent": {"agent": "CriticAgent", "agent.actor": "SquashedGaussian"},
    "TwinDelayedAgent": {"agent": "CriticAgent", "agent.actor": "Deterministic"},
}


def identity(**parts: Any) -> dict[str, str]:
    """What a run is made of, a line for every setting, array and function, by dotted path.

    Numbers are written as float32 sees them, whether Python's or arrays; functions by their name.

    Example:
        >>> from jaxrl.functionals import CVaR
        >>> identity(functional=CVaR(0.25))
        {'functional': 'CVaR', 'functional.level': '0.25'}
    """
    return dict(line for name, part in parts.items() for line in _lines(name, part))


def check_identity(where: str, stored: Mapping[str, str] | None, here: Mapping[str, str]) -> None:
    """Raise `ValueError` with the differences, unless what is stored is the same as far as known.

    Args:
        where: the checkpoint, for the message.
        stored: its identity; None of a checkpoint that states none.
        here: the identity expected; what it leaves out is not compared.
    """
    if stored is None:
        return
    stored = moved_names({**stored, **_SINCE.get(stored.get("agent", ""), {})}, here)
    parts = {name.split(".")[0] for name in here}
    names = [*here, *(n for n in stored if n.split(".")[0] in parts and n not in here)]
    different = [
        f"{name}: {stored.get(name, 'absent')} (checkpoint) != {here.get(name, 'absent')} (here)"
        for name in names
        if stored.get(name) != here.get(name)
    ]
    if different:
        more = len(different) - _MOST_LINES
        lines = different[:_MOST_LINES] + ([f"and {more} more"] if more > 0 else [])
        raise ValueError(
            f"{where} was saved by another run: give the settings it was saved under, or another "
            "folder.\n  " + "\n  ".join(lines)
        )


def _lines(name: str, part: Any) -> Iterator[tuple[str, str]]:
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        yield name, type(part).__name__
        for field in dataclasses.fields(part):
            yield from _lines(f"{name}.{field.name}", getattr(part, field.name))
    elif isinstance(part, Mapping):
        for key in part:
            yield from _lines(f"{name}.{key}", part[key])
    elif isinstance(part, (list, tuple)):
        yield name, f"{len(part)} entries"
        for index, entry in enumerate(part):
            yield from _lines(f"{name}.{index}", entry)
    else:
        yield name, _text(part)


def _text(value: Any) -> str:
    if isinstance(value, (bool, int, str, type(None))):
        return repr(value)
    if isinstance(value, range):
        return f"{value.start} to {value.stop - 1}"
    if isinstance(value, float) or hasattr(value, "dtype"):
        if jnp.issubdtype(getattr(value, "dtype", float), jax.dtypes.prng_key):
            value = jax.random.key_data(value)
        array = np.asarray(value)
        array = array.astype(np.float32) if array.dtype.kind == "f" else array
        if array.size <= _MOST_NUMBERS:
            return str(array.tolist())
        digest = hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]
        return f"{array.dtype}{list(array.shape)} {digest}"
    named = getattr(value, "__qualname__", None)
    return named or re.sub(r" at 0x[0-9a-f]+", "", repr(value))
