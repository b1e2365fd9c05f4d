"""Settings: dataclass fields that carry their own help, unit and range."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import math
import re
from collections.abc import Collection, Mapping
from typing import Any, Self, TypeVar

import numpy as np

from jaxrl.core import struct
from jaxrl.core.schedules import Schedule
from jaxrl.core.types import is_traced

T = TypeVar("T")


def setting(
    default: Any,
    help: str,
    *,
    unit: str = "",
    low: float = -math.inf,
    high: float = math.inf,
    low_open: bool = False,
    choices: tuple = (),
    infinite: bool = False,
    optional: bool = False,
    several: bool = False,
) -> Any:
    """A field of a settings struct: floats become leaves, everything else is static.

    Args:
        default: the default value. A `float` (or a schedule struct) makes the field a pytree leaf,
            swept and traced without recompiling; an `int`, `bool`, `str`, tuple, `None` or callable
            makes it static.
        help: one line, without the unit.
        unit: unit shown by `--help`, such as `return` or `per step`.
        low: least value allowed.
        high: greatest value allowed.
        low_open: whether `low` itself is refused.
        choices: the values allowed, when they are few.
        infinite: whether an infinite value means something; implied by an infinite default.
        optional: whether None means something.
        several: whether a tuple of numbers will do where the default is one.

    Example:
        >>> class Bonus(struct.Struct):
        ...     weight: float = setting(0.1, "weight of the bonus", unit="return", low=0.0)
        >>> check_settings(Bonus(weight=-1.0))
        Traceback (most recent call last):
        ValueError: weight=-1.0 is out of range: give a value in [0, inf).
    """
    metadata = {"help": help, "unit": unit, "low": low, "high": high, "low_open": low_open}
    metadata |= {
        "choices": choices,
        "infinite": infinite or (isinstance(default, float) and math.isinf(default)),
        "whole": _is_whole(default)
        or (isinstance(default, tuple) and default != () and all(map(_is_whole, default))),
        "kind": object if optional or several else type(default),
    }
    if dataclasses.is_dataclass(default):
        return struct.field(default_factory=lambda: default, metadata=metadata)
    static = isinstance(default, (bool, int, str, tuple, type(None))) or callable(default)
    return struct.field(pytree_node=not static, default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class SettingInfo:
    """One setting of a struct as the command line shows it."""

    name: str  # dotted path from the struct, `head.num_atoms`
    value: Any
    help: str = ""
    unit: str = ""
    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    choices: tuple = ()
    infinite: bool = False
    whole: bool = False  # a whole number, or several
    kind: type = object  # of the default, where one was declared

    @property
    def is_leaf(self) -> bool:
        """Whether the setting is a traced float, so that it can be swept."""
        return isinstance(self.value, float) or hasattr(self.value, "dtype")

    @property
    def bounds(self) -> str:
        """The interval of what is allowed, such as `[0, inf)`."""
        left = "(" if self.low_open or math.isinf(self.low) else "["
        right = "]" if self.infinite or not math.isinf(self.high) else ")"
        return f"{left}{self.low:g}, {self.high:g}{right}"


def list_settings(owner: Any, prefix: str = "") -> list[SettingInfo]:
    """Every setting of a struct and of the settings structs inside it, in field order.

    A float without a declaration is one too, of any value.
    """
    found = []
    for field in dataclasses.fields(owner):
        value = getattr(owner, field.name)
        name = prefix + field.name
        if is_setting(field, value):
            known = {key: told for key, told in field.metadata.items() if key != "pytree_node"}
            found.append(SettingInfo(name=name, value=value, **{"infinite": True, **known}))
        elif not field.metadata.get("setting", True) or isinstance(value, (type, Schedule)):
            continue
        elif dataclasses.is_dataclass(value):
            found.extend(list_settings(value, name + "."))
        elif is_chain(field):
            for label, part in labelled(value).items():
                found.extend(list_settings(part, f"{name}.{label}."))
    return found


def chain_field() -> Any:
    """A field that holds a tuple of parts, empty by default, each with a name in dotted paths."""
    return struct.field(default=(), metadata={"chain": True})


def is_chain(field: dataclasses.Field) -> bool:
    """Whether a field was declared by `chain_field`."""
    return field.metadata.get("chain", False)


def labelled(parts: tuple[Any, ...]) -> dict[str, Any]:
    """The parts of a chain by name: that of their `facts`, or of their class in snake case."""
    return {part.facts.name or snake_case(type(part).__name__): part for part in parts}


def snake_case(name: str) -> str:
    """`EpsilonGreedy` -> `epsilon_greedy`, `KLBall` -> `kl_ball`, `CVaR` -> `cvar`."""
    if name.islower() or name in ("CVaR", "EVaR", "VaR"):
        return name.lower()
    words = re.findall(r"[A-Z][A-Z0-9]*(?![a-z])|[A-Z][a-z0-9]*", name)
    return "_".join(word.lower() for word in words)


def is_setting(field: dataclasses.Field, value: Any) -> bool:
    """Whether a field with this value is a setting: declared as one, or a float."""
    if "help" in field.metadata:
        return not dataclasses.is_dataclass(value) or isinstance(value, Schedule)
    known = field.metadata
    return type(value) is float and known.get("pytree_node", True) and known.get("setting", True)


def check_settings(owner: Any) -> None:
    """Raise `ValueError` on the first setting whose concrete value lies out of its range."""
    for info in list_settings(owner):
        check_value(info, info.value)


def check_own_settings(owner: Any) -> None:
    """As `check_settings`, but of the fields of `owner` alone, not of the parts inside it."""
    for info in list_settings(owner):
        if "." not in info.name:
            check_value(info, info.value)


def check_kinds(owner: Any) -> None:
    """Raise `ValueError` on the first setting that is no number, or numbers, where the default is.

    A schedule is a number; so is an array, but one of numbers is not.
    """
    for info in list_settings(owner):
        value, several = info.value, info.kind is tuple
        if not (info.whole or info.kind is float) or isinstance(value, Schedule):
            continue
        if several and isinstance(value, (tuple, list)) and all(map(_is_number, value)):
            continue
        if several or not _is_number(value) or np.ndim(value):
            wanted = "whole numbers in a tuple" if several else "one number; vmap over several"
            raise ValueError(f"{info.name}={value!r} is not allowed: give {wanted}.")


class CheckedStruct(struct.Struct):
    """A struct whose constructor refuses settings out of their ranges."""

    def __post_init__(self) -> None:
        check_settings(self)


def check_value(info: SettingInfo, value: Any) -> None:
    """Raise `ValueError` when `value` is not allowed for the setting `info` describes.

    Numbers are looked at as float32 sees them. Of a schedule and of several numbers, each is.
    """
    if info.choices and value not in info.choices:
        allowed = ", ".join(map(str, info.choices))
        raise ValueError(f"{info.name}={value!r} is not one of: {allowed}.")
    if isinstance(value, Schedule):
        for field in dataclasses.fields(value):
            one = getattr(value, field.name)
            if field.name in ("initial", "final"):
                # A schedule may end where a constant may not stand, such as at a step size of 0.
                named = dataclasses.replace(info, name=f"{info.name}.{field.name}", low_open=False)
                check_value(named, one)
            elif _is_number(one) and not is_traced(one) and np.isnan(one).any():
                raise ValueError(f"{info.name}.{field.name}={one} is not a number.")
    if isinstance(value, (tuple, list)):
        for entry in value:
            check_value(info, entry)
    if is_traced(value) or not _is_number(value):
        return
    numbers = np.asarray(value)
    if info.whole and numbers.dtype.kind == "f":
        raise ValueError(f"{info.name}={value} is not a whole number.")
    if numbers.dtype.kind == "f":
        with np.errstate(over="ignore"):
            seen = numbers.astype(np.float32)
        lost = ((seen == 0) & (numbers != 0)) | (np.isinf(seen) & np.isfinite(numbers))
        if np.any(lost):
            raise ValueError(f"{info.name}={value} is {seen} in float32: give a nearer number.")
    inside = numbers > info.low if info.low_open else numbers >= info.low
    inside = inside & (numbers <= info.high) & (np.isfinite(numbers) | info.infinite)
    if not np.all(inside):  # NaN is not inside
        raise ValueError(f"{info.name}={value} is out of range: give a value in {info.bounds}.")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    """A number, or an array of them, other than a truth value."""
    if hasattr(value, "dtype"):
        return np.issubdtype(value.dtype, np.number)
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def replace_setting(owner: Any, name: str, value: Any) -> Any:
    """A copy of `owner` with the setting at the dotted path `name` replaced.

    A name without dots also finds a setting of an inner struct, when only one has that name.

    Raises:
        KeyError: no such setting; the message lists near names.
    """
    return replace_path(owner, resolve_setting(owner, name), value)


class SettableStruct(struct.Struct):
    """A struct whose `replace` takes settings of inner structs too, and refuses bad values.

    Names are short or dotted, as in `replace_setting`; values are checked as in `check_value`.

    Raises:
        KeyError: by `replace`, of a name that is no field and no setting; near names are listed.
        ValueError: by `replace`, of a value out of range.

    Example:
        >>> class Descent(struct.Struct):
        ...     learning_rate: float = setting(0.1, "step size", low=0.0)
        >>> class Learner(SettableStruct):
        ...     optimiser: Descent = struct.field(default_factory=Descent)
        >>> Learner().replace(learning_rate=0.5).optimiser
        Descent(learning_rate=0.5)
    """

    def replace(self, /, **changes: Any) -> Self:
        """A copy with other values of the fields and settings named in `changes`."""
        fields = [field.name for field in dataclasses.fields(self)]
        # Parts first: a setting may be one of a part that is new.
        owner = dataclasses.replace(self, **{n: changes[n] for n in changes if n in fields})
        settings = {info.name: info for info in list_settings(owner)}
        for name, value in changes.items():
            full = name if name in fields else resolve_among(owner, [*settings, *fields], name)
            if full in settings:
                check_value(settings[full], value)
            if full not in fields:
                owner = replace_path(owner, full, value)
        return owner


def resolve_setting(owner: Any, name: str) -> str:
    """The full dotted path of the setting called `name`.

    Raises:
        KeyError: no such setting, or several inner ones; the message lists what is near.
    """
    return resolve_among(owner, [info.name for info in list_settings(owner)], name)


def resolve_among(owner: Any, names: list[str], name: str) -> str:
    """As `resolve_name`; where there is none, with the parts that have no settings to look in."""
    try:
        return resolve_name(names, name)
    except KeyError as error:
        raise KeyError(" ".join([error.args[0], *_closed(owner)])) from None


def _closed(owner: Any) -> list[str]:
    """What fields that hold another's work say of its numbers, in a struct and structs in it."""
    found = [
        one.metadata["closed"] for one in dataclasses.fields(owner) if "closed" in one.metadata
    ]
    parts = (getattr(owner, one.name) for one in dataclasses.fields(owner))
    inner = (part for part in parts if dataclasses.is_dataclass(part) and hasattr(part, "replace"))
    return found + [told for part in inner for told in _closed(part)]


