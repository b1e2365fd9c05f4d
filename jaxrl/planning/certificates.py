"""How far from the fixed point values can be, from one sweep, rounding included.

Let T be the operator, v any values, u = T v as computed, a and b the least and the greatest of
u - v over states. A monotone T obeys, for every constant c >= 0,

    T v + low c  <=  T (v + c)  <=  T v + high c

where `low` and `high` bound the discount that a state and action can see on average. Applying T
again and again, the fixed point lies between u + a f and u + b f with f = high / (1 - high),
or low / (1 - low) where that is the safer (a > 0 or b < 0). Where the discount is the same
everywhere, the interval is as wide as the *span* b - a and its middle is a far better estimate
than u: `shift` moves there.

At `high` >= 1 a second bound stands in, weights w with w >= H w + 1, where H w is the greatest
discounted sum of w over actions and over nature's laws: the time to the end at most. Then
T (v + c w) <= T v + c (w - 1), and f = max w - 1. They are found by value iteration; when some
policy (or nature) can go on for ever there are none, and no certificate.

Nothing is certified (`error_bound` is inf) when `BellmanOperator.contracts` is false: a functional
that is not monotone or not translation equivariant, an improvement that expands, or a mapped
return.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl.core import Struct
from jaxrl.core.mdp import TabularMDP
from jaxrl.core.types import Array
from jaxrl.functionals.per_pair import over_pairs
from jaxrl.operators.bellman import BellmanOperator
from jaxrl.planning.backups import (
    Prepared,
    discounts,
    extremes,
    is_large,
    is_linear,
    is_shared,
    prepare,
    some_pairs,
    state_values,
    successor_values,
)

MAX_TIME_SWEEPS = 100_000  # when looking for the expected time to the end


class Certificate(Struct):
    """What one sweep says about the fixed point; made once for a model and an operator."""

    high: Array  # [], f where the change speaks for more; inf: no certificate
    low: Array  # [], f where it speaks for less
    is_uniform: Array  # [] bool, the discount is the same everywhere: shifts are worth while
    unit: Array  # [], rounding of one sweep per unit of the greatest value
    discount: Array  # [], at most what one sweep leaves of an error; 1 or more: unknown
    reward_size: Array  # [] [return]

    @property
    def exists(self) -> Array:
        """`[]` bool."""
        return jnp.isfinite(self.high)


class Bounds(Struct):
    """Where the fixed point lies: between u + shift - error_bound and u + shift + error_bound."""

    shift: Array  # [] [return], common to all states
    error_bound: Array  # [] [return], rounding included
    spread: Array  # [] [return], the same without rounding: what further sweeps can lower
    residual: Array  # [] [return], sup norm of the change once the common shift is made
    rounding: Array  # [] [return], in one sweep
    recentre: Array  # [] [return], what to add to v so that its change is centred


def bound(certificate: Certificate, values: Array, swept: Array) -> Bounds:
    """What a sweep says.

    Args:
        certificate: of the operator and the model.
        values: `[S]`, v [return].
        swept: `[S]`, T v as computed [return].
    """
    c, eps = certificate, jnp.finfo(values.dtype).eps
    least, most = extremes(swept - values)
    size = jnp.maximum(_greatest(*extremes(values)), _greatest(*extremes(swept)))
    rounding = c.unit * (c.reward_size + size)
    low, high = _interval(c, least, most)
    safe_low, safe_high = _interval(
        c, least - rounding - eps * jnp.abs(least), most + rounding + eps * jnp.abs(most)
    )
    middle = 0.5 * low + 0.5 * high
    shift = jnp.where(c.is_uniform & jnp.isfinite(middle), middle, 0.0)
    # u itself is off by its rounding, and the shift rounds once more.
    error = jnp.maximum(safe_high - shift, shift - safe_low) + rounding
    error = (error + eps * (size + jnp.abs(shift))) * (1.0 + 16.0 * eps)
    recentre = jnp.where(c.is_uniform, shift / jnp.where(c.discount > 0, c.discount, 1.0), 0.0)
    centred = jnp.where(c.is_uniform & (c.discount > 0), 0.5 * (least + most), 0.0)
    spread = jnp.maximum(high - shift, shift - low)
    plain = _greatest(least, most)
    finite = jnp.isfinite(plain)
    return Bounds(
        shift=shift,
        error_bound=jnp.where(c.exists & finite, error, jnp.inf),
        spread=jnp.where(c.exists, spread, plain),
        residual=jnp.maximum(most - centred, centred - least) + rounding,
        rounding=rounding,
        recentre=recentre,
    )


def error_of(mdp: TabularMDP, operator: BellmanOperator, values: Array, swept: Array) -> Array:
    """A bound `[]` [return] on the error of `values[S]` themselves, from their backup `swept[S]`;
    infinite without a certificate."""
    bounds = bound(certify(prepare(mdp, operator)), values, swept)
    return bounds.error_bound + jnp.max(jnp.abs(swept + bounds.shift - values))


def widen(
    certificate: Certificate, least: Array, most: Array, values: Array
) -> tuple[Array, Array]:
    """How far action values move, and what rounding adds, when values move by least to most.

    Args:
        certificate: of a monotone and translation equivariant operator.
        least: `[]` [return].
        most: `[]` [return].
        values: `[S]` [return], after the move.
    """
    c = certificate
    weakest = c.low / (1.0 + c.low)  # the least discount
    size = _greatest(*extremes(values)) + _greatest(least, most)
    margin = 2.0 * c.unit * (c.reward_size + size)
    below = least * jnp.where(least < 0, c.discount, weakest)
    above = most * jnp.where(most > 0, c.discount, weakest)
    return below - margin, above + margin


def _greatest(low: Array, high: Array) -> Array:
    return jnp.maximum(high, -low)


def _interval(c: Certificate, least: Array, most: Array) -> tuple[Array, Array]:
    """Bounds on (fixed point - u) from bounds on u - v."""
    # Never 0 * inf: without a change there is nothing left to come, whatever the factor.
    high = jnp.where(c.exists, c.high, 0.0)
    low = least * jnp.where(least < 0, high, c.low)
    return low, most * jnp.where(most > 0, high, c.low)


def certify(prepared: Prepared) -> Certificate:
    """The certificate of an operator on a model.

    Args:
        prepared: the model and the operator, which has a scalar head.
    """
    mdp, operator, mass = prepared.mdp, prepared.operator, prepared.mass
    dtype = mdp.prob.dtype
    eps = jnp.finfo(dtype).eps
    unit = jnp.asarray(rounding_unit(mdp, operator), dtype)
    # No composition makes more than 2 |r| + |z| of a reward and the return that follows.
    reward_size = prepared.reward_size * (1.0 if operator.composition.facts.linear else 2.0)
    if not operator.contracts:
        endless = jnp.asarray(jnp.inf, dtype)
        zero = jnp.zeros((), dtype)
        return Certificate(endless, zero, zero > 0, unit, endless, reward_size)

    if is_linear(operator):
        going_on = mdp.discount * mass if mdp.is_endless else jnp.sum(prepared.weights, axis=-1)
        least, most = extremes(going_on)
    else:
        # An adversary may look at any outcome; laws may be rescaled to sum to one, or not.
        (low, high), (lightest, heaviest) = extremes(discounts(mdp)), extremes(mass)
        least, most = low * jnp.minimum(lightest, 1.0), high * jnp.maximum(heaviest, 1.0)
    margin = (mdp.num_outcomes + 4) * eps
    # A common discount may differ by its rounding from row to row.
    is_uniform = (most - least <= 2.0 * margin * most) & operator.composition.facts.linear
    if not operator.composition.facts.linear:
        least = jnp.zeros_like(least)
    least, most = least * (1.0 - margin), most * (1.0 + margin)
    contracts = most < 1.0
    high = jnp.where(contracts, most / jnp.where(contracts, 1.0 - most, 1.0), jnp.inf)
    low = jnp.where(contracts, least / jnp.where(contracts, 1.0 - least, 1.0), 0.0)
    high, low = high * (1.0 + 4.0 * eps), low * (1.0 - 4.0 * eps)
    if not mdp.is_endless:
        high = jnp.where(contracts, high, _time_to_end(mdp, operator, most >= 1.0) * (1 + 4 * eps))
    return Certificate(high, low, is_uniform & contracts, unit, most, reward_size)


def rounding_unit(mdp: TabularMDP, operator: BellmanOperator) -> float:
    """Rounding error of one sweep, per unit of the greatest number in it.

    For the expectation the error of a sum of K products in any order. Every other functional is
    taken to be as good as the library promises in float32: 64 K u, with u half the distance
    between 1 and the next number; it grows with the number of the model's outcomes K.
    """
    half = 0.5 * float(jnp.finfo(mdp.prob.dtype).eps)
    is_expectation = operator.successor_functional.facts.is_expectation
    terms = mdp.num_outcomes + 4 if is_expectation else 64 * mdp.num_outcomes
    actions = 0 if operator.improvement.facts.deterministic else mdp.num_actions + 8
    return (terms + actions) * half * 1.01


def _time_to_end(mdp: TabularMDP, operator: BellmanOperator, needed: Array) -> Array:
    """max w / k - 1 for some w >= H w + k, k > 0; inf when some policy may never end.

    w_n = 1 + H w_(n - 1) from 0 is the expected time within n steps at most, whose increments
    are the greatest probability of going on: they never grow, and are one after S steps if and
    only if some policy goes on for ever.
    """

    def unfinished(state: tuple) -> Array:
        trips, _, _, growth = state
        endless = (trips > mdp.num_states) & (growth >= 1.0 - 1e-6)
        return needed & (trips < MAX_TIME_SWEEPS) & (growth > 0.1) & ~endless

    def lengthen(state: tuple) -> tuple:
        trips, _, time, _ = state
        further = 1.0 + _greatest_rest(mdp, operator, time)
        return trips + 1, time, further, jnp.max(further - time)

    first = jnp.zeros((mdp.num_states,), mdp.prob.dtype)
    begin = (jnp.zeros((), jnp.int32), first, first, jnp.ones((), first.dtype))
    _, time, _, growth = jax.lax.while_loop(unfinished, lengthen, begin)
    unit = rounding_unit(mdp, operator)
    slack = 1.0 - growth - 2.0 * unit * (1.0 + jnp.max(time))
    known = slack > 0.5
    return jnp.where(known, jnp.max(time) / jnp.where(known, slack, 1.0) - 1.0, jnp.inf)


def _greatest_rest(mdp: TabularMDP, operator: BellmanOperator, weights: Array) -> Array:
    """H w, `[S]`: at least what a backup gains when w >= 0 is added to the values."""
    functional = operator.successor_functional
    rest = discounts(mdp) * successor_values(mdp, weights)
    if functional.facts.coherent:
        # The greatest mean over the adversary's set: never less than what it picks.
        gains = -over_pairs(functional, mdp.prob, -rest)
    else:
        gains = jnp.broadcast_to(jnp.max(rest, axis=-1), mdp.prob.shape[:2])
    if operator.improvement.facts.sublinear:
        return state_values(mdp, operator, gains)[0]
    return jnp.max(jnp.where(mdp.legal, gains, 0.0), axis=1)


class Candidates(Struct):
    """What is known of the action values at some values of the states.

    Where an operator is monotone and translation equivariant, a change of the values between -x and
    y moves no action value by more than -g x and g y, g the greatest discount. So what one backup
    found bounds the action values of the next, and an action whose upper bound is below another's
    lower bound need not be looked at: the greatest is still found exactly, with its certificate.
    That pays for large models and costly functionals.

    Sources:
        MacQueen (1967), A test for suboptimal actions in Markovian decision problems; Hastings &
        Mello (1973), Tests for suboptimal actions in discounted Markov programming.
    """

    point: Array  # [S] [return], the values of the states
    low: Array  # [S, A] [return]
    high: Array  # [S, A] [return]; equal to `low` where the action was looked at

    def backup(
        self, prepared: Prepared, certificate: Certificate, values: Array
    ) -> tuple[tuple[Array, Array, Array], Candidates]:
        """As `Prepared.backup`, but that q of an action left out is an upper bound."""
        mdp, operator = prepared.mdp, prepared.operator
        below, above = widen(certificate, *extremes(values - self.point), values)
        low, high = self.low + below, self.high + above
        best = jnp.max(jnp.where(mdp.legal, low, -jnp.inf), axis=1, keepdims=True)
        rivals = mdp.legal & (high >= best)
        q_values = some_pairs(mdp, operator, values, rivals, high)
        known = Candidates(values, jnp.where(rivals, q_values, low), q_values)
        return state_values(mdp, operator, q_values), known

    def complete(self, prepared: Prepared, values: Array) -> Array:
        """Every action value at `values`, `[S, A]`; cheap where the last sweep was made there."""
        was_seen = (self.low == self.high) & jnp.all(values == self.point)
        chosen = prepared.mdp.legal & ~was_seen
        return some_pairs(prepared.mdp, prepared.operator, values, chosen, self.high)


def candidates(prepared: Prepared, values: Array) -> Candidates | None:
    """Before the first sweep: nothing is known. None where every action is to be looked at."""
    mdp, operator = prepared.mdp, prepared.operator
    greedy = operator.improvement.facts.deterministic and operator.contracts
    is_worth = is_large(mdp) and not is_linear(operator) and not is_shared(operator)
    if not (is_worth and greedy and operator.composition.facts.linear):
        return None
    far = jnp.full(mdp.legal.shape, jnp.inf, values.dtype)
    return Candidates(values, -far, far)
