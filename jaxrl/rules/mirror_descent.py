"""Policy optimisation by mirror descent: a divergence from the last policy, exactly."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxrl.core import Struct
from jaxrl.core.protocols import RuleFacts
from jaxrl.core.schedules import Linear, Schedule, value_at
from jaxrl.core.settings import setting
from jaxrl.core.types import Array, Progress, Transition
from jaxrl.networks import PolicyLaw
from jaxrl.networks.distributions import FiniteLaw
from jaxrl.operators.tsallis import log_of_order
from jaxrl.rules import contract
from jaxrl.rules.contract import PolicyOutputs, PolicyTargets

# How far a policy is from an old one, both `[...]`: >= 0 and 0 where they agree, `[...]`.
Divergence = Callable[[PolicyLaw, PolicyLaw], Array]


class KullbackLeibler(Struct):
    """KL(policy || old) of whole policies, whatever they draw [nats]."""

    def __call__(self, policy: PolicyLaw, old: PolicyLaw) -> Array:
        """-> `[...]` [nats]."""
        return policy.kl(old)


class TsallisDivergence(Struct):
    """The Tsallis relative entropy of a discrete policy from the old one.

    D(pi || mu) = sum_a pi_a ln_order(pi_a / mu_a),  ln_order(x) = (x^(order - 1) - 1) / (order - 1)

    `order` 1 is KL, 2 is chi-square, towards 0 it vanishes. Orders above 1 punish more what the old
    policy hardly ever did. The old policy must give every action some probability.

    Numerics: logarithms of pi_a / mu_a are held in [-20, 20].

    Sources: Zhu et al. 2023, General Munchausen reinforcement learning with Tsallis
    Kullback-Leibler divergence, section 3.2: -sum_a pi_a ln_q(mu_a / pi_a) with
    ln_q(x) = (x^(1 - q) - 1) / (1 - q), which is the same for q = order;
    Furuichi, Yanagi & Kuriyama 2004, Fundamental properties of Tsallis relative entropy.

    Example:
        >>> from jaxrl.networks import CategoricalPolicy
        >>> policy = CategoricalPolicy(jnp.log(jnp.array([0.5, 0.5])))
        >>> old = CategoricalPolicy(jnp.log(jnp.array([0.25, 0.75])))
        >>> f"{float(TsallisDivergence(2.0)(policy, old)):.4f}"  # 1/4 / 1/4 + 1/4 / 3/4 - 1
        '0.3333'
    """

    order: float = setting(2.0, "order of the divergence; 1 is KL", low=0.0, low_open=True)

    def __call__(self, policy: PolicyLaw, old: PolicyLaw) -> Array:
        """-> `[...]`.

        Raises:
            ValueError: the policies do not list their actions, as a categorical does.
        """
        if not (isinstance(policy, FiniteLaw) and isinstance(old, FiniteLaw)):
            raise ValueError(
                f"TsallisDivergence sums over discrete actions, and {type(policy).__name__} has "
                "none. Use divergence=KullbackLeibler(), or an environment with discrete actions."
            )
        log_probs = jax.nn.log_softmax(policy.logits)
        gap = log_probs - jax.nn.log_softmax(old.logits)
        ratio = jnp.exp(jnp.clip(gap, -contract.MOST_LOG_RATIO, contract.MOST_LOG_RATIO))
        return jnp.sum(jnp.exp(log_probs) * log_of_order(ratio, self.order), axis=-1)


class MirrorDescentPolicy(Struct):
    """On-policy mirror descent policy optimisation (MDPO).

    ratio = exp(log_prob - old log_prob)
    loss = -ratio A + divergence(policy, old policy) / step_size
           + value_weight value_loss - entropy_weight entropy

    The old policy is the one of the rollout, through all epochs on it; the divergence is that of
    the two whole policies at a step's observation, of the new one from the old. The first gradient
    step on a rollout is a plain policy gradient, as the divergence has no slope at the old policy;
    later ones are held back by it, the more the smaller `step_size`. Infinite, there is no
    divergence. The value loss is that of `ProximalPolicy`, so that the two can be compared.

    Attributes:
        step_size: t_k of the paper, which falls from 1 over the life [nat / return]. Its floor of
            0.01, where the paper ends with 1 / (number of rollouts), is ours.

    Sources: Tomar, Shani, Efroni & Ghavamzadeh 2022, Mirror descent policy optimization: the
    on-policy objective, t_k = 1 - k / K. `TsallisDivergence` is not their Tsallis variant: as
    released (manantomar/Mirror-Descent-Policy-Optimization, mdpo_on/mdpo.py) that is the mean
    difference of both policies' q-logarithms at the actions taken, not one of their ratio.

    Example:
        >>> from jaxrl.networks import CategoricalPolicy
        >>> rule = MirrorDescentPolicy(step_size=0.5, value_weight=0.0, entropy_weight=0.0)
        >>> old, new = (CategoricalPolicy(jnp.log(jnp.array(p))) for p in ([0.5, 0.5], [0.8, 0.2]))
        >>> outputs = PolicyOutputs(new.log_prob(0), entropy=0.0, value=0.0, policy=new)
        >>> targets = PolicyTargets(1.0, 0.0, old.log_prob(0), value=0.0, policy=old)
        >>> f"{float(rule.loss(outputs, targets, Progress.start())):.3f}"  # -1.6 + 0.193 / 0.5
        '-1.215'
    """

    divergence: Divergence = KullbackLeibler()
    step_size: float | Schedule = setting(
        Linear(1.0, 0.01), "divergence is divided by it", low=0.0, low_open=True, infinite=True
    )
    lambda_: float = setting(0.95, "trace decay of the advantages", low=0.0, high=1.0)
    value_clip: float = contract.half_width("value", "return")
    value_weight: float = setting(0.5, "weight of the value loss", low=0.0)
    entropy_weight: float = setting(0.0, "weight of the entropy bonus", unit="per nat", low=0.0)

    facts = RuleFacts()
    outputs = contract.NO_HEADS
    init = contract.remember_nothing

    def targets(
        self, rule_state: tuple, outputs: PolicyOutputs, trajectory: Transition, progress: Progress
    ) -> tuple[PolicyTargets, tuple]:
        """Advantages, returns and the policies `[T, ...]` of the rollout."""
        targets = contract.advantage_targets(self.lambda_, outputs, trajectory)
        return targets.replace(policy=outputs.policy), rule_state

    def loss(self, outputs: PolicyOutputs, targets: PolicyTargets, progress: Progress) -> Array:
        """The loss `[]` of one step."""
        policy_loss = -jnp.exp(contract.log_ratio(outputs, targets)) * targets.advantage
        divergence = self.divergence(outputs.policy, targets.policy)
        value_loss = contract.value_loss(outputs, targets, self.value_clip)
        policy_loss = policy_loss + divergence / value_at(self.step_size, progress)
        losses = policy_loss + self.value_weight * value_loss
        return losses - self.entropy_weight * outputs.entropy
