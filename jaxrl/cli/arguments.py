"""The command line as frozen dataclasses: tyro turns them into options, their docs into help."""

from __future__ import annotations

import contextlib
import dataclasses
import math
from typing import Annotated, Literal

import tyro
from tyro.conf import OmitArgPrefixes, Positional, UseAppendAction, arg, subcommand


def _whole_number(arguments: list[str]) -> int:
    """`500_000`, `500000` or `5e5`."""
    text = arguments[0]
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            if kind(text) % 1 == 0:
                return int(kind(text))
    raise ValueError(f"{text!r} is not a whole number")


Whole = Annotated[
    int,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="INT",
        instance_from_str=_whole_number,
        is_instance=lambda value: isinstance(value, int),
        str_from_instance=lambda value: [f"{value:_}"],
    ),
]
Assignments = Annotated[tuple[tuple[str, ...], ...], UseAppendAction]


def _part(help: str, default: str) -> object:
    """An option that takes a part: `cvar:0.1`."""
    behaviour = f"(default: {default})"
    return arg(metavar="NAME[:ARG,...]", help=help, help_behavior_hint=behaviour)


@dataclasses.dataclass(frozen=True)
class Train:
    """Train seeds x settings as one program; without options, 16 seeds of PPO on CartPole-v1.

    The same command again continues a run that was stopped, and shows a finished one. With --help,
    the settings of the chosen --agent follow.
    """

    agent: Annotated[str, arg(metavar="NAME", help="the learner; see `jaxrl list agents`")] = "ppo"
    env: Annotated[str, arg(metavar="NAME", help="the environment; see `jaxrl list envs`")] = (
        "CartPole-v1"
    )
    num_seeds: Annotated[Whole, arg(help="seeds of every setting")] = 16
    num_steps: Annotated[Whole, arg(help="environment steps of each run [steps]")] = 500_000
    seed: Annotated[Whole, arg(help="root of all randomness, together with each seed's number")] = 0
    functional: Annotated[
        str | None,
        _part("over the successors of a step: nested risk or a worst case", "the agent's"),
    ] = None
    return_functional: Annotated[
        str | None,
        _part("over an action's return law, for the choice of actions only", "the agent's"),
    ] = None
    improvement: Annotated[str | None, _part("which next actions count", "the agent's")] = None
    head: Annotated[str | None, _part("how returns are stored", "the agent's")] = None
    composition: Annotated[
        str | None, _part("how a reward and what follows make a return", "the agent's")
    ] = None
    successors: Annotated[
        str | None,
        _part("where successors come from, such as generative:16", "the agent's"),
    ] = None
    average_reward: Annotated[
        str | None,
        _part("values against the average reward, such as differential:0.01", "the agent's"),
    ] = None
    channels: Annotated[
        str | None,
        _part("gains and losses stored apart through a mapping, such as log", "the agent's"),
    ] = None
    settings: Annotated[
        Assignments,
        arg(name="set", metavar="NAME=VALUE ...", help="settings of the agent, listed by --help"),
    ] = ()
    normalise: Annotated[
        tuple[Literal["observations", "rewards"], ...],
        arg(
            metavar="{observations,rewards}",
            help="what the agent sees normalised by running statistics; for on-policy agents",
            help_behavior_hint="(default: nothing)",
        ),
    ] = ()
    env_settings: Annotated[
        Assignments,
        arg(
            name="env-set",
            metavar="NAME=VALUE ...",
            help="parameters of the environment, such as length=0.7",
        ),
    ] = ()
    env_wrap: Annotated[
        tuple[str, ...],
        arg(
            metavar="NAME[:ARG,...] ...",
            help="wrappers round the environment, inner ones first, such as held_actions:1/4",
            help_behavior_hint="(default: none)",
        ),
    ] = ()
    sweep: Annotated[
        Assignments,
        arg(metavar="NAME=V1,V2 ...", help="float settings to try, in all combinations"),
    ] = ()
    num_records: Annotated[Whole, arg(help="times that metrics are recorded, evenly spaced")] = 100
    lanes: Annotated[
        Whole | None,
        arg(
            metavar="INT",
            help="runs in one call of the program on each device",
            help_behavior_hint="(default: 1 on a CPU, 64 elsewhere)",
        ),
    ] = None
    run_dir: Annotated[
        str | None,
        arg(
            metavar="DIR",
            help="folder of the run",
            help_behavior_hint="(default: runs/ENV-AGENT-HASH)",
        ),
    ] = None
    resume: Annotated[
        str | None,
        arg(metavar="RUN", help="continue the run in this folder", help_behavior_hint=""),
    ] = None
    overwrite: Annotated[bool, arg(help="delete the run that is in the folder and start anew")] = (
        False
    )
    dry_run: Annotated[bool, arg(help="check everything, show the plan, train nothing")] = False
    eval_episodes: Annotated[
        Whole, arg(help="greedy episodes of every seed at the end; 0 for none")
    ] = 0
    checkpoint_seconds: Annotated[
        float, arg(metavar="SECONDS", help="least time between checkpoints [s]")
    ] = 60.0
    time_limit: Annotated[
        float,
        arg(
            metavar="SECONDS",
            help="save and stop after this long, compiling included, with exit code 124 [s]",
            help_behavior_hint="(default: none)",
        ),
    ] = math.inf


