"""What all tests share: how they compile, and what they leave behind."""

from __future__ import annotations

import ctypes
import gc
import importlib.metadata
import os
import pathlib
from collections.abc import Iterator

# Programs of tests are compiled far oftener than they are run for long: even those that are run
# optimised gain from a lower level than XLA's. One of its own steps costs a third of the time of a
# small program and is not needed for a right answer, nor need it be cut up for many cores. The
# flags must stand before JAX starts, which dies of the second from 0.11 on; processes that tests
# start inherit them.
_FLAGS = "--xla_backend_optimization_level=1"
if importlib.metadata.version("jaxlib").startswith("0.10."):
    _FLAGS += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_FLAGS}".strip()

# Processes that tests start compile as the tests do.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# Else XLA logs a page for each program that it reads from the cache.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import jax  # noqa: E402
import pytest  # noqa: E402

pytest_plugins = ["compilations", "contracts"]

_MOST_MAPS = 15_000  # of the 65,530 that Linux grants a process; each program holds several
_MOST_MEGABYTES = 1200
_left = 0.0  # [MB] when programs were last forgotten


def _compile_fast(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run unoptimised code, but in modules and tests marked `optimised`."""
    _set_fast(request.node)
    yield
    _set_fast(request.node.getparent(pytest.Module))


def _set_fast(node: pytest.Item | pytest.Module) -> None:
    fast = node.get_closest_marker("optimised") is None
    jax.config.update("jax_disable_most_optimizations", fast)


_compile_modules_fast = pytest.fixture(autouse=True, scope="module")(_compile_fast)
_compile_tests_fast = pytest.fixture(autouse=True)(_compile_fast)


def pytest_configure(config: pytest.Config) -> None:
    """One cache of compiled programs for all workers, and for the next run."""
    programs = config.rootpath / ".pytest_cache" / "programs"
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(programs))
    jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def pytest_collection_finish() -> None:
    """Spare what was collected from the search for garbage, which tracing sets off very often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 100)


def _megabytes() -> float:
    """What this process holds in memory."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Forget compiled programs before they exhaust the memory, or the memory maps, of a process.

    A process that runs out of maps dies in its next compilation. The cache on disk gives back what
    is still needed.
    """
    global _left
    maps = pathlib.Path("/proc/self/maps")
    if not maps.exists():
        return
    is_last = nextitem is None or nextitem.path != item.path
    # Tests of a file may count on programs of each other: in its midst, only where many are left.
    most = _MOST_MEGABYTES if is_last else max(2 * _MOST_MEGABYTES, _left + 200)
    if _megabytes() > most or (is_last and maps.read_bytes().count(b"\n") > _MOST_MAPS):
        jax.clear_caches()
        gc.collect()
        ctypes.CDLL(None).malloc_trim(0)
        _left = _megabytes()
