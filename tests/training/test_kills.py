"""A sweep of a recurrent agent that is killed at any file operation of a save loses nothing."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxrl.agents import PRESETS
from jaxrl.envs import make
from jaxrl.networks import NetworkSettings
from jaxrl.training import Checkpoints, Silent, checkpoint_format, sweep

# One process imports once; for each number it forks a child that saves, and is killed before the
# file operation of that number that it has begun in the folder. Where there are fewer, it ends.
FORKS = """
import os, pathlib, pickle, signal, sys
import orbax.checkpoint
from jaxrl.training import Checkpoints, checkpoint_format

folder, saved = sys.argv[1:]
encoded, arguments = pickle.loads(pathlib.Path(saved).read_bytes())
checkpoint_format.encode = lambda tree: encoded
OPERATIONS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.truncate")

def save_and_die(at):
    count = 0
    def hook(event, values):
        nonlocal count
        if event in OPERATIONS and str(values[0]).startswith(folder):
            count += 1
            if count == at:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(hook)
    Checkpoints(folder).save(arguments[0], None, *arguments[1:])

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        save_and_die(int(line))
        os._exit(0)
    print(os.waitpid(child, 0)[1], flush=True)
"""

AGENT = PRESETS["ppo"]().replace(
    network=NetworkSettings(hidden_sizes=(4,), recurrent_size=4),
    num_envs=2,
    rollout_length=8,
    num_minibatches=1,
    num_epochs=1,
)


class StopAt(Silent):
    def __init__(self, share):
        self.share = share

    def on_chunk(self, share):
        return share >= self.share


class Recorded(Checkpoints):
    """Keeps what was saved, by step, and the last as the format writes it."""

    def save(self, step, tree, *about):
        super().save(step, tree, *about)
        TREES[step] = jax.tree.map(bits, tree)
        object.__setattr__(self, "tree", tree)
        object.__setattr__(self, "last", (checkpoint_format.encode(tree), (step, *about)))


TREES = {}


def bits(leaf):
    is_key = jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return np.array(jax.random.key_data(leaf) if is_key else leaf)


def run(checkpoints=None, stop=2.0):
    return sweep(
        jax.random.key(3),
        AGENT,
        make("CartPole", time_limit=6.0),
        num_seeds=2,
        num_steps=16 * 8,
        over={"learning_rate": [1e-3, 1e-2]},
        num_records=2,
        lanes=4,
        observer=StopAt(stop),
        checkpoints=checkpoints,
    )


@pytest.mark.slow
def test_a_kill_at_any_file_operation_of_a_save_changes_no_bit(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("jaxrl.training.session._CHUNK_SECONDS", 0.0)
    begun, folder, saved = tmp_path / "begun", tmp_path / "run", tmp_path / "saved"
    whole, recorded = run(), Recorded(begun)
    assert run(recorded, stop=0.4).interrupted  # in the middle of the first record
    shutil.copytree(begun, folder)
    assert run(recorded, stop=0.6).interrupted
    saved.write_bytes(pickle.dumps(recorded.last))
    shutil.rmtree(begun)
    shutil.copytree(folder, begun)
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    tried, at = set(), 0
    with subprocess.Popen(
        [sys.executable, "-c", FORKS, str(folder), str(saved)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    ) as forks:
        status = 9
        while status == 9:
            at += 1
            shutil.rmtree(folder)
            shutil.copytree(begun, folder)
            forks.stdin.write(f"{at}\n")
            forks.stdin.flush()
            status = int(forks.stdout.readline())
            step, tree, _ = Checkpoints(folder).restore(recorded.tree)
            jax.tree.map(np.testing.assert_array_equal, jax.tree.map(bits, tree), TREES[step])
            if step in tried:  # what follows is known
                continue
            tried.add(step)
            found = run(Checkpoints(folder))
            for name, values in whole.metrics.items():
                np.testing.assert_array_equal(found.metrics[name], values, err_msg=name)
            ours, theirs = (jax.tree.leaves(x.agent_states) for x in (found, whole))
            jax.tree.map(np.testing.assert_array_equal, ours, theirs)
        forks.stdin.close()
    assert status == 0 and at > 20 and tried == set(TREES)
