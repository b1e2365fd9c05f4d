"""The command line as tables of options, each with its own help and range; and refusals."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

Option = dict[str, Any]  # default, help, shown, flags, bounds, and more for `argparse`
_NAME, _PART = "NAME", "NAME[:ARG,...]"

# Options that give a part by a short text: its kind, and what it is.
PARTS = {
    "functional": ("functionals", "over the successors of a step: nested risk or a worst case"),
    "return_functional": ("functionals", "over an action's return law, to choose actions only"),
    "improvement": ("improvements", "which next actions count"),
    "head": ("heads", "how returns are stored"),
    "composition": ("compositions", "how a reward and what follows make a return"),
    "successors": ("successors", "where successors come from, such as generative:16"),
    "parts": ("parts", "of the target, beside the agent's: munchausen:0.9+reward_shift:-1"),
    "average_reward": (
        "average_rewards",
        "values against the average reward, such as differential:0.01",
    ),
    "channels": ("channels", "gains and losses stored apart through a mapping, such as log"),
    "rule": ("rules", "what an actor-critic minimises, such as a2c"),
    "optimiser": ("optimisers", "how gradients become steps, such as sgd:0.01"),
    "network": ("networks", "what the networks are made of, such as mlp:128/128"),
}


class BadInput(Exception):
    """The user asked for something impossible; the message is for them, the exit code is 2."""


@contextlib.contextmanager
def refusing(*kinds: type[Exception], about: str = "") -> Iterator[None]:
    """Turn exceptions of these kinds into `BadInput` with the same words.

    Args:
        kinds: exception classes by which the library refuses values.
        about: stands before the message, such as the option it came from.
    """
    try:
        yield
    except kinds as error:
        raise BadInput(about + message_of(error)) from error


def message_of(error: BaseException) -> str:
    """What an exception says, without the quotes that `KeyError` puts round it."""
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename or ''}: {error.strerror}".removeprefix(": ")
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    return text or type(error).__name__


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
    bounds: tuple[float, ...] = (),
    **more: Any,
) -> Option:
    """What there is to know of an option.

    Args:
        default: its value when it is not given; False for a switch.
        help: one line.
        metavar: stands for the value in help.
        read: turns a word into a value; words of several are read one by one.
        shown: how the default is written, where it is not as it is; "" for not at all.
        flags: other names, or the name where it is another.
        bounds: least and greatest number allowed; one alone must be exceeded.
        more: for `argparse`: `nargs`, `action`, `choices`.
    """
    if default is False:
        more, shown = {"action": "store_true"}, ""
    else:
        more |= {"type": read, "metavar": metavar or None}
    shown = f"{default}" if shown is None else shown
    facts = {"default": default, "help": help, "shown": shown, "flags": flags}
    return {**facts, "bounds": bounds, "more": more}


def _parts(defaults: Mapping[str, str]) -> Option:
    """The options that give parts, gathered as written: `{"functional": "cvar:0.1"}`."""
    return {"default": {}, "parts": defaults, "bounds": ()}


def _count(
    default: int | None, help: str, high: float, shown: str | None = None, low: int = 1
) -> Option:
    return option(default, help, "INT", read=_whole, shown=shown, bounds=(low, high))


def _real(
    default: float | None, help: str, metavar: str, *bounds: float, shown: str | None = None
) -> Option:
    return option(default, help, metavar, read=_number, shown=shown, bounds=bounds)


def _seed(help: str, num_bits: int = 64) -> Option:
    return _count(0, help, 2**num_bits - 1, low=0)


def _assignments(help: str, metavar: str = "NAME=VALUE", *flags: str) -> Option:
    return option((), help, metavar, flags=flags, shown="", nargs="+", action="append")


def _imports() -> Option:
    help = "modules of your own that register parts, agents or environments"
    return _several(help, "none", "MODULE", flags=["--import"])


def _several(help: str, shown: str, metavar: str = "", **more: Any) -> Option:
    return option((), help, metavar, shown=shown, nargs="+", **more)


_TRAIN = {
    "agent": option("ppo", "the learner; see `jaxrl list agents`", _NAME),
    "env": option("CartPole-v1", "the environment; see `jaxrl list envs`", _NAME),
    "num_seeds": _count(16, "seeds of every setting", 10**9),
    "num_steps": _count(500_000, "environment steps of each run [steps]", 10**13),
    "seed": _seed("root of all randomness, together with each seed's number"),
    "parts": _parts(dict.fromkeys(PARTS, "the agent's")),
    "settings": _assignments(
        "settings and parts of the agent, listed by --help", "NAME=VALUE", "--set"
    ),
    "normalise": _several(
        "what the agent sees normalised by running statistics; for on-policy agents",
        "nothing",
        choices=("observations", "rewards"),
    ),
    "env_settings": _assignments(
        "parameters of the environment, such as length=0.7", "NAME=VALUE", "--env-set"
    ),
    "env_wrap": _several(
        "wrappers round the environment, inner ones first, such as held_actions:1/4", "none", _PART
    ),
    "sweep": _assignments("float settings to try, in all combinations", "NAME=V1,V2"),
    "num_records": _count(100, "times that metrics are recorded, evenly spaced", 10**6),
    "lanes": _count(
        None, "runs in one call of the program on each device", 10**6, "1 on a CPU, 64 elsewhere"
    ),
    "imports": _imports(),
    "run_dir": option(None, "folder of the run", "DIR", shown="runs/ENV-AGENT-HASH"),
    "resume": option(None, "continue the run in this folder", "RUN", shown=""),
    "overwrite": option(False, "delete the run that is in the folder and start anew"),
    "dry_run": option(False, "check everything, show the plan, train nothing"),
    "eval_episodes": _count(
        0, "greedy episodes of every seed at the end; 0 for none", math.inf, low=0
    ),
    "checkpoint_seconds": _real(60.0, "least time between checkpoints [s]", "SECONDS", 0, math.inf),
    "time_limit": _real(
        math.inf,
        "save and stop after this long, compiling included, with exit code 124 [s]",
        "SECONDS",
        0,
        shown="none",
    ),
}
_PLAN = {
    "env": option("WindyCliff", "a tabular environment", _NAME),
    "parts": _parts(
        {"functional": "mean", "improvement": "greedy", "composition": "discounted_sum"}
    ),
    "env_settings": _assignments(
        "parameters of the environment, such as wind=0.1", "NAME=VALUE", "--env-set"
    ),
    "discount": _real(None, "discount factor [per step]", "FLOAT", 0, 1, shown="the environment's"),
    "horizon": _count(
        None, "plan for so many steps, by backward induction [steps]", 10**6, "without end"
    ),
    "average_reward": option(
        False, "undiscounted: maximise the reward per step; episodes follow each other"
    ),
    "tolerance": _real(1e-6, "greatest error of the values [return]", "FLOAT", 0),
    "max_iterations": _count(100_000, "sweeps at most", math.inf),
    "run_dir": option(
        None,
        "folder for solution.npz, summary.json and plots/plan.png",
        "DIR",
        shown="runs/ENV-plan-HASH",
        flags=["--run-dir", "--out"],
    ),
    "overwrite": option(False, "delete what is in the folder and plan anew"),
    "imports": _imports(),
}
_EVALUATE = {
    "run": option("", "folder of the run", "RUN", flags=["run"]),
    "num_episodes": _count(1000, "episodes of every agent", math.inf),
    "explore": option(False, "act as in training rather than greedily"),
    "max_steps": _count(10_000, "episodes are cut after so many steps [steps]", math.inf),
    "seed": _seed("root of the episodes' randomness"),
    "over": _assignments(
        "parameters of the environment to try, in all combinations, as for --env-set", "NAME=V1,V2"
    ),
}
_PLOT = {
    "runs": option((), "folders of runs", "RUN", flags=["runs"], nargs="*"),
    "metric": option("episode_return", "metric to draw, as in metrics.parquet", _NAME),
    "out": option(None, "the PNG to write", "FILE", shown="plots/METRIC.png in the first run"),
}
_META = {
    "experiment": option("", "see `jaxrl list experiments`", "EXPERIMENT", flags=["experiment"]),
    "seed": _seed("meta-seed: of the first rule, its lives and the new ones", num_bits=32),
    "num_steps": _count(None, "outer steps", math.inf, "the experiment's"),
    "run_dir": option(
        None,
        "folder of the rules, the table and the checkpoints; a second run goes on there",
        "DIR",
        shown="runs/meta-EXPERIMENT-SEED",
    ),
}
_LIST = {
    "what": option("kinds", "the kind of thing", "KIND", flags=["what"], nargs="?"),
    "imports": _imports(),
}

_TRAIN_ABOUT = """\
Train seeds x settings as one program; without options, 16 seeds of PPO on CartPole-v1.

