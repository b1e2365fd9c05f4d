"""One notation: parts and the values of settings as short texts, read by the types of fields.

    name[:argument[,argument ...]]        argument = value  or  key=value

    cvar:0.1        quantile,num_atoms=51        generative:16,5,spread=gravity/8/12+length/0.4/0.6

A part is a struct that was registered under a kind and a name: `CVaR` is `cvar` of `functionals`.
In names case, `_` and `-` do not count. Values without a key follow the order in which a part
lists its arguments. Inside a part a list is written with `/`, several lists with `+`; elsewhere,
with commas. A number may be a schedule where its field or its place says so: `linear:1:0.05`.

Nothing here knows a part: packages register theirs, and so may a program that uses them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import re
import typing
from collections.abc import Callable, Iterable
from typing import Any

from jaxrl.core.protocols import Composition, Functional, Head, Improvement, UpdateRule
from jaxrl.core.schedules import Cosine, Exponential, Linear, LinearSteps, Schedule
from jaxrl.core.settings import (
    check_value,
    get_path,
    is_chain,
    is_setting,
    labelled,
    list_settings,
    near_names,
    replace_setting,
    resolve_among,
    resolve_name,
    snake_case,
)

_SCHEDULED = ("operator.", "rule.", "successors.", "improvement.")  # where any number may be one
_MOST = 2**31 - 1  # programs count in 32 bits
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


@dataclasses.dataclass
class Kind:
    """Parts of one kind by name."""

    field_types: tuple[Any, ...] = ()  # of the fields that hold such a part
    given: tuple[str, ...] = ()  # fields of a part that are filled by whoever uses it
    scheduled: bool = True  # any number may be a schedule
    builders: dict[str, Callable[..., Any]] = dataclasses.field(default_factory=dict)
    short: dict[str, str] = dataclasses.field(default_factory=dict)  # other names in use


KINDS: dict[str, Kind] = {
    "agents": Kind(),
    "functionals": Kind((Functional,)),
    "improvements": Kind((Improvement,)),
    "heads": Kind((Head,)),
    "compositions": Kind((Composition,)),
    "rules": Kind((UpdateRule,)),
    "successors": Kind(),
    "average_rewards": Kind(scheduled=False),
    "channels": Kind(scheduled=False),
    "parts": Kind(scheduled=False),
    "optimisers": Kind(),
    "networks": Kind(scheduled=False),
    "wrappers": Kind(given=("env", "discount"), scheduled=False),
}


def register(
    kind: str, *builders: Callable[..., Any], field_types: Iterable[Any] = (), **short: str
) -> None:
    """Give parts a name: that of the class or function that builds them, in snake case.

    Args:
        kind: a key of `KINDS`, such as `functionals`.
        builders: struct classes, or functions without arguments that build a default.
        field_types: further types of fields that hold such a part.
        short: other names of registered parts: `tv="total_variation"`.

    Raises:
        KeyError: no such kind.
        ValueError: the name is another part's.
    """
    if kind not in KINDS:
        raise KeyError(f"unknown kind of parts {kind!r}; known: {', '.join(KINDS)}.")
    for builder in builders:
        name = snake_case(builder.__name__)
        old = KINDS[kind].builders.get(name, builder)
        if (old.__module__, old.__qualname__) != (builder.__module__, builder.__qualname__):
            raise ValueError(
                f"{name} of {kind} is {old.__module__}.{old.__qualname__} already: rename yours."
            )
        KINDS[kind].builders[name] = builder
    KINDS[kind].short.update(short)
    KINDS[kind].field_types += tuple(field_types)


def parse(kind: str, text: str) -> Any:
    """The part that `text` stands for.

    Args:
        kind: a key of `KINDS`.
        text: see the head of this module.

    Raises:
        KeyError: no such part or argument; the message lists near names.
        ValueError: an argument is of the wrong type or out of range, or there are too many.

    Example:
        >>> from jaxrl import operators
        >>> parse("functionals", "CVaR:0.25"), parse("heads", "quantile,num_atoms=51")
        (CVaR(level=0.25), Quantile(num_atoms=51, huber_threshold=1.0))
    """
    name, rest = (*(word.strip() for word in re.split("[:,]", text, maxsplit=1)), "")[:2]
    known, full = KINDS[kind].builders, _registered(kind, name)
    if full is None:
        near = near_names(name, [*known, *KINDS[kind].short], f"jaxrl list {kind}")
        raise KeyError(f"unknown {kind.removesuffix('s')} {name!r}; {near}")
    missing = required(kind, full)
    if missing:
        raise ValueError(
            f"{full} needs {' and '.join(missing)}, which no text can give: build "
            f"{known[full].__name__}({', '.join(missing)}) in Python."
        )
    words = [word.strip() for word in rest.split(",")] if rest else []
    return _with_arguments(kind, default_of(kind, full), full, words)


def show(part: Any, kind: str | None = None) -> str:
    """The text that `parse` turns back into `part`: what a configuration keeps.

    Example:
        >>> show(parse("functionals", "total_variation,support=full"))
        'total_variation:0.1,support=full'
    """
    kind, name = _place_of(part, kind)
    default, words = default_of(kind, name), []
    for index, argument in enumerate(arguments(default, kind)):
        value = get_path(part, argument)
        if index == 0 or value != get_path(default, argument):
            words.append(f"{argument}=" * (index > 0) + to_text(value, "/"))
    return f"{name}:{','.join(words)}" if words else name


def arguments(part: Any, kind: str) -> list[str]:
    """The arguments of a part in order, dotted where they are those of a struct inside it."""
    found = []
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if field.name in KINDS[kind].given:
            continue
        if dataclasses.is_dataclass(value) and not isinstance(value, Schedule):
            found.extend(info.name for info in list_settings(value, field.name + "."))
        elif (
            is_setting(field, value)
            or isinstance(value, tuple)
            or kind_of_field(type(part), field.name)
        ):
            found.append(field.name)  # and no text stands for a function
    return found


def argument_texts(kind: str, name: str) -> str:
    """How the arguments of a part are shown: `level=0.1`; `needs kernels (Python only)`."""
    if required(kind, name):
        return f"needs {', '.join(required(kind, name))} (Python only)"
    part = default_of(kind, name)
    values = {one: get_path(part, one) for one in arguments(part, kind)}
    return ", ".join(f"{one}={to_text(value, '/')}" for one, value in values.items())


def required(kind: str, name: str) -> list[str]:
    """The fields of a part without a default: arrays, which only Python can give."""
    return [one for one in _bare(KINDS[kind].builders[name]) if one not in KINDS[kind].given]


def default_of(kind: str, name: str) -> Any:
    """A part with its default arguments; what is given to it later is None."""
    build = KINDS[kind].builders[name]
    return build(**dict.fromkeys(_bare(build)))


def _bare(build: Any) -> list[str]:
    fields, nothing = (
        dataclasses.fields(build) if isinstance(build, type) else (),
        dataclasses.MISSING,
    )
    return [one.name for one in fields if one.default is one.default_factory is nothing]


def kind_of_field(owner: type, name: str) -> str | None:
    """The kind of part that a field holds, by its type; None for another field."""
    held = _members(_hints(owner)[name])
    return next((k for k, one in KINDS.items() if set(held) & set(one.field_types)), None)


def part_fields(owner: Any, prefix: str = "") -> dict[str, str]:
    """The fields of a struct, and of structs in it, that hold a part: dotted name to its kind."""
    found = {}
    for field in dataclasses.fields(owner):
        value = getattr(owner, field.name)
        kind = kind_of_field(type(owner), field.name)
        if kind:
            found[prefix + field.name] = kind
        elif is_chain(field):
            for label, part in labelled(value).items():
                found |= part_fields(part, f"{prefix}{field.name}.{label}.")
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            found |= part_fields(value, f"{prefix}{field.name}.")
    return found


def parse_setting(
    owner: Any, name: str, text: str, scheduled: bool = False, comma: str = ","
) -> tuple[str, Any]:
    """The full name of a setting or part of `owner`, and the value that `text` stands for.

    Args:
        owner: a struct.
        name: of a setting or of a field that holds a part, dotted or its last word.
        text: of the value.
        scheduled: let a schedule stand for any number that is not whole; so it may in an agent's
            operator and its rule at any rate.
        comma: what stands between the entries of a list.

    Raises:
        KeyError: no such setting; the message lists near names.
        ValueError: text of the wrong type, or a value out of range.
    """
    infos = {info.name: info for info in list_settings(owner)}
    kinds = part_fields(owner)
    parts = {name: kind for name, kind in kinds.items() if name not in infos}
    fields = (field.name for field in dataclasses.fields(owner) if not is_chain(field))
    tuples = [name for name in fields if isinstance(getattr(owner, name), tuple)]
    full = resolve_among(owner, list(dict.fromkeys([*infos, *parts, *tuples])), name)
    path, _, last = full.rpartition(".")
    hints, old = _members(_hints(type(get_path(owner, path)))[last]), get_path(owner, full)
    head = re.split("[:,]", text)[0].strip()
    if full in parts or (full in kinds and _registered(kinds[full], head)):
        return full, None if text.lower() == "none" and type(None) in hints else parse(
            kinds[full], text
        )
    if not any(_reader(hint) in _READERS for hint in hints):
        hints = (tuple[type(old[0]), ...] if isinstance(old, tuple) and old else type(old),)
    scheduled |= isinstance(old, Schedule) or full.startswith(_SCHEDULED)
    value = read(full, (*hints, Linear) if scheduled and float in hints else hints, text, comma)
    if isinstance(value, int) and abs(value) > _MOST:
        raise ValueError(f"{full}={value} is out of range: whole numbers end at {_MOST}.")
    _check_schedule(full, value)
    if full in infos:
        check_value(infos[full], value)
    return full, value


def read(name: str, hints: tuple[Any, ...], text: str, comma: str = ",") -> Any:
    """The value of `text` under the first of the types that takes it, narrow ones first.

    Raises:
        ValueError: none does; the message says what each would have taken.
    """
    kinds = {_reader(hint): hint for hint in hints}
    expected = []
    for kind, (reader, says) in _READERS.items():
        if kind in kinds:
            expected.append(says.format(example=_example(kinds[kind], comma)))
            try:
                return reader(text, kinds[kind], comma)
            except (ValueError, OverflowError):
                continue
    if not expected:
        raise ValueError(f"{name} cannot be set from the command line.")
    raise ValueError(f"{name}={text!r} is not {' or '.join(expected)}.")


def parse_literal(text: str) -> Any:
    """A value whose type only its text tells: a number, boolean, none, tuple or string."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    if "," in text:
        return tuple(parse_literal(part.strip()) for part in _entries(text, ","))
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(text)
    return text


