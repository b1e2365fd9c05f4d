"""The heart of the value agents: their fixed points are those of `jaxrl.planning`.

A linear network on one-hot observations is a table, so that what separates the agent from the
planner is sampling alone. That of the gradient is averaged out by a step size that falls to zero.
That of K draws is not: F of the law of K draws is not F of the law. The planner is therefore given
the expectation of F over all laws of K draws (`OfDraws`), which is what such an agent aims at, and
its distance from F itself is a test of its own.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import types
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from tables import DUALS

import jaxrl
from jaxrl import envs, planning
from jaxrl.agents import (
    Dual,
    Generative,
    Munchausen,
    Optimiser,
    QNetworkAgent,
    Sampled,
    TargetUpdate,
)
from jaxrl.core import FunctionalFacts, ImprovementFacts, Linear, struct
from jaxrl.functionals import CVaR, Entropic, Mean, MeanSemideviation, TotalVariation
from jaxrl.networks import NetworkSettings
from jaxrl.operators import (
    BellmanOperator,
    Categorical,
    ExpectileMax,
    Expectiles,
    FixedPolicy,
    Gaussian,
    Greedy,
    KLSoftmax,
    MirrorDescent,
    Scalar,
    Softmax,
)
from jaxrl.replay import UniformReplay

pytestmark = pytest.mark.slow
DISCOUNT = 0.8
NUM_MDPS, NUM_STATES, NUM_ACTIONS = 1, 5, 2


@struct.dataclass
class OfDraws:
    """E F(counts / K, v) over counts ~ Multinomial(K, p): what K draws give on average."""

    functional: Any
    num_draws: int = struct.field(pytree_node=False)

    @property
    def facts(self):
        """An average of coherent functionals is coherent; nobody here asks."""
        inner = self.functional.facts
        return FunctionalFacts(inner.monotone, inner.translation_equivariant)

    def __call__(self, probs, values):
        counts = jnp.asarray(compositions(self.num_draws, probs.shape[0]), probs.dtype)
        log_count = jax.scipy.special.gammaln(self.num_draws + 1.0) - jnp.sum(
            jax.scipy.special.gammaln(counts + 1.0), axis=1
        )
        weights = jnp.exp(log_count) * jnp.prod(probs**counts, axis=1)
        found = jax.vmap(self.functional, (0, None))(counts / self.num_draws, values)
        return jnp.sum(weights / jnp.sum(weights) * found)


@struct.dataclass
class OneOf:
    """One of several functionals or improvements, by its number: so they share a program."""

    index: Any  # [] int32
    members: tuple

    # Of a functional and of an improvement.
    facts = types.SimpleNamespace(
        **dataclasses.asdict(FunctionalFacts()),
        **dataclasses.asdict(ImprovementFacts(nonexpansive=False)),
    )

    def __call__(self, first, *others):
        """Of `probs[N]`, `values[N]`, or of `q_values[A]` and a mask that nobody has here."""
        inputs = (first, *[x for x in others if x is not None])

        def call(member):
            def run(*inputs):
                found = member(*inputs)
                if isinstance(found, tuple):
                    return tuple(
                        jnp.broadcast_to(x, first.shape).astype(first.dtype) for x in found
                    )
                return jnp.asarray(found, first.dtype)

            return run

        return jax.lax.switch(self.index, [call(member) for member in self.members], *inputs)


def compositions(total, parts):
    """All ways to share `total` draws among `parts` outcomes, `[C, parts]`."""
    rows = itertools.product(range(total + 1), repeat=parts)
    return np.array([row for row in rows if sum(row) == total])


def squared():
    return Scalar(float("inf"))


GRID = Categorical(-12.0, 12.0, num_atoms=13)


@functools.cache
def garnets():
    keys = jax.random.split(jax.random.key(0), NUM_MDPS)
    sizes = (NUM_STATES, NUM_ACTIONS, 2)
    return jaxrl.stack_mdps([envs.garnet(key, *sizes, discount=DISCOUNT) for key in keys])


def tabular_agent(operator, successors, **changes):
    """One-hot observations, a linear network, uniform exploration, a falling step size."""
    settings = {
        "network": NetworkSettings(hidden_sizes=(), initialiser="lecun"),
        "optimiser": Optimiser(learning_rate=Linear(0.05, 0.0), max_grad_norm=100.0),
        "replay": UniformReplay(capacity=8192),
        "target": TargetUpdate(period=1, step_size=0.05),
        "discount": DISCOUNT,
        "exploration": 1.0,
        "num_envs": 64,
        "rollout_length": 4,
        "num_updates": 8,
        "batch_size": 128,
        "warmup": 512,
    }
    return QNetworkAgent(operator=operator, successors=successors, **settings | changes)


@jax.jit(static_argnames="num_steps")
def learn(key, agent, env, models, num_steps):
    """The head's parameters `[MDP, S, A, ...]` of one agent for each of a batch of MDPs."""

    def one(key, env, models):
        lane = agent
        if models is not None:
            lane = agent.replace(successors=agent.successors.replace(models=models))
        run = jaxrl.train(key, lane, env, num_steps=num_steps, num_records=1)
        state, num_states = run.state.agent, env.mdp.num_states
        return state.model.apply(state.params, jnp.arange(num_states))

    keys = jax.random.split(key, env.mdp.prob.shape[0])
    return jax.vmap(one)(keys, env, models)


