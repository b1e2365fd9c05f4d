"""Which numbers of an agent an outer loop may change, and how it sees them."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.core import struct
from jaxrl.core.protocols import Agent
from jaxrl.core.ranges import Range
from jaxrl.core.schedules import LifetimeCurve, Schedule
from jaxrl.core.settings import list_settings, near_names, resolve_name
from jaxrl.core.types import Array, PyTree
from jaxrl.rules.contract import learned_in
from jaxrl.training.lanes import strong_floats


@struct.dataclass
class Tuned:
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
        found = {}
        for name, span in zip(self.names, self.ranges, strict=True):
            found[name] = jax.tree.map(span.free, _at(self.agent, name))
        return found

    def agent_of(self, rule_params: dict[str, PyTree]) -> Agent:
        """The agent with these free numbers."""
        agent = self.agent
        for name, span in zip(self.names, self.ranges, strict=True):
            agent = _with(agent, name.split("."), jax.tree.map(span.value, rule_params[name]))
        return agent

    def values(self, rule_params: dict[str, PyTree]) -> dict[str, PyTree]:
        """The numbers in their own units, by name."""
        spans = dict(zip(self.names, self.ranges, strict=True))
        return {name: jax.tree.map(spans[name].value, leaf) for name, leaf in rule_params.items()}


def tuned(agent: Agent, free: tuple[str, ...] | list[str] = ()) -> Tuned:
    """An agent whose `free` numbers an outer loop changes.

    Args:
        agent: with the numbers to start from.
        free: settings by dotted path or by unique last part (`discount`, `rule.lambda_`,
            `optimiser.learning_rate`), or paths of learned weights (`rule.weights`). Without any,
            what the agent's rule, optimiser and exploration declare as `learned`.

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
    """
    known = {info.name: info for info in list_settings(agent)}
    names = list(free) or learned_in(agent, "rule", "optimiser", "exploration")
    if not names:
        raise ValueError(
            f"{type(agent).__name__} has no learned rule: name the numbers to change, such as "
            "free=['discount', 'rule.lambda_']."
        )
    agent = strong_floats(agent)
    paths, ranges = [], []
    for name in names:
        path = _resolve(agent, list(known), name)
        span = Range()
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
            span = Range(float(info.low), float(info.high))
            if not _moves(span, _at(agent, path)):
                raise ValueError(
                    f"{path}={info.value} lies at an end of its range "
                    f"({info.low:g}, {info.high:g}), where nothing can move: start inside."
                )
        paths.append(path)
        ranges.append(span)
    return Tuned(agent, tuple(paths), tuple(ranges))


def timed(agent: Agent, names: tuple[str, ...] | list[str]) -> Tuned:
    """An agent whose named numbers are learned as curves over the life (`LifetimeCurve`).

    They start as the constants that they are. `tuned(agent, names)` is the same without the time.

    Args:
        agent: with numbers, not schedules, in those places.
        names: settings that may be schedules: numbers of the rule and the learning rate.

    Raises:
        KeyError, ValueError: as `tuned` would.

    Example:
        >>> from jaxrl import a2c
        >>> rule = timed(a2c(), ["entropy_weight"])
        >>> rule.names
        ('rule.entropy_weight.base', 'rule.entropy_weight.slopes')
    """
    constant = tuned(agent, names)
    agent, start = constant.agent, constant.init()
    for name, span in zip(constant.names, constant.ranges, strict=True):
        curve = LifetimeCurve(start[name], jnp.zeros(4), span.low, span.high)
        agent = _with(agent, name.split("."), curve)
    return tuned(agent, [f"{n}.{part}" for n in constant.names for part in ("base", "slopes")])


def _moves(span: Range, value: Array) -> bool:
    """Whether a value lies inside its range, as far as it is known."""
    if isinstance(value, jax.core.Tracer):
        return True
    with jax.ensure_compile_time_eval():  # inside a trace, constants are still known
        return bool(np.all(np.isfinite(span.free(value))))


def _resolve(agent: Agent, known: list[str], name: str) -> str:
    try:
        return resolve_name(known, name)
    except KeyError:
        try:
            leaves = jax.tree.leaves(_at(agent, name))
        except (AttributeError, KeyError):
            raise KeyError(f"unknown number {name!r}; {near_names(name, known)}") from None
        if not leaves or not all(
            jnp.issubdtype(jnp.asarray(x).dtype, jnp.floating) for x in leaves
        ):
            raise KeyError(f"{name!r} holds no floats to change.") from None
        return name


def _at(owner: Any, path: str) -> PyTree:
    for part in path.split("."):
        owner = owner[part] if isinstance(owner, dict) else getattr(owner, part)
    return owner


def _with(owner: Any, path: list[str], value: PyTree | Array) -> Any:
    head, *rest = path
    if rest:
        inner = owner[head] if isinstance(owner, dict) else getattr(owner, head)
        value = _with(inner, rest, value)
    return {**owner, head: value} if isinstance(owner, dict) else owner.replace(**{head: value})