def parse_whole(text: str) -> int:
    """An integer, also written `1_000_000` or `1e6`.

    Raises:
        ValueError: it is not one.
    """
    with contextlib.suppress(ValueError):
        return int(text)
    number = float(text)
    if not number.is_integer():
        raise ValueError(f"{text!r} is not a whole number.")
    return int(number)


def to_text(value: Any, comma: str = ",") -> str:
    """The text that `parse_setting` turns back into `value`.

    Example:
        >>> to_text((64, 64)), to_text(1e-4), to_text(Linear(1.0, 0.05, end=0.5))
        ('64,64', '0.0001', 'linear:1.0:0.05:0.5')
    """
    for name, (of, how) in _SCHEDULES.items():
        if isinstance(value, of):
            written, default = _written(how), {f.name: f.default for f in dataclasses.fields(of)}
            while len(written) > 2 and getattr(value, written[-1]) == default[written[-1]]:
                written.pop()
            return ":".join([name, *(repr(float(getattr(value, field))) for field in written)])
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, (tuple, list)):
        between = "+" if comma == "/" and value and isinstance(value[0], tuple) else comma
        return between.join(to_text(entry, comma) for entry in value)
    if isinstance(value, (int, str)):
        return str(value)
    if dataclasses.is_dataclass(value):
        return show(value)
    if callable(value):
        return value.__name__
    return repr(float(value))


