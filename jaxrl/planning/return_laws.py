"""The law of the return over a finite horizon, under a policy or a plan that sees the stock."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from numpy.typing import ArrayLike

from jaxrl.core import Struct
from jaxrl.core.law import Law
from jaxrl.core.mdp import TabularMDP
from jaxrl.core.types import Array
from jaxrl.planning.episodes import Episodes, on_episodes
from jaxrl.planning.solution import check_int, check_policy


class ReturnLaw(Struct):
    """A law of returns, and how far it may be from the exact one."""

    law: Law  # [N], atoms increasing; unused ones have probability zero
    error_bound: Array  # [] [return], bounds the 1-Wasserstein distance to the exact law
    is_exact: Array  # [] bool, no two different returns were merged; `error_bound` is rounding


def return_law(
    mdp: TabularMDP,
    policy: ArrayLike,
    *,
    horizon: int,
    initial_state: int | Array | None = None,
    num_atoms: int = 512,
) -> ReturnLaw:
    """The law of G = sum_{t < H} discount^t r_t under a policy that may depend on time.

        Z_t(s) = mixture over actions and outcomes of the laws of discount^t r + Z_{t+1}(s')

    Equal atoms are merged as they arise. The law is exact, and says so, as long as no state has
    more than `num_atoms` different returns: at any discount for short horizons (there may be as
    many returns as paths), and at any length when discount = 1 and rewards lie on a lattice.
    Beyond that, atoms that are near are merged to their mean: the mean of the law stays exact, and
    the distance moved is added to `error_bound`.

    Args:
        mdp: the model; a fractional `terminal` is the probability of ending.
        policy: probabilities `[S, A]`, or `[H, S, A]` of each time.
        horizon: H, steps.
        initial_state: where episodes start; default the law `mdp.initial`.
        num_atoms: N, kept for each state.

    Raises:
        ValueError: a concrete argument is out of range.

    Numerics:
        Atoms within 16 units of rounding of the largest return count as equal. A law of the
        distance E to the exact one has a CVaR within E / level of the exact, and a mean within
        rounding.

    Example:
        >>> from jaxrl import outcome_mdp
        >>> mdp = outcome_mdp([[[0.5, 0.5]]], [[[0, 0]]], [[[0.0, 1.0]]], 1.0)
        >>> found = return_law(mdp, [[1.0]], horizon=2, num_atoms=4)
        >>> found.law.atoms.tolist(), found.law.probs.tolist(), bool(found.is_exact)
        ([0.0, 1.0, 2.0, 2.0], [0.25, 0.5, 0.25, 0.0], True)

    Sources:
        Bellemare, Dabney & Rowland (2023), Distributional Reinforcement Learning, sections 2.5 and
        5.2 (the recursion; the number of atoms).
    """
    check_int("num_atoms", num_atoms)
    policy = check_policy(mdp, policy, horizon)
    return on_episodes(_return_law, mdp, horizon, initial_state, policy, sizes=(num_atoms,))


def _return_law(model: Episodes, policy: Array, num_atoms: int) -> ReturnLaw:
    policy = jnp.broadcast_to(policy, (model.horizon, *model.legal.shape))
    dtype = model.prob.dtype
    eps = jnp.finfo(dtype).eps
    size = jnp.max(jnp.abs(jnp.stack(model.return_range())))
    near = 16 * eps * size

    def back(later: tuple[Law, Array, Array], time: tuple[Array, Array]):
        laws, moved, exact = later
        weight, actions = time

        def of_state(row: tuple[Array, ...]):
            chances, prob, successor, reward, over = row
            weights = (chances[:, None] * prob)[:, :, None]  # [A, K, 1]
            stays = jnp.where(over, 0.0, 1.0)[:, :, None]
            # After the end one atom at 0 holds all the probability.
            first = jnp.arange(num_atoms) == 0
            probs = jnp.where(stays > 0, laws.probs[successor], first)
            atoms = weight * reward[:, :, None] + stays * laws.atoms[successor]
            merged, shifted, kept = merge(
                Law((weights * probs).reshape(-1), atoms.reshape(-1)), num_atoms, near
            )
            goes_on = weights[:, :, 0] * stays[:, :, 0]
            counts = goes_on > 0
            shifted += jnp.sum(goes_on * moved[successor])
            return merged, shifted, kept & jnp.all(exact[successor] | ~counts)

        rows = actions, model.prob, model.next_state, model.reward, model.over
        return jax.lax.map(of_state, rows), None

    blank = jnp.zeros((model.legal.shape[0], num_atoms), dtype)
    start = Law(blank.at[:, 0].set(1.0), blank), blank[:, 0], jnp.ones(blank.shape[0], bool)
    (laws, moved, exact), _ = jax.lax.scan(back, start, (model.weights, policy), reverse=True)
    initial = model.initial
    mixed = Law((initial[:, None] * laws.probs).reshape(-1), laws.atoms.reshape(-1))
    law, shifted, kept = merge(mixed, num_atoms, near)
    # Each sum of probabilities moves at most that share of mass over the whole range.
    rounding = eps * (model.horizon + 1) * (model.prob.shape[-1] * policy.shape[-1] + 16) * size
    return ReturnLaw(
        law,
        shifted + jnp.sum(initial * moved) + rounding,
        kept & jnp.all(exact | ~(initial > 0)),
    )


def merge(law: Law, num_atoms: int, near: Array | float = 0.0) -> tuple[Law, Array, Array]:
    """A law on `num_atoms` atoms: equal ones merged, and near ones too where they are too many.

    Args:
        law: of `[N]` atoms [return].
        num_atoms: M, atoms to keep.
        near: atoms this close in a row count as equal [return].

    Returns:
        The law of `[M]` atoms, increasing; the 1-Wasserstein distance moved [return]; and whether
        only equal atoms were merged. The mean is kept.
    """
    whose = jnp.zeros(law.probs.shape, jnp.int32)
    merged = merge_each(whose, law, 1, num_atoms, near)
    law, moved, fits = jax.tree.map(lambda leaf: leaf[0], merged)
    return law, moved, fits


def merge_each(
    whose: Array, law: Law, num_owners: int, num_atoms: int, near: Array | float = 0.0
) -> tuple[Law, Array, Array]:
    """As `merge`, for the measures of several owners that lie mixed in one list.

    Args:
        whose: `[N]` int32, the owner of each atom, in [0, S).
        law: `[N]`, whose probabilities need not add up to one for each owner.
        num_owners: S.
        num_atoms: M, atoms to keep for each owner.
        near: atoms this close in a row count as equal [return].

    Returns:
        The measures `[S, M]`, atoms increasing; mass times distance moved `[S]` [return]; and
        whether only equal atoms were merged `[S]`. An owner without mass has M atoms at 0.
    """
    size = num_owners + 1  # what is impossible belongs to one owner more
    whose = jnp.where(law.probs > 0, whose, num_owners)
    if num_owners == 1:  # one key sorts faster than two
        order = jnp.argsort(jnp.where(law.probs > 0, law.atoms, jnp.inf))
    else:
        order = jnp.lexsort((law.atoms, whose))
    whose, probs, atoms = whose[order], law.probs[order], law.atoms[order]
    atoms = jnp.where(whose < num_owners, atoms, 0.0)
    first = jnp.concatenate([jnp.ones((1,), bool), whose[1:] != whose[:-1]])
    steps = jnp.concatenate([jnp.zeros((1,), bool), jnp.diff(atoms) > near])
    count = jnp.cumsum(first | steps)
    group = count - jax.ops.segment_min(count, whose, size)[whose]
    fits = jax.ops.segment_max(group, whose, size) < num_atoms
    least = jax.ops.segment_min(atoms, whose, size)
    most = jax.ops.segment_max(atoms, whose, size)
    # Too many: equal bins of the range.
    width = jnp.maximum((most - least) / num_atoms, jnp.finfo(atoms.dtype).tiny)
    bins = jnp.clip(jnp.floor((atoms - least[whose]) / width[whose]), 0, num_atoms - 1)
    group = jnp.where(fits[whose], group, bins.astype(group.dtype))
    slot = whose * num_atoms + group
    total = jax.ops.segment_sum(probs, slot, size * num_atoms)
    origin = jax.ops.segment_min(atoms, slot, size * num_atoms)
    gaps = atoms - origin[slot]
    mean_gap = jax.ops.segment_sum(probs * gaps, slot, size * num_atoms)
    centres = origin + mean_gap / jnp.where(total > 0, total, 1.0)
    centres = jnp.where(total > 0, centres, jnp.repeat(most, num_atoms))
    far = probs * jnp.abs(atoms - centres[slot])
    moved = jax.ops.segment_sum(far, whose, size)
    shape = (size, num_atoms)
    centres = jnp.where(jnp.isfinite(centres), centres, 0.0)
    merged = Law(total.reshape(shape), centres.reshape(shape))
    return jax.tree.map(lambda leaf: leaf[:num_owners], (merged, moved, fits))


def law_of_plan(model: Episodes, plan: Any, num_atoms: int) -> ReturnLaw:
    """The law of the return under a `StockPlan`, forward in time; see `StockPlan.return_law`."""
    horizon, num_states = model.horizon, model.legal.shape[0]
    dtype = model.prob.dtype
    eps = jnp.finfo(dtype).eps
    bounds = [*model.gained_range(), jnp.stack(model.return_range()).ravel(), plan.initial_stock]
    size = jnp.max(jnp.abs(jnp.concatenate([jnp.atleast_1d(x) for x in bounds])))
    near = 16 * eps * size
    states = jnp.arange(num_states)[:, None]

    def forth(now: tuple[Law, Array, Array], clock: tuple[Array, Array]):
        """`[S + 1, N]` gains so far in every state; the last row is of ended episodes."""
        laws, moved, exact = now
        time, weight = clock
        probs, gained = laws.probs[:-1], laws.atoms[:-1]  # [S, N]
        action = plan.action_at(time, states, plan.initial_stock + gained)
        prob, successor, reward, over = (  # [S, N, K]
            x[states, action] for x in (model.prob, model.next_state, model.reward, model.over)
        )
        over = over | (time == horizon - 1)
        whose = jnp.where(over, num_states, successor)
        mass, place = probs[:, :, None] * prob, gained[:, :, None] + weight * reward
        ended = jnp.full((num_atoms,), num_states, whose.dtype)
        merged, shifted, kept = merge_each(
            jnp.concatenate([whose.reshape(-1), ended]),
            Law(
                jnp.concatenate([mass.reshape(-1), laws.probs[-1]]),
                jnp.concatenate([place.reshape(-1), laws.atoms[-1]]),
            ),
            num_states + 1,
            num_atoms,
            near,
        )
        moved += shifted[-1] + jnp.where(jnp.all(kept[:-1]), 0.0, jnp.inf)
        return (merged, moved, exact & jnp.all(kept)), None

    blank = jnp.zeros((num_states + 1, num_atoms), dtype)
    start = Law(blank.at[:-1, 0].set(model.initial), blank)
    now = start, jnp.zeros((), dtype), jnp.ones((), bool)
    clock = jnp.arange(horizon), model.weights
    (laws, moved, exact), _ = jax.lax.scan(forth, now, clock)
    # Each sum of probabilities moves at most that share of mass over the whole range.
    rounding = eps * (horizon + 1) * (num_states * model.prob.shape[-1] + 16) * size
    return ReturnLaw(Law(laws.probs[-1], laws.atoms[-1]), moved + rounding, exact)
