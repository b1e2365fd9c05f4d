"""The command line as frozen dataclasses: each field is an option, with its own help."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import inspect
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

from jaxrl.cli.errors import BadInput

_NAME, _PART = "NAME", "NAME[:ARG,...]"


def _whole(text: str) -> int:
    """`500_000`, `500000` or `5e5`."""
    for kind in (int, float):
        with contextlib.suppress(ValueError, OverflowError):
            if kind(text) % 1 == 0:
                return int(kind(text))
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def option(
    default: Any,
    help: str,
    metavar: str = "",
    *,
    read: Callable[[str], Any] = str,
    shown: str | None = None,
    flags: Sequence[str] = (),
    **more: Any,
) -> Any:
    """A field that is an option.

    Args:
        default: its value when it is not given; False for a switch.
        help: one line.
        metavar: stands for the value in help.
        read: turns a word into a value; words of several are read one by one.
        shown: how the default is written, where it is not as it is; "" for not at all.
        flags: other names, or the name where it is not the field's.
        more: for `argparse`: `nargs`, `action`, `choices`.
    """
    return dataclasses.field(
        default=default,
        metadata={
            "help": help,
            "metavar": metavar,
            "read": read,
            "shown": shown,
            "flags": tuple(flags),
            "more": more,
        },
    )


def _part(help: str, default: str = "the agent's") -> Any:
    return option(None, help, _PART, shown=default)


def _count(default: int | None, help: str, shown: str | None = None) -> Any:
    return option(default, help, "INT", read=_whole, shown=shown)


def _assignments(help: str, metavar: str = "NAME=VALUE", *flags: str) -> Any:
    return option((), help, metavar, flags=flags, shown="", nargs="+", action="append")


def _imports() -> Any:
    help = "modules of your own that register parts, agents or environments"
    return option((), help, "MODULE", shown="none", flags=["--import"], nargs="+")


Assignments = tuple[tuple[str, ...], ...]


@dataclasses.dataclass(frozen=True)
class Train:
    """Train seeds x settings as one program; without options, 16 seeds of PPO on CartPole-v1.

    The same command again continues a run that was stopped, and shows a finished one. With --help,
    the settings of the chosen --agent follow.
    """

    agent: str = option("ppo", "the learner; see `jaxrl list agents`", _NAME)
    env: str = option("CartPole-v1", "the environment; see `jaxrl list envs`", _NAME)
    num_seeds: int = _count(16, "seeds of every setting")
    num_steps: int = _count(500_000, "environment steps of each run [steps]")
    seed: int = _count(0, "root of all randomness, together with each seed's number")
    functional: str | None = _part("over the successors of a step: nested risk or a worst case")
    return_functional: str | None = _part(
        "over an action's return law, for the choice of actions only"
    )
    improvement: str | None = _part("which next actions count")
    head: str | None = _part("how returns are stored")
    composition: str | None = _part("how a reward and what follows make a return")
    successors: str | None = _part("where successors come from, such as generative:16")
    average_reward: str | None = _part(
        "values against the average reward, such as differential:0.01"
    )
    channels: str | None = _part("gains and losses stored apart through a mapping, such as log")
    rule: str | None = _part("what an actor-critic minimises, such as a2c")
    optimiser: str | None = _part("how gradients become steps, such as sgd:0.01")
    network: str | None = _part("what the networks are made of, such as mlp:128/128")
    settings: Assignments = _assignments(
        "settings and parts of the agent, listed by --help", "NAME=VALUE", "--set"
    )
    normalise: tuple[str, ...] = option(
        (),
        "what the agent sees normalised by running statistics; for on-policy agents",
        shown="nothing",
        nargs="+",
        choices=("observations", "rewards"),
    )
    env_settings: Assignments = _assignments(
        "parameters of the environment, such as length=0.7", "NAME=VALUE", "--env-set"
    )
    env_wrap: tuple[str, ...] = option(
        (),
        "wrappers round the environment, inner ones first, such as held_actions:1/4",
        _PART,
        shown="none",
        nargs="+",
    )
    sweep: Assignments = _assignments("float settings to try, in all combinations", "NAME=V1,V2")
    num_records: int = _count(100, "times that metrics are recorded, evenly spaced")
    lanes: int | None = _count(
        None, "runs in one call of the program on each device", "1 on a CPU, 64 elsewhere"
    )
    imports: tuple[str, ...] = _imports()
    run_dir: str | None = option(None, "folder of the run", "DIR", shown="runs/ENV-AGENT-HASH")
    resume: str | None = option(None, "continue the run in this folder", "RUN", shown="")
    overwrite: bool = option(False, "delete the run that is in the folder and start anew")
    dry_run: bool = option(False, "check everything, show the plan, train nothing")
    eval_episodes: int = _count(0, "greedy episodes of every seed at the end; 0 for none")
    checkpoint_seconds: float = option(
        60.0, "least time between checkpoints [s]", "SECONDS", read=_number
    )
    time_limit: float = option(
        math.inf,
        "save and stop after this long, compiling included, with exit code 124 [s]",
        "SECONDS",
        read=_number,
        shown="none",
    )


@dataclasses.dataclass(frozen=True)
class Plan:
    """Solve a tabular environment exactly, in 64 bits, and draw values, policy and adversary.

    Parts are written as NAME[:ARG,...]; `jaxrl list operators` names them.
    """

    env: str = option("WindyCliff", "a tabular environment", _NAME)
    functional: str | None = _part(
        "over the successors of a step: nested risk or a worst case", "mean"
    )
    improvement: str | None = _part("which actions count", "greedy")
    composition: str | None = _part("how a reward and what follows make a return", "discounted_sum")
    env_settings: Assignments = _assignments(
        "parameters of the environment, such as wind=0.1", "NAME=VALUE", "--env-set"
    )
    discount: float | None = option(
        None, "discount factor [per step]", "FLOAT", read=_number, shown="the environment's"
    )
    horizon: int | None = _count(
        None, "plan for so many steps, by backward induction [steps]", "without end"
    )
    average_reward: bool = option(
        False, "undiscounted: maximise the reward per step; episodes follow each other"
    )
    tolerance: float = option(1e-6, "greatest error of the values [return]", "FLOAT", read=_number)
    max_iterations: int = _count(100_000, "sweeps at most")
    run_dir: str | None = option(
        None,
        "folder for solution.npz, summary.json and plots/plan.png",
        "DIR",
        shown="runs/ENV-plan-HASH",
        flags=["--run-dir", "--out"],
    )
    overwrite: bool = option(False, "delete what is in the folder and plan anew")
    imports: tuple[str, ...] = _imports()


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Play whole episodes with every agent of a run, from its last checkpoint."""

    run: str = option("", "folder of the run", "RUN", flags=["run"])
    num_episodes: int = _count(1000, "episodes of every agent")
    explore: bool = option(False, "act as in training rather than greedily")
    max_steps: int = _count(10_000, "episodes are cut after so many steps [steps]")
    seed: int = _count(0, "root of the episodes' randomness")
    over: Assignments = _assignments(
        "parameters of the environment to try, in all combinations, as for --env-set", "NAME=V1,V2"
    )


