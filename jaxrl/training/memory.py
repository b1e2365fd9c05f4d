"""How much memory a run will take, and how much there is."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import pathlib

import jax

from jaxrl.core.types import PyTree

_UNKNOWN = 1 << 62  # refuse nothing
_GROUPS = pathlib.Path("/sys/fs/cgroup")


@dataclasses.dataclass(frozen=True)
class MemoryNeed:
    """The memory of a sweep, from the compiled program where there is one [bytes]."""

    per_group: int  # what stays for every group between calls
    working: int  # what one call needs besides
    num_groups: int
    num_workers: int  # calls that run at once
    available: int  # to what is not there yet
    metrics: int = 0  # of all records, on the host
    num_copies: int = 1  # of all that stays: a second one while a checkpoint is written
    process: int = 0  # what the process held before: Python, JAX, programs

    @property
    def total(self) -> int:
        """What the whole sweep needs [bytes]."""
        staying = self.per_group * self.num_groups + self.metrics
        return staying * self.num_copies + self.working * self.num_workers

    @property
    def peak(self) -> int:
        """The most that the process will hold [bytes]; on a device, of the host and the device."""
        return self.process + self.total

    @property
    def groups_that_fit(self) -> int:
        """The largest number of groups that fit."""
        free = self.available - self.working * self.num_workers
        each = self.per_group + self.metrics / self.num_groups
        return max(0, int(free / max(1.0, each * self.num_copies)))

    def check(self, width: int, num_settings: int, num_devices: int = 1) -> None:
        """Raise `MemoryError` with what would fit, when the sweep does not.

        Args:
            width: runs in a group.
            num_settings: of every seed.
            num_devices: over which a group is spread.
        """
        if self.total <= self.available:
            return
        remedy = f"At most --num-seeds {self.groups_that_fit * width // num_settings} fit"
        if self.groups_that_fit * width < num_settings:
            remedy = "Not even one seed fits"
        # Fewer lanes work at once and as many stay.
        left = self.available - (self.total - self.working * self.num_workers)
        lanes = int(left / max(1, self.working * self.num_workers) * width) // num_devices
        if lanes >= 1:
            remedy = f"--lanes {lanes} fits"
        raise MemoryError(
            f"This run needs {gigabytes(self.total)} and {gigabytes(self.available)} are free. "
            f"{remedy}; a smaller replay, rollout or network helps too."
        )


def gigabytes(num_bytes: float) -> str:
    """Human-readable size."""
    if num_bytes >= 1e9:
        return f"{num_bytes / 1e9:.2f} GB"
    return f"{num_bytes / 1e6:.1f} MB" if num_bytes >= 1e6 else f"{num_bytes / 1e3:.1f} kB"


def tree_bytes(tree: PyTree) -> int:
    """Bytes of all leaves of a pytree of arrays or of shapes."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


@functools.cache  # the analysis takes a tenth of a second
def working_bytes(compiled: jax.stages.Compiled) -> int:
    """Bytes that one call needs besides its arguments, from the compiled program."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return 0
    outputs = analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    return int(analysis.temp_size_in_bytes + max(0, outputs))


def process_bytes(trim: bool = True) -> int:
    """Bytes of memory that this process holds; 0 where the system does not say.

    What was freed, as after a compilation, is given back to the system first, where it can be, to
    `trim` what is held; that takes some 40 ms.
    """
    if not trim:
        return _of_proc("self/status", "VmRSS") or 0
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)  # the GNU library has it
    return _of_proc("self/status", "VmRSS") or 0


def available_bytes() -> int:
    """Bytes free for a run: the device's, or what the system, the control groups of the process
    and its own limits leave."""
    stats = jax.devices()[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return sum(
            d.memory_stats()["bytes_limit"] - d.memory_stats()["bytes_in_use"]
            for d in jax.devices()
        )
    free = _of_proc("meminfo", "MemAvailable")
    limits = [_UNKNOWN if free is None else free, _left_by_ulimit()]
    membership = _text(pathlib.Path("/proc/self/cgroup"))
    return min(*limits, left_by_groups(_GROUPS, membership))


def left_by_groups(root: pathlib.Path, membership: str) -> int:
    """What the control groups of a process leave it, the tightest of them [bytes].

    Args:
        root: where they are mounted.
        membership: the text of `/proc/self/cgroup`: of version 2 one line `0::/path`, of version 1
            one with the controller `memory`. A group is held to the limits of those it is in.
    """
    left = _UNKNOWN
    for line in membership.splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            top, names = root, ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            top = root / "memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        inner = top / path.lstrip("/")
        for group in (inner, *inner.parents):
            limit, used = _number(group / names[0]), _number(group / names[1])
            if limit is not None and used is not None:
                # What was read from files and may be dropped is free.
                words = _text(group / "memory.stat").split()
                stated = dict(zip(words[::2], words[1::2], strict=False))
                left = min(left, limit - used + int(stated.get(names[2], 0)))
            if group == top:
                break
    return max(0, left)


def _left_by_ulimit() -> int:
    """What `ulimit -v` and `ulimit -d` leave."""
    try:
        import resource
    except ImportError:  # not on Windows
        return _UNKNOWN
    left = [_UNKNOWN]
    for kind, field in ((resource.RLIMIT_AS, "VmSize"), (resource.RLIMIT_DATA, "VmData")):
        limit, used = resource.getrlimit(kind)[0], _of_proc("self/status", field)
        if limit != resource.RLIM_INFINITY and used is not None:
            left.append(max(0, limit - used))
    return min(left)


def _of_proc(file: str, field: str) -> int | None:
    """A size that a file of /proc states in kB [bytes]."""
    for line in _text(pathlib.Path("/proc") / file).splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return None


def _number(path: pathlib.Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdecimal() else None


def _text(path: pathlib.Path) -> str:
    """Of a file of the system; empty where it cannot be read."""
    with contextlib.suppress(OSError):
        return path.read_text()
    return ""
