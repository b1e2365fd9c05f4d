"""How a reward and the return that follows it make a return: elementwise on arrays that broadcast.

Every composition states static facts as class attributes:

* `linear`: it commutes with the expectation of the next return, as only the discounted sum does;
* `needs_law`: its return is defined along a trajectory and does not commute with the expectation,
  so that a head must store more than a mean;
* `contracts`: it moves by at most `discount` times the change of the next return.

All of them take `discount = gamma^tau (1 - terminated)`, and give a function of the reward alone
where it is 0: whatever stands for the return after the end is never read.
"""

from __future__ import annotations

from typing import ClassVar

import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.types import Array
from jaxrl.operators.value_mapping import HTransform, ValueMapping


@struct.dataclass
class DiscountedSum:
    """The classical return: reward plus the discounted rest, r + d z.

    Example:
        >>> float(DiscountedSum()(1.0, 0.5, 6.0))
        4.0

    Sources:
        Bellman (1957), Dynamic Programming, chapter III.
    """

    linear: ClassVar[bool] = True
    needs_law: ClassVar[bool] = False
    contracts: ClassVar[bool] = True

    def __call__(self, reward: Array, discount: Array, next_return: Array) -> Array:
        """`reward`, `discount` and `next_return`, which broadcast -> the return [return]."""
        return jnp.asarray(reward) + discount * _after(discount, next_return)


@struct.dataclass
class MinForm:
    """The worst discounted reward until the end: min(r, d z), and r where d = 0.

    Unrolled it is min_t gamma^t r_t over the steps of the episode. A terminal step has no rest: a
    zero standing for it must not become the minimum of positive rewards.

    Minimum and expectation do not commute, so that the law of the return is needed: bootstrapping
    a mean gives E min > min(r, d E z) wherever the rest is random.

    A discount in (0, 1) shrinks what follows towards zero: among positive rewards the later ones
    count as worse, and an endless episode has a return of at most zero; with discount 1 it is the
    plain minimum. It is not a probability of going on. An episode that may end here has two
    outcomes, one of discount 0; folding the chance into the discount would scale the rest by it.

    Example:
        >>> [float(MinForm()(3.0, d, 2.0)) for d in (1.0, 0.5, 0.0)]
        [2.0, 1.0, 3.0]

    Sources:
        Cheng et al. (2025), Stop summation: min-form credit assignment is all process reward model
        needs (the sum of their softmin-weighted rewards tends to this return); Cui & Yu (2023),
        Reinforcement learning with non-cumulative objective.
    """

    linear: ClassVar[bool] = False
    needs_law: ClassVar[bool] = True
    contracts: ClassVar[bool] = True

    def __call__(self, reward: Array, discount: Array, next_return: Array) -> Array:
        """`reward`, `discount` and `next_return`, which broadcast -> the return [return]."""
        rest = discount * _after(discount, next_return)
        return jnp.where(discount > 0, jnp.minimum(rest, reward), reward)


@struct.dataclass
class MaxForm:
    """The best discounted reward until the end: max(r, d z), and r where d = 0.

    Unrolled it is max_t gamma^t r_t. Everything said of `MinForm` holds with signs changed:
    MaxForm(r, d, z) = -MinForm(-r, d, -z).

    Example:
        >>> [float(MaxForm()(-3.0, d, -2.0)) for d in (1.0, 0.5, 0.0)]
        [-2.0, -1.0, -3.0]

    Sources:
        Quah & Quek (2006), Maximum reward reinforcement learning; Gottipati et al. (2020), Maximum
        reward formulation in reinforcement learning.
    """

    linear: ClassVar[bool] = False
    needs_law: ClassVar[bool] = True
    contracts: ClassVar[bool] = True

    def __call__(self, reward: Array, discount: Array, next_return: Array) -> Array:
        """`reward`, `discount` and `next_return`, which broadcast -> the return [return]."""
        rest = discount * _after(discount, next_return)
        return jnp.where(discount > 0, jnp.maximum(rest, reward), reward)


