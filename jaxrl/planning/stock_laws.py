"""The law of the return under a policy that looks at the stock."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from jaxrl.core.law import Law
from jaxrl.core.mdp import TabularMDP
from jaxrl.core.types import Array
from jaxrl.planning.episodes import check_episodes, episodes
from jaxrl.planning.return_laws import ReturnLaw, merge_each
from jaxrl.planning.stock import StockPlan


def stock_return_law(
    mdp: TabularMDP,
    plan: StockPlan,
    *,
    initial_state: int | Array | None = None,
    num_atoms: int = 512,
) -> ReturnLaw:
    """The law of G = sum_{t < H} discount^t r_t under the policy of a `StockPlan`.

        P_0(s, w) = initial(s) at w = c_0,   w = discount^t c_t = c_0 + what was gained so far
        P_{t+1}(s', w + discount^t r) = sum over (s, w) of P_t(s, w) prob(r, s' | s, a_t(s, w))
        G = w - c_0 where the episode is over or time H is reached

    Unlike `return_law` it goes forward in time: the policy asks what was gained, not only when.
    Equal stocks of a state are merged as they arise. The law is exact, and says so, as long as no
    state has more than `num_atoms` different stocks at a time, nor the ended episodes more
    different returns. `num_atoms` of the plan's number of stocks is enough when discount = 1 and
    rewards lie on a lattice.

    Args:
        mdp: the model that was planned on.
        plan: of `static_cvar`, `static_var` or `stock_augmented`.
        initial_state: where episodes start, as given to the planner; default `mdp.initial`.
        num_atoms: N, stocks kept for each state, and returns.

    Returns:
        `ReturnLaw`. Beyond `num_atoms`, near atoms are merged to their mean: of returns, whose
        distance moved is in `error_bound`; of stocks too, but another stock may mean another
        action, so that `error_bound` is then infinite.

    Raises:
        ValueError: a concrete argument is out of range, or the plan is of another model's size.

    Numerics:
        Stocks within 16 units of rounding of the largest one count as equal.

    Example:
        >>> from jaxrl import outcome_mdp
        >>> from jaxrl.planning import static_cvar
        >>> half, stay = [0.5, 0.5], [0, 0]
        >>> mdp = outcome_mdp([[half, half]], [[stay, stay]], [[[0.0, 4.0], [1.0, 1.0]]], 1.0)
        >>> plan = static_cvar(mdp, level=0.75, horizon=2)
        >>> law = stock_return_law(mdp, plan, num_atoms=4).law
        >>> law.atoms.tolist(), law.probs.tolist()  # the coin; then again after 0, or a sure 1
        ([0.0, 4.0, 5.0, 5.0], [0.25, 0.25, 0.5, 0.0])

    Sources:
        Bäuerle & Ott (2011), Markov decision processes with average-value-at-risk criteria
        (the stock as a state).
    """
    horizon = plan.weights.shape[-1]
    check_episodes(mdp, horizon, initial_state)
    if not isinstance(num_atoms, int) or num_atoms < 1:
        raise ValueError(f"num_atoms={num_atoms!r} must be an int of at least 1.")
    if plan.first_action.shape != (mdp.num_states,):
        raise ValueError(
            f"The plan is of {plan.first_action.shape[-1]} states, the model of {mdp.num_states}: "
            "give the model that was planned on, and jax.vmap over batches."
        )
    return _stock_return_law(mdp, plan, initial_state, num_atoms)


@partial(jax.jit, static_argnames=("num_atoms",))
def _stock_return_law(
    mdp: TabularMDP, plan: StockPlan, initial_state: Array | None, num_atoms: int
) -> ReturnLaw:
    horizon, num_states = plan.weights.shape[0], mdp.num_states
    model = episodes(mdp, horizon, initial_state)
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

    shape = (num_states + 1, num_atoms)
    start = Law(jnp.zeros(shape, dtype).at[:-1, 0].set(model.initial), jnp.zeros(shape, dtype))
    clock = jnp.arange(horizon), model.weights
    now = start, jnp.zeros((), dtype), jnp.ones((), bool)
    (laws, moved, exact), _ = jax.lax.scan(forth, now, clock)
    # Each sum of probabilities moves at most that share of mass over the whole range.
    rounding = eps * (horizon + 1) * (num_states * model.prob.shape[-1] + 16) * size
    return ReturnLaw(Law(laws.probs[-1], laws.atoms[-1]), moved + rounding, exact)


_FEW = 256  # different stocks of a state, and returns, for which the law of a plan is small


def with_own_value(
    mdp: TabularMDP,
    plan: StockPlan,
    initial_state: int | Array | None,
    functional: Callable[[Array, Array], Array],
) -> StockPlan:
    """A plan of rounded stocks, worth what following it attains where its law is small.

    Args:
        mdp: the model that was planned on.
        plan: with a bound on the best value from above, `value + error_bound`.
        initial_state: as given to the planner.
        functional: what is planned for, of `probs[N]` and `atoms[N]`.
    """
    if mdp.num_states * mdp.prob.shape[-1] * _FEW > 1_000_000:
        return plan
    found = _stock_return_law(mdp, plan, initial_state, _FEW)
    value = functional(found.law.probs, found.law.atoms)
    missed = jnp.maximum(plan.value + plan.error_bound - value, found.error_bound)
    return plan.replace(
        value=jnp.where(found.is_exact, value, plan.value),
        error_bound=jnp.where(found.is_exact, missed, plan.error_bound),
    )
