"""The Bellman operator: theory over functional x improvement x head, and worked examples."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import softmax

from jaxrl import Lookahead
from jaxrl.core import FunctionalFacts, Law, check_settings, list_settings, struct
from jaxrl.functionals import CVaR, Entropic, Mean, MeanStd, PerPair, worst_case
from jaxrl.operators import (
    BellmanOperator,
    Boltzmann,
    Categorical,
    EpsilonGreedy,
    FixedPolicy,
    Greedy,
    HLGauss,
    MinForm,
    PerState,
    Quantile,
    Scalar,
    Softmax,
    TwoHot,
    bellman,
)

N, A = 4, 3
DISCOUNT = 0.9
FUNCTIONALS = [Mean(), CVaR(0.3), Entropic(2.0)]
IMPROVEMENTS = [Greedy(), EpsilonGreedy(0.3), Softmax(0.5)]
HEADS = [Scalar(), Categorical(-4.0, 4.0, num_atoms=9), Quantile(num_atoms=5)]


def kind(value):
    return type(value).__name__


@pytest.fixture(
    params=zip(FUNCTIONALS, IMPROVEMENTS, strict=True), ids=lambda p: "-".join(map(kind, p))
)
def slots(request):
    return request.param


@jax.jit
def backup(operator, lookahead):
    return operator.backup(lookahead)


@jax.jit
def stored(operator, lookahead):
    return operator.backup_params(lookahead)


@jax.jit
def backup_table(operator, lookahead, tables):
    """One outcome law, many next tables `[batch, N, A]`."""
    return jax.vmap(lambda q: operator.backup_params(lookahead.replace(next_params=q)))(tables)


@jax.jit
def after_transition(operator, reward, discount, next_params, selector_params=None, mask=None):
    step = Lookahead.of_transition(reward, discount, next_params, selector_params, mask)
    return operator.backup_params(step)


@jax.jit
def mean_after_transition(operator, reward, discount, next_params):
    return operator.backup(Lookahead.of_transition(reward, discount, next_params)).mean()


def random_lookahead(head, seed=0, masked=True):
    rng = np.random.default_rng(seed)
    mask = rng.random((N, A)) < 0.7
    mask[:, 1] = True
    return Lookahead(
        reward=rng.normal(size=N).astype(np.float32),
        discount=np.float32([DISCOUNT, 0.0, DISCOUNT, DISCOUNT**2]),
        probs=rng.dirichlet(np.ones(N)).astype(np.float32),
        next_params=rng.normal(size=(N, A, *head.shape)).astype(np.float32),
        mask=mask if masked else None,
    )


@pytest.mark.parametrize(
    "functional", [CVaR(0.3), pytest.param(Entropic(2.0), marks=pytest.mark.slow)], ids=kind
)
def test_mean_of_the_distributional_backup_is_the_scalar_backup(functional):
    """With masks, in one program; test_every_operator.py has all functionals, without masks."""

    @jax.jit
    def both(functional):
        found = []
        for improvement, head in zip(IMPROVEMENTS, HEADS, strict=True):
            step = random_lookahead(head)
            law = BellmanOperator(head, improvement, functional).backup(step)
            # The scalar backup, from the mean of each action.
            q_values = jax.vmap(jax.vmap(head.mean))(step.next_params)
            probs, bonus = jax.vmap(improvement)(q_values, step.mask)
            outcomes = step.reward + step.discount * jnp.sum(probs * (q_values + bonus), axis=1)
            total, least = jnp.sum(law.probs), jnp.min(law.probs)
            found.append((law.mean(), functional(step.probs, outcomes), total, least))
        return jax.tree.map(lambda *rows: jnp.stack(rows), *found)

    means, expected, total, least = jax.device_get(both(functional))
    np.testing.assert_allclose(means, expected, atol=1e-5)
    np.testing.assert_allclose(total, 1.0, atol=2e-6)
    assert np.all(least >= 0)


def test_greedy_cvar_backup_by_numpy():
    """The mean of the worst 0.3 of r_n + d_n max_a q_na over legal actions, by sorting."""
    step = random_lookahead(Scalar())
    best = np.where(step.mask, step.next_params, -np.inf).max(axis=1)
    outcomes = (step.reward + step.discount * best).astype(float)
    order = np.argsort(outcomes)
    probs = step.probs[order].astype(float)
    tail = np.clip(0.3 - (np.cumsum(probs) - probs), 0.0, probs)
    expected = tail @ outcomes[order] / 0.3
    found = stored(BellmanOperator(successor_functional=CVaR(0.3)), step)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_contraction_and_monotonicity(slots):
    functional, improvement = slots
    operator = BellmanOperator(Scalar(), improvement, functional)
    lookahead = random_lookahead(Scalar())
    rng = np.random.default_rng(0)
    first, second = 3.0 * rng.normal(size=(2, 50, N, A)).astype(np.float32)
    every = np.concatenate([first, second, np.maximum(first, second)])
    ours, others, best = np.split(np.asarray(backup_table(operator, lookahead, every)), 3)
    gap = np.max(np.abs(first - second), axis=(1, 2))
    assert np.all(np.abs(ours - others) <= DISCOUNT * gap + 1e-5)
    assert np.all(best >= np.maximum(ours, others) - 1e-5)


@pytest.mark.parametrize(
    "head",
    [Scalar(), pytest.param(Quantile(num_atoms=5), marks=pytest.mark.slow)],
    ids=kind,
)
def test_selecting_first_changes_nothing_but_the_size(head):
    """Greedy builds one action's laws, EpsilonGreedy(0) all of them: the same law comes out."""
    lookahead = random_lookahead(head)

    @jax.jit
    def both(epsilon):
        short = BellmanOperator(head, Greedy(), CVaR(0.3)).backup(lookahead)
        return short, BellmanOperator(head, EpsilonGreedy(epsilon), CVaR(0.3)).backup(lookahead)

    short, long = jax.device_get(both(0.0))
    num_atoms = int(np.prod(head.shape))
    assert (short.atoms.size, long.atoms.size) == (N * num_atoms, N * A * num_atoms)
    for point in np.linspace(-3, 3, 13):
        below = [np.sum(law.probs * (law.atoms <= point)) for law in (short, long)]
        np.testing.assert_allclose(below[0], below[1], atol=1e-5)


