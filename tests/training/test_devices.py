"""A sweep placed on several devices is the same sweep, and its checkpoint restores on others."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec
from toys import KEY, Clock, Diary

from jaxrl.training import Checkpoints, sweep

pytestmark = pytest.mark.slow  # a process of its own
NUM_SEEDS = 6  # does not divide by four devices: the last group is padded


def sweep_numbers() -> dict[str, np.ndarray]:
    """Metrics and all that the learners wrote down, on whatever devices this process has."""
    agent = Diary(num_envs=2, rollout_length=8, num_pages=8)
    result = sweep(KEY, agent, Clock(), num_seeds=NUM_SEEDS, num_steps=128, num_records=2, lanes=1)
    groups = jax.device_get(result.groups)
    lives = jax.tree.map(lambda *leaves: np.concatenate(leaves), *groups)
    return {"weight": lives.weight, "written": lives.written, **result.metrics}


def state_on(num_devices: int) -> dict[str, jax.Array]:
    """Eight lanes spread over so many devices."""
    mesh = jax.make_mesh((num_devices,), ("seed",), devices=jax.devices()[:num_devices])
    keys = jax.random.split(jax.random.key(1), 8)
    state = {"weights": jnp.arange(24.0).reshape(8, 3), "key": keys}
    return jax.device_put(state, NamedSharding(mesh, PartitionSpec("seed")))


def check_restored_elsewhere() -> None:
    """What was saved from two devices comes back on one, two and four."""
    checkpoints = Checkpoints(tempfile.mkdtemp())
    saved = state_on(2)
    checkpoints.save(1, saved)
    for num_devices in (1, 2, 4):
        like = state_on(num_devices)
        _, tree, _ = checkpoints.restore(like)
        assert jax.tree.map(lambda x: x.sharding, tree) == jax.tree.map(lambda x: x.sharding, like)
        assert len(tree["weights"].sharding.device_set) == num_devices
        np.testing.assert_array_equal(tree["weights"], saved["weights"])
        data = jax.tree.map(np.asarray, jax.random.key_data(tree["key"]))
        np.testing.assert_array_equal(data, jax.random.key_data(saved["key"]))


ELSEWHERE = """
import sys, jax, numpy
sys.path.insert(0, sys.argv[1])
import test_devices
assert jax.device_count() == 4
numpy.savez(sys.argv[2], **test_devices.sweep_numbers())
test_devices.check_restored_elsewhere()
print("restored")
"""


@functools.cache
def elsewhere() -> tuple[subprocess.CompletedProcess, dict[str, np.ndarray]]:
    """What a process with four pretended devices did: their number is fixed when JAX starts."""
    path = os.path.join(tempfile.mkdtemp(), "numbers.npz")
    environment = os.environ | {"JAX_NUM_CPU_DEVICES": "4", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-W", "error::UserWarning", "-c", ELSEWHERE]
    command += [os.path.dirname(__file__), path]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    return done, dict(np.load(path)) if os.path.exists(path) else {}


def test_four_devices_give_the_same_numbers():
    done, theirs = elsewhere()
    ours = sweep_numbers()
    assert set(theirs) == set(ours), done.stderr[-3000:]
    assert ours["loss"].shape == (1, NUM_SEEDS, 2)
    np.testing.assert_array_equal(theirs["written"], ours["written"])
    for name, values in ours.items():
        np.testing.assert_allclose(theirs[name], values, rtol=1e-6, err_msg=name)
    assert len(np.unique(ours["loss"][0, :, 0])) == NUM_SEEDS


def test_a_sweep_on_several_devices_restores_on_others():
    done, _ = elsewhere()
    assert done.returncode == 0 and done.stdout.endswith("restored\n"), done.stderr[-3000:]
