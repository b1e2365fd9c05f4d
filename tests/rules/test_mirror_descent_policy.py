"""Mirror descent: the first step is a policy gradient, later ones are held back, order by order."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rule_cases as cases
import scipy.special
import scipy.stats

from jaxrl.agents import GradientDescent
from jaxrl.core import Progress
from jaxrl.networks import CategoricalPolicy, GaussianPolicy
from jaxrl.rules import (
    AdvantageActorCritic,
    MirrorDescentPolicy,
    TsallisDivergence,
)

PLAIN = GradientDescent(learning_rate=0.5, max_grad_norm=None)
RULE = MirrorDescentPolicy(value_clip=1e6, entropy_weight=0.01, step_size=0.3)


@pytest.fixture(scope="module")
def learn():
    """One update under a rule -> parameters, and the mean KL from the policy before."""

    @jax.jit
    def update(agent, start):
        state, trajectory = start
        moved = cases.live(agent, state, trajectory, num_updates=1)
        arguments = (trajectory.observation, jnp.zeros((), bool), ())
        old, new = (s.model.apply(s.params, *arguments)[0] for s in (state, moved))
        return moved.params, jnp.mean(new.kl(old))

    @functools.cache
    def start():
        """No rule changes it."""
        return cases.start_of(cases.agent_of("a2c", optimiser=PLAIN))

    def run(rule, num_epochs):
        agent = cases.agent_of("a2c", rule=rule, optimiser=PLAIN, num_epochs=num_epochs)
        return update(agent, start())

    return run


@pytest.mark.slow
def test_one_step_is_the_plain_policy_gradient(learn):
    with jax.enable_x64(True):
        plain, _ = learn(AdvantageActorCritic(entropy_weight=0.01), 1)
        mirror, moved = learn(RULE, 1)
        assert moved > 1e-6
        for one, other in zip(*map(jax.tree.leaves, (mirror, plain)), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_a_smaller_step_size_stays_nearer(learn):
    with jax.enable_x64(True):
        distances = [
            float(learn(RULE.replace(step_size=size), 6)[1]) for size in (1e9, 1.0, 0.5, 0.2)
        ]
        assert distances[0] > 0 and np.all(np.diff(distances) < 0)


LAWS = np.random.default_rng(0).dirichlet(np.ones(4), size=(2, 20))


@pytest.fixture(scope="module")
def divergence():
    """Of an order, for 20 pairs of laws, with the slope in the logits at the old law."""
    new, old = (CategoricalPolicy(np.log(laws).astype(np.float32)) for laws in LAWS)

    @jax.jit
    def measure(order):
        of = TsallisDivergence(order)
        slope = jax.grad(lambda logits: jnp.sum(of(CategoricalPolicy(logits), old)))(old.logits)
        return of(new, old), of(old, old), slope

    return measure


@pytest.mark.parametrize("order", [0.3, 0.999, 1.0, 1.001, 1.5, 2.0, 3.0])
def test_the_tsallis_divergence_is_what_its_law_says(divergence, order):
    """Against a sum written out; KL and chi-square at 1 and 2 against SciPy."""
    found, of_itself, slope = divergence(order)
    p, q = LAWS
    if order == 1.0:
        expected = scipy.special.rel_entr(p, q).sum(-1)
    else:
        expected = (np.sum(p**order * q ** (1 - order), axis=-1) - 1) / (order - 1)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-5)
    assert np.all(found > 0)
    if order == 2.0:
        np.testing.assert_allclose(found, scipy.stats.chisquare(p.T, q.T).statistic, rtol=1e-3)
    np.testing.assert_allclose(of_itself, 0.0, atol=1e-6)
    np.testing.assert_allclose(slope, 0.0, atol=1e-5)


def test_order_one_is_kl_and_the_order_has_a_slope_there():
    new, old = (CategoricalPolicy(np.log(laws[0]).astype(np.float32)) for laws in LAWS)
    of_order = jax.jit(jax.value_and_grad(lambda order: TsallisDivergence(order)(new, old)))
    at_one, slope = of_order(1.0)
    kl = scipy.special.rel_entr(*(laws[0] for laws in LAWS)).sum()
    np.testing.assert_allclose(
        [at_one, jax.jit(MirrorDescentPolicy().divergence)(new, old)], kl, rtol=1e-5
    )
    difference = (of_order(1.05)[0] - of_order(0.95)[0]) / 0.1
    np.testing.assert_allclose(slope, difference, rtol=2e-2)


def test_continuous_actions_take_kl_and_refuse_tsallis():
    old, new = (
        GaussianPolicy(np.full(2, loc, np.float32), np.zeros(2, np.float32)) for loc in (0.0, 1.0)
    )
    kl = jax.jit(MirrorDescentPolicy().divergence)(new, old)
    np.testing.assert_allclose(kl, 1.0)  # 2 coordinates, 1 / 2 each
    with pytest.raises(ValueError, match=r"GaussianPolicy.*KullbackLeibler"):
        TsallisDivergence(2.0)(new, old)


def test_the_coefficient_grows_as_the_life_goes_on():
    """t_k falls from 1 to the floor; of an unlimited life it stays 1."""
    schedule = MirrorDescentPolicy().step_size
    total = np.float32([100.0, 100.0, 100.0, np.inf])
    shares = jax.jit(schedule)(Progress(np.array([0, 50, 100, 10], np.int32), total))
    np.testing.assert_allclose(shares[:3], [1.0, 0.505, 0.01], rtol=1e-6)
    assert shares[3] == 1.0