def test_one_transition_is_the_plain_formula():
    operator, after = BellmanOperator(Scalar()), np.float32([1.0, 4.0, 2.0])
    for discount, expected in ((0.0, 1.5), (0.9, 1.5 + 0.9 * 4.0)):
        found = after_transition(operator, 1.5, discount, after)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_double_q_learning_chooses_with_one_and_values_with_the_other():
    given = 0.0, 0.5, np.float32([7.0, 2.0]), np.float32([0.0, 1.0])
    for improvement in (Greedy(), EpsilonGreedy(0.0)):
        assert float(after_transition(BellmanOperator(Scalar(), improvement), *given)) == 1.0


def test_masked_actions_may_hold_anything():
    given = 0.0, 1.0, np.float32([-np.inf, 2.0, np.nan]), None, np.array([False, True, False])
    for improvement in IMPROVEMENTS:
        assert float(after_transition(BellmanOperator(Scalar(), improvement), *given)) == 2.0


def test_categorical_backup_by_hand():
    """Grid -1, 0, 1; next law half at -1, half at 1; reward 0.25, discount 0.5.

    Pushed atoms -0.25 and 0.75. The first: 1/4 to -1, 3/4 to 0; the second: 1/4 to 0, 3/4 to 1.
    """
    head = Categorical(-1.0, 1.0, num_atoms=3)
    logits = np.log(np.float32([[0.5, 1e-30, 0.5]]))
    found = after_transition(BellmanOperator(head), 0.25, 0.5, logits)
    np.testing.assert_allclose(softmax(np.asarray(found)), [0.125, 0.5, 0.375], atol=1e-6)


def test_robust_distributional_backup_by_hand():
    """Two successors worth 0 and 4, one half each; CVaR at 0.5 believes in the first alone."""
    lookahead = Lookahead(
        reward=np.float32([1.0, 1.0]),
        discount=np.float32([0.5, 0.5]),
        probs=np.float32([0.5, 0.5]),
        next_params=np.float32([[[-2.0, 2.0]], [[3.0, 5.0]]]),
    )
    operator = BellmanOperator(Quantile(2), successor_functional=CVaR(0.5))
    law = jax.device_get(backup(operator, lookahead))
    assert law.probs.tolist() == [0.5, 0.5, 0.0, 0.0]
    assert law.atoms[:2].tolist() == [0.0, 2.0]
    assert law.probs @ law.atoms == 1.0


