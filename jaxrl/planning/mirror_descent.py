"""Mirror-descent value iteration: steps that stay near the last policy average their errors."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.core import struct
from jaxrl.core.mdp import TabularMDP
from jaxrl.core.protocols import Functional
from jaxrl.core.types import Array
from jaxrl.functionals.risk import Mean
from jaxrl.operators.bellman import BellmanOperator
from jaxrl.operators.regularised import MirrorDescent, softmax_of_legal
from jaxrl.planning.sweeps import action_values
from jaxrl.planning.value_iteration import check_problem


@struct.dataclass
class MirrorDescentSolution:
    """Where mirror-descent value iteration stands after K iterations."""

    values: Array  # [S] [return], of `policy` in `q_values`, regularised when the evaluation is
    q_values: Array  # [S, A] [return], q_K; -inf where illegal
    policy: Array  # [S, A], pi_{K+1}, the step from q_K
    log_policy: Array  # [S, A] [nats]; exact where the probability underflows; -inf where illegal
    average_q_values: Array  # [S, A] [return], mean of q_0, ..., q_K; -inf where illegal
    residual: Array  # [] [return], sup norm of q_K - q_{K-1}


def mirror_descent_value_iteration(
    mdp: TabularMDP,
    *,
    kl_weight: float | Array,
    entropy_weight: float | Array = 0.0,
    regularised_evaluation: float | bool | Array = True,
    num_iterations: int = 100,
    errors: Array | None = None,
    successor_functional: Functional | None = None,
) -> MirrorDescentSolution:
    """MD-VI: value iteration whose policy is drawn to the last one and to randomness.

        pi_{k+1} = argmax <pi, q_k> - kl_weight KL(pi || pi_k) + entropy_weight H(pi)
        q_{k+1}  = r + discount P (<pi_{k+1}, q_k> - kl_weight KL(pi_{k+1} || pi_k)
                                   + entropy_weight H(pi_{k+1})) + error_{k+1}

    from q_0 = 0 and pi_0 uniform. Without `regularised_evaluation` the two penalties are left out
    of q, not of pi. One scheme, by the weights (l = kl_weight, t = entropy_weight):

    | l | t | it is |
    |---|---|---|
    | 0 | 0 | value iteration |
    | 0 | t | soft value iteration of temperature t |
    | l | 0 | dynamic policy programming (DPP): pi_{k+1} = softmax of the *sum* of all q_j / l |
    | l | t | conservative value iteration (CVI), in other variables |

    With a = l / (l + t), the policies are those of Munchausen value iteration of bonus weight a and
    temperature l + t, whose q is q_k + l log pi_k. As both weights vanish the limit depends on
    their ratio: it is advantage learning of weight a, and value iteration when a vanishes too.

    With t = 0 errors average out: q* - q_{pi_{k+1}} is at most

        2 / (1 - discount) |mean of the errors| + 4 v_max / ((1 - discount) k),

    v_max = (max |r| + l log A) / (1 - discount), where that of value iteration is
    2 / (1 - discount)^2 times the greatest error. A positive t never averages over all the past,
    and finds the entropy-regularised optimum.

    Args:
        mdp: the model.
        kl_weight: l >= 0, to the last policy [return / nat].
        entropy_weight: t >= 0 [return / nat].
        regularised_evaluation: share of the penalties kept in the evaluation, a truth value or a
            number in [0, 1]; traced, so that both variants are one program.
        num_iterations: K, sweeps.
        errors: `[K, S, A]`, added to each new q [return]; default none.
        successor_functional: over outcomes; default the mean.

    Returns:
        `MirrorDescentSolution`.

    Raises:
        ValueError: a concrete argument is out of range.

    Numerics:
        The last policy is kept as log-probabilities, which do not underflow.

    Example:
        >>> from jaxrl import tabular_mdp
        >>> mdp = tabular_mdp([[[1.0], [1.0]]], [[1.0, 0.0]], discount=0.5)
        >>> found = mirror_descent_value_iteration(mdp, kl_weight=1.0, num_iterations=50)
        >>> [f"{p:.4f}" for p in found.policy[0].tolist()]
        ['1.0000', '0.0000']

    Sources:
        Vieillard et al. (2020), Leverage the average: an analysis of KL regularization in RL,
        equation 1, theorems 1 and 2, section 4; Vieillard, Pietquin & Geist (2020), Munchausen
        reinforcement learning, theorem 1; Azar, Gómez & Kappen (2012), Dynamic policy programming;
        Kozuno, Uchibe & Doya (2019), Theoretical analysis of efficiency and robustness of softmax
        and gap-increasing operators in reinforcement learning.
    """
    check_problem(mdp, BellmanOperator(), 1.0, 1, None)
    if not isinstance(num_iterations, int) or num_iterations < 1:
        raise ValueError(f"num_iterations={num_iterations!r} must be an int of at least 1.")
    if errors is not None:
        shape = (num_iterations, *mdp.legal.shape)
        errors = jnp.asarray(errors, mdp.prob.dtype)
        if errors.shape != shape:
            raise ValueError(f"errors must have shape {list(shape)}; got {list(errors.shape)}.")
    dtype = mdp.prob.dtype
    MirrorDescent(kl_weight, entropy_weight)  # refuses settings out of their range
    if not isinstance(regularised_evaluation, jax.core.Tracer) and not np.all(
        (np.asarray(regularised_evaluation) >= 0) & (np.asarray(regularised_evaluation) <= 1)
    ):
        raise ValueError(
            f"regularised_evaluation={regularised_evaluation} is out of range: give a value in "
            "[0, 1]."
        )
    weights = [jnp.asarray(x, dtype) for x in (kl_weight, entropy_weight, regularised_evaluation)]
    functional = Mean() if successor_functional is None else successor_functional
    if functional.facts.shared_over_actions:
        raise ValueError(
            "successor_functional shares its budget over actions: it chooses the policy by itself."
        )
    return _mirror_descent(mdp, *weights, errors, functional, num_iterations)


@partial(jax.jit, static_argnames="num_iterations")
def _mirror_descent(
    mdp: TabularMDP,
    kl_weight: Array,
    entropy_weight: Array,
    evaluation_weight: Array,
    errors: Array | None,
    functional: Functional,
    num_iterations: int,
) -> MirrorDescentSolution:
    operator, legal = BellmanOperator(successor_functional=functional), mdp.legal
    temperature = kl_weight + entropy_weight

    @jax.vmap
    def improve(q_values: Array, log_policy: Array, legal: Array) -> tuple[Array, Array, Array]:
        step = MirrorDescent(kl_weight, entropy_weight, log_reference=log_policy)
        probs, bonus = step(q_values, legal)
        value = jnp.sum(probs * (q_values + evaluation_weight * bonus))
        tempered = (q_values + kl_weight * log_policy) / jnp.where(temperature > 0, temperature, 1)
        _, new = softmax_of_legal(tempered, legal)
        return value, probs, jnp.where(temperature > 0, new, 0.0)

    def step(state: tuple, error: Array | None) -> tuple[tuple, None]:
        q_values, log_policy, total, _ = state
        values, _, log_policy = improve(q_values, log_policy, legal)
        new = action_values(mdp, operator, values)
        new = jnp.where(legal, new if error is None else new + error, 0.0)
        residual = jnp.max(jnp.abs(new - q_values))
        return (new, log_policy, total + new, residual), None

    zero = jnp.zeros(legal.shape, mdp.prob.dtype)
    start = zero, zero, zero, jnp.zeros((), zero.dtype)
    state, _ = jax.lax.scan(step, start, errors, length=num_iterations)
    q_values, log_policy, total, residual = state
    values, policy, log_policy = improve(q_values, log_policy, legal)
    log_policy = jnp.where(temperature > 0, log_policy, jnp.log(policy))
    shown = [jnp.where(legal, x, -jnp.inf) for x in (q_values, log_policy)]
    average = jnp.where(legal, total / (num_iterations + 1), -jnp.inf)
    return MirrorDescentSolution(values, shown[0], policy, shown[1], average, residual)
