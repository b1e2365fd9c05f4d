"""Learned multipliers: a worst case or a tail mean from one sampled successor."""

from __future__ import annotations

import jax
import jax.numpy as jnp

import jaxrl.functionals as functionals
from jaxrl.agents import action_values
from jaxrl.agents.optimiser import GradientStep, Optimiser, as_optimiser
from jaxrl.agents.successors import Outcomes, Sampled, SourceState
from jaxrl.core import Struct, struct
from jaxrl.core.law import Law
from jaxrl.core.notation import register
from jaxrl.core.protocols import Environment, Functional, PartFacts
from jaxrl.core.schedules import values_at
from jaxrl.core.settings import setting
from jaxrl.core.spaces import Discrete
from jaxrl.core.types import Array, Key, Progress, PyTree, Transition
from jaxrl.functionals import duals
from jaxrl.networks import Network, QNetwork
from jaxrl.operators.bellman import BellmanOperator, describe
from jaxrl.replay import Batch


class DualState(Struct):
    """The network of the multipliers."""

    params: PyTree
    optimiser: PyTree
    model: QNetwork = struct.field(pytree_node=False)


class Dual(Struct):
    """One sampled successor, and a network for the parameters of the functional's dual.

    Where F(p, v) = max_t E d(V, t), the network gives t for every state and action and climbs the
    sampled d, at which the value network aims:

    t(s, a) = project(initial(q(s, a), scale) + scale network(s, a), v),   v = r + discount V(s')
    network: up the slope of d(v, t);  target of q(s, a): d(v, t)

    with q of the lagged copy. An imperfect t makes the target more careful, never less. Where t
    must be feasible for values not yet seen (`TotalVariation`, `Contamination`: a bound below all
    of them), a sample that shows it to be infeasible pulls it back with weight `penalty`.

    For functionals that have a `dual`, such as CVaR, KLBall and TotalVariation, and for heads that
    store a mean.

    Attributes:
        scale: how far the values of the successors of one state and action spread, about.
        least: of a multiplier that divides, in scales: smaller is less careful and noisier.
        penalty: pull towards feasible parameters.
        optimiser: of the network.

    Example:
        >>> Dual().dual(functionals.CVaR(0.25))
        UtilityDual(utility=PiecewiseLinear(gain_slope=0.0, loss_slope=4.0), is_bound=False)

    Sources:
        Rockafellar & Uryasev (2000), theorem 1 (CVaR); Ben-Tal et al. (2013), theorem 1
        (divergences); Panaganti, Xu, Kalathil & Ghavamzadeh (2022), Robust reinforcement learning
        using offline data (a learned dual variable for each state and action).
    """

    scale: float = setting(1.0, "spread of next values", unit="return", low=0.0, low_open=True)
    least: float = setting(0.05, "least multiplier, in scales", low=0.0, low_open=True)
    penalty: float = setting(100.0, "pull towards feasible parameters", low=0.0)
    optimiser: GradientStep = struct.field(
        default=Optimiser(learning_rate=1e-3, max_grad_norm=10.0), converter=as_optimiser
    )

    facts = PartFacts(one_step=True, means=True, replay=True)
    keeps_env_state = False
    is_random = False

    def check(self, operator: BellmanOperator, env: Environment) -> None:
        """Raise `ValueError` for functionals without a dual, and actions that are not discrete."""
        self.dual(operator.successor_functional)
        if not isinstance(env.action_space, Discrete):
            raise ValueError("Dual has multipliers for each discrete action: use Generative.")
        self.operator(operator).require_successors(1)

    def dual(self, functional: Functional) -> duals.SampleDual:
        """The per-sample dual of a functional.

        Raises:
            ValueError: there is none here.
        """
        if not isinstance(functional, duals.HasDual):
            kinds = [getattr(functionals, name) for name in dir(functionals)]
            known = ", ".join(kind.__name__ for kind in kinds if hasattr(kind, "dual"))
            raise ValueError(
                f"{describe(functional)} has no dual of one sample here; those of {known} do. Use "
                "successors=Generative(num_samples=16)."
            )
        if getattr(functional, "support", "nominal") != "nominal":
            raise ValueError(
                f"{describe(functional)}: a sampled dual sees possible successors only, so that "
                'support="full" has no dual of one sample.'
            )
        present = values_at(functional, Progress.start())  # as it is at first, when still scheduled
        return present.dual(self.least * self.scale)

    def operator(self, operator: BellmanOperator) -> BellmanOperator:
        """With the mean over successors: the dual comes afterwards."""
        return operator.replace(successor_functional=functionals.Mean())

    def init(
        self, key: Key, env: Environment, operator: BellmanOperator, network: Network
    ) -> SourceState:
        """A network like the agent's, with the dual's parameters for every action."""
        shape = self.dual(operator.successor_functional).shape
        model = QNetwork(network.torso(env.observation_space), env.action_space.num_values, shape)
        reset_key, params_key = jax.random.split(key)
        _, observation = env.reset(reset_key)
        params = model.init(params_key, jax.tree.map(lambda leaf: leaf[None], observation))
        return SourceState(learned=DualState(params, self.optimiser.init(params), model))

    def outcomes(self, key: Key, state: SourceState, data: Transition, discount: float) -> Outcomes:
        """The transition itself."""
        return Sampled().outcomes(key, state, data, discount)

    def learn(
        self,
        state: SourceState,
        operator: BellmanOperator,
        batch: Batch,
        target: Law,
        lagged: Array,
        progress: Progress,
    ) -> tuple[PyTree, Law]:
        """One step up the sampled dual; the duals at the parameters before it are the targets."""
        dual, learned = self.dual(operator.successor_functional), state.learned
        data = batch.transition
        # Held as it is: XLA may compute it twice and round the copies differently, so that a bound
        # at the one lies above the other.
        value = jax.lax.optimization_barrier(jax.lax.stop_gradient(target.mean()))
        start = jax.vmap(dual.initial, (0, None))(jax.lax.stop_gradient(lagged), self.scale)

        def loss(params: PyTree) -> tuple[Array, Array]:
            outputs = learned.model.apply(params, data.observation)
            free = start + self.scale * action_values.taken(outputs, data.action)
            held = jax.vmap(dual.project)(free, value)
            # The slope is taken where the parameters are feasible, and moves them from where they
            # are: at a clipped multiplier it would otherwise be lost.
            taken = jax.lax.stop_gradient(held) + (free - jax.lax.stop_gradient(free))
            off = jnp.sum((free - jax.lax.stop_gradient(held)) ** 2, axis=-1) / self.scale
            losses = 0.5 * self.penalty * off - jax.vmap(dual)(value, taken)
            count = jnp.maximum(jnp.sum(batch.weights > 0), 1)
            kept = jnp.where(batch.weights > 0, batch.weights * losses, 0.0)
            return jnp.sum(kept) / count, held

        grads, held = jax.grad(loss, has_aux=True)(learned.params)
        params, optimiser = self.optimiser.step(grads, learned.optimiser, learned.params, progress)
        estimate = jax.vmap(dual.estimate)(value, held)[:, None]
        return DualState(params, optimiser, learned.model), Law(jnp.ones_like(estimate), estimate)


register("successors", Dual)
