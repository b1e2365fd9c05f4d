"""On-policy learners under an operator: heads, laws along time, worst cases over successors."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl
from jaxrl import envs, planning, returns
from jaxrl.agents import (
    ActorCriticAgent,
    Dual,
    Generative,
    Optimiser,
    ParallelQAgent,
    Sampled,
)
from jaxrl.core import Law, Linear, Progress, RuleFacts, outcome_mdp, struct
from jaxrl.envs.control import CartPole
from jaxrl.functionals import CVaR, Mean
from jaxrl.networks import CategoricalPolicy, NetworkSettings
from jaxrl.operators import (
    BellmanOperator,
    Categorical,
    EpsilonGreedy,
    HLGauss,
    ImplicitQuantile,
    Mapped,
    Quantile,
    Scalar,
    SignedHyperbolic,
    Softmax,
)
from jaxrl.rules import (
    AdvantageActorCritic,
    DriftPolicy,
    MirrorDescentPolicy,
    PolicyOutputs,
    PolicyTargets,
    ProximalPolicy,
    StaticRiskGradient,
    advantage_targets,
)

DISCOUNT, NUM_STATES, NUM_ACTIONS = 0.5, 4, 2
GRID = Categorical(-4.0, 4.0, num_atoms=33)


@struct.dataclass
class CriticOnly:
    """Fits values and leaves the policy as it is."""

    lambda_: float = 0.9
    facts, outputs = RuleFacts(), {}

    def init(self, params):
        return ()

    def targets(self, rule_state, outputs, trajectory, progress):
        return advantage_targets(self.lambda_, outputs, trajectory), rule_state

    def loss(self, outputs, targets, progress):
        if outputs.value_loss is not None:
            return outputs.value_loss
        return 0.5 * (outputs.value - targets.returns) ** 2


@functools.cache
def worlds():
    """Two deterministic worlds, and the model in which nature chooses between them."""
    draw = np.random.default_rng(1)
    shape = (NUM_STATES, NUM_ACTIONS, 2)
    following, reward = draw.integers(0, NUM_STATES, shape), draw.normal(size=shape)
    following[:, 0, 0] = (np.arange(NUM_STATES) + 1) % NUM_STATES  # every state is seen
    half = np.full(shape, 0.5)
    both = outcome_mdp(half, following, reward, DISCOUNT)
    one = [
        envs.TabularEnv(
            outcome_mdp(half[..., :1] * 2, following[..., [n]], reward[..., [n]], DISCOUNT),
            one_hot=True,
        )
        for n in range(2)
    ]
    return one[0], jax.tree.map(lambda *leaves: jnp.stack(leaves), *one), both


def worst_of_two(operator):
    """What to change in an agent: each state and action by the worse of two worlds."""
    source = Generative(1, 2, models=worlds()[1], over_models=CVaR(0.5))
    return {"operator": operator, "successors": source}


def small(kind, **changes):
    """A table for a critic, and a step size that falls."""
    plain = {
        "network": NetworkSettings(hidden_sizes=(), initialiser="lecun"),
        "optimiser": Optimiser(learning_rate=Linear(0.1, 0.0), max_grad_norm=None),
        "discount": DISCOUNT,
        "num_envs": 32,
        "rollout_length": 8,
        "num_epochs": 1,
        "num_minibatches": 1,
    }
    if kind is ActorCriticAgent:
        plain |= {"rule": CriticOnly(), "normalise_advantages": False}
    return kind(**plain | changes)


def learned(agent, num_steps=80_000, over=None):
    """Values, and the policy that they are of: `[R, S]`, `[R, S, A]`."""
    key, env = jax.random.key(0), worlds()[0]
    found = jaxrl.sweep(
        key, agent, env, num_steps=num_steps, num_seeds=1, num_records=1, over=over, lanes=1
    )
    states = jnp.eye(NUM_STATES)
    read = [found.agent_state(setting, 0) for setting in range(len(found.settings))]
    values = [np.asarray(agent.values(state, states)) for state in read]
    policy = [np.exp(np.asarray(agent.policy(state, states).log_probs())) for state in read]
    return np.stack(values), np.stack(policy)


HEADS = {
    "scalar": Scalar(float("inf")),
    "hl_gauss": HLGauss(-4.0, 4.0, num_atoms=33),
    "categorical": GRID,
    "quantile": Quantile(num_atoms=8),
}


@pytest.mark.parametrize(
    "head", ["scalar", *(pytest.param(name, marks=pytest.mark.slow) for name in (*HEADS,)[1:])]
)
def test_a_critic_reaches_the_planner_s_worst_case_at_any_lambda(head):
    operator = BellmanOperator(HEADS[head])
    agent = small(ActorCriticAgent, **worst_of_two(operator))
    values, policy = learned(agent, over={"rule.lambda_": (0.0, 0.9)})
    risky = BellmanOperator(Scalar(), successor_functional=CVaR(0.5))
    for row, law in zip(values, policy, strict=True):
        exact = planning.policy_evaluation(worlds()[2], law, risky).values
        np.testing.assert_allclose(row, exact, atol=0.02 if head == "scalar" else 0.06)
        plain = planning.policy_evaluation(worlds()[2], law).values
        assert np.min(np.abs(plain - exact)) > 0.1  # the mean is another one


@pytest.mark.slow
@pytest.mark.parametrize("head", HEADS)
def test_action_values_reach_the_planner_s_worst_case(head):
    agent = small(ParallelQAgent, exploration=1.0, **worst_of_two(BellmanOperator(HEADS[head])))
    values, _ = learned(agent, over={"lambda_": (0.0, 0.3)})
    risky = BellmanOperator(Scalar(), successor_functional=CVaR(0.5))
    exact = planning.value_iteration(worlds()[2], risky).values
    np.testing.assert_allclose(values[0], exact, atol=0.05)
    assert np.max(np.abs(values[1] - exact)) < 0.6  # uniform actions lie below greedy ones


@pytest.mark.slow
@pytest.mark.parametrize("head", ["categorical", "quantile"])
def test_the_law_of_a_critic_is_that_of_the_return(head):
    """Of the uniform policy in a deterministic world: laws by the planner's own backups."""
    env = worlds()[0]
    agent = small(ActorCriticAgent, operator=BellmanOperator(HEADS[head]))
    trained = jaxrl.train(jax.random.key(0), agent, env, num_steps=200_000, num_records=1)
    state = trained.state.agent
    policy = np.exp(np.asarray(agent.policy(state, jnp.eye(NUM_STATES)).log_probs()))
    exact = planning.return_law(env.mdp, policy, horizon=12, initial_state=0, num_atoms=4096).law
    params = state.model.apply(state.params, jnp.eye(NUM_STATES), False, (), method="value")[0]
    law = HEADS[head].law(params[0])
    points = np.linspace(-3.0, 3.0, 13)
    share = [
        np.sum(
            np.where(np.asarray(one.atoms)[:, None] <= points, np.asarray(one.probs)[:, None], 0), 0
        )
        for one in (law, exact)
    ]
    assert np.mean(np.abs(share[0] - share[1])) < 0.08


