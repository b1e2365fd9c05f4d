"""Parts that agents share: shuffles, exploration, lagged copies, priorities, the optimiser."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
import scipy.special
import scipy.stats
from tables import FROM_REPLAY, ON_POLICY, Line, filled, rows, started

from jaxrl.agents import (
    PRESETS,
    GradientDescent,
    Optimiser,
    RMSProp,
    TargetUpdate,
    learned_optimiser,
)
from jaxrl.agents.minibatches import shuffled
from jaxrl.core import Discrete, ImprovementFacts, Linear, Progress, notation, struct
from jaxrl.envs import make
from jaxrl.envs.wrappers import TimeLimit
from jaxrl.networks import NetworkSettings
from jaxrl.operators import EpsilonGreedy, Softmax
from jaxrl.replay import PrioritisedReplay
from jaxrl.training import start_training, train_iteration

KEY = jax.random.key(0)


# --- shuffles ------------------------------------------------------------------------------------

SIZES = [1, 2, 3, 511, 512, 513, 600, 1024, 6144]


@functools.cache
def one_order_of_each():
    # Keys are arguments of the programs of tests: of a constant one XLA folds all that follows.
    return jax.device_get(jax.jit(lambda key: {n: shuffled(key, n) for n in SIZES})(KEY))


@pytest.mark.parametrize("size", SIZES)
def test_every_index_comes_once(size):
    order = one_order_of_each()[size]
    assert order.dtype == np.int32
    np.testing.assert_array_equal(np.sort(order), np.arange(size))


@functools.cache
def many_orders():
    """Of a size above the threshold and no power of two, and of three."""

    def orders(key):
        keys, few = jax.random.split(key, 2500), jax.random.split(key, 6000)
        return (
            jax.vmap(lambda key: shuffled(key, 600))(keys),
            jax.vmap(lambda key: shuffled(key, 3))(few),
        )

    return jax.device_get(jax.jit(orders)(jax.random.key(7)))


@pytest.mark.parametrize("element", [0, 1, 299, 511, 512, 599])
def test_every_place_is_equally_likely(element):
    counts = np.bincount(many_orders()[0][:, element] // 20, minlength=30)
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("pair", [(0, 1), (0, 2), (5, 300), (255, 256), (598, 599)])
def test_pairs_of_places_are_independent(pair):
    first, second = (many_orders()[0][:, element] // 100 for element in pair)
    table = np.bincount(6 * first + second, minlength=36)
    # Two elements never share a place: a cell off the diagonal has 100 x 100 pairs, one on it
    # 100 x 99.
    weights = np.where(np.eye(6), 100 * 99.0, 100 * 100.0).ravel()
    assert scipy.stats.chisquare(table, table.sum() * weights / weights.sum()).pvalue > 1e-3


def test_neighbours_do_not_stay_together():
    """The mean distance of two uniform places of 600 is (600 + 1) / 3."""
    distance = np.abs(np.diff(many_orders()[0], axis=1)).mean(axis=1)
    error = distance.std() / len(distance) ** 0.5
    assert abs(distance.mean() - 601 / 3) < 5 * error


def test_small_orders_are_uniform_over_all_permutations():
    _, counts = np.unique(many_orders()[1] @ np.array([9, 3, 1]), return_counts=True)
    assert len(counts) == 6 and scipy.stats.chisquare(counts).pvalue > 1e-3


# --- exploration ---------------------------------------------------------------------------------

SCORES = np.array([0.0, 5.0, 5.0, -1e9], np.float32)
EPSILONS = [0.0, 0.3, 1.0]


@struct.dataclass
class Wide(Line):
    """Four actions."""

    @property
    def action_space(self):
        return Discrete(4)


@functools.cache
def explored():
    """Actions `[epsilon, row]`, the law they are said to have, its entropy, and its divergence from
    that of other scores and from itself."""
    agent = PRESETS["pqn"]().replace(**ON_POLICY)
    state = started(agent, Wide())
    scores = [SCORES, np.roll(SCORES, 1), SCORES]
    state = state.replace(params=filled(state.params, advantage=scores))

    def draw(key, epsilon):
        curious, here = agent.replace(exploration=epsilon), jnp.zeros(20_000, jnp.int32)
        law, other = (agent.policy(state.replace(exploration=epsilon), at) for at in (0, 1))
        told = law.log_probs(), law.entropy(), law.kl(other), law.kl(law)
        return curious.act(key, state, here)[0], *told

    epsilons = np.array([*EPSILONS, 0.5], np.float32)
    return jax.device_get(jax.jit(jax.vmap(draw, in_axes=(None, 0)))(KEY, epsilons))


@pytest.mark.parametrize("epsilon", EPSILONS)
def test_epsilon_greedy_frequencies(epsilon):
    """The best action has 1 - epsilon + epsilon / A, every other epsilon / A."""
    actions, log_probs, entropy = (found[EPSILONS.index(epsilon)] for found in explored()[:3])
    law = epsilon / 4 + (1 - epsilon) * np.array([0.0, 1.0, 0.0, 0.0])
    np.testing.assert_allclose(np.exp(log_probs), law, atol=2e-6)
    np.testing.assert_allclose(entropy, scipy.stats.entropy(law), rtol=1e-5, atol=1e-4)
    counts, expected = np.bincount(actions, minlength=4), 20_000 * law
    possible = expected > 0
    assert counts[~possible].sum() == 0
    if possible.sum() > 1:
        assert scipy.stats.chisquare(counts[possible], expected[possible]).pvalue > 1e-3


def test_laws_without_exploration_are_a_finite_divergence_apart():
    apart, none = (found[0] for found in explored()[3:])
    assert 1.0 < apart < np.inf and none == 0.0


def test_rows_explore_on_their_own():
    """Of neighbours both are random with 1/4, and then 3/4 of each are not the best."""
    other = explored()[0][-1] != 1
    both = (other[:-1:2] & other[1::2]).mean()
    chance = (0.5 * 0.75) ** 2
    assert abs(both - chance) < 4 * (chance * (1 - chance) / 10_000) ** 0.5


@struct.dataclass
class Second:
    """A user's own: the second best of the legal actions, always."""

    facts = ImprovementFacts()

    def __call__(self, q_values, mask=None):
        order = jnp.argsort(q_values if mask is None else jnp.where(mask, q_values, -jnp.inf))
        return jax.nn.one_hot(order[-2], q_values.size), jnp.zeros_like(q_values)


