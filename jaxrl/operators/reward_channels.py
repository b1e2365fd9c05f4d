"""Values of channels of reward, each stored through its own mapping, and their update."""

from __future__ import annotations

import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.types import Array
from jaxrl.operators.improvement import Greedy
from jaxrl.operators.value_mapping import ValueMapping


@struct.dataclass
class RewardChannels:
    """Values of J channels of reward, each stored through its own mapping.

    The reward is sum_j weight_j reward_j and so is the return. One action is chosen for all
    channels, by the weighted sum of their returns; `update` averages in ordinary space first and in
    mapped space after, so that the second only sees values whose noise the first has smoothed:

    U_j = r_j + d Q_j(a*),  Q_j = f_j^-1(stored_j),  a* = argmax_a sum_j weight_j Q_j(a)
    Q_j' = Q_j + value_rate (U_j - Q_j)
    stored_j' = stored_j + mapping_rate (f_j(Q_j') - stored_j)

    The rate as a whole is value_rate * mapping_rate. Under random targets the stationary value
    tends to their mean as value_rate -> 0, and to their f-mean f^-1(E f(U)) at value_rate = 1,
    mapping_rate -> 0. With `Identity` throughout it is Q-learning on the sum, channel by channel.

    Attributes:
        mappings: f_j, J of them.
        weights: `[J]`, of the channels in the reward.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxrl.operators.value_mapping import Identity
        >>> channels = RewardChannels((Identity(), Identity()), jnp.array([1.0, -1.0]))
        >>> after = jnp.array([[5.0, 1.0], [6.0, 4.0]])  # sums 4 and 2: the first action
        >>> reward = jnp.array([1.0, 0.0])
        >>> channels.update(jnp.zeros(2), reward, 0.5, after, 0.5, 1.0).tolist()
        [1.75, 0.25]

    Sources:
        Fatemi & Tavakoli (2022), Orchestrated value mapping for reinforcement learning, section 3
        and algorithm 1; van Seijen, Fatemi & Tavakoli (2019), section 4 (the two rates).
    """

    mappings: tuple[ValueMapping, ...]
    weights: Array  # [J]

    def values(self, params: Array) -> Array:
        """Stored `[..., J]` -> each channel's return `[..., J]` [return]."""
        return jnp.stack([f.inverse(params[..., j]) for j, f in enumerate(self.mappings)], axis=-1)

    def params(self, values: Array) -> Array:
        """Each channel's return `[..., J]` [return] -> as stored `[..., J]`."""
        return jnp.stack([f.forward(values[..., j]) for j, f in enumerate(self.mappings)], axis=-1)

    def q_values(self, params: Array) -> Array:
        """Stored `[..., J]` -> the return `[...]` [return] by which actions are compared."""
        return jnp.sum(self.weights * self.values(params), axis=-1)

    def target(
        self, reward: Array, discount: Array, next_params: Array, mask: Array | None = None
    ) -> Array:
        """The targets U of all channels under the one best action.

        Args:
            reward: `[J]` [return].
            discount: `[]`, gamma^tau (1 - terminated).
            next_params: `[A, J]`, stored at the successor.
            mask: `[A]` bool, true where legal; None when every action is.

        Returns:
            `[J]` [return].
        """
        best = Greedy().select(self.q_values(next_params), mask)
        after = self.values(next_params[best])
        return reward + discount * jnp.where(jnp.asarray(discount) > 0, after, 0.0)

    def update(
        self,
        current: Array,
        reward: Array,
        discount: Array,
        next_params: Array,
        value_rate: float | Array,
        mapping_rate: float | Array,
        mask: Array | None = None,
    ) -> Array:
        """One step of learning of one state and action.

        Args:
            current: `[J]`, as stored.
            reward: `[J]` [return].
            discount: `[]`, gamma^tau (1 - terminated).
            next_params: `[A, J]`, stored at the successor.
            value_rate: step in ordinary space, in (0, 1].
            mapping_rate: step in mapped space, in (0, 1].
            mask: `[A]` bool, true where legal; None when every action is.

        Returns:
            `[J]`, as stored.
        """
        target = self.target(reward, discount, next_params, mask)
        values = self.values(current)
        aim = self.params(values + value_rate * (target - values))
        return current + mapping_rate * (aim - current)
