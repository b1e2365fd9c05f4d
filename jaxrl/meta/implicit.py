"""Implicit gradients: lives train plainly and are differentiated where they have come to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxrl.core import struct
from jaxrl.core.protocols import UpdateRule
from jaxrl.core.settings import setting
from jaxrl.core.types import Array, Key, Progress, PyTree, Transition, select
from jaxrl.meta.inner import differentiable_iteration, lived, look_ahead, relive
from jaxrl.meta.lives import Life
from jaxrl.meta.neumann import LinearSolver, NeumannSeries, hypergradient
from jaxrl.meta.objectives import CriticState
from jaxrl.meta.tasks import take
from jaxrl.rules.contract import of_inner
from jaxrl.training.loop import TrainState


@struct.dataclass
class ImplicitGradient:
    """How `MetaGradient` slopes are found without differentiating through the updates.

    Each life makes its K updates plainly. Where they have led, `hypergradient` is taken: the inner
    gradient is the agent's own (`training_gradient`) on fresh rollouts, the outer loss is the
    objective's on others, so that their noise is independent. Nothing is kept for the K updates.

    It is right at the end of training and approximate before: `inner_gradient_norm` among the
    metrics says how far off that is, `implicit_residual` how well the linear system was solved (1
    is no better than v = 0), `diverged_fraction` which share of the lives has a residual above
    `max_residual`; those live on and count with a gradient of zero. Before the end curvature may
    be negative: a short `NeumannSeries` still goes the way that a few more updates would, where
    `MinimalResidual` inverts it and goes the other way. Give the latter trained lives.

    Numbers that change how training moves but not where it ends, such as a learning rate, have no
    implicit gradient. A policy needs a bonus of entropy (or a solver's damping) for its end to be
    a point: without one, logits run off to infinity.

    Attributes:
        solver: of the linear system.
        through_data: whether the inner gradient's data move with the parameters, as they do.
        max_residual: of a life whose gradient counts.
        num_rollouts: for each of the two. Long series need many: the noise of sampled curvature is
            what makes them diverge.

    Sources: Gupta et al. 2023, Behavior alignment via reward function optimization (rewards and
    discounts; with `rules.with_reward`). Chakraborty et al. 2024, PARL (`through_data`).
    """

    solver: LinearSolver = struct.field(default_factory=NeumannSeries)
    through_data: bool = setting(True, "let the data of the inner gradient move with the policy")
    max_residual: float = setting(5.0, "of a life whose gradient counts", low=0.0)
    num_rollouts: int = setting(1, "fresh rollouts for each of the two losses", low=1)

    def slope(
        self, outer: Any, rule_params: PyTree, life: Life, critic: CriticState
    ) -> tuple[tuple[Array, tuple], PyTree]:
        """Of one life: `(loss, (life, tally, trajectories, metrics)), gradient`.

        Raises:
            ValueError: `through_data` with standardised advantages, which mix steps.
        """
        if self.through_data and outer.tuned.agent.normalise_advantages:
            raise ValueError(
                "Advantages standardised over a rollout have no weights of single steps: give the "
                "agent normalise_advantages=False, or ImplicitGradient(through_data=False)."
            )
        agent, env = outer.tuned.agent_of(rule_params), life.env

        def over(step: Callable, train: TrainState, length: int) -> tuple[TrainState, list]:
            def one(train: TrainState, _: None) -> tuple[TrainState, list]:
                train, *seen = step(agent, env, train, outer.auto_reset)
                return train, seen

            return jax.lax.scan(one, train, None, length)

        train, learned_from = over(differentiable_iteration, life.train, outer.num_updates)
        train, (data, episodes, keys) = over(look_ahead, train, 2 * self.num_rollouts)
        inner_data, outer_data = take(data, slice(0, None, 2)), take(data, slice(1, None, 2))

        def at(params: PyTree) -> Any:
            return train.replace(agent=train.agent.replace(params=params))

        def inner_gradient(params: PyTree, rule_params: PyTree) -> PyTree:
            agent = outer.tuned.agent_of(rule_params)

            def of(key: Key, data: Transition) -> PyTree:
                return training_gradient(key, agent, at(params), data, self.through_data)

            return jax.tree.map(lambda leaf: jnp.mean(leaf, 0), jax.vmap(of)(keys[::2], inner_data))

        def outer_loss(params: PyTree, rule_params: PyTree) -> Array:
            agent = outer.tuned.agent_of(rule_params)

            def of(data: Transition) -> Array:
                return outer.objective.loss(agent, env, at(params), data, outer.critic, critic)

            return jnp.mean(jax.vmap(of)(outer_data))

        found = hypergradient(
            inner_gradient, outer_loss, train.agent.params, rule_params, solver=self.solver
        )
        counts = found.residual <= self.max_residual
        metrics = {
            "implicit_residual": jnp.where(counts, found.residual, self.max_residual),
            "inner_gradient_norm": found.inner_norm,
            "diverged_fraction": 1.0 - counts,
        }
        nothing = jax.tree.map(jnp.zeros_like, found.gradient)
        out = (*lived(life, train, learned_from, (data, episodes)), metrics)
        return (found.loss, out), select(counts, found.gradient, nothing)


def training_gradient(
    key: Key, agent: Any, train: Any, trajectory: Transition, through_data: bool = True
) -> PyTree:
    """The gradient that an agent's update would follow on a whole rollout, as a function.

        g(params, rule) = mean_t w_t d loss_t / d params,      w_t = prod_{i <= t} rho_i

    differentiable in the parameters (through values, targets and log-probabilities) and in the
    agent's numbers. The ratios rho_i = pi(a_i | s_i) / constant(pi(a_i | s_i)), over the steps of
    an episode within the rollout, are 1 and change no value; their slopes are how the law of the
    data moves with the policy. They also stand in the returns, where the next discount is
    multiplied by the next rho. Without them (`through_data=False`) the derivative is that of a loss
    on fixed data, which is not how the end of training moves.

    What came before the rollout is taken as given, so are the draws of the environment.

    Args:
        key: of the update; not used with one minibatch.
        agent: an actor-critic with `update`.
        train: `TrainState`; the gradient is at its parameters.
        trajectory: `[T, B]`, collected at those parameters.
        through_data: see above.
    """
    step = _Gradients()
    agent = agent.replace(optimiser=step, num_epochs=1, num_minibatches=1)
    data = relive(agent, train, trajectory)
    if through_data:
        weight, ratio_ahead = _data_weights(data)
        data = data.replace(
            discount=data.discount * ratio_ahead, extras={**data.extras, "_weight": weight}
        )
        agent = agent.replace(rule=_Weighted(agent.rule))
    state = train.agent.replace(optimiser=())
    return agent.update(key, state, data)[0].params


def _data_weights(trajectory: Transition) -> tuple[Array, Array]:
    """Likelihood ratios `[T, B]` of what was done up to each step, and of the step that follows."""
    log_prob = trajectory.extras["log_prob"]
    log_ratio = log_prob - jax.lax.stop_gradient(log_prob)
    ended = (trajectory.terminated >= 1) | trajectory.truncated

    def along(so_far: Array, row: tuple[Array, Array]) -> tuple[Array, Array]:
        log_ratio, ended = row
        so_far = so_far + log_ratio
        return jnp.where(ended, 0.0, so_far), so_far

    _, total = jax.lax.scan(along, jnp.zeros_like(log_ratio[0]), (log_ratio, ended))
    ahead = jnp.concatenate([log_ratio[1:], jnp.zeros_like(log_ratio[:1])])
    return jnp.exp(total), jnp.exp(jnp.where(ended, 0.0, ahead))


@struct.dataclass
class _Gradients:
    """An optimiser whose new parameters are the gradient."""

    def init(self, params: PyTree) -> tuple:
        return ()

    def step(
        self, grads: PyTree, state: tuple, params: PyTree, progress: Progress
    ) -> tuple[PyTree, tuple]:
        return grads, state


@struct.dataclass
class _Weighted:
    """A rule whose steps count with the weights that the trajectory brings."""

    rule: UpdateRule

    needs_episodes = of_inner("needs_episodes", False)
    outputs = of_inner("outputs")
    init = of_inner("init")

    def targets(
        self, rule_state: PyTree, outputs: PyTree, trajectory: Transition, progress: Progress
    ) -> tuple[PyTree, PyTree]:
        targets, rule_state = self.rule.targets(rule_state, outputs, trajectory, progress)
        return (targets, trajectory.extras["_weight"]), rule_state

    def loss(self, outputs: PyTree, targets: PyTree, progress: Progress) -> Array:
        targets, weight = targets
        return weight * self.rule.loss(outputs, targets, progress)