@pytest.mark.parametrize("name", ["pqn", "dqn"])
def test_any_improvement_explores(name):
    """Draws are of its law at the agent's own values, at present numbers, and of legal actions."""
    settings = ON_POLICY if name == "pqn" else FROM_REPLAY
    start = Softmax(temperature=Linear(2.0, 1.0))
    agent = PRESETS[name]().replace(**settings, exploration=start)
    state = started(agent, Wide())
    q_values, here = np.array([0.0, 1.0, 2.0, -1.0], np.float32), jnp.zeros(20_000, jnp.int32)
    state = state.replace(
        params=filled(state.params, advantage=[q_values] * 3),
        progress=Progress.start(100.0).advance(50),
    )
    if name == "pqn":
        state = state.replace(exploration=agent.exploring(state))
    mask = jnp.array([True, False, True, True])

    def draws(agent, mask):
        return agent.act(KEY, state, here, True, (), jnp.broadcast_to(mask, (here.size, 4)))[0]

    for legal in (mask, jnp.ones(4, bool)):
        actions = np.asarray(jax.jit(draws)(agent, legal))
        scores = np.where(legal, agent.q_values(state, here[0]), -np.inf)
        law = scipy.special.softmax(scores.astype(float) / 1.5)
        expected = 20_000 * law
        counts, possible = np.bincount(actions, minlength=4), expected > 0
        assert counts[~possible].sum() == 0
        assert scipy.stats.chisquare(counts[possible], expected[possible]).pvalue > 1e-3
    if name == "pqn":
        seen = agent.policy(state, here[0]).log_probs()
        np.testing.assert_allclose(np.exp(seen), law, atol=2e-6)
    mine = agent.replace(exploration=Second())
    if name == "pqn":
        state = state.replace(exploration=Second())
    assert np.asarray(jax.jit(draws)(mine, mask)).tolist() == [0] * here.size
    warmer = agent.replace(**{"exploration.temperature": 0.5})  # its numbers are settings
    assert warmer.exploration == Softmax(temperature=0.5)
    kinds = [notation.parse_setting(PRESETS[name](), "exploration", text)[1] for text in TEXTS]
    assert kinds == [Softmax(0.5), EpsilonGreedy(0.2), 0.3, Linear(1.0, 0.1)]


