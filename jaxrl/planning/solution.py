"""What a solver returns."""

from __future__ import annotations

from jaxrl.core import struct
from jaxrl.core.types import Array


@struct.dataclass
class Solution:
    """Values, policy, and how far from the fixed point they may be.

    Under `vmap` every field gains a leading axis. Nothing is raised when an iteration does not
    converge: look at `converged` and `error_bound`.

    Two things end an iteration with `converged` true: an error bound within the tolerance where
    the operator has a certificate, a residual within it where it has none (`error_bound` is then
    inf, and how far the values are from the fixed point is not known). `certificates.py` says
    which operators have one.
    """

    values: Array  # [S] [return]
    q_values: Array  # [S, A] [return]; -inf where illegal
    policy: Array  # [S, A], probabilities
    residual: Array  # [], bounds the sup norm of one more sweep's change [return]
    error_bound: Array  # [], bounds max |values - exact values|, rounding included; inf: unknown
    num_iterations: Array  # [] int32, sweeps over all states and actions
    converged: Array  # [] bool, the error bound (without one: the residual) is in the tolerance
    gain: Array | None = None  # [] or [S] [return per step], of average-reward solvers
    params: Array | None = None  # [S, A, *head.shape], of distributional solvers
