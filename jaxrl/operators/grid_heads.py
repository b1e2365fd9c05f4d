"""Returns stored as weights of a grid of returns: logits, one for each point or bin."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr

from jaxrl.core import Struct
from jaxrl.core.law import Law
from jaxrl.core.notation import register
from jaxrl.core.protocols import HeadFacts
from jaxrl.core.settings import check_settings, setting
from jaxrl.core.types import Array, Number, is_traced
from jaxrl.losses.formulas import cross_entropy

_MANY = 1 << 18  # distances, above which a scatter is cheaper


def _check_grid(head: Any) -> None:
    """Refuse concrete settings out of their range, and a grid that does not increase."""
    check_settings(head)
    if is_traced(head.low, head.high):
        return
    if not np.all(np.asarray(head.low) < np.asarray(head.high)):
        raise ValueError(
            f"low={head.low} is not below high={head.high}: give a grid that increases."
        )


@property
def _shape(head: Any) -> tuple[int, ...]:
    """`(num_atoms,)`."""
    return (head.num_atoms,)


def _points(head: Any, dtype: jnp.dtype = jnp.float32) -> Array:
    """The grid `[K]` [return], increasing."""
    steps = jnp.arange(head.num_atoms, dtype=dtype) / (head.num_atoms - 1)
    return (head.low + (head.high - head.low) * steps).astype(dtype)


def _mean(head: Any, params: Array) -> Array:
    """Logits `params[K]` -> `[]` [return]."""
    return jnp.sum(jax.nn.softmax(params) * head.support(params.dtype))


def _law_of_mean(head: Any, params: Array) -> Law:
    """Logits `params[K]` -> the law of one atom, `[1]`."""
    return Law.of_samples(head.mean(params)[None])


def _project(head: Any, law: Law) -> Array:
    """Law of `[N]` atoms, in any order and with repeats -> probabilities `[K]` on the grid.

    Atoms may be infinite; those of zero probability may hold any value.

    Numerics:
        All K N distances, neither sort nor scatter; a scatter where those are very many.
    """
    low, high, num_atoms = head.low, head.high, head.num_atoms
    atoms = jnp.where(law.probs > 0, law.atoms, low)
    spacing = (high - low) / (num_atoms - 1)
    places = (jnp.clip(atoms, low, high) - low) / spacing  # [N], in [0, K - 1]
    if places.shape[0] * num_atoms <= _MANY:
        grid = jnp.arange(num_atoms, dtype=places.dtype)
        nearness = jnp.maximum(1.0 - jnp.abs(places[None, :] - grid[:, None]), 0.0)  # [K, N]
        return jnp.sum(law.probs[None, :] * nearness, axis=1)
    left = jnp.clip(jnp.floor(places), 0, num_atoms - 2)
    share = jnp.clip(places - left, 0.0, 1.0)  # of the right neighbour
    index = left.astype(jnp.int32)
    result = jnp.zeros((num_atoms,), places.dtype).at[index].add(law.probs * (1.0 - share))
    return result.at[index + 1].add(law.probs * share)


def _finite_logs(probs: Array) -> Array:
    """Log-probabilities `[K]`, finite where there is no mass."""
    return jnp.log(jnp.maximum(probs, jnp.finfo(probs.dtype).tiny))


class Categorical(Struct):
    """Logits of `num_atoms` equally spaced returns from `low` to `high`.

    Encoding is the Cramér projection: each atom shares its probability between its two neighbours
    on the grid in proportion to nearness, which keeps the mean inside [low, high]; mass beyond an
    end goes to that end.

    Attributes:
        low: least return of the grid [return].
        high: greatest return of the grid, > low [return].
        num_atoms: K, at least 2.

    Example:
        >>> import jax.numpy as jnp
        >>> head = Categorical(0.0, 2.0, num_atoms=3)
        >>> head.project(Law(jnp.array([0.5, 0.5]), jnp.array([9.0, 0.5]))).tolist()
        [0.25, 0.25, 0.5]

    Sources:
        Bellemare, Dabney & Munos (2017), A distributional perspective on reinforcement learning,
        equation 7; Rowland et al. (2018), An analysis of categorical distributional reinforcement
        learning (it is the projection in Cramér distance).
    """

    low: Number = setting(-10.0, "least return of the grid", unit="return")
    high: Number = setting(10.0, "greatest return of the grid", unit="return")
    num_atoms: int = setting(51, "points of the grid", low=2)

    facts = HeadFacts(bounded=True)
    __post_init__ = _check_grid
    shape = _shape
    support = _points
    project = _project
    mean = _mean

    def law(self, params: Array) -> Law:
        """Logits `params[K]` -> the law on the grid, `[K]`."""
        return Law(jax.nn.softmax(params), self.support(params.dtype))

    def encode(self, law: Law) -> Array:
        """Law of `[N]` atoms -> logits `[K]` of its projection, finite where it has no mass."""
        return _finite_logs(self.project(law))

    def loss(self, params: Array, target: Law) -> Array:
        """Cross-entropy `[]` [nats] of logits `params[K]` against the target's projection."""
        return cross_entropy(params, self.project(target))


class TwoHot(Struct):
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

    low: Number = setting(-10.0, "least return of the grid", unit="return")
    high: Number = setting(10.0, "greatest return of the grid", unit="return")
    num_atoms: int = setting(51, "points of the grid", low=2)

    facts = HeadFacts(stores_law=False, bounded=True)
    __post_init__ = _check_grid
    shape = _shape
    support = _points
    law = _law_of_mean
    mean = _mean

    def project(self, value: Array) -> Array:
        """A return `[]` [return], any number -> probabilities `[K]` on the grid."""
        return _project(self, Law.of_samples(jnp.asarray(value)[None]))

    def encode(self, law: Law) -> Array:
        """Law of `[N]` atoms -> logits `[K]` of its mean, finite where it has no mass."""
        return _finite_logs(self.project(law.mean()))

    def loss(self, params: Array, target: Law) -> Array:
        """Cross-entropy `[]` [nats] of logits `params[K]` against the target's mean, encoded."""
        return cross_entropy(params, self.project(target.mean()))


class HLGauss(Struct):
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

    low: Number = setting(-10.0, "lower edge of the first bin", unit="return")
    high: Number = setting(10.0, "upper edge of the last bin", unit="return")
    num_atoms: int = setting(51, "bins", low=2)
    sigma_ratio: Number = setting(
        0.75, "standard deviation in widths of a bin", low=0.0, low_open=True
    )

    facts = HeadFacts(stores_law=False, mean_preserving=False, bounded=True)
    __post_init__ = _check_grid
    shape = _shape
    law = _law_of_mean
    mean = _mean

    def support(self, dtype: jnp.dtype = jnp.float32) -> Array:
        """The centres of the bins `[K]` [return], increasing."""
        steps = (jnp.arange(self.num_atoms, dtype=dtype) + 0.5) / self.num_atoms
        return (self.low + (self.high - self.low) * steps).astype(dtype)

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


register("heads", Categorical, TwoHot, HLGauss, c51="categorical")