TEXTS = ["softmax:0.5", "epsilon-greedy:epsilon=0.2", "0.3", "linear:1.0:0.1"]


# --- lagged copies -------------------------------------------------------------------------------

OLD = {"a": np.array([0.0, 1.0], np.float32)}
NEW = {"a": np.array([10.0, 0.3], np.float32)}


@jax.jit
def moved_copy(update, old, new, num_updates):
    return update.move(old, new, num_updates)["a"]


@pytest.mark.parametrize(
    "num_updates, moves", [(1, False), (2, False), (3, True), (4, False), (6, True)]
)
def test_a_period_of_three_copies_at_every_third_update(num_updates, moves):
    update = TargetUpdate(period=3, step_size=1.0)
    moved = moved_copy(update, OLD, NEW, np.int32(num_updates))
    assert moved.tolist() == (NEW if moves else OLD)["a"].tolist()


def test_polyak_moves_a_share_of_the_way_every_time():
    update = TargetUpdate(period=1, step_size=0.25)
    copy = OLD
    for step in range(1, 5):
        copy = {"a": np.asarray(moved_copy(update, copy, NEW, np.int32(step)))}
        # What is left of the way shrinks by 3/4 at every step.
        left = 0.75**step
        np.testing.assert_allclose(copy["a"], [10 * (1 - left), 0.3 + 0.7 * left], rtol=1e-5)


def test_a_full_copy_is_exact_even_from_what_is_not_finite():
    broken = {"a": np.array([np.nan, 1e38], np.float32)}
    copied = moved_copy(TargetUpdate(period=1, step_size=1.0), broken, NEW, np.int32(1))
    assert copied.tolist() == NEW["a"].tolist()


# --- the optimiser -------------------------------------------------------------------------------


@jax.jit
def first_step(optimiser, grads, params, progress):
    return optimiser.step(grads, optimiser.init(params), params, progress)[0]


def life(step, total=100.0):
    """What schedules see after `step` of `total` steps."""
    return Progress(np.int32(step), np.float32(total))


def test_the_first_step_of_adam_is_the_learning_rate_and_follows_its_schedule():
    """Adam's first update is g / (|g| + eps) for each parameter: its sign, whatever the scale."""
    params, grads = np.array([1.0, 2.0], np.float32), np.array([3.0, -1e-2], np.float32)
    optimiser = Optimiser(learning_rate=Linear(0.1, 0.0), max_grad_norm=1e9, epsilon=1e-12)
    for step, rate in [(0, 0.1), (50, 0.05), (100, 0.0)]:
        moved = first_step(optimiser, grads, params, life(step))
        np.testing.assert_allclose(moved - params, [-rate, rate], atol=1e-6)


def test_gradients_are_clipped_by_the_norm_of_them_all():
    """A norm of 5 clipped to 1 scales both trees by 1/5; a large epsilon makes Adam linear."""
    params, grads = ({"a": np.float32(x), "b": np.float32(y)} for x, y in ((0, 0), (3, 4)))
    optimiser = Optimiser(learning_rate=1e6, max_grad_norm=1.0, epsilon=1e6)
    moved = first_step(optimiser, grads, params, life(0))
    np.testing.assert_allclose([moved["a"], moved["b"]], [-0.6, -0.8], rtol=1e-4)


