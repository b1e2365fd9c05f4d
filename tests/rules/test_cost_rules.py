"""Rules that learn from costs, worked by hand."""

import jax
import numpy as np
import pytest

import jaxrl
from jaxrl import BellmanOperator, rules
from jaxrl.agents import Generative
from jaxrl.core import Progress, Transition
from jaxrl.envs import make
from jaxrl.functionals import CVaR
from jaxrl.rules import PolicyOutputs


def rows(cost, ended=(), reward=None):
    """A trajectory `[T, 1]` with costs `[T, 1, C]`, discount 1/2; some rows end episodes."""
    cost = np.float32(cost).reshape(len(cost), 1, -1)
    shape = cost.shape[:2]
    over = np.isin(np.arange(len(cost)), ended)[:, None]
    zeros = np.zeros(shape, np.float32)
    return Transition(
        observation=zeros,
        action=zeros,
        reward=zeros if reward is None else np.float32(reward).reshape(shape),
        discount=np.float32(0.5) * ~over,
        next_observation=zeros,
        terminated=over,
        truncated=np.zeros(shape, bool),
        extras={},
        cost=cost,
    )


def outputs_of(trajectory, cost_value=0.0):
    """Critics that say 0 of the return, and the same of all costs."""
    zeros = np.zeros_like(trajectory.reward)
    values = np.full_like(trajectory.cost, cost_value)
    heads = {"cost_value": values}
    return PolicyOutputs(zeros, zeros, zeros, next_value=zeros, heads=heads, next_heads=heads)


def plain(**changes):
    settings = {"multiplier_step": 0.5, "lambda_": 1.0, "budgets": 2.0} | changes
    return rules.Lagrangian(rule=rules.AdvantageActorCritic(lambda_=1.0), **settings)


@jax.jit
def targets_of(rule, state, outputs, trajectory):
    return rule.targets(state, outputs, trajectory, Progress.start())


def after(rule, state, trajectory, **told):
    return targets_of(rule, state, outputs_of(trajectory, **told), trajectory)


@jax.jit
def terminated(rule, costs, state=None):
    state = rule.init(()) if state is None else state
    return rule.terminated(state, costs, Progress.start())


def test_the_advantage_is_less_the_price_of_the_costs():
    """Returns to the end of rewards 1, 0: 1, 0; of costs (2, 4), (8, 2): (6, 5), (8, 2)."""
    rule, data = plain(budgets=(2.0, 2.0)), rows([[2, 4], [8, 2]], ended=[1], reward=[1, 0])
    state = rule.init(()).replace(multiplier=np.float32([0.5, 2.0]))
    state = state.replace(last_multiplier=state.multiplier)
    targets, _ = after(rule, state, data)
    np.testing.assert_allclose(targets.heads["cost_value"][:, 0], [[6, 5], [8, 2]])
    # (1 - 0.5 x 6 - 2 x 5) / 3.5 and (0 - 0.5 x 8 - 2 x 2) / 3.5
    np.testing.assert_allclose(targets.advantage[:, 0], [-12 / 3.5, -8 / 3.5], rtol=1e-6)


def test_each_cost_has_a_critic_of_its_own():
    """A critic that says 1 of each cost: advantages less 1; the loss is half its squared error."""
    rule, data = plain(cost_weight=3.0), rows([2, 8], ended=[1])
    state = rule.init(()).replace(
        multiplier=np.ones(1, np.float32), last_multiplier=np.ones(1, np.float32)
    )
    targets, _ = after(rule, state, data, cost_value=1.0)
    np.testing.assert_allclose(targets.heads["cost_value"][:, 0, 0], [6, 8])
    np.testing.assert_allclose(targets.advantage[:, 0], [-5 / 2, -7 / 2])
    told = outputs_of(data, cost_value=1.0)
    loss, inner = (one.loss(told, jax.device_get(targets), None) for one in (rule, rule.rule))
    np.testing.assert_allclose((loss - inner)[:, 0], [3 * 25 / 2, 3 * 49 / 2])


def test_the_price_moves_by_the_cost_of_an_episode():
    """Ten of cost in two episodes: 5, 3 above the budget; then 1, 1 below; and never below 0."""
    rule = plain()
    _, state = after(rule, rule.init(()), rows([4, 6], ended=[0, 1]))
    assert (float(state.cost[0]), float(state.multiplier[0])) == (5.0, 1.5)
    _, state = after(rule, state, rows([1], ended=[0]))
    assert (float(state.cost[0]), float(state.multiplier[0])) == (1.0, 1.0)
    for _ in range(3):
        _, state = after(rule, state, rows([1], ended=[0]))
    assert float(state.multiplier[0]) == 0.0


