"""Critics of (state, action) pairs under any head: what they regress to and how they are read."""

from __future__ import annotations

from typing import Any, Protocol

import jax
import jax.numpy as jnp

from jaxrl.agents.successors import Outcomes
from jaxrl.core import struct
from jaxrl.core.law import Law
from jaxrl.core.protocols import Head
from jaxrl.core.schedules import Linear, Schedule, value_at
from jaxrl.core.settings import setting
from jaxrl.core.types import Array, Progress, PyTree
from jaxrl.operators import BellmanOperator, Gaussian


class Pessimism(Protocol):
    """How an ensemble of C critics is read as one, against overestimation."""

    def law(self, head: Head, params: Array) -> Law:
        """`params[C, *head.shape]` of one action -> the law that targets are built on."""
        ...

    def score(self, operator: BellmanOperator, params: Array) -> Array:
        """`params[C, *head.shape]` of one action -> what the actor climbs, `[]` [return]."""
        ...


@struct.dataclass
class SmallestCritic:
    """The whole law of the critic whose mean is smallest; the actor climbs the smallest score.

    With a scalar head it is the smaller of two values (TD3, soft actor-critic), with a Gaussian one
    the twin value distributions of DSAC-T.

    Example:
        >>> from jaxrl.operators import Quantile
        >>> params = jnp.array([[0.0, 4.0], [1.0, 2.0]])  # means 2 and 1.5
        >>> SmallestCritic().law(Quantile(num_atoms=2), params).atoms.tolist()
        [1.0, 2.0]

    Sources:
        Fujimoto et al. 2018, Addressing function approximation error in actor-critic methods,
        equation 10; Duan et al. 2025, Distributional soft actor-critic with three refinements,
        section on twin value distribution learning.
    """

    def law(self, head: Head, params: Array) -> Law:
        """`params[C, *head.shape]` -> law of the head's atoms [return]."""
        return head.law(params[jnp.argmin(jax.vmap(head.mean)(params))])

    def score(self, operator: BellmanOperator, params: Array) -> Array:
        """`params[C, *head.shape]` -> the smallest return functional `[]` [return]."""
        return jnp.min(jax.vmap(operator.score)(params))


@struct.dataclass
class TruncatedMixture:
    """The mixture of all critics' laws without its upper tail; the actor climbs the whole mixture.

    law   = the mixture, given that it lies within its lower 1 - share of probability
    score = return functional of the mixture, nothing cut off

    With K equal atoms a critic and share = d / K this drops the greatest d C of all K C atoms.
    `share = 0` averages the critics' laws. A scalar head gives C atoms, so that `share = 1 / 2` is
    the smaller of two.

    Attributes:
        share: of probability cut off the top, in [0, 0.99].

    Example:
        >>> from jaxrl.operators import Quantile
        >>> params = jnp.array([[0.0, 4.0], [1.0, 2.0]])
        >>> law = TruncatedMixture(share=0.25).law(Quantile(num_atoms=2), params)
        >>> round(float(law.mean()), 4)  # of 0, 1, 2
        1.0

    Sources:
        Kuznetsov, Shvechikov, Grishin & Vetrov 2020, Controlling overestimation bias with truncated
        mixture of continuous distributional quantile critics, section 4.
    """

    share: float = setting(0.08, "probability cut off the top of the mixture", low=0.0, high=0.99)

    def law(self, head: Head, params: Array) -> Law:
        """`params[C, *head.shape]` -> law of all critics' atoms, increasing [return]."""
        mixture = _mixture(head, params)
        order = jnp.argsort(jnp.where(mixture.probs > 0, mixture.atoms, jnp.inf))
        probs = mixture.probs[order]
        below = jnp.cumsum(probs) - probs
        kept = jnp.clip(1.0 - self.share - below, 0.0, probs)
        return Law(kept / jnp.sum(kept), mixture.atoms[order])

    def score(self, operator: BellmanOperator, params: Array) -> Array:
        """`params[C, *head.shape]` -> return functional of the mixture `[]` [return]."""
        if operator.return_functional.facts.is_expectation:
            return jnp.mean(jax.vmap(operator.head.mean)(params))
        mixture = _mixture(operator.head, params)
        return operator.return_functional(mixture.probs, mixture.atoms)


def _mixture(head: Head, params: Array) -> Law:
    laws = jax.vmap(head.law)(params)
    return Law(laws.probs.reshape(-1) / params.shape[0], laws.atoms.reshape(-1))


