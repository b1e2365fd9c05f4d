"""The Bellman operator: one backup for every head, planner and agent."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.law import Law
from jaxrl.core.protocols import Functional, Head, Improvement
from jaxrl.core.types import Array
from jaxrl.functionals.expectation import Mean
from jaxrl.operators.improvement import Greedy


@struct.dataclass
class Lookahead:
    """What may follow one state and action: N outcomes and what is known about each successor.

    An agent with one sampled transition has N = 1, a generative backup N = number of samples, a
    planner N = branching factor with the true probabilities.
    """

    reward: Array  # [N] [return]
    discount: Array  # [N], gamma^tau (1 - terminated)
    probs: Array  # [N], non-negative, summing to one
    next_params: Array  # [N, A, *head.shape], the head's parameters at the successor
    selector_params: Array | None = None  # [N, A, *head.shape] choose the action; None: next_params
    mask: Array | None = None  # [N, A] bool, true where legal; None: every action is
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


@struct.dataclass
class BellmanOperator:
    """The optimality backup of one state and action, as a law that any head can store.

    With q the head's means and F the successor functional, over outcomes n and next actions a:

    V_n = sum_a pi_na (q_na + bonus_na),  pi, bonus = improvement(return_functional(next laws))
    x_n = r_n + d_n V_n,                  value = F(p, x),  w = dF(p, x)/dx  (nature's law)
    result = mixture with weights w_n pi_na of the laws of
             r_n + d_n (Z_na + bonus_na) + value - sum_n w_n x_n

    Its mean is `value`: a distributional backup agrees with the scalar one. It contracts by
    max discount when F is monotone and translation equivariant, the improvement is a
    non-expansion and actions are scored by their means. `Mean`, `Greedy` and the scalar head give
    r + discount max_a q.

    A risk-averse `successor_functional` is *nested* risk (time-consistent by construction); a
    risk-averse `return_functional` is *greedy on the return law*, a heuristic whose fixed point
    need not exist. Neither is the *static* risk of the whole return.

    Attributes:
        head: how returns are stored.
        improvement: which next actions are assumed.
        successor_functional: over the N outcomes; sees their expected returns.
        return_functional: over an action's return law; scores actions for the improvement only.

    Example:
        >>> import jax.numpy as jnp
        >>> from jaxrl.operators.heads import Scalar
        >>> operator = BellmanOperator(Scalar())
        >>> step = Lookahead.of_transition(1.0, 0.5, jnp.array([2.0, 6.0]))
        >>> float(operator.backup_params(step))
        4.0

    Sources:
        Bellman (1957); Ruszczynski (2010), Risk-averse dynamic programming for Markov decision
        processes (nested risk); Iyengar (2005), Robust dynamic programming; Bellemare, Dabney &
        Munos (2017), section 3 (distributional backup).
    """

    head: Head
    improvement: Improvement = struct.field(default_factory=Greedy)
    successor_functional: Functional = struct.field(default_factory=Mean)
    return_functional: Functional = struct.field(default_factory=Mean)

    def require_successors(self, num_successors: int, exact: bool = False) -> None:
        """Refuse to be fed too few successors for the functional to mean anything.

        Args:
            num_successors: N, outcomes seen for each state and action.
            exact: whether they are the whole next-state law, in which case one may be enough.

        Raises:
            ValueError: one sampled successor for a functional that ranges over several; on one
                atom it would silently be the risk-neutral backup.
        """
        if exact or num_successors > 1 or not self.successor_functional.needs_successors:
            return
        raise ValueError(
            f"{_describe(self.successor_functional)} ranges over successors, but this agent sees "
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
        reward, discount = lookahead.reward, lookahead.discount
        self.require_successors(reward.shape[0], lookahead.exact)
        params, action_probs, bonus = self._next_actions(lookahead)

        next_laws = jax.vmap(jax.vmap(self.head.law))(params)  # [N, C, K]
        q_values = jax.vmap(jax.vmap(self.head.mean))(params)  # [N, C]
        # An action that is never taken may hold anything, -inf included.
        counts = (action_probs > 0) | jnp.isfinite(q_values)
        taken = jnp.where(counts, q_values, 0.0)
        next_values = jnp.sum(action_probs * (taken + bonus), axis=1)  # [N]
        values = reward + discount * next_values

        value, weights = jax.value_and_grad(self.successor_functional, argnums=1)(
            lookahead.probs, values
        )
        # Zero for coherent functionals; otherwise it moves the reweighted mixture to `value`.
        shift = jnp.where(jnp.isfinite(value), value - Mean()(weights, values), 0.0)
        pushed = next_laws.push(
            (reward + shift)[:, None] + discount[:, None] * bonus, discount[:, None]
        )
        probs = (weights[:, None] * action_probs)[:, :, None] * next_laws.probs
        return Law(probs.reshape(-1), pushed.atoms.reshape(-1))

    def backup_params(self, lookahead: Lookahead) -> Array:
        """The backup as the head stores it, `[*head.shape]`: what a table is set to.

        A network should rather lower `head.loss(params, operator.backup(lookahead))`.
        """
        return self.head.encode(self.backup(lookahead))

    def _next_actions(self, lookahead: Lookahead) -> tuple[Array, Array, Array]:
        """The actions that matter: parameters `[N, C, *head.shape]`, probs and bonus `[N, C]`.

        C is 1 when the improvement is deterministic, so that other actions' laws are not built.
        """
        params, mask = lookahead.next_params, lookahead.mask
        selector = lookahead.selector_params
        scores = jax.vmap(jax.vmap(self.score))(params if selector is None else selector)
        if self.improvement.deterministic:
            index = jax.vmap(self.improvement.select)(scores, mask)
            chosen = jax.vmap(lambda row, i: row[i])(params, index)[:, None]
            ones = jnp.ones((index.shape[0], 1), scores.dtype)
            return chosen, ones, jnp.zeros_like(ones)
        action_probs, bonus = jax.vmap(self.improvement)(scores, mask)
        return params, action_probs, bonus

    def score(self, params: Array) -> Array:
        """`params[*head.shape]` of one action -> `[]` [return]: the return functional of its law,
        by which the improvement, and an agent that acts, compare actions."""
        law = self.head.law(params)
        return self.return_functional(law.probs, law.atoms)


def _describe(functional: Functional) -> str:
    """The functional with its settings, as far as they are concrete numbers."""
    fields = {f.name: getattr(functional, f.name) for f in dataclasses.fields(functional)}
    known = (f"{k}={v}" for k, v in fields.items() if not isinstance(v, jax.core.Tracer))
    return f"{type(functional).__name__}({', '.join(known)})"
