"""Parts that agents share: shuffles, exploration, lagged copies, priorities, the optimiser."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import probes
import pytest
import scipy.stats

from jaxrl.agents.exploration import epsilon_greedy
from jaxrl.agents.learned_optimiser import learned_optimiser
from jaxrl.agents.minibatches import shuffled
from jaxrl.agents.optimiser import GradientDescent, Optimiser, RMSProp, clipped_by_norm
from jaxrl.agents.presets import PRESETS
from jaxrl.agents.targets import TargetUpdate
from jaxrl.core.schedules import Linear
from jaxrl.core.types import Progress
from jaxrl.networks import NetworkSettings
from jaxrl.replay import PrioritisedReplay
from jaxrl.training.loop import start_training, train_iteration

KEY = jax.random.key(0)


@pytest.fixture(autouse=True, scope="module")
def quick_compilation():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


# --- shuffles ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 511, 512, 513, 600, 1000, 1024, 1025, 4096, 6144])
def test_every_index_comes_once(size):
    order = shuffled(KEY, size)
    assert order.dtype == jnp.int32
    np.testing.assert_array_equal(np.sort(order), np.arange(size))


@pytest.fixture(scope="module")
def orders():
    """Many orders of a size above the threshold and no power of two."""
    keys = jax.random.split(jax.random.key(7), 4000)
    return np.asarray(jax.jit(jax.vmap(lambda key: shuffled(key, 600)))(keys))


@pytest.mark.parametrize("element", [0, 1, 299, 511, 512, 599])
def test_every_place_is_equally_likely(orders, element):
    counts = np.bincount(orders[:, element] // 20, minlength=30)
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize("pair", [(0, 1), (0, 2), (5, 300), (255, 256), (598, 599)])
def test_pairs_of_places_are_independent(orders, pair):
    first, second = (orders[:, element] // 100 for element in pair)
    table = np.bincount(6 * first + second, minlength=36)
    # Two elements never share a place: a cell off the diagonal has 100 x 100 pairs, one on it
    # 100 x 99.
    weights = np.where(np.eye(6), 100 * 99.0, 100 * 100.0).ravel()
    assert scipy.stats.chisquare(table, table.sum() * weights / weights.sum()).pvalue > 1e-3


def test_neighbours_do_not_stay_together(orders):
    """The mean distance of two uniform places of 600 is (600 + 1) / 3."""
    distance = np.abs(np.diff(orders, axis=1)).mean(axis=1)
    error = distance.std() / len(distance) ** 0.5
    assert abs(distance.mean() - 601 / 3) < 5 * error


def test_small_orders_are_uniform_over_all_permutations():
    keys = jax.random.split(jax.random.key(3), 6000)
    drawn = np.asarray(jax.vmap(lambda key: shuffled(key, 3))(keys))
    _, counts = np.unique(drawn @ np.array([9, 3, 1]), return_counts=True)
    assert len(counts) == 6 and scipy.stats.chisquare(counts).pvalue > 1e-3


# --- exploration ---------------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [0.0, 0.3, 1.0])
def test_epsilon_greedy_frequencies(epsilon):
    """The best action has 1 - epsilon + epsilon / A, every other epsilon / A."""
    scores = jnp.broadcast_to(jnp.array([0.0, 5.0, 5.0, -jnp.inf]), (20_000, 4))
    counts = np.bincount(epsilon_greedy(KEY, scores, epsilon), minlength=4)
    expected = 20_000 * (epsilon / 4 + (1 - epsilon) * np.array([0.0, 1.0, 0.0, 0.0]))
    possible = expected > 0
    assert counts[~possible].sum() == 0
    if possible.sum() > 1:
        assert scipy.stats.chisquare(counts[possible], expected[possible]).pvalue > 1e-3


def test_rows_explore_on_their_own():
    scores = jnp.zeros((5000, 2)).at[:, 1].set(1.0)
    explored = np.asarray(epsilon_greedy(KEY, scores, 0.5) == 0)
    both = (explored[:-1] & explored[1:]).mean()
    assert abs(both - 0.25**2) < 5 * (0.0625 / 5000) ** 0.5


# --- lagged copies -------------------------------------------------------------------------------

OLD, NEW = {"a": jnp.array([0.0, 1.0])}, {"a": jnp.array([10.0, 0.3])}


@pytest.mark.parametrize(
    "num_updates, moves", [(1, False), (2, False), (3, True), (4, False), (6, True)]
)
def test_a_period_of_three_copies_at_every_third_update(num_updates, moves):
    moved = TargetUpdate(period=3, step_size=1.0).move(OLD, NEW, jnp.int32(num_updates))
    assert moved["a"].tolist() == (NEW if moves else OLD)["a"].tolist()


def test_polyak_moves_a_share_of_the_way_every_time():
    update = TargetUpdate(period=1, step_size=0.25)
    copy = OLD
    for step in range(1, 5):
        copy = update.move(copy, NEW, jnp.int32(step))
        # What is left of the way shrinks by 3/4 at every step.
        left = 0.75**step
        np.testing.assert_allclose(copy["a"], [10 * (1 - left), 0.3 + 0.7 * left], rtol=1e-5)


def test_a_full_copy_is_exact_even_from_what_is_not_finite():
    broken = {"a": jnp.array([jnp.nan, 1e38])}
    copied = TargetUpdate(period=1, step_size=1.0).move(broken, NEW, jnp.int32(1))
    assert copied["a"].tolist() == NEW["a"].tolist()


# --- the optimiser -------------------------------------------------------------------------------


def test_the_first_step_of_adam_is_the_learning_rate_and_follows_its_schedule():
    """Adam's first update is g / (|g| + eps) for each parameter: its sign, whatever the scale."""
    params, grads = jnp.array([1.0, 2.0]), jnp.array([3.0, -1e-2])
    optimiser = Optimiser(learning_rate=Linear(0.1, 0.0), max_grad_norm=1e9, epsilon=1e-12)
    for step, rate in [(0, 0.1), (50, 0.05), (100, 0.0)]:
        progress = Progress.start(100.0).advance(step)
        moved, _ = optimiser.step(grads, optimiser.init(params), params, progress)
        np.testing.assert_allclose(moved - params, [-rate, rate], atol=1e-6)


