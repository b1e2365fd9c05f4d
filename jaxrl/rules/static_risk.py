"""Policy gradient of a functional of the whole return's law: static CVaR among others."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxrl.core import Struct, struct
from jaxrl.core.protocols import Functional, RuleFacts
from jaxrl.core.settings import setting
from jaxrl.core.types import Array, Progress, Transition
from jaxrl.functionals.risk import CVaR
from jaxrl.returns import generalised_advantages
from jaxrl.rules.contract import NO_HEADS, PolicyOutputs, PolicyTargets, remember_nothing


class StaticRiskGradient(Struct):
    """Climbs F(law of the episode's return) by the likelihood ratio of whole episodes.

        gradient = 1/N sum_i (slope_i - mean slope) grad log pi(episode i),   slope_i = dF / dp_i
        CVaR:  slope_i = min(G_i - VaR, 0) / level,  VaR the lower empirical quantile of the G_i
        loss of a step = -log_prob advantage - entropy_weight entropy,
        advantage = (steps / N) (slope of its episode - mean slope)

    The law gives 1/N to each of the N episodes that lie whole in the rollout, with the discounted
    returns G_i; each step of such an episode weighs the same, and other steps nothing. This is
    *static* risk, of the whole return. `CVaR(1)` and `Mean()` are REINFORCE with the mean return as
    baseline. The critic is not used.

    `CVaR(level)` learns mostly from a share `level` of the episodes: roll out many, and let the
    level fall, as in `CVaR(Linear(1.0, 0.1, end=0.5))`, or a policy whose tail holds no good
    episode is never shown one. The policy sees the observation alone; the best one for a static
    risk may have to see the return so far too (`jaxrl.envs.wrappers.Stock`).

    Attributes:
        functional: F, with slopes in its probabilities: `CVaR`, `Entropic`, `Mean`, ...
        entropy_weight: of the entropy bonus [per nat].

    Numerics: `CVaR` is biased, as the VaR comes from the same episodes: by O(N^-1/2) at most where
    returns have a density, as an empirical quantile is no further off. The mean slope shrinks the
    gradient by a factor of about 1 - 1/N and takes away variance; the paper subtracts nothing.
    Which episodes count does not depend on how long they are (`first_steps`); only that
    their number N varies adds a bias of O(1/N). Where CVaR has a kink in the policy, the slope is
    one of several. A cut at the time limit counts as an end. Further epochs keep the weights of the
    first, off policy: take one.

    Sources:
        Tamar, Glassner & Mannor 2015, Optimizing the CVaR via sampling: the gradient as a mean over
        the tail, algorithm GCVaR, and an analysis of its bias. A falling level: Greenberg, Chow,
        Ghavamzadeh & Mannor 2022, Efficient risk-averse reinforcement learning, algorithm 1 and
        figure 2 ("soft risk": linear from 1 to the level over the first part of training, then
        constant, as in ido90/CeSoR, GCVaR.py).

    Example:
        >>> trajectory = Transition(
        ...     observation=jnp.zeros(4),
        ...     action=jnp.zeros(4),
        ...     reward=jnp.array([3.0, 6.0, 0.0, 5.0]),
        ...     discount=jnp.zeros(4),
        ...     next_observation=jnp.zeros(4),
        ...     terminated=jnp.ones(4, bool),
        ...     truncated=jnp.zeros(4, bool),
        ...     extras={"first_step": jnp.arange(4)},
        ... )
        >>> outputs = PolicyOutputs(jnp.zeros(4), jnp.zeros(4), jnp.zeros(4))
        >>> rule = StaticRiskGradient(CVaR(0.375))  # VaR 3: slopes 0, 0, -8, 0, on average -2
        >>> targets, _ = rule.targets((), outputs, trajectory, Progress.start())
        >>> targets.advantage.tolist()
        [2.0, 2.0, -6.0, 2.0]
    """

    functional: Functional = struct.field(default_factory=CVaR)
    entropy_weight: float = setting(0.0, "weight of the entropy bonus", unit="per nat", low=0.0)

    facts = RuleFacts(needs_episodes=True)
    outputs = NO_HEADS
    init = remember_nothing

    def targets(
        self, rule_state: tuple, outputs: PolicyOutputs, trajectory: Transition, progress: Progress
    ) -> tuple[PolicyTargets, tuple]:
        """The weights of a rollout `[T, ...]`, whose episodes make one law.

        `trajectory.extras["first_step"]` says for each step where on the first axis its episode
        begins, -1 where that is not whole in the rollout.
        """
        first = trajectory.extras["first_step"]
        ended = (trajectory.terminated >= 1) | trajectory.truncated
        nothing = jnp.zeros_like(trajectory.reward)
        returns = generalised_advantages(  # with a critic of 0: what follows each step
            trajectory.reward, trajectory.discount, nothing, nothing, jnp.where(ended, 0.0, 1.0)
        )
        steps = jnp.arange(first.shape[0]).reshape(-1, *[1] * (first.ndim - 1))
        begins = first == steps
        num_episodes = jnp.maximum(jnp.sum(begins), 1)
        probs = jnp.where(begins, 1.0 / num_episodes, 0.0).astype(returns.dtype)
        slopes = jax.grad(self.functional)(probs.reshape(-1), returns.reshape(-1))
        slopes = jnp.where(begins, slopes.reshape(first.shape), 0.0)
        centred = (slopes - jnp.sum(slopes) / num_episodes) * (first.size / num_episodes)

        def of_episode(numbers: Array) -> Array:
            return jnp.take_along_axis(numbers, jnp.maximum(first, 0), axis=0)

        targets = PolicyTargets(
            advantage=jnp.where(first >= 0, of_episode(centred), 0.0),
            returns=of_episode(returns),
            log_prob=outputs.log_prob,
            value=outputs.value,
        )
        return targets, rule_state

    def loss(self, outputs: PolicyOutputs, targets: PolicyTargets, progress: Progress) -> Array:
        """The loss `[]` of one step."""
        return -outputs.log_prob * targets.advantage - self.entropy_weight * outputs.entropy
