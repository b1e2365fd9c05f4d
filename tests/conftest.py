"""What all tests share: how they compile."""

from __future__ import annotations

from collections.abc import Iterator

import jax
import pytest

# Folders whose tests compile much, run little, and look at no bits.
_QUICK_FOLDERS = {"core", "envs", "networks", "rules"}


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
