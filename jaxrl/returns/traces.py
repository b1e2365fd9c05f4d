"""Return targets along time.

All functions take one stretch of experience, time first: `[T]`, or `[T, ...]` with any further axes
(environments, say), which are treated alike; no `vmap` is needed for `[T, B]` data.

The ends of episodes need no flags. Termination stands in `discounts` (zero). Truncation stands in
`lambda_` (zero): the trace stops there and the step bootstraps from its own true successor. The
last step always bootstraps, so its `lambda_` is not used.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl.core.law import Law
from jaxrl.core.protocols import Head
from jaxrl.core.types import Array


def lambda_returns(
    rewards: Array,
    discounts: Array,
    next_values: Array,
    lambda_: float | Array = 1.0,
    num_steps: int | None = None,
) -> Array:
    """Geometric mixture of the n-step returns, or of the first `num_steps` of them.

    G_t = r_t + d_t ((1 - lambda_t) V_t' + lambda_t G_{t+1}),  G_T = V_{T-1}'

    lambda = 0 is the one-step target, lambda = 1 the discounted sum of the rewards to the end of
    the stretch, bootstrapped there. With `num_steps` = n,

    G_t^(1) = r_t + d_t V_t',  G_t^(n) = r_t + d_t ((1 - lambda_t) V_t' + lambda_t G_{t+1}^(n-1))

    so that lambda one except at truncations gives the plain n-step return; close to the end of the
    stretch it uses the steps that are left. With V_t' = max_a Q(s_t', a) these are the targets of
    Peng's Q(lambda): traces are not cut at exploratory actions, and the fixed point lies between
    the values of the behaviour and of the greedy policy.

    Args:
        rewards: `[T, ...]` [return].
        discounts: `[T, ...]`, gamma^tau (1 - terminated) [per step].
        next_values: `[T, ...]`, value of the true successor of each step, before any reset
            [return].
        lambda_: `[]`, `[T]` or `[T, ...]`, in [0, 1]; zero where the step was truncated.
        num_steps: n, at least 1: rewards summed before the bootstrap; all that are left when None.

    Returns:
        `[T, ...]` [return]; gradients flow through all arguments.

    Example:
        >>> import jax.numpy as jnp
        >>> one = jnp.ones(3)
        >>> lambda_returns(one, 0.5 * one, 8.0 * one, 1.0).tolist()
        [2.75, 3.5, 5.0]
        >>> lambda_returns(one, 0.5 * one, 8.0 * one, num_steps=2).tolist()
        [3.5, 3.5, 5.0]

    Sources:
        Sutton & Barto (2018), Reinforcement Learning, equations 7.1 and 12.18 (lambda of the step
        reached); Peng & Williams (1996), Incremental multi-step Q-learning; Gallici et al. (2024),
        Simplifying deep temporal difference learning (PQN).
    """
    decays = discounts * _along_time(lambda_, rewards)
    fixed = rewards + (discounts - decays) * next_values
    if num_steps is not None:

        def extend(_: int, returns: Array) -> Array:
            return fixed + decays * jnp.concatenate([returns[1:], next_values[-1:]])

        return jax.lax.fori_loop(0, num_steps - 1, extend, rewards + discounts * next_values)

    def back(later: Array, step: tuple[Array, Array]) -> tuple[Array, Array]:
        fixed_t, decay = step
        current = fixed_t + decay * later
        return current, current

    last = next_values[-1].astype(jnp.result_type(fixed, decays))
    _, returns = jax.lax.scan(back, last, (fixed, decays), reverse=True, unroll=4)
    return returns


def generalised_advantages(
    rewards: Array, discounts: Array, values: Array, next_values: Array, lambda_: float | Array
) -> Array:
    """Generalised advantage estimates: lambda-return minus value.

    A_t = G_t - V_t = sum_k (prod_{i=t}^{t+k-1} d_i lambda_i) td_error_{t+k}

    with td_error_t = r_t + d_t V_t' - V_t; the sum holds where V_t' = V_{t+1} along the trace. The
    value target that goes with it is `advantages + values`. lambda = 0 is the one-step td_error.

    Args:
        rewards: `[T, ...]` [return].
        discounts: `[T, ...]`, gamma^tau (1 - terminated) [per step].
        values: `[T, ...]`, values of the states acted in [return].
        next_values: `[T, ...]`, values of their true successors, before any reset [return].
        lambda_: `[]`, `[T]` or `[T, ...]`, in [0, 1]; zero where the step was truncated.

    Returns:
        `[T, ...]` [return]; gradients flow through all arguments.

    Example:
        >>> import jax.numpy as jnp
        >>> one = jnp.ones(3)
        >>> generalised_advantages(one, 0.5 * one, 2.0 * one, 2.0 * one, 0.9).tolist()
        [0.0, 0.0, 0.0]

    Sources:
        Schulman et al. (2016), High-dimensional continuous control using generalized advantage
        estimation, equation 16.
    """
    return lambda_returns(rewards, discounts, next_values, lambda_) - values


def lambda_laws(
    head: Head, rewards: Array, discounts: Array, next_laws: Law, lambda_: float | Array = 1.0
) -> Array:
    """Laws of lambda-returns, as a head stores them.

    Z_t = r_t + d_t X_t,  X_t of the law of V(s_t') with probability 1 - lambda_t,
                          of that of Z_{t+1} with probability lambda_t,  Z_T of that of V(s_{T-1}')

    Every Z_t is stored by the head on the way, as every backup of a table is. Where that keeps
    means, they are the `lambda_returns`.

    Args:
        head: one that stores laws.
        rewards: `[T, ...]` [return].
        discounts: `[T, ...]`, gamma^tau (1 - terminated) [per step].
        next_laws: `[T, ..., K]`, of the true successor of each step, before any reset [return].
        lambda_: `[]`, `[T]` or `[T, ...]`, in [0, 1]; zero where the step was truncated.

    Returns:
        `[T, ..., *head.shape]`; gradients flow as far as the head lets them.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxrl.operators import Quantile
        >>> one, laws = jnp.ones(2), Law(jnp.ones((2, 1)), jnp.array([[8.0], [4.0]]))
        >>> lambda_laws(Quantile(2), one, 0.5 * one, laws, 0.5)[0].tolist()  # 1 + 3 / 2, 1 + 8 / 2
        [2.5, 5.0]

    Sources:
        Nam, Kim & Park (2021), GMAC: a distributional perspective on actor-critic framework
        (mixtures of n-step laws); Rowland et al. (2018), An analysis of categorical distributional
        reinforcement learning (the stored backup).
    """

    def one(later: Array, reward: Array, discount: Array, law: Law, trace: Array) -> Array:
        onward = head.law(later)
        probs = jnp.concatenate([(1.0 - trace) * law.probs, trace * onward.probs])
        mixed = Law(probs, jnp.concatenate([law.atoms, onward.atoms]))
        return head.encode(mixed.push(reward, discount))

    encode = head.encode
    for _ in range(rewards.ndim - 1):
        one, encode = jax.vmap(one), jax.vmap(encode)

    def back(later: Array, step: tuple) -> tuple[Array, Array]:
        current = one(later, *step)
        return current, current

    traces = jnp.broadcast_to(_along_time(lambda_, rewards), rewards.shape)
    last = encode(jax.tree.map(lambda leaf: leaf[-1], next_laws))
    rows = (rewards, discounts, next_laws, traces)
    return jax.lax.scan(back, last, rows, reverse=True)[1]


def next_stock(stock: Array, reward: Array, discount: Array | float) -> Array:
    """The stock after a reward: c' = (c + r) / discount [return].

    It telescopes: discount^t c_t = c_0 + sum_{u < t} discount^u r_u. It grows like discount^-t:
    over long horizons keep `discount^t c_t`, as the planners do, or bound it, as the wrapper
    `Stock` does.

    Example:
        >>> float(next_stock(1.0, 2.0, 0.5))
        6.0

    Sources:
        Pires et al. (2025), Optimizing return distributions with distributional dynamic
        programming.
    """
    return (jnp.asarray(stock) + reward) / discount


def _along_time(lambda_: float | Array, like: Array) -> Array:
    """`lambda_` as an array of the dtype of `like` whose time axis meets that of `like`."""
    lambda_ = jnp.asarray(lambda_, like.dtype)
    if lambda_.ndim == 0:
        return lambda_
    return lambda_.reshape(lambda_.shape + (1,) * (like.ndim - lambda_.ndim))