The same command again continues a run that was stopped, and shows a finished one. With --help,
the settings of the chosen --agent follow."""
_PLAN_ABOUT = """\
Solve a tabular environment exactly, in 64 bits, and draw values, policy and adversary.

Parts are written as NAME[:ARG,...]; `jaxrl list operators` names them."""

# The options of each command, and what it is.
COMMANDS: dict[str, tuple[dict[str, Option], str]] = {
    "train": (_TRAIN, _TRAIN_ABOUT),
    "plan": (_PLAN, _PLAN_ABOUT),
    "evaluate": (_EVALUATE, "Play whole episodes with every agent of a run, as last saved."),
    "plot": (_PLOT, "Draw the learning curves of runs in one picture, finished or not."),
    "meta": (_META, "Learn an update rule by an experiment and compare it with tuned ones."),
    "list": (_LIST, "Show what there is by name; without a kind, the kinds."),
}


def _refuse(message: str) -> Any:
    raise BadInput(message.rstrip(".") + ".")


def _parser(command: str) -> argparse.ArgumentParser:
    options, about = COMMANDS[command]
    width = min(100, int(os.environ.get("COLUMNS", 100)))
    parser = argparse.ArgumentParser(
        prog=f"jaxrl {command}",
        description=about,
        add_help=False,
        allow_abbrev=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=lambda prog: argparse.RawDescriptionHelpFormatter(
            prog, max_help_position=28, width=width
        ),
    )
    parser.error = _refuse  # as the rest of the command does
    parser.usage = f"jaxrl {command} [options]"
    for name, facts in options.items():
        for part, shown in facts.get("parts", {}).items():
            help = f"{PARTS[part][1]} (default: {shown})"
            parser.add_argument(as_option(part), metavar=_PART, help=help)
        if "parts" in facts:
            continue
        flags, help, more = facts["flags"] or (as_option(name),), facts["help"], dict(facts["more"])
        if flags[0].startswith("--"):
            more["dest"] = name
            help += f" (default: {facts['shown']})" if facts["shown"] else ""
        else:
            parser.usage += f" {more['metavar']}"
        parser.add_argument(*flags, help=help.replace("%", "%%"), **more)
    return parser


def parse(words: Sequence[str]) -> argparse.Namespace:
    """What `words` ask for.

    Raises:
        BadInput: no such command or option, or a value that is not of its type.
    """
    command, *rest = words
    if command not in COMMANDS:
        raise BadInput(f"unknown command {command!r}; {_near(command, [*COMMANDS])}")
    parser = _parser(command)
    given, strange = parser.parse_known_args([_dashed(word) for word in rest])
    if strange:
        word = strange[0].partition("=")[0]
        known = [flag for action in parser._actions for flag in action.option_strings]
        near = _near(word, known, f"jaxrl {command} --help")
        what = f"unknown option {word}" if word.startswith("-") else f"{word!r} is no option"
        raise BadInput(f"{what} of jaxrl {command}; {near}")
    found = vars(given)
    if parts := COMMANDS[command][0].get("parts"):
        found["parts"] = {name: found.pop(name) for name in parts["parts"] if name in found}
    return asked(command, **found)


def asked(command: str, **given: Any) -> argparse.Namespace:
    """Every option of a command: those given, and the defaults of the others.

    Raises:
        BadInput: a number is out of range.
    """
    options = COMMANDS[command][0]
    found = {name: facts["default"] for name, facts in options.items()} | given
    for name, value in found.items():
        bounds = options[name]["bounds"]
        if bounds and value is not None:
            low, high = (*bounds, math.inf)[:2]
            if not low <= value <= high or bounds == (value,):
                left = "[" if len(bounds) > 1 else "("
                right = "]" if high < math.inf else ")"
                raise BadInput(
                    f"{as_option(name)} {value} is out of range: give a value in "
                    f"{left}{low:,}, {high:,}{right}."
                )
    return argparse.Namespace(**found)


def help_on(command: str | None = None) -> str:
    """What `--help` says of a command; of all without one."""
    if command is not None:
        return _parser(command).format_help()
    lines = [f"  {name:10s}{about.splitlines()[0]}" for name, (_, about) in COMMANDS.items()]
    return "\n".join(
        [
            "usage: jaxrl COMMAND [options]\n",
            "Reinforcement learning as pure functions in JAX: train, plan, compare.\n",
            *lines,
            "\njaxrl COMMAND --help shows the options of one; jaxrl --version the version.\n",
        ]
    )


def agent_in(words: Sequence[str]) -> str:
    """The agent that the words of a `train` name, registered by modules that they name."""
    given = vars(_parser("train").parse_known_args(list(words))[0])
    import_modules(given.get("imports", ()))
    return given.get("agent", "ppo")


def as_option(name: str) -> str:
    """`return_functional` -> `--return-functional`."""
    return "--" + name.replace("_", "-")


def _near(word: str, known: list[str], see: str = "") -> str:
    from jaxrl.core.settings import near_names  # which imports jax

    return near_names(word, known, see)


def _dashed(word: str) -> str:
    """`--num_seeds=2` as `--num-seeds=2`."""
    name, equals, value = word.partition("=")
    return name.replace("_", "-") + equals + value if word.startswith("--") else word


def import_modules(names: Sequence[str]) -> None:
    """Import modules that register parts: those that installed packages announce under the entry
    point `jaxrl.parts`, and `names`, of this folder too.

    Raises:
        BadInput: one cannot be imported.
    """
    if "" not in sys.path and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    announced = importlib.metadata.entry_points(group="jaxrl.parts")
    for name in [*(point.module for point in announced), *names]:
        try:
            importlib.import_module(name)
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            raise BadInput(f"--import {name}: it cannot be imported ({said}).") from error