def test_clipping_has_derivatives_at_zero_gradients_and_leaves_small_ones_alone():
    grads = {"a": np.zeros(2, np.float32), "b": np.float32(0)}
    small = {"a": np.array([0.3, 0.4], np.float32), "b": np.float32(0)}

    @jax.jit
    def read(grads, norm):
        descent = GradientDescent(learning_rate=1.0, max_grad_norm=norm)

        def clipped(grads):
            start = descent.init(grads)
            return -descent.step(grads, start, start, Progress.start())[0]["a"]

        return jax.grad(lambda grads: clipped(grads).sum())(grads)["a"], clipped(grads)

    for norm in (1.0, 10.0):
        np.testing.assert_array_equal(read(grads, norm)[0], 1.0)  # the identity's
    np.testing.assert_array_equal(read(small, 0.6)[1], small["a"])
    np.testing.assert_allclose(read(small, 0.05)[1], [0.03, 0.04], rtol=1e-6)


def test_momentum_rolls_on_and_the_root_mean_square_forgets():
    """Gradients 1, 0, 0: momentum 1/2 moves by 1, 1/2, 1/4; RMSProp moves only at the first."""
    falls = {}
    for name, optimiser in {
        "momentum": GradientDescent(learning_rate=1.0, momentum=0.5, max_grad_norm=None),
        "rms": RMSProp(learning_rate=1.0, decay=0.75, max_grad_norm=None, epsilon=1e-9),
    }.items():

        @jax.jit
        def walk(grads, optimiser=optimiser):
            def step(carry, grad):
                moved, state = optimiser.step(grad, carry[1], carry[0], Progress.start())
                return (moved, state), carry[0] - moved

            start = jnp.zeros(())
            return jax.lax.scan(step, (start, optimiser.init(start)), grads)[1]

        falls[name] = walk(np.array([1.0, 0.0, 0.0], np.float32))
    np.testing.assert_allclose(falls["momentum"], [1.0, 0.5, 0.25], rtol=1e-6)
    np.testing.assert_allclose(falls["rms"], [2.0, 0.0, 0.0], rtol=1e-5)  # 1 / sqrt(1 / 4)


# --- the learned optimiser -----------------------------------------------------------------------

PARAMS = {
    "actor": {"dense": {"bias": np.zeros(3, np.float32), "kernel": np.ones((2, 3), np.float32)}},
    "critic": {
        "dense": {"bias": np.zeros(1, np.float32), "kernel": np.full((3, 1), -0.5, np.float32)}
    },
}
ONES = jax.tree.map(np.ones_like, PARAMS)


@functools.cache
def learned():
    make = jax.jit(lambda: learned_optimiser(KEY, num_memory=4, num_hidden=8, num_steps=4).weights)
    return learned_optimiser(KEY, num_memory=4, num_hidden=8, num_steps=4).replace(
        weights=jax.device_get(make())
    )


@jax.jit
def after(optimiser, grads, params, num_steps):
    """The parameters after so many steps."""

    def step(index, carry):
        return optimiser.step(grads, carry[1], carry[0], Progress.start(100.0).advance(10 * index))

    return jax.lax.fori_loop(0, num_steps, step, (params, optimiser.init(params)))[0]


