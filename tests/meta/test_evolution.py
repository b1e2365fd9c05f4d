"""Evolution: gradients of smoothed functions, common random numbers, persistence over windows."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_learner import Toy, Walks as ToyWalks, Watcher, rate_of, states_of

from jaxrl.agents import Optimiser, a2c
from jaxrl.core import Linear
from jaxrl.meta import (
    CentredRanks,
    Evolution,
    Horizon,
    MetaGradient,
    PairSign,
    PersistentEvolution,
    Plain,
    RandomBandits,
    ZScore,
    live,
    tuned,
)
from jaxrl.meta.mirrored import (
    Particles,
    Rows,
    candidate,
    estimate,
    evaluate_pairs,
    persistent_estimate,
    unroll_pairs,
)
from jaxrl.networks import NetworkSettings
from jaxrl.training import Checkpoints

SHAPINGS = [Plain(), ZScore(), PairSign(), CentredRanks()]
KEY = jax.random.key(3)
CENTRE = {"a": np.float32([0.3, -0.5, 1.0]), "b": np.array(0.7, np.float32)}
SIGMA = 0.5


# ---- the gradient of a smoothed function ---------------------------------------------------


def cubic(params, *_):
    flat = jnp.append(params["a"], params["b"])
    return jnp.sum(jnp.array([1.0, 0.5, 0.0, -1.0]) * flat**2 - flat**3)


def noisy_cubic(params, task_key, life_key):
    return cubic(params) + jax.random.normal(life_key) + 10.0 * jax.random.normal(task_key)


@partial(jax.jit, static_argnames=("num_pairs", "chunk", "fitness"))
def gradient(key, shaping, num_pairs=64, chunk=0, fitness=noisy_cubic):
    found, _ = evaluate_pairs(fitness, key, CENTRE, SIGMA, num_pairs, chunk=chunk)
    return estimate(key, CENTRE, shaping.weights(found[:, :, 0]), SIGMA, chunk)


@pytest.mark.slow
def test_the_estimate_is_the_gradient_of_the_smoothed_function():
    """E f(x + s e) = sum a (x^2 + s^2) - x^3 - 3 x s^2, so its gradient is not that of f."""
    found = [gradient(key, Plain()) for key in jax.random.split(KEY, 150)]
    rows = np.array([np.append(one["a"], one["b"]) for one in found])
    flat = np.append(CENTRE["a"], CENTRE["b"])
    plain = 2 * np.array([1.0, 0.5, 0.0, -1.0]) * flat - 3 * flat**2
    error = rows.std(0) / np.sqrt(len(rows))
    assert np.all(np.abs(rows.mean(0) - (plain - 3 * SIGMA**2)) < 4 * error)
    assert np.all(np.abs(rows.mean(0) - plain) > 6 * error)


@pytest.mark.slow
def test_chunks_change_nothing_but_rounding():
    whole = gradient(KEY, Plain())
    part = gradient(KEY, Plain(), chunk=24)  # of 64: the last part is padded
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-5), part, whole)


@pytest.mark.slow
def test_rows_are_a_loop_over_addresses():
    """Both of a pair under the same keys, each life and pair under others."""

    def seen(params, task_key, life_key):
        return params, jax.random.key_data(task_key), jax.random.key_data(life_key)

    def evaluate(common):
        return evaluate_pairs(
            seen, KEY, CENTRE, SIGMA, 3, num_lives=2, num_centre=4, common_tasks=common, chunk=2
        )

    @jax.jit
    def everything():
        rows = Rows.of(3, 2)
        alone = [jax.tree.map(lambda leaf, i=i: leaf[i], rows) for i in (0, 2, 11)]
        expected = [candidate(KEY, row, CENTRE, SIGMA) for row in alone]
        return evaluate(False), evaluate(True), expected

    own_tasks, common, expected = everything()
    (params, own, lives), (centre, centre_tasks, centre_lives) = own_tasks
    _, shared, same_lives = common[0]
    jax.tree.map(lambda c, x: np.testing.assert_array_equal(c, np.stack([x] * 4)), centre, CENTRE)
    for place, one in zip([(0, 0, 0), (0, 1, 0), (2, 1, 1)], expected, strict=True):
        found = jax.tree.map(lambda leaf, at=place: leaf[at], params)
        jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-6), found, one)
    np.testing.assert_allclose(params["a"].mean(1), np.tile(CENTRE["a"], (3, 2, 1)), rtol=1e-5)
    for keys in (own, lives, shared):
        np.testing.assert_array_equal(keys[:, 0], keys[:, 1])
    np.testing.assert_array_equal(lives, same_lives)

    def distinct(*keys):
        return len(np.unique(np.concatenate([np.reshape(k, (-1, 2)) for k in keys]), axis=0))

    assert distinct(own[:, 0], lives[:, 0], centre_tasks, centre_lives) == 6 + 6 + 4 + 4
    assert distinct(shared) == 2


# ---- shaping -------------------------------------------------------------------------------

NAN = float("nan")


@pytest.mark.parametrize("shaping", SHAPINGS, ids=lambda s: type(s).__name__)
def test_shaping(shaping):
    fitness = np.float32([[1.0, NAN], [0.0, 0.0], [NAN, NAN], [3.0, 2.0], [-5.0, 8.0], [NAN, -5.0]])
    weights_of = jax.jit(shaping.weights)
    weights = np.asarray(weights_of(fitness))
    np.testing.assert_array_equal(np.sign(weights), [1, 0, 0, 1, -1, -1])  # what is lost loses
    np.testing.assert_allclose(weights_of(fitness[:, ::-1]), -weights, atol=1e-6)
    np.testing.assert_allclose(weights_of(fitness + 7.0), weights, atol=1e-5)
    if not isinstance(shaping, Plain):
        np.testing.assert_allclose(weights_of(100.0 * fitness), weights, atol=1e-5)
    np.testing.assert_array_equal(weights_of(np.full((6, 2), NAN, np.float32)), 0.0)
    np.testing.assert_array_equal(weights_of(np.ones((6, 2), np.float32)), 0.0)


# ---- persistence ---------------------------------------------------------------------------

NUM_WINDOWS, SIGMAS = 5, np.float32([0.3, 0.3, 0.2, 0.2, 0.1])


def toy_window(params, state):
    """x <- 0.9 x + u - v x, which earns -(x - 1)^2 on the way: early windows decide late ones."""
    state = 0.9 * state + params["a"][0] - 0.2 * params["b"]
    return state, -((state - 1.0) ** 2) + 0.1 * params["a"][1]


@jax.jit
def toy_gradients(key):
    """The sum over a life's windows of persistent and of truncated estimates."""
    zeros = jax.tree.map(lambda leaf: jnp.zeros((128, *leaf.shape)), CENTRE)
    start = Particles(jnp.zeros(2 * 128), zeros)

    def window(carry, inputs):
        particles, total, cut = carry
        step, sigma = inputs
        key_now = jax.random.fold_in(key, step)
        after, earned, _ = unroll_pairs(toy_window, key_now, CENTRE, sigma, particles)
        # Truncated strategies remember no perturbation but the present one.
        present = jax.tree.map(jnp.subtract, after.scores, particles.scores)
        weights = Plain().weights(earned)
        total = jax.tree.map(jnp.add, total, persistent_estimate(after, weights))
        cut = jax.tree.map(jnp.add, cut, persistent_estimate(Particles((), present), weights))
        return (after, total, cut), None

    nothing = jax.tree.map(jnp.zeros_like, CENTRE)
    inputs = (jnp.arange(NUM_WINDOWS), SIGMAS)
    (_, total, cut), _ = jax.lax.scan(window, (start, nothing, nothing), inputs)
    return total, cut


