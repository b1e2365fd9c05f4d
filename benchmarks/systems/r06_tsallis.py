"""R-06, Tsallis regularisation: the map solves its program, and orders above 1 leave actions out.

    python benchmarks/systems/r06_tsallis.py

The convention is S(p) = (1 - sum p^q) / (q - 1), at temperature t. Reference: the program max_p p.Q
+ t S(p) over laws, by SciPy (SLSQP) on random values, and the conditions of Karush, Kuhn and
Tucker. Claims: both agree within 1e-6; as q tends to 1 the map, and the Munchausen bonus of random
values, are those of the softmax (control: q = 2 is not); the support shrinks as q rises or t falls.
"""

from __future__ import annotations

import time

import jax
import jax.numpy as jnp
import numpy as np
from _row import row
from scipy import optimize, special

from jaxrl import BellmanOperator, agents, operators

EXACT = True
SIZE, NUM_VALUES = 6, 12
ORDERS, TEMPERATURES = (0.5, 1.5, 2.0, 3.0), (0.3, 1.0)


def program(q_values: np.ndarray, temperature: float, order: float) -> float:
    """Its greatest value, by SciPy."""

    def loss(p: np.ndarray) -> float:
        return -(p @ q_values + temperature * (1 - np.sum(p**order)) / (order - 1))

    found = optimize.minimize(
        loss,
        special.softmax(q_values / temperature),
        method="SLSQP",
        bounds=[(1e-12, 1.0)] * SIZE,
        constraints={"type": "eq", "fun": lambda p: p.sum() - 1.0},
        options={"ftol": 1e-14, "maxiter": 2000},
    )
    return -float(found.fun)


def conditions(p: np.ndarray, q_values: np.ndarray, temperature: float, order: float) -> float:
    """How far slopes on the support differ, or one off it is greater."""
    inside = p > 1e-9
    slope = q_values[inside] - temperature * order * p[inside] ** (order - 1) / (order - 1)
    spread = float(np.ptp(slope))
    outside = np.max(q_values[~inside], initial=-np.inf) - slope.max()
    return max(spread, float(outside) if order > 1 else 0.0)


def main() -> None:
    started, draw, gaps, residuals = time.process_time(), np.random.default_rng(0), [], []
    with jax.enable_x64(True):
        values = draw.normal(size=(NUM_VALUES, SIZE))
        for temperature in TEMPERATURES:
            for order in ORDERS:
                tsallis = operators.Tsallis(temperature, order)
                for q_values in values:
                    probs, bonus = map(np.asarray, tsallis(jnp.asarray(q_values)))
                    held = probs > 0
                    own = np.sum(probs[held] * (q_values + bonus)[held])
                    gaps.append(abs(own - program(q_values, temperature, order)))
                    residuals.append(conditions(probs, q_values, temperature, order))
        rows = jnp.asarray(values)

        def policy_and_bonus(improvement: operators.Tsallis | operators.Softmax) -> np.ndarray:
            operator, part = BellmanOperator(improvement=improvement), agents.Munchausen(0.9)
            bonuses = jax.vmap(lambda q: part.bonus(operator, q, jnp.asarray(0)))(rows)
            return np.c_[jax.vmap(lambda q: improvement(q)[0])(rows), bonuses]

        soft = policy_and_bonus(operators.Softmax(0.5))
        near, far = (
            float(np.abs(policy_and_bonus(operators.Tsallis(0.5, order)) - soft).max())
            for order in (1.0 + 1e-6, 2.0)
        )

        def support(temperature: float, order: float) -> int:
            probs = jax.vmap(lambda q: operators.Tsallis(temperature, order)(q)[0])(rows)
            return int(jnp.sum(probs > 0))

        by_order = [support(0.5, order) for order in (1.1, 1.5, 2.0, 3.0)]
        by_heat = [support(heat, 2.0) for heat in (2.0, 1.0, 0.5, 0.1)]
    whole = NUM_VALUES * SIZE
    print(f"by SciPy's program {max(gaps):.1e}, conditions {max(residuals):.1e}")
    print(f"actions of {whole} in the support, by order {by_order}, by falling heat {by_heat}")
    shrinks = by_order == sorted(by_order, reverse=True) and by_heat == sorted(
        by_heat, reverse=True
    )
    row(
        started,
        max(gaps) < 1e-6 and max(residuals) < 1e-6 and near < 1e-4 and shrinks,
        measured=f"order 1 + 1e-6: {near:.0e} from softmax and its Munchausen bonus",
        control=f"order 2: {far:.2f}",
        interval=f"exact: {max(gaps):.0e} from SciPy, conditions {max(residuals):.0e}",
    )


if __name__ == "__main__":
    main()