def test_gradients_are_clipped_by_the_norm_of_them_all():
    """A norm of 5 clipped to 1 scales both trees by 1/5; a large epsilon makes Adam linear."""
    params, grads = {"a": jnp.zeros(()), "b": jnp.zeros(())}, {"a": 3.0, "b": 4.0}
    optimiser = Optimiser(learning_rate=1e6, max_grad_norm=1.0, epsilon=1e6)
    grads = jax.tree.map(jnp.asarray, grads)
    moved, _ = optimiser.step(grads, optimiser.init(params), params, Progress.start())
    np.testing.assert_allclose([moved["a"], moved["b"]], [-0.6, -0.8], rtol=1e-4)


def test_clipping_has_derivatives_at_zero_gradients_and_leaves_small_ones_alone():
    grads = {"a": jnp.zeros(2), "b": jnp.zeros(())}
    for norm, expected in [(1.0, 1.0), (10.0, 1.0)]:
        slope = jax.grad(lambda g, norm=norm: clipped_by_norm(g, norm)["a"].sum())(grads)
        np.testing.assert_array_equal(slope["a"], expected)  # below the norm: the identity's
    small = {"a": jnp.array([0.3, 0.4])}
    np.testing.assert_array_equal(clipped_by_norm(small, 0.6)["a"], small["a"])
    np.testing.assert_allclose(clipped_by_norm(small, 0.05)["a"], [0.03, 0.04], rtol=1e-6)


def test_momentum_rolls_on_and_the_root_mean_square_forgets():
    """Gradients 1, 0, 0: momentum 1/2 moves by 1, 1/2, 1/4; RMSProp moves only at the first."""
    grads = jnp.array([1.0, 0.0, 0.0])
    falls = {}
    for name, optimiser in {
        "momentum": GradientDescent(learning_rate=1.0, momentum=0.5, max_grad_norm=None),
        "rms": RMSProp(learning_rate=1.0, decay=0.75, max_grad_norm=None, epsilon=1e-9),
    }.items():
        params, moves = jnp.zeros(()), []
        state = optimiser.init(params)
        for grad in grads:
            moved, state = optimiser.step(grad, state, params, Progress.start())
            moves.append(float(params - moved))
            params = moved
        falls[name] = moves
    np.testing.assert_allclose(falls["momentum"], [1.0, 0.5, 0.25], rtol=1e-6)
    np.testing.assert_allclose(falls["rms"], [2.0, 0.0, 0.0], rtol=1e-5)  # 1 / sqrt(1 / 4)


# --- the learned optimiser -----------------------------------------------------------------------

PARAMS = {
    "actor": {"dense": {"bias": jnp.zeros(3), "kernel": jnp.ones((2, 3))}},
    "critic": {"dense": {"bias": jnp.zeros(1), "kernel": jnp.full((3, 1), -0.5)}},
}
LEARNED = learned_optimiser(KEY, num_memory=4, num_hidden=8, num_steps=4)


