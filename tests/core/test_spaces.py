"""Spaces: draws are members, finite and well spread, whatever the bounds."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxrl.core import Box, Discrete, spaces

INF = float("inf")
HUGE = float(np.finfo(np.float32).max)
NUM_DRAWS = 4000

SPACES = {
    "discrete": Discrete(5),
    "discrete_one": Discrete(1),
    "unit": Box(0.0, 1.0, (2,)),
    "mixed": Box(
        np.float32([-1.0, 0.0, -INF, -INF, -HUGE]), np.float32([2.0, INF, 3.0, INF, HUGE]), (5,)
    ),
    "integers": Box(-2.0, 3.0, (2,), jnp.dtype("int32")),
    "bytes": Box(0.0, 255.0, (2, 3, 1), jnp.dtype("uint8")),
    "booleans": Box(0.0, 1.0, (4,), jnp.dtype("bool")),
    "point": Box(4.0, 4.0, (1,)),
    "scalar": Box(-1.0, 1.0, ()),
}

DISCRETE = ("discrete", "discrete_one")


@pytest.fixture(scope="module")
def draws():
    """Of every space, and whether it contains them."""

    @jax.jit
    @jax.vmap
    def draw(key):
        drawn = {name: space.sample(key) for name, space in SPACES.items()}
        return drawn, {name: space.contains(drawn[name]) for name, space in SPACES.items()}

    return jax.device_get(draw(jax.random.split(jax.random.key(0), NUM_DRAWS)))


@pytest.mark.parametrize("name", SPACES)
def test_draws_are_finite_members_of_the_right_type(draws, name):
    space, drawn = SPACES[name], draws[0][name]
    assert drawn.shape == (NUM_DRAWS, *space.shape) and drawn.dtype == space.dtype
    assert np.all(np.isfinite(drawn))
    low, high = (0, space.num_values - 1) if name in DISCRETE else (space.low, space.high)
    assert np.all((drawn >= low) & (drawn <= high))
    assert np.all(draws[1][name])


@pytest.mark.parametrize(
    "name, members",
    [
        ("discrete", range(5)),
        ("integers", range(-2, 4)),
        ("booleans", (0, 1)),
        ("bytes", range(256)),
    ],
)
def test_whole_numbers_are_uniform_with_both_ends(draws, name, members):
    values, counts = np.unique(draws[0][name].astype(int), return_counts=True)
    assert values.tolist() == list(members)
    assert scipy.stats.chisquare(counts).pvalue > 1e-3


@pytest.mark.parametrize(
    "coordinate, law",
    [
        (0, scipy.stats.uniform(-1.0, 3.0)),
        (1, scipy.stats.expon()),
        (3, scipy.stats.norm()),
        (4, scipy.stats.norm()),  # bounds that a float32 can hardly hold count as infinite
    ],
)
def test_reals_follow_the_stated_law(draws, coordinate, law):
    sample = draws[0]["mixed"][:, coordinate]
    assert scipy.stats.kstest(sample, law.cdf).pvalue > 1e-3


def test_an_upper_bound_alone_is_approached_from_below(draws):
    below = 3.0 - draws[0]["mixed"][:, 2]
    assert scipy.stats.kstest(below, scipy.stats.expon.cdf).pvalue > 1e-3


def test_coordinates_are_independent_of_each_other(draws):
    correlation = np.corrcoef(draws[0]["unit"].T)[0, 1]
    assert abs(correlation) < 5.0 / NUM_DRAWS**0.5


@pytest.mark.parametrize(
    "space, value, inside",
    [
        (Discrete(3), 2, True),
        (Discrete(3), 3, False),
        (Discrete(3), -1, False),
        (Discrete(3), 1.5, False),
        (SPACES["unit"], [0.0, 1.0], True),
        (SPACES["unit"], [0.0, 1.1], False),
        (SPACES["unit"], [0.5], False),
        (SPACES["unit"], [0.5, float("nan")], False),
    ],
)
def test_membership(space, value, inside):
    assert bool(jax.jit(space.contains)(np.asarray(value))) is inside


@pytest.mark.parametrize(
    "build, arguments",
    [
        (Box, ((1,), -2.0, 2.0)),  # in another order
        (Box, (-2.0, 2.0, 3)),
        (Box, (-2.0, 2.0, [3])),
        (Box, (-2.0, 2.0, (3, 1.0))),
        (Box, (-2.0, 2.0, (-1,))),
        (Discrete, ((2,),)),
        (Discrete, (2.0,)),
        (Discrete, (0,)),
        (Discrete, (np.ones(2),)),
    ],
)
def test_sizes_that_are_none_are_refused_where_they_are_given(build, arguments):
    with pytest.raises(ValueError, match=rf"{build.__name__}.*takes a (tuple|whole number)"):
        build(*arguments)
    assert Discrete(np.int64(2)).num_values == 2 and Box(0.0, 1.0, (np.int32(3),)).shape == (3,)


def test_bounds_may_be_traced():
    draw = jax.jit(lambda low: Box(low, low + 1.0, (3,)).sample(jax.random.key(1)))
    np.testing.assert_allclose(
        draw(np.float32(5.0)), np.asarray(draw(np.float32(0.0))) + 5.0, atol=1e-6
    )


@pytest.mark.parametrize(
    "space, size", [(Discrete(5), 5), (SPACES["bytes"], 6), (SPACES["scalar"], 1)]
)
def test_flat_size(space, size):
    assert spaces.flat_size(space) == size