@dataclasses.dataclass(frozen=True)
class Plan:
    """Solve a tabular environment exactly, in 64 bits, and draw values, policy and adversary.

    Parts are written as NAME[:ARG,...]; `jaxrl list operators` names them.
    """

    env: Annotated[str, arg(metavar="NAME", help="a tabular environment")] = "WindyCliff"
    functional: Annotated[
        str | None, _part("over the successors of a step: nested risk or a worst case", "mean")
    ] = None
    improvement: Annotated[str | None, _part("which actions count", "greedy")] = None
    composition: Annotated[
        str | None, _part("how a reward and what follows make a return", "discounted_sum")
    ] = None
    env_settings: Annotated[
        Assignments,
        arg(
            name="env-set",
            metavar="NAME=VALUE ...",
            help="parameters of the environment, such as wind=0.1",
        ),
    ] = ()
    discount: Annotated[
        float | None,
        arg(
            metavar="FLOAT",
            help="discount factor [per step]",
            help_behavior_hint="(default: the environment's)",
        ),
    ] = None
    horizon: Annotated[
        Whole | None,
        arg(
            metavar="INT",
            help="plan for so many steps, by backward induction [steps]",
            help_behavior_hint="(default: without end)",
        ),
    ] = None
    average_reward: Annotated[
        bool, arg(help="undiscounted: maximise the reward per step; episodes follow each other")
    ] = False
    tolerance: Annotated[
        float, arg(metavar="FLOAT", help="greatest error of the values [return]")
    ] = 1e-6
    max_iterations: Annotated[Whole, arg(help="sweeps at most")] = 100_000
    run_dir: Annotated[
        str | None,
        arg(
            metavar="DIR",
            aliases=("--out",),
            help="folder for solution.npz, summary.json and plots/plan.png",
            help_behavior_hint="(default: runs/ENV-plan-HASH)",
        ),
    ] = None
    overwrite: Annotated[bool, arg(help="delete what is in the folder and plan anew")] = False


@dataclasses.dataclass(frozen=True)
class Evaluate:
    """Play whole episodes with every agent of a run, from its last checkpoint."""

    run: Annotated[Positional[str], arg(metavar="RUN", help="folder of the run")]
    num_episodes: Annotated[Whole, arg(help="episodes of every agent")] = 1000
    explore: Annotated[bool, arg(help="act as in training rather than greedily")] = False
    max_steps: Annotated[Whole, arg(help="episodes are cut after so many steps [steps]")] = 10_000
    seed: Annotated[Whole, arg(help="root of the episodes' randomness")] = 0
    over: Annotated[
        Assignments,
        arg(
            metavar="NAME=V1,V2 ...",
            help="parameters of the environment to try, in all combinations, as for --env-set",
        ),
    ] = ()


@dataclasses.dataclass(frozen=True)
class Plot:
    """Draw the learning curves of runs in one picture, finished or not."""

    runs: Annotated[
        Positional[tuple[str, ...]],
        arg(metavar="RUN ...", help="folders of runs", help_behavior_hint=""),
    ]
    metric: Annotated[str, arg(metavar="NAME", help="metric to draw, as in metrics.parquet")] = (
        "episode_return"
    )
    out: Annotated[
        str | None,
        arg(
            metavar="FILE",
            help="the PNG to write",
            help_behavior_hint="(default: plots/METRIC.png in the first run)",
        ),
    ] = None


@dataclasses.dataclass(frozen=True)
class Meta:
    """Learn an update rule by a named experiment and compare it with tuned ones on new lives."""

    experiment: Annotated[
        Positional[str], arg(metavar="EXPERIMENT", help="see `jaxrl list experiments`")
    ]
    seed: Annotated[int, arg(help="meta-seed: of the first rule, its lives and the new ones")] = 0
    num_steps: Annotated[
        Whole | None,
        arg(help="outer steps", help_behavior_hint="(default: the experiment's)"),
    ] = None
    run_dir: Annotated[
        str | None,
        arg(
            metavar="DIR",
            help="folder of the rules, the table and the checkpoints; a second run goes on there",
            help_behavior_hint="(default: runs/meta-EXPERIMENT-SEED)",
        ),
    ] = None


@dataclasses.dataclass(frozen=True)
class List:
    """Show what there is by name."""

    what: Annotated[
        Positional[
            Literal[
                "kinds",
                "agents",
                "envs",
                "operators",
                "functionals",
                "improvements",
                "heads",
                "compositions",
                "successors",
                "average_rewards",
                "channels",
                "wrappers",
                "experiments",
            ]
        ],
        arg(help="the kind of thing"),
    ] = "kinds"


Command = (
    Annotated[Train, subcommand("train")]
    | Annotated[Plan, subcommand("plan")]
    | Annotated[Evaluate, subcommand("evaluate")]
    | Annotated[Plot, subcommand("plot")]
    | Annotated[Meta, subcommand("meta")]
    | Annotated[List, subcommand("list")]
)


def parse(argv: list[str]) -> Train | Plan | Evaluate | Plot | Meta | List:
    """The command that `argv` asks for; help and mistakes leave by `SystemExit`, as tyro does."""
    return tyro.cli(
        Command,
        args=argv,
        prog="jaxrl",
        description="Reinforcement learning as pure functions in JAX: train, plan, compare.",
        config=(OmitArgPrefixes, tyro.conf.OmitSubcommandPrefixes, tyro.conf.FlagCreatePairsOff),
    )


def given_options(argv: list[str]) -> set[str]:
    """The long options that stand in `argv`, without dashes, `-` as `_`: `{"num_seeds"}`."""
    options = (token.partition("=")[0] for token in argv if token.startswith("--"))
    return {option[2:].replace("-", "_") for option in options}
