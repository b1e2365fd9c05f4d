"""`jaxrl list`, and the settings that `jaxrl train --help` shows."""

from __future__ import annotations

import math
from typing import Any

from jaxrl.cli.arguments import List
from jaxrl.cli.errors import BadInput, refusing
from jaxrl.cli.imports import import_modules
from jaxrl.cli.screen import add_row, make_console, make_table, say
from jaxrl.core.notation import to_text
from jaxrl.core.schedules import Schedule
from jaxrl.core.settings import SettingInfo, list_settings, near_names


def list_names(arguments: List) -> int:
    """Run `jaxrl list`.

    Raises:
        BadInput: no such kind.
    """
    import_modules(arguments.imports)
    if arguments.what == "envs":
        _list_envs()  # which needs no other package
        return 0
    from jaxrl.core.notation import KINDS

    others = {"agents": _list_agents, "experiments": _list_experiments}
    kinds = {
        "envs": "environments, for --env",
        "experiments": "what `jaxrl meta` learns",
        "operators": "functionals, improvements, heads and compositions: what an operator is of",
        **{name: kind.about for name, kind in KINDS.items()},
    }
    if arguments.what == "kinds":
        table = make_table(["kind", "what it is"])
        for kind, about in kinds.items():
            add_row(table, kind, about)
        console = make_console()
        console.print(table)
        say(console, "Names of a kind: jaxrl list KIND.")
    elif arguments.what in others:
        others[arguments.what]()
    elif arguments.what in kinds:
        _list_parts(arguments.what)
    else:
        near = near_names(arguments.what, [*kinds])
        raise BadInput(f"no kind {arguments.what!r}; {near} There are: {', '.join(kinds)}.")
    return 0


def show_settings(agent_name: str) -> None:
    """Print every setting of an agent with default, unit, range and help.

    Raises:
        BadInput: no such agent.
    """
    from jaxrl.agents.presets import preset

    with refusing(KeyError):
        agent = preset(agent_name)
    console = make_console()
    table = make_table(["setting", "default", "unit", "range", "meaning"])
    table.title = f"settings of --agent {agent_name}, for --set and --sweep"
    for info in list_settings(agent):
        sweepable = "" if info.is_leaf or isinstance(info.value, Schedule) else " *"
        add_row(
            table, info.name + sweepable, to_text(info.value), info.unit, _range(info), info.help
        )
    console.print(table)
    say(console, "* cannot be swept: it changes shapes or code.")
    say(
        console,
        "A name without its dotted prefix is enough where only one setting has it. Where a "
        "schedule is allowed: linear:1:0.05, linear:1:0.05:0.5 (END at half the run), "
        "steps:1:0.05:50000, exponential:1:0.05:10000, cosine:3e-4.",
    )


def _range(info: SettingInfo) -> str:
    if info.choices:
        return ", ".join(map(str, info.choices))
    if math.isinf(info.low) and math.isinf(info.high):
        return ""
    left = "" if math.isinf(info.low) else f"{info.low:g} {'<' if info.low_open else '<='} "
    right = "" if math.isinf(info.high) else f" <= {info.high:g}"
    return f"{left}x{right}"


def _list_agents() -> None:
    from jaxrl.agents.presets import PRESETS

    table = make_table(["agent", "what it is"])
    for name in sorted(PRESETS):
        add_row(table, name, _first_line(PRESETS[name]))
    make_console().print(table)


def _list_envs() -> None:
    from jaxrl.envs import facts_of, names

    table = make_table(["environment", "suite", "observation", "actions", "kind", "what it is"])
    table.columns[0].no_wrap = True
    for name in names():
        facts = facts_of(name)
        marks = {
            "tabular": facts.is_tabular,
            "continuous": facts.is_continuous,
            "partial": facts.is_partial,
        }
        kind = ", ".join(mark for mark, holds in marks.items() if holds)
        spaces = (_size(facts.observation), _size(facts.action))
        add_row(table, name, facts.suite, *spaces, kind, facts.about)
    console = make_console()
    console.print(table)
    say(
        console,
        "tabular: its whole model is known, as `jaxrl plan` needs it; continuous: actions are "
        "numbers; partial: observations hide what an agent should remember.",
    )


def _list_parts(what: str) -> None:
    from jaxrl.cli.parts import KINDS
    from jaxrl.core.notation import argument_texts
    from jaxrl.operators.bellman import names

    slots = [*names()] if what == "operators" else [what]
    table = make_table(["slot"] * (len(slots) > 1) + ["name", "arguments", "what it is"])
    for slot in slots:
        for name, build in KINDS[slot].builders.items():
            cells = (name, argument_texts(slot, name), _first_line(build))
            add_row(table, *([slot] * (len(slots) > 1)), *cells)
    console = make_console()
    console.print(table)
    say(console, "Written NAME:VALUE,...,KEY=VALUE, values in this order: cvar:0.1.")


def _first_line(documented: Any) -> str:
    return (documented.__doc__ or "").strip().partition("\n")[0]


def _size(size: int | tuple[int, ...]) -> str:
    if isinstance(size, int):
        return f"{size} value{'s' * (size != 1)}"
    return f"{'x'.join(map(str, size)) or 1} number{'s' * (math.prod(size) != 1)}"


def _list_experiments() -> None:
    from jaxrl.meta.experiments import EXPERIMENTS

    table = make_table(["experiment", "what is learned"])
    for name, build in EXPERIMENTS.items():
        add_row(table, name, build().about)
    make_console().print(table)
