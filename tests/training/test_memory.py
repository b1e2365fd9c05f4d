"""What a run needs, against what the system says, and what is free, by files as systems write."""

from __future__ import annotations

import resource
import subprocess
import sys

import pytest

from jaxrl.training import memory

MB = 2**20


def group(folder, limit, used, names, dropped=0):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{used}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{names[2]} {dropped}\n")


def test_the_tightest_of_nested_groups_counts(tmp_path):
    names = ("memory.max", "memory.current", "inactive_file")
    membership = "0::/slurm/job_7/step_0\n"
    assert memory.left_by_groups(tmp_path, membership) == memory._UNKNOWN  # no such files
    group(tmp_path / "slurm/job_7/step_0", "max", 40 * MB, names)
    group(tmp_path / "slurm/job_7", 100 * MB, 60 * MB, names, dropped=15 * MB)
    group(tmp_path / "slurm", 900 * MB, 100 * MB, names)
    assert memory.left_by_groups(tmp_path, membership) == 55 * MB
    group(tmp_path / "slurm", 120 * MB, 119 * MB, names)
    assert memory.left_by_groups(tmp_path, membership) == MB
    group(tmp_path, 10 * MB, 30 * MB, names)  # a container sees its own group at the root
    assert memory.left_by_groups(tmp_path, "0::/\n") == 0


def test_groups_of_the_first_version(tmp_path):
    names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    group(tmp_path / "memory/docker/a", 50 * MB, 20 * MB, names, dropped=3 * MB)
    group(tmp_path / "cpu/docker/a", 1, 1, names)
    membership = "5:cpu,cpuacct:/docker/a\n4:memory:/docker/a\n1:name=systemd:/docker/a\n"
    assert memory.left_by_groups(tmp_path, membership) == 33 * MB


@pytest.mark.parametrize("kind", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_ulimit_counts(kind):
    memory.available_bytes()  # starts JAX, which maps memory
    before = resource.getrlimit(getattr(resource, kind))
    used = memory._of_proc("self/status", {"RLIMIT_AS": "VmSize", "RLIMIT_DATA": "VmData"}[kind])
    try:
        resource.setrlimit(getattr(resource, kind), (used + 500 * MB, before[1]))
        assert 400 * MB < memory.available_bytes() <= 500 * MB
    finally:
        resource.setrlimit(getattr(resource, kind), before)


def test_the_remedy_is_the_true_one():
    """Two groups of 8 lanes stay with 100 each and work one after the other with 1000."""
    plan = memory.MemoryNeed(100, 1000, num_groups=2, num_workers=1, available=700)
    with pytest.raises(MemoryError, match="--lanes 4 fits"):
        plan.check(8, 1)
    assert memory.MemoryNeed(100, 500, 2, 1, 700).total == 700  # half the lanes work with half
    with pytest.raises(MemoryError, match="--lanes 2 fits"):
        plan.check(8, 1, num_devices=2)
    with pytest.raises(MemoryError, match="Not even one seed"):
        memory.MemoryNeed(100, 1000, 2, 1, 150).check(8, 1)  # what stays does not fit either
    copied = memory.MemoryNeed(100, 0, 2, 1, 350, metrics=20, num_copies=2)
    assert copied.total == 440 and copied.groups_that_fit == 1


RUN = """
import sys, tempfile
import jax, jaxrl
from jaxrl.training import memory
from jaxrl import envs
from jaxrl.agents.presets import preset

name, env, num_seeds, num_steps, saves, *changes = eval(sys.argv[1])
agent = preset(name)
for setting, value in changes:
    agent = jaxrl.core.settings.replace_setting(agent, setting, value)
with tempfile.TemporaryDirectory() as folder:
    found = jaxrl.sweep(
        jax.random.key(0),
        agent,
        envs.make(env),
        num_seeds=num_seeds,
        num_steps=num_steps,
        num_records=2,
        checkpoints=jaxrl.Checkpoints(folder) if saves else None,
    )
peak = memory._of_proc("self/status", "VmHWM")  # of this program alone
print(found.forecast.memory.peak, peak)
"""
LARGE = [
    ("dqn", "CartPole", 16, 500, True, ("replay.capacity", 500_000)),
    ("sac", "Pendulum", 48, 64, False),
    ("ppo", "CartPole", 2, 131_072, False, ("num_envs", 512), ("rollout_length", 128)),
]


@pytest.mark.slow
@pytest.mark.parametrize("case", LARGE, ids=lambda case: case[0])
def test_the_peak_is_foreseen(case):
    """A large replay with checkpoints, many small agents, and a large rollout."""
    command = [sys.executable, "-c", RUN, repr(case)]
    foreseen, found = map(int, subprocess.check_output(command, text=True).split())
    assert abs(foreseen / found - 1.0) < 0.15, (foreseen / MB, found / MB)
