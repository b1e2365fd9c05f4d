"""What a run is: read from a command line or a configuration file, checked, and written back."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxrl.agents.channels import BySign, Split, ValueChannels, Whole
from jaxrl.agents.normalised import NormalisedAgent
from jaxrl.agents.presets import PRESETS, preset
from jaxrl.cli.arguments import PARTS, BadInput, as_option, asked, import_modules, refusing
from jaxrl.core import Struct, notation
from jaxrl.core.protocols import Agent, Environment
from jaxrl.core.schedules import Schedule
from jaxrl.core.settings import (
    labelled,
    list_settings,
    replace_path,
    resolve_setting,
    setting,
    setting_label,
)
from jaxrl.envs import make
from jaxrl.operators import (
    BellmanOperator,
    HTransform,
    Identity,
    LogMapping,
    Scalar,
    SignedHyperbolic,
)
from jaxrl.operators.composition import ValueMapping
from jaxrl.training.lanes import default_lanes, expand_settings
from jaxrl.training.loop import check_training, cut_budget
from jaxrl.training.run_folder import RunFolder

_SPLITS: dict[str, type[Split]] = {"by_sign": BySign, "whole": Whole}


class SharedMapping(Struct):
    """`ValueChannels` whose mappings are all the same; several ones need Python."""

    mapping: ValueMapping
    split: str = setting("by_sign", "the reward's channels", choices=tuple(_SPLITS))
    value_rate: float = setting(
        0.1, "step towards the target in ordinary space", low=0.0, high=1.0, low_open=True
    )

    def channels(self) -> ValueChannels:
        """The part of an agent that it stands for."""
        split = _SPLITS[self.split]()
        return ValueChannels(split, (self.mapping,) * len(split.weights), self.value_rate)


def log() -> SharedMapping:
    """Logarithms below a threshold, straight lines above it (van Seijen et al. 2019)."""
    return SharedMapping(LogMapping())


def h_transform() -> SharedMapping:
    """Square roots of great values (Pohlen et al. 2018)."""
    return SharedMapping(HTransform())


def signed_hyperbolic() -> SharedMapping:
    """Logarithms of great values, straight lines near zero."""
    return SharedMapping(SignedHyperbolic())


def identity() -> SharedMapping:
    """Values as they are."""
    return SharedMapping(Identity())


notation.register("channels", log, h_transform, signed_hyperbolic, identity)


@dataclasses.dataclass(frozen=True)
class Job:
    """One run, checked: everything that its numbers depend on."""

    config: dict[str, Any]  # plain data, from which `job_from_config` makes it again
    agent: Agent
    env: Environment
    env_settings: dict[str, Any]
    over: dict[str, tuple[float, ...]]  # swept settings by full name

    @property
    def program(self) -> dict[str, Any]:
        """What `sweep` takes beside agent and environment."""
        names = ("num_seeds", "num_steps", "num_records", "lanes")
        return {"over": self.over, **{name: self.config[name] for name in names}}

    @property
    def combinations(self) -> list[dict[str, float]]:
        """The swept settings of every combination, S of them; one empty one without a sweep."""
        return expand_settings(self.agent, self.over)

    @property
    def labels(self) -> list[str]:
        """The names of the combinations; `[""]` without a sweep."""
        return [setting_label(one, self.agent) for one in self.combinations]

    @property
    def title(self) -> str:
        """Agent and environment, for headings."""
        return f"{self.config['agent']} on {self.config['env']}"

    def env_at(self, parameters: Mapping[str, Any]) -> Environment:
        """The environment with other parameters, in the same wrappers."""
        env = make(self.config["env"], **{**self.env_settings, **parameters})
        return _wrapped(env, self.config.get("env_wrap", ()), self.agent.discount)


def default_folder(name: str, config: Mapping[str, Any]) -> Path:
    """`runs/NAME-HASH`: the same configuration gives the same folder."""
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()
    return Path("runs") / f"{name}-{digest[:8]}"


def read_config(path: Path) -> dict[str, Any]:
    """The configuration of the run in `path`.

    Raises:
        BadInput: there is none, or it cannot be read.
    """
    with refusing(ValueError, OSError):
        if not (path / "config.yaml").is_file():
            raise BadInput(f"{path} is not a run's folder: it has no config.yaml.")
        return RunFolder(path).config()


# What entries of config.yaml are, and what stands in those that are lists or mappings.
_NUMBERS = ("num_seeds", "num_steps", "seed", "num_records", "lanes")
_NEEDED = {"agent": str, "env": str, **dict.fromkeys(_NUMBERS, int)}
_OTHERS: dict[str, tuple[type, type]] = {
    **dict.fromkeys(("normalise", "env_wrap", "imports"), (list, str)),
    **dict.fromkeys(("settings", "env_settings"), (dict, object)),
    "parts": (dict, str),
    "sweep": (dict, list),
}
_WORDS = {str: "text", int: "a whole number", list: "a list", dict: "a mapping"}


def job_from_config(config: Mapping[str, Any]) -> Job:
    """The run that has this `Job.config`.

    Raises:
        BadInput: an entry is missing, of a wrong type, or cannot be.
    """
    for name, kind in _NEEDED.items():
        if name not in config:
            raise BadInput(f"config.yaml of this run has no {name!r}.")
        _check_type(name, config[name], kind)
    found: dict[str, Any] = {name: config[name] for name in _NEEDED}
    for name, (kind, inner) in _OTHERS.items():
        found[name] = kind() if config.get(name) is None else config[name]
        _check_type(name, found[name], kind)
        for key, value in found[name].items() if kind is dict else enumerate(found[name]):
            _check_type(f"{name}.{key}", value, inner)
    for name, known in {"parts": PARTS, "normalise": ("observations", "rewards")}.items():
        if wrong := [one for one in found[name] if one not in known]:
            raise BadInput(f"config.yaml: {name} has {wrong[0]!r}, not of {', '.join(known)}.")
    with refusing(TypeError, about="config.yaml: "):
        for name in ("settings", "env_settings", "sweep"):
            texts = {key: notation.to_text(value) for key, value in found[name].items()}
            found[name] = [[f"{key}={text}" for key, text in texts.items()]]
    return make_job(asked("train", **found))


def _check_type(name: str, value: Any, kind: type) -> None:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise BadInput(f"config.yaml: {name}={value!r} is not {_WORDS[kind]}.")


def make_job(given: Namespace) -> Job:
    """The run that a command line asks for.

    Raises:
        BadInput: anything in it that cannot be; the message says what to do.
    """
    import_modules(given.imports)
    with refusing(KeyError):
        agent = preset(given.agent)
    parts = {option: parse_part(option, text) for option, text in given.parts.items()}
    for option, part in parts.items():
        agent = _with_part(agent, given, option, part)
    normalise = sorted(set(given.normalise))
    if normalise:
        agent = NormalisedAgent(agent, "observations" in normalise, "rewards" in normalise)
    changed: dict[str, Any] = {}
    for name, text in assignments(given.settings, "--set").items():
        with refusing(KeyError, ValueError):
            full, value = notation.parse_setting(agent, name, text)
            if full in changed:
                raise BadInput(f"--set gives {full} twice.")
            agent, changed[full] = replace_path(agent, full, value), value
    agent, over = _swept(agent, assignments(given.sweep, "--sweep"), changed)
    parameters = environment_parameters(given.env_settings)
    with refusing(ValueError, TypeError, KeyError, OverflowError):
        env = make(given.env, **parameters)
    if given.env_wrap and any(name.rpartition(".")[2] == "discount" for name in over):
        raise BadInput(
            "--sweep discount: --env-wrap holds actions under one discount; start one run for each "
            "value."
        )
    env = _wrapped(env, given.env_wrap, agent.discount)
    try:
        check_training(agent, env)
    except ValueError as error:  # whose remedy may be an option
        by_option = "successors=Generative" in str(error) and "successors" not in parts
        remedy = " On the command line: --successors generative:16." if by_option else ""
        raise BadInput(str(error) + remedy) from error
    with refusing(ValueError):
        cut_budget(agent, given.num_steps, given.num_records)
    plain, wrappers = notation.to_plain, [notation.parse("wrappers", one) for one in given.env_wrap]
    config = {
        "agent": given.agent,
        "parts": shown_parts(parts),
        "settings": {name: plain(value) for name, value in changed.items()},
        "normalise": normalise,
        "env": given.env,
        "env_wrap": [notation.show(one) for one in wrappers],
        "imports": list(given.imports),
        "env_settings": {name: plain(value) for name, value in parameters.items()},
        **{name: getattr(given, name) for name in ("num_seeds", "num_steps", "seed")},
        "sweep": {name: list(swept) for name, swept in over.items()},
        "num_records": given.num_records,
        "lanes": given.lanes or default_lanes(),
        "resolved": {info.name: plain(info.value) for info in list_settings(agent)},
    }
    # Only where there are any: runs from before there were such stay the same.
    for name in ("parts", "env_wrap", "imports"):
        if not config[name]:
            del config[name]
    return Job(config, agent, env, parameters, over)


def parse_part(option: str, text: str) -> Any:
    """The part that an option gives; `BadInput`, which names the option, where there is none.

    Those of --parts are several, `NAME[:ARG,...]+NAME[:ARG,...]`, in a tuple.
    """
    with refusing(KeyError, ValueError, about=f"{as_option(option)} {text}: "):
        if option == "parts":
            texts = re.split(r"\+(?=\s*[A-Za-z])", text)
            return tuple(notation.parse(option, one) for one in texts)
        return notation.parse(PARTS[option][0], text)


def shown_parts(parts: Mapping[str, Any]) -> dict[str, str]:
    """Parts by option, each in the one text that a configuration keeps."""
    several = {name: part if name == "parts" else (part,) for name, part in parts.items()}
    return {
        name: "+".join(notation.show(part, PARTS[name][0]) for part in chain)
        for name, chain in several.items()
    }


def place_of(option: str) -> str:
    """Where the part of an option stands in an agent: `operator.head`."""
    if option in ("functional", "improvement", "head", "composition", "return_functional"):
        return "operator." + ("successor_functional" if option == "functional" else option)
    return "parts" if option in ("average_reward", "channels") else option


def _with_part(agent: Any, given: Namespace, option: str, part: Any) -> Agent:
    place, flag = place_of(option), as_option(option)
    top = place.partition(".")[0]
    if top not in {field.name for field in dataclasses.fields(agent)}:
        others = [name for name in PRESETS if top in dir(preset(name))]
        raise BadInput(
            f"{flag}: {given.agent} has no {top.replace('_', ' ')} to change; take "
            f"--agent {', '.join(others[:-1])} or {others[-1]}."
        )
    part = part.channels() if isinstance(part, SharedMapping) else part
    if top == "operator" and agent.operator is None:
        agent = agent.replace(operator=BellmanOperator(Scalar(float("inf"))))
    with refusing(ValueError, about=f"{flag} {given.parts[option]}: "):
        if place != "parts":
            return replace_path(agent, place, part)
        for label, one in labelled(part if isinstance(part, tuple) else (part,)).items():
            agent = replace_path(agent, f"parts.{label}", one)
        return agent


def environment_parameters(groups: Sequence[Sequence[str]]) -> dict[str, Any]:
    """What --env-set gives, each value read by its form."""
    given = assignments(groups, "--env-set")
    return {name: notation.parse_literal(text) for name, text in given.items()}


def _wrapped(env: Environment, texts: Sequence[str], discount: Any) -> Environment:
    """`env` in the wrappers that `texts` stand for (`["held_actions:1/4"]`), from the inside out,
    under the agent's discount [per step]."""
    for text in texts:
        with refusing(KeyError, ValueError, about=f"--env-wrap {text}: "):
            wrapper, given = notation.parse("wrappers", text), {"env": env, "discount": discount}
            names = {field.name for field in dataclasses.fields(wrapper)}
            env = wrapper.replace(**{name: given[name] for name in given if name in names})
            _ = env.action_space  # which is refused where a wrapper cannot make it
    return env