def to_plain(value: Any) -> Any:
    """`value` as plain data for a configuration file; parts, schedules, functions become text."""
    if isinstance(value, (tuple, list)):
        return [to_plain(entry) for entry in value]
    if isinstance(value, (bool, int, float, str, type(None))):
        return value
    return to_text(value)


def _place_of(part: Any, kind: str | None) -> tuple[str, str]:
    """The kind and the name of a part."""
    for one in [kind] if kind else KINDS:
        for name, build in KINDS[one].builders.items():
            # Of several names of one class, the one whose default holds the same structs.
            is_class = isinstance(build, type)
            if build is type(part) if is_class else _stem(build()) == _stem(part):
                return one, name
    raise ValueError(f"{type(part).__name__} is not a registered part: no text stands for it.")


def _stem(part: Any) -> tuple[type, ...]:
    inner = (getattr(part, field.name) for field in dataclasses.fields(part))
    structs = (one for one in inner if dataclasses.is_dataclass(one))
    return type(part), *(type(one) for one in structs if not isinstance(one, Schedule))


def _registered(kind: str, name: str) -> str | None:
    """The full name of a part of this kind, of which `name` may be short or written otherwise."""
    names = {**{one: one for one in KINDS[kind].builders}, **KINDS[kind].short}
    return {_plain(one): full for one, full in names.items()}.get(_plain(name))


def _with_arguments(kind: str, part: Any, name: str, words: list[str]) -> Any:
    known, given = arguments(part, kind), {}
    for place, word in enumerate(words):
        key, equals, text = word.partition("=")
        if not equals:
            if place >= len(known):
                takes = f"takes {', '.join(known)}" if known else "takes no argument"
                raise ValueError(f"{name} {takes}; {word!r} is one too many.")
            if place != len(given) or list(given) != known[:place]:
                raise ValueError(f"{word!r} comes after key=value: give {name} its key too.")
            key, text = known[place], word
        full = resolve_name(known, key.strip())
        if full in given:
            raise ValueError(f"{name} is given {full} twice.")
        given[full] = parse_setting(part, full, text.strip(), KINDS[kind].scheduled, "/")[1]
    for full in [full for full in given if "." in full]:
        part = replace_setting(part, full, given.pop(full))
    return dataclasses.replace(part, **given)  # together: low and high are checked as a pair


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


