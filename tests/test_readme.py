"""README: the Python that it shows runs; `cli/test_recipes.py` tries its commands."""

from __future__ import annotations

import ast
import importlib
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.S)
# Long runs made short: what is shown is that they run.
SHORTER = {
    "100_000": "4_096",
    "num_episodes=1000": "num_episodes=8",
    "num_steps=10)": "num_steps=1)",
}


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
