"""Parts of a run or a plan by a short text: `cvar:0.1`, `quantile:51`, `generative:16`.

    name[:argument[,argument ...]]        argument = value  or  key=value

Names are those of `jaxrl list operators`, `jaxrl list successors` and so on; case, `_` and `-` do
not count. Values without a key follow the order in which a part lists its arguments. A list is
written with `/`, several lists with `+`: `generative:16,5,spread=gravity/8/12+length/0.4/0.6`. A
number of an operator or of successors may be a schedule: `cvar:linear:1:0.1`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxrl.agents.average_reward import AverageReward
from jaxrl.agents.dual import Dual
from jaxrl.agents.ensemble import Ensemble
from jaxrl.agents.presets import PRESETS, preset
from jaxrl.agents.successors import Generative, Sampled
from jaxrl.cli import values
from jaxrl.cli.channels import CHANNELS, SharedMapping
from jaxrl.cli.errors import BadInput, refusing
from jaxrl.core.protocols import Agent, Environment
from jaxrl.core.schedules import Schedule
from jaxrl.core.settings import list_settings, near_names, replace_setting, resolve_name
from jaxrl.envs.wrappers import HeldActions
from jaxrl.operators import BellmanOperator, names

# option: (kind of part, field of the operator; None for a field of the agent itself)
OPTIONS: dict[str, tuple[str, str | None]] = {
    "functional": ("functionals", "successor_functional"),
    "return_functional": ("functionals", "return_functional"),
    "improvement": ("improvements", "improvement"),
    "head": ("heads", "head"),
    "composition": ("compositions", "composition"),
    "successors": ("successors", None),
    "average_reward": ("average_rewards", None),
    "channels": ("channels", None),
}
_SOURCES = (Sampled, Generative, Ensemble, Dual)
_WITHOUT_SCHEDULES = ("average_rewards", "channels", "wrappers")  # but where a setting says so
_PLACES = {
    "operator": "Bellman operator",
    "successors": "source of successors",
    "average_reward": "average reward",
    "channels": "channels of the reward",
}


def held_actions() -> HeldActions:
    """Actions that last for several unit steps (semi-Markov), under the agent's discount."""
    return HeldActions(None)


_NOT_BY_TEXT = {HeldActions: ("discount",)}  # `wrapped` gives it


def kinds() -> dict[str, dict[str, Callable[[], Any]]]:
    """Every part by kind and name, a class or a function that builds the default:
    `{"functionals": {"cvar": CVaR, ...}, ...}`."""
    return {
        **names(),
        "successors": {kind.__name__.lower(): kind for kind in _SOURCES},
        "average_rewards": {"differential": AverageReward},
        "channels": {**CHANNELS},
        "wrappers": {held_actions.__name__: held_actions},
    }


def parse_part(kind: str, text: str) -> Any:
    """The part that `text` stands for.

    Args:
        kind: a key of `kinds()`.
        text: see the head of this module.

    Raises:
        KeyError: no such part or argument; the message lists near names.
        ValueError: an argument is of the wrong type or out of range, or there are too many.

    Example:
        >>> parse_part("functionals", "CVaR:0.25"), parse_part("heads", "quantile,num_atoms=51")
        (CVaR(level=0.25), Quantile(num_atoms=51, huber_threshold=1.0))
    """
    name, words = _split(text)
    known = kinds()[kind]
    full = {_plain(one): one for one in known}.get(_plain(name))
    if full is None:
        raise KeyError(f"unknown {kind.removesuffix('s')} {name!r}; {near_names(name, [*known])}")
    missing = required(known[full])
    if missing:
        raise ValueError(
            f"{full} needs {' and '.join(missing)}, which no text can give: build "
            f"{known[full].__name__}({', '.join(missing)}) in Python."
        )
    part = known[full]()
    return _with_arguments(part, full, words, scheduled=kind not in _WITHOUT_SCHEDULES)


