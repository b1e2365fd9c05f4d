"""Every rule and optimiser in one table, and one small life that they are all tried in.

The life is two updates on one fixed rollout, in float64; its outcome is a number that depends on
the policy and on the value afterwards.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl import rules
from jaxrl.agents import ActorCriticAgent, GradientDescent, Optimiser, RMSProp, learned_optimiser
from jaxrl.core import Linear, RuleFacts, Transition, struct
from jaxrl.envs import TabularEnv, garnet
from jaxrl.functionals import CVaR
from jaxrl.networks import NetworkSettings

KEY = jax.random.key(5)
ADAM = Optimiser(learning_rate=0.1, max_grad_norm=0.01, epsilon=1e-2, eps_root=1e-3)


@functools.cache
def env() -> TabularEnv:
    with jax.enable_x64(False), jax.ensure_compile_time_eval():
        return TabularEnv(garnet(KEY, 5, 3, 2), time_limit=3.0)


@struct.dataclass
class Bisected(rules.AdvantageActorCritic):
    """The same, between the gradients of two losses: of the policy, and of the value."""

    facts = RuleFacts(losses=("policy", "value"))

    def loss(self, outputs, targets, progress):
        """Both."""
        value = self.value_weight * 0.5 * (outputs.value - targets.returns) ** 2
        return {"policy": super().loss(outputs, targets, progress) - value, "value": value}

    def combine(self, losses, gradients, targets, progress):
        """As long as they are on average."""
        return rules.bisector(gradients["policy"], gradients["value"])


# Numbers are such that each of them matters: clips bind, schedules are under way.
RULES = {
    "a2c": rules.AdvantageActorCritic,
    "ppo": lambda: rules.ProximalPolicy(clip_epsilon=0.05, value_clip=0.02),
    "cvar": lambda: rules.StaticRiskGradient(CVaR(0.4), entropy_weight=0.1),
    "leave_one_out": lambda: rules.LeaveOneOut(group_size=2, clip_epsilon=0.05, entropy_weight=0.1),
    "bisected": Bisected,
    "clip_drift": lambda: rules.DriftPolicy(rules.ClipDrift(0.05), value_clip=0.02),
    "zero_drift": lambda: rules.DriftPolicy(rules.ZeroDrift(), value_clip=0.02),
    "dpo": lambda: rules.DriftPolicy(rules.DiscoveredDrift(alpha=0.2, beta=0.1), value_clip=0.02),
    "lpo": lambda: rules.drift(
        KEY, num_hidden=4, timed=True, start=rules.ClipDrift(0.05), scale=1.0
    ).replace(value_clip=0.02),
    "mdpo": lambda: rules.MirrorDescentPolicy(
        step_size=Linear(1.0, 0.1, start=0.01), value_clip=0.02
    ),
    "tsallis": lambda: rules.MirrorDescentPolicy(
        divergence=rules.TsallisDivergence(1.5), step_size=0.2, value_clip=0.02
    ),
    "lpg": lambda: rules.lpg(KEY, num_hidden=4, num_predictions=3, num_embedded=2, timed=True),
    "with_reward": lambda: rules.with_reward(
        rules.AdvantageActorCritic(),
        KEY,
        env().observation_space,
        env().action_space,
        num_hidden=3,
        scale=1.0,
        hint=lambda observation, action: 0.3 * observation * action,
    ).replace(discount_factor=0.9),
    "lagrangian": lambda: rules.Lagrangian(
        rule=rules.ProximalPolicy(clip_epsilon=0.05, value_clip=0.02),
        budgets=-0.1,
        multiplier_step=0.5,
        optimism=0.7,
    ),
    "reload": lambda: rules.Lagrangian(
        rule=rules.AdvantageActorCritic(),
        budgets=-0.1,
        multiplier_step=0.5,
        optimism=1.0,
        per_episode=False,
    ),
    "cat": lambda: rules.ConstraintTerminations(
        rule=rules.AdvantageActorCritic(),
        limits=0.1,
        probability=Linear(0.1, 0.9, start=0.01),
        decay=0.7,
    ),
}
OPTIMISERS = {
    "adam": lambda: ADAM,
    "descent": lambda: GradientDescent(learning_rate=0.5, momentum=0.5, max_grad_norm=0.05),
    "rmsprop": lambda: RMSProp(
        learning_rate=0.1, decay=0.9, max_grad_norm=0.05, epsilon=1e-2, eps_root=1e-3
    ),
    "learned": lambda: learned_optimiser(KEY, num_memory=3, num_hidden=4, num_steps=2).replace(
        step_size=0.1, scale_size=0.1
    ),
}
# (rule, optimiser): each rule under Adam, each optimiser under A2C
ROWS = {name: (name, "adam") for name in RULES} | {
    f"a2c, {name}": ("a2c", name) for name in OPTIMISERS if name != "adam"
}


@functools.cache
def made(name: str):
    """A rule or an optimiser, in float32 whoever asks first."""
    with jax.enable_x64(False), jax.ensure_compile_time_eval():
        return (RULES | OPTIMISERS)[name]()


def agent_of(rule_name: str, optimiser_name: str = "adam", **changes) -> ActorCriticAgent:
    own_scale = rule_name in (
        "lpg",
        "cvar",
        "leave_one_out",
    )  # their advantages are meant as they come
    settings = {
        "rule": made(rule_name),
        "optimiser": made(optimiser_name),
        "network": NetworkSettings(hidden_sizes=(4,), initialiser="lecun"),
        "discount": 0.9,
        "num_envs": 2,
        "rollout_length": 6,
        "num_epochs": 2,
        "num_minibatches": 1,
        "shared_torso": True,
        "normalise_advantages": not own_scale,
    }
    return ActorCriticAgent(**(settings | changes))


def double(tree):
    """The same numbers in float64. Call it where those exist."""

    def cast(leaf):
        floating = jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
        if isinstance(leaf, jax.core.Tracer):
            return leaf.astype(jnp.float64) if floating else leaf
        return np.asarray(leaf, np.float64) if floating else leaf

    return jax.tree.map(cast, tree)


def start_of(agent: ActorCriticAgent):
    """The agent's first state and a rollout, both in float64; call it where that exists.

    Episodes terminate or are cut in the middle and at the end; the actions are the policy's as far
    as their log-probabilities go.
    """
    generator = np.random.default_rng(2)
    shape = (6, 2)
    ends = {(1, 0): "terminated", (3, 0): "truncated", (4, 1): "terminated", (5, 1): "truncated"}
    marks = {
        kind: np.array([[ends.get((t, b)) == kind for b in range(2)] for t in range(6)])
        for kind in ("terminated", "truncated")
    }
    trajectory = Transition(
        observation=generator.integers(0, 5, shape),
        action=generator.integers(0, 3, shape),
        reward=generator.normal(size=shape),
        discount=np.ones(shape),
        next_observation=generator.integers(0, 5, shape),
        cost=generator.normal(size=(*shape, 1)),
        extras={},
        **marks,
    )

    @jax.jit
    def start(trajectory):
        state = double(agent.init(KEY, env(), 100.0))
        policy, _ = state.model.apply(
            state.params, trajectory.observation, jnp.zeros((), bool), (), method="policy"
        )
        log_prob = policy.log_prob(trajectory.action)
        return state, trajectory.replace(extras={"log_prob": log_prob})

    return start(trajectory)


def live(agent, state, trajectory, num_updates: int = 2):
    """The state after the updates; the discount in the data is the agent's."""
    discount = agent.discount * (1.0 - trajectory.terminated)
    trajectory = trajectory.replace(discount=discount)

    def update(state, key):
        return agent.update(key, state, trajectory)[0], None

    return jax.lax.scan(update, state, jax.random.split(KEY, num_updates))[0]


def outcome(agent, state, trajectory):
    """Fixed random weights on what the policy and the value have become."""
    state = live(agent, state, trajectory)
    policy, value, _, _ = state.model.apply(
        state.params, trajectory.observation, jnp.zeros((), bool), ()
    )
    weights = np.random.default_rng(0).normal(size=(2, *value.shape))
    return jnp.sum(weights[0] * policy.log_prob(trajectory.action) + weights[1] * value)