@struct.dataclass
class Reachability:
    """The best margin ever reached, forgotten slowly: (1 - d) r + d max(r, z).

    `reward` is a margin of the state, positive inside the target. At d = 0 it is r, and as d -> 1
    the value tends to the best margin along the trajectory: its sign tells whether the target can
    be reached. The factor 1 - d makes it a contraction whose fixed point has the scale of r.

    The recursion itself defines the value, so that a mean will do. Under random successors that
    value expects at each step anew and is below the expected best margin; a worst-case successor
    functional gives the set from which the target is reached against every disturbance.

    Example:
        >>> [float(Reachability()(1.0, d, 3.0)) for d in (0.0, 0.5, 1.0)]
        [1.0, 2.0, 3.0]

    Sources:
        Fisac et al. (2019), Bridging Hamilton-Jacobi safety analysis and reinforcement learning,
        equation 7 (there with a minimum); Zheng et al. (2024), Safe offline reinforcement learning
        with feasibility-guided diffusion model, equation 6.
    """

    linear: ClassVar[bool] = False
    needs_law: ClassVar[bool] = False
    contracts: ClassVar[bool] = True

    def __call__(self, reward: Array, discount: Array, next_return: Array) -> Array:
        """`reward`, `discount` and `next_return`, which broadcast -> the return [return]."""
        stays = (discount <= 0) | (next_return <= reward)  # a NaN that is read shows
        return reward + discount * jnp.where(stays, 0.0, next_return - reward)


@struct.dataclass
class Avoidance:
    """The worst margin ever met, forgotten slowly: (1 - d) r + d min(r, z).

    `reward` is a margin of the state, negative where a constraint is violated. The mirror image of
    `Reachability`, for actions that keep away: the sign of the value tells, as d -> 1, whether the
    constraint can be kept for ever. With a violation h, to be kept at most 0, give it `-h`: the
    value is minus that of the feasibility operator (1 - d) h + d max(h, min_a V).

    Example:
        >>> [float(Avoidance()(1.0, d, -3.0)) for d in (0.0, 0.5, 1.0)]
        [1.0, -1.0, -3.0]

    Sources:
        As for `Reachability`.
    """

    linear: ClassVar[bool] = False
    needs_law: ClassVar[bool] = False
    contracts: ClassVar[bool] = True

    def __call__(self, reward: Array, discount: Array, next_return: Array) -> Array:
        """`reward`, `discount` and `next_return`, which broadcast -> the return [return]."""
        stays = (discount <= 0) | (next_return >= reward)  # a NaN that is read shows
        return reward + discount * jnp.where(stays, 0.0, next_return - reward)


@struct.dataclass
class Mapped:
    """The discounted sum of returns that are stored mapped: f(r + d f^-1(z)).

    Every value of the operator, its policy scores and its solution are then mapped returns:
    `mapping.inverse` gives back returns. A strictly increasing f leaves the order of actions as it
    is where the return is not random. Where it is, averaging mapped returns is not averaging
    returns: a scalar head then has the fixed point of f E f^-1 in a nested sense, biased towards
    low returns for a concave f. `jaxrl.operators.RewardChannels` averages in
    ordinary space and has no such bias. A head that stores the law has none either.

    Attributes:
        mapping: f, with its inverse.

    Numerics:
        Not a contraction in the sup norm of mapped returns, unless the mapping is `Identity`.

    Example:
        >>> mapped = Mapped(HTransform(0.0))
        >>> f"{float(mapped(1.0, 0.5, 2.0)):.4f}"  # f^-1(2) = 8, 1 + 4 = 5, f(5) = sqrt(6) - 1
        '1.4495'

    Sources:
        Pohlen et al. (2018), Observe and look further, section 3.1; van Seijen, Fatemi & Tavakoli
        (2019), Using a logarithmic mapping to enable lower discount factors.
    """

    mapping: ValueMapping = struct.field(default_factory=HTransform)

    needs_law: ClassVar[bool] = False

    @property
    def linear(self) -> bool:
        """Whether the mapping is."""
        return self.mapping.linear

    @property
    def contracts(self) -> bool:
        """As `linear`."""
        return self.mapping.linear

    def __call__(self, reward: Array, discount: Array, next_return: Array) -> Array:
        """`reward` [return], `discount` and the mapped `next_return` -> the mapped return."""
        rest = self.mapping.inverse(_after(discount, next_return))
        return self.mapping.forward(reward + discount * rest)


def _after(discount: Array, next_return: Array) -> Array:
    """The return that follows, where anything does: never 0 inf, in the value or its gradient."""
    return jnp.where(jnp.asarray(discount) > 0, next_return, 0.0)
