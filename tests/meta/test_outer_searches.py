"""Outer loops that search, on a learner whose fitness is a line of NumPy."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import toy_learner as toy
from evosax.algorithms import SNES

from jaxrl import meta
from jaxrl.agents import GradientDescent
from jaxrl.core import Linear
from jaxrl.meta.mirrored import pair_noise

KEY = jax.random.key(3)
SIGMAS = np.array([0.3, 0.2, 0.1])
DECAY, RATE = 0.1, 0.05
BIRTHS = []


def told(push, goal, born):
    BIRTHS.append((float(push), float(goal), tuple(np.asarray(born).tolist())))


def births_of(function, *arguments):
    """What a program returns, and every `(push, goal, key)` that a life began with in it."""
    BIRTHS.clear()
    found = jax.block_until_ready(function(*arguments))
    jax.effects_barrier()
    return found, list(BIRTHS)


SHAPINGS = meta.Evolution.shapings
NUM_UPDATES, NUM_PAIRS, NUM_SAME, NUM_CENTRE = 4, 3, 2, 2
EVOLUTION = meta.Evolution(
    meta.tuned(toy.Toy(told=told), ["push"]),
    toy.Walks(total_steps=6.0 * NUM_UPDATES, spread=0.5),
    num_updates=NUM_UPDATES,
    shaping=SHAPINGS["plain"],
    optimiser=GradientDescent(learning_rate=RATE, momentum=0.5, max_grad_norm=None),
    sigma=Linear(0.3, 0.1),
    weight_decay=DECAY,
    num_generations=2.0,
    num_pairs=NUM_PAIRS,
    num_lives=NUM_SAME,
    num_centre_lives=NUM_CENTRE,
    fitness="lifetime_rate",
    last_part=0.5,
)
EVOLUTIONS = {
    "own tasks": EVOLUTION,
    "common tasks": EVOLUTION.replace(
        common_tasks=True,
        shape_each=True,
        shaping=SHAPINGS["z_score"],
        fitness="final_rate",
        chunk=2,
    ),
}


def directions(generation, centre):
    """Those that a generation draws, `[P]`; the estimate is exact for them."""
    return np.asarray(_directions(generation, np.float32(centre)), np.float64)


@jax.jit
def _directions(generation, centre):
    key = jax.random.fold_in(KEY, generation)
    pairs = jnp.arange(NUM_PAIRS, dtype=jnp.uint32)
    return jax.vmap(lambda pair: pair_noise(key, pair, {"push": centre})["push"])(pairs)


def lived(births, push):
    """The `(goal, key)` of the lives that began under a push."""
    return sorted(one[1:] for one in births if abs(one[0] - push) < 1e-6)


@pytest.mark.parametrize(
    "name", ["common tasks", pytest.param("own tasks", marks=pytest.mark.slow)]
)
def test_a_generation_climbs_what_its_mirrored_lives_show(name):
    """g = sum w e / (P sigma) for the directions and the tasks drawn, over three generations."""
    outer = EVOLUTIONS[name]
    state, step = jax.jit(outer.init)(KEY), jax.jit(outer.step)
    centre, velocity, goals, keys = toy.Toy.push, 0.0, [], []
    late = slice(2, 4) if outer.fitness == "final_rate" else slice(0, 4)
    for generation in range(3):
        sigma = SIGMAS[generation]
        (state, metrics), births = births_of(step, state)
        noise = directions(generation, centre)
        pairs = centre + sigma * np.stack([noise, -noise], axis=1)  # [P, 2]
        own = lived(births, centre)
        drawn = [lived(births, plus) for plus in pairs[:, 0]]
        assert drawn == [lived(births, minus) for minus in pairs[:, 1]]  # both the same lives
        assert len(births) == NUM_PAIRS * 2 * NUM_SAME + NUM_CENTRE and len(own) == NUM_CENTRE
        if outer.common_tasks:
            assert len({tuple(goal for goal, _ in row) for row in map(sorted, drawn)}) == 1
            goals += [goal for goal, _ in drawn[0] + own]
        else:
            goals += [goal for row in [*drawn, own] for goal, _ in row]
        keys += [key for row in [*drawn, own] for _, key in row]

        def fitness(push, goal, late=late):
            return toy.rate_of(push, NUM_UPDATES, goal)[late].mean()

        earned = np.array(
            [
                [[fitness(push, goal) for goal, _ in row] for push in pair]
                for pair, row in zip(pairs, drawn, strict=True)
            ]
        )  # [P, 2, L]
        if outer.shape_each:
            half = (earned[:, 0] - earned[:, 1]) / 2
            weights = np.mean(half / earned.std(axis=(0, 1)), axis=1)
        else:
            weights = (earned[:, 0] - earned[:, 1]).mean(1) / 2
        ascent = np.sum(weights * noise) / (NUM_PAIRS * sigma)
        np.testing.assert_allclose(metrics["meta_gradient_norm"], abs(ascent), rtol=1e-3)
        np.testing.assert_allclose(metrics["population_fitness"], earned.mean(), rtol=1e-4)
        np.testing.assert_allclose(metrics["sigma"], sigma, rtol=1e-5)
        reported = np.mean([toy.rate_of(centre, NUM_UPDATES, goal).mean() for goal, _ in own])
        np.testing.assert_allclose(metrics["centre_lifetime_rate"], reported, rtol=1e-4)
        velocity = 0.5 * velocity + DECAY * centre - ascent
        centre = centre - RATE * velocity
        np.testing.assert_allclose(state.rule_params["push"], centre, rtol=1e-4)
    assert int(state.step) == 3
    # No generation, pair or life has the task or the key of another.
    assert len(set(goals)) == len(goals) and len(set(keys)) == len(keys)


# ---- persistent evolution ------------------------------------------------------------------------

WINDOW, NUM_STEPS = 2, 5


def whole_difference(fitness):
    """A shaping of a user's own, `[P]`."""
    return fitness[:, 0] - fitness[:, 1]