def trajectory(num_steps=6):
    """Rewards, discounts (one end), traces (one cut) and laws of successors."""
    draw = np.random.default_rng(0)
    reward = draw.normal(size=num_steps)
    discount = np.where(np.arange(num_steps) == 2, 0.0, 0.9)
    trace = np.where(np.arange(num_steps) == 4, 0.0, 0.8)
    rows = (np.full((num_steps, 3), 1 / 3), 0.5 * draw.normal(size=(num_steps, 3)))
    return *map(jnp.float32, (reward, discount, trace)), Law(*map(jnp.float32, rows))


def test_laws_along_time_keep_the_means_of_lambda_returns():
    reward, discount, trace, laws = trajectory()
    head = Categorical(-8.0, 8.0, num_atoms=41)
    stored = returns.lambda_laws(head, reward, discount, laws, trace)
    expected = returns.lambda_returns(reward, discount, laws.mean(), trace)
    np.testing.assert_allclose(jax.vmap(head.mean)(stored), expected, atol=1e-5)


def test_laws_without_a_trace_are_one_step_backups():
    reward, discount, _, laws = trajectory()
    head = Quantile(num_atoms=3)
    stored = returns.lambda_laws(head, reward, discount, laws, 0.0)
    for t in range(reward.size):
        law = laws.atoms[t][None]  # a quantile head's parameters
        step = jaxrl.Lookahead.of_transition(reward[t], discount[t], law)
        expected = BellmanOperator(head).backup_params(step)
        np.testing.assert_allclose(stored[t], expected, atol=1e-6)


def test_laws_under_a_full_trace_are_the_returns_themselves():
    reward, discount, _, laws = trajectory()
    head = Quantile(num_atoms=4)
    stored = returns.lambda_laws(head, reward, discount, laws, 1.0)
    expected = returns.lambda_returns(reward[:3], discount[:3], laws.mean()[:3], 1.0)
    np.testing.assert_allclose(stored[:3], np.repeat(expected[:, None], 4, 1), atol=1e-5)


