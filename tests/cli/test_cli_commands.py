"""The other commands: evaluate, plot, list, help."""

from __future__ import annotations

import functools
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_run import SMALL, Run, no_pictures, strong

from jaxrl import envs
from jaxrl.agents import PRESETS, preset
from jaxrl.cli import evaluate as played_by_command, job as jobs, listing, main
from jaxrl.core import (
    Box,
    Discrete,
    TimeStep,
    list_settings,
    notation,
    replace_setting,
    setting,
    struct,
)
from jaxrl.training import evaluate


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    words = [*SMALL, "--sweep", "learning_rate=1e-3,1e-2", "--run-dir", str(folder)]
    with no_pictures():
        assert main(["train", *words]) == 0
    return folder


@pytest.mark.slow
def test_evaluate_plays_every_agent_and_writes_what_it_found(trained: Path, jaxrl: Run) -> None:
    code, out, error = jaxrl("evaluate", trained, "--num-episodes", "20")
    assert code == 0 and error == "" and "CVaR 10 %" in out
    report = json.loads((trained / "evaluation.json").read_text())
    assert report["step"] == 1280
    labels = [one["setting"] for one in report["settings"]]
    assert labels == ["learning_rate=0.001", "learning_rate=0.01"]
    for one in report["settings"]:
        means = {int(seed): numbers["mean"] for seed, numbers in one["seeds"].items()}
        assert set(means) == {0, 1}
        # Equally many episodes of each seed: the pooled mean is the mean of the seeds' means.
        assert one["all_seeds"]["mean"] == pytest.approx(sum(means.values()) / 2)
        assert means[one["worst_seed"]] == min(means.values())
        pooled = one["all_seeds"]
        assert pooled["worst"] <= pooled["cvar_0.1"] <= pooled["worst_decile"] + 1e-6
        assert pooled["cvar_0.1"] <= pooled["mean"]


def test_a_run_is_evaluated_by_one_process_at_a_time(trained: Path, jaxrl: Run) -> None:
    found = trained / "evaluation.json"
    found.write_text(before := "of an earlier evaluation")
    with played_by_command.take_lock(trained, ".evaluation.lock"):
        for over in ([], ["--over", "length=0.5"]):
            code, _, error = jaxrl("evaluate", trained, *over)
            assert code == 2 and error.count("\n") == 1 and "is in use by process" in error
    assert found.read_text() == before


@struct.dataclass
class Lottery:
    """Pays, in its one step, the number that the key of its reset stands for."""

    observation_space, action_space = Box(-jnp.inf, jnp.inf, (1,)), Discrete(2)

    def reset(self, key):
        return jax.random.key_data(key)[0].astype(jnp.float32) / 2.0**32, jnp.zeros(1)

    def step(self, key, state, action):
        never = jnp.zeros((), bool)
        return state, TimeStep(jnp.zeros(1), reward=state, terminated=~never, truncated=never)


@struct.dataclass
class Idle:
    """Does always the same."""

    unused: float = setting(0.1, "tells settings apart")

    def initial_memory(self, num_envs):
        return ()

    def act(self, key, state, observation, explore=True, memory=()):
        return jnp.zeros(observation.shape[0], jnp.int32), {}


def test_every_seed_is_played_with_its_own_keys_and_every_setting_with_the_same() -> None:
    job = jobs.Job(
        config={"num_seeds": 3},
        agent=Idle(),
        env=Lottery(),
        env_settings={},
        over={"unused": (0.1, 0.2)},
    )
    played = played_by_command.evaluate_agents(job, np.zeros((2, 3)), 0, {"num_episodes": 5})
    returns = np.array([[np.asarray(one.returns) for one in seeds] for seeds in played])
    assert returns.shape == (2, 3, 5) and len(np.unique(returns[0])) == 15
    np.testing.assert_array_equal(returns[0], returns[1])
    # They are no keys of training, whose seed `s` folds `s` into the same root.
    trained = [jax.random.fold_in(jax.random.key(0), seed) for seed in range(3)]
    keys = np.stack(list(map(jax.random.key_data, [played_by_command.episodes_key(0), *trained])))
    assert len(np.unique(keys, axis=0)) == 4


