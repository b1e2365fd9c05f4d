"""Faster ways to the fixed point than sweep after sweep; every one is checked by a full sweep.

An acceleration proposes values from the last full sweep. The solver sweeps there, and keeps the
proposal only when that lowered the distance to the fixed point at least as much as a plain sweep
would have; otherwise it takes the plain sweep. So no acceleration can weaken a certificate, or
lose the convergence of a contraction.
"""

from __future__ import annotations

from typing import Any, Protocol

import jax
import jax.numpy as jnp

from jaxrl.core import Struct
from jaxrl.core.settings import CheckedStruct, setting
from jaxrl.core.types import Array
from jaxrl.planning.backups import Prepared, backup, extremes
from jaxrl.planning.certificates import Bounds
from jaxrl.planning.linearised import linearise, restrict
from jaxrl.planning.solution import repeat


class Swept(Struct):
    """A full sweep and where it was made."""

    point: Array  # [S], v [return]
    values: Array  # [S], T v [return]
    q_values: Array  # [S, A] [return]
    policy: Array  # [S, A]
    bounds: Bounds

    @property
    def centred_point(self) -> Array:
        """v moved by a constant, so that its change is centred where that is worth while."""
        return self.point + self.bounds.recentre

    @property
    def plain(self) -> Array:
        """T v moved by a constant: what plain value iteration would sweep next."""
        return self.values + self.bounds.shift


class Acceleration(Protocol):
    """Proposes where to sweep next."""

    def init(self, prepared: Prepared, values: Array) -> Any:
        """What it remembers before the first sweep."""
        ...

    def propose(
        self, prepared: Prepared, swept: Swept, goal: Array, memory: Any
    ) -> tuple[Array, Any]:
        """Values `[S]` to sweep next, and what to remember.

        `goal` `[]` [return] is how small the change needs to be.
        """
        ...


def _nothing(acceleration: Any, prepared: Prepared, values: Array) -> tuple:
    """Nothing."""
    return ()


class FrozenSweeps(CheckedStruct):
    """Sweeps with the policy and nature's law held fixed: modified policy iteration.

    v' = v + e_n,  e_0 = 0,  e_(i+1) = T v - v + W e_i

    where W is the derivative of T at v. It is linear and, for a greedy policy, A times cheaper to
    apply than T; for a robust T far cheaper still, since no worst case is sought. Without end it
    is policy iteration, with `num_sweeps = 0` value iteration as it stands.

    Attributes:
        num_sweeps: at most so many sweeps of W between two sweeps of T.
        reduction: stop earlier when the change has fallen to this share.

    Sources:
        Puterman & Shin (1978), Modified policy iteration algorithms for discounted Markov decision
        problems; Kaufman & Schaefer (2013), Robust modified policy iteration (which holds the
        policy only).
    """

    num_sweeps: int = setting(20, "linear sweeps between two full ones", low=0)
    reduction: float = setting(1e-3, "share of the change at which to stop", low=0.0, high=1.0)

    init = _nothing

    def propose(
        self, prepared: Prepared, swept: Swept, goal: Array, memory: tuple
    ) -> tuple[Array, tuple]:
        """v + e_n."""
        if self.num_sweeps == 0:
            return swept.plain, memory
        start, change = _centred_change(swept)
        rows = linearise(prepared, swept.point, swept.q_values, swept.policy)
        uniform = swept.bounds.recentre != 0
        enough = jnp.maximum(self.reduction * _size(change, uniform), 0.25 * goal)

        def again(state: tuple) -> tuple:
            error, _ = state
            further = change + rows.apply(error)
            return further, _size(further - error, uniform)

        begin = change, jnp.full((), jnp.inf, change.dtype)
        _, (error, _) = repeat(again, lambda state: state[1] > enough, begin, self.num_sweeps)
        return start + error, memory


class FrozenSolve(Struct):
    """The linear equations of a fixed policy and a fixed nature solved outright: Newton's method.

    v' = v + (1 - W)^-1 (T v - v)

    For a greedy improvement it is policy iteration. The matrix `[S, S]` is factorised anew every
    time: for models of up to some thousand states.

    Sources:
        Howard (1960), Dynamic programming and Markov processes; Puterman & Brumelle (1979), On the
        convergence of policy iteration in stationary dynamic programming (Newton's method).
    """

    init = _nothing

    def propose(
        self, prepared: Prepared, swept: Swept, goal: Array, memory: tuple
    ) -> tuple[Array, tuple]:
        """v + (1 - W)^-1 (T v - v)."""
        start, change = _centred_change(swept)
        rows = linearise(prepared, swept.point, swept.q_values, swept.policy)
        matrix = rows.matrix()
        system = jnp.eye(matrix.shape[0], dtype=matrix.dtype) - matrix
        return start + jnp.linalg.solve(system, change), memory


