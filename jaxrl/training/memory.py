"""How much memory a run will take, and how much there is."""

from __future__ import annotations

import dataclasses
import math
import pathlib

import jax
import jax.numpy as jnp

from jaxrl.core.types import PyTree


@dataclasses.dataclass(frozen=True)
class MemoryPlan:
    """The memory of a sweep, from the compiled program where there is one [bytes]."""

    per_group: int  # what stays for every group between calls
    working: int  # what one call needs besides
    num_groups: int
    num_workers: int  # calls that run at once
    available: int

    @property
    def total(self) -> int:
        """What the whole sweep needs [bytes]."""
        return self.per_group * self.num_groups + self.working * self.num_workers

    @property
    def groups_that_fit(self) -> int:
        """The largest number of groups that fit."""
        free = self.available - self.working * self.num_workers
        return max(0, free // max(1, self.per_group))

    def check(self, lanes: int, num_settings: int) -> None:
        """Raise `MemoryError` with the number of seeds that fits, when the sweep does not."""
        if self.total <= self.available:
            return
        fits = self.groups_that_fit * lanes // num_settings
        remedy = f"At most --num-seeds {fits} fit" if fits else "Not even one seed fits"
        raise MemoryError(
            f"This run needs {gigabytes(self.total)} and {gigabytes(self.available)} are free. "
            f"{remedy}; a smaller replay, rollout or network helps too."
        )


def gigabytes(num_bytes: float) -> str:
    """Human-readable size."""
    if num_bytes < 1e6:
        return f"{num_bytes / 1e3:.1f} kB"
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"


def tree_bytes(tree: PyTree) -> int:
    """Bytes of all leaves of a pytree of arrays or of shapes."""
    total = 0
    for leaf in jax.tree.leaves(tree):
        itemsize = 8 if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else leaf.dtype.itemsize
        total += math.prod(leaf.shape) * itemsize
    return total


def working_bytes(compiled: jax.stages.Compiled) -> int:
    """Bytes that one call needs besides its arguments, from the compiled program."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return 0
    outputs = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    return int(analysis.temp_size_in_bytes + max(0, outputs))


def available_bytes() -> int:
    """Bytes free for a run: the device's, or what the system and its control group leave."""
    stats = jax.devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return sum(
            d.memory_stats()["bytes_limit"] - d.memory_stats()["bytes_in_use"]
            for d in jax.devices()
        )
    free = _meminfo_available()
    limit = _read_int("/sys/fs/cgroup/memory.max")
    used = _read_int("/sys/fs/cgroup/memory.current")
    if limit is not None and used is not None:
        free = min(free, limit - used)
    return free


def _meminfo_available() -> int:
    meminfo = pathlib.Path("/proc/meminfo")
    if not meminfo.exists():
        return 1 << 62  # unknown: refuse nothing
    for line in meminfo.read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 1 << 62


def _read_int(path: str) -> int | None:
    try:
        return int(pathlib.Path(path).read_text())
    except (OSError, ValueError):
        return None