def test_an_outer_gradient_reaches_the_level_of_risk():
    """Through the backup, the advantages and a step of the critic: against finite differences."""
    env, models, _ = worlds()
    source = Generative(1, 2, models=models)
    agent = small(
        ActorCriticAgent,
        rule=AdvantageActorCritic(lambda_=0.9),
        operator=BellmanOperator(Scalar(float("inf")), successor_functional=CVaR(0.7)),
        successors=source,
        optimiser=Optimiser(learning_rate=1.0, max_grad_norm=None, epsilon=1.0),
    )
    state = agent.init(jax.random.key(0), env)
    start = jaxrl.start_rollout(jax.random.key(1), agent, env)
    _, data, _ = jaxrl.rollout(jax.random.key(2), agent, env, state, start, keep_env_state=True)

    @jax.jit
    @jax.value_and_grad
    def outer(level):
        operator = agent.operator.replace(successor_functional=CVaR(level))
        after, _ = agent.replace(operator=operator).update(jax.random.key(3), state, data)
        return jnp.sum(agent.values(after, jnp.eye(NUM_STATES)))

    _, slope = outer(jnp.float32(0.7))
    (high, _), (low, _) = outer(jnp.float32(0.71)), outer(jnp.float32(0.69))
    assert abs(float(slope)) > 1e-3
    np.testing.assert_allclose(slope, (high - low) / 0.02, rtol=0.05)


@pytest.mark.parametrize(
    "rule",
    [AdvantageActorCritic(), ProximalPolicy(), DriftPolicy(), MirrorDescentPolicy()],
    ids=lambda rule: type(rule).__name__,
)
def test_rules_leave_the_value_s_loss_to_the_head(rule):
    def loss(value_loss):
        law, value = CategoricalPolicy(jnp.zeros(2)), jnp.float32(1.0)
        outputs = PolicyOutputs(-1.0, 0.0, value, policy=law, value_loss=value_loss)
        targets = PolicyTargets(0.0, jnp.float32(5.0), -1.0, value, policy=law)
        return rule.replace(entropy_weight=0.0).loss(outputs, targets, Progress.start())

    np.testing.assert_allclose(loss(3.0) - loss(1.0), 2.0 * rule.value_weight, rtol=1e-6)
    assert abs(loss(None) - loss(1.0)) > 1.0


REFUSED = {
    "draws without an operator": ({"successors": Generative(4)}, "feed an operator"),
    "one successor": ({"operator": BellmanOperator(successor_functional=CVaR(0.1))}, "sees 1 per"),
    "multipliers": (
        {"operator": BellmanOperator(successor_functional=CVaR(0.1)), "successors": Dual()},
        "of a replay",
    ),
    "mixed actions": ({"operator": BellmanOperator(improvement=Softmax(1.0))}, "the policy's"),
    "scored actions": (
        {"operator": BellmanOperator(Quantile(8), return_functional=CVaR(0.1))},
        "scores actions",
    ),
    "levels": ({"operator": BellmanOperator(ImplicitQuantile())}, "use Quantile"),
    "memory": (
        {
            "operator": BellmanOperator(),
            "successors": Generative(4),
            "network": NetworkSettings(recurrent_size=4),
        },
        "recurrent_size to 0",
    ),
    "whole episodes": (
        {
            "operator": BellmanOperator(),
            "rule": StaticRiskGradient(),
            "normalise_advantages": False,
            "rollout_length": 500,
        },
        "of its own",
    ),
    "mapped returns": (
        {"operator": BellmanOperator(Quantile(8), composition=Mapped(SignedHyperbolic()))},
        "sums of rewards",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_an_actor_critic_refuses(case):
    changes, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        jaxrl.ppo().replace(**changes).check(CartPole())


@pytest.mark.parametrize("case", ["one successor", "multipliers", "levels", "mapped returns"])
def test_what_parallel_q_refuses(case):
    changes, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        jaxrl.pqn().replace(**changes).check(CartPole())


def test_what_both_take():
    jaxrl.pqn().replace(operator=BellmanOperator(improvement=EpsilonGreedy(0.1))).check(CartPole())
    operator = BellmanOperator(HLGauss(0.0, 100.0, 21), successor_functional=CVaR(0.1))
    for agent in (jaxrl.pqn(), jaxrl.ppo(), jaxrl.a2c()):
        agent.replace(operator=operator, successors=Generative(16)).check(CartPole())
        agent.replace(operator=BellmanOperator(Scalar(), successor_functional=Mean())).check(
            CartPole()
        )
        agent.replace(operator=operator, successors=Sampled(accept_bias=True)).check(CartPole())


def test_a_head_with_ends_says_what_it_clips():
    agent = small(
        ActorCriticAgent,
        rule=AdvantageActorCritic(),
        operator=BellmanOperator(HLGauss(-0.1, 0.1, num_atoms=5)),
    )
    result = jaxrl.train(jax.random.key(0), agent, worlds()[0], num_steps=512, num_records=1)
    assert float(result.metrics["clipped_fraction"][-1]) > 0.3