def test_no_bit_of_the_seed_of_an_evaluation_is_lost() -> None:
    seeds = [5 ^ (1 << bit) for bit in range(64)]
    keys = [jax.random.key_data(played_by_command.episodes_key(seed)) for seed in [5, *seeds]]
    assert len(np.unique(np.stack(keys), axis=0)) == 65


@pytest.mark.slow
def test_evaluate_repeats_itself_and_depends_on_its_options(trained: Path, jaxrl: Run) -> None:
    def settings(*options: str) -> list[dict]:
        assert jaxrl("evaluate", trained, "--num-episodes", "20", *options)[0] == 0
        return json.loads((trained / "evaluation.json").read_text())["settings"]

    job = jobs.job_from_config(jobs.read_config(trained))
    _, states = played_by_command.agents_of_run(job, trained)

    @functools.cache
    def played(seed: int, explore: bool) -> list[float]:
        """The means of two agents, of another setting and seed, by the library."""
        means = []
        for index, number in ((0, 0), (1, 1)):
            found = evaluate(
                jax.random.fold_in(played_by_command.episodes_key(seed), number),
                strong(replace_setting(job.agent, *next(iter(job.combinations[index].items())))),
                strong(job.env),
                jax.tree.map(lambda leaf, at=(index, number): leaf[at], states),
                num_episodes=20,
                explore=explore,
            )
            means.append(float(np.mean(found.returns)))
        return means

    for options, seed, explore in (([], 0, False), (["--seed", "1", "--explore"], 1, True)):
        seeds = [one["seeds"] for one in settings(*options)]
        found = [seeds[0]["0"]["mean"], seeds[1]["1"]["mean"]]
        assert found == pytest.approx(played(seed, explore))
        # Neither the seed nor how it acts may be left out.
        assert found != pytest.approx(played(1 - seed, explore))
        assert found != pytest.approx(played(seed, not explore))
    cut = settings("--max-steps", "3")
    assert all(one["all_seeds"]["mean"] == 3.0 for one in cut)  # CartPole pays 1 each step
    assert all(one["all_seeds"]["num_unfinished"] == 40 for one in cut)


@pytest.mark.parametrize("how", [pytest.param([], marks=pytest.mark.slow), ["--explore"]])
def test_evaluate_over_a_grid_of_environments(trained: Path, jaxrl: Run, how: list[str]) -> None:
    words = ["evaluate", trained, "--num-episodes", "20", *how]
    code, out, error = jaxrl(*words, "--over", "length=0.5,1.5", "gravity=9.8")
    assert code == 0 and error == "" and "length=0.5, gravity=9.8" in out and "worst" in out
    report = json.loads((trained / "evaluation_over.json").read_text())
    assert report["over"] == [{"length": 0.5, "gravity": 9.8}, {"length": 1.5, "gravity": 9.8}]
    for one in report["settings"]:
        means = [row["mean"]["value"] for row in one["by_setting"]]
        assert one["mean"]["value"] == pytest.approx(sum(means) / 2)
        assert one["worst"]["value"] == pytest.approx(min(means))
        assert one["worst_setting"] == one["by_setting"][means.index(min(means))]["over"]
        assert one["mean"]["low"] <= one["mean"]["value"] <= one["mean"]["high"]
    # At the length of training, the episodes are those of a plain evaluation.
    assert jaxrl(*words)[0] == 0
    plain = json.loads((trained / "evaluation.json").read_text())["settings"]
    for one, same in zip(report["settings"], plain, strict=True):
        found, whole = one["by_setting"][0], same["all_seeds"]
        assert found["mean"]["value"] == pytest.approx(whole["mean"])
        assert found["cvar_0.1"] == pytest.approx(whole["cvar_0.1"])
        assert found["mean_length"] == pytest.approx(whole["mean_length"])


@pytest.mark.parametrize(
    ("over", "said"),
    [
        ("lenght=0.3", "length"),
        ("length=", "no values"),
        ("length=0.3,0.3", "twice"),
        ("length", "NAME=VALUE"),
        ("horizon_is_terminal=true,false", "one at a time"),
    ],
)
def test_evaluate_over_refuses(trained: Path, jaxrl: Run, over: str, said: str) -> None:
    code, _, error = jaxrl("evaluate", trained, "--num-episodes", "20", "--over", over)
    assert code == 2 and said in error and error.count("\n") == 1


