"""Evolution: gradients of smoothed functions, common random numbers, persistence over windows."""

from __future__ import annotations

import functools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy_learner import Toy, Walks as ToyWalks, Watcher, rate_of, slope, states_of

from jaxrl.agents import GradientDescent, Optimiser, a2c
from jaxrl.core import Linear, struct
from jaxrl.envs.wrappers import LogUniform
from jaxrl.meta import (
    Evolution,
    MetaGradient,
    PersistentEvolution,
    RandomBandits,
    live,
    tuned,
)
from jaxrl.networks import NetworkSettings
from jaxrl.training import Checkpoints

SHAPINGS = Evolution.shapings
KEY = jax.random.key(3)
CENTRE = {"a": np.float32([0.3, -0.5, 1.0]), "b": np.array(0.7, np.float32)}
SIGMA = 0.5
ACCUMULATE = GradientDescent(learning_rate=1e-30, momentum=1.0, max_grad_norm=None)


# ---- the gradient of a smoothed function ---------------------------------------------------


@struct.dataclass
class Free:
    """Numbers that are no agent's."""

    def init(self):
        return CENTRE


@struct.dataclass
class Cubic(Evolution):
    """Evolution of a cubic function of its numbers, under noise that both of a pair share."""

    def measures_of(self, rule_params, task_key, life_key):
        flat = jnp.append(rule_params["a"], rule_params["b"])
        value = jnp.sum(jnp.array([1.0, 0.5, 0.0, -1.0]) * flat**2 - flat**3)
        noise = jax.random.normal(life_key) + 10.0 * jax.random.normal(task_key)
        return {"final_return": value + noise}


@jax.jit
def gradient(outer, key):
    """What a step adds to an optimiser that moves nothing and forgets nothing, uphill."""
    state, _ = outer.step(outer.init(key))
    return jnp.append(-state.optimiser["a"], -state.optimiser["b"])


CUBIC = Cubic(
    *(Free(), None, 1),
    shaping=SHAPINGS["plain"],
    optimiser=ACCUMULATE,
    sigma=SIGMA,
    num_pairs=64,
    num_centre_lives=1,
)


@pytest.mark.slow
def test_the_estimate_is_the_gradient_of_the_smoothed_function():
    """E f(x + s e) = sum a (x^2 + s^2) - x^3 - 3 x s^2, so its gradient is not that of f."""
    rows = np.array([gradient(CUBIC, key) for key in jax.random.split(KEY, 150)])
    flat = np.append(CENTRE["a"], CENTRE["b"])
    plain = 2 * np.array([1.0, 0.5, 0.0, -1.0]) * flat - 3 * flat**2
    error = rows.std(0) / np.sqrt(len(rows))
    assert np.all(np.abs(rows.mean(0) - (plain - 3 * SIGMA**2)) < 4 * error)
    assert np.all(np.abs(rows.mean(0) - plain) > 6 * error)


@pytest.mark.slow
def test_chunks_change_nothing_but_rounding():
    part = gradient(CUBIC.replace(chunk=24), KEY)  # of 64: the last part is padded
    np.testing.assert_allclose(part, gradient(CUBIC, KEY), rtol=1e-5, atol=1e-5)


# ---- shaping -------------------------------------------------------------------------------

NAN = float("nan")


@pytest.mark.parametrize("shaping", SHAPINGS)
def test_shaping(shaping):
    fitness = np.float32([[1.0, NAN], [0.0, 0.0], [NAN, NAN], [3.0, 2.0], [-5.0, 8.0], [NAN, -5.0]])
    weights_of = jax.jit(SHAPINGS[shaping])
    weights = np.asarray(weights_of(fitness))
    np.testing.assert_array_equal(np.sign(weights), [1, 0, 0, 1, -1, -1])  # what is lost loses
    np.testing.assert_allclose(weights_of(fitness[:, ::-1]), -weights, atol=1e-6)
    np.testing.assert_allclose(weights_of(fitness + 7.0), weights, atol=1e-5)
    if shaping != "plain":
        np.testing.assert_allclose(weights_of(100.0 * fitness), weights, atol=1e-5)
    np.testing.assert_array_equal(weights_of(np.full((6, 2), NAN, np.float32)), 0.0)
    np.testing.assert_array_equal(weights_of(np.ones((6, 2), np.float32)), 0.0)


# ---- persistence ---------------------------------------------------------------------------

NUM_WINDOWS = 5