@pytest.mark.slow
def test_persistent_estimates_are_unbiased_where_truncated_ones_are_not():
    """The sum is quadratic in all perturbations: smoothing leaves its gradient as it is."""

    def whole(params):
        state, total = jnp.zeros(()), 0.0
        for _ in range(NUM_WINDOWS):
            state, earned = toy_window(params, state)
            total += earned
        return total

    exact = np.concatenate([np.atleast_1d(x) for x in jax.tree.leaves(jax.grad(whole)(CENTRE))])
    found = jax.lax.map(toy_gradients, jax.random.split(KEY, 60))
    for name, grads in zip(("persistent", "truncated"), found, strict=True):
        rows = np.column_stack(jax.tree.leaves(grads))
        error = rows.std(0) / np.sqrt(len(rows))
        off = np.abs(rows.mean(0) - exact) / error
        print(f"{name}: mean {rows.mean(0)}, exact {exact}, off by {off.round(1)} standard errors")
        if name == "persistent":
            assert np.all(off < 4)
        else:
            assert off[0] > 10 and off[3] > 10  # what moves the state


# ---- lives ---------------------------------------------------------------------------------


def small(kind=Evolution, **changes):
    """Two numbers of a small agent on bandits, in short lives of unlike lengths."""
    agent = a2c().replace(
        network=NetworkSettings(hidden_sizes=(4,), initialiser="lecun"),
        optimiser=Optimiser(learning_rate=0.05),
        num_envs=4,
        rollout_length=4,
    )
    steps = changes.pop("tasks_steps", Horizon(64.0, 160.0))
    tasks = RandomBandits(total_steps=steps, num_arms=3)
    if kind is Evolution:
        changes = {"num_updates": 10, "num_lives": 2} | changes
    else:
        changes = {"window": 2, "num_steps": 4.0} | changes
    numbers = {"num_pairs": 4, "num_centre_lives": 3, "sigma": Linear(0.4, 0.2)} | changes
    return kind(tuned(agent, ["optimiser.learning_rate", "entropy_weight"]), tasks, **numbers)