def test_risk_over_returns_chooses_the_safe_action_but_keeps_its_mean():
    """Action 0 returns -6 or 10 (mean 2), action 1 returns 1 for sure."""
    given = 0.0, 1.0, np.float32([[-6.0, 10.0], [1.0, 1.0]])
    head = Quantile(2)
    assert float(mean_after_transition(BellmanOperator(head), *given)) == 2.0
    careful = BellmanOperator(head, return_functional=CVaR(0.5))
    assert float(mean_after_transition(careful, *given)) == 1.0


def test_stock_is_added_before_a_return_is_scored():
    """Worth min(return + stock, 0): -4 or 4, and -1 for sure. At stock 0 that is -2 and -1, so the
    sure one; at stock 4 both are 0, so the first; at -8 it is -8 and -9."""

    @struct.dataclass
    class Shortfall:
        facts = FunctionalFacts()

        def __call__(self, probs, values):
            return jnp.sum(probs * jnp.minimum(values, 0.0))

    operator = BellmanOperator(Quantile(2), return_functional=Shortfall())
    params = jnp.asarray(np.float32([[-4.0, 4.0], [-1.0, -1.0]]))
    scores, laws = jax.device_get(
        jax.jit(
            jax.vmap(
                lambda stock: (
                    operator.scores(params, stock),
                    operator.state_law(params, stock=stock).atoms,
                )
            )
        )(np.float32([0.0, 4.0, -8.0]))
    )
    np.testing.assert_array_equal(scores, [[-2.0, -1.0], [0.0, 0.0], [-8.0, -9.0]])
    np.testing.assert_array_equal(laws, [[-1.0, -1.0], [-4.0, 4.0], [-4.0, 4.0]])


def test_parts_that_state_their_facts_one_by_one_are_taken():
    """As a user's own parts may: by class attributes or properties, without a `facts`."""

    @struct.dataclass
    class Sum:
        weight: float = 1.0
        needs_law, contracts = False, True
        linear = property(lambda self: self.weight == 1.0)

        def __call__(self, reward, discount, next_return):
            return reward + self.weight * discount * next_return

    @struct.dataclass
    class Even:
        deterministic, nonexpansive = False, False

        def __call__(self, q_values, mask=None):
            return jnp.full_like(q_values, 1.0 / q_values.shape[0]), jnp.zeros_like(q_values)

    @struct.dataclass
    class Total:
        monotone, translation_equivariant, needs_successors = True, False, False

        def __call__(self, probs, values):
            return jnp.sum(probs * values)

    @struct.dataclass
    class Mute:
        def __call__(self, reward, discount, next_return):
            return reward

    operator = BellmanOperator(Scalar(), Even(), Total(), composition=Sum())
    facts = operator.improvement.facts, operator.successor_functional.facts
    assert (facts[0].nonexpansive, facts[1].monotone) == (False, True)
    assert not facts[1].translation_equivariant
    assert operator.composition.facts.linear and not Sum(0.5).facts.linear
    assert float(mean_after_transition(operator, 1.0, 0.5, np.float32([2.0, 6.0]))) == 3.0
    with pytest.raises(TypeError, match=r"Mute does not say .*CompositionFacts"):
        BellmanOperator(composition=Mute())


@pytest.mark.parametrize("functional", [CVaR(0.25), Entropic(0.5)], ids=kind)
def test_one_sampled_successor_is_refused_with_a_remedy(functional):
    operator = BellmanOperator(Scalar(), successor_functional=functional)
    one = np.ones(1, np.float32)
    step = Lookahead(one, 0.5 * one, one, 2.0 * one[None])
    with pytest.raises(
        ValueError, match=r"=0\.\d+\) ranges over successors.*TabularMDP.*return_functional"
    ):
        operator.backup(step)
    with pytest.raises(ValueError, match=f"{kind(functional)}.*1 per transition"):
        jax.eval_shape(backup, operator, step)  # at trace time
    assert float(stored(operator, step.replace(exact=True))) == 2.0
    operator.require_successors(2)
    BellmanOperator(Quantile(2), return_functional=functional).require_successors(1)