def part_text(kind: str, part: Any) -> str:
    """The text that `parse_part` turns back into `part`: what a configuration keeps.

    Example:
        >>> part_text("functionals", parse_part("functionals", "total_variation,support=full"))
        'total_variation:0.1,support=full'
    """
    built = {name: build() for name, build in kinds()[kind].items() if not required(build)}
    (name,) = [name for name, default in built.items() if _stem(default) == _stem(part)]
    default, words = built[name], []
    for index, argument in enumerate(arguments(default)):
        value = _get(part, argument)
        if index == 0:
            words.append(_write(value))
        elif value != _get(default, argument):
            words.append(f"{argument}={_write(value)}")
    return f"{name}:{','.join(words)}" if words else name


def arguments(part: Any) -> list[str]:
    """The arguments of a part in order, dotted where they are those of a struct inside it."""
    found = []
    for field in dataclasses.fields(part):
        value = getattr(part, field.name)
        if field.name in _NOT_BY_TEXT.get(type(part), ()):
            continue
        if callable(value) and not dataclasses.is_dataclass(value):
            continue  # no text stands for a function
        if "help" in field.metadata and not dataclasses.is_dataclass(value):
            found.append(field.name)
        elif dataclasses.is_dataclass(value):
            found.extend(info.name for info in list_settings(value, field.name + "."))
        elif isinstance(value, tuple) or "Functional" in str(field.type):
            found.append(field.name)
    return found


def required(kind: Callable[[], Any]) -> list[str]:
    """The fields without a default: arrays, which only Python can give."""
    if not isinstance(kind, type):
        return []
    return [
        field.name
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]


def argument_texts(kind: Callable[[], Any]) -> str:
    """How the arguments of a part are shown: `level=0.1`; `needs kernels (Python only)`."""
    if required(kind):
        return f"needs {', '.join(required(kind))} (Python only)"
    default = kind()
    return ", ".join(f"{name}={_write(_get(default, name))}" for name in arguments(default))


def operator_with(operator: BellmanOperator, texts: Mapping[str, str]) -> BellmanOperator:
    """`operator` with the parts given by option; others are left out of account.

    Raises:
        BadInput: no such part, or an argument that it cannot have; the message names the option.
    """
    for option, text in texts.items():
        kind, field = OPTIONS[option]
        if field is not None:
            with refusing(KeyError, ValueError, about=f"{as_option(option)} {text}: "):
                operator = dataclasses.replace(operator, **{field: parse_part(kind, text)})
    return operator


def agent_with(agent: Agent, agent_name: str, texts: Mapping[str, str]) -> Agent:
    """`agent` with the parts given by option: `{"functional": "cvar:0.1"}`.

    Raises:
        BadInput: the agent has no place for one, no such part, or an argument it cannot have.
    """
    fields = {field.name for field in dataclasses.fields(agent)}
    for option in texts:
        place = option if OPTIONS[option][1] is None else "operator"
        if place not in fields:
            others = [name for name in PRESETS if place in dir(preset(name))]
            raise BadInput(
                f"{as_option(option)}: {agent_name} has no {_PLACES[place]} to change; take "
                f"--agent {', '.join(others[:-1])} or {others[-1]}."
            )
    operator = getattr(agent, "operator", None)
    if operator is not None:
        agent = agent.replace(operator=operator_with(operator, texts))  # pyright: ignore
    for option, text in texts.items():
        kind, field = OPTIONS[option]
        if field is None:
            with refusing(KeyError, ValueError, about=f"{as_option(option)} {text}: "):
                part = parse_part(kind, text)
            part = part.channels() if isinstance(part, SharedMapping) else part
            agent = agent.replace(**{option: part})  # pyright: ignore
    return agent


