"""An expected return stored as a histogram, and learned by classification (two-hot, HL-Gauss)."""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.scipy.special import log_ndtr

from jaxrl.core import struct
from jaxrl.core.law import Law
from jaxrl.core.settings import check_settings, setting
from jaxrl.core.types import Array
from jaxrl.losses.formulas import cross_entropy
from jaxrl.operators.heads.categorical import (
    check_grid,
    even_grid,
    finite_logs,
    project_on_grid,
)


@struct.dataclass
class TwoHot:
    """Logits on `num_atoms` evenly spaced returns, of which only the mean has a meaning.

    A target's mean y is shared between its two neighbours on the grid in proportion to nearness;
    one beyond an end goes to that end. The law that the head stands for is one atom at its mean:
    a classification loss for a scalar value, not a return distribution as `Categorical`.

    Attributes:
        low: least return of the grid [return].
        high: greatest return of the grid, > low [return].
        num_atoms: K, at least 2.

    Example:
        >>> import jax.numpy as jnp
        >>> head = TwoHot(0.0, 2.0, num_atoms=3)
        >>> head.project(jnp.array(0.25)).tolist(), float(head.mean(jnp.zeros(3)))
        ([0.75, 0.25, 0.0], 1.0)

    Sources:
        Farebrother et al. (2024), Stop regressing: training value functions via classification
        for scalable deep RL, section 3.1; Schrittwieser et al. (2020), appendix F (MuZero).
    """

    low: float = setting(-10.0, "least return of the grid", unit="return")
    high: float = setting(10.0, "greatest return of the grid", unit="return")
    num_atoms: int = setting(51, "points of the grid", low=2)

    stores_law: ClassVar[bool] = False
    mean_preserving: ClassVar[bool] = True

    def __post_init__(self) -> None:
        """Refuse concrete settings out of their range, and a grid that does not increase."""
        check_settings(self)
        check_grid(self.low, self.high)

    @property
    def shape(self) -> tuple[int, ...]:
        """`(num_atoms,)`."""
        return (self.num_atoms,)

    def support(self, dtype: jnp.dtype = jnp.float32) -> Array:
        """The grid `[K]` [return], increasing."""
        return even_grid(self.low, self.high, self.num_atoms, dtype)

    def law(self, params: Array) -> Law:
        """Logits `params[K]` -> the law of one atom, `[1]`."""
        return Law.of_samples(self.mean(params)[None])

    def project(self, value: Array) -> Array:
        """A return `[]` [return], any number -> probabilities `[K]` on the grid."""
        law = Law.of_samples(jnp.asarray(value)[None])
        return project_on_grid(law, self.low, self.high, self.num_atoms)

    def encode(self, law: Law) -> Array:
        """Law of `[N]` atoms -> logits `[K]` of its mean, finite where it has no mass."""
        return finite_logs(self.project(law.mean()))

    def loss(self, params: Array, target: Law) -> Array:
        """Cross-entropy `[]` [nats] of logits `params[K]` against the target's mean, encoded."""
        return cross_entropy(params, self.project(target.mean()))

    def mean(self, params: Array) -> Array:
        """Logits `params[K]` -> `[]` [return]."""
        return jnp.sum(jax.nn.softmax(params) * self.support(params.dtype))