def resolve_name(names: list[str], name: str) -> str:
    """The one of the dotted `names` that `name` stands for: itself, or its last parts.

    Raises:
        KeyError: none, or several; the message lists what is near.
    """
    if name in names:
        return name
    matches = [full for full in names if full.endswith("." + name)]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise KeyError(f"setting {name!r} is ambiguous: {', '.join(matches)}.")
    raise KeyError(f"unknown setting {name!r}; {near_names(name, names)}")


def moved_names(old: Mapping[str, T], new: Collection[str]) -> dict[str, T]:
    """What was written by `old` names, by the `new` ones: dotted names of which some have since got
    one part more, as a setting's that moved into a part of its struct.

    Example:
        >>> moved_names({"agent.noise": 0.1, "agent.size": 4}, ["agent.actor.noise", "agent.size"])
        {'agent.actor.noise': 0.1, 'agent.size': 4}
    """
    into: dict[str, list[str]] = {}
    for name in (name for name in new if name not in old):
        parts = name.split(".")
        for place in range(1, len(parts) - 1):
            into.setdefault(".".join(parts[:place] + parts[place + 1 :]), []).append(name)

    def moved(name: str) -> str:
        found = into.get(name, [])
        return found[0] if name not in new and len(found) == 1 else name

    return {moved(name): value for name, value in old.items()}