class GaussSeidel(CheckedStruct):
    """Sweeps block by block: later states use the new values of earlier ones.

    States that lie near each other in the numbering should be near in the model, successors
    before predecessors where possible. One block for each state is Gauss-Seidel proper; few
    blocks keep the arithmetic wide.

    Attributes:
        num_blocks: of neighbouring states, of equal size but for an overlap.
        num_sweeps: block sweeps between two full ones.

    Sources:
        Puterman (1994), Markov Decision Processes, section 6.3.3.
    """

    num_blocks: int = setting(8, "blocks of states", low=1)
    num_sweeps: int = setting(4, "block sweeps between two full ones", low=1)

    init = _nothing

    def propose(
        self, prepared: Prepared, swept: Swept, goal: Array, memory: tuple
    ) -> tuple[Array, tuple]:
        """The values after `num_sweeps` block sweeps."""
        num_states = swept.values.shape[0]
        num_blocks = min(self.num_blocks, num_states)
        size = -(-num_states // num_blocks)

        def update_block(index: Array, values: Array) -> Array:
            start = jnp.minimum((index % num_blocks) * size, num_states - size)
            take = lambda x: jax.lax.dynamic_slice_in_dim(x, start, size)  # noqa: E731
            block = restrict(prepared.mdp, prepared.operator, take)
            new = backup(*block, values)[0].astype(values.dtype)
            return jax.lax.dynamic_update_slice(values, new, (start,))

        total = num_blocks * self.num_sweeps
        return jax.lax.fori_loop(0, total, update_block, swept.plain), memory


class Anderson(CheckedStruct):
    """The combination of the last sweeps whose change is least: v' = sum_i alpha_i T v_i.

    alpha minimises the Euclidean norm of sum_i alpha_i (T v_i - v_i) subject to sum_i alpha_i = 1.
    For a linear operator it is GMRES in disguise; at a kink of a greedy one it may propose badly,
    and the safeguard takes over.

    Attributes:
        memory: sweeps that are combined.

    Numerics:
        Normal equations with a ridge relative to their trace: a few digits are enough here.

    Sources:
        Anderson (1965), Iterative procedures for nonlinear integral equations; Zhang, O'Donoghue &
        Boyd (2020), Globally convergent type-I Anderson acceleration (safeguard).
    """

    memory: int = setting(5, "sweeps that are combined", low=2)

    def init(self, prepared: Prepared, values: Array) -> tuple[Array, Array, Array]:
        """No sweeps yet."""
        blank = jnp.zeros((self.memory, values.shape[0]), values.dtype)
        return blank, blank, jnp.zeros((), jnp.int32)

    def propose(
        self, prepared: Prepared, swept: Swept, goal: Array, memory: tuple[Array, Array, Array]
    ) -> tuple[Array, tuple[Array, Array, Array]]:
        """The combination."""
        images, changes, count = memory
        place = count % self.memory
        start, change = _centred_change(swept)
        images = images.at[place].set(start + change)
        changes = changes.at[place].set(change)
        known = jnp.arange(self.memory) <= count
        # Differences from the newest: alpha sums to one, and blank rows have no say.
        gaps = jnp.where(known[:, None], changes - change, 0.0)
        gram = gaps @ gaps.T
        tiny = jnp.finfo(gram.dtype).tiny
        ridge = 10 * jnp.finfo(gram.dtype).eps * jnp.trace(gram) + tiny
        eye = jnp.eye(self.memory, dtype=gram.dtype)
        alpha = jnp.linalg.solve(gram + ridge * eye, -(gaps @ change))
        step = jnp.where(known[:, None], images - images[place], 0.0)
        return images[place] + alpha @ step, (images, changes, count + 1)


def _centred_change(swept: Swept) -> tuple[Array, Array]:
    """Where to start, and the change of a sweep there, from which the common part is taken out."""
    start = swept.centred_point
    return start, swept.plain - start


def _size(change: Array, uniform: Array) -> Array:
    """What matters of a change `[S]`: its span, where a common shift is made good in the end."""
    least, most = extremes(change)
    return jnp.where(uniform, 0.5 * (most - least), jnp.maximum(most, -least))
