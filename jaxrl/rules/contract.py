"""What actor-critic rules and their agents exchange."""

from __future__ import annotations

import functools
from operator import attrgetter
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.core import Struct, struct
from jaxrl.core.holding import held
from jaxrl.core.law import Law
from jaxrl.core.protocols import Head, rule_facts
from jaxrl.core.settings import setting
from jaxrl.core.types import Array, Key, Progress, PyTree, Transition
from jaxrl.returns import generalised_advantages, lambda_laws

MOST_LOG_RATIO = 20.0  # e^20 and its square are float32
NO_HEADS: dict[str, tuple[int, ...]] = {}  # `outputs` of a rule that asks for no network heads


class PolicyOutputs(Struct):
    """What the network says of a step under the current parameters. Any leading axes."""

    log_prob: Array  # [] of the action taken [nats]
    entropy: Array  # [] [nats]
    value: Array  # [] [return]
    next_value: Any = None  # [] of the true successor; wanted by `targets` only
    policy: Any = None  # `PolicyLaw` over all actions
    heads: dict[str, Array] = struct.field(default_factory=dict)  # those of the rule's `outputs`
    next_heads: dict[str, Array] = struct.field(default_factory=dict)  # of the true successor
    head: Head | None = None  # of an operator, where it stores laws; wanted by `targets` only
    next_laws: Law | None = None  # [K] of the true successor, where there is such a head
    value_loss: Array | None = None  # [] of an operator's head; None: the value itself is learned


class PolicyTargets(Struct):
    """What a rule computes once per rollout, outside the gradient. Any leading axes."""

    advantage: Array  # [] [return], standardised by the agent if it is set to
    returns: Array  # [] [return], what the value is regressed on
    log_prob: Array  # [] of the action under the policy that took it [nats]
    value: Array  # [] before any update of this rollout [return]
    policy: Any = None  # `PolicyLaw` that took the action
    heads: dict[str, Array] = struct.field(default_factory=dict)  # targets of the rule's heads
    laws: Array | None = None  # [*head.shape] of the return, what a head of laws is fitted to


def log_ratio(outputs: PolicyOutputs, targets: PolicyTargets) -> Array:
    """Log of the new probability of the action over the old one `[...]`, held in [-20, 20] [nats].

    Within, where every clip and drift does its work, nothing is changed; beyond, no power of the
    ratio overflows, and slopes are those at the end: a bad action that has become likely is still
    made less so.
    """
    return held(outputs.log_prob - targets.log_prob, MOST_LOG_RATIO)


def advantage_targets(
    lambda_: float | Array, outputs: PolicyOutputs, trajectory: Transition
) -> PolicyTargets:
    """Generalised advantages and lambda-returns of a trajectory `[T, ...]`.

    Termination cuts through `discount`, truncation through the trace alone.
    """
    trace = lambda_ * (1.0 - trajectory.truncated)
    advantage = generalised_advantages(
        trajectory.reward, trajectory.discount, outputs.value, outputs.next_value, trace
    )
    returns = advantage + outputs.value
    laws = None
    if outputs.head is not None and outputs.next_laws is not None:
        laws = lambda_laws(
            outputs.head, trajectory.reward, trajectory.discount, outputs.next_laws, trace
        )
    return PolicyTargets(advantage, returns, outputs.log_prob, outputs.value, laws=laws)


def value_loss(
    outputs: PolicyOutputs, targets: PolicyTargets, clip: float | Array | None = None
) -> Array:
    """Half the squared error of a value that may not leave its old one by more than `clip`.

    loss = max((v - R)^2, (v_old + clip(v - v_old, -clip, clip) - R)^2) / 2

    Where an operator's head stores the value, that head's own loss, which is not clipped.

    Args:
        outputs: with `value` v `[...]` under the current parameters [return].
        targets: with `returns` R and `value` v_old `[...]` [return].
        clip: half-width [return]; None or infinite for the plain squared error.
    """
    if outputs.value_loss is not None:
        return outputs.value_loss
    value = outputs.value
    if clip is None:
        return 0.5 * (value - targets.returns) ** 2
    change = jnp.clip(value - targets.value, -clip, clip)
    clipped = targets.value + change
    return 0.5 * jnp.maximum((value - targets.returns) ** 2, (clipped - targets.returns) ** 2)


def half_width(of: str, unit: str = "") -> Any:
    """A setting: half the width of a clip; infinite for none."""
    about = f"half-width of the {of}'s clip"
    return setting(0.2, about, unit=unit, low=0.0, low_open=True, infinite=True)


# ---- what most rules have in common: `init = remember_nothing` in a class makes it the rule's ----


def remember_nothing(rule: Any, params: PyTree) -> tuple:
    """Nothing is remembered: `()`."""
    return ()


def plain_targets(
    rule: Any, rule_state: tuple, outputs: PolicyOutputs, trajectory: Transition, progress: Progress
) -> tuple[PolicyTargets, tuple]:
    """Advantages and returns `[T, ...]` under the rule's `lambda_`."""
    return advantage_targets(rule.lambda_, outputs, trajectory), rule_state


def of_inner(name: str) -> Any:
    """What a rule round another one, its `rule`, leaves to that: a property or method `name`."""
    return property(attrgetter(f"rule.{name}"), doc=f"The inner rule's `{name}`.")


def each_of(numbers: Any) -> Array:
    """One number for each cost `[C]`, of a setting that may be one number alone."""
    return jnp.atleast_1d(jnp.asarray(numbers))


def reported(rule: Any, rule_state: PyTree) -> dict[str, Array]:
    """Metrics `[]` of what the rule's facts name: `cost_0`, `cost_1`, ... of a field `[C]`."""
    found = {}
    for name in rule_facts(rule).reported:
        value = getattr(rule_state, name)
        rows = {f"{name}_{i}": value[i] for i in range(value.shape[0])} if value.ndim else {}
        found |= rows or {name: value}
    return found


def learned_in(owner: Any, *parts: str) -> tuple[str, ...]:
    """What is learned of these parts of a rule or agent, by dotted path; it may lack some."""
    held = {part: getattr(owner, part) for part in parts if hasattr(owner, part)}
    return tuple(f"{part}.{name}" for part in held for name in rule_facts(held[part]).learned)


# ---- weights of the small networks that rules are made of --------------------------------------


def random_weights(key: Key, **shapes: tuple[int, ...]) -> dict[str, Array]:
    """Normal arrays by name, of variance 1 / (length of the first axis).

    Source: LeCun et al. 1998, Efficient backprop, section 4.6.

    Example:
        >>> weights = random_weights(jax.random.key(0), hidden=(100, 20), output=(20,))
        >>> weights["hidden"].shape, f"{float(weights['hidden'].std()):.1f}"
        ((100, 20), '0.1')
    """
    return _drawn(key, tuple(shapes.items()))


@functools.partial(jax.jit, static_argnums=1)  # one program, not one for each shape
def _drawn(key: Key, shapes: tuple[tuple[str, tuple[int, ...]], ...]) -> dict[str, Array]:
    keys = jax.random.split(key, len(shapes))
    return {
        name: jax.random.normal(name_key, shape) / shape[0] ** 0.5
        for (name, shape), name_key in zip(shapes, keys, strict=True)
    }
