"""A sweep placed on several devices is the same sweep."""

from __future__ import annotations

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.agents.optimiser import Optimiser
from jaxrl.agents.presets import PRESETS
from jaxrl.envs.chains import riverswim
from jaxrl.envs.tabular import TabularEnv
from jaxrl.networks import NetworkSettings
from jaxrl.training.sweep import sweep

NUM_SEEDS = 6  # does not divide by four devices: the last group is padded


def sweep_numbers() -> dict[str, np.ndarray]:
    """Metrics and final parameters of a small sweep on whatever devices this process has."""
    agent = PRESETS["a2c"]().replace(
        network=NetworkSettings(hidden_sizes=(8,), initialiser="lecun"),
        optimiser=Optimiser(learning_rate=1e-2),
        num_envs=2,
        rollout_length=8,
    )
    env = TabularEnv(riverswim(4), time_limit=5.0)
    result = sweep(
        jax.random.key(0), agent, env, num_seeds=NUM_SEEDS, num_steps=128, num_records=2, lanes=1
    )
    flat = [jnp.reshape(x, (NUM_SEEDS, -1)) for x in jax.tree.leaves(result.agent_states.params)]
    return {"params": np.asarray(jnp.concatenate(flat, axis=1)), **result.metrics}


def test_four_devices_give_the_same_numbers(tmp_path):
    """Four pretended ones, in a process of its own: their number is fixed when JAX starts."""
    path = tmp_path / "numbers.npz"
    code = (
        "import sys, jax, numpy; sys.path.insert(0, sys.argv[1]); import test_devices; "
        "assert jax.device_count() == 4; "
        "numpy.savez(sys.argv[2], **test_devices.sweep_numbers())"
    )
    environment = os.environ | {
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, "-c", code, os.path.dirname(__file__), str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    theirs, ours = np.load(path), sweep_numbers()
    assert set(theirs) == set(ours) and ours["loss"].shape == (1, NUM_SEEDS, 2)
    for name, values in ours.items():
        np.testing.assert_allclose(theirs[name], values, rtol=1e-3, atol=1e-4, err_msg=name)
    assert len(np.unique(ours["loss"][0, :, 0])) == NUM_SEEDS
