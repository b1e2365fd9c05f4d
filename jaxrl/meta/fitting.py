"""Run an outer loop: in chunks, with held-out returns, checkpoints and a plan made beforehand."""

# Bodies of protocols are their docstrings.
# pyright: reportReturnType=false

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol

import jax
import numpy as np

from jaxrl.core.protocols import Agent
from jaxrl.core.types import Array, Key, PyTree
from jaxrl.meta.lives import HELD_OUT, HeldOut, Lifetime
from jaxrl.training.checkpoint import Checkpoints
from jaxrl.training.identity import identity
from jaxrl.training.lanes import strong_floats
from jaxrl.training.memory import available_bytes, gigabytes, tree_bytes, working_bytes


class OuterLoop(Protocol):
    """What learns an update rule: three pure functions."""

    def init(self, key: Key) -> PyTree:
        """-> `state`."""

    def step(self, state: PyTree) -> tuple[PyTree, dict[str, Array]]:
        """One outer step -> `state`, `metrics` (scalars)."""

    def agent(self, state: PyTree) -> Agent:
        """The agent under what was learned so far."""


@dataclasses.dataclass(frozen=True)
class FitResult:
    """What a run of an outer loop leaves."""

    agent: Agent  # under what was learned
    state: PyTree
    metrics: dict[str, np.ndarray]  # [steps] each, from the first step of this call on
    held_out: dict[str, np.ndarray]  # `step [E]`; `final_return`, ... `[E, num_lives]`
    held_out_key: Key  # of those lives: `held_out.lives` puts any agent into them
    interrupted: bool


def fit(
    key: Key,
    outer: OuterLoop,
    *,
    num_steps: int,
    held_out: HeldOut | None = None,
    evaluate_every: int | None = None,
    chunk_steps: int = 10,
    checkpoints: Checkpoints | None = None,
    report: Callable[[int, Mapping[str, float]], None] | None = None,
) -> FitResult:
    """Learn an update rule for `num_steps` outer steps.

    Args:
        key: all randomness of the outer loop.
        outer: `MetaGradient`, `Evolution`, ...
        num_steps: outer steps in all, those before a restored checkpoint included.
        held_out: lives to look at beside the outer loss.
        evaluate_every: outer steps between two looks; by default one before the first step and one
            after the last.
        chunk_steps: outer steps in one call of the program, after which it reports, saves and
            listens to Ctrl-C. Results do not depend on it, nor on interruptions.
        checkpoints: where to save after chunks, at most once a minute, and from where to go on.
        report: told the number of steps done and the chunk's mean metrics.

    Returns:
        the agent with the learned numbers, metrics of each step and held-out returns. After Ctrl-C
        what there is by then, marked `interrupted`.

    Raises:
        ValueError: fewer than one step or chunk, or checkpoints of another run.
    """
    if num_steps < 1 or chunk_steps < 1 or (evaluate_every is not None and evaluate_every < 1):
        raise ValueError(
            f"num_steps={num_steps}, chunk_steps={chunk_steps} and evaluate_every="
            f"{evaluate_every} must all be at least 1."
        )
    outer = strong_floats(outer)  # a number changed later finds the same programs
    jax.eval_shape(outer.init, key)  # refuses settings out of range while they are known
    state, done = _begin(outer, key), 0
    run = identity(outer=outer, key=key)
    if checkpoints is not None and (found := checkpoints.restore(state, run)) is not None:
        done, state, _ = found
    held_out_key = jax.random.fold_in(key, HELD_OUT)
    looks: dict[int, Lifetime] = {}
    if held_out is not None:
        looks[done] = held_out.lives(held_out_key, outer.agent(state))
    history: list[dict[str, np.ndarray]] = []
    every, saved, interrupted = evaluate_every or num_steps, time.monotonic(), False
    try:
        while done < num_steps:
            length = min(chunk_steps, num_steps - done, every - done % every)
            state, metrics = _chunk(outer, state, length)
            done += length
            history.append(jax.device_get(metrics))
            if report is not None:
                report(done, {name: float(np.mean(row)) for name, row in history[-1].items()})
            if held_out is not None and (done % every == 0 or done == num_steps):
                looks[done] = held_out.lives(held_out_key, outer.agent(state))
            if checkpoints is not None and (time.monotonic() - saved > 60 or done >= num_steps):
                checkpoints.save(done, state, run=run)
                saved = time.monotonic()
    except KeyboardInterrupt:
        interrupted = True
        if checkpoints is not None:
            checkpoints.save(done, state, run=run)
    return FitResult(
        agent=outer.agent(state),
        state=state,
        metrics=_table(np.concatenate, history),
        held_out=({"step": np.array(list(looks))} if looks else {})
        | _table(np.stack, [jax.device_get(look.measures) for look in looks.values()]),
        held_out_key=held_out_key,
        interrupted=interrupted,
    )


