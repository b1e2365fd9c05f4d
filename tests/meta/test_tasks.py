"""Laws over tasks: what they draw, how it batches, that nothing recompiles."""

import functools
import math

import jax
import numpy as np
import pytest
from scipy.stats import chisquare, kstest

from jaxrl import envs, planning
from jaxrl.envs.wrappers import LogUniform, OneOf, Uniform
from jaxrl.meta import (
    RandomBandits,
    RandomGrids,
    RandomMazes,
    Task,
)

NUM_TASKS = 512
HORIZON = LogUniform(1e2, 1e4)
GRIDS = RandomGrids(HORIZON, height=4, width=3, num_objects=3)
MAZES = RandomMazes(2e3, envs.ScatteredWalls(4.0, 12.0, height=5, width=6))
LAWS = {
    "fixed": Task(envs.TwoColours(height=2, width=2), 50.0),
    "fixed life drawn": Task(envs.make("Bandit", means=[0.1, 0.2]), HORIZON),
    "grids": GRIDS,
    "mazes": MAZES,
    "dug mazes": RandomMazes(HORIZON, envs.DugWalls(height=5, width=5), view=1),
    "bandits": RandomBandits(HORIZON, num_arms=4),
    "normal bandits": RandomBandits(
        10.0, OneOf((-1.0, 2.0)), envs.NormalPayout(0.1), math.inf, num_arms=4
    ),
}


NAMES = [pytest.param(n, marks=[pytest.mark.slow] if n == "dug mazes" else []) for n in LAWS]


@jax.jit
def sample_all(law, keys):
    return jax.vmap(law.sample)(keys)


@functools.cache
def drawn(name):
    """Tasks of one law; the last two have one key."""
    keys = jax.random.split(jax.random.key(0), NUM_TASKS)
    return jax.device_get(sample_all(LAWS[name], keys.at[-1].set(keys[-2])))


@pytest.mark.parametrize("name", NAMES)
def test_tasks_batch_and_one_key_gives_one_task(name):
    tasks = drawn(name)
    assert isinstance(tasks, Task)
    assert tasks.total_steps.shape == (NUM_TASKS,) and tasks.total_steps.dtype == np.float32
    alone = jax.eval_shape(LAWS[name].sample, jax.random.key(0))
    assert jax.tree.structure(alone) == jax.tree.structure(tasks)
    for leaf, many in zip(jax.tree.leaves(alone), jax.tree.leaves(tasks), strict=True):
        # A weak type would trace apart from a strong one.
        assert not leaf.weak_type and leaf.dtype == many.dtype
        np.testing.assert_array_equal(many[-1], many[-2])


@pytest.mark.parametrize("name", NAMES)
def test_tasks_are_stepped_in_one_program(name):
    """As a batch and alone, and the environments' own shapes do not depend on the draw."""
    tasks = jax.tree.map(lambda leaf: leaf[:4], drawn(name))
    action = np.zeros((), np.int32)

    def first_step(task, key):
        state, _ = task.env.reset(key)
        return task.env.step(key, state, action)[1]

    keys = jax.eval_shape(lambda key: jax.random.split(key, 4), jax.random.key(1))
    step = jax.eval_shape(jax.vmap(first_step), tasks, keys)
    space = jax.tree.map(lambda leaf: leaf[0], tasks).env.observation_space
    assert step.observation.shape == (4, *space.shape) and step.observation.dtype == space.dtype


def test_other_numbers_of_a_law_do_not_retrace():
    drawn("grids")
    before = sample_all._cache_size()
    other = GRIDS.replace(
        total_steps=LogUniform(5.0, 6.0), rewards=Uniform(0.0, 2.0), end_probs=LogUniform(0.5, 0.6)
    )
    tasks = jax.device_get(sample_all(other, jax.random.split(jax.random.key(1), NUM_TASKS)))
    assert sample_all._cache_size() == before
    assert np.all((tasks.total_steps >= 5.0) & (tasks.total_steps <= 6.0))
    assert np.all((tasks.env.end_probs >= 0.5) & (tasks.env.end_probs <= 0.6))


DRAWN = ["fixed life drawn", "grids", "bandits", pytest.param("dug mazes", marks=pytest.mark.slow)]


@pytest.mark.parametrize("name", DRAWN)
def test_lives_are_as_long_as_drawn(name):
    steps = drawn(name).total_steps
    assert np.all((steps >= 1e2) & (steps <= 1e4) & (steps == np.round(steps)))
    share = np.log(steps / 1e2) / np.log(1e2)
    assert kstest(share, "uniform").pvalue > 1e-3


