"""Laws that are hard on a worst case, how all are measured, and the linear program they solve."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from scipy.optimize import linprog

NUM_LAWS = 40
TIGHT = {"primal_feasibility_tolerance": 1e-10, "dual_feasibility_tolerance": 1e-10}


@jax.jit
def differentiate(functionals, probs, values):
    call = jax.value_and_grad(lambda f, p, v: f(p, v), argnums=(0, 1, 2))
    return jax.vmap(call)(functionals, probs, values)


def measure(functionals, probs, values, dtype=float):
    """One functional per law: values, gradients in the functional, the probs and the values."""
    with jax.enable_x64(dtype is float):
        given = jax.tree.map(lambda x: jnp.asarray(x, dtype), (functionals, probs, values))
        return jax.tree.map(np.asarray, differentiate(*given))


def random_laws(size, seed=0):
    """Laws with impossible atoms, ties, and values over twelve orders of scale and offset."""
    rng = np.random.default_rng(seed)
    probs = rng.dirichlet(np.full(size, 0.6), NUM_LAWS)
    if size > 2:
        probs = np.where(rng.random(probs.shape) < 0.2, 0.0, probs)
        probs[:, 0] += 1e-3
    values = rng.normal(size=probs.shape)
    if size > 3:
        values[::3, 2] = values[::3, 1]
    values *= 10 ** rng.uniform(-6, 6, (NUM_LAWS, 1))
    values += rng.choice([0, 1, -1], (NUM_LAWS, 1)) * 10 ** rng.uniform(0, 5, (NUM_LAWS, 1))
    radii = 10 ** rng.uniform(-8, 0.3, NUM_LAWS)
    return probs / probs.sum(1, keepdims=True), values, radii


def least(values, **program):
    """Least of q.v over a polyhedron whose first N variables are q; v rescaled for the solver."""
    low, spread = values.min(), max(np.ptp(values), 1e-300)
    cost = np.zeros(program["bounds"].shape[0])
    cost[: values.size] = (values - low) / spread
    solved = linprog(cost, options=TIGHT, **program)
    assert solved.success, solved.message
    return low + spread * solved.fun