@struct.dataclass
class Optimism:
    """Errors of the critics weighted by their sign: from the optimality to the evaluation backup.

    weight = 2 |level - 1{u < 0}|,  u = mean of the target - mean of the critic

    The critic's mean then tends to the expectile at `level` of the means of its sampled targets,
    and its law to their mixture with the same weights. At level 1/2 every weight is 1: the value of
    the policy. Towards 1 it is the greatest target that the policy's own actions give: with
    deterministic transitions the optimality backup over what the policy may do; with random ones
    the best *joint* outcome of chance and action, an overestimate that only the annealing removes.

    The default falls on a straight line over the whole life, by environment steps. The loss and the
    straight line are the published ones as summaries of the paper give them; the paper's own text
    and code were not at hand, and the first level of 0.9 is one of several that it tries.

    Example:
        >>> Optimism(level=0.75).weights(jnp.array([2.0, -2.0]), Progress.start()).tolist()
        [1.5, 0.5]

    Sources:
        Omura, Ota, Osa, Mukuta & Harada 2025, Gradual transition from Bellman optimality operator
        to Bellman operator in online reinforcement learning; Newey & Powell 1987 (expectiles).
    """

    level: float | Schedule = setting(
        Linear(0.9, 0.5), "expectile level of the critics' errors", low=0.5, high=1.0
    )

    def weights(self, td_errors: Array, progress: Progress) -> Array:
        """`td_errors[...]` [return] -> weights `[...]` in [0, 2]."""
        level = value_at(self.level, progress)
        return 2.0 * jnp.where(td_errors < 0, 1.0 - level, level)


def backup(agent: Any, outcomes: Outcomes, next_params: Array, bonus: Array | None = None) -> Law:
    """The laws that critics regress to.

    Args:
        agent: a `CriticAgent`: its operator, pessimism and successors.
        outcomes: `[B, N]`, what may follow each transition.
        next_params: `[C, B N, *head.shape]`, lagged critics at the successors and next actions.
        bonus: `[B N]` [return], added to each successor's return; None for none.

    Returns:
        Law `[B, ...]` [return], through which no gradient flows.
    """
    laws = jax.vmap(agent.pessimism.law, (None, 1))(agent.operator.head, next_params)
    if bonus is not None:
        laws = laws.replace(atoms=laws.atoms + bonus[:, None])
    rows = jax.tree.map(lambda leaf: leaf.reshape(*outcomes.probs.shape, -1), laws)
    operator = agent.successors.operator(agent.operator)
    target = jax.vmap(operator.outcome_law)(
        outcomes.probs, outcomes.reward, outcomes.discount, rows
    )
    return jax.lax.stop_gradient(target)


def critic_loss(
    agent: Any,
    params: Array,
    target: Law,
    weights: Array,
    mean_scale: PyTree,
    progress: Progress,
) -> tuple[Array, tuple[Array, PyTree]]:
    """What all critics minimise together.

    Args:
        agent: a `CriticAgent`: its operator, optimism and variance adjustment.
        params: `[C, B, *head.shape]`, the critics at the transitions.
        target: law `[B, ...]` [return], see `backup`.
        weights: `[B]`, summing to one.
        mean_scale: `[C]`, running means of the critics' spreads [return]; () without a
            variance adjustment.
        progress: for schedules.

    Returns:
        loss `[]`, and the mean value `[]` [return] with the moved `mean_scale`.
    """
    head, adjustment = agent.operator.head, agent.variance_adjustment
    means = jax.vmap(jax.vmap(head.mean))(params)  # [C, B]
    if adjustment is None:
        losses = jax.vmap(jax.vmap(head.loss), (0, None))(params, target)
    else:
        assert isinstance(head, Gaussian)  # `check`
        scales = jax.lax.stop_gradient(jax.vmap(jax.vmap(head.scale))(params))
        mean_scale = adjustment.move(mean_scale, scales, weights)
        losses = jax.vmap(jax.vmap(adjustment.loss, (None, 0, 0, None)), (None, 0, None, 0))(
            head, params, target, mean_scale
        )
    if agent.optimism is not None:
        td_errors = jax.lax.stop_gradient(target.mean() - means)
        losses = agent.optimism.weights(td_errors, progress) * losses
    losses = jnp.mean(losses, axis=0)
    return jnp.sum(weights * losses), (
        jnp.sum(weights * jnp.mean(means, axis=0)),
        mean_scale,
    )
