"""Critics of (state, action) pairs: how several are read as one, and refinements of their loss."""

# Bodies of protocols are their docstrings.
# pyright: reportReturnType=false

from __future__ import annotations

from typing import Any, Protocol

import jax
import jax.numpy as jnp

from jaxrl.agents.chain import Step
from jaxrl.core import Struct
from jaxrl.core.law import Law
from jaxrl.core.notation import register
from jaxrl.core.protocols import Head, PartFacts
from jaxrl.core.schedules import Linear, Schedule
from jaxrl.core.settings import setting
from jaxrl.core.types import Array
from jaxrl.losses import huber_loss
from jaxrl.operators import BellmanOperator, Gaussian


class Pessimism(Protocol):
    """How an ensemble of C critics is read as one, against overestimation."""

    def law(self, head: Head, params: Array) -> Law:
        """`params[C, *head.shape]` of one action -> the law that targets are built on."""

    def score(self, operator: BellmanOperator, params: Array) -> Array:
        """`params[C, *head.shape]` of one action -> what the actor climbs, `[]` [return]."""


class SmallestCritic(Struct):
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


class TruncatedMixture(Struct):
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


class Optimism(Struct):
    """Errors weighted by their sign, a part: from the optimality to the evaluation backup.

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
        >>> Optimism(level=0.75).weigh((), None, jnp.array([2.0, -2.0])).tolist()
        [1.5, 0.5]

    Sources:
        Omura, Ota, Osa, Mukuta & Harada 2025, Gradual transition from Bellman optimality operator
        to Bellman operator in online reinforcement learning; Newey & Powell 1987 (expectiles).
    """

    facts = PartFacts()

    level: float | Schedule = setting(
        Linear(0.9, 0.5), "expectile of the errors", low=0.5, high=1.0
    )

    def weigh(self, state: tuple, step: Step | None, td_error: Array) -> Array:
        """`td_error[...]` [return] -> weights `[...]` in [0, 2]."""
        level: Any = self.level  # at present
        return 2.0 * jnp.where(td_error < 0, 1.0 - level, level)


register("parts", Optimism)


class VarianceAdjustment(Struct):
    """A loss of a mean q and a standard deviation s whose gradients keep one size.

        loss    = w (H(q, E[Z]) + s sg[(s^2 - E[2 H(q, q + clip(Z - q, -b m, b m))]) / (s + c)])
        w       = clip(m^2 / (s^2 + c), 0.1, 10),  sg[.] and w without gradient
        m       = running mean over batches of the mean of s; the first batch sets it

    with Z the target, H Huber's loss at `huber_threshold`, b = `bound` and c = `floor`. The
    gradient in q is -w clip(E[Z] - q, ...), that in s is -w (E[error^2] - s^2) / (s + c): both are
    the likelihood's times about m^2, so that neither explodes where s is small. The minimiser has
    the mean and, while nothing is clipped, the standard deviation of the target.

    Its value is no likelihood and says nothing; only its gradient does.

    Attributes:
        step_size: of the running mean, in (0, 1].
        bound: b, in running means of s.
        floor: c, [return^2] beside variances, [return] beside s.
        huber_threshold: where errors count linearly [return].

    Numerics:
        `floor` and `huber_threshold` are absolute, as in the released code: where returns are much
        smaller than 0.3 or larger than 50, scale the rewards or these two.

    Note:
        Of the three refinements, the expected value in place of a sampled one is E[Z] here, the
        twin value distributions are `SmallestCritic`, and the gradient adjustment is w and the
        clipping. The constants and the signs are those of the released code. Two things differ on
        purpose: its one clipped draw of Z is the expectation over the target's atoms here; and it
        takes H where 2 H stands, so that its s would tend to the standard deviation over sqrt(2),
        where the paper's gradient has the squared error.

    Sources:
        Duan et al. 2025, Distributional soft actor-critic with three refinements (arXiv
        2310.05858), and its released code, file dsac_v2.py.
    """

    facts = PartFacts(gaussian=True)

    step_size: float = setting(0.005, "of the mean of spreads", low=0.0, high=1.0, low_open=True)
    bound: float = setting(3.0, "greatest error of the spread, in mean spreads", low=0.0)
    floor: float = setting(0.1, "added to denominators", unit="return^2", low=0.0, low_open=True)
    huber_threshold: float = setting(
        50.0, "larger errors count linearly", unit="return", low=0.0, low_open=True, infinite=True
    )

    def init(self, num_critics: int) -> Array:
        """No mean yet: `[num_critics]`, all -1."""
        return -jnp.ones(num_critics)

    def move(self, mean_scale: Array, scales: Array, weights: Array) -> Array:
        """The running means after a batch; as they were if its mean is not finite.

        Args:
            mean_scale: `[C]` [return]; negative before the first batch.
            scales: `[C, B]`, the critics' standard deviations [return].
            weights: `[B]`, summing to one, or all zero for an empty batch.
        """
        fresh = jnp.sum(weights * scales, axis=-1)
        step = jnp.where(mean_scale < 0, 1.0, self.step_size)
        moved = mean_scale + step * (fresh - mean_scale)
        return jnp.where((jnp.sum(weights) > 0) & jnp.isfinite(moved), moved, mean_scale)

    def loss(self, head: Gaussian, params: Array, target: Law, mean_scale: Array) -> Array:
        """`params[2]`, the target's law, `mean_scale[]` of this critic -> `[]`."""
        mean, scale = params[0], head.scale(params)
        centre, spread = jax.lax.stop_gradient((mean, scale))
        width = self.bound * mean_scale
        errors = jnp.where(target.probs > 0, target.atoms, centre) - centre
        errors = jnp.clip(errors, -width, width)
        squares = 2.0 * huber_loss(jnp.zeros_like(errors), errors, self.huber_threshold)
        slope = (spread**2 - jnp.sum(target.probs * squares)) / (spread + self.floor)
        weight = jnp.clip(mean_scale**2 / (spread**2 + self.floor), 0.1, 10.0)
        return weight * (huber_loss(mean, target.mean(), self.huber_threshold) + slope * scale)
