"""Whose a checkpoint is: a run written down, so that another one is told apart with a reason."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import re
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.core.settings import is_chain, labelled, moved_names
from jaxrl.training.run_config import differences, shortened

_MOST_NUMBERS = 8  # of an array that is written out; larger ones are told by their digest
# Classes that had other names, or were others, when a checkpoint was saved: what stands for them.
_SINCE = {
    ("agent", "SoftActorCriticAgent"): {"agent": "CriticAgent", "agent.actor": "SquashedGaussian"},
    ("agent", "TwinDelayedAgent"): {"agent": "CriticAgent", "agent.actor": "Deterministic"},
    ("plan", "Plan"): {"plan": "Budget"},
}
# What learners from fresh rollouts have got since, as it stands where nobody set it.
_PLAIN = "BellmanOperator", "Scalar", "inf", "Mean", "DiscountedSum", "None", "Sampled", "False"
# Fields that agents had, each for one part of a chain, where it was left out.
_PARTS = ("munchausen", "stock", "average_reward", "channels", "optimism")
_GAINED = {("actor_sees", "0 entries"), ("policy_head", "None")}
_GONE = {("agent.reward_shift", "0.0"), *((f"agent.{name}", "None") for name in _PARTS)}


def identity(**parts: Any) -> dict[str, str]:
    """What a run is made of, a line for every setting, array and function, by dotted path.

    Numbers are written as float32 sees them, whether Python's or arrays; functions by their name
    and a digest of their code, their defaults and what they enclose. Of functions of libraries,
    which their next version may change, only what they enclose counts.

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
    for line, now in _SINCE.items():
        stored = {**stored, **now} if line in stored.items() else stored
    left_out = {name for name in stored if name not in here and (name, stored[name]) in _GONE}
    stored = moved_names({name: stored[name] for name in stored if name not in left_out}, here)
    if "agent.operator" not in stored:
        known = {name for name, text in here.items() if text not in _PLAIN or name in stored}
        gained = ("agent.operator", "agent.successors")
        here = {name: here[name] for name in here if name in known or not name.startswith(gained)}
    plain = {name for name, text in here.items() if (name.rsplit(".")[-1], text) in _GAINED}
    here = {name: here[name] for name in here if name in stored or name not in plain}
    parts = {name.split(".")[0] for name in here}
    compared = {name: text for name, text in stored.items() if name.split(".")[0] in parts}
    if different := differences(compared, here, ("checkpoint", "here"), _same):
        raise ValueError(
            f"{where} was saved by another run, or under another version: give the settings it was "
            "saved under, go on with that version, or give another folder.\n  "
            + "\n  ".join(shortened(different))
        )


def _same(stored: str | None, here: str | None) -> bool:
    """Whether two lines mean the same: 1 is 1.0, and a function without a digest any of its name.

    So earlier versions wrote functions; and another Python gives another digest of the same code.
    """
    if stored is None or here is None or stored == here:
        return stored == here
    (name, python), (own_name, own_python) = _name_of(stored), _name_of(here)
    if own_python:
        return name == own_name and python != own_python
    whole, fraction = sorted((stored, here), key=lambda text: "." in text)
    is_pair = re.fullmatch(r"-?\d+", whole) and re.fullmatch(r"-?\d+\.\d+(e[+-]?\d+)?", fraction)
    return is_pair is not None and float(whole) == float(fraction)


def _name_of(text: str) -> tuple[str, str]:
    """The name in a function's line, and the Python of its digest, which may be none."""
    found = re.fullmatch(r"(.*) \((\S+) [0-9a-f]{16}\)", text, re.DOTALL)
    return (found[1], found[2]) if found else (text, "")


def _lines(name: str, part: Any, seen: tuple[int, ...] = ()) -> Iterator[tuple[str, str]]:
    if dataclasses.is_dataclass(part) and not isinstance(part, type):
        yield name, type(part).__name__
        for field in dataclasses.fields(part):
            if field.metadata.get("derived"):  # from other fields, which are told
                continue
            value = getattr(part, field.name)
            inner = labelled(value) if is_chain(field) else value
            yield from _lines(f"{name}.{field.name}", inner, seen)
    elif isinstance(part, Mapping):
        for key in part:
            yield from _lines(f"{name}.{key}", part[key], seen)
    elif isinstance(part, (list, tuple)):
        yield name, f"{len(part)} entries"
        for index, entry in enumerate(part):
            yield from _lines(f"{name}.{index}", entry, seen)
    else:
        yield name, _text(part, seen)


def _text(value: Any, seen: tuple[int, ...]) -> str:
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
    named = getattr(value, "__qualname__", None) or re.sub(r" at 0x[0-9a-f]+", "", repr(value))
    named = "code" if isinstance(value, types.CodeType) else named  # wherever it stands
    if id(value) in seen or not (inside := _inside(value)):
        return named
    lines = "\n".join(map(str, _lines("", inside, (*seen, id(value)))))
    digest = hashlib.sha256(lines.encode()).hexdigest()[:16]
    return f"{named} ({sys.implementation.cache_tag} {digest})"


def _inside(value: Any) -> list[Any]:
    """What tells a function from others of its name; nothing for anything else."""
    if isinstance(value, functools.partial):
        return [value.func, value.args, value.keywords]
    if inspect.ismethod(value):
        return [value.__func__, value.__self__]
    if isinstance(value, types.CodeType):
        # A set of constants has an order of its own in every process.
        sets = [sorted(map(repr, c)) for c in value.co_consts if isinstance(c, frozenset)]
        constants = [c for c in value.co_consts if not isinstance(c, frozenset)]
        return [value.co_code.hex(), value.co_names, constants, sets]
    if not inspect.isfunction(value):
        wrapped = getattr(value, "__wrapped__", None)  # as jax.jit leaves it
        return [] if wrapped is None or isinstance(value, type) else _inside(wrapped)
    code, is_ours = value.__code__, value.__module__.split(".")[0] == "jaxrl"
    cells = [cell.cell_contents for cell in value.__closure__ or () if cell != types.CellType()]
    if is_ours or "site-packages" in code.co_filename:
        return cells
    return [code, value.__defaults__, value.__kwdefaults__, cells]