@jax.jit
def _begin(outer: Any, key: Key) -> PyTree:
    return outer.init(key)


@partial(jax.jit, static_argnums=2)
def _chunk(outer: Any, state: PyTree, length: int) -> tuple[PyTree, dict[str, Array]]:
    """`length` outer steps -> state, metrics `[length]`. The loop's numbers are traced."""

    def step(state: PyTree, _: None) -> tuple[PyTree, dict[str, Array]]:
        return outer.step(state)

    return jax.lax.scan(step, state, None, length)


def _table(join: Callable, rows: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: join([row[name] for row in rows]) for name in (rows[0] if rows else ())}


@dataclasses.dataclass(frozen=True)
class Explanation:
    """What an outer step costs, before it is run."""

    compile_seconds: float  # [s]
    state_bytes: int  # of the outer state [bytes]
    temporary_bytes: int  # while a step runs, chunked as asked [bytes]
    free_bytes: int  # on this machine [bytes]
    chunk: int  # that was asked for; 0 is everything at once
    fitting_chunk: int  # the greatest that fits, by the bytes of each part; 0 for everything

    def __str__(self) -> str:
        advice = "fits"
        if self.temporary_bytes + 2 * self.state_bytes > self.free_bytes:
            advice = f"does not fit: set chunk={self.fitting_chunk}"
        return (
            f"compiled in {self.compile_seconds:.1f} s; state {gigabytes(self.state_bytes)}, "
            f"working memory {gigabytes(self.temporary_bytes)} of "
            f"{gigabytes(self.free_bytes)} free: {advice}"
        )


def explain(outer: Any) -> Explanation:
    """Compile one outer step and say what it needs; nothing is run.

    Args:
        outer: with `parts`, the lives or pairs of a step and how many are computed at once.

    Example:
        >>> from jaxrl import a2c
        >>> from jaxrl.meta import MetaGradient, RandomGrids, explain, tuned
        >>> outer = MetaGradient(tuned(a2c(), ["discount"]), RandomGrids(1e4), num_lives=2)
        >>> explain(outer).chunk
        0
    """
    started = time.perf_counter()
    shapes = jax.eval_shape(outer.init, jax.random.key(0))
    compiled = jax.jit(lambda state: outer.step(state)).lower(shapes).compile()
    seconds = time.perf_counter() - started
    state_bytes, temporary, free = tree_bytes(shapes), working_bytes(compiled), available_bytes()
    num_parts, chunk = outer.parts
    room = max(free - 2 * state_bytes, 0)
    fitting = min(num_parts, int((chunk or num_parts) * room / max(temporary, 1)))
    # A chunk divides the whole; the greatest such one.
    fitting = max([d for d in range(1, fitting + 1) if num_parts % d == 0], default=1)
    fitting = 0 if fitting == num_parts else fitting
    return Explanation(seconds, state_bytes, temporary, free, chunk, fitting)
