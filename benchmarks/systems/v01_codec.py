"""V-01, HL-Gauss as a code: a number becomes a law over bins, and comes back.

    python benchmarks/systems/v01_codec.py

A number is stored as the probabilities that a Gaussian round it gives to bins; two-hot shares it
between two grid points (control), and gives it back exactly. Reference for the probabilities: the
normal distribution of SciPy. Claims: decoding gives the number back to 2e-4 of a bin, 3 bins inside
the ends; encodings are laws and finite for every finite number, far outside too; near the ends the
value is drawn inwards, and padding by 3 bins removes that; the loss stays finite outside.
"""

from __future__ import annotations

import time

import jax
import jax.numpy as jnp
import numpy as np
from _row import row
from scipy import stats

from jaxrl import core, operators

EXACT = True


def decoded(head: operators.HLGauss, numbers: np.ndarray) -> np.ndarray:
    """What comes back of each."""
    one = lambda y: head.mean(head.encode(core.Law.of_samples(y[None])))  # noqa: E731
    return np.asarray(jax.vmap(one)(jnp.asarray(numbers)))


def main() -> None:
    started = time.process_time()
    with jax.enable_x64(True):
        head, two_hot = operators.HLGauss(-10.0, 10.0, 40), operators.TwoHot(-10.0, 10.0, 41)
        width = 0.5
        inside = np.linspace(-10 + 3 * width, 10 - 3 * width, 2001)
        off = np.abs(decoded(head, inside) - inside).max() / width
        plain = np.abs(decoded(two_hot, inside) - inside).max() / width
        edges = np.linspace(-10, 10, 41)
        cdf = stats.norm.cdf((edges[None] - inside[:, None]) / (0.75 * width))
        probs = np.exp(np.asarray(jax.vmap(head.log_project)(jnp.asarray(inside))))
        exact = np.abs(probs - np.diff(cdf) / (cdf[:, -1:] - cdf[:, :1])).max()
        far = np.array([-1e30, -1e6, -50.0, 11.0, 50.0, 1e6, 1e30])
        logs = np.asarray(jax.vmap(head.log_project)(jnp.asarray(far)))
        finite = np.isfinite(decoded(head, far)).all() and np.allclose(np.exp(logs).sum(-1), 1)
        at_end = (10 - decoded(head, np.array([10.0]))[0]) / width
        padded = operators.HLGauss(-10.0 - 3 * width, 10.0 + 3 * width, 46)
        cured = np.abs(decoded(padded, np.array([10.0]))[0] - 10) / width
        losses = jax.vmap(lambda y: head.loss(jnp.zeros(40), core.Law.of_samples(y[None])))
        finite &= bool(jnp.all(jnp.isfinite(losses(jnp.asarray(far)))))
    print(f"probabilities by SciPy {exact:.1e}; finite far outside: {'yes' if finite else 'no'}")
    print(f"at the end: drawn inwards by {at_end:.2f} bins, {cured:.1e} after padding")
    row(
        started,
        bool(off < 2e-4 and exact < 1e-9 and finite and cured < 2e-4 < at_end),
        measured=f"{off:.1e} of a bin off inside; {at_end:.2f} at the end, {cured:.0e} if padded",
        control=f"{plain:.0e}, two-hot",
        interval=f"exact: {exact:.0e} from SciPy's normal law",
    )


if __name__ == "__main__":
    main()