def test_costs_wait_for_the_end_of_their_episode():
    """An episode of 3 + 4 over two rollouts, and the price stands still in the first."""
    rule = plain()
    _, state = after(rule, rule.init(()), rows([1, 2]))
    assert float(state.multiplier[0]) == float(state.cost[0]) == 0.0
    _, state = after(rule, state, rows([4, 0], ended=[1]))
    assert (float(state.cost[0]), float(state.multiplier[0])) == (7.0, 2.5)


def test_the_discounted_cost_is_that_from_where_an_episode_begins():
    """It begins at the second of the rows 8, 4, 2: 4 + 2 / 2."""
    rule = plain(per_episode=False)
    _, state = after(rule, rule.init(()), rows([8, 4, 2], ended=[0]))
    assert (float(state.cost[0]), float(state.multiplier[0])) == (5.0, 1.5)
    _, state = after(rule, state, rows([8, 4]))
    assert (float(state.cost[0]), float(state.multiplier[0])) == (5.0, 1.5)


def test_both_players_extrapolate():
    """Excesses 3, -1: the price goes from 1.5 by (2 (-1) - 3) / 2 to 0; the policy sees 2 x 1.5."""
    rule = plain(optimism=1.0)
    _, state = after(rule, rule.init(()), rows([5], ended=[0]))
    assert float(state.multiplier[0]) == 1.5  # nothing to extrapolate from
    targets, state = after(rule, state, rows([1], ended=[0]))
    np.testing.assert_allclose(targets.advantage[0], -3.0 / 2.5)
    assert float(state.multiplier[0]) == 0.0
    targets, _ = after(rule, state, rows([1], ended=[0]))
    np.testing.assert_allclose(targets.advantage[0], 1.5)  # 2 x 0 - 1.5, not clipped


def terminations(**changes):
    inner = rules.AdvantageActorCritic(lambda_=1.0)
    settings = {"limits": (1.0, 0.0), "probability": 0.5, "decay": 0.75} | changes
    return rules.ConstraintTerminations(rule=inner, **settings)


def test_a_violation_ends_by_its_share_of_the_greatest():
    """Excesses of the first cost 4, 1; of the second 0, 2, whose greatest come to 4, then 3.25 and
    0, then 0.5: chances 1/2, then 1/2 of the greater of 1/3.25 and (clipped) 1."""
    rule = terminations()
    costs = np.float32([[[5, 0]], [[2, 2]]])
    ended, state = terminated(rule, costs)
    np.testing.assert_allclose(ended[:, 0], [0.5, 0.5])
    np.testing.assert_allclose(state.scale, [3.25, 0.5])
    np.testing.assert_allclose(state.violated, [1.0, 0.5])
    ended, _ = terminated(rule, np.float32([[[2, 0]]]), state)
    np.testing.assert_allclose(ended[0, 0], 0.5 / (0.75 * 3.25 + 0.25))


def test_the_greatest_violation_is_of_all_environments():
    ended, _ = terminated(terminations(), np.float32([[[3, 0], [5, 0], [1, -1]]]))
    np.testing.assert_allclose(ended[0], [0.25, 0.5, 0.0])


def test_an_end_takes_what_is_paid_and_what_follows():
    """At chance 1/2: 4 / 2 + (1/2 / 2) 8; a reward below 0 counts as 0."""
    rule, data = terminations(limits=0.0), rows([1, 0, 1], ended=[2], reward=[4, 8, -6])
    targets, _ = after(rule, rule.init(()), data)
    np.testing.assert_allclose(targets.returns[:, 0], [4.0, 8.0, 0.0])


def test_no_chance_of_an_end_is_the_rule_itself():
    rule, data = terminations(limits=0.0, probability=0.0), rows([1, 2, 3], [1], reward=[4, 8, 6])
    targets, _ = after(rule, rule.init(()), data)
    same, _ = targets_of(rule.rule, (), outputs_of(data), data)
    np.testing.assert_array_equal(targets.advantage, same.advantage)


@pytest.mark.parametrize("kind", [rules.Lagrangian, rules.ConstraintTerminations])
def test_one_number_is_one_cost(kind):
    name = "budgets" if kind is rules.Lagrangian else "limits"
    for given, count in ((0.5, 1), ((0.5, 1.0, 2.0), 3)):
        assert kind(**{name: given}).facts.num_costs == count


def test_ends_by_costs_leave_no_place_for_an_operator():
    operator = BellmanOperator(successor_functional=CVaR(0.5))
    settings = {"operator": operator, "successors": Generative(num_samples=4)}
    env = make("HazardGrid")
    jaxrl.ppo(rule=rules.Lagrangian(), **settings).check(env)
    with pytest.raises(ValueError, match="leave out the operator"):
        jaxrl.ppo(rule=rules.ConstraintTerminations(), **settings).check(env)