def test_changed_floats_do_not_retrace():
    traces = []

    @jax.jit
    def call(operator, lookahead):
        traces.append(1)
        return operator.backup_params(lookahead)

    lookahead = random_lookahead(Scalar())
    results = {
        float(call(BellmanOperator(Scalar(), Softmax(t), CVaR(level)), lookahead))
        for t, level in ((0.5, 0.3), (0.1, 0.3), (0.5, 0.9))
    }
    assert len(traces) == 1 and len(results) == 3


def test_settings_sweep_by_vmap():
    lookahead = random_lookahead(Scalar())
    levels = np.float32([0.1, 0.4, 1.0])
    operator = BellmanOperator(Scalar(), successor_functional=CVaR(0.1))
    at = lambda level: stored(operator.replace(successor_functional=CVaR(level)), lookahead)  # noqa: E731
    swept = np.asarray(jax.vmap(at)(levels))
    np.testing.assert_allclose(swept, [at(level) for level in levels], atol=1e-6)
    assert np.all(np.diff(swept) >= 0)  # a wider tail is never worse
    mean = stored(BellmanOperator(Scalar()), lookahead)
    np.testing.assert_allclose(swept[-1], mean, atol=1e-6)


# ---- fixed points ----------------------------------------------------------------------------


def random_chain(seed=0, num_states=6):
    rng = np.random.default_rng(seed)
    transition = rng.dirichlet(np.ones(num_states), num_states)
    return transition, rng.normal(size=(num_states, num_states))


@functools.partial(jax.jit, static_argnames="num_sweeps")
def iterate(operator, probs, reward, table, num_sweeps):
    """The mean values of `table[S, 1, *head.shape]` after that many synchronous sweeps, and the
    slopes of the functional there."""
    discount = jnp.full(reward.shape[0], DISCOUNT)

    def sweep(_, table):
        row = lambda p, r: operator.backup_params(Lookahead(r, discount, p, table))  # noqa: E731
        return jax.vmap(row)(probs, reward)[:, None]

    values = jax.vmap(operator.head.mean)(jax.lax.fori_loop(0, num_sweeps, sweep, table)[:, 0])
    worst = jax.vmap(lambda p, x: worst_case(operator.successor_functional, p, x))
    return values, worst(probs, reward + DISCOUNT * values)


@functools.cache
def scalar_fixed_point(functional, seed):
    transition, reward = (x.astype(np.float32) for x in random_chain(seed))
    operator = BellmanOperator(Scalar(), successor_functional=functional)
    zero = np.zeros((6, 1), np.float32)
    return jax.device_get(iterate(operator, transition, reward, zero, 250))


@pytest.mark.parametrize("functional", [Mean(), CVaR(0.4)], ids=kind)
def test_fixed_point_solves_the_linear_system_of_its_worst_kernel(functional):
    """For a coherent functional and one action: V = (I - discount W)^-1 sum_s' W r."""
    transition, reward = random_chain()
    values, kernel = scalar_fixed_point(functional, 0)
    kernel = kernel.astype(float)
    if isinstance(functional, Mean):
        np.testing.assert_allclose(kernel, transition, atol=1e-6)
    else:
        np.testing.assert_allclose(kernel.sum(axis=1), 1.0, atol=1e-5)
        assert np.all(kernel <= transition / 0.4 + 1e-5)
    exact = np.linalg.solve(np.eye(6) - DISCOUNT * kernel, np.sum(kernel * reward, axis=1))
    np.testing.assert_allclose(values, exact, atol=2e-5)


def test_robust_fixed_point_is_the_worst_of_many_kernels():
    """No kernel of the set does worse than the fixed point: tried on 200 random members."""
    transition, reward = random_chain(0)
    values, _ = scalar_fixed_point(CVaR(0.4), 0)
    rng = np.random.default_rng(0)
    num_tried = 0
    while num_tried < 200:
        tilt = transition * rng.uniform(0, 1 / 0.4, transition.shape)
        kernel = tilt / tilt.sum(1, keepdims=True)
        # Between the nominal one and the tilted one, as far as the set goes.
        room = (transition / 0.4 - transition) / np.maximum(kernel - transition, 1e-12)
        share = np.minimum(1.0, np.min(np.where(kernel > transition, room, 1.0), axis=1))
        kernel = transition + share[:, None] * (kernel - transition)
        member = np.linalg.solve(np.eye(6) - DISCOUNT * kernel, np.sum(kernel * reward, axis=1))
        assert np.all(member >= values - 1e-4)
        num_tried += 1


