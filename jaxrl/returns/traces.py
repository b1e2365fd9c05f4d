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

from jaxrl.core.types import Array


def lambda_returns(
    rewards: Array, discounts: Array, next_values: Array, lambda_: float | Array
) -> Array:
    """Geometric mixture of the n-step returns.

    G_t = r_t + d_t ((1 - lambda_t) V_t' + lambda_t G_{t+1}),  G_T = V_{T-1}'

    lambda = 0 is the one-step target, lambda = 1 the discounted sum of the rewards to the end of
    the stretch, bootstrapped there.

    Args:
        rewards: `[T, ...]` [return].
        discounts: `[T, ...]`, gamma^tau (1 - terminated) [per step].
        next_values: `[T, ...]`, value of the true successor of each step, before any reset
            [return].
        lambda_: `[]`, `[T]` or `[T, ...]`, in [0, 1]; zero where the step was truncated.

    Returns:
        `[T, ...]` [return]; gradients flow through all arguments.

    Example:
        >>> import jax.numpy as jnp
        >>> one = jnp.ones(3)
        >>> lambda_returns(one, 0.5 * one, 8.0 * one, 1.0).tolist()
        [2.75, 3.5, 5.0]

    Sources:
        Sutton & Barto (2018), Reinforcement Learning, equation 12.18 (lambda of the step reached).
    """
    decays = discounts * _along_time(lambda_, rewards)
    fixed = rewards + (discounts - decays) * next_values

    def back(later: Array, step: tuple[Array, Array]) -> tuple[Array, Array]:
        fixed_t, decay = step
        current = fixed_t + decay * later
        return current, current

    last = next_values[-1].astype(jnp.result_type(fixed, decays))
    _, returns = jax.lax.scan(back, last, (fixed, decays), reverse=True, unroll=4)
    return returns


def n_step_returns(
    rewards: Array,
    discounts: Array,
    next_values: Array,
    num_steps: int,
    lambda_: float | Array = 1.0,
) -> Array:
    """Sum of the next `num_steps` rewards, then the bootstrap.

    G_t^(1) = r_t + d_t V_t',  G_t^(n) = r_t + d_t ((1 - lambda_t) V_t' + lambda_t G_{t+1}^(n-1))

    With lambda_ one except at truncations this is the plain n-step return; close to the end of the
    stretch it uses the steps that are left.

    Args:
        rewards: `[T, ...]` [return].
        discounts: `[T, ...]`, gamma^tau (1 - terminated) [per step].
        next_values: `[T, ...]`, value of the true successor of each step [return].
        num_steps: n, at least 1.
        lambda_: `[]`, `[T]` or `[T, ...]`; zero where the step was truncated, else one.

    Returns:
        `[T, ...]` [return].

    Example:
        >>> import jax.numpy as jnp
        >>> one = jnp.ones(3)
        >>> n_step_returns(one, 0.5 * one, 8.0 * one, 2).tolist()
        [3.5, 3.5, 5.0]

    Sources:
        Sutton & Barto (2018), Reinforcement Learning, equation 7.1.
    """
    decays = discounts * _along_time(lambda_, rewards)
    fixed = rewards + (discounts - decays) * next_values

    def extend(_: int, returns: Array) -> Array:
        return fixed + decays * jnp.concatenate([returns[1:], next_values[-1:]])

    return jax.lax.fori_loop(0, num_steps - 1, extend, rewards + discounts * next_values)


def peng_q_lambda_returns(
    rewards: Array, discounts: Array, next_q_values: Array, lambda_: float | Array
) -> Array:
    """Peng's Q(lambda): lambda-returns that bootstrap from the greatest next action value.

    G_t = r_t + d_t ((1 - lambda_t) V_t' + lambda_t G_{t+1}),  G_T = V_{T-1}'
    with V_t' = max_a Q(s_t', a).

    Traces are not cut at exploratory actions: its fixed point lies between the values of the
    behaviour and of the greedy policy, and is optimal when the data are greedy or lambda = 0.

    Args:
        rewards: `[T, ...]` [return].
        discounts: `[T, ...]`, gamma^tau (1 - terminated) [per step].
        next_q_values: `[T, ..., A]`, action values of the true successor [return].
        lambda_: `[]`, `[T]` or `[T, ...]`, in [0, 1]; zero where the step was truncated.

    Returns:
        `[T, ...]` [return].

    Example:
        >>> import jax.numpy as jnp
        >>> one = jnp.ones(2)
        >>> peng_q_lambda_returns(one, 0.5 * one, jnp.array([[0.0, 2.0], [4.0, 0.0]]), 1.0).tolist()
        [2.5, 3.0]

    Sources:
        Peng & Williams (1996), Incremental multi-step Q-learning; Gallici et al. (2024),
        Simplifying deep temporal difference learning (PQN).
    """
    return lambda_returns(rewards, discounts, jnp.max(next_q_values, axis=-1), lambda_)


def _along_time(lambda_: float | Array, like: Array) -> Array:
    """`lambda_` as an array of the dtype of `like` whose time axis meets that of `like`."""
    lambda_ = jnp.asarray(lambda_, like.dtype)
    if lambda_.ndim == 0:
        return lambda_
    return lambda_.reshape(lambda_.shape + (1,) * (like.ndim - lambda_.ndim))
