"""Deep variance weighting: errors count by how little their targets vary."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.agents.action_values import ValueNetwork, taken, value_network
from jaxrl.agents.chain import Step
from jaxrl.agents.optimiser import Optimiser
from jaxrl.core import Struct, struct
from jaxrl.core.law import Law
from jaxrl.core.notation import register
from jaxrl.core.protocols import Environment, PartFacts
from jaxrl.core.settings import setting
from jaxrl.core.types import Array, Key, PyTree, select
from jaxrl.losses import huber_loss
from jaxrl.operators import Scalar


class VarianceState(Struct):
    """What `VarianceWeights` remembers."""

    params: PyTree  # of the network of variances
    optimiser: PyTree
    frozen: PyTree  # its copy, of when the agent's copy last moved
    previous: PyTree  # the agent's lagged copy before the present one
    log_scale: Array  # [], log of eta [return^2]
    model: ValueNetwork = struct.field(pytree_node=False)


class VarianceWeights(Struct):
    """Weighs the loss of a pair by one over the variance of its targets, on average by one.

        variance(s, a) = exp(network(s, a)) + least
        network : Huber's loss of variance(s, a) against (y - q'(s, a))^2
        weight(s, a) = max(eta / frozen variance(s, a), floor)
        log eta : down the slope of (mean weight - 1)^2 / 2

    y is the target by the lagged copy *before* the present one, q' the present one, which was
    fitted to such targets: their difference is noise, where the error of the network that learns is
    lack of fit too. When the agent's copy moves, first the network of variances is frozen, then the
    former copy is kept. As eta keeps the mean weight at 1, the step size stays what it was; where
    the variance is the same everywhere, so does the loss.

    With `Munchausen` in the chain and a `Softmax` improvement it is the published agent.

    Metrics: `variance_scale`, eta [return^2].

    Attributes:
        least: added to variances.
        floor: of weights.
        scale_rate: step size of log eta.
        optimiser: of the network of variances, which is like the agent's.

    Sources:
        Kitamura et al. (2023), Regularization and variance-weighted regression achieves minimax
        optimality in linear MDPs: theory and practice, section 6 and algorithm 3 (deep variance
        weighting).
    """

    least: float = setting(0.1, "added to variances", unit="return^2", low=0.0, low_open=True)
    floor: float = setting(0.1, "least weight", low=0.0, high=1.0)
    scale_rate: float = setting(0.01, "step size of the logarithm of the scale", low=0.0)
    optimiser: Optimiser = Optimiser(learning_rate=1e-3, max_grad_norm=10.0)

    facts = PartFacts(means=True, whole_copies=True, discrete=True)

    def init(self, key: Key, agent: Any, env: Environment, params: PyTree) -> VarianceState:
        """A network like the agent's, and the agent's copy as it begins."""
        model = value_network(agent.network, env, Scalar(), dueling=False)
        reset_key, params_key = jax.random.split(key)
        _, observation = env.reset(reset_key)
        own = model.init(params_key, jax.tree.map(lambda leaf: leaf[None], observation))
        copy, kept = (jax.tree.map(jnp.copy, tree) for tree in (own, params))
        return VarianceState(own, self.optimiser.init(own), copy, kept, jnp.zeros(()), model)

    def variance(self, state: VarianceState, params: PyTree, step: Step) -> Array:
        """Of the pairs of the batch, `[B]` [return^2]."""
        data = step.batch.transition
        outputs = state.model.apply(params, data.observation)
        return jnp.exp(taken(outputs, data.action)) + self.least

    def weigh(self, state: VarianceState, step: Step, td_error: Array) -> Array:
        """`[B]`, by the frozen variances."""
        weights = jnp.exp(state.log_scale) / self.variance(state, state.frozen, step)
        return jnp.maximum(weights, self.floor)

    def update(self, state: VarianceState, step: Step, target: Law, lagged: Array) -> VarianceState:
        """One step of the variances and of the scale; copies where the agent's moves."""
        counts, agent = step.batch.weights, step.agent
        total = jnp.maximum(jnp.sum(counts), 1.0)
        noise = jax.lax.stop_gradient(step.backup(state.previous).mean() - lagged) ** 2

        def loss(params: PyTree) -> Array:
            return jnp.sum(counts * huber_loss(self.variance(state, params, step), noise)) / total

        progress = step.state.progress
        grads = jax.grad(loss)(state.params)
        params, optimiser = self.optimiser.step(grads, state.optimiser, state.params, progress)
        mean = jnp.sum(counts * self.weigh(state, step, lagged)) / total
        slope = jnp.where(jnp.sum(counts) > 0, (mean - 1.0) * mean, 0.0)
        due = agent.target.is_due(step.state.num_updates + 1)
        return state.replace(
            params=params,
            optimiser=optimiser,
            frozen=select(due, params, state.frozen),
            previous=select(due, step.state.target_params, state.previous),
            log_scale=state.log_scale - self.scale_rate * slope,
        )

    def metrics(self, state: VarianceState) -> dict[str, Array]:
        """`variance_scale`, eta [return^2]."""
        return {"variance_scale": jnp.exp(state.log_scale)}


register("parts", VarianceWeights)