def near_names(name: str, known: list[str], see: str = "jaxrl list") -> str:
    """A half sentence naming the entries of `known` nearest to `name`, or all when few.

    A part of an entry will do: "maze" is near MetaMaze-misc. `see` is the command that lists them;
    without one, the message does.
    """
    known = [*dict.fromkeys(known)]
    likeness = {entry: _likeness(name.lower(), entry) for entry in known}
    near = sorted((e for e in known if likeness[e] >= 0.5), key=lambda e: -likeness[e])[:3]
    every = f"{', '.join(known)}."
    if near:
        found = " or ".join(filter(None, (", ".join(near[:-1]), near[-1])))
        return f"did you mean {found}?" + f" There are: {every}" * (not see)
    if not see or len(known) <= 12:
        return f"known: {every}"
    return f"there are {len(known)}, from {known[0]} to {known[-1]}; see `{see}`."


def _likeness(name: str, entry: str) -> float:
    """1 for an equal name; parts, between marks and at capitals, count where they hardly differ."""
    parts = {*re.split(r"[-.]", entry), *re.findall(r"[A-Z]?[a-z]+|[A-Z]+|\d+", entry)}
    whole, *ratios = (
        difflib.SequenceMatcher(None, name, text.lower()).ratio() for text in (entry, *parts)
    )
    return max(whole, *(0.95 * ratio for ratio in ratios if ratio >= 0.8), 0.0)