@functools.partial(jax.jit, static_argnums=1)
def summed_gradients(key, persistent):
    """The sum of the estimates over a life of five windows, `[2]`; the centre stands still."""
    outer = PersistentEvolution(
        *(tuned(Toy(), ["aim", "discount"]), ToyWalks()),
        window=1,
        optimiser=ACCUMULATE,
        sigma=Linear(0.3, 0.1),
        num_steps=float(NUM_WINDOWS),
        num_pairs=128,
        num_centre_lives=1,
    )

    def step(state, _):
        if not persistent:  # truncated strategies remember no perturbation but the present one
            state = state.replace(memory=jax.tree.map(jnp.zeros_like, state.memory))
        return outer.step(state)

    begun = outer.init(key)
    begun = begun.replace(ends=jnp.full_like(begun.ends, jnp.inf))
    total = jax.lax.scan(step, begun, None, NUM_WINDOWS)[0].optimiser
    return -jnp.stack([total["aim"], total["discount"]])


@pytest.mark.slow
def test_persistent_estimates_are_unbiased_where_truncated_ones_are_not():
    """The sum is quadratic in all perturbations: smoothing leaves its gradient as it is."""

    def whole(numbers):
        return np.sum(1.0 - (states_of((Toy.push, *numbers), NUM_WINDOWS - 1) - 1.0) ** 2)

    exact = slope(whole, [Toy.aim, Toy.discount])
    for persistent in (True, False):
        keys = jax.random.split(KEY, 60)
        rows = np.asarray(jax.lax.map(lambda key, p=persistent: summed_gradients(key, p), keys))
        error = rows.std(0) / np.sqrt(len(rows))
        off = np.abs(rows.mean(0) - exact) / error
        print(f"{persistent}: mean {rows.mean(0)}, exact {exact}, off by {off.round(1)} errors")
        assert np.all(off < 4) if persistent else off[0] > 10


# ---- lives ---------------------------------------------------------------------------------


def small(kind=Evolution, **changes):
    """Two numbers of a small agent on bandits, in short lives of unlike lengths."""
    agent = a2c().replace(
        network=NetworkSettings(hidden_sizes=(4,), initialiser="lecun"),
        optimiser=Optimiser(learning_rate=0.05),
        num_envs=4,
        rollout_length=4,
    )
    steps = changes.pop("tasks_steps", LogUniform(64.0, 160.0))
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
    tasks = ToyWalks(LogUniform(12.0, 36.0), spread=0.5)
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
    outer = outer.replace(sigma=Linear(1e38, 1e38), tasks=ToyWalks(LogUniform(1e3, 1e3), deaf=True))
    start = init(outer, KEY)
    state, metrics = step(outer, start.replace(ends=np.full(5, np.inf, np.float32)))
    assert float(metrics["nonfinite_fraction"]) == 1.0
    np.testing.assert_allclose(metrics["replaced_fraction"], 3 / 5, rtol=1e-6)
    np.testing.assert_array_equal(state.births, [2, 2, 2, 1, 1])
    np.testing.assert_array_equal(state.memory["push"], 0.0)
    x = np.asarray(state.lives.train.agent.params)
    assert x[:6].tolist() == [-0.5] * 6
    np.testing.assert_allclose(x[6:], states_of((0.3, 2.0, 0.9), 3)[-1], rtol=1e-5)
    assert_same_bits(state.rule_params, start.rule_params)
    np.testing.assert_allclose(metrics["centre_rate"], 0.4, rtol=1e-5)  # of places 0 to 8


# ---- slow: many lives ----------------------------------------------------------------------


def loop_in_parts(kind, num_devices, chunk):
    """Three rows each, so that parts of two are padded."""
    if kind is not MetaGradient:
        return toy_loop(kind, num_devices=num_devices, chunk=chunk, shaping=SHAPINGS["plain"])
    learner, walks = tuned(Toy(), ["push"]), ToyWalks(LogUniform(12.0, 36.0), spread=0.5)
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
    outer = small(num_updates=40, tasks_steps=LogUniform(320.0, 640.0))

    @jax.jit
    @functools.partial(jax.vmap, in_axes=(0, None))
    def lived(pair, sigma):
        *keys, first, second = jax.random.split(jax.random.fold_in(KEY, pair), 6)
        names, keys = outer.tuned.names, jnp.stack(keys)
        noise = [sigma * jax.random.normal(key) for key in (first, second)]
        noise, centre = dict(zip(names, noise, strict=True)), outer.tuned.init()
        plus, minus = ({n: centre[n] + s * noise[n] for n in names} for s in (1.0, -1.0))
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