PERSISTENT = meta.PersistentEvolution(
    meta.tuned(toy.Toy(), ["push"]),
    toy.Walks(total_steps=6.0 * 6, spread=0.5),
    window=WINDOW,
    shaping=whole_difference,
    optimiser=GradientDescent(learning_rate=RATE, momentum=0.5, max_grad_norm=None),
    sigma=Linear(0.3, 0.1),
    weight_decay=DECAY,
    num_steps=4.0,
    num_pairs=NUM_PAIRS,
    num_centre_lives=NUM_CENTRE,
)
WINDOW_SIGMAS = np.array([0.3, 0.25, 0.2, 0.15, 0.1])
# Whole lives last three windows. The first ones end after: one, two and three; two and three.
ENDS = np.array([6.0, 24.0, np.inf, 24.0, np.inf], np.float32)
OVER = np.array(
    [[1, 0, 0, 0, 0], [0, 1, 0, 1, 0], [0, 0, 1, 0, 1], [1, 0, 0, 0, 0], [0, 1, 0, 1, 0]]
)


@functools.partial(jax.jit, static_argnums=2)
def windows(outer, key, num_steps):
    begun = outer.init(key)

    def step(state, _):
        state, metrics = outer.step(state)
        return state, (state, metrics)

    def raw(tree):
        def number(leaf):
            is_key = jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
            return jax.random.key_data(leaf) if is_key else leaf

        return jax.tree.map(number, tree)

    _, rows = jax.lax.scan(step, begun.replace(ends=ENDS), None, num_steps)
    return raw(begun), *raw(rows)


@functools.cache
def lived_windows(last_part=1.0):
    return jax.device_get(windows(PERSISTENT.replace(last_part=last_part), KEY, NUM_STEPS))


def directions_of_window(step, centre):
    """Those that a window draws, `[P]`."""
    return np.asarray(_window_noise(step, np.float32(centre)), np.float64)


@jax.jit
def _window_noise(step, centre):
    noise_key = jax.random.split(KEY, 3)[0]
    key = jax.random.fold_in(noise_key, step)
    pairs = jnp.arange(NUM_PAIRS, dtype=jnp.uint32)
    return jax.vmap(lambda pair: pair_noise(key, pair, {"push": centre})["push"])(pairs)