def setting_label(values: Mapping[str, float], owner: Any) -> str:
    """How a combination of swept settings is called: `learning_rate=0.001, discount=0.9`."""
    short = {name: name.rsplit(".", 1)[-1] for name in values}
    names = [info.name.rsplit(".", 1)[-1] for info in list_settings(owner)]
    return ", ".join(
        f"{short[name] if names.count(short[name]) < 2 else name}={value:.12g}"
        for name, value in values.items()
    )


def get_path(owner: Any, path: str) -> Any:
    """The field at the whole dotted `path`; `owner` itself at an empty one."""
    return functools.reduce(_entry, filter(None, path.split(".")), owner)


def _entry(owner: Any, name: str) -> Any:
    """A field of a struct, an entry of a mapping, or a part of a chain."""
    named = labelled(owner) if isinstance(owner, tuple) else owner
    return named[name] if isinstance(named, Mapping) else getattr(owner, name)


def replace_path(owner: Any, path: str, value: Any) -> Any:
    """A copy of `owner` with the field at the whole dotted `path` replaced, unchecked.

    In a chain a part takes the place of the one of its name, or comes last.
    """
    head, _, rest = path.partition(".")
    if rest:
        value = replace_path(_entry(owner, head), rest, value)
    if isinstance(owner, tuple):
        return tuple({**labelled(owner), head: value}.values())
    if isinstance(owner, Mapping):
        return {**owner, head: value}
    return dataclasses.replace(owner, **{head: value})
