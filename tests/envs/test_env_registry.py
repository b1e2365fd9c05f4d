"""`make`, `names` and `register`: the door by name."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.core import Box
from jaxrl.envs import TabularEnv, facts_of, make, names, register, riverswim


def test_names_cover_gymnax():
    import gymnax

    theirs = {name for name in names() if facts_of(name).suite not in ("jaxrl", "registered")}
    assert set(gymnax.registered_envs) - theirs == {"MNISTBandit-bsuite"}
    assert theirs <= set(gymnax.registered_envs)
    assert {"RiverSwim", "DeepSea", "Garnet"} <= set(names())


def size_of(space):
    return space.shape if isinstance(space, Box) else space.num_values


FEW = ("CartPole-v1", "RiverSwim", "MountainCarContinuous", "WalledGrid", "TwoColours")


@pytest.mark.parametrize(
    "listed", [FEW, pytest.param([*names()], marks=pytest.mark.slow)], ids=["few", "all"]
)
def test_facts_of_an_environment_are_those_of_the_built_one(listed):
    for name in listed:
        env, facts = make(name), facts_of(name)
        assert facts.observation == size_of(env.observation_space), name
        assert facts.action == size_of(env.action_space), name
        assert facts.is_continuous == isinstance(env.action_space, Box), name
        assert facts.is_tabular == isinstance(env, TabularEnv), name
        assert facts.suite and facts.about.endswith((".", "?")) and "\n" not in facts.about, name


def test_every_environment_that_hides_something_is_marked():
    # An agent that looks at one observation cannot know what pays, by the papers of these tasks.
    marked = {name for name in names() if facts_of(name).is_partial}
    assert marked == {
        "BernoulliBandit-misc",
        "GaussianBandit-misc",
        "MemoryChain-bsuite",
        "MetaMaze-misc",
        "PointRobot-misc",
        "TwoColours",
    }


@pytest.mark.slow
def test_building_one_does_not_import_what_gymnax_draws_with():
    code = (
        "import sys, jaxrl.envs as e; e.make('CartPole-v1');"
        "assert not {'pandas', 'seaborn', 'matplotlib.pyplot'} & set(sys.modules);"
        "import matplotlib; matplotlib.use('Agg'); from gymnax.environments.misc import pong;"
        "import seaborn; assert pong.sns.color_palette is seaborn.color_palette;"
        "assert pong.plt.subplots().__class__ is tuple"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow
def test_listing_names_does_not_import_gymnax():
    code = (
        "import sys, jaxrl.envs as e; e.names(); "
        "assert 'gymnax' not in sys.modules and 'matplotlib' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("CartPole-v2", {}, "did you mean CartPole-v1"),
        ("breakout", {}, "did you mean Breakout-MinAtar"),
        ("maze", {}, "did you mean RandomMaze or MetaMaze-misc|MetaMaze-misc or RandomMaze"),
        ("lake", {}, "FrozenLake-4x4, FrozenLake-8x8 or FrozenLake-misc"),
        ("CartPole-v1", {"gravty": 1.0}, "did you mean gravity"),
        ("CartPole-v1", {"total_mass": 1.0}, "derives 'total_mass'"),
        ("CartPole-v1", {"gravity": "heavy"}, "parameter gravity must be float32"),
        ("CartPole-v1", {"gravity": [1.0, 2.0]}, "shape"),
        ("CartPole-v1", {"gravity": float("nan")}, "NaN"),
        ("CartPole-v1", {"max_steps_in_episode": 2.5}, "int32"),
        ("CartPole-v1", {"max_steps_in_episode": 0}, "at least 1"),
        ("CartPole-v1", {"horizon_is_terminl": True}, "horizon_is_terminal"),
        ("MNISTBandit-bsuite", {}, "downloads MNIST"),
        ("Reacher-misc", {"num_joints": 3}, "num_joints=2"),
        ("MetaMaze-misc", {"maze_size": 4}, "refuses"),
        ("RiverSwim", {"num_state": 4}, "did you mean num_states"),
        ("RiverSwim", {"num_states": 1}, "at least 2"),
    ],
)
def test_bad_requests_name_the_remedy(name, parameters, message):
    with pytest.raises(ValueError, match=message) as error:
        make(name, **parameters)
    assert "\n" not in str(error.value)


def test_parameters_are_leaves_and_options_are_static():
    env = make("DeepSea-bsuite", size=5, unscaled_move_cost=0.5)
    assert env.observation_space.shape == (5, 5)
    assert int(env.params.max_steps_in_episode) == 5
    assert float(env.parameters["unscaled_move_cost"]) == 0.5
    plain = make("DeepSea-bsuite", size=5)
    assert jax.tree.structure(env) == jax.tree.structure(plain)
    assert jax.tree.structure(env) != jax.tree.structure(make("DeepSea-bsuite"))


def test_make_inside_a_trace_leaks_nothing():
    @jax.jit
    def build(key):
        return make("FourRooms-misc", goal_fixed=[8, 10]).reset(key)[1]

    inside = build(jax.random.key(0))
    outside = jax.jit(make("FourRooms-misc", goal_fixed=[8, 10]).reset)(jax.random.key(0))[1]
    np.testing.assert_array_equal(inside, outside)


@pytest.mark.slow
def test_vmap_over_a_parameter_is_an_uncertainty_set():
    env, key = make("CartPole-v1"), jax.random.key(0)
    forces = jnp.array([5.0, 10.0, 20.0])

    @jax.vmap
    def push(force):
        changed = env.with_parameters({"force_mag": force})
        state, first = changed.reset(key)
        return changed.step(key, state, 1)[1].observation[1] - first[1]

    # The change of speed is nearly linear in the force, as the pole hangs almost upright.
    np.testing.assert_allclose(push(forces) / forces, push(forces)[1] / 10.0, rtol=0.02)


def test_register():
    register("test-river", lambda num_states=4: TabularEnv(riverswim(num_states)))
    assert "test-river" in names() and facts_of("test-river").observation == 4
    assert make("test-river", num_states=9).observation_space.num_values == 9
    with pytest.raises(ValueError, match="taken"):
        register("test-river", make)