@pytest.mark.parametrize("last_part", [1.0, 0.5])
def test_a_window_climbs_by_all_perturbations_since_its_lives_began(last_part):
    """g = mean w sum_k e_k / sigma_k; sums and lives begin anew together, and only when over."""
    begun, after, metrics = lived_windows(last_part)
    size = 2 * NUM_PAIRS + NUM_CENTRE
    twice = np.array([0, 0, 1, 1, 2, 2, 3, 4])
    x, age = np.full(size, toy.Toy.start), np.zeros(size, int)
    scores, centre, velocity = np.zeros(NUM_PAIRS), toy.Toy.push, 0.0
    goal, drawn = begun.lives.env.goal, []
    for step in range(NUM_STEPS):
        sigma, noise = WINDOW_SIGMAS[step], directions_of_window(step, centre)
        drawn.append(noise)
        sign = np.array([1, -1] * NUM_PAIRS + [0] * NUM_CENTRE)
        push = centre + sign * sigma * np.append(noise, [0, 0])[twice]
        earned = np.zeros(size)
        for _ in range(WINDOW):
            reward = 1.0 - (x - goal) ** 2 + 0.1 * (3.0 * age + 1.0)
            late = age + 1 > 6 * (1.0 - last_part) if last_part < 1.0 else age >= 0
            earned += np.where(late, reward, 0.0) / WINDOW
            x = x - push * (x - toy.Toy.aim) + 0.1 * toy.Toy.discount
            age = age + 1
        fitness = earned[: 2 * NUM_PAIRS].reshape(NUM_PAIRS, 2)
        scores = scores + noise / sigma
        ascent = np.mean((fitness[:, 0] - fitness[:, 1]) * scores)
        np.testing.assert_allclose(
            metrics["meta_gradient_norm"][step], abs(ascent), rtol=1e-3, atol=1e-6
        )
        np.testing.assert_allclose(
            metrics["population_fitness"][step], fitness.mean(), rtol=1e-4, atol=1e-6
        )
        np.testing.assert_allclose(
            metrics["centre_rate"][step], earned[2 * NUM_PAIRS :].mean(), rtol=1e-4, atol=1e-6
        )
        velocity = 0.5 * velocity + DECAY * centre - ascent
        centre = centre - RATE * velocity
        np.testing.assert_allclose(after.rule_params["push"][step], centre, rtol=1e-4)
        over = OVER[step].astype(bool)
        np.testing.assert_allclose(metrics["replaced_fraction"][step], over.mean(), rtol=1e-6)
        x, age = np.where(over[twice], toy.Toy.start, x), np.where(over[twice], 0, age)
        scores = np.where(over[:NUM_PAIRS], 0.0, scores)
        states = after.lives
        np.testing.assert_allclose(states.train.agent.params[step], x, rtol=1e-4)
        np.testing.assert_array_equal(states.train.iteration[step], age)
        np.testing.assert_allclose(after.memory["push"][step], scores, rtol=1e-4, atol=1e-6)
        goal = states.env.goal[step]
    np.testing.assert_allclose(metrics["sigma"], WINDOW_SIGMAS, rtol=1e-5)
    np.testing.assert_array_equal(after.births, 1 + np.cumsum(OVER, axis=0))
    assert len(np.unique(drawn)) == NUM_STEPS * NUM_PAIRS  # perturbations are new in each window


def test_both_of_a_pair_live_one_life_and_no_two_pairs_or_lives_share_one():
    begun, after, _ = lived_windows()
    every = jax.tree.map(
        lambda first, rest: np.concatenate([first[None], rest]),
        begun.lives,
        after.lives,
    )
    for leaf in (every.env.goal, every.train.agent.born, every.train.key, every.train.iteration):
        pairs = leaf[:, : 2 * NUM_PAIRS].reshape(NUM_STEPS + 1, NUM_PAIRS, 2, -1)
        np.testing.assert_array_equal(pairs[:, :, 0], pairs[:, :, 1])
    once = np.array([0, 2, 4, 6, 7])
    num_lives = int(after.births[-1].sum())
    assert toy.num_distinct(every.train.agent.born[:, once]) == num_lives
    assert len(np.unique(every.env.goal[:, once])) == num_lives
    # A life's updates spend a key each: one for each of its windows' ends that is seen.
    ages = every.train.iteration[:, once]
    assert toy.num_distinct(every.train.agent.spent[:, once][ages > 0]) == np.sum(ages > 0)