def test_lives_are_as_long_as_asked():
    assert np.all(drawn("fixed").total_steps == 50.0)
    equal = Task(envs.make("Bandit"), LogUniform(777.0, 777.0))
    assert float(equal.sample(jax.random.key(5)).total_steps) == 777.0


def test_grids_have_the_law_that_is_written():
    env = drawn("grids").env
    cells = np.concatenate([env.start[:, None], env.positions], axis=1)
    assert np.all((cells >= 0) & (cells < 12))
    assert all(len(set(row)) == 4 for row in cells.tolist())  # no two in one cell
    for column in cells.T:
        assert chisquare(np.bincount(column, minlength=12)).pvalue > 1e-3
    assert kstest(env.rewards[:, 0], "uniform").pvalue > 1e-3  # something is worth collecting
    assert kstest((env.rewards[:, 1] + 1) / 2, "uniform").pvalue > 1e-3
    end = np.log(env.end_probs / 0.01) / math.log(100)
    back = np.log(env.respawn_probs / 0.001) / math.log(100)
    for share in (end, back):
        assert kstest(share.reshape(-1), "uniform").pvalue > 1e-3
    limit = env.time_limit
    assert np.all((limit >= 20) & (limit <= 100) & (limit == np.round(limit)))
    assert abs(np.corrcoef(env.rewards[:, 1], env.rewards[:, 2])[0, 1]) < 0.2


@pytest.mark.slow
def test_every_grid_has_an_optimum_to_compare_with():
    """One program gives the best value of a batch; it lies between bounds by hand."""
    law = RandomGrids(height=3, width=3)
    tasks = sample_all(law, jax.random.split(jax.random.key(2), 64))

    @jax.jit
    @jax.vmap
    def optimum(env):
        mdp = env.as_mdp(0.95)
        return mdp.initial @ planning.value_iteration(mdp, tolerance=1e-3).values

    values, env = np.asarray(optimum(tasks.env)), jax.device_get(tasks.env)
    assert np.all(values > 0)  # the first object pays
    # Never more than every object at every step, and not less than the first object alone where
    # there is nothing bad to step on and nothing that ends the episode on the way.
    row, column = np.divmod(env.positions, 3)
    steps = abs(row - env.start[:, None] // 3) + abs(column - env.start[:, None] % 3)
    nearest = (steps[:, 0] < steps[:, 1]) & (env.rewards[:, 1] >= 0)
    bound = 0.95 ** (steps[:, 0] - 1) * env.rewards[:, 0]
    assert np.any(nearest) and np.all(values[nearest] >= bound[nearest] - 1e-3)
    assert np.all(values <= np.maximum(env.rewards, 0).sum(1) / 0.05)


@pytest.mark.parametrize("name", [param for param in NAMES if "mazes" in param.values[0]])
def test_mazes_can_be_solved(name):
    level = drawn(name).env.level
    assert np.all(jax.jit(jax.vmap(envs.GridLevel.is_solvable))(level))
    if name == "mazes":
        num_walls = level.walls.sum((1, 2))
        assert num_walls.min() >= 3 and num_walls.max() == 12


def test_bandits_have_means_from_their_range():
    means = drawn("bandits").env.means
    assert kstest(means.reshape(-1), "uniform").pvalue > 1e-3
    means = drawn("normal bandits").env.means
    assert set(np.unique(means)) == {-1.0, 2.0}
    assert chisquare(np.bincount(means.reshape(-1) > 0)).pvalue > 1e-3


def test_listed_tasks_are_drawn_evenly():
    tasks = jax.tree.map(lambda leaf: leaf[:8], drawn("grids"))
    tasks = tasks.replace(total_steps=np.arange(8.0, dtype=np.float32))
    again = sample_all(tasks, jax.random.split(jax.random.key(3), 2000))
    which = np.asarray(again.total_steps).astype(int)
    assert chisquare(np.bincount(which, minlength=8)).pvalue > 1e-3
    np.testing.assert_array_equal(again.env.positions, np.asarray(tasks.env.positions)[which])


@pytest.mark.parametrize(
    ("law", "message"),
    [
        (RandomGrids(num_objects=0), "num_objects=0"),
        (RandomGrids(height=1, width=2, num_objects=2), "does not fit on 1 x 2"),
        (RandomMazes(levels=envs.DugWalls(height=4)), "odd sizes"),
        (RandomBandits(num_arms=0), "at least one arm"),
    ],
)
def test_bad_sizes_give_one_clear_line(law, message):
    with pytest.raises(ValueError, match=message) as error:
        law.sample(jax.random.key(0))
    assert "\n" not in str(error.value)
