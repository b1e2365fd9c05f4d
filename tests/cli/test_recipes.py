"""What README and CONTRIBUTING show of the command: it is understood, and every recipe works."""

from __future__ import annotations

import os
import pathlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from jaxrl.cli import arguments, job
from jaxrl.core import notation
from jaxrl.training import load_metrics

ROOT = pathlib.Path(__file__).parents[2]
README, CONTRIBUTING = ((ROOT / f"{name}.md").read_text() for name in ("README", "CONTRIBUTING"))
COMMANDS = [
    line.split("#")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", README, re.S)
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("jaxrl ")
]


def test_every_command_is_understood() -> None:
    assert len(COMMANDS) >= 8
    kinds = set()
    for line in COMMANDS:
        words = [word for word in shlex.split(line)[1:] if word != "--help"]
        command = arguments.parse(words)
        if words[0] == "train" and command.env == "WindyCliff":  # quickly built
            assert job.make_job(command).config["num_seeds"] > 0
        kinds.add(words[0])
    assert {"train", "plan", "evaluate", "list"} <= kinds


# Name of the module and code, in the order of CONTRIBUTING.
RECIPES = dict(
    re.findall(r"```python\n# jaxrl/\w+/(\w+)\.py\n(.*?)```", CONTRIBUTING, re.S),
)


@pytest.fixture
def halfway(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The recipe of a functional as a user's own module; what it registers goes afterwards."""
    (tmp_path / "halfway.py").write_text(RECIPES["halfway"])
    monkeypatch.syspath_prepend(tmp_path)
    yield
    del notation.KINDS["functionals"].builders["halfway"], sys.modules["halfway"]


def test_the_recipe_of_a_functional_is_planned_with(halfway: None) -> None:
    """In a module of a user's own, as `--import` finds it."""
    words = ["train", "--agent", "dqn", "--env", "WindyCliff", "--successors", "generative:4"]
    words += ["--functional", "halfway:0.3", "--import", "halfway"]
    config = job.make_job(arguments.parse(words)).config
    assert config["imports"] == ["halfway"]
    assert config["parts"]["functional"] == "halfway:0.3"
    half = notation.parse("functionals", "halfway:0.5")
    assert float(half(np.array([0.5, 0.5, 0.0]), np.array([1.0, 3.0, -9.0]))) == 1.5


# How each recipe is used; the row of the functional is the test above.
USES = {
    "log_cosh": "--agent dqn --head log_cosh:0.5 --env CartPole",
    "drift": "--agent a2c --env Drift --env-set noise=0.2",
    "reward_to_go": "--agent a2c --rule reward_to_go --env CartPole",
    "steady_ppo": "--agent steady_ppo --env CartPole",
}


def test_there_are_five_recipes() -> None:
    assert list(RECIPES) == ["halfway", *USES]


@pytest.mark.parametrize(
    "name", ["drift", *(pytest.param(n, marks=pytest.mark.slow) for n in USES if n != "drift")]
)
def test_a_recipe_trains(name: str, tmp_path: pathlib.Path) -> None:
    """One module, one line, in a process of its own, which is left with what it registers: it is
    found by name, learns, and counts as its own."""
    (tmp_path / f"{name}.py").write_text(RECIPES[name])
    words = [*USES[name].split(), "--num-seeds", "1", "--num-steps", "2048", "--num-records", "2"]
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", "jaxrl", "train", *words, "--import", name, "--run-dir", "run"],
        env={**os.environ, "PYTHONPATH": paths},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = load_metrics(tmp_path / "run").to_pylist()
    losses = [row["value"] for row in rows if row["metric"] == "loss"]
    assert losses and np.isfinite(losses).all()