def wrapped(env: Environment, texts: Sequence[str], discount: float) -> Environment:
    """`env` in the wrappers that `texts` stand for, from the inside out.

    Args:
        env: to be wrapped.
        texts: `["held_actions:1/4"]`.
        discount: the agent's [per step].

    Raises:
        BadInput: no such wrapper, or one that does not fit the environment.
    """
    for text in texts:
        with refusing(KeyError, ValueError, about=f"--env-wrap {text}: "):
            env = parse_part("wrappers", text).replace(env=env, discount=discount)
            _ = env.action_space  # which is refused where a wrapper cannot make it
    return env


def canonical(texts: Mapping[str, str]) -> dict[str, str]:
    """The same parts, each in the one text that a configuration keeps."""
    return {
        option: part_text(OPTIONS[option][0], parse_part(OPTIONS[option][0], text))
        for option, text in texts.items()
    }


def as_option(name: str) -> str:
    """`return_functional` -> `--return-functional`."""
    return "--" + name.replace("_", "-")


def _split(text: str) -> tuple[str, list[str]]:
    """`cvar:0.1,x=2` -> `cvar`, `["0.1", "x=2"]`."""
    stops = [place for place in (text.find(":"), text.find(",")) if place >= 0]
    name = text[: min(stops)] if stops else text
    rest = text[min(stops) + 1 :] if stops else ""
    return name.strip(), [word.strip() for word in rest.split(",")] if rest.strip() else []


def _plain(name: str) -> str:
    return name.lower().replace("_", "").replace("-", "")


def _stem(part: Any) -> tuple[type, type | None]:
    """What the name of a part says of it."""
    return type(part), type(part.mapping) if isinstance(part, SharedMapping) else None


def _with_arguments(part: Any, name: str, words: list[str], scheduled: bool) -> Any:
    known, given = arguments(part), {}
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
        given[full] = _parse(part, full, text.strip(), scheduled)
    for full in [full for full in given if "." in full]:
        part = replace_setting(part, full, given.pop(full))
    return dataclasses.replace(part, **given)  # together: low and high are checked as a pair


def _parse(part: Any, name: str, text: str, scheduled: bool) -> Any:
    field = {field.name: field for field in dataclasses.fields(part)}.get(name)
    if field is not None and isinstance(getattr(part, name), tuple):
        if str(field.type).startswith("tuple[int"):
            return _whole_numbers(name, text)
        rows = [tuple(map(values.parse_literal, row.split("/"))) for row in text.split("+")]
        if "tuple[tuple" not in str(field.type):
            return _numbers(name, text, rows[0])
        return tuple(_named_range(name, row) for row in rows)
    if field is not None and "help" not in field.metadata and "Functional" in str(field.type):
        return None if text.lower() == "none" else parse_part("functionals", text)
    return values.parse_setting(part, name, text, scheduled)[1]


def _whole_numbers(name: str, text: str) -> tuple[int, ...]:
    try:
        return tuple(map(values.parse_whole, text.split("/")))
    except (ValueError, OverflowError):
        raise ValueError(f"{name}={text!r} is not a list of whole numbers such as 1/4.") from None


def _numbers(name: str, text: str, row: tuple) -> tuple[float, ...]:
    try:
        return tuple(map(float, row))
    except (TypeError, ValueError):
        raise ValueError(f"{name}={text!r} is not a list of numbers such as 0.1/1.") from None


def _named_range(name: str, row: tuple) -> tuple[str, float, float]:
    if len(row) != 3 or not isinstance(row[0], str):
        text = "/".join(map(str, row))
        raise ValueError(f"{name}={text!r} is not NAME/LOW/HIGH, such as gravity/8/12.")
    return (row[0], *_numbers(name, "/".join(map(str, row)), row[1:]))  # pyright: ignore


def _get(part: Any, name: str) -> Any:
    return functools.reduce(getattr, name.split("."), part)


def _write(value: Any) -> str:
    if isinstance(value, tuple):
        is_rows = bool(value) and isinstance(value[0], tuple)
        return "+".join(map(_write, value)) if is_rows else "/".join(map(values.to_text, value))
    if dataclasses.is_dataclass(value) and not isinstance(value, Schedule):
        return part_text("functionals", value)
    return values.to_text(value)
