"""What a run is: read from a command line or a configuration file, checked, and written back."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxrl.agents.normalised import NormalisedAgent
from jaxrl.agents.presets import preset
from jaxrl.cli.arguments import Train
from jaxrl.cli.errors import BadInput, check_seed, refusing
from jaxrl.cli.imports import import_modules
from jaxrl.cli.parts import OPTIONS, agent_with, canonical, wrapped
from jaxrl.core import notation
from jaxrl.core.protocols import Agent, Environment
from jaxrl.core.schedules import Schedule
from jaxrl.core.settings import list_settings, replace_path, resolve_setting, setting_label
from jaxrl.envs import make
from jaxrl.training.lanes import default_lanes, expand_settings
from jaxrl.training.loop import check_training, cut_budget
from jaxrl.training.run_folder import RunFolder


@dataclasses.dataclass(frozen=True)
class Job:
    """One run, checked: everything that its numbers depend on."""

    agent_name: str
    agent: Agent
    settings: dict[str, Any]  # of the agent, given explicitly, by full name
    normalise: tuple[str, ...]  # "observations", "rewards"
    env_name: str
    env: Environment
    env_settings: dict[str, Any]
    over: dict[str, tuple[float, ...]]  # swept settings by full name
    num_seeds: int
    num_steps: int
    num_records: int
    seed: int
    lanes: int
    parts: dict[str, str]  # of the agent, by option: {"functional": "cvar:0.1"}
    env_wrap: tuple[str, ...]  # round the environment, inner ones first
    imports: tuple[str, ...] = ()  # modules of the user's own

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
        return f"{self.agent_name} on {self.env_name}"

    def env_at(self, parameters: Mapping[str, Any]) -> Environment:
        """The environment with other parameters, in the same wrappers."""
        env = make(self.env_name, **{**self.env_settings, **parameters})
        return wrapped(env, self.env_wrap, self.agent.discount)  # pyright: ignore

    def config(self) -> dict[str, Any]:
        """The run as plain data, from which `job_from_config` makes it again."""
        return {
            "agent": self.agent_name,
            # Only where there are any: runs from before there were parts stay the same.
            **({"parts": self.parts} if self.parts else {}),
            "settings": {name: notation.to_plain(value) for name, value in self.settings.items()},
            "normalise": list(self.normalise),
            "env": self.env_name,
            **({"env_wrap": list(self.env_wrap)} if self.env_wrap else {}),
            **({"imports": list(self.imports)} if self.imports else {}),
            "env_settings": {
                name: notation.to_plain(value) for name, value in self.env_settings.items()
            },
            "num_seeds": self.num_seeds,
            "num_steps": self.num_steps,
            "seed": self.seed,
            "sweep": {name: list(swept) for name, swept in self.over.items()},
            "num_records": self.num_records,
            "lanes": self.lanes,
            "resolved": {
                info.name: notation.to_plain(info.value) for info in list_settings(self.agent)
            },
        }

    def default_folder(self) -> Path:
        """`runs/ENV-AGENT-HASH`: the same configuration gives the same folder."""
        digest = hashlib.sha256(json.dumps(self.config(), sort_keys=True).encode()).hexdigest()
        return Path("runs") / f"{self.env_name}-{self.agent_name}-{digest[:8]}"


def job_from_arguments(arguments: Train) -> Job:
    """The run that a command line asks for.

    Raises:
        BadInput: anything in it that cannot be; the message says what to do.
    """
    return _make(
        agent_name=arguments.agent,
        parts=given_parts(arguments),
        settings=assignments(arguments.settings, "--set"),
        env_name=arguments.env,
        env_settings=assignments(arguments.env_settings, "--env-set"),
        over={
            name: text.split(",") for name, text in assignments(arguments.sweep, "--sweep").items()
        },
        numbers=arguments,
    )


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
_WHOLE = {"num_seeds": int, "num_steps": int, "seed": int, "num_records": int, "lanes": int}
_NEEDED = {"agent": str, "env": str, **_WHOLE}
_LISTS = {"normalise": str, "env_wrap": str, "imports": str}
_MAPPINGS = {"parts": str, "settings": object, "env_settings": object, "sweep": list}
_WORDS = {str: "text", int: "a whole number", list: "a list", dict: "a mapping"}


def job_from_config(config: Mapping[str, Any]) -> Job:
    """The run that `Job.config` wrote.

    Raises:
        BadInput: an entry is missing, of a wrong type, or cannot be.
    """
    for name, kind in _NEEDED.items():
        if name not in config:
            raise BadInput(f"config.yaml of this run has no {name!r}.")
        _check_type(name, config[name], kind)
    lists = {name: _entries(config, name, list, kind) for name, kind in _LISTS.items()}
    maps = {name: _entries(config, name, dict, kind) for name, kind in _MAPPINGS.items()}
    named = {"parts": OPTIONS, "normalise": ("observations", "rewards")}
    for name, names in named.items():
        wrong = [one for one in {**maps, **lists}[name] if one not in names]
        if wrong:
            raise BadInput(f"config.yaml: {name} has {wrong[0]!r}, not of {', '.join(names)}.")
    with refusing(TypeError, about="config.yaml: "):
        texts = {
            name: {key: notation.to_text(value) for key, value in maps[name].items()}
            for name in ("settings", "env_settings")
        }
        over = {
            name: [notation.to_text(value) for value in swept]
            for name, swept in maps["sweep"].items()
        }
    return _make(
        agent_name=config["agent"],
        parts=maps["parts"],
        settings=texts["settings"],
        env_name=config["env"],
        env_settings=texts["env_settings"],
        over=over,
        numbers=Train(
            **{name: tuple(entries) for name, entries in lists.items()},  # pyright: ignore
            **{name: config[name] for name in _WHOLE},
        ),
    )


def _entries(config: Mapping[str, Any], name: str, kind: type, inner: type) -> Any:
    """An entry of the configuration that may be left out, checked with what stands in it."""
    found = config.get(name)
    if found is None:
        return kind()
    _check_type(name, found, kind)
    for key, value in found.items() if kind is dict else enumerate(found):
        _check_type(f"{name}.{key}", value, inner)
    return found


def _check_type(name: str, value: Any, kind: type) -> None:
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise BadInput(f"config.yaml: {name}={value!r} is not {_WORDS[kind]}.")


def _make(
    agent_name: str,
    parts: Mapping[str, str],
    settings: Mapping[str, str],
    env_name: str,
    env_settings: Mapping[str, str],
    over: Mapping[str, Sequence[str]],
    numbers: Train,
) -> Job:
    """Check everything and put it together; texts are as on the command line."""
    _check_numbers(numbers)
    import_modules(numbers.imports)
    with refusing(KeyError):
        agent = preset(agent_name)
    agent = agent_with(agent, agent_name, parts)
    normalise = tuple(sorted(set(numbers.normalise)))
    if normalise:
        agent = NormalisedAgent(agent, "observations" in normalise, "rewards" in normalise)
    changed: dict[str, Any] = {}
    for name, text in settings.items():
        with refusing(KeyError, ValueError):
            full, value = notation.parse_setting(agent, name, text)
            if full in changed:
                raise BadInput(f"--set gives {full} twice.")
            agent, changed[full] = replace_path(agent, full, value), value
    agent, swept = _swept(agent, over, changed)
    parameters = {name: notation.parse_literal(text) for name, text in env_settings.items()}
    with refusing(ValueError, TypeError, KeyError, OverflowError):
        env = make(env_name, **parameters)
    if numbers.env_wrap and any(name.rpartition(".")[2] == "discount" for name in swept):
        raise BadInput(
            "--sweep discount: --env-wrap holds actions under one discount; start one run for each "
            "value."
        )
    env = wrapped(env, numbers.env_wrap, agent.discount)  # pyright: ignore
    _check(agent, env, parts)
    with refusing(ValueError):
        cut_budget(agent, numbers.num_steps, numbers.num_records)
    return Job(
        agent_name=agent_name,
        agent=agent,
        settings=changed,
        normalise=normalise,
        env_name=env_name,
        env=env,
        env_settings=parameters,
        over=swept,
        num_seeds=numbers.num_seeds,
        num_steps=numbers.num_steps,
        num_records=numbers.num_records,
        seed=numbers.seed,
        lanes=numbers.lanes or default_lanes(),
        parts=canonical(parts),
        env_wrap=tuple(
            notation.show(notation.parse("wrappers", text)) for text in numbers.env_wrap
        ),
        imports=numbers.imports,
    )


def _check(agent: Agent, env: Environment, parts: Mapping[str, str]) -> None:
    """`check_training`, with its remedy as an option where it is one of Python."""
    try:
        check_training(agent, env)
    except ValueError as error:
        by_option = "successors=Generative" in str(error) and "successors" not in parts
        remedy = " On the command line: --successors generative:16." if by_option else ""
        raise BadInput(str(error) + remedy) from error


def given_parts(arguments: Any) -> dict[str, str]:
    """The parts that a command line gives, as written: `{"functional": "cvar:0.1"}`."""
    texts = {option: getattr(arguments, option, None) for option in OPTIONS}
    return {option: text for option, text in texts.items() if isinstance(text, str)}


def _check_numbers(numbers: Train) -> None:
    most = {"num_seeds": 10**9, "num_steps": 10**13, "num_records": 10**6, "lanes": 10**6}
    for name, high in most.items():
        value = getattr(numbers, name)
        if value is not None and not 1 <= value <= high:
            option = "--" + name.replace("_", "-")
            raise BadInput(f"{option} {value} is out of range: give a value in [1, {high:,}].")
    check_seed(numbers.seed)


def _swept(
    agent: Agent, over: Mapping[str, Sequence[str]], changed: Mapping[str, Any]
) -> tuple[Agent, dict[str, tuple[float, ...]]]:
    """The agent ready to be swept, and the values by full setting name, checked.

    A sweep over numbers takes the place of a schedule.
    """
    swept: dict[str, tuple[float, ...]] = {}
    for name, texts in over.items():
        with refusing(KeyError):
            full = resolve_setting(agent, name)
        if full in changed or full in swept:
            raise BadInput(f"{full} is given twice: by --sweep and by --set or another --sweep.")
        texts = [text.strip() for text in texts if text.strip()]
        numbers = tuple(_number(full, text) for text in texts)
        if len(set(numbers)) < len(numbers):
            raise BadInput(f"--sweep {name} has a value twice: {', '.join(texts)}.")
        if not numbers:
            raise BadInput(f"--sweep {name} has no values: give at least one.")
        value = {info.name: info.value for info in list_settings(agent)}[full]
        if isinstance(value, Schedule):
            agent = replace_path(agent, full, numbers[0])
        swept[full] = numbers
        with refusing(ValueError):
            expand_settings(agent, {full: numbers})
    return agent, swept


def _number(name: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise BadInput(
            f"--sweep {name}: {text!r} is not a number, and only float settings can be swept in "
            "one program; start one run for each value."
        ) from None


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
