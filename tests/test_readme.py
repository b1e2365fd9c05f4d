"""README and CONTRIBUTING: what they show runs."""

from __future__ import annotations

import ast
import importlib
import pathlib
import re
import shlex

import numpy as np
import pytest

from jaxrl.cli import arguments, job
from jaxrl.core import notation

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
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


def test_the_recipe_of_a_functional_is_planned_with(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a module of a user's own, as `--import` finds it."""
    recipe, *_ = re.findall(
        r"```python\n# .*?\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), re.S
    )
    (tmp_path / "recipe_of_a_functional.py").write_text(recipe)
    monkeypatch.syspath_prepend(tmp_path)
    known = notation.KINDS["functionals"]
    monkeypatch.setattr(known, "builders", dict(known.builders))
    words = ["train", "--agent", "dqn", "--env", "WindyCliff", "--successors", "generative:4"]
    words += ["--functional", "halfway:0.3", "--import", "recipe_of_a_functional"]
    config = job.make_job(arguments.parse(words)).config
    assert config["imports"] == ["recipe_of_a_functional"]
    assert config["parts"]["functional"] == "halfway:0.3"
    half = notation.parse("functionals", "halfway:0.5")
    assert float(half(np.array([0.5, 0.5, 0.0]), np.array([1.0, 3.0, -9.0]))) == 1.5