@jax.jit
def step(outer, state):
    return outer.step(state)


@jax.jit
def init(outer, key):
    return outer.init(key)


def run(outer, state, num_steps):
    for _ in range(num_steps):
        state, metrics = step(outer, state)
    return state, metrics


def bits(tree):
    def raw(leaf):
        is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
        return np.asarray(jax.random.key_data(leaf) if is_key else leaf)

    return [raw(leaf) for leaf in jax.tree.leaves(tree)]


def assert_same_bits(first, second):
    for a, b in zip(bits(first), bits(second), strict=True):
        np.testing.assert_array_equal(a, b)


def toy_loop(kind, **changes):
    """The same of a learner that is a line of arithmetic, which pays for any push."""
    tasks = ToyWalks(Horizon(12.0, 36.0), spread=0.5)
    if kind is Evolution:
        changes = {"num_updates": 6, "fitness": "final_rate"} | changes
    else:
        changes = {"window": 2, "num_steps": 4.0} | changes
    numbers = {"num_pairs": 3, "num_centre_lives": 2, "sigma": Linear(0.4, 0.2)} | changes
    return kind(tuned(Toy(), ["push"]), tasks, **numbers)


def check_loop(outer, changed, folder):
    """Numbers are traced; a run that was saved and restored is the same run."""
    before = step._cache_size()
    start = init(outer, KEY)
    whole, _ = run(outer, start, 5)
    saved, _ = run(outer, start, 2)
    checkpoints = Checkpoints(folder)
    checkpoints.save(2, saved)
    found = checkpoints.restore(init(outer, jax.random.key(9)))
    assert found is not None
    _, restored, _ = found
    assert_same_bits(run(outer, restored, 3)[0], whole)
    other, _ = run(changed, start, 5)
    assert step._cache_size() == before + 1
    assert not np.array_equal(bits(other.rule_params)[0], bits(whole.rule_params)[0])
    assert float(outer.agent(whole).push) == bits(whole.rule_params)[0]


@pytest.mark.slow
def test_generations_are_traced_and_resume(tmp_path):
    outer = toy_loop(Evolution)
    changed = outer.replace(
        sigma=Linear(0.1, 0.3),
        optimiser=outer.optimiser.replace(learning_rate=0.01),
        weight_decay=0.1,
    )
    check_loop(outer, changed, tmp_path)


@pytest.mark.slow
def test_lives_without_an_end_of_an_episode_lose_and_move_nothing():
    """The returns of a walk of a thousand places in short lives; its rates are known."""
    outer = toy_loop(Evolution, fitness="final_return").replace(tasks=ToyWalks(36.0))
    start = init(outer, KEY)
    state, metrics = step(outer, start)
    assert metrics["nonfinite_fraction"] == 1.0
    assert np.isnan(metrics["centre_final_return"])
    np.testing.assert_allclose(metrics["centre_final_rate"], rate_of(0.3, 6)[-1], rtol=1e-5)
    assert_same_bits(state.rule_params, start.rule_params)


