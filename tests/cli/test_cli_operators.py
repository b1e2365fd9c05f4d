"""Parts by a short text: read, written back, put into agents, listed, refused, warned of."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from small_run import Run, train_job

from jaxrl import functionals, operators
from jaxrl.agents import (
    PRESETS,
    AverageReward,
    Dual,
    Generative,
    Munchausen,
    RewardShift,
    Sampled,
    ValueChannels,
    Whole,
    preset,
)
from jaxrl.cli import job as jobs, notices as warned, train
from jaxrl.core import Linear, check_settings, notation
from jaxrl.envs import make
from jaxrl.envs.wrappers import HeldActions
from jaxrl.training import RunFolder

KINDS, parse, show = notation.KINDS, notation.parse, notation.show
KNOWN = [(kind, name) for kind, known in KINDS.items() for name in known.builders]
KNOWN = [(kind, name) for kind, name in KNOWN if kind != "agents"]  # which have names only


@pytest.mark.held_for(*map("-".join, KNOWN))
def test_every_part_survives_being_written_and_read() -> None:
    failed = []
    for kind, name in KNOWN:
        if notation.required(kind, name):
            with pytest.raises(ValueError, match="in Python"):
                parse(kind, name)
            continue
        part = parse(kind, name.upper().replace("_", ""))
        again, listed = parse(kind, show(part)), notation.arguments(part, kind)
        if not part == notation.default_of(kind, name) == again or len(set(listed)) != len(listed):
            failed.append(f"{kind} {name}: {part}, {again}")
    assert not failed, failed


READ: list[tuple[str, str, Any]] = [
    ("functionals", "cvar:0.25", functionals.CVaR(0.25)),
    ("functionals", "cvar:linear:1.0:0.1:0.5", functionals.CVaR(Linear(1.0, 0.1, end=0.5))),
    ("functionals", " CVaR : level = 0.25 ", functionals.CVaR(0.25)),
    ("functionals", "wang:-0.5", functionals.Wang(-0.5)),
    ("functionals", "total_variation:0.3,full", functionals.TotalVariation(0.3, "full")),
    ("functionals", "kl-ball,radius=0.2", functionals.KLBall(0.2)),
    ("functionals", "spectral:0.5/1,0.25/0.75", functionals.Spectral((0.5, 1.0), (0.25, 0.75))),
    ("functionals", "mean_semideviation:0.2,order=2", functionals.MeanSemideviation(0.2, 2)),
    ("improvements", "softmax:0.1", operators.Softmax(0.1)),
    ("improvements", "tsallis:0.5,order=1.5", operators.Tsallis(0.5, 1.5)),
    ("heads", "quantile:51", operators.Quantile(51)),
    # Beyond the default's other end: low and high are checked together.
    ("heads", "categorical:20,30,num_atoms=11", operators.Categorical(20.0, 30.0, 11)),
    ("compositions", "mapped:0.01", operators.Mapped(operators.HTransform(0.01))),
    ("successors", "sampled:true", Sampled(accept_bias=True)),
    ("successors", "generative:16", Generative(16)),
    (
        "successors",
        "generative:8,4,spread=gravity/8/12+length/0.4/0.6,over_models=cvar:0.25",
        Generative(
            *(8, 4, (("gravity", 8.0, 12.0), ("length", 0.4, 0.6))),
            over_models=functionals.CVaR(0.25),
        ),
    ),
    ("successors", "dual,scale=3", Dual(scale=3.0)),
    ("average_rewards", "differential:0.05,initial=-1", AverageReward(0.05, -1.0)),
    ("average_rewards", "differential:linear:0.1:0.01", AverageReward(Linear(0.1, 0.01))),
    ("wrappers", "held_actions:1/2/8", HeldActions(None, (1, 2, 8))),
    ("wrappers", "held_actions:4,0.25", HeldActions(None, (4,), 0.25)),
]


@pytest.mark.parametrize(("kind", "text", "part"), READ)
def test_a_text_stands_for_a_part(kind: str, text: str, part: Any) -> None:
    assert parse(kind, text) == part
    assert parse(kind, show(part)) == part
    check_settings(part)  # which training does


BAD = [
    ("functionals", "cvr:0.1", "did you mean"),
    ("functionals", "cvar:1.5", r"level=1.5 is out of range: give a value in \(0, 1\]"),
    ("functionals", "cvar:nan", "level=nan is out of range"),
    ("functionals", "cvar:linear:1.5:0.1", r"level.initial=1.5 is out of range"),
    ("functionals", "cvar:low", "level='low' is not a number"),
    ("functionals", "cvar:0.1,0.2", "cvar takes level; '0.2' is one too many"),
    ("functionals", "mean:1", "takes no argument"),
    ("functionals", "cvar,levl=0.1", "did you mean level"),
    ("functionals", "total_variation:radius=0.1,radius=0.2", "given radius twice"),
    ("functionals", "total_variation:0.1,support=half", "not one of: nominal, full"),
    ("functionals", "spectral:a/b", "not a list of numbers"),
    ("heads", "quantile:2.5", "not a whole number"),
    ("heads", "categorical:5,5", "not below"),
    ("successors", "generative:0", r"num_samples=0 is out of range: give a value in \[1"),
    ("successors", "generative:4,2,spread=gravity", "NAME/LOW/HIGH"),
    ("successors", "generative:4,2,over_models=cvar:2", "level=2.0"),
    ("average_rewards", "differential:2", r"step_size=2.0 is out of range"),
    ("average_rewards", "differential,initial=linear:0:1", "is not a number"),
    ("channels", "logs", "did you mean log"),
    ("channels", "log:linear:0.1:0.01", "is not a number"),
    ("channels", "log,split=by_size", "not one of: by_sign, whole"),
    ("channels", "identity:value_rate=0", r"value_rate=0.0 is out of range: give a value in \(0"),
    ("wrappers", "held_actions:1/x", "not a list of whole numbers such as 1/4"),
    ("wrappers", "held_actions:1/2.5", "not a list of whole numbers"),
    ("wrappers", "held_actions:0", "must be whole numbers of at least 1"),
    ("wrappers", "held_actions:4,stop_probability=2", "stop_probability=2.0 is out of range"),
    ("wrappers", "held_actions:4,discount=0.9", "unknown setting 'discount'"),
]


@pytest.mark.parametrize(("kind", "text", "said"), BAD)
def test_bad_texts_say_what_is_wrong(kind: str, text: str, said: str) -> None:
    with pytest.raises((KeyError, ValueError), match=said):
        parse(kind, text)


def job(agent: str = "qr_dqn", env: str = "WindyCliff", **options: Any) -> jobs.Job:
    return train_job(agent, env, **options)


def test_parts_become_the_agents_and_settings_reach_into_them() -> None:
    made = job(
        functional="cvar:0.1",
        return_functional="wang:-0.5",
        improvement="softmax:0.1",
        head="quantile:51",
        successors="generative:8",
        set="huber_threshold=2",
        sweep="operator.successor_functional.level=0.2,0.4",
    )
    agent: Any = made.agent
    assert agent.operator.successor_functional == functionals.CVaR(0.1)
    assert made.over == {"operator.successor_functional.level": (0.2, 0.4)}
    assert agent.operator.return_functional == functionals.Wang(-0.5)
    assert agent.operator.improvement == operators.Softmax(0.1)
    assert agent.operator.head == operators.Quantile(51, huber_threshold=2.0)
    assert agent.successors == Generative(8)
    again = jobs.job_from_config(yaml.safe_load(yaml.safe_dump(made.config)))
    assert again.agent == made.agent and again.config == made.config


def test_one_part_written_in_two_ways_is_one_configuration() -> None:
    first, second = job(head="quantile:51"), job(head="Quantile,num_atoms=51")
    assert first.config == second.config and first.config["parts"] == {"head": "quantile:51"}
    assert "parts" not in job().config  # as runs were before there were parts


def test_the_average_reward_and_channels_become_the_agents() -> None:
    made = job("dqn", average_reward="differential:0.05", set="discount=1")
    agent: Any = made.agent
    assert agent == preset("differential_dqn").replace(parts=(AverageReward(0.05),))
    assert made.config["parts"] == {"average_reward": "differential:0.05"}
    assert job("dqn", channels="log").agent == preset("log_dqn")
    agent = job("dqn", channels="h_transform:0.01,split=whole,value_rate=0.5").agent
    mapping = operators.HTransform(0.01)
    assert agent.parts == (ValueChannels(Whole(), (mapping,), value_rate=0.5),)
    for text in ("log:0.1", "identity:whole", "signed_hyperbolic:2"):
        made = job("dqn", channels=text)
        again = jobs.job_from_config(yaml.safe_load(yaml.safe_dump(made.config)))
        assert again.agent == made.agent and again.config == made.config


def test_parts_join_those_of_the_agent_and_replace_their_like() -> None:
    """Their numbers are settings by path, of which the last words are enough, and are swept."""
    made = job("munchausen_dqn", parts="munchausen:0.5+reward_shift:-1", sweep="shift=-1,0,1")
    agent: Any = made.agent
    assert agent.parts == (Munchausen(0.5), RewardShift(-1.0))
    assert made.config["parts"] == {"parts": "munchausen:0.5+reward_shift:-1.0"}
    assert made.over == {"parts.reward_shift.shift": (-1.0, 0.0, 1.0)}
    again = jobs.job_from_config(yaml.safe_load(yaml.safe_dump(made.config)))
    assert again.agent == made.agent and again.config == made.config
    agent = job("munchausen_dqn", set="munchausen.weight=0.25").agent
    assert agent.parts == (Munchausen(0.25),)


EARLIER = {
    # The agent, settings and sweep as they were written, and the parts that they now stand for.
    "shift": ("dqn", {"reward_shift": -1.0}, {}, (RewardShift(-1.0),), {}),
    "swept": ("dqn", {}, {"reward_shift": [0.0, 1.0]}, (RewardShift(0.0),), {"shift": [0.0, 1.0]}),
    "weight": ("munchausen_dqn", {"munchausen.weight": 0.5}, {}, (Munchausen(0.5),), {}),
    "plain": ("dqn", {}, {}, (), {}),
}


@pytest.mark.parametrize("name", EARLIER)
def test_configurations_from_before_there_was_a_chain_are_read(name: str, tmp_path: Path) -> None:
    agent, settings, sweep, parts, swept = EARLIER[name]
    now = job(agent).config
    gone = {"reward_shift": settings.get("reward_shift", 0.0)}
    moved = {path.replace("parts.", ""): value for path, value in now["resolved"].items()}
    old = {**now, "settings": settings, "sweep": sweep, "resolved": moved | gone | settings}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(old))
    read = RunFolder(tmp_path).config()
    made = jobs.job_from_config(read)
    assert made.agent.parts == parts  # pyright: ignore
    assert made.config["sweep"] == {f"parts.reward_shift.{key}": swept[key] for key in swept}
    assert train.describe_difference(read, made.config) == []


def test_a_wrapper_is_put_round_the_environment_under_the_agents_discount() -> None:
    made = job(
        "dqn",
        "RiverSwim",
        env_wrap=("held_actions:1/4,stop_probability=0.5", "HeldActions,durations=2"),
        set="discount=0.9",
        env_set="num_states=4",
    )
    inner = HeldActions(make("RiverSwim", num_states=4), (1, 4), 0.5, 0.9)
    env: Any = made.env
    assert (
        env.durations == (2,)
        and env.discount == 0.9
        and env.env.replace(env=None) == (inner.replace(env=None))
    )
    assert env.action_space.num_values == 2 * 2
    assert env.observation_space.shape == inner.observation_space.shape == (4,)
    config = made.config
    assert config["env_wrap"] == ["held_actions:1/4,stop_probability=0.5", "held_actions:2"]
    again = jobs.job_from_config(yaml.safe_load(yaml.safe_dump(config)))
    assert again.config == config and again.env.action_space == env.action_space
    other: Any = made.env_at({"num_states": 7})  # as `evaluate --over` makes it
    assert other.observation_space.shape == (7,) and other.env.durations == (1, 4)
    assert "env_wrap" not in job().config  # as runs were before there were wrappers


REFUSED = {
    "no channels": (["--agent", "ppo", "--channels", "log"], "ppo has no parts to change"),
    "no chain": (["--agent", "pqn", "--parts", "differential"], "pqn has no parts to change"),
    "no such part": (["--parts", "munchausn:0.5"], "did you mean munchausen?"),
    "two parts that decide one thing": (
        ["--parts", "differential+reward_shift:-1", "--set", "discount=1"],
        "AverageReward and RewardShift both decide where values have their zero",
    ),
    "a discount beside it": (["--average-reward", "differential"], "set discount=1"),
    "channels of laws": (["--channels", "log"], "ValueChannels store means"),
    "no such wrapper": (["--env-wrap", "held"], "--env-wrap held: unknown wrapper"),
    "one discount": (
        ["--env-wrap", "held_actions:2", "--sweep", "discount=0.9,0.99"],
        "start one run for each value",
    ),
    "one successor": (["--functional", "cvar:0.1"], "--successors generative:16"),
    "no rule": (["--agent", "dqn", "--rule", "a2c"], "take --agent a2c,"),
    "no source": (["--agent", "ppo", "--functional", "cvar"], "--successors generative:16"),
    "no operator": (["--agent", "ppo", "--successors", "generative:4"], "feed an operator"),
    "no such head": (["--head", "quantil"], "--head quantil: unknown head"),
    "no such source": (["--successors", "generativ:4"], "did you mean generative"),
    "resume with more": (["--resume", "nowhere", "--head", "scalar"], "leave out --head"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_is_refused_with_the_remedy(name: str, jaxrl: Run) -> None:
    words, said = REFUSED[name]
    first = [] if "--agent" in words or "--resume" in words else ["--agent", "qr_dqn"]
    rest = [] if "--resume" in words else ["--env", "WindyCliff", "--dry-run"]
    code, _, error = jaxrl("train", *first, *words, *rest)
    assert code == 2 and said in error and error.count("\n") == 1


def test_a_broken_configuration_of_parts_is_refused(jaxrl: Run, tmp_path: Path) -> None:
    config = job(head="quantile:51").config
    wrong = ({"heads": "quantile"}, "head"), ({"head": "quantil"}, "head"), ([1], "a mapping")
    for parts, said in wrong:
        (tmp_path / "config.yaml").write_text(yaml.safe_dump({**config, "parts": parts}))
        code, _, error = jaxrl("train", "--resume", tmp_path, "--dry-run")
        assert code == 2 and error.count("\n") == 1 and said in error


@pytest.mark.held_for(*sorted(PRESETS))
def test_named_agents_are_not_warned_of() -> None:
    """Their own operators contract; their heads are looked at in another test."""
    operators = {name: getattr(preset(name), "operator", None) for name in PRESETS}
    warned = [name for name, found in operators.items() if found and not found.contracts]
    assert not warned and any(operators.values())


def test_an_operator_that_does_not_contract_says_so() -> None:
    assert warned.notices(job()) == []
    for options, said in (
        ({"return_functional": "cvar:0.5"}, "CVaR(level=0.5) of a return law"),
        ({"improvement": "boltzmann:0.1"}, "Boltzmann(temperature=0.1) can spread values"),
        ({"functional": "mean_std:1", "successors": "generative:4"}, "is not monotone"),
    ):
        (text,) = warned.notices(job(**options))
        assert "no certificate of contraction" in text and said in text


def test_a_head_too_narrow_for_the_returns_says_so() -> None:
    """The windy cliff pays -1 a step and -10 for a fall: at most -1, at least -10 / 0.01."""
    (text,) = warned.notices(job("c51"))
    assert "[-1000, -1]" in text and "100% of its discounted returns are clipped" in text
    assert "--set low=-1000 high=100" in text
    wide = job("c51", head="hl_gauss:-1000,0")
    assert warned.notices(wide) == []
    # A random walker is hardly ever within five steps of the goal.
    (text,) = warned.notices(job("c51", head="two_hot:-1000,-5"))
    (share,) = re.findall(r"(\d+)% of its discounted returns", text)
    assert int(share) < 10


@pytest.mark.slow
def test_a_notice_is_one_line_before_the_run(jaxrl: Run) -> None:
    code, _, error = jaxrl("train", "--agent", "c51", "--env", "WindyCliff", "--dry-run")
    assert code == 0 and error.startswith("jaxrl: warning: ") and error.count("\n") == 1
    assert "--set low=-1000 high=100" in error


def test_durations_to_choose_from_need_discrete_actions(jaxrl: Run) -> None:
    words = ["train", "--agent", "td3", "--env", "Pendulum", "--dry-run", "--env-wrap"]
    code, _, error = jaxrl(*words, "held_actions:1/4")
    assert code == 2 and "needs discrete actions" in error and error.count("\n") == 1
    env: Any = job("td3", "Pendulum", env_wrap=("held_actions:4",)).env
    assert env.durations == (4,)


SHOWN = {
    "functionals": "level=0.1",
    "improvements": "temperature=1.0",
    "heads": "num_atoms=51",
    "successors": "num_samples=16",
    "parts": "weight=0.9, clip=-1.0",
    "average_rewards": "step_size=0.01",
    "channels": "mapping.offset=0.01",
    "wrappers": "durations=1/4",
}


@pytest.mark.parametrize("what", SHOWN)
def test_the_list_shows_arguments_and_defaults(what: str, jaxrl: Run) -> None:
    code, out, error = jaxrl("list", what)
    assert code == 0 and error == ""
    assert all(f" {name} " in out for name in KINDS[what].builders)
    assert SHOWN[what] in out


def test_operators_are_listed_without_the_other_parts_and_help_shows_their_options(
    jaxrl: Run,
) -> None:
    _, out, _ = jaxrl("list", "operators")
    assert "cvar" in out and not any(
        name in out for name in ("differential", "held_actions", "generative")
    )
    code, out, _ = jaxrl("train", "--help")
    assert code == 0
    for option in ("--average-reward NAME", "--channels NAME", "--env-wrap NAME"):
        assert option in out


@pytest.mark.slow
def test_named_parts_train_and_go_on_from_the_command_line(jaxrl: Run, tmp_path: Path) -> None:
    words = ["--agent", "dqn", "--env", "WindyCliff", "--channels", "log:0.1"]
    words += ["--env-wrap", "held_actions:1/4", "--num-seeds", "1"]
    words += ["--set", "num_envs=4", "hidden_sizes=8", "warmup=64", "batch_size=8", "capacity=512"]
    words += ["--num-steps", "512", "--num-records", "4", "--run-dir", str(tmp_path / "run")]
    assert jaxrl("train", *words)[0] == 0
    assert jaxrl("train", "--resume", tmp_path / "run")[0] == 0
    few = ["--num-episodes", "4", "--max-steps", "9", "--over", "wind=0.1,0.3"]
    assert jaxrl("evaluate", tmp_path / "run", *few)[0] == 0


@pytest.mark.slow
def test_a_robust_agent_trains_from_the_command_line(jaxrl: Run, tmp_path: Path) -> None:
    words = ["--agent", "qr_dqn", "--env", "WindyCliff", "--functional", "cvar:0.1"]
    words += ["--successors", "generative:4", "--head", "quantile:5", "--num-seeds", "1"]
    words += ["--set", "num_envs=4", "hidden_sizes=8", "warmup=64", "batch_size=8", "capacity=512"]
    words += ["--num-steps", "512", "--num-records", "4", "--run-dir", str(tmp_path / "run")]
    assert jaxrl("train", *words)[0] == 0
    assert jaxrl("train", "--resume", tmp_path / "run")[0] == 0
    assert jaxrl("evaluate", tmp_path / "run", "--num-episodes", "4", "--max-steps", "9")[0] == 0
