"""The parts of a run or a plan that have an option of their own: `--functional cvar:0.1`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from jaxrl.agents.presets import PRESETS, preset
from jaxrl.cli.channels import SharedMapping
from jaxrl.cli.errors import BadInput, refusing
from jaxrl.core.notation import KINDS as KINDS, parse, show  # filled by what is imported here
from jaxrl.core.protocols import Agent, Environment
from jaxrl.core.settings import replace_path
from jaxrl.operators import BellmanOperator

# option: (kind of part, its place in an agent)
OPTIONS: dict[str, tuple[str, str]] = {
    "functional": ("functionals", "operator.successor_functional"),
    "return_functional": ("functionals", "operator.return_functional"),
    "improvement": ("improvements", "operator.improvement"),
    "head": ("heads", "operator.head"),
    "composition": ("compositions", "operator.composition"),
    "successors": ("successors", "successors"),
    "average_reward": ("average_rewards", "average_reward"),
    "channels": ("channels", "channels"),
    "rule": ("rules", "rule"),
    "optimiser": ("optimisers", "optimiser"),
    "network": ("networks", "network"),
}
_PLACES = {
    "operator": "Bellman operator",
    "successors": "source of successors",
    "average_reward": "average reward",
    "channels": "channels of the reward",
}


def operator_with(operator: BellmanOperator, texts: Mapping[str, str]) -> BellmanOperator:
    """`operator` with the parts given by option.

    Raises:
        BadInput: no such part, or an argument that it cannot have; the message names the option.
    """
    for option, text in texts.items():
        field = OPTIONS[option][1].removeprefix("operator.")
        operator = dataclasses.replace(operator, **{field: _parse(option, text)})
    return operator


def agent_with(agent: Agent, agent_name: str, texts: Mapping[str, str]) -> Agent:
    """`agent` with the parts given by option: `{"functional": "cvar:0.1"}`.

    Raises:
        BadInput: the agent has no place for one, no such part, or an argument it cannot have.
    """
    for option, text in texts.items():
        place = OPTIONS[option][1]
        top = place.partition(".")[0]
        if top not in {field.name for field in dataclasses.fields(agent)}:  # pyright: ignore
            others = [name for name in PRESETS if top in dir(preset(name))]
            raise BadInput(
                f"{as_option(option)}: {agent_name} has no {_PLACES.get(top, top)} to change; take "
                f"--agent {', '.join(others[:-1])} or {others[-1]}."
            )
        part = _parse(option, text)
        part = part.channels() if isinstance(part, SharedMapping) else part
        with refusing(ValueError, about=f"{as_option(option)} {text}: "):
            agent = replace_path(agent, place, part)
    return agent


def _parse(option: str, text: str) -> Any:
    with refusing(KeyError, ValueError, about=f"{as_option(option)} {text}: "):
        return parse(OPTIONS[option][0], text)


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
            wrapper = parse("wrappers", text)
            given = {"env": env, "discount": discount}
            names = {field.name for field in dataclasses.fields(wrapper)}
            env = wrapper.replace(**{name: given[name] for name in given if name in names})
            _ = env.action_space  # which is refused where a wrapper cannot make it
    return env


def canonical(texts: Mapping[str, str]) -> dict[str, str]:
    """The same parts, each in the one text that a configuration keeps."""
    return {
        option: show(parse(OPTIONS[option][0], text), OPTIONS[option][0])
        for option, text in texts.items()
    }


def as_option(name: str) -> str:
    """`return_functional` -> `--return-functional`."""
    return "--" + name.replace("_", "-")