def test_learners_that_blow_up_lose():
    """A learner with NaN has no fitness, whatever it earns: the walk pays for its places alone."""
    outer = toy_loop(Evolution).replace(tasks=ToyWalks(36.0, deaf=True))

    @jax.jit
    def measured(key, push):
        def both(push):
            life = live(key, Toy(push), outer.tasks.sample(key), num_updates=6)
            return outer.measures_of({"push": push}, key, key), life.lifetime_rate

        return jax.vmap(both)(push)

    found, earned = jax.device_get(measured(KEY, np.array([0.3, np.nan, 1e38], np.float32)))
    np.testing.assert_allclose(found["lifetime_rate"], [0.85, np.nan, np.nan], rtol=1e-6)
    np.testing.assert_allclose(found["final_rate"], [1.6, np.nan, np.nan], rtol=1e-6)
    np.testing.assert_allclose(earned, 0.85, rtol=1e-6)


@pytest.mark.slow
def test_windows_are_traced_and_resume(tmp_path):
    outer = toy_loop(PersistentEvolution)
    changed = outer.replace(
        sigma=Linear(0.1, 0.3), optimiser=outer.optimiser.replace(learning_rate=0.01), last_part=0.5
    )
    check_loop(outer, changed, tmp_path)


@pytest.mark.slow
def test_lives_that_blow_up_are_replaced():
    """Pushes without bounds: no pushed learner has a score; they begin anew, the centre lives.

    The walk is deaf, so that all are paid alike: the rule does not move.
    """
    outer = toy_loop(PersistentEvolution, window=3)
    outer = outer.replace(sigma=Linear(1e38, 1e38), tasks=ToyWalks(Horizon(1e3, 1e3), deaf=True))
    start = init(outer, KEY)
    state, metrics = step(outer, start.replace(ends=np.full(5, np.inf, np.float32)))
    assert float(metrics["nonfinite_fraction"]) == 1.0
    np.testing.assert_allclose(metrics["replaced_fraction"], 3 / 5, rtol=1e-6)
    np.testing.assert_array_equal(state.births, [2, 2, 2, 1, 1])
    np.testing.assert_array_equal(state.particles.scores["push"], 0.0)
    x = np.asarray(state.particles.states.train.agent.params)
    assert x[:6].tolist() == [-0.5] * 6
    np.testing.assert_allclose(x[6:], states_of((0.3, 2.0, 0.9), 3)[-1], rtol=1e-5)
    assert_same_bits(state.rule_params, start.rule_params)
    np.testing.assert_allclose(metrics["centre_rate"], 0.4, rtol=1e-5)  # of places 0 to 8


# ---- slow: many lives ----------------------------------------------------------------------


def loop_in_parts(kind, num_devices, chunk):
    """Three rows each, so that parts of two are padded."""
    if kind is not MetaGradient:
        return toy_loop(kind, num_devices=num_devices, chunk=chunk, shaping=Plain())
    learner, walks = tuned(Toy(), ["push"]), ToyWalks(Horizon(12.0, 36.0), spread=0.5)
    return MetaGradient(
        *(learner, walks),
        critic=Watcher(3),
        num_lives=3,
        num_updates=2,
        keep_every=2 if chunk else 1,
        chunk=chunk,
        num_devices=num_devices,
    )


def learned_numbers(num_devices=1, chunks=(0,)):
    """What is learned in some steps, one row for each loop and chunk."""
    rows = {}
    for kind in (Evolution, PersistentEvolution, MetaGradient):
        for chunk in chunks:
            outer = loop_in_parts(kind, num_devices, chunk)
            state, metrics = run(outer, init(outer, KEY), 3)
            score = metrics["meta_loss" if kind is MetaGradient else "population_fitness"]
            rows[f"{kind.__name__}-{chunk}"] = np.array([*bits(state.rule_params), score])
    return rows