def _swept(
    agent: Agent, texts: Mapping[str, str], changed: Mapping[str, Any]
) -> tuple[Agent, dict[str, tuple[float, ...]]]:
    """The agent ready to be swept, and the values by full setting name, checked.

    A sweep over numbers takes the place of a schedule.
    """
    swept: dict[str, tuple[float, ...]] = {}
    for name, text in texts.items():
        with refusing(KeyError):
            full = resolve_setting(agent, name)
        if full in changed or full in swept:
            raise BadInput(f"{full} is given twice: by --sweep and by --set or another --sweep.")
        swept[full] = values_of("--sweep", full, text, _number)
        value = {info.name: info.value for info in list_settings(agent)}[full]
        if isinstance(value, Schedule):
            agent = replace_path(agent, full, swept[full][0])
        with refusing(ValueError):
            expand_settings(agent, {full: swept[full]})
    return agent, swept


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise BadInput(
            f"--sweep: {text!r} is not a number, and only float settings can be swept in one "
            "program; start one run for each value."
        ) from None


def values_of(option: str, name: str, text: str, read: Callable[[str], Any]) -> tuple[Any, ...]:
    """The values in `V1,V2`, at least one and each once."""
    texts = [one.strip() for one in text.split(",") if one.strip()]
    values = tuple(map(read, texts))
    if len(set(values)) < len(values):
        raise BadInput(f"{option} {name} has a value twice: {', '.join(texts)}.")
    if not values:
        raise BadInput(f"{option} {name} has no values: give at least one.")
    return values


def assignments(groups: Sequence[Sequence[str]], option: str) -> dict[str, str]:
    """`--set a=1 b=2 --set c=3` as a mapping."""
    found: dict[str, str] = {}
    for text in (text for group in groups for text in group):
        name, equals, value = (word.strip() for word in text.partition("="))
        if not equals or not name:
            raise BadInput(f"{option} takes NAME=VALUE, not {text!r}.")
        if name in found:
            raise BadInput(f"{option} gives {name} twice.")
        found[name] = value
    return found
