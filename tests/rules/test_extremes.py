"""Numbers far from where training should be: every loss and every slope stays finite."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl
from jaxrl import rules
from jaxrl.agents import GradientDescent
from jaxrl.core import Law, Progress
from jaxrl.networks import CategoricalPolicy, GaussianPolicy, TanhGaussianPolicy
from jaxrl.operators import Categorical, Expectiles, Gaussian, Quantile, Scalar
from jaxrl.rules import PolicyOutputs, PolicyTargets

FAR = np.array([0.0, 1.0, -1.0, 100.0, -100.0, 1e4, -1e4], np.float32)
LIFE = Progress.start(100.0)
RULES = {
    "ppo": rules.ProximalPolicy(),
    "a2c": rules.AdvantageActorCritic(),
    "leave one out": rules.LeaveOneOut(),
    "clip drift": rules.DriftPolicy(),
    "no drift": rules.DriftPolicy(rules.ZeroDrift()),
    "dpo": rules.DriftPolicy(rules.DiscoveredDrift()),
    "lpo": jaxrl.preset("lpo").rule,
    "mdpo": rules.MirrorDescentPolicy(),
    "tsallis": rules.MirrorDescentPolicy(rules.TsallisDivergence(2.0)),
}


def stepped(grads, max_grad_norm):
    """How far a step of rate 1 goes down `grads`."""
    descent = GradientDescent(1.0, max_grad_norm=max_grad_norm)
    start = jax.tree.map(jnp.zeros_like, grads)
    params, _ = descent.step(grads, descent.init(start), start, LIFE)
    return jax.tree.map(jnp.negative, params)


def finite(tree):
    return all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", RULES)
def test_losses_of_rules(name):
    """Log-ratios, advantages, values and returns of the extremes, all against all."""
    grid = np.array(list(itertools.product(FAR, FAR, FAR)), np.float32)

    def loss(ratio, advantage, value):
        # Of two actions; the log-ratio of the first is moved by its logit.
        policy = CategoricalPolicy(jnp.stack([ratio, 0.0 * ratio]))
        old = CategoricalPolicy(jnp.zeros(2))
        outputs = PolicyOutputs(ratio, policy.entropy(), value, policy=policy)
        targets = PolicyTargets(advantage, -value, jnp.float32(0), 0.5 * value, policy=old)
        targets = targets.replace(heads={"counts": jnp.float32(1)})  # of leave-one-out
        return RULES[name].loss(outputs, targets, LIFE)

    found = jax.jit(jax.vmap(jax.value_and_grad(loss, argnums=(0, 1, 2))))(*grid.T)
    assert finite(found)
    # A step of any of these gradients is no longer than asked, and goes somewhere.
    steps = jax.vmap(lambda grads: stepped(grads, 0.5))(found[1])
    lengths = np.sqrt(sum(np.square(np.asarray(step, float)) for step in steps))
    assert finite(steps) and np.all(lengths <= 0.5001)


def test_ppo_far_outside_its_clip():
    """Good actions that are likely enough are left, bad ones that are too likely are not."""
    rule = rules.ProximalPolicy(value_weight=0.0, entropy_weight=0.0)

    def loss(log_prob, advantage):
        outputs = PolicyOutputs(log_prob, 0.0, 0.0)
        return rule.loss(outputs, PolicyTargets(advantage, 0.0, 0.0, 0.0), LIFE)

    slope = jax.vmap(jax.grad(loss))(jnp.full(3, 100.0), jnp.array([0.0, 1.0, -1.0]))
    assert slope[0] == slope[1] == 0.0 and slope[2] > 1e8


def policies(loc, log_scale):
    both = jnp.stack([loc, log_scale])
    yield "categorical", CategoricalPolicy(both), jnp.int32(1)
    yield "gaussian", GaussianPolicy(loc[None], log_scale[None]), jnp.zeros(1)


@pytest.mark.parametrize("kind", ["categorical", "gaussian"])
def test_policies(kind):
    grid = np.array(list(itertools.product(FAR, FAR)), np.float32)

    def numbers(loc, log_scale):
        policy, action = {k: (p, a) for k, p, a in policies(loc, log_scale)}[kind]
        other = {k: p for k, p, _ in policies(-loc, -log_scale)}[kind]
        drawn = policy.sample(jax.random.key(0))
        said = (policy.log_prob(action), policy.entropy(), policy.kl(other))
        return sum(said) + jnp.sum(jnp.asarray(drawn, jnp.float32))

    found = jax.jit(jax.vmap(jax.value_and_grad(numbers, argnums=(0, 1))))(*grid.T)
    assert finite(found)


def test_squashed_policies():
    """Their log-scale is bounded by the actor."""
    grid = np.array(list(itertools.product(FAR, [-5.0, 0.0, 2.0])), np.float32)

    def numbers(loc, log_scale):
        bound = jnp.ones(1)
        policy = TanhGaussianPolicy(loc[None], log_scale[None], -bound, bound)
        drawn, log_prob = policy.sample_with_log_prob(jax.random.key(0))
        return jnp.sum(drawn) + log_prob + jnp.sum(policy.mode())

    assert finite(jax.jit(jax.vmap(jax.value_and_grad(numbers, argnums=(0, 1))))(*grid.T))


HEADS = [
    *(Scalar(), Scalar(float("inf")), Quantile(2), Quantile(2, 0.0), Expectiles(3)),
    *(Gaussian(), Categorical(-1.0, 1.0, num_atoms=2)),
]


@pytest.mark.parametrize("index", range(len(HEADS)))
def test_losses_of_heads(index):
    head = HEADS[index]
    grid = np.array(list(itertools.product(FAR, repeat=4)), np.float32)

    def loss(first, second, low, high):
        params = jnp.stack([first, second, first][: head.shape[0]]) if head.shape else first
        law = Law(jnp.array([0.5, 0.5]), jnp.stack([low, high]))
        return head.loss(params, law) + head.mean(params)

    found = jax.jit(jax.vmap(jax.value_and_grad(loss, argnums=(0, 1))))(*grid.T)
    assert finite(found)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
def test_gradients_that_are_not_finite(bad):
    """They are left out whole, as are those too large to square.

    Who asks for no clipping gets none, so that a learner that blew up is seen to.
    """
    grads = {"a": jnp.array([bad, 1.0], jnp.float32), "b": jnp.array(2.0)}
    left = stepped(grads, 0.5)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(left))
    np.testing.assert_array_equal(stepped(grads, None)["a"], grads["a"])