@dataclasses.dataclass(frozen=True)
class Plot:
    """Draw the learning curves of runs in one picture, finished or not."""

    runs: tuple[str, ...] = option((), "folders of runs", "RUN", flags=["runs"], nargs="*")
    metric: str = option("episode_return", "metric to draw, as in metrics.parquet", _NAME)
    out: str | None = option(
        None, "the PNG to write", "FILE", shown="plots/METRIC.png in the first run"
    )


@dataclasses.dataclass(frozen=True)
class Meta:
    """Learn an update rule by a named experiment and compare it with tuned ones on new lives."""

    experiment: str = option("", "see `jaxrl list experiments`", "EXPERIMENT", flags=["experiment"])
    seed: int = _count(0, "meta-seed: of the first rule, its lives and the new ones")
    num_steps: int | None = _count(None, "outer steps", "the experiment's")
    run_dir: str | None = option(
        None,
        "folder of the rules, the table and the checkpoints; a second run goes on there",
        "DIR",
        shown="runs/meta-EXPERIMENT-SEED",
    )


@dataclasses.dataclass(frozen=True)
class List:
    """Show what there is by name; without a kind, the kinds."""

    what: str = option("kinds", "the kind of thing", "KIND", flags=["what"], nargs="?")
    imports: tuple[str, ...] = _imports()