def test_categorical_fixed_point_has_the_exact_means():
    """Inside the grid the projection keeps means, so C51's fixed point has the scalar's means."""
    transition, reward = random_chain(2)
    bound = float(np.abs(reward).max() / (1 - DISCOUNT))
    head = Categorical(-bound, bound, num_atoms=31)
    given = (x.astype(np.float32) for x in (transition, reward, np.zeros((6, 1, 31))))
    found, _ = iterate(BellmanOperator(head), *given, 200)
    exact = np.linalg.solve(np.eye(6) - DISCOUNT * transition, np.sum(transition * reward, axis=1))
    np.testing.assert_allclose(found, exact, atol=5e-4)


# ---- composition -----------------------------------------------------------------------------


def test_a_minimum_needs_the_law_and_then_is_the_enumerated_one():
    """Reward 1, then 0 or 4 by a coin: E[min] = (0 + 1) / 2, where min(1, 2) would be 1."""
    operator, after = BellmanOperator(Quantile(2), composition=MinForm()), [[0.0, 4.0]]
    assert float(mean_after_transition(operator, 1.0, 1.0, np.float32(after))) == 0.5
    with pytest.raises(ValueError, match=r"MinForm\(\).*stores a mean only.*Quantile"):
        jax.eval_shape(after_transition, operator.replace(head=Scalar()), 1.0, 1.0, np.ones(1))


@pytest.mark.parametrize("head", [Scalar(), TwoHot(-1.0, 1.0, 5), HLGauss(-1.0, 1.0, 5)])
def test_a_functional_of_returns_needs_a_head_that_stores_their_law(head):
    operator = BellmanOperator(head, return_functional=CVaR(0.5))
    with pytest.raises(ValueError, match=r"return_functional=CVaR.*stores a mean only.*Quantile"):
        operator.require_successors(4, exact=True)
    operator.replace(head=Quantile(3)).require_successors(1)


def test_what_contracts():
    assert BellmanOperator().contracts
    assert BellmanOperator(successor_functional=CVaR(0.3)).contracts
    assert not BellmanOperator(successor_functional=MeanStd(0.3)).contracts
    assert not BellmanOperator(improvement=Boltzmann(0.3)).contracts
    assert not BellmanOperator(Quantile(3), return_functional=CVaR(0.3)).contracts


def test_settings_of_pairs_and_states_are_for_planners():
    one, each = np.ones(1, np.float32), np.full((3, 2), 0.5, np.float32)
    step = Lookahead(one, 0.5 * one, one, np.float32([[2.0, 6.0]]))
    with pytest.raises(ValueError, match="each state and action"):
        jax.eval_shape(BellmanOperator(successor_functional=PerPair(Mean())).backup, step)
    with pytest.raises(ValueError, match="each state"):
        jax.eval_shape(BellmanOperator(improvement=PerState(FixedPolicy(each))).backup, step)


# ---- the table -------------------------------------------------------------------------------


def test_names_build_things_whose_settings_are_described():
    for family in bellman.names().values():
        for name, build in family.items():
            assert (build.__doc__ or "").strip() and name == name.lower()
            required = [f for f in dataclasses.fields(build) if f.default is f.default_factory]
            if not required:  # both missing
                part = build()
                check_settings(part)
                assert all(info.help for info in list_settings(part))


def test_operator_settings_are_found_through_its_slots():
    operator = BellmanOperator(Quantile(7), EpsilonGreedy(0.1), CVaR(0.2))
    found = {info.name: info.value for info in list_settings(operator)}
    assert found["head.num_atoms"] == 7
    assert found["improvement.epsilon"] == 0.1
    assert found["successor_functional.level"] == 0.2


def test_law_passes_through_jit_and_vmap():
    means = jax.jit(jax.vmap(lambda x: Law.of_samples(x).mean()))
    np.testing.assert_allclose(means(np.arange(6, dtype=np.float32).reshape(2, 3)), [1.0, 4.0])
