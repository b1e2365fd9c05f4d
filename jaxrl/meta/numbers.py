"""Which numbers of an agent an outer loop may change, and how it sees them."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.core import Struct, struct
from jaxrl.core.protocols import Agent
from jaxrl.core.ranges import Range
from jaxrl.core.schedules import LifetimeCurve, Schedule
from jaxrl.core.settings import (
    get_path,
    list_settings,
    near_names,
    replace_path,
    resolve_name,
)
from jaxrl.core.types import Array, PyTree, is_traced
from jaxrl.rules.contract import learned_in
from jaxrl.training.lanes import strong_floats


class Tuned(Struct):
    """An agent with some of its numbers free.

    The free numbers, `rule_params`, are a dict by name. A setting with a declared range is held as
    a free number of the real line (`jaxrl.core.ranges.Range`); weights and numbers of schedules
    are held as they are. Make one with `tuned`.

    Attributes:
        agent: the rest of its numbers, and the starting point of the free ones.
        names: dotted paths from the agent.
        ranges: one for each name.
    """

    agent: Agent
    names: tuple[str, ...] = struct.field(pytree_node=False)
    ranges: tuple[Range, ...] = struct.field(pytree_node=False)

    def init(self) -> dict[str, PyTree]:
        """The free numbers that give the agent as it is."""
        spans = self._spans.items()
        return {name: jax.tree.map(span.free, get_path(self.agent, name)) for name, span in spans}

    def agent_of(self, rule_params: dict[str, PyTree]) -> Agent:
        """The agent with these free numbers."""
        agent, values = self.agent, self.values(rule_params)
        for name in self.names:
            agent = replace_path(agent, name, values[name])
        return agent

    def values(self, rule_params: dict[str, PyTree]) -> dict[str, PyTree]:
        """The numbers in their own units, by name."""
        spans = self._spans
        return {name: jax.tree.map(spans[name].value, leaf) for name, leaf in rule_params.items()}

    @property
    def _spans(self) -> dict[str, Range]:
        return dict(zip(self.names, self.ranges, strict=True))


def tuned(agent: Agent, free: tuple[str, ...] | list[str] = (), timed: bool = False) -> Tuned:
    """An agent whose `free` numbers an outer loop changes.

    Args:
        agent: with the numbers to start from.
        free: settings by dotted path or by unique last part (`discount`, `rule.lambda_`,
            `optimiser.learning_rate`), or paths of learned weights (`rule.weights`). Without any,
            what the agent's rule, optimiser and exploration say is `learned`.
        timed: learn them as curves over the life (`LifetimeCurve`), which start as the constants
            that they are: numbers of the rule, and the learning rate.

    Raises:
        KeyError: no such number; the message lists near names.
        ValueError: a number at an end of its range, a setting that is a schedule or not a float,
            or nothing to learn.

    Example:
        >>> from jaxrl import ppo
        >>> rule = tuned(ppo(), free=["clip_epsilon", "discount"])
        >>> agent = rule.agent_of({**rule.init(), "discount": 0.0})  # even odds in [0, 1]
        >>> f"{float(agent.discount):.2f}", f"{float(agent.rule.clip_epsilon):.2f}"
        ('0.50', '0.20')
        >>> tuned(ppo(), ["clip_epsilon"], timed=True).names
        ('rule.clip_epsilon.base', 'rule.clip_epsilon.slopes')
    """
    known = {info.name: info for info in list_settings(agent)}
    names = list(free) or learned_in(agent, "rule", "optimiser", "exploration")
    if not names:
        raise ValueError(
            f"{type(agent).__name__} has no learned rule: name the numbers to change, such as "
            "free=['discount', 'rule.lambda_']."
        )
    agent = strong_floats(agent)
    spans: dict[str, Range] = {}
    for name in names:
        path = _resolve(agent, list(known), name)
        spans[path] = Range()
        if path in known:
            info = known[path]
            if isinstance(info.value, Schedule):
                raise ValueError(
                    f"{path} is a schedule: give it a number, or free its own numbers, such as "
                    f"'{path}.initial'."
                )
            if not info.is_leaf:
                raise ValueError(
                    f"{path} is {type(info.value).__name__}, not a float: it changes shapes or "
                    "code and cannot be free."
                )
            spans[path] = Range(float(info.low), float(info.high))
            if not _moves(spans[path], get_path(agent, path)):
                raise ValueError(
                    f"{path}={info.value} lies at an end of its range "
                    f"({info.low:g}, {info.high:g}), where nothing can move: start inside."
                )
    constant = Tuned(agent, tuple(spans), tuple(spans.values()))
    if not timed:
        return constant
    start = constant.init()
    for path, span in spans.items():
        agent = replace_path(
            agent, path, LifetimeCurve(start[path], jnp.zeros(4), span.low, span.high)
        )
    return tuned(agent, [f"{path}.{part}" for path in spans for part in ("base", "slopes")])


def _moves(span: Range, value: Array) -> bool:
    """Whether a value lies inside its range, as far as it is known."""
    if is_traced(value):
        return True
    with jax.ensure_compile_time_eval():  # inside a trace, constants are still known
        return bool(np.all(np.isfinite(span.free(value))))


def _resolve(agent: Agent, known: list[str], name: str) -> str:
    try:
        return resolve_name(known, name)
    except KeyError:
        try:
            leaves = jax.tree.leaves(get_path(agent, name))
        except (AttributeError, KeyError):
            raise KeyError(f"unknown number {name!r}; {near_names(name, known)}") from None
        dtypes = [jnp.asarray(leaf).dtype for leaf in leaves]
        if not leaves or not all(jnp.issubdtype(dtype, jnp.floating) for dtype in dtypes):
            raise KeyError(f"{name!r} holds no floats to change.") from None
        return name