COMMANDS: dict[str, type] = {
    "train": Train,
    "plan": Plan,
    "evaluate": Evaluate,
    "plot": Plot,
    "meta": Meta,
    "list": List,
}


class _Parser(argparse.ArgumentParser):
    """One that refuses as the rest of the command does."""

    def error(self, message: str) -> Any:
        raise BadInput(message.rstrip(".") + ".")


def _parser(command: str) -> _Parser:
    kind = COMMANDS[command]
    width = min(100, int(os.environ.get("COLUMNS", 100)))
    parser = _Parser(
        prog=f"jaxrl {command}",
        description=inspect.cleandoc(kind.__doc__ or ""),
        add_help=False,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(
            prog, max_help_position=28, width=width
        ),
    )
    parser.usage = f"jaxrl {command} [options]"
    for field in dataclasses.fields(kind):
        facts, more = field.metadata, dict(field.metadata["more"])
        flags = facts["flags"] or (_flag(field.name),)
        named = flags[0].startswith("--")
        shown = facts["shown"] if facts["shown"] is not None else f"{field.default}"
        help = facts["help"] + f" (default: {shown})" * bool(named and shown)
        if field.default is False:
            more, help = {"action": "store_true"}, facts["help"]
        else:
            more |= {"type": facts["read"], "metavar": facts["metavar"] or None}
        if named:
            more["dest"] = field.name
        else:
            parser.usage += f" {facts['metavar']}"
        parser.add_argument(*flags, help=help.replace("%", "%%"), **more)
    return parser


def parse(words: Sequence[str]) -> Any:
    """The command that `words` ask for.

    Raises:
        BadInput: no such command or option, or a value that is not of its type.
    """
    command, *rest = words
    if command not in COMMANDS:
        from jaxrl.core.settings import near_names

        near = near_names(command, [*COMMANDS])
        raise BadInput(f"unknown command {command!r}; {near} There are: {', '.join(COMMANDS)}.")
    parser = _parser(command)
    given, strange = parser.parse_known_args([_dashed(word) for word in rest])
    if strange:
        from jaxrl.core.settings import near_names

        word = strange[0].partition("=")[0]
        known = [flag for action in parser._actions for flag in action.option_strings]
        near = near_names(word, known, f"jaxrl {command} --help")
        what = f"unknown option {word}" if word.startswith("-") else f"{word!r} is no option"
        raise BadInput(f"{what} of jaxrl {command}; {near}")
    return COMMANDS[command](**{name: _frozen(value) for name, value in vars(given).items()})


def help_on(command: str | None = None) -> str:
    """What `--help` says of a command; of all without one."""
    if command is not None:
        return _parser(command).format_help()
    lines = [
        f"  {name:10s}{kind.__doc__.strip().splitlines()[0]}" for name, kind in COMMANDS.items()
    ]
    return "\n".join(
        [
            "usage: jaxrl COMMAND [options]\n",
            "Reinforcement learning as pure functions in JAX: train, plan, compare.\n",
            *lines,
            "\njaxrl COMMAND --help shows the options of one; jaxrl --version the version.\n",
        ]
    )


def agent_in(words: Sequence[str]) -> str:
    """The agent that the words of a `train` name."""
    return getattr(_parser("train").parse_known_args(list(words))[0], "agent", Train().agent)


def given_options(words: Sequence[str]) -> set[str]:
    """The long options that stand in `words`, without dashes, `-` as `_`: `{"num_seeds"}`."""
    options = (word.partition("=")[0] for word in words if word.startswith("--"))
    return {option[2:].replace("-", "_") for option in options}


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _dashed(word: str) -> str:
    """`--num_seeds=2` as `--num-seeds=2`."""
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if word.startswith("--") else word


def _frozen(value: Any) -> Any:
    return tuple(map(_frozen, value)) if isinstance(value, list) else value