@functools.cache
def _hints(owner: type) -> dict[str, Any]:
    return typing.get_type_hints(owner)


def _members(hint: Any) -> tuple[Any, ...]:
    """The types of a union; a type is a union of one."""
    return typing.get_args(hint) if isinstance(hint, _UNIONS) else (hint,)


_UNIONS = (type(int | str), type(typing.Union[int, "Kind"]))


def _reader(hint: Any) -> Any:
    """The key of `_READERS` for a type."""
    return tuple if typing.get_origin(hint) is tuple else Linear if hint in _OF else hint


def _entries(text: str, comma: str) -> list[str]:
    stripped = text.strip().strip("()[]").rstrip(comma)
    return stripped.split(comma) if stripped.strip() else []


def _read_none(text: str, hint: Any, comma: str) -> None:
    if text.lower() not in ("none", ""):
        raise ValueError


def _read_bool(text: str, hint: Any, comma: str) -> bool:
    if text.lower() not in _TRUE + _FALSE:
        raise ValueError
    return text.lower() in _TRUE


def _read_schedule(text: str, hint: Any, comma: str) -> Any:
    name, *numbers = text.split(":")
    if name not in _SCHEDULES:
        raise ValueError
    of, how = _SCHEDULES[name]
    fields, least = _written(how), len(_written(how.partition("[")[0]))
    if not least <= len(numbers) <= len(fields):
        raise ValueError
    return of(**dict(zip(fields, map(float, numbers), strict=False)))


def _written(how: str) -> list[str]:
    """The fields in `INITIAL:FINAL[:END]`."""
    return re.findall(r"\w+", how.lower())


def _read_tuple(text: str, hint: Any, comma: str) -> tuple:
    of, *more = typing.get_args(hint)
    if more == [...]:
        apart = "+" if typing.get_origin(of) is tuple else comma
        return tuple(read("", _members(of), one.strip(), comma) for one in _entries(text, apart))
    entries = zip((of, *more), _entries(text, comma), strict=True)
    return tuple(read("", _members(one), entry.strip(), comma) for one, entry in entries)


def _example(hint: Any, comma: str) -> str:
    """What a list of this type looks like."""
    of = (*typing.get_args(hint), None)[0]
    if typing.get_origin(of) is tuple:
        return "NAME/LOW/HIGH, such as gravity/8/12"
    return {int: f"whole numbers such as 1{comma}4", float: f"numbers such as 0.1{comma}1"}.get(
        of, f"words such as a{comma}b"
    )


# name: class and how it is written; END and START are shares of the run
_SCHEDULES: dict[str, tuple[type, str]] = {
    "linear": (Linear, "INITIAL:FINAL[:END[:START]]"),
    "steps": (LinearSteps, "INITIAL:FINAL:NUM_STEPS"),
    "exponential": (Exponential, "INITIAL:FINAL:HALF_LIFE"),
    "cosine": (Cosine, "INITIAL[:FINAL]"),
}
_OF = tuple(typing.get_args(Schedule))

# type: (reader, what it takes), narrow ones first: every text is a string, every integer a float
_READERS: dict[Any, tuple[Callable[[str, Any, str], Any], str]] = {
    type(None): (_read_none, "none"),
    bool: (_read_bool, "true or false"),
    int: (lambda text, hint, comma: parse_whole(text), "a whole number"),
    float: (lambda text, hint, comma: float(text), "a number"),
    Linear: (
        _read_schedule,
        f"a schedule ({', '.join(f'{name}:{how}' for name, (_, how) in _SCHEDULES.items())})",
    ),
    tuple: (_read_tuple, "a list of {example}"),
    str: (lambda text, hint, comma: text, "text"),
}


def _check_schedule(name: str, value: Any) -> None:
    if isinstance(value, Linear) and not 0 <= value.start < value.end <= 1:
        raise ValueError(f"{name}={to_text(value)}: give shares 0 <= START < END <= 1.")
    if isinstance(value, LinearSteps) and not value.num_steps > 0:
        raise ValueError(f"{name}={to_text(value)}: give NUM_STEPS above 0.")
    if isinstance(value, Exponential) and not value.half_life > 0:
        raise ValueError(f"{name}={to_text(value)}: give HALF_LIFE above 0.")
