"""The Bellman operator: one backup for every head, planner and agent."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.core import Struct, struct
from jaxrl.core.law import Law
from jaxrl.core.notation import KINDS
from jaxrl.core.protocols import Composition, Functional, Head, Improvement, state_facts
from jaxrl.core.types import Array, is_traced
from jaxrl.functionals.risk import Mean
from jaxrl.operators.composition import DiscountedSum
from jaxrl.operators.improvement import Greedy
from jaxrl.operators.statistic_heads import Scalar


class Lookahead(Struct):
    """What may follow one state and action: N outcomes and what is known about each successor.

    An agent with one sampled transition has N = 1, a generative backup N = number of samples, a
    planner N = branching factor with the true probabilities.

    Example:
        >>> import jax.numpy as jnp
        >>> step = Lookahead.of_transition(1.0, 0.5, jnp.array([2.0, 6.0]))
        >>> step.probs.tolist(), step.next_params.shape
        ([1.0], (1, 2))
    """

    reward: Array  # [N] [return]
    discount: Array  # [N], gamma^tau (1 - terminated)
    probs: Array  # [N], non-negative, summing to one
    next_params: Array  # [N, A, *head.shape], the head's parameters at the successor
    selector_params: Array | None = None  # [N, A, *head.shape] choose the action; None: next_params
    mask: Array | None = None  # [N, A] bool, true where legal; None: every action is
    stock: Array | None = None  # [N] [return], added to a return before it is scored; None: 0
    exact: bool = struct.field(pytree_node=False, default=False)  # the whole law, not a sample

    @classmethod
    def of_transition(
        cls,
        reward: Array,
        discount: Array,
        next_params: Array,
        selector_params: Array | None = None,
        mask: Array | None = None,
    ) -> Lookahead:
        """The lookahead of one sampled transition (N = 1).

        Args:
            reward: `[]` [return].
            discount: `[]`, gamma^tau (1 - terminated).
            next_params: `[A, *head.shape]` at the true successor.
            selector_params: `[A, *head.shape]` that choose the action (double Q-learning).
            mask: `[A]` bool, true where legal.
        """
        reward = jnp.asarray(reward)
        rows = (reward, jnp.asarray(discount), next_params, selector_params, mask)
        reward, discount, next_params, selector_params, mask = jax.tree.map(lambda x: x[None], rows)
        return cls(reward, discount, jnp.ones_like(reward), next_params, selector_params, mask)


class BellmanOperator(Struct):
    """The optimality backup of one state and action, as a law that any head can store.

    With o the composition (r + d z unless told otherwise), F the successor functional, over
    outcomes n and next actions a:

    Z_n = mixture with weights pi_na of the laws of Z_na + bonus_na,
          pi, bonus = improvement(return_functional(next laws))
    x_n = E[o(r_n, d_n, Z_n)],  value = F(p, x),
          w = dF(p, x)/dx  (nature's law; p where F is not monotone and that is no law)
    result = mixture with weights w_n of the laws of o(r_n, d_n, Z_n) + value - sum_n w_n x_n

    Its mean is `value`: a distributional backup agrees with the scalar one. `Mean`, `Greedy` and
    the scalar head give r + discount max_a q.

    A risk-averse `successor_functional` is *nested* risk (time-consistent by construction); a
    risk-averse `return_functional` is *greedy on the return law*, a heuristic whose fixed point
    need not exist. Neither is the *static* risk of the whole return.

    Attributes:
        head: how returns are stored.
        improvement: which next actions are assumed.
        successor_functional: over the N outcomes; sees their expected returns.
        return_functional: over an action's return law; scores actions for the improvement only.
        composition: how a reward and the return that follows make a return.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxrl.operators import Scalar
        >>> operator = BellmanOperator(Scalar())
        >>> step = Lookahead.of_transition(1.0, 0.5, jnp.array([2.0, 6.0]))
        >>> float(operator.backup_params(step))
        4.0

    Sources:
        Bellman (1957); Ruszczynski (2010), Risk-averse dynamic programming for Markov decision
        processes (nested risk); Iyengar (2005), Robust dynamic programming; Bellemare, Dabney &
        Munos (2017), section 3 (distributional backup).
    """

    head: Head = struct.field(default_factory=Scalar)
    improvement: Improvement = struct.field(default_factory=Greedy)
    successor_functional: Functional = struct.field(default_factory=Mean)
    return_functional: Functional = struct.field(default_factory=Mean)
    composition: Composition = struct.field(default_factory=DiscountedSum)

    def __post_init__(self) -> None:
        for slot in dataclasses.fields(self):
            state_facts(type(getattr(self, slot.name)))

    @property
    def contracts(self) -> bool:
        """Whether the backup of values contracts in the sup norm, by the greatest discount.

        It does when the functional is monotone and translation equivariant, the improvement does
        not expand, actions are compared by their means and the composition contracts.
        """
        facts = self.successor_functional.facts
        return bool(
            facts.monotone
            and facts.translation_equivariant
            and self.improvement.facts.nonexpansive
            and self.composition.facts.contracts
            and self.return_functional.facts.is_expectation
        )

    def require_successors(self, num_successors: int, exact: bool = False) -> None:
        """Refuse to be fed too little for the functional or the composition to mean anything.

        Args:
            num_successors: N, outcomes seen for each state and action.
            exact: whether they are the whole next-state law, in which case one may be enough.

        Raises:
            ValueError: one sampled successor for a functional that ranges over several (on one
                atom it would silently be the risk-neutral backup), or a head that stores a mean
                only under a composition or a functional of returns that needs the law.
        """
        if self.composition.facts.needs_law and not self.head.facts.stores_law:
            raise ValueError(
                f"{describe(self.composition)} does not commute with the expectation, but "
                f"{describe(self.head)} stores a mean only. Give the operator a head that stores a "
                "law, such as Quantile or Categorical."
            )
        if not self.return_functional.facts.is_expectation and not self.head.facts.stores_law:
            raise ValueError(
                f"return_functional={describe(self.return_functional)} scores laws of returns, but "
                f"{describe(self.head)} stores a mean only: use a head that stores a law, such as "
                "Quantile or Gaussian."
            )
        if exact or num_successors > 1 or not self.successor_functional.facts.needs_successors:
            return
        raise ValueError(
            f"{describe(self.successor_functional)} ranges over successors, but this agent sees "
            f"{num_successors} per transition. Back up from a Lookahead of several successors (the "
            "outcomes of a TabularMDP, or an environment stepped again), or set return_functional "
            "to be risk-averse over returns."
        )

    def backup(self, lookahead: Lookahead) -> Law:
        """The law that the state and action should have.

        Args:
            lookahead: its outcomes.

        Returns:
            Law of `[N K]` atoms [return] for a deterministic improvement, `[N A K]` otherwise,
            where K is the number of atoms of the head's laws. Gradients flow.

        Raises:
            ValueError: see `require_successors`; raised while tracing.
        """
        self.require_successors(lookahead.reward.shape[0], lookahead.exact)
        next_laws = jax.vmap(self.state_law)(
            lookahead.next_params, lookahead.mask, lookahead.selector_params, lookahead.stock
        )
        return self.outcome_law(lookahead.probs, lookahead.reward, lookahead.discount, next_laws)

    def backup_params(self, lookahead: Lookahead) -> Array:
        """The backup as the head stores it, `[*head.shape]`: what a table is set to.

        A network should rather lower `head.loss(params, operator.backup(lookahead))`.
        """
        return self.head.encode(self.backup(lookahead))

    def state_law(
        self,
        params: Array,
        mask: Array | None = None,
        selector_params: Array | None = None,
        stock: Array | None = None,
    ) -> Law:
        """The law of the return from one state, under the improvement and with its bonus.

        Args:
            params: `[A, *head.shape]`.
            mask: `[A]` bool, true where legal; None when every action is.
            selector_params: `[A, *head.shape]` that choose the action; None: `params`.
            stock: `[]` [return], see `score`.

        Returns:
            Law of `[K]` atoms [return] for a deterministic improvement (other actions' laws are
            not built), `[A K]` otherwise.
        """
        scores = self.scores(params if selector_params is None else selector_params, stock)
        if self.improvement.facts.deterministic:
            improvement: Any = self.improvement
            return self.head.law(params[improvement.select(scores, mask)])
        action_probs, bonus = self.improvement(scores, mask)
        laws = jax.vmap(self.head.law)(params)  # [A, K]
        pushed = laws.push(bonus, jnp.ones_like(bonus))
        return Law((action_probs[:, None] * laws.probs).reshape(-1), pushed.atoms.reshape(-1))

    def outcome_law(self, probs: Array, reward: Array, discount: Array, next_laws: Law) -> Law:
        """The law of one state and action from the laws of its successors.

        Args:
            probs: `[N]`, non-negative, summing to one.
            reward: `[N]` [return].
            discount: `[N]`, gamma^tau (1 - terminated).
            next_laws: `[N, M]` [return], what `state_law` gives at each successor.

        Returns:
            Law of `[N M]` atoms [return].
        """
        # An impossible atom, or one after the end, may hold anything: never 0 * inf.
        counts = (next_laws.probs > 0) | jnp.isfinite(next_laws.atoms)
        held = jnp.where(counts & (discount[:, None] > 0), next_laws.atoms, 0.0)
        composed = self.composition(reward[:, None], discount[:, None], held)  # [N, M]
        values = jax.vmap(Mean())(next_laws.probs, composed)  # [N]
        functional = self.successor_functional
        if functional.facts.monotone and functional.facts.translation_equivariant:
            value, weights = jax.value_and_grad(functional, argnums=1)(probs, values)
        else:  # the gradient is no law: the nominal one, moved to `value`
            value, weights = functional(probs, values), probs
        # Zero for coherent functionals; otherwise it moves the reweighted mixture to `value`.
        shift = jnp.where(jnp.isfinite(value), value - Mean()(weights, values), 0.0)
        mixed = weights[:, None] * next_laws.probs
        return Law(mixed.reshape(-1), (composed + shift).reshape(-1))

    def scores(self, params: Array, stock: Array | None = None) -> Array:
        """`params[A, *head.shape]`, `stock[]` -> `[A]` [return]: the return functional of each
        action's law, by which the improvement, and an agent that acts, compare actions."""
        return jax.vmap(lambda row: self.score(row, stock))(params)

    def score(self, params: Array, stock: Array | None = None) -> Array:
        """`params[*head.shape]` of one action -> `[]` [return]; see `scores`.

        `stock[]` [return] is what was gained before: the functional then sees stock + return, which
        makes a difference to those that are not translation equivariant.
        """
        if self.return_functional.facts.is_expectation:
            return self.head.mean(params)
        law = self.head.law(params)
        atoms = law.atoms if stock is None else law.atoms + stock
        return self.return_functional(law.probs, atoms)


def describe(part: Any) -> str:
    """A part of an operator with its settings, as far as they are concrete numbers."""
    fields = {f.name: getattr(part, f.name) for f in dataclasses.fields(part)}
    known = (f"{k}={v}" for k, v in fields.items() if not is_traced(v))
    return f"{type(part).__name__}({', '.join(known)})"


def names() -> dict[str, dict[str, Any]]:
    """What an operator may be built from: for each slot, name -> class.

    Example:
        >>> sorted(names())
        ['compositions', 'functionals', 'heads', 'improvements']
        >>> names()["heads"]["quantile"](num_atoms=8).shape
        (8,)
    """
    slots = ("functionals", "improvements", "heads", "compositions")
    return {slot: dict(KINDS[slot].builders) for slot in slots}