def test_the_first_lives_end_all_over_a_lifetime():
    outer = PERSISTENT.replace(num_pairs=60, num_centre_lives=4)
    ends = np.sort(jax.device_get(jax.jit(lambda key: outer.init(key).ends)(KEY)))
    # Sixty-four uniform draws: Kolmogorov's distance is under 0.2 with probability 0.99.
    share = (np.arange(64) + 0.5) / 64
    assert np.abs(ends / 36.0 - share).max() < 0.2 and ends[0] > 0.0 and ends[-1] < 36.0


# ---- strategies that are asked and told ----------------------------------------------------------


@jax.tree_util.register_static
class Asked:
    """A strategy that always asks for the same candidates and keeps what it was told."""

    population_size, default_params = 3, 0.5

    def init(self, key, mean, params):
        return {"mean": mean, "told": jnp.zeros(3), "keys": jnp.zeros((3, 2), jnp.uint32)}

    def get_mean(self, state):
        return state["mean"]

    def ask(self, key, state, params):
        keys = state["keys"].at[0].set(jax.random.key_data(key))
        return {"push": jnp.array([0.1, jnp.nan, params])}, {**state, "keys": keys}

    def tell(self, key, population, fitness, state, params):
        keys = state["keys"].at[1].set(jax.random.key_data(key))
        mean = {"push": state["mean"]["push"] + 0.1}
        return {"mean": mean, "told": fitness, "keys": keys}, {}


def test_what_is_not_finite_is_told_the_least():
    """Minus the mean over lives that all candidates share; the centre's lives are others."""
    search = meta.StrategySearch(EVOLUTION.replace(shaping=SHAPINGS["pair_sign"]), Asked())
    state, step = jax.jit(search.init)(KEY), jax.jit(search.step)
    goals, keys = [], []
    for generation, centre in enumerate((0.3, 0.4)):
        (state, metrics), births = births_of(step, state)
        own, first, second = (lived(births, push) for push in (centre, 0.1, 0.5))
        assert first == second and len(first) == NUM_SAME and len(own) == NUM_CENTRE
        earned = [
            np.mean([toy.rate_of(push, NUM_UPDATES, goal).mean() for goal, _ in first])
            for push in (0.1, 0.5)
        ]
        told = -np.array([earned[0], min(earned), earned[1]])
        np.testing.assert_allclose(state.optimiser["told"], told, rtol=1e-4)
        np.testing.assert_allclose(metrics["population_fitness"], np.mean(earned), rtol=1e-4)
        np.testing.assert_allclose(metrics["nonfinite_fraction"], 1 / 3, rtol=1e-6)
        reported = np.mean([toy.rate_of(centre, NUM_UPDATES, goal).mean() for goal, _ in own])
        np.testing.assert_allclose(metrics["centre_lifetime_rate"], reported, rtol=1e-4)
        goals += [goal for goal, _ in first + own]
        rows = np.asarray(state.optimiser["keys"])[:2].tolist()
        keys += [key for _, key in first + own] + [tuple(row) for row in rows]
        assert int(state.step) == generation + 1
    assert len(set(goals)) == len(goals) and len(set(keys)) == len(keys)
    np.testing.assert_allclose(search.agent(state).push, 0.5, rtol=1e-6)


@pytest.mark.slow
def test_a_strategy_of_evosax_finds_the_best_push():
    """The optimum of the mean reward of a life, from a grid in NumPy."""
    outer = EVOLUTION.replace(
        tuned=meta.tuned(toy.Toy(push=0.1), ["push"]), tasks=toy.Walks(24.0), num_lives=1
    )
    search = meta.StrategySearch(outer, SNES(population_size=8, solution=outer.tuned.init()))
    found = meta.fit(KEY, search, num_steps=60, chunk_steps=60)
    grid = np.linspace(0.0, 1.0, 1001)
    best = grid[np.argmax([toy.rate_of(push, NUM_UPDATES).mean() for push in grid])]
    assert 0.2 < best < 0.9
    np.testing.assert_allclose(found.agent.push, best, atol=0.01)
    assert np.all(found.metrics["nonfinite_fraction"] == 0.0)