@pytest.mark.slow
def test_a_learned_optimiser_is_finite_for_every_gradient_and_so_are_its_outer_gradients():
    """Zero, tiny, huge and mixed; also a unit that is dead, of which all gradients are zero."""
    mixed = np.array([0.0, 1e-30, -1e30], np.float32)
    kinds = {
        "zero": jax.tree.map(np.zeros_like, PARAMS),
        "tiny": jax.tree.map(lambda leaf: np.full_like(leaf, 1e-30), PARAMS),
        "huge": jax.tree.map(lambda leaf: np.full_like(leaf, -3e38), PARAMS),
        "mixed": jax.tree.map(lambda leaf: np.resize(mixed, leaf.shape), PARAMS),
    }

    def total(optimiser, grads):
        params, state = PARAMS, optimiser.init(PARAMS)
        for index in range(2):
            progress = Progress.start(100.0).advance(10 * index)
            params, state = optimiser.step(grads, state, params, progress)
        return sum(
            jnp.sum(leaf * np.cos(1.0 + np.arange(leaf.size)).reshape(leaf.shape))
            for leaf in jax.tree.leaves(params)
        )

    outer = jax.jit(jax.value_and_grad(total))
    for grads in kinds.values():
        for leaf in jax.tree.leaves(outer(learned(), grads)):
            assert np.all(np.isfinite(leaf))


def test_a_learned_step_is_centred_and_noise_is_the_actor_s_alone():
    """With only the noise's output left: the critic moves by the mean alone, the actor randomly."""
    weights = dict(learned().weights)
    weights["outputs"] = np.zeros_like(weights["outputs"])
    weights["outputs_bias"] = np.array([0.0, 0.0, 1.0], np.float32)
    noisy = learned().replace(weights=weights, step_size=1.0)
    moved = jax.tree.map(lambda a, b: np.asarray(a) - b, after(noisy, ONES, PARAMS, 2), PARAMS)
    actor, critic = (np.concatenate([x.ravel() for x in jax.tree.leaves(moved[k])]) for k in moved)
    assert np.ptp(critic) < 1e-6 and len(np.unique(actor)) == len(actor)
    np.testing.assert_allclose(actor.sum() + critic.sum(), 0.0, atol=1e-5)
    # Two steps of variance 1 each; the sum of 9 squares lies within its 1e-6 quantiles.
    spread = np.sum((actor - critic[0]) ** 2) / 2
    assert scipy.stats.chi2(9).ppf(1e-6) < spread < scipy.stats.chi2(9).ppf(1 - 1e-6)


def test_lives_that_start_elsewhere_draw_other_noise_and_each_repeats_its_own():
    other = jax.tree.map(lambda leaf: leaf + np.float32(1e-6), PARAMS)
    key = jax.jit(lambda params: jax.random.key_data(learned().init(params).key))
    keys = [np.asarray(key(p)) for p in (PARAMS, other, PARAMS)]
    assert not np.array_equal(keys[0], keys[1]) and np.array_equal(keys[0], keys[2])


def test_a_learned_step_tells_a_dead_unit_from_a_live_one():
    """Weights made by hand say +1 where the activity, the last input, is above 1.25, else -1.

    One unit of three is dead, so that the others have an activity of 3/2: 4 of the 13 parameters.
    All others have 1. An update is exp(scale_size) times what is said, and all are centred.
    """
    weights = {name: np.zeros_like(leaf) for name, leaf in learned().weights.items()}
    weights |= {name: np.ones_like(weights[name]) for name in ("scale_0", "scale_1")}
    weights["inputs"][-1, 2 * 4] = 1.0  # the first memory is tanh(activity) / 2 after one step
    weights["hidden_0"][0, :2] = 1.0, -1.0
    border = 0.5 * np.tanh(1.25)
    weights["hidden_bias_0"][:2] = -border, border
    weights["hidden_1"][:2, :2] = [[1.0, -1.0], [-1.0, 1.0]]
    weights["outputs"][:2, 0] = 0.5, -0.5  # (2, 0) or (0, 2): 2 of 8 numbers differ from their mean
    weights["outputs_bias"][1] = 1.0
    grads = jax.tree.map(np.copy, ONES)
    grads["actor"]["dense"]["kernel"][:, 0] = 0.0
    told = learned().replace(weights=weights, step_size=0.1, scale_size=0.5)
    moved = jax.tree.map(lambda a, b: np.asarray(a) - b, after(told, grads, PARAMS, 1), PARAMS)
    said = jax.tree.map(lambda leaf: -np.ones_like(leaf), PARAMS)
    said["actor"]["dense"]["kernel"][:, 1:] = 1.0
    mean = (4 - 9) / 13
    expected = jax.tree.map(lambda leaf: -0.1 * np.exp(0.5) * (leaf - mean), said)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), moved, expected)


