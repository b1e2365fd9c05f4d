"""What all tests share: how they compile."""

from __future__ import annotations

import gc
import pathlib
from collections.abc import Iterator

import jax
import pytest

# Folders whose tests compile much, run little, and look at no bits.
_QUICK_FOLDERS = {"core", "envs", "meta", "networks", "rules"}
_MOST_MAPS = 15_000


@pytest.fixture(scope="module")
def quick_compilation() -> Iterator[None]:
    """Compile fast and run unoptimised code; for test modules whose bits do not matter."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(autouse=True, scope="module")
def _quick_folders(request: pytest.FixtureRequest) -> None:
    if request.path.parent.name in _QUICK_FOLDERS:
        request.getfixturevalue("quick_compilation")


@pytest.fixture(autouse=True, scope="module")
def _few_programs() -> Iterator[None]:
    """Forget compiled programs before they exhaust the memory maps of a process (65,530 on Linux).

    Each holds several, and a process that runs out of them dies in its next compilation.
    """
    yield
    maps = pathlib.Path("/proc/self/maps")
    if maps.exists() and maps.read_bytes().count(b"\n") > _MOST_MAPS:
        jax.clear_caches()
        gc.collect()