def test_evaluate_needs_a_checkpoint(trained: Path, jaxrl: Run, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    code, _, error = jaxrl("evaluate", tmp_path / "run")
    assert code == 2 and "no checkpoint" in error and error.count("\n") == 1


def test_plot_draws_runs_together(trained: Path, jaxrl: Run, tmp_path: Path) -> None:
    shutil.copytree(trained, tmp_path / "other")
    out = tmp_path / "pictures" / "both.png"
    code, said, _ = jaxrl("plot", trained, tmp_path / "other", "--metric", "loss", "--out", out)
    assert code == 0 and str(out) in said
    assert out.read_bytes().startswith(b"\x89PNG")


def test_plot_refuses_an_unknown_metric(trained: Path, jaxrl: Run) -> None:
    code, _, error = jaxrl("plot", trained, "--metric", "wins")
    assert code == 2 and "episode_return" in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("what", "names"),
    [
        ("agents", sorted(PRESETS)),
        ("envs", envs.names()),
        ("kinds", ["agents", "envs", "heads", "wrappers", "experiments"]),
        ("operators", ["cvar", "greedy", "quantile"]),
    ],
)
def test_list_names_everything(what: str, names: list[str], jaxrl: Run) -> None:
    code, out, error = jaxrl("list", what)
    assert code == 0 and error == ""
    assert all(f" {name} " in out for name in names)


def test_list_without_a_kind_names_the_kinds(jaxrl: Run) -> None:
    listed = jaxrl("list")
    assert listed == jaxrl("list", "kinds")
    assert set(listing._kinds()) == {"envs", "experiments", "operators", *notation.KINDS}
    _, _, error = jaxrl("list", "robots")
    choices = re.findall(r"\w+", error.rpartition(": ")[2])
    assert [line.split()[1] for line in listed[1].splitlines() if line.startswith("│")] == choices


def test_the_list_of_environments_builds_none(jaxrl: Run, monkeypatch) -> None:
    for builds in ("gymnax.gymnax_env", "tabular.TabularEnv"):
        monkeypatch.delattr(f"jaxrl.envs.{builds}")
    code, out, _ = jaxrl("list", "envs")
    assert code == 0
    row = next(line for line in out.splitlines() if " PointRobot-misc " in line)
    cells = ["gymnax misc", "6 numbers", "2 numbers", "continuous, partial", "hidden goal"]
    assert all(cell in row for cell in cells)


@pytest.mark.parametrize("agent", ["ppo", "dqn"])
def test_help_shows_every_setting_of_the_agent(agent: str, jaxrl: Run) -> None:
    code, out, error = jaxrl("train", "--agent", agent, "--help")
    assert code == 0 and error == "" and "--num-seeds" in out
    for info in list_settings(preset(agent)):
        assert f" {info.name} " in out
    assert "per step" in out  # a unit


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["--help"], ["train", "evaluate", "plot", "list"]),
        (["train", "--help"], ["clip_epsilon"]),
        (["list"], ["envs", "operators", *notation.KINDS]),
    ],
)
def test_what_is_quick_is_so_because_it_imports_no_jax(words: list[str], shown: list[str]) -> None:
    code = (
        f"import sys; from jaxrl.cli import main; main({words});"
        "sys.exit('jax' in sys.modules or 'gymnax' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[2], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert all(word in done.stdout for word in shown)


def test_help_on_an_agent_of_a_users_own_module(
    jaxrl: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "of_my_own.py").write_text(
        "from jaxrl import pqn\nfrom jaxrl.core import register\n"
        "def steady(): return pqn(num_envs=7)\nregister('agents', steady)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    words = ["train", "--agent", "steady", "--help"]
    code, out, _ = jaxrl(*words, "--import", "of_my_own")
    del PRESETS["steady"]
    assert code == 0 and re.search(r" num_envs \* +│ 7 ", out)


@pytest.mark.held_for(*sorted(PRESETS))
def test_the_recorded_settings_are_those_of_the_agents() -> None:
    """What `train --help` shows without making an agent; `python -m jaxrl.cli.listing` records."""
    recorded = json.loads((Path(listing.__file__).parent / "settings.json").read_text())
    assert recorded == {name: listing.settings_of(name) for name in sorted(PRESETS)}


def test_version(jaxrl: Run) -> None:
    from jaxrl import __version__

    assert jaxrl("--version") == (0, f"jaxrl {__version__}\n", "")
