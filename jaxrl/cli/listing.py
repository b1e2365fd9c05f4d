"""`jaxrl list`, and the settings that `jaxrl train --help` shows.

Those of a named agent are recorded in `settings.json`, because making the agent would import jax
and all that learns: `python -m jaxrl.cli.listing` records them anew.
"""

from __future__ import annotations

import functools
import json
import math
from argparse import Namespace
from pathlib import Path
from typing import Any

from jaxrl.cli.arguments import PARTS, BadInput, import_modules, refusing
from jaxrl.cli.screen import say, show

_RECORDED = Path(__file__).with_name("settings.json")


def run(arguments: Namespace, words: list[str]) -> int:
    """Print the names of a kind.

    Raises:
        BadInput: no such kind.
    """
    import_modules(arguments.imports)
    kinds = _kinds()
    lists = {"envs": _list_envs, "agents": _list_agents, "experiments": _list_experiments}
    what = arguments.what
    if what == "kinds":
        show(["kind", "what it is"], kinds.items())
        say("Names of a kind: jaxrl list KIND.")
    elif what in kinds:
        lists.get(what, functools.partial(_list_parts, what))()
    else:
        from jaxrl.core.settings import near_names

        raise BadInput(f"no kind {what!r}; {near_names(what, [*kinds], '')}")
    return 0


def _kinds() -> dict[str, str]:
    """Of each kind what it is and which option takes it; known without what makes them."""
    kinds = {
        "envs": "environments, for --env",
        "experiments": "what `jaxrl meta` learns",
        "agents": "learners, for --agent",
        "operators": "functionals, improvements, heads and compositions: what an operator is of",
        "wrappers": "what stands round an environment, for --env-wrap",
    }
    for option, (kind, about) in PARTS.items():
        what = about.partition(", such as")[0]
        kinds.setdefault(kind, f"{what}, for --{option.replace('_', '-')}")
    return kinds


def show_settings(agent_name: str) -> None:
    """Print every setting of an agent with default, unit, range and help.

    Raises:
        BadInput: no such agent.
    """
    recorded = json.loads(_RECORDED.read_text()) if _RECORDED.exists() else {}
    show(
        ["setting", "default", "unit", "range", "meaning"],
        recorded.get(agent_name) or settings_of(agent_name),
        title=f"settings of --agent {agent_name}, for --set and --sweep",
    )
    say("* cannot be swept: it changes shapes or code.")
    say(
        "A name without its dotted prefix is enough where only one setting has it. Where a "
        "schedule is allowed: linear:1:0.05, linear:1:0.05:0.5 (END at half the run), "
        "steps:1:0.05:50000, exponential:1:0.05:10000, cosine:3e-4."
    )


def settings_of(agent_name: str) -> list[list[str]]:
    """What `show_settings` prints of each setting of an agent."""
    from jaxrl.agents.presets import preset
    from jaxrl.core.notation import to_text
    from jaxrl.core.schedules import Schedule
    from jaxrl.core.settings import list_settings

    with refusing(KeyError):
        infos = list_settings(preset(agent_name))
    rows = []
    for info in infos:
        mark = "" if info.is_leaf or isinstance(info.value, Schedule) else " *"
        bounds = "" if info.low == -info.high == -math.inf else info.bounds
        allowed = ", ".join(map(str, info.choices)) or bounds
        rows.append([info.name + mark, to_text(info.value), info.unit, allowed, info.help])
    return rows


def _list_agents() -> None:
    from jaxrl.agents.presets import PRESETS

    names = sorted(PRESETS)
    show(["agent", "what it is"], [(name, _first_line(PRESETS[name])) for name in names])


def _list_envs() -> None:
    from jaxrl.envs import facts_of, names

    rows = []
    for name in names():
        facts = facts_of(name)
        marks = ("tabular", "continuous", "partial")
        kind = ", ".join(mark for mark in marks if getattr(facts, f"is_{mark}"))
        rows.append(
            (name, facts.suite, _size(facts.observation), _size(facts.action), kind, facts.about)
        )
    show(["environment", "suite", "observation", "actions", "kind", "what it is"], rows)
    say(
        "tabular: its whole model is known, as `jaxrl plan` needs it; continuous: actions are "
        "numbers; partial: observations hide what an agent should remember."
    )


def _list_parts(what: str) -> None:
    import jaxrl.cli.job  # noqa: F401 - parts of every kind
    from jaxrl.core.notation import KINDS, argument_texts
    from jaxrl.operators.bellman import names

    slots = [*names()] if what == "operators" else [what]
    rows = [
        (*[slot] * (len(slots) > 1), name, argument_texts(slot, name), _first_line(build))
        for slot in slots
        for name, build in KINDS[slot].builders.items()
    ]
    show(["slot"] * (len(slots) > 1) + ["name", "arguments", "what it is"], rows)
    say("Written NAME:VALUE,...,KEY=VALUE, values in this order: cvar:0.1.")


def _list_experiments() -> None:
    from jaxrl.meta.experiments import EXPERIMENTS

    rows = [(name, build().about) for name, build in EXPERIMENTS.items()]
    show(["experiment", "what is learned"], rows)


def _first_line(documented: Any) -> str:
    return (documented.__doc__ or "").strip().partition("\n")[0]


def _size(size: Any) -> str:
    if isinstance(size, str):
        return size
    if isinstance(size, int):
        return f"{size} value{'s' * (size != 1)}"
    return f"{'x'.join(map(str, size)) or 1} number{'s' * (math.prod(size) != 1)}"


if __name__ == "__main__":
    from jaxrl.agents.presets import PRESETS

    texts = []
    for name in sorted(PRESETS):
        rows = ",\n".join(map(json.dumps, settings_of(name)))
        texts.append(f'"{name}": [\n{rows}\n]')
    _RECORDED.write_text("{\n" + ",\n".join(texts) + "\n}\n")