def learned(agent, mdps, models=None, num_steps=100_000):
    """Head parameters and the q-values in them."""
    env = jax.vmap(lambda mdp: envs.TabularEnv(mdp, 5.0))(mdps)  # restarts visit every state
    models = (
        None
        if models is None
        else jax.vmap(jax.vmap(lambda mdp: envs.TabularEnv(mdp, 5.0)))(models)
    )
    params = learn(jax.random.key(1), agent, env, models, num_steps)
    return params, jax.device_get(jax.jit(type(agent).scores)(agent, params))


@jax.jit
def solved(mdps, operator):
    solution = jax.vmap(lambda mdp: planning.value_iteration(mdp, operator, tolerance=1e-4))(mdps)
    return solution.q_values, solution.residual


def planned(mdps, operator):
    """`q[MDP, S, A]` of the exact fixed point."""
    q_values, residual = jax.device_get(solved(mdps, operator))
    assert np.max(residual) < 1e-3
    return q_values


def assert_reaches(found, exact, tolerance):
    assert np.all(np.isfinite(found))
    worst = float(np.max(np.abs(found - exact)))
    assert worst < tolerance, f"off by {worst:.3f}"


@dataclasses.dataclass(frozen=True)
class Row:
    """One agent, and how near it must come to the planner [return]."""

    head: Any = dataclasses.field(default_factory=squared)
    improvement: Any = dataclasses.field(default_factory=Greedy)
    functional: Any = dataclasses.field(default_factory=Mean)
    num_samples: int = 4  # 0: the one sampled successor
    tolerance: float = 0.05
    num_steps: int = 100_000

    def run(self):
        operator = BellmanOperator(self.head, self.improvement, self.functional)
        source = Generative(self.num_samples) if self.num_samples else Sampled()
        return learned(tabular_agent(operator, source), garnets(), num_steps=self.num_steps)

    def exact(self):
        functional = self.functional
        if functional.facts.needs_successors:
            functional = OfDraws(functional, self.num_samples)
        return planned(garnets(), BellmanOperator(Scalar(), self.improvement, functional))

    def check(self):
        _, found = self.run()
        assert_reaches(found, self.exact(), self.tolerance)


# What agents do with a part is the same for all parts of a kind, whose own laws are in
# tests/functionals and tests/operators: the rows are of parts that differ in what they ask for.
REFERENCE = np.array([0.3, 0.7], np.float32)
PAIRS = {
    "categorical-tv": Row(
        Categorical(-12.0, 12.0, 9), functional=TotalVariation(0.2), num_steps=30_000, tolerance=0.1
    ),
}
HEADS = {
    "gaussian": Row(Gaussian(), functional=CVaR(0.3)),
    "expectiles": Row(Expectiles(5), functional=CVaR(0.3)),
}
IMPROVEMENTS = {
    "sampled": Row(num_samples=0, tolerance=0.1, num_steps=150_000),
    "kl_softmax": Row(improvement=KLSoftmax(0.5, REFERENCE)),
    "expectile_max": Row(improvement=ExpectileMax(0.8)),
    "fixed_policy": Row(improvement=FixedPolicy(REFERENCE)),
}
FUNCTIONALS = {
    "entropic": Row(functional=Entropic(1.0)),
    "semideviation": Row(functional=MeanSemideviation(0.5)),
}


def sharing(rows, field, names):
    """The rows called `names` with their `field` as one of all theirs."""
    members = tuple(getattr(rows[name], field) for name in names)
    return {
        name: dataclasses.replace(rows[name], **{field: OneOf(np.int32(index), members)})
        for index, name in enumerate(names)
    }


