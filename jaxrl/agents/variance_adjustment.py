"""The refined loss of Gaussian critics in DSAC-T."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.law import Law
from jaxrl.core.settings import setting
from jaxrl.core.types import Array
from jaxrl.losses import huber_loss
from jaxrl.operators import Gaussian


@struct.dataclass
class VarianceAdjustment:
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

    step_size: float = setting(
        0.005, "share of a batch in the running mean of spreads", low=0.0, high=1.0, low_open=True
    )
    bound: float = setting(3.0, "greatest error of the spread, in mean spreads", low=0.0)
    floor: float = setting(0.1, "added to denominators", unit="return^2", low=0.0, low_open=True)
    huber_threshold: float = setting(
        50.0,
        "error that counts linearly beyond",
        unit="return",
        low=0.0,
        low_open=True,
        infinite=True,
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