@pytest.mark.slow
def test_chunks_and_four_devices_give_the_same_numbers(tmp_path):
    """Four pretended devices, in a process of its own: their number is fixed when JAX starts."""
    path = tmp_path / "numbers.npz"
    code = (
        "import sys, jax, numpy; sys.path.insert(0, sys.argv[1]); import test_evolution as t; "
        "assert jax.device_count() == 4; "
        "jax.config.update('jax_disable_most_optimizations', True); "
        "numpy.savez(sys.argv[2], **t.learned_numbers(num_devices=4))"
    )
    environment = os.environ | {
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4",
        "JAX_PLATFORMS": "cpu",
    }
    command = [sys.executable, "-c", code, os.path.dirname(__file__), str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    theirs, ours = np.load(path), learned_numbers(chunks=(0, 2))
    for name, values in ours.items():
        kind = name.split("-")[0]
        for whole in (ours[f"{kind}-0"], theirs[f"{kind}-0"]):
            np.testing.assert_allclose(values, whole, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_common_seeds_cut_the_variance_of_the_difference():
    """Against independent lives in the same task, and in another one, by the default sigma.

    A larger one shows true differences too, which no common seed takes away.
    """
    num_pairs = 512
    outer = small(num_updates=40, tasks_steps=Horizon(320.0, 640.0))

    @jax.jit
    @partial(jax.vmap, in_axes=(0, None))
    def lived(pair, sigma):
        plus, minus = (
            candidate(KEY, Rows(pair, jnp.float32(s), jnp.int32(0)), outer.tuned.init(), sigma)
            for s in (1.0, -1.0)
        )
        keys = jax.random.split(jax.random.fold_in(KEY, pair), 4)
        runs = [(plus, 0, 1), (minus, 0, 1), (minus, 0, 2), (minus, 3, 2)]
        stacked = jax.tree.map(lambda *x: jnp.stack(x), *[params for params, *_ in runs])
        tasks, lives = (keys[jnp.array([r[i] for r in runs])] for i in (1, 2))
        return jax.vmap(outer.measures_of)(stacked, tasks, lives)

    for sigma, least in ((0.1, 2.5), (0.3, 1.5)):
        found = lived(np.arange(num_pairs, dtype=np.uint32), np.float32(sigma))
        for name in ("final_return", "lifetime_return"):
            rows = np.asarray(found[name])
            common, seeds, both = (np.var(rows[:, 0] - rows[:, i]) for i in (1, 2, 3))
            print(
                f"{name}, sigma {sigma}: {seeds / common:.1f} times less than other seeds, "
                f"{both / common:.1f} than other tasks too"
            )
            assert seeds / common >= least
            assert both >= seeds


@pytest.mark.slow
def test_candidates_together_are_a_loop_of_lives():
    outer = small()

    def evaluated(function):
        numbers = {"num_lives": 2, "common_tasks": True}
        return evaluate_pairs(function, KEY, outer.tuned.init(), 0.3, 4, **numbers)[0]

    def inputs_of(params, task_key, life_key):
        return params, jax.random.key_data(task_key), jax.random.key_data(life_key)

    @jax.jit
    def alone(params, *keys):
        return outer.measures_of(params, *map(jax.random.wrap_key_data, keys))

    together = jax.jit(lambda: (evaluated(outer.measures_of), evaluated(inputs_of)))
    pairs, inputs = jax.device_get(together())
    for at in np.ndindex(4, 2, 2):
        found = alone(*jax.tree.map(lambda leaf, at=at: leaf[at], inputs))
        for name, value in found.items():
            np.testing.assert_allclose(value, pairs[name][at], rtol=1e-4, err_msg=f"{name} {at}")


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Evolution, PersistentEvolution], ids=lambda k: k.__name__)
def test_a_learning_rate_that_is_too_small_is_found_out(kind):
    """From 1e-4, where nothing is learned in 40 updates, to one that earns more, by the centre."""
    outer = small(kind, num_pairs=16, num_centre_lives=32, sigma=0.5, tasks_steps=640.0)
    if kind is Evolution:
        outer = outer.replace(num_updates=40, fitness="lifetime_return")
    else:
        outer = outer.replace(window=10)
    outer = outer.replace(
        tuned=tuned(
            outer.tuned.agent.replace(optimiser=Optimiser(learning_rate=1e-4)),
            ["optimiser.learning_rate"],
        ),
        optimiser=outer.optimiser.replace(learning_rate=0.3),
    )
    num_steps = 25 if kind is Evolution else 60
    _, metrics = jax.jit(
        lambda key: jax.lax.scan(lambda s, _: outer.step(s), outer.init(key), None, num_steps)
    )(KEY)
    name = "centre_lifetime_return" if kind is Evolution else "centre_rate"
    first, last = np.asarray(metrics[name][:5]), np.asarray(metrics[name][-5:])
    print(f"{kind.__name__}: {first.mean():.3f} -> {last.mean():.3f}")
    assert last.mean() > first.mean() + 0.1
