"""How much better an action did than its state was worth."""

from __future__ import annotations

from jaxrl.core.types import Array
from jaxrl.returns.traces import lambda_returns


def generalised_advantages(
    rewards: Array,
    discounts: Array,
    values: Array,
    next_values: Array,
    lambda_: float | Array,
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