IMPROVEMENTS |= sharing(IMPROVEMENTS, "improvement", [n for n in IMPROVEMENTS if n != "sampled"])
FUNCTIONALS = sharing(FUNCTIONALS, "functional", list(FUNCTIONALS))


@pytest.mark.parametrize("name", PAIRS)
def test_pairs_of_parts_reach_the_planner(name):
    PAIRS[name].check()


@pytest.mark.optimised
@pytest.mark.parametrize("name", HEADS)
def test_every_head_reaches_the_planner(name):
    HEADS[name].check()


@pytest.mark.optimised
@pytest.mark.parametrize("name", IMPROVEMENTS)
def test_every_improvement_reaches_the_planner(name):
    IMPROVEMENTS[name].check()


@pytest.mark.parametrize("name", FUNCTIONALS)
def test_every_functional_reaches_the_planner(name):
    FUNCTIONALS[name].check()


# --- mirror descent ------------------------------------------------------------------------------


def test_mirror_descent_reaches_its_regularised_optimum():
    """MirrorDescent(l, t) ends at the entropy-regularised optimum of temperature t.

    The network holds q + l log pi with pi = softmax(that / (l + t)), so that q = that - l log pi.
    """
    step = MirrorDescent(0.25, 0.25)
    agent = tabular_agent(BellmanOperator(squared(), step), Generative(4))
    _, held = learned(agent, garnets(), num_steps=60_000)
    found = held - 0.25 * jax.nn.log_softmax(held / 0.5)
    exact = planned(garnets(), BellmanOperator(improvement=Softmax(0.25)))
    assert_reaches(found, exact, 0.08)
    known = planning.mirror_descent_value_iteration(
        jax.tree.map(lambda leaf: leaf[0], garnets()), kl_weight=0.25, entropy_weight=0.25
    )
    np.testing.assert_allclose(jax.nn.softmax(held[0] / 0.5), known.policy, atol=0.02)


def test_munchausen_is_mirror_descent():
    """Weight a and temperature T: KL weight a T, entropy weight (1 - a) T."""
    operator = BellmanOperator(squared(), Softmax(0.5))
    agent = tabular_agent(operator, Generative(4), parts=(Munchausen(0.6, -jnp.inf),))
    _, held = learned(agent, garnets())
    found = held - 0.3 * jax.nn.log_softmax(held / 0.5)
    assert_reaches(found, planned(garnets(), BellmanOperator(improvement=Softmax(0.2))), 0.05)


def test_a_greedy_munchausen_is_advantage_learning():
    operator = BellmanOperator(squared())
    agent = tabular_agent(operator, Generative(4), parts=(Munchausen(0.5, -jnp.inf),))
    _, found = learned(agent, garnets())
    solve = jax.vmap(lambda mdp: planning.gap_increasing_value_iteration(mdp, weight=0.5))
    assert_reaches(found, solve(garnets()).q_values, 0.1)


# --- laws of returns -----------------------------------------------------------------------------


@pytest.mark.optimised
def test_the_law_is_the_planner_s():
    """Compared at its quantiles; CVaR makes actions *greedy on the law*.

    Laws held as quantiles are learned in test_implicit_laws.py and test_continuous_laws.py.
    """
    operator = BellmanOperator(GRID, return_functional=CVaR(0.5))
    params, _ = learned(tabular_agent(operator, Generative(4)), garnets())
    mdp = jax.tree.map(lambda leaf: leaf[0], garnets())
    solve = functools.partial(planning.distributional_value_iteration, tolerance=1e-3)
    known = jax.jit(solve)(mdp, operator)
    assert float(known.residual) <= 1e-3  # greedy on the law: a fixed point need not exist

    @jax.jit
    def distance(*params):
        return jaxrl.wasserstein_distance(*(jax.vmap(jax.vmap(GRID.law))(p) for p in params))

    assert float(np.max(distance(params[0], known.params))) < 0.12


# --- settings of the environment -----------------------------------------------------------------


def deterministic(seed):
    """Each pair has one successor and one reward."""
    numbers = np.random.default_rng(seed)
    shape = (NUM_MDPS, NUM_STATES, NUM_ACTIONS, 1)
    next_state, reward = numbers.integers(NUM_STATES, size=shape), numbers.normal(size=shape)
    initial = np.full(NUM_STATES, 1.0 / NUM_STATES)
    tables = zip(next_state, reward, strict=True)
    return jaxrl.stack_mdps(
        [jaxrl.outcome_mdp(np.ones(n.shape), n, r, DISCOUNT, initial=initial) for n, r in tables]
    )


