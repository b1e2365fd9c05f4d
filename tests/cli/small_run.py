"""A run small enough to compile in seconds: the same shapes everywhere, so that it does so once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
import pytest

from jaxrl.cli import arguments, job

# A linear network: few leaves, each of which costs a program where agents are taken apart.
SMALL = ["--agent", "pqn", "--set", "num_envs=4", "rollout_length=8", "hidden_sizes="]
SMALL += ["--set", "num_epochs=1"]
SMALL += ["--set", "num_minibatches=1", "--num-seeds", "2", "--num-steps", "1280"]
SMALL += ["--num-records", "40"]

Run = Callable[..., tuple[int, str, str]]


def train_job(agent: str, env: str, **options: str | tuple[str, ...]) -> job.Job:
    """The run that `jaxrl train` with these options would make."""
    words = ["train", "--agent", agent, "--env", env]
    for name, given in options.items():
        words += [f"--{name}", *((given,) if isinstance(given, str) else given)]
    return job.make_job(arguments.parse(words))


def strong(tree: Any) -> Any:
    """The same struct with Python floats as arrays, as the command makes programs of them."""
    return jax.tree.map(lambda x: np.float32(x) if isinstance(x, float) else x, tree)


@contextlib.contextmanager
def no_pictures() -> Iterator[None]:
    """The command leaves out its pictures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxrl.report.learning_curves", lambda *_, **__: None)
        patch.setattr("jaxrl.report.draw_plan", lambda *_, **__: None)
        yield