@jax.jit
def two_steps(optimiser, grads, params):
    state = optimiser.init(params)
    for step in range(2):
        progress = Progress.start(100.0).advance(10 * step)
        params, state = optimiser.step(grads, state, params, progress)
    return params


def test_a_learned_optimiser_is_finite_for_every_gradient_and_so_are_its_outer_gradients():
    """Zero, tiny, huge and mixed; also a unit that is dead, of which all gradients are zero."""
    mixed = jnp.array([0.0, 1e-30, -1e30])
    kinds = {
        "zero": jax.tree.map(jnp.zeros_like, PARAMS),
        "tiny": jax.tree.map(lambda leaf: jnp.full_like(leaf, 1e-30), PARAMS),
        "huge": jax.tree.map(lambda leaf: jnp.full_like(leaf, -3e38), PARAMS),
        "mixed": jax.tree.map(lambda leaf: jnp.resize(mixed, leaf.shape), PARAMS),
    }
    outer = jax.jit(
        jax.value_and_grad(
            lambda optimiser, grads: sum(
                jnp.sum(leaf * jnp.cos(1.0 + jnp.arange(leaf.size)).reshape(leaf.shape))
                for leaf in jax.tree.leaves(two_steps(optimiser, grads, PARAMS))
            )
        )
    )
    for grads in kinds.values():
        for leaf in jax.tree.leaves(outer(LEARNED, grads)):
            assert bool(jnp.all(jnp.isfinite(leaf)))


def test_a_learned_step_is_centred_and_noise_is_the_actor_s_alone():
    """With only the noise's output left: the critic moves by the mean alone, the actor randomly."""
    grads = jax.tree.map(jnp.ones_like, PARAMS)
    weights = dict(LEARNED.weights)
    weights["outputs"] = jnp.zeros_like(weights["outputs"])
    weights["outputs_bias"] = jnp.array([0.0, 0.0, 1.0])
    noisy = LEARNED.replace(weights=weights, step_size=1.0)
    moved = jax.tree.map(jnp.subtract, two_steps(noisy, grads, PARAMS), PARAMS)
    actor, critic = (np.concatenate([x.ravel() for x in jax.tree.leaves(moved[k])]) for k in moved)
    assert np.ptp(critic) < 1e-6 and len(np.unique(actor)) == len(actor)
    np.testing.assert_allclose(actor.sum() + critic.sum(), 0.0, atol=1e-5)
    # Two steps of variance 1 each; the sum of 9 squares lies within its 1e-6 quantiles.
    spread = np.sum((actor - critic[0]) ** 2) / 2
    assert scipy.stats.chi2(9).ppf(1e-6) < spread < scipy.stats.chi2(9).ppf(1 - 1e-6)


def test_lives_that_start_elsewhere_draw_other_noise_and_each_repeats_its_own():
    other = jax.tree.map(lambda leaf: leaf + 1e-6, PARAMS)
    keys = [np.asarray(jax.random.key_data(LEARNED.init(p).key)) for p in (PARAMS, other, PARAMS)]
    assert not np.array_equal(keys[0], keys[1]) and np.array_equal(keys[0], keys[2])


def test_a_learned_step_tells_a_dead_unit_from_a_live_one():
    """Everything else equal, the activity alone makes two units' parameters move differently."""
    weights = {name: jnp.zeros_like(leaf) for name, leaf in LEARNED.weights.items()}
    weights["inputs"] = LEARNED.weights["inputs"].at[:-1].set(0.0)  # the activity comes last
    names = ("memory", "hidden_0", "hidden_1", "scale_0", "scale_1", "outputs")
    weights |= {name: LEARNED.weights[name] for name in names}
    weights["outputs"] = weights["outputs"].at[:, 2].set(0.0)  # no noise
    grads = jax.tree.map(jnp.ones_like, PARAMS)
    grads["actor"]["dense"]["kernel"] = jnp.array([[0.0, 1.0, 1.0], [0.0, 1.0, 1.0]])
    moved = two_steps(LEARNED.replace(weights=weights, step_size=1.0), grads, PARAMS)
    kernel = np.asarray(moved["actor"]["dense"]["kernel"])
    np.testing.assert_array_equal(kernel[0], kernel[1])
    assert kernel[0, 1] == kernel[0, 2] != kernel[0, 0]


# --- priorities ----------------------------------------------------------------------------------


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
    # A categorical loss starts near log 51, so that what was drawn outweighs the first priority.
    assert float(state.agent.replay.max_priority) > 1.0
    assert np.isclose(learned.max(), float(state.agent.replay.max_priority), rtol=1e-5)
