"""Spaces: draws are members, finite and well spread, whatever the bounds."""

from __future__ import annotations

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from jaxrl.core import Box, Discrete, MultiDiscrete, spaces, struct

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
    "several": MultiDiscrete([3, 1, 2]),
}

DISCRETE = ("discrete", "discrete_one", "several")


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
    low, high = (
        (0, np.subtract(space.num_values, 1)) if name in DISCRETE else (space.low, space.high)
    )
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
        (SPACES["several"], [2, 0, 1], True),
        (SPACES["several"], [2, 1, 1], False),
        (SPACES["several"], [2, 0, -1], False),
        (SPACES["several"], [2, 0.5, 1], False),
        (SPACES["several"], [2, 0], False),
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
        (MultiDiscrete, ([],)),
        (MultiDiscrete, ([3, 0],)),
        (MultiDiscrete, ([3, 1.5],)),
        (MultiDiscrete, ([[3, 2], [1, 1]],)),
        (MultiDiscrete, (3,)),
    ],
)
def test_sizes_that_are_none_are_refused_where_they_are_given(build, arguments):
    with pytest.raises(
        ValueError, match=rf"{build.__name__}.*takes a (tuple|whole number|flat list)"
    ):
        build(*arguments)
    assert Discrete(np.int64(2)).num_values == 2 and Box(0.0, 1.0, (np.int32(3),)).shape == (3,)


def test_bounds_may_be_traced():
    draw = jax.jit(lambda low: Box(low, low + 1.0, (3,)).sample(jax.random.key(1)))
    np.testing.assert_allclose(
        draw(np.float32(5.0)), np.asarray(draw(np.float32(0.0))) + 5.0, atol=1e-6
    )


@pytest.mark.parametrize(
    "space, size",
    [
        (Discrete(5), 5),
        (SPACES["bytes"], 6),
        (SPACES["scalar"], 1),
        (SPACES["several"], 6),
        ({"a": Discrete(5), "b": (SPACES["bytes"], SPACES["several"])}, 17),
    ],
)
def test_flat_size(space, size):
    assert spaces.flat_size(space) == size


@pytest.mark.parametrize("mask", [None, [True, False, True, True, False, True], [False] * 6])
def test_several_discrete_numbers_are_those_of_gymnasium(mask):
    """The same members, and the same draws under a mask of each coordinate, all of them likely."""
    ours, theirs = MultiDiscrete([3, 1, 2]), gymnasium.spaces.MultiDiscrete([3, 1, 2], seed=0)
    if mask is not None and not any(mask):  # gymnasium and we take the first of each
        mask = np.zeros(6, bool)
    parts = () if mask is None else np.split(np.array(mask), [3, 4])
    others = {
        tuple(theirs.sample(tuple(p.astype(np.int8) for p in parts) or None)) for _ in range(99)
    }
    draw = jax.vmap(lambda key: ours.sample(key, () if mask is None else jnp.array(mask)))
    drawn = np.asarray(draw(jax.random.split(jax.random.key(0), 200)))
    assert {tuple(row) for row in drawn.tolist()} == {tuple(map(int, row)) for row in others}
    assert drawn.shape == (200, 3) and drawn.dtype == np.int32
    for value in np.ndindex(4, 2, 3):
        assert bool(ours.contains(np.array(value))) == theirs.contains(np.array(value))


def test_a_mask_allows_a_value_where_it_is_true_in_every_coordinate():
    space, mask = MultiDiscrete([2, 3]), jnp.array([True, False, False, True, True])
    allowed = [value for value in np.ndindex(2, 3) if space.allows(mask, jnp.array(value))]
    assert allowed == [(0, 1), (0, 2)]
    assert [bool(Discrete(2).allows(mask[:2], one)) for one in range(2)] == [True, False]


def test_shares_of_the_legal_are_even():
    mask = np.array([0, 1, 1, 0, 1], bool)
    shares = (np.arange(300) + 0.5) / 300
    drawn = spaces.share_to_legal(np.broadcast_to(mask, (300, 5)), shares)
    assert np.bincount(drawn, minlength=5).tolist() == [0, 100, 100, 0, 100]
    assert int(spaces.share_to_legal(mask, jnp.float32(1.0))) == 4  # were it to come out as that
    assert int(spaces.share_to_legal(mask & False, jnp.float32(0.7))) == 0


@struct.dataclass
class Seen:
    """A struct of spaces, or of their members."""

    image: object
    rest: object


TREES = {
    "dict": {"image": SPACES["bytes"], "goal": SPACES["discrete"]},
    "tuple": (SPACES["several"], SPACES["unit"]),
    "struct": Seen(SPACES["bytes"], {"bag": SPACES["several"], "speed": SPACES["mixed"]}),
}


@pytest.mark.parametrize("name", TREES)
def test_a_member_of_a_tree_is_built_like_it_of_members_of_its_leaves(name):
    tree = TREES[name]
    drawn = spaces.sample(jax.random.key(0), tree)
    assert jax.tree.structure(drawn) == jax.tree.structure(tree, is_leaf=spaces.is_leaf)
    for leaf, array in zip(spaces.leaves(tree), jax.tree.leaves(drawn), strict=True):
        assert array.shape == leaf.shape and array.dtype == leaf.dtype
    assert spaces.contains(tree, drawn)
    assert not spaces.contains(tree, jax.tree.map(lambda leaf: leaf - 300, drawn))
    assert not spaces.contains(tree, (drawn,)) and not spaces.contains(tree, jnp.zeros(3))


@pytest.mark.parametrize("tree, said", [({"a": 3}, r"\['a'\], 3"), ({}, "{}"), (None, "None")])
def test_what_is_no_space_is_named(tree, said):
    with pytest.raises(ValueError, match=rf"{said} is no space: give"):
        spaces.leaves(tree)
