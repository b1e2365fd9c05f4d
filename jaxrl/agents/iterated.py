"""Iterated Q-networks: a chain of networks, each one Bellman step behind the next."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.core import Struct
from jaxrl.core.settings import setting
from jaxrl.core.types import Array, Key, PyTree

_NETWORKS = 0x17E8  # random stream of which network acts


class IteratedCopies(Struct):
    """K networks learn K Bellman iterations side by side, on the same batches.

        theta_k towards the backup of copy_{k-1},   k = 1 ... K
        every `refresh` updates:  copy_k <- theta_k                         for k = 1 ... K - 1
        every `period` updates:   copy_{k-1} <- theta_k                     for k = 1 ... K,
                                  then theta_k <- theta_{k+1}, the last one staying

    copy_0 moves with the chain alone, every `period`: were it refreshed, all K would be one network
    that learns from itself. A period advances by one iteration, as one of `TargetUpdate` does, but
    each iterate is fitted for K of them, on its way from the last place to the first: the period
    may be K times shorter at equal care. Each has an optimiser of its own, whose state stays in its
    place when the chain moves (as in the release; that of theta_1 then goes on under what was
    theta_2). To act, each environment draws one of the K, all alike; `q_values` are their mean. One
    network is `TargetUpdate(period, 1.0)`, up to rounding.

    Every gradient step costs K of one network, and the parameters are K times as many: compare at
    equal gradient work.

    Attributes:
        num_networks: K.
        period: between two moves of the window.
        refresh: between two refreshments of the copies inside it.

    Example:
        >>> copies = IteratedCopies(num_networks=2, period=4, refresh=2)
        >>> lagged, learning = jnp.array([0.0, 0.0]), jnp.array([1.0, 2.0])
        >>> copies.move(lagged, learning, 2).tolist(), copies.move(lagged, learning, 4).tolist()
        ([0.0, 1.0], [1.0, 2.0])
        >>> copies.shift(learning, 4).tolist()
        [2.0, 2.0]

    Sources:
        Vincent, Palenicek, Belousov, Peters & D'Eramo (2025), Iterated Q-network: beyond one-step
        Bellman updates in deep reinforcement learning, section 4 and algorithm 1.
    """

    num_networks: int = setting(5, "networks in the chain", low=1)
    period: int = setting(32, "gradient steps between moves of the chain", unit="updates", low=1)
    refresh: int = setting(8, "gradient steps between two copies inside it", unit="updates", low=1)

    whole = True

    def is_due(self, num_updates: Array) -> Array:
        """At every `period`."""
        return num_updates % self.period == 0

    def start(self, build: Callable[[Key], PyTree], key: Key) -> PyTree:
        """K networks, the first of which is built from `key` itself."""
        keys = [key, *(jax.random.fold_in(key, k) for k in range(1, self.num_networks))]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *map(build, keys))

    def init(self, params: PyTree) -> PyTree:
        """copy_0 of the first network as it begins, the others of theirs."""
        return jax.tree.map(lambda p: jnp.concatenate([p[:1], p[:-1]]), params)

    def each(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """`function` mapped over the chain."""
        return jax.vmap(function)

    def move(self, target: PyTree, params: PyTree, num_updates: Array) -> PyTree:
        """The copies `[K, ...]` after update number `num_updates`, from 0 to K - 1."""
        moves, refreshed = self.is_due(num_updates), num_updates % self.refresh == 0

        def one(old: Array, new: Array) -> Array:
            inner = jnp.where(refreshed, jnp.concatenate([old[:1], new[:-1]]), old)
            return jnp.where(moves, new, inner)

        return jax.tree.map(one, target, params)

    def shift(self, params: PyTree, num_updates: Array) -> PyTree:
        """The networks `[K, ...]`, from 1 to K, each in the place of the one before it."""
        moves = self.is_due(num_updates)
        return jax.tree.map(lambda p: jnp.where(moves, jnp.concatenate([p[1:], p[-1:]]), p), params)

    def mean(self, found: PyTree) -> PyTree:
        """Over the networks."""
        return jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), found)

    def drawn(self, key: Key, scores: Array) -> Array:
        """Scores `[K, B, A]` -> `[B, A]`, of a network that each row draws."""
        rows = jnp.arange(scores.shape[1])
        network = jax.random.randint(
            jax.random.fold_in(key, _NETWORKS), rows.shape, 0, self.num_networks
        )
        return scores[network, rows]