# --- replay --------------------------------------------------------------------------------------


def test_learning_may_begin_with_the_last_step_of_the_warm_up():
    """A rollout of 2 steps in 2 environments: 4 steps are enough for a warm-up of 4, not of 5."""
    agent = PRESETS["dqn"]().replace(**FROM_REPLAY)
    state, rollout = started(agent, Line()), rows((0, 1.0, 1, ""), (1, 1.0, 2, ""))

    @jax.jit
    def learned(state, warmup):
        return agent.replace(warmup=warmup).update(KEY, state, rollout)[0]

    for warmup in (3, 4, 5):
        after = learned(state, warmup)
        assert int(after.progress.step) == 4
        assert int(after.num_updates) == (warmup <= 4)


@pytest.mark.slow
def test_learning_moves_the_priorities_of_what_was_drawn():
    """New windows all enter alike; after gradient steps their weights follow the losses."""
    agent = PRESETS["rainbow"]().replace(
        network=NetworkSettings(hidden_sizes=(8,), initialiser="lecun"),
        replay=PrioritisedReplay(capacity=64, alpha=1.0),
        num_envs=8,
        rollout_length=2,
        batch_size=16,
        num_updates=2,
        warmup=32,
    )
    env = probes.cued()
    run = jax.jit(lambda state: train_iteration(agent, env, state)[0])
    state, totals = start_training(KEY, agent, env, 1000.0), []
    for _ in range(4):
        state = run(state)
        totals.append(np.asarray(state.agent.replay.tree.weights_at(jnp.arange(64))))
    assert set(np.unique(totals[0])) == {0.0, 1.0}  # the first priority, before any learning
    assert state.agent.num_updates > 0
    learned = totals[-1][totals[-1] > 0]
    assert len(np.unique(learned)) > 4
    replay = state.agent.replay
    assert float(replay.max_priority) > 1.0  # a categorical loss starts near log 51
    np.testing.assert_allclose(learned.max() * replay.scale, replay.max_priority, rtol=1e-5)


@pytest.mark.parametrize("name", ["dqn", "sac"])
@pytest.mark.parametrize("num_step", [1, 3])
def test_a_clock_that_cuts_every_step_needs_stored_successors(name, num_step):
    agent = PRESETS[name]()
    kept = agent.replace(replay=agent.replay.replace(num_step=num_step))
    dropped = kept.replace(replay=kept.replay.replace(store_next=False))
    task = make("CartPole" if name == "dqn" else "Pendulum")
    with pytest.raises(ValueError, match="store_next=True"):
        dropped.check(TimeLimit(task, 1))
    for fine, env in (
        (kept, TimeLimit(task, 1)),
        (dropped, TimeLimit(task, 2)),
        (dropped, TimeLimit(task, 1, horizon_is_terminal=True)),
    ):
        fine.check(env)


@pytest.mark.slow
def test_a_metric_tells_which_share_of_a_batch_counted():
    """Half the steps of lives of two are the last, which the clock cuts: without a successor."""
    agent = PRESETS["sac"]().replace(
        network=NetworkSettings(hidden_sizes=(4,)), num_envs=4, rollout_length=64, warmup=0
    )
    replay = agent.replay.replace(capacity=256, store_next=False)
    agent = agent.replace(replay=replay, num_updates=1, batch_size=128)
    task = make("Pendulum", time_limit=2.0)

    @jax.jit
    def share(key):
        state = start_training(key, agent, task, 1e3)
        return train_iteration(agent, task, state)[1].metrics["counted_share"]

    assert abs(float(share(KEY)) - 0.5) <= 0.18  # four standard deviations of 128 draws of a coin