def both(first, second):
    """`[MDP, 2, ...]`: two settings of each problem."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves, axis=1), first, second)


def test_the_worst_setting_of_the_environment_counts():
    """Two deterministic settings are two outcomes of probability 1/2, of which CVaR at 1/2 is the
    worst. No sampling is involved. That a mixture has outcomes of equal probability is held by
    test_generative.py."""
    settings = both(deterministic(1), deterministic(2))
    source = Generative(1, 2, over_models=CVaR(0.5))
    agent = tabular_agent(BellmanOperator(squared()), source)
    _, found = learned(agent, deterministic(1), settings, num_steps=40_000)
    outcomes = [
        jnp.moveaxis(leaf[..., 0], 1, -1) for leaf in (settings.next_state, settings.reward)
    ]
    mixed = [
        jaxrl.outcome_mdp(np.full(n.shape, 0.5), n, r, DISCOUNT)
        for n, r in zip(*map(np.asarray, outcomes), strict=True)
    ]
    operator = BellmanOperator(successor_functional=CVaR(0.5))
    assert_reaches(found, planned(jaxrl.stack_mdps(mixed), operator), 0.05)


# --- a dual from one sample ----------------------------------------------------------------------


def dual_gap(name):
    functional = DUALS[name]
    optimiser = Optimiser(learning_rate=Linear(0.05, 0.0), max_grad_norm=100.0)
    agent = tabular_agent(
        BellmanOperator(squared(), successor_functional=functional),
        Dual(optimiser=optimiser),
        optimiser=Optimiser(learning_rate=Linear(0.02, 0.0), max_grad_norm=100.0),
    )
    _, found = learned(agent, garnets())
    return found - planned(garnets(), BellmanOperator(successor_functional=functional))


def test_a_dual_reaches_the_exact_functional_from_one_sample():
    assert np.max(np.abs(dual_gap("cvar"))) < 0.15


def test_a_dual_of_another_shape_reaches_its_functional():
    """Each one's climb is held by test_dual_step, and where it ends by tests/functionals."""
    assert np.max(np.abs(dual_gap("kl_ball"))) < 0.25


# --- how biased K draws are ----------------------------------------------------------------------


def test_the_bias_of_k_draws_falls_as_k_grows():
    """CVaR is concave in the law: K draws give too high a value, by less the more there are.

    Targets from two draws are noisy: after twice the steps of the table above the values are within
    its tolerance too.
    """
    functional = CVaR(0.3)
    exact = planned(garnets(), BellmanOperator(successor_functional=functional))
    operator = BellmanOperator(squared(), successor_functional=functional)
    biases = []
    for num_draws in (2, 8):
        agent = tabular_agent(operator, Generative(num_draws))
        _, found = learned(agent, garnets(), num_steps=200_000)
        expected = planned(
            garnets(),
            operator.replace(head=Scalar(), successor_functional=OfDraws(functional, num_draws)),
        )
        assert_reaches(found, expected, 0.05)
        biases.append(float(np.mean(found - exact)))
    assert biases[0] > 2 * biases[1] > 0


def test_one_draw_is_the_mean_and_many_are_the_law():
    """The expectation over draws itself, by limits: what the rows above are compared with."""
    probs, values = np.array([0.25, 0.75], np.float32), np.array([0.0, 4.0], np.float32)
    one, two, many = (
        float(jax.jit(OfDraws(CVaR(0.5), num_draws))(probs, values)) for num_draws in (1, 2, 30)
    )
    assert one == pytest.approx(3.0)
    # None, one or both of two draws are 0 with probability 9/16, 6/16, 1/16; the worse half of
    # them is then 4, 0, 0.
    assert two == pytest.approx(4 * 9 / 16)
    # Of 30 draws the worse 15 are zeros as far as there are, and 4 from there on.
    zeros = np.arange(31)
    share = scipy.stats.binom.pmf(zeros, 30, 0.25) @ (15 - np.minimum(zeros, 15)) / 15
    assert many == pytest.approx(4 * share, abs=1e-3)


# --- one sampled successor -----------------------------------------------------------------------


def test_the_accepted_bias_is_the_whole_risk():
    """CVaR of one sampled successor learns the risk-neutral values, far from the CVaR's."""
    operator = BellmanOperator(squared(), successor_functional=CVaR(0.1))
    agent = tabular_agent(operator, Sampled(accept_bias=True))
    _, found = learned(agent, garnets(), num_steps=60_000)
    neutral = planned(garnets(), BellmanOperator())
    averse = planned(garnets(), operator.replace(head=Scalar()))
    assert_reaches(found, neutral, 0.15)
    assert np.max(neutral - averse) > 1.0
