"""Limits on costs for any rule: learned prices (Lagrangian), optimistic if asked (ReLOAD)."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.core import Struct
from jaxrl.core.protocols import RuleFacts, UpdateRule, rule_facts
from jaxrl.core.settings import setting
from jaxrl.core.types import Array, Progress, PyTree, Transition, typed_like
from jaxrl.rules.actor_critic import ProximalPolicy
from jaxrl.rules.contract import (
    PolicyOutputs,
    PolicyTargets,
    advantage_targets,
    each_of,
    learned_in,
)

_HEAD = "cost_value"


class Prices(Struct):
    """What `Lagrangian` remembers of its C costs."""

    rule: PyTree  # the inner rule's state
    multiplier: Array  # [C] >= 0 [return / cost]
    last_multiplier: Array  # [C], of the update before
    cost: Array  # [C], the latest estimate [cost]
    excess: Array  # [C], cost less budget at the latest estimate [cost]
    unseen: Array  # [C], costs since the last rollout in which an episode ended [cost]
    num_estimates: Array  # [] int32


class Lagrangian(Struct):
    """Another rule under budgets of costs: the policy ascends, a price for each cost descends.

        max over policies, min over multipliers l >= 0 of  return - sum_c l_c (cost_c - budget_c)

        advantage = (A - sum_c p_c A_c) / (1 + sum_c l_c),
        p = (1 + optimism) l_k - optimism l_{k-1}
        l <- max(0, l + multiplier_step ((1 + optimism) d_k - optimism d_{k-1})),  d = cost - budget
        loss = the inner rule's + cost_weight sum_c (v_c - R_c)^2 / 2

    A_c are generalised advantages of each cost under a critic of its own, v_c, a head of the
    network; no critic sees the price, which moves. With `optimism` 0 this is PPO-Lagrangian (where
    the inner rule is PPO), whose price and policy may circle the optimum; with 1 both players
    extrapolate, and the last iterate settles (ReLOAD). The cost of a rollout is

        per episode:  sum of its costs / number of episodes that end in it
        else:         mean lambda-return of the costs where an episode begins: discounted

    and the price stands still in a rollout without one. It moves once per rollout, by simultaneous
    steps: the policy sees the price from before.

    Attributes:
        budgets: greatest mean cost, one number for one cost, else one for each [cost].
        multiplier_step: [return / cost^2].
        optimism: weight of the extrapolation of both players; 0 is plain, 1 is ReLOAD.
        lambda_: trace decay of the advantages of costs.
        cost_weight: of the loss of the critics of costs.
        per_episode: budget the undiscounted cost of an episode, as metrics and `evaluate` tell it,
            rather than the discounted cost from its start, as planners do.
        rule: the inner rule, any that learns from advantages.

    Numerics: the paper extrapolates the action values of reward and costs too, q_k and q_{k-1}.
    Here the price alone is extrapolated: in occupancies, in which the game is bilinear, the
    gradient is r - l c, and that is the whole extrapolation; on the tables that we tried, exact
    values with and without the rest settle alike. Where the optimum is random, advantages vanish
    at it: standardised ones (`normalise_advantages`) would be noise of full size there.

    Sources: Ray, Achiam & Amodei 2019, Benchmarking safe exploration in deep reinforcement learning
    (PPO-Lagrangian, with the advantage over 1 + l; their l is a softplus under Adam). Moskovitz et
    al. 2023, ReLOAD: reinforcement learning with optimistic ascent-descent for last-iterate
    convergence in constrained MDPs, algorithm 1.

    Example:
        >>> rule = Lagrangian(budgets=(5.0, 1.0))
        >>> rule.outputs, rule.facts.num_costs, rule.init(()).multiplier.tolist()
        ({'cost_value': (2,)}, 2, [0.0, 0.0])
    """

    budgets: float | tuple[float, ...] = setting(
        25.0, "greatest mean cost, for each cost", unit="cost", several=True
    )
    multiplier_step: float = setting(
        0.05, "step of the multipliers", unit="return per squared cost", low=0.0
    )
    optimism: float = setting(0.0, "extrapolation of both players; 1 is ReLOAD", low=0.0)
    lambda_: float = setting(0.95, "trace decay of the costs' advantages", low=0.0, high=1.0)
    cost_weight: float = setting(0.5, "weight of the costs' value loss", low=0.0)
    per_episode: bool = setting(True, "budget the undiscounted cost of an episode")
    rule: UpdateRule = ProximalPolicy()

    @property
    def facts(self) -> RuleFacts:
        """The inner rule's, with as many costs as budgets, and what becomes a metric."""
        inner = rule_facts(self.rule)
        return dataclasses.replace(
            inner,
            losses=(*inner.losses, _HEAD) if inner.losses else (),
            learned=learned_in(self, "rule"),
            num_costs=each_of(self.budgets).size,
            reported=("multiplier", "cost"),
        )

    @property
    def outputs(self) -> dict[str, tuple[int, ...]]:
        """The inner rule's, and a value for each cost."""
        return {**self.rule.outputs, _HEAD: each_of(self.budgets).shape}

    def init(self, params: PyTree) -> Prices:
        """Multipliers of 0."""
        zeros = jnp.zeros(each_of(self.budgets).shape, jnp.float32)
        count = jnp.zeros((), jnp.int32)
        return Prices(self.rule.init(params), zeros, zeros, zeros, zeros, zeros, count)

    def targets(
        self, rule_state: Prices, outputs: PolicyOutputs, trajectory: Transition, progress: Progress
    ) -> tuple[PolicyTargets, Prices]:
        """The inner rule's `[T, ...]` with advantages less the price of the costs'."""
        old = rule_state
        targets, inner = self.rule.targets(old.rule, outputs, trajectory, progress)

        @functools.partial(jax.vmap, in_axes=-1, out_axes=-1)
        def of_cost(cost: Array, value: Array, next_value: Array) -> tuple[Array, Array]:
            seen = outputs.replace(value=value, next_value=next_value, next_laws=None)
            found = advantage_targets(self.lambda_, seen, trajectory.replace(reward=cost))
            return found.advantage, found.returns

        heads = outputs.heads[_HEAD], outputs.next_heads[_HEAD]
        advantages, returns = of_cost(trajectory.cost, *heads)
        prices = old.multiplier + self.optimism * (old.multiplier - old.last_multiplier)
        advantage = (targets.advantage - advantages @ prices) / (1.0 + jnp.sum(old.multiplier))
        targets = targets.replace(
            advantage=advantage.astype(targets.advantage.dtype),
            heads={**targets.heads, _HEAD: returns},
        )
        return targets, typed_like(old, self._priced(old, inner, trajectory, returns))

    def _priced(self, old: Prices, inner: PyTree, trajectory: Transition, returns: Array) -> Prices:
        """The step of the multipliers after a rollout with cost returns `[T, ..., C]`."""
        ended = (trajectory.terminated >= 1) | trajectory.truncated
        axes = tuple(range(ended.ndim))
        unseen = old.unseen + jnp.sum(trajectory.cost, axes)
        if self.per_episode:
            count, total = jnp.sum(ended), unseen
        else:
            begins = jnp.concatenate([jnp.zeros_like(ended[:1]), ended[:-1]])
            count = jnp.sum(begins)
            total = jnp.sum(jnp.where(begins[..., None], returns, 0.0), axes)
        known = count > 0
        cost = jnp.where(known, total / jnp.maximum(count, 1), old.cost)
        excess = cost - each_of(self.budgets)
        before = jnp.where(old.num_estimates > 0, old.excess, excess)
        further = excess + self.optimism * (excess - before)
        moved = jnp.maximum(old.multiplier + self.multiplier_step * further, 0.0)
        return Prices(
            rule=inner,
            multiplier=jnp.where(known, moved, old.multiplier),
            last_multiplier=old.multiplier,
            cost=cost,
            excess=jnp.where(known, excess, old.excess),
            unseen=jnp.where(known, 0.0, unseen),
            num_estimates=old.num_estimates + known,
        )

    def loss(self, outputs: PolicyOutputs, targets: PolicyTargets, progress: Progress) -> Any:
        """The inner rule's `[]` of one step, and that of the critics of costs: one of several,
        `cost_value`, where the inner rule has them."""
        errors = outputs.heads[_HEAD] - targets.heads[_HEAD]
        loss: Any = self.rule.loss(outputs, targets, progress)
        if rule_facts(self.rule).losses:
            return {**loss, _HEAD: self.cost_weight * 0.5 * jnp.sum(errors**2, axis=-1)}
        return loss + self.cost_weight * 0.5 * jnp.sum(errors**2, axis=-1)

    def combine(self, losses: dict, gradients: dict, *rest: Any) -> PyTree:
        """What the inner rule makes of its own gradients, and that of the critics of costs."""
        rule: Any = self.rule
        own = [{name: of[name] for name in of if name != _HEAD} for of in (losses, gradients)]
        return jax.tree.map(jnp.add, rule.combine(*own, *rest), gradients[_HEAD])
