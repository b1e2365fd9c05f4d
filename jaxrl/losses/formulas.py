"""Losses of a number, or of the parameters of a law, against a target; each on one example."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl.core.law import Law
from jaxrl.core.types import Array


def huber_loss(prediction: Array, target: Array, threshold: float | Array = 1.0) -> Array:
    """Squared near zero, linear beyond `threshold`.

    L(e) = e^2 / 2 where |e| <= threshold, else threshold (|e| - threshold / 2),
    with e = target - prediction.

    An infinite threshold gives half the squared error.

    Args:
        prediction: `[]` [return].
        target: `[]` [return].
        threshold: where the loss turns linear, > 0 [return]; may be traced.

    Returns:
        `[]` [return^2]; its gradient in `prediction` is -clip(e, -threshold, threshold).

    Example:
        >>> float(huber_loss(0.0, 3.0, 1.0))
        2.5

    Sources:
        Huber (1964), Robust estimation of a location parameter.
    """
    size = jnp.abs(target - prediction)
    # One product for both pieces: it stays finite, with its gradient, at an infinite threshold,
    # and its gradient does not depend on how `minimum` splits a tie.
    inner = jnp.minimum(size, threshold)
    return inner * (size - 0.5 * inner)


def cross_entropy(logits: Array, target_probs: Array) -> Array:
    """Cross-entropy of predicted log-probabilities against a law on the same classes.

    L = -sum_k target_k log softmax(logits)_k

    It equals KL(target || prediction) plus the entropy of the target, so that both have the same
    gradient in `logits`: softmax(logits) - target.

    Args:
        logits: `[K]`, unnormalised log-probabilities.
        target_probs: `[K]`, non-negative, summing to one.

    Returns:
        `[]` [nats]. Classes of zero target probability add nothing, even at a logit of -inf.

    Example:
        >>> import jax.numpy as jnp
        >>> f"{float(cross_entropy(jnp.zeros(2), jnp.array([1.0, 0.0]))):.4f}"  # log 2
        '0.6931'

    Sources:
        Bellemare, Dabney & Munos (2017), A distributional perspective on reinforcement learning,
        section 4.
    """
    log_probs = jax.nn.log_softmax(logits)
    counts = (target_probs > 0) | jnp.isfinite(log_probs)
    return -jnp.sum(target_probs * jnp.where(counts, log_probs, 0.0))


def quantile_levels(num_atoms: int, dtype: jnp.dtype = jnp.float32) -> Array:
    """The mid-points of `num_atoms` equal shares of probability: (2 i + 1) / (2 num_atoms).

    Args:
        num_atoms: K, at least 1.
        dtype: of the result.

    Returns:
        `[K]`, in (0, 1), increasing.

    Example:
        >>> quantile_levels(2).tolist()
        [0.25, 0.75]

    Sources:
        Dabney et al. (2018), Distributional reinforcement learning with quantile regression,
        lemma 2 (these levels give the K equal atoms nearest in 1-Wasserstein distance).
    """
    return ((2 * jnp.arange(num_atoms) + 1) / (2 * num_atoms)).astype(dtype)


def quantile_huber_loss(
    estimates: Array, target: Law, threshold: float | Array = 1.0, levels: Array | None = None
) -> Array:
    """Asymmetric Huber loss of quantile estimates against a law.

    L = sum_i E_{Z ~ target} |tau_i - 1{Z < q_i}| H(Z - q_i) / threshold,  H Huber's loss

    `estimates[i]` is for level tau_i, (2 i + 1) / (2 K) unless given. At `threshold = 0` (the
    limit) the minimisers are the quantiles of the target; a larger one rounds the kink off and
    moves them towards expectiles. The target may be any law: its atoms need no order and no equal
    weights.

    Args:
        estimates: `[K]` [return].
        target: law with `[N]` atoms [return].
        threshold: where Huber's loss turns linear, >= 0 and finite [return]; may be traced.
        levels: `[K]` in [0, 1], of the estimates, in any order; constants, of derivative zero.

    Returns:
        `[]` [return], summed over the estimates.

    Numerics:
        All K N differences, no sort.

    Example:
        >>> import jax.numpy as jnp
        >>> target = Law.of_samples(jnp.array([0.0, 4.0]))
        >>> float(quantile_huber_loss(jnp.array([1.0]), target, 0.0))  # (1/2) (1 + 3) / 2
        1.0

    Sources:
        Dabney et al. (2018), Distributional reinforcement learning with quantile regression,
        equations 9 and 10; the division by the threshold is that of Dabney et al. (2018), Implicit
        quantile networks.
    """
    if levels is None:
        levels = quantile_levels(estimates.shape[0], estimates.dtype)
    levels = jax.lax.stop_gradient(levels)
    return _quantile_huber(estimates, target.atoms, target.probs, jnp.asarray(threshold), levels)


@jax.custom_jvp
def _quantile_huber(
    estimates: Array, atoms: Array, probs: Array, threshold: Array, levels: Array
) -> Array:
    td_errors, share, slope = _pairs(estimates, atoms, probs, threshold, levels)
    cost = share * (td_errors - 0.5 * threshold * share)  # H / threshold, in both its pieces
    return jnp.sum((slope * cost) @ probs)


@_quantile_huber.defjvp
def _quantile_huber_jvp(
    primals: tuple[Array, ...], tangents: tuple[Array, ...]
) -> tuple[Array, Array]:
    """The derivative in closed form: half the work of differentiating the K N terms one by one.

    It is itself differentiable. Sums along an axis are written as products with a vector, which
    are several times faster than fused reductions on CPU.
    """
    estimates, atoms, probs, threshold, levels = primals
    estimates_dot, atoms_dot, probs_dot, threshold_dot, _ = tangents
    td_errors, share, slope = _pairs(estimates, atoms, probs, threshold, levels)
    pull = slope * share  # dL/d td_error, but for the probability
    cost = pull * (td_errors - 0.5 * threshold * share)
    tangent = (
        -jnp.dot(pull @ probs, estimates_dot)
        + jnp.dot(jnp.sum(pull, axis=0) * probs, atoms_dot)
        + jnp.dot(jnp.sum(cost, axis=0), probs_dot)
        - 0.5 * jnp.sum((pull * share) @ probs) * threshold_dot
    )
    return _quantile_huber(*primals), tangent


def _pairs(
    estimates: Array, atoms: Array, probs: Array, threshold: Array, levels: Array
) -> tuple[Array, Array, Array]:
    """Of every estimate with every atom, `[K, N]`: td_error, its part in [-1, 1], the slope."""
    levels = levels[:, None]
    td_errors = jnp.where(probs > 0, atoms, 0.0)[None, :] - estimates[:, None]
    is_smooth = threshold > 0
    scaled = td_errors / jnp.where(is_smooth, threshold, 1.0)
    share = jnp.where(is_smooth, jnp.clip(scaled, -1.0, 1.0), jnp.sign(td_errors))
    return td_errors, share, jnp.where(td_errors < 0, 1.0 - levels, levels)


def expectile_loss(estimates: Array, levels: Array, target: Law) -> Array:
    """Asymmetric squared loss of expectile estimates against a law.

    L = sum_i E_{Z ~ target} |tau_i - 1{Z < e_i}| (Z - e_i)^2

    At level 1/2 it is the squared loss, whose minimiser is the mean.

    Args:
        estimates: `[K]` [return].
        levels: `[K]`, tau_i in (0, 1).
        target: law with `[N]` atoms [return]; impossible ones may hold any value.

    Returns:
        `[]` [return^2], summed over the estimates. Its gradient is continuous.

    Example:
        >>> import jax.numpy as jnp
        >>> target = Law.of_samples(jnp.array([0.0, 4.0]))
        >>> float(expectile_loss(jnp.array([1.0]), jnp.array([0.25]), target))
        1.5

    Sources:
        Newey & Powell (1987), Asymmetric least squares estimation and testing; Rowland et al.
        (2019), Statistics and samples in distributional reinforcement learning, definition 3.4.
    """
    td_errors = jnp.where(target.probs > 0, target.atoms, 0.0)[None, :] - estimates[:, None]
    slopes = jnp.where(td_errors < 0, 1.0 - levels[:, None], levels[:, None])
    return jnp.sum((slopes * jnp.square(td_errors)) @ target.probs)


def gaussian_cross_entropy(mean: Array, scale: Array, target: Law) -> Array:
    """Negative log-likelihood of a Gaussian, averaged over a law.

    L = log(2 pi) / 2 + log scale + E_{Z ~ target} (Z - mean)^2 / (2 scale^2)

    The minimiser has the target's mean and standard deviation.

    Args:
        mean: `[]` [return].
        scale: `[]`, the standard deviation, > 0 [return].
        target: law with `[N]` atoms [return]; impossible ones may hold any value.

    Returns:
        `[]` [nats].

    Numerics:
        Its gradients grow as 1 / scale and 1 / scale^2: bound the scale from below, or the
        gradient's norm.

    Example:
        >>> import jax.numpy as jnp
        >>> target = Law.of_samples(jnp.array([-1.0, 1.0]))
        >>> f"{float(gaussian_cross_entropy(jnp.array(0.0), jnp.array(1.0), target)):.4f}"
        '1.4189'

    Sources:
        Nix & Weigend (1994), Estimating the mean and variance of the target probability
        distribution.
    """
    shares = (jnp.where(target.probs > 0, target.atoms, mean) - mean) / scale
    spread = 0.5 * jnp.sum(target.probs * jnp.square(shares))
    return 0.5 * jnp.log(2.0 * jnp.pi) + jnp.log(scale) + spread


def energy_loss(particles: Array, target: Law) -> Array:
    """Energy distance of equally likely particles from a law, up to a constant of the law.

    L = E |X - Z| - E |X - X'| / 2,  X, X' ~ particles and Z ~ target, all independent
      = integral (F_X - F_Z)^2 + E |Z - Z'| / 2

    It is linear in the target, so that the mean of the losses against sampled targets is the loss
    against their mixture: gradients from sampled transitions are unbiased, which those of a
    Wasserstein distance are not. The minimisers are the mid-level quantiles of the target.

    Args:
        particles: `[K]` [return], in any order.
        target: law with `[N]` atoms [return]; impossible ones may hold any value.

    Returns:
        `[]` [return].

    Numerics:
        All K N and K^2 differences.

    Example:
        >>> import jax.numpy as jnp
        >>> float(energy_loss(jnp.array([0.0, 2.0]), Law.of_samples(jnp.array([1.0]))))
        0.5

    Sources:
        Székely & Rizzo (2013), Energy statistics; Bellemare et al. (2017), The Cramér distance as
        a solution to biased Wasserstein gradients; Nguyen-Tang, Gupta & Venkatesh (2021),
        Distributional reinforcement learning via moment matching (the head; there other kernels).
    """
    atoms = jnp.where(target.probs > 0, target.atoms, 0.0)
    across = jnp.mean(jnp.abs(particles[:, None] - atoms[None, :]) @ target.probs)
    within = jnp.mean(jnp.abs(particles[:, None] - particles[None, :]))
    return across - 0.5 * within
