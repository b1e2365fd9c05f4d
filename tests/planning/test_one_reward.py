"""One reward for each pair, `[S, A, 1]`, says the same as that reward for every outcome."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl import BellmanOperator, outcome_mdp, planning, stack_mdps
from jaxrl.envs import TabularEnv
from jaxrl.functionals import CVaR, PerPair
from jaxrl.operators import Categorical, Quantile

S, A, K = 4, 2, 3
CVAR = BellmanOperator(successor_functional=CVaR(0.3))


def model(ends):
    rng = np.random.default_rng(3)
    prob = rng.dirichlet(np.ones(K), (S, A))
    following = rng.integers(0, S, (S, A, K))
    reward = rng.integers(-2, 3, (S, A)).astype(float)
    terminal = rng.random((S, A, K)) < 0.3 if ends else None
    return outcome_mdp(prob, following, reward, 0.9, terminal=terminal)


def each_pair_own_level(mdp):
    levels = jnp.linspace(0.2, 0.9, S * A).reshape(S, A)
    operator = BellmanOperator(successor_functional=PerPair(CVaR(levels)))
    return planning.value_iteration(mdp, operator).q_values


POLICY = np.full((S, A), 1.0 / A, np.float32)
VERBS = {
    "mean": lambda mdp: planning.value_iteration(mdp, BellmanOperator()).q_values,
    "cvar": lambda mdp: planning.value_iteration(mdp, CVAR).q_values,  # with ends: see the slopes
    "per pair": each_pair_own_level,
    "slopes": jax.grad(
        lambda mdp: jnp.sum(planning.value_iteration(mdp, CVAR).values), allow_int=True
    ),
    "gain": lambda mdp: planning.relative_value_iteration(mdp, CVAR).gain,
    "gap": lambda mdp: planning.gap_increasing_value_iteration(mdp, weight=0.3).q_values,
    "quantiles": lambda mdp: (
        planning.distributional_value_iteration(mdp, BellmanOperator(Quantile(5))).q_values
    ),
    "linear solve": lambda mdp: (
        planning.categorical_fixed_point(mdp, POLICY, Categorical(-20.0, 20.0, 11)).values
    ),
    "law": lambda mdp: planning.return_law(mdp, POLICY, horizon=3).law.mean(),
    "occupancy": lambda mdp: planning.occupancy(mdp, POLICY),
    "dense": jax.jit(lambda mdp: mdp.dense()),
}


QUICK = ("occupancy", "dense")  # the others are compiled twice in the longer suite
CASES = [
    (verb, True) if verb in QUICK else pytest.param(verb, True, marks=pytest.mark.slow)
    for verb in VERBS
    if verb != "cvar"
]


@pytest.mark.parametrize(
    ("verb", "ends"), [*CASES, pytest.param("cvar", False, marks=pytest.mark.slow)]
)
def test_every_verb_reads_both_forms(verb, ends):
    short = model(ends)
    long = short.replace(reward=short.outcome_rewards)
    assert short.reward.shape == (S, A, 1) and long.reward.shape == (S, A, K)
    found, wanted = VERBS[verb](short), VERBS[verb](long)
    if verb == "slopes":
        slopes = jnp.sum(found.reward, axis=-1), jnp.sum(wanted.reward, axis=-1)
        found, wanted = (found.prob, slopes[0]), (wanted.prob, slopes[1])
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-4, atol=2e-4)


def test_both_forms_in_one_batch():
    short = model(ends=True)
    rewards = np.broadcast_to(np.asarray(short.reward), (S, A, K))
    batch = jax.device_get(stack_mdps([short, short.replace(reward=rewards + 1.0)]))
    np.testing.assert_array_equal(batch.reward[0], rewards)
    np.testing.assert_array_equal(batch.reward[1], rewards + 1.0)


def test_every_outcome_of_a_pair_pays_the_pair_s_reward():
    mdp = model(ends=False)
    env = TabularEnv(mdp)

    @jax.jit
    def steps(key):
        state, _ = env.reset(key)
        step = jax.vmap(lambda key: env.step(key, state, 1)[1])(jax.random.split(key, 64))
        return step.observation, step.reward, state.index

    observation, reward, index = jax.device_get(steps(jax.random.key(0)))
    assert len(np.unique(observation)) > 1
    np.testing.assert_array_equal(reward, np.asarray(mdp.reward)[index, 1, 0])
