"""Greatest gain that a budget buys, when every price has a best plan: the chord method."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.types import Array

_MAX_TRIALS = 64


@struct.dataclass
class Purchase:
    """The prices at which the best mixture of two plans is found."""

    price: Array  # [] gain that one more unit of budget buys
    dear_price: Array  # [] the price whose plan costs at most the budget
    cheap_price: Array  # [] the price whose plan costs at least the budget, if any does


def best_purchase(plan: Callable[[Array], tuple[Array, Array]], budget: Array) -> Purchase:
    """Maximise the gain of a mixture of plans whose mean cost is at most `budget`.

    `plan(price)` returns gain and cost of a plan that maximises gain - price * cost; there are
    finitely many. Gain against cost is then a concave broken line, of which two of its corners,
    one on either side of the budget, are known. The plan at the price which makes both equally
    good is a corner between them, or else they are neighbours and the optimum is on their chord.

    Args:
        plan: `price [] -> (gain [], cost [])`, both non-negative and of order one.
        budget: `[]`, non-negative.

    Numerics:
        Ends at the first chord that no plan betters by more than rounding, at a price at which
        the corners are a discrete Newton sequence; at most 64 trials. Not to be differentiated.

    Sources:
        Radzik (1998), Fractional combinatorial optimization, section 3 (Newton's method on a
        broken line and the number of its steps).
    """
    info = jnp.finfo(budget.dtype)
    dear = jnp.asarray(info.max, budget.dtype) ** 0.5
    none = jnp.zeros_like(budget)

    def chord(cheap: tuple, costly: tuple) -> Array:
        """Price at which both corners are equally good."""
        extra = costly[2] - cheap[2]
        return jnp.where(extra > 0, (costly[1] - cheap[1]) / jnp.where(extra > 0, extra, 1.0), 0.0)

    def unfinished(state: tuple) -> Array:
        trials, is_done, _, _ = state
        return (trials < _MAX_TRIALS) & ~is_done

    def refine(state: tuple) -> tuple:
        trials, _, cheap, costly = state
        price = chord(cheap, costly)
        found = (price, *plan(price))
        above = (found[1] - cheap[1]) - price * (found[2] - cheap[2])
        is_done = ~(above > 16 * info.eps * costly[1])
        spends = found[2] > budget
        cheap = jax.tree.map(partial(jnp.where, ~is_done & ~spends), found, cheap)
        costly = jax.tree.map(partial(jnp.where, ~is_done & spends), found, costly)
        return trials + 1, is_done, cheap, costly

    cheap, costly = (dear, *plan(dear)), (none, *plan(none))
    affordable = costly[2] <= budget
    start = (jnp.zeros((), jnp.int32), affordable, cheap, costly)
    _, _, cheap, costly = jax.lax.while_loop(unfinished, refine, start)
    return Purchase(
        price=jnp.where(affordable, 0.0, chord(cheap, costly)),
        dear_price=cheap[0],
        cheap_price=costly[0],
    )


def costly_share(budget: Array, cheap_cost: Array, costly_cost: Array) -> Array:
    """Weight in [0, 1] of the costlier plan in a mixture of two that uses up the budget.

    The costs are to be those of the very plans that are mixed: made again from its price, a plan
    may break a tie otherwise than during the search.
    """
    extra = costly_cost - cheap_cost
    share = jnp.clip((budget - cheap_cost) / jnp.where(extra > 0, extra, 1.0), 0.0, 1.0)
    return jnp.where(costly_cost <= budget, 1.0, share)
