"""README and CONTRIBUTING: what they show runs."""

from __future__ import annotations

import ast
import importlib
import pathlib
import re
import shlex
import sys
from collections.abc import Iterator

import numpy as np
import pytest

from jaxrl.cli import arguments, job, main
from jaxrl.core import notation
from jaxrl.training import load_metrics

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.S)
COMMANDS = [
    line.split("#")[0].strip()
    for block in re.findall(r"```sh\n(.*?)```", README, re.S)
    for line in block.replace("\\\n", " ").splitlines()
    if line.startswith("jaxrl ")
]
# Long runs made short: what is shown is that they run.
SHORTER = {
    "100_000": "4_096",
    "num_episodes=1000": "num_episodes=8",
    "num_steps=10)": "num_steps=1)",
}


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


def test_every_name_that_is_imported_exists() -> None:
    found = 0
    for block in BLOCKS:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module or "")
                found += len(node.names)
                assert all(hasattr(module, one.name) for one in node.names), ast.unparse(node)
    assert found > 5


@pytest.mark.slow
def test_the_blocks_run_one_after_the_other(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    for block in BLOCKS:
        for long, short in SHORTER.items():
            block = block.replace(long, short)
        exec(compile(block, "README.md", "exec"), names)
    assert names["solution"].converged and (tmp_path / "lpg.rule").is_file()


# Name of the module and code, in the order of CONTRIBUTING.
RECIPES = dict(
    re.findall(r"```python\n# jaxrl/\w+/(\w+)\.py\n(.*?)```", CONTRIBUTING, re.S),
)


@pytest.fixture
def recipes(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[pathlib.Path]:
    """A folder with every recipe as a user's own module; what they register goes afterwards."""
    for name, code in RECIPES.items():
        (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    known = [kind.builders for kind in notation.KINDS.values()]
    known.append(importlib.import_module("jaxrl.envs.registry")._registered)
    before = [dict(one) for one in known]
    yield tmp_path
    for one, entries in zip(known, before, strict=True):
        one.clear()
        one.update(entries)
    for name in RECIPES:
        sys.modules.pop(name, None)


def test_the_recipe_of_a_functional_is_planned_with(recipes: pathlib.Path) -> None:
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
def test_a_recipe_trains(recipes: pathlib.Path, name: str) -> None:
    """One module, one line: what it registers is found by name, learns, and counts as its own."""
    run = ["--num-seeds", "1", "--num-steps", "2048", "--num-records", "2", "--import", name]
    assert main(["train", *USES[name].split(), *run, "--run-dir", str(recipes / "run")]) == 0
    rows = load_metrics(recipes / "run").to_pylist()
    losses = [row["value"] for row in rows if row["metric"] == "loss"]
    assert losses and np.isfinite(losses).all()
