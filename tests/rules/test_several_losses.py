"""Rules with several losses: what becomes of their gradients, and which wrappers pass them on."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rule_cases as cases
import s06_novel_policies as s06

import jaxrl
from jaxrl import core, networks, rules
from jaxrl.rules import bisector
from jaxrl.rules.reactive import reactive_entropy

PLAIN = rules.AdvantageActorCritic()


@core.struct.dataclass
class Parted(rules.AdvantageActorCritic):
    """The same rule, whose policy and value have a loss each; `only` one of them counts."""

    only: str = core.struct.field(pytree_node=False, default="")
    facts = core.RuleFacts(losses=("policy", "value"))

    def loss(self, outputs, targets, progress):
        """Both."""
        plain = super().loss
        both = plain(outputs, targets, progress)
        value = self.value_weight * 0.5 * (outputs.value - targets.returns) ** 2
        return {"policy": both - value, "value": value}

    def combine(self, losses, gradients, targets, progress):
        """Their sum, or one."""
        assert sorted(losses) == ["policy", "value"] and targets.advantage.ndim == 1
        if self.only:
            return gradients[self.only]
        return jax.tree.map(jnp.add, gradients["policy"], gradients["value"])


@functools.cache
def data():
    with jax.enable_x64(True):
        return cases.start_of(cases.agent_of("a2c"))


@jax.jit
def update_of(agent, state, trajectory):
    after, metrics = agent.update(cases.KEY, state, trajectory)
    return after.params, metrics


def updated(rule, **changes):
    """Parameters and metrics after one update, in float64."""
    with jax.enable_x64(True):
        agent = cases.double(cases.agent_of("a2c", "descent", rule=rule, **changes))
        state, trajectory = cases.start_of(agent)
        return jax.device_get(update_of(agent, state, trajectory))


def differ(first, second):
    pairs = zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True)
    return max(float(np.abs(a - b).max()) for a, b in pairs)


def test_the_sum_of_gradients_is_the_gradient_of_the_sum():
    (plain, told), (parted, each) = updated(PLAIN), updated(Parted())
    assert differ(plain, parted) < 1e-12
    np.testing.assert_allclose(each["loss"], told["loss"], rtol=1e-12)
    np.testing.assert_allclose(each["loss_policy"] + each["loss_value"], told["loss"], rtol=1e-12)
    (without, _), (policy, _) = (
        updated(PLAIN.replace(value_weight=0.0)),
        updated(Parted(only="policy")),
    )
    assert differ(without, policy) < 1e-12 < differ(without, plain)


@pytest.mark.parametrize("wrap", [
    lambda rule: rules.Lagrangian(rule=rule, budgets=-0.1, multiplier_step=0.5),
    lambda rule: rules.ConstraintTerminations(rule=rule, limits=0.1),
    lambda rule: rules.with_reward(rule, lambda seen, action, reward: 2.0 * reward),
    lambda rule: reactive_entropy(cases.KEY, rule),
], ids=["lagrangian", "cat", "with_reward", "reactive"])  # fmt: skip
@pytest.mark.slow
def test_rules_round_others_pass_them_on(wrap):
    """As with one loss, but for rounding."""
    (plain, _), (parted, metrics) = updated(wrap(PLAIN)), updated(wrap(Parted()))
    assert differ(plain, parted) < 1e-12 and "loss_policy" in metrics


def test_names_must_be_those_of_the_facts():
    class Misnamed(Parted):
        facts = core.RuleFacts(losses=("policy", "critic"))

    class Single(Parted):
        def loss(self, outputs, targets, progress):
            return PLAIN.loss(outputs, targets, progress)

    for rule, given in ((Misnamed(), r"\['policy', 'value'\]"), (Single(), "one number")):
        with pytest.raises(ValueError, match=f"loss gives {given}: let them be the same"):
            updated(rule)


# --- the bisector --------------------------------------------------------------------------------

ARMS = {
    "sharp": ([3.0, 0.0, 1.0], [1.0, 1.0, 0.0]),
    "blunt": ([3.0, 0.0, 1.0], [-1.0, 1.0, 0.5]),
    "one way": ([1.0, 2.0, 0.0], [2.0, 4.0, 0.0]),
}


@pytest.mark.parametrize("name", ARMS)
def test_the_bisector(name):
    """As long as the gradients are on average, and at the same angle to both; where they oppose
    each other, square to the second and uphill for the first."""
    first, second = (np.array(x) for x in ARMS[name])
    tree = lambda x: {"a": jnp.float32(x[:1]), "b": jnp.float32(x[1:])}  # noqa: E731
    found = bisector(tree(first), tree(second))
    found = np.concatenate([found["a"], found["b"]])
    lengths = [np.linalg.norm(x) for x in (found, first, second)]
    np.testing.assert_allclose(lengths[0], (lengths[1] + lengths[2]) / 2, rtol=1e-6)
    cosines = [found @ x / np.linalg.norm(x) / lengths[0] for x in (first, second)]
    if first @ second < 0:
        assert abs(cosines[1]) < 1e-6 and cosines[0] > 0
    else:
        np.testing.assert_allclose(*cosines, rtol=1e-6)


def test_the_bisector_of_nothing_is_finite_and_so_are_its_slopes():
    some, none = jnp.array([2.0, 0.0]), jnp.zeros(2)
    np.testing.assert_array_equal(bisector(some, none), [1.0, 0.0])
    np.testing.assert_array_equal(bisector(none, some), [1.0, 0.0])
    np.testing.assert_array_equal(bisector(none, none), 0.0)
    slopes = jax.grad(lambda a, b: jnp.sum(bisector(a, b)), argnums=(0, 1))(some, none)
    assert all(np.all(np.isfinite(x)) for x in slopes)
    np.testing.assert_array_equal(bisector(some, -some), 0.0)


# --- S-06 ----------------------------------------------------------------------------------------


def test_the_distance_of_policies_is_a_metric():
    """Of tables of four states, averaged over the states that one policy sees."""
    rng = np.random.default_rng(0)
    tables = [networks.CategoricalPolicy(rng.normal(size=(4, 3)) * 3) for _ in range(5)]
    seen = rng.dirichlet(np.ones(4))
    apart = lambda p, q: float(seen @ np.asarray(s06.total_variation(p, q)))  # noqa: E731
    far = np.array([[apart(p, q) for q in tables] for p in tables])
    np.testing.assert_allclose(far, far.T, atol=1e-6)
    assert np.all(far.diagonal() == 0.0) and np.all(far[~np.eye(5, dtype=bool)] > 0.0)
    for i, j, k in itertools.permutations(range(5), 3):
        assert far[i, k] <= far[i, j] + far[j, k] + 1e-6
    one, other = (
        networks.CategoricalPolicy(jnp.log(jnp.array(p))) for p in ([0.7, 0.3], [0.2, 0.8])
    )
    np.testing.assert_allclose(s06.total_variation(one, other), 0.5, rtol=1e-6)


def test_novelty_is_of_the_states_that_the_new_policy_sees():
    """It lacks where the mean after the warm-up is too small, wherever the reference would go."""
    right = networks.CategoricalPolicy(jnp.array([0.0, 50.0]))
    logits = jnp.array([[[50.0, 0.0]], [[0.0, 50.0]], [[50.0, 0.0]], [[0.0, 50.0]]])
    zeros = jnp.zeros((4, 1))
    outputs = rules.PolicyOutputs(
        zeros, zeros, zeros, next_value=zeros, policy=networks.CategoricalPolicy(logits),
        heads={"novelty": zeros}, next_heads={"novelty": zeros},
    )  # fmt: skip
    over = jnp.array([[False], [True], [False], [False]])
    trajectory = core.Transition(zeros, zeros, zeros, 1.0 - over, zeros, over, over & False, {})
    reference = lambda seen: jax.tree.map(  # noqa: E731
        lambda leaf: jnp.broadcast_to(leaf, (*seen.shape, 2)), right
    )
    for warm_up, lacks in ((0, False), (1, True)):  # 1, 0, 1, 0; after a step of each: 0, 0
        rule = s06.NovelPolicy(reference, warm_up=warm_up)
        targets, _ = rule.targets((), outputs, trajectory, core.Progress.start())
        assert bool(targets.heads["lacks"][0, 0]) == lacks
        paid = targets.heads["novel"].advantage[:2, 0]
        np.testing.assert_allclose(paid, [0.5 - 0.95 * 0.5, -0.5], atol=1e-6)


@pytest.mark.slow
def test_a_novel_policy_is_learned_for_a_step():
    """The whole rule runs; both of its gradients reach the actor, and critics learn as well."""
    agent = jaxrl.ppo(num_envs=2, rollout_length=4, num_minibatches=1, normalise_advantages=False)
    state = agent.init(cases.KEY, s06.ENV)
    rule = s06.NovelPolicy(s06.Frozen(state.params, state.model))
    agent = agent.replace(rule=rule)
    result = jax.jit(lambda key: jaxrl.train(key, agent, s06.ENV, num_steps=8, num_records=1))
    metrics = result(cases.KEY).metrics
    assert all(np.all(np.isfinite(metrics[f"loss_{name}"])) for name in rule.facts.losses)