@struct.dataclass
class HLGauss:
    """Logits of `num_atoms` equal bins of returns, trained on a Gaussian round the target's mean.

    With y the target's mean, e_i the K + 1 edges and sigma = sigma_ratio times the width of a bin,
    probs_i is proportional to F((e_{i+1} - y) / sigma) - F((e_i - y) / sigma), F the normal
    distribution function. The value is sum_i probs_i centre_i, and the law that the head stands for
    one atom there. As `sigma_ratio -> 0` all mass goes to the bin of y.

    At the default ratio, decoding gives y back to 2e-4 of a bin, for y at least 4 sigma (3 bins)
    inside the ends. Nearer to an end the Gaussian is cut off and the value is drawn inwards, by 0.9
    sigma at the end itself: let the bins reach 4 sigma beyond the returns.
    The discretisation error grows as exp(-2 pi^2 sigma_ratio^2) when the ratio falls.

    Attributes:
        low: lower edge of the first bin [return].
        high: upper edge of the last bin, > low [return].
        num_atoms: K bins, at least 2.
        sigma_ratio: standard deviation in widths of a bin, > 0.

    Numerics:
        Log-space, from the tail where the difference of distribution functions does not cancel:
        probabilities are a law for every finite target, however far outside.

    Example:
        >>> import jax.numpy as jnp
        >>> head = HLGauss(-5.0, 5.0, num_atoms=20)
        >>> f"{float(head.mean(head.log_project(jnp.array(1.2)))):.3f}"
        '1.200'
        >>> [float(jnp.max(jnp.exp(head.log_project(jnp.array(y))))) for y in (9e9, -1e30)]
        [1.0, 1.0]

    Sources:
        Imani & White (2018), Improving regression performance with distributional losses, section
        3; Farebrother et al. (2024), Stop regressing, section 3.1 (equation for p_i, ratio 0.75).
    """

    low: float = setting(-10.0, "lower edge of the first bin", unit="return")
    high: float = setting(10.0, "upper edge of the last bin", unit="return")
    num_atoms: int = setting(51, "bins", low=2)
    sigma_ratio: float = setting(
        0.75, "standard deviation in widths of a bin", low=0.0, low_open=True
    )

    stores_law: ClassVar[bool] = False
    mean_preserving: ClassVar[bool] = False

    def __post_init__(self) -> None:
        """Refuse concrete settings out of their range, and bins that do not increase."""
        check_settings(self)
        check_grid(self.low, self.high)

    @property
    def shape(self) -> tuple[int, ...]:
        """`(num_atoms,)`."""
        return (self.num_atoms,)

    def support(self, dtype: jnp.dtype = jnp.float32) -> Array:
        """The centres of the bins `[K]` [return], increasing."""
        steps = (jnp.arange(self.num_atoms, dtype=dtype) + 0.5) / self.num_atoms
        return (self.low + (self.high - self.low) * steps).astype(dtype)

    def law(self, params: Array) -> Law:
        """Logits `params[K]` -> the law of one atom, `[1]`."""
        return Law.of_samples(self.mean(params)[None])

    def log_project(self, value: Array) -> Array:
        """A return `[]` [return], any finite number -> log-probabilities `[K]`, finite."""
        value = jnp.asarray(value)
        width = (self.high - self.low) / self.num_atoms
        # In widths from the lower end. Beyond `reach` the end bin has all mass to rounding, and the
        # tail's exponent would overflow.
        reach = 40.0 * self.sigma_ratio * (1.0 + self.sigma_ratio)
        place = jnp.clip((value - self.low) / width, -reach, self.num_atoms + reach)
        steps = jnp.arange(self.num_atoms, dtype=place.dtype)
        left = (steps - place) / self.sigma_ratio
        right = (steps + 1.0 - place) / self.sigma_ratio
        is_upper = left + right > 0  # there, take the mirror image
        near = log_ndtr(jnp.where(is_upper, -left, right))
        far = log_ndtr(jnp.where(is_upper, -right, left))
        gap = jnp.maximum(near - far, jnp.finfo(place.dtype).tiny)
        # Floored, so that no atom is impossible to a cross-entropy or to a table of logits.
        log_mass = jnp.maximum(near + jnp.log(-jnp.expm1(-gap)), jnp.finfo(place.dtype).min / 4)
        return jax.nn.log_softmax(log_mass)

    def encode(self, law: Law) -> Array:
        """Law of `[N]` atoms -> logits `[K]` of its mean."""
        return self.log_project(law.mean())

    def loss(self, params: Array, target: Law) -> Array:
        """Cross-entropy `[]` [nats] of logits `params[K]` against the target's mean, encoded."""
        return cross_entropy(params, jnp.exp(self.log_project(target.mean())))

    def mean(self, params: Array) -> Array:
        """Logits `params[K]` -> `[]` [return]."""
        return jnp.sum(jax.nn.softmax(params) * self.support(params.dtype))
