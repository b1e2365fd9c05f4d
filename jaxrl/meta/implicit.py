"""Implicit gradients: lives train plainly and are differentiated where they have come to."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree

from jaxrl.core import Struct
from jaxrl.core.protocols import UpdateRule, rule_facts
from jaxrl.core.settings import setting
from jaxrl.core.types import Array, Key, Progress, PyTree, Transition, select
from jaxrl.meta.inner import differentiable_iteration, lived, look_ahead, relive, repeat
from jaxrl.meta.lives import Life
from jaxrl.meta.objectives import CriticState
from jaxrl.meta.tasks import take
from jaxrl.rules.contract import of_inner
from jaxrl.training.loop import TrainState


class NeumannSeries(Struct):
    """Solves A v = target by the first K terms of a power series.

        v = step_size sum_{k=0}^{K-1} (I - step_size (A + damping I))^k target

    With A the Jacobian of a training gradient, this is what K further steps of plain gradient
    descent would pass back. Along an eigenvector of A + damping I with eigenvalue m the error is
    (1 - step_size m)^K of the whole: it shrinks where 0 < step_size m < 2 and grows elsewhere.

    Damping d adds the curvature of a penalty d |params|^2 / 2 that training did not have: it
    bounds the answer where A is singular, and moves it everywhere.

    Source: Lorraine, Vicol & Duvenaud 2020, Optimizing millions of hyperparameters by implicit
    differentiation, algorithm 3, and its theorem that steps of descent from an optimum pass back
    this series.

    Example:
        >>> series = NeumannSeries(num_terms=3, step_size=0.5)
        >>> float(series(lambda v: v, jnp.ones(())))  # 1 - 0.5^3
        0.875
    """

    num_terms: int = setting(50, "terms of the series", low=1)
    step_size: float = setting(0.1, "of the series", low=0.0, low_open=True)
    damping: float = setting(0.0, "added to the diagonal", low=0.0)

    def __call__(self, product: Callable[[PyTree], PyTree], target: PyTree) -> PyTree:
        """`num_terms - 1` products."""

        def add(_: int, found: PyTree) -> PyTree:
            return jax.tree.map(
                lambda v, b, av: v + self.step_size * (b - av - self.damping * v),
                found,
                target,
                product(found),
            )

        first = jax.tree.map(lambda b: self.step_size * b, target)
        return jax.lax.fori_loop(0, self.num_terms - 1, add, first)


class MinimalResidual(Struct):
    """The v of least residual among all sums of (A + damping I)^k target, k < K (GMRES).

    It needs no step size and is never further from solving the system than a Neumann series of as
    many terms. It holds K vectors. It inverts what curvature there is: negative curvature of
    training that has not ended, and the noise of small eigenvalues in sampled Jacobians, against
    which `damping` helps.

    Source: Saad & Schultz 1986, GMRES.

    Example:
        >>> solver = MinimalResidual(num_terms=2)
        >>> found = solver(lambda v: jnp.array([2.0, 4.0]) * v, jnp.ones(2))
        >>> [round(float(x), 3) for x in found]
        [0.5, 0.25]
    """

    num_terms: int = setting(20, "products of the linear map", low=1)
    damping: float = setting(0.0, "added to the diagonal", low=0.0)

    def __call__(self, product: Callable[[PyTree], PyTree], target: PyTree) -> PyTree:
        """`num_terms` products and an orthogonal basis of what they span.

        Least squares by singular values, where `jax.scipy.sparse.linalg.gmres` has normal equations
        or triangles: those give NaN or huge numbers for a singular map.
        """
        flat, unravel = ravel_pytree(target)
        size = jnp.linalg.norm(flat)
        first = flat / jnp.where(size > 0, size, 1.0)
        basis = jnp.zeros((self.num_terms + 1, flat.size), flat.dtype).at[0].set(first)
        small = 10.0 * jnp.finfo(flat.dtype).eps

        def grow(k: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
            basis, shape = carry
            image = ravel_pytree(product(unravel(basis[k])))[0] + self.damping * basis[k]
            along, rest = jnp.zeros(basis.shape[0], flat.dtype), image
            for _ in range(2):  # once more for what rounding left
                part = basis @ rest
                along, rest = along + part, rest - part @ basis
            norm = jnp.linalg.norm(rest)
            grows = norm > small * jnp.linalg.norm(image)  # else the span is complete
            unit = jnp.where(grows, rest / jnp.where(grows, norm, 1.0), 0.0)
            along = along.at[k + 1].set(jnp.where(grows, norm, 0.0))
            return basis.at[k + 1].set(unit), shape.at[:, k].set(along)

        shape = jnp.zeros((self.num_terms + 1, self.num_terms), flat.dtype)
        basis, shape = jax.lax.fori_loop(0, self.num_terms, grow, (basis, shape))
        wanted = jnp.zeros(self.num_terms + 1, flat.dtype).at[0].set(size)
        weights = jnp.linalg.lstsq(shape, wanted)[0]
        return unravel(weights @ basis[:-1])


class Hypergradient(Struct):
    """The gradient of an outer loss through the end of training, and how far to trust it."""

    gradient: PyTree  # d outer / d rule_params
    loss: Array  # [] outer loss
    residual: Array  # [] |A' v - d outer / d params| / |d outer / d params|; 0 is exact
    inner_norm: Array  # [] norm of the training gradient; 0 where training has ended


class ImplicitGradient(Struct):
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
        solver: of the linear system A v = target, `(product, target) -> v`, for a map of pytrees
            that is given by its products alone: `NeumannSeries` or `MinimalResidual`.
        through_data: whether the inner gradient's data move with the parameters, as they do.
        max_residual: of a life whose gradient counts.
        num_rollouts: for each of the two. Long series need many: the noise of sampled curvature is
            what makes them diverge.

    Sources: Gupta et al. 2023, Behavior alignment via reward function optimization (rewards and
    discounts; with `rules.with_reward`). Chakraborty et al. 2024, PARL (`through_data`).
    """

    solver: Callable[[Callable[[PyTree], PyTree], PyTree], PyTree] = NeumannSeries()
    through_data: bool = setting(True, "let the data of the inner gradient move with the policy")
    max_residual: float = setting(5.0, "of a life whose gradient counts", low=0.0)
    num_rollouts: int = setting(1, "fresh rollouts for each of the two losses", low=1)

    def __call__(
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

        def learn(train: TrainState) -> tuple:
            return differentiable_iteration(agent, env, train, outer.auto_reset)

        def look(train: TrainState) -> tuple:
            return look_ahead(agent, env, train, outer.auto_reset)

        train, learned_from = repeat(learn, life.train, outer.num_updates)
        train, (data, episodes, keys) = repeat(look, train, 2 * self.num_rollouts)
        inner_data, outer_data = take(data, slice(0, None, 2)), take(data, slice(1, None, 2))

        def at(params: PyTree) -> Any:
            return train.replace(agent=train.agent.replace(params=params))

        def inner_gradient(params: PyTree, rule_params: PyTree) -> PyTree:
            agent = outer.tuned.agent_of(rule_params)

            def of(key: Key, data: Transition) -> PyTree:
                return self.training_gradient(key, agent, at(params), data)

            return jax.tree.map(lambda leaf: jnp.mean(leaf, 0), jax.vmap(of)(keys[::2], inner_data))

        def outer_loss(params: PyTree, rule_params: PyTree) -> Array:
            agent = outer.tuned.agent_of(rule_params)
            advantages = partial(outer.critic.advantages, critic, env)

            def of(data: Transition) -> Array:
                return outer.objective.loss(agent, env, at(params), data, advantages)

            return jnp.mean(jax.vmap(of)(outer_data))

        found = self.hypergradient(inner_gradient, outer_loss, train.agent.params, rule_params)
        counts = found.residual <= self.max_residual
        metrics = {
            "implicit_residual": jnp.where(counts, found.residual, self.max_residual),
            "inner_gradient_norm": found.inner_norm,
            "diverged_fraction": 1.0 - counts,
        }
        nothing = jax.tree.map(jnp.zeros_like, found.gradient)
        out = (*lived(life, train, learned_from, (data, episodes)), metrics)
        return (found.loss, out), select(counts, found.gradient, nothing)

    def hypergradient(
        self,
        inner_gradient: Callable[[PyTree, PyTree], PyTree],
        outer_loss: Callable[[PyTree, PyTree], Array],
        params: PyTree,
        rule_params: PyTree,
    ) -> Hypergradient:
        """How an outer loss at the end of training changes with the rule that trained.

        Training ends where its gradient is zero, g(params*, rule) = 0, which makes `params*` a
        function of the rule; by the implicit function theorem

            d outer / d rule = direct - (d g / d rule)' v
            (d g / d params)' v = d outer / d params

        with the outer loss's own derivatives on the right. Products with the Jacobian come from one
        reverse pass each: neither it nor a Hessian is formed, and `g` need not be the gradient of
        anything (an actor and its critic). What `residual` and `inner_norm` say holds for the
        system without the solver's damping: a short series, a singular Jacobian with an outer
        gradient out of its range, and training that has not ended are all seen there.

        Args:
            inner_gradient: `(params, rule_params)` -> the training gradient, as `params`.
            outer_loss: `(params, rule_params)` -> `[]`.
            params: where training ended, or near.
            rule_params: what it trained with.

        Sources: Gupta et al. 2023, Behavior alignment via reward function optimization (the series,
        for learned rewards and discounts). Chakraborty et al. 2024, PARL (that training data move
        with `params`: put that into `inner_gradient`, as `training_gradient` does).

        Example:
            >>> through = ImplicitGradient(NeumannSeries(num_terms=40, step_size=0.5))
            >>> found = through.hypergradient(  # params* = rule, outer = params*^2 / 2
            ...     lambda params, rule: params - rule,
            ...     lambda params, rule: 0.5 * params**2,
            ...     jnp.array(3.0),
            ...     jnp.array(3.0),
            ... )
            >>> f"{float(found.gradient):.4f}"
            '3.0000'
        """
        loss, (target, direct) = jax.value_and_grad(outer_loss, argnums=(0, 1))(params, rule_params)
        field, pull = jax.vjp(inner_gradient, params, rule_params)
        found = self.solver(lambda v: pull(v)[0], target)
        back, through = pull(found)
        size = optax.tree.norm(target)
        gap = optax.tree.norm(jax.tree.map(jnp.subtract, back, target))
        return Hypergradient(
            gradient=jax.tree.map(jnp.subtract, direct, through),
            loss=loss,
            residual=jnp.where(size > 0, gap / jnp.where(size > 0, size, 1.0), gap),
            inner_norm=optax.tree.norm(field),
        )

    def training_gradient(self, key: Key, agent: Any, train: Any, trajectory: Transition) -> PyTree:
        """The gradient that an agent's update would follow on a whole rollout, as a function.

            g(params, rule) = mean_t w_t d loss_t / d params,      w_t = prod_{i <= t} rho_i

        differentiable in the parameters (through values, targets and log-probabilities) and in the
        agent's numbers. The ratios rho_i = pi(a_i | s_i) / constant(pi(a_i | s_i)), over the steps
        of an episode within the rollout, are 1 and change no value; their slopes are how the law of
        the data moves with the policy. They also stand in the returns, where the next discount is
        multiplied by the next rho. Without them (`through_data=False`) the derivative is that of a
        loss on fixed data, which is not how the end of training moves.

        What came before the rollout is taken as given, so are the draws of the environment.

        Args:
            key: of the update; not used with one minibatch.
            agent: an actor-critic with `update`.
            train: `TrainState`; the gradient is at its parameters.
            trajectory: `[T, B]`, collected at those parameters.
        """
        agent = agent.replace(optimiser=_Gradients(), num_epochs=1, num_minibatches=1)
        data = relive(agent, train, trajectory)
        if self.through_data:
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


class _Gradients(Struct):
    """An optimiser whose new parameters are the gradient."""

    def init(self, params: PyTree) -> tuple:
        return ()

    def step(
        self, grads: PyTree, state: tuple, params: PyTree, progress: Progress
    ) -> tuple[PyTree, tuple]:
        return grads, state


class _Weighted(Struct):
    """A rule whose steps count with the weights that the trajectory brings."""

    rule: UpdateRule

    facts = property(lambda weighted: rule_facts(weighted.rule))
    outputs = of_inner("outputs")
    init = of_inner("init")

    def targets(
        self, rule_state: PyTree, outputs: PyTree, trajectory: Transition, progress: Progress
    ) -> tuple[PyTree, PyTree]:
        targets, rule_state = self.rule.targets(rule_state, outputs, trajectory, progress)
        return (targets, trajectory.extras["_weight"]), rule_state

    def loss(self, outputs: PyTree, targets: PyTree, progress: Progress) -> Array:
        targets, weight = targets
        return jax.tree.map(lambda x: weight * x, self.rule.loss(outputs, targets, progress))

    def combine(self, losses: dict, gradients: dict, targets: PyTree, progress: Progress) -> PyTree:
        rule: Any = self.rule
        return rule.combine(losses, gradients, targets[0], progress)
