"""The examples in the docstrings run as written."""

import doctest
import importlib
import pkgutil

import pytest

PACKAGES = [
    "core",
    "functionals",
    "returns",
    "losses",
    "operators",
    "envs",
    "networks",
    "replay",
    "planning",
    "rules",
    "agents",
    "training",
    "meta",
    "report",
]


def modules():
    for package in PACKAGES:
        root = importlib.import_module(f"jaxrl.{package}")
        yield root.__name__
        yield from (m.name for m in pkgutil.walk_packages(root.__path__, root.__name__ + "."))


@pytest.mark.parametrize("name", list(modules()))
def test_examples_run(name, quick_compilation):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
