"""Compositions, value mappings and reward channels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.operators.composition import (
    Avoidance,
    DiscountedSum,
    Mapped,
    MaxForm,
    MinForm,
    Reachability,
)
from jaxrl.operators.reward_channels import RewardChannels
from jaxrl.operators.value_mapping import HTransform, Identity, LogMapping, SignedHyperbolic

pytestmark = pytest.mark.usefixtures("quick_compilation")

MAPPINGS = {
    "identity": Identity(),
    "h": HTransform(1e-3),
    "root": HTransform(0.0),
    "asinh": SignedHyperbolic(0.5),
    "log": LogMapping(0.01, 2.0),
}
COMPOSITIONS = {
    "sum": DiscountedSum(),
    "min": MinForm(),
    "max": MaxForm(),
    "reach": Reachability(),
    "avoid": Avoidance(),
    **{f"mapped_{name}": Mapped(mapping) for name, mapping in MAPPINGS.items()},
}


@pytest.fixture(params=COMPOSITIONS.values(), ids=COMPOSITIONS.keys())
def composition(request):
    return request.param


@pytest.fixture(params=MAPPINGS.values(), ids=MAPPINGS.keys())
def mapping(request):
    return request.param


@jax.jit
def compose(composition, reward, discount, next_return):
    return composition(reward, discount, next_return)


@jax.jit
def slope(composition, reward, discount, next_return):
    return jax.vmap(jax.grad(lambda *x: composition(*x), (0, 1, 2)))(reward, discount, next_return)


def cases(num=400):
    rng = np.random.default_rng(0)
    discount = rng.choice([0.0, 0.5, 0.99, 1.0], size=num)
    return (jnp.asarray(x, jnp.float32) for x in (rng.normal(size=num), discount))


def random_returns(num=400):
    return jnp.asarray(np.random.default_rng(1).normal(size=num) * 3, jnp.float32)


def test_nothing_is_read_after_the_end(composition):
    """A function of the reward alone, in value and gradient, whatever stands for the rest."""
    reward, discount = cases()
    zero = jnp.zeros_like(discount)
    alone = compose(composition, reward, zero, jnp.zeros_like(reward))
    for held in (jnp.inf, -jnp.inf, jnp.nan, 7.0):
        rest = jnp.full_like(reward, held)
        np.testing.assert_array_equal(compose(composition, reward, zero, rest), alone)
        by_reward, _, by_rest = slope(composition, reward, zero, rest)
        assert jnp.all(jnp.isfinite(by_reward)) and jnp.all(by_rest == 0)
    if not isinstance(composition, Mapped):
        np.testing.assert_array_equal(alone, reward)
        margins = jnp.array([-jnp.inf, jnp.inf])
        ended = compose(composition, margins, jnp.zeros(2), jnp.ones(2))
        np.testing.assert_array_equal(ended, margins)


def test_a_nan_that_is_read_is_reported(composition):
    reward, discount, rest = jnp.array([jnp.nan, 1.0]), jnp.ones(2), jnp.array([1.0, jnp.nan])
    assert jnp.all(jnp.isnan(compose(composition, reward, discount, rest)))


def test_monotone_in_the_rest(composition):
    reward, discount = cases()
    rest = random_returns()
    more = rest + 0.5
    low, high = (compose(composition, reward, discount, z) for z in (rest, more))
    assert jnp.all(high >= low - 1e-5)


def test_contraction_is_as_stated(composition):
    """|difference| <= discount |change of the rest| everywhere, exactly when it says so."""
    reward, discount = cases()
    rest = random_returns()
    low, high = (compose(composition, 0.01 * reward, discount, z) for z in (rest, rest + 0.5))
    within = bool(jnp.all(jnp.abs(high - low) <= discount * 0.5 + 1e-5))
    assert within == composition.contracts


def test_linearity_is_as_stated(composition):
    reward, discount = cases()
    a, b = random_returns(), random_returns()[::-1]
    mean = 0.5 * (
        compose(composition, reward, discount, a) + compose(composition, reward, discount, b)
    )
    mixed = compose(composition, reward, discount, 0.5 * (a + b))
    assert bool(jnp.all(jnp.abs(mean - mixed) < 1e-5)) == composition.linear


def test_only_extreme_forms_need_a_law(composition):
    assert composition.needs_law == isinstance(composition, (MinForm, MaxForm))


def unroll(composition, rewards, discount):
    """The return of one episode: the last step has discount 0."""
    discounts = jnp.full(len(rewards), discount).at[-1].set(0.0)
    result = jnp.zeros(())
    for reward, d in zip(rewards[::-1], discounts[::-1], strict=True):
        result = composition(reward, d, result)
    return float(result)


def test_returns_of_an_episode():
    rewards = jnp.array([3.0, 1.5, 4.0])
    assert unroll(DiscountedSum(), rewards, 0.5) == 3.0 + 0.75 + 1.0
    assert unroll(MinForm(), rewards, 1.0) == 1.5  # not the zero after the end
    assert unroll(MaxForm(), -rewards, 1.0) == -1.5
    assert unroll(MinForm(), rewards, 0.5) == min(3.0, 0.75, 1.0)
    assert unroll(MaxForm(), rewards, 0.5) == max(3.0, 0.75, 1.0)
    assert unroll(Reachability(), rewards, 1.0) == 4.0
    assert unroll(Avoidance(), rewards, 1.0) == 1.5
    # (1 - d) 3 + d max(3, (1 - d) 1.5 + d max(1.5, 4)) with d = 1/2: inner 2.75, 3 stays.
    assert unroll(Reachability(), rewards, 0.5) == 3.0


def test_min_and_expectation_do_not_commute():
    """Rest 0 or 4 with even odds, reward 2: the law gives (0 + 2) / 2, the mean min(2, 2)."""
    rest = jnp.array([0.0, 4.0])
    assert float(jnp.mean(MinForm()(2.0, 1.0, rest))) == 1.0
    assert float(MinForm()(2.0, 1.0, jnp.mean(rest))) == 2.0


def test_avoidance_is_the_feasibility_operator_mirrored():
    violation, discount = cases()
    rest = random_returns()
    expected = (1 - discount) * violation + discount * jnp.maximum(violation, rest)
    ours = -compose(Avoidance(), -violation, discount, -rest)
    np.testing.assert_allclose(ours, expected, atol=1e-6)


def test_reachable_set_on_a_line():
    """Margin 1 in the last of 5 cells, -1 elsewhere; the first two cells fall back for ever. As
    the discount tends to 1, the values' signs are the exact reachable set."""
    margin = jnp.array([-1.0, -1.0, -1.0, -1.0, 1.0])
    after = jnp.array([0, 0, 3, 4, 4])
    value = jnp.zeros(5)
    for _ in range(3000):
        value = compose(Reachability(), margin, 0.99, value[after])
    assert (value > 0).tolist() == [False, False, True, True, True]
    np.testing.assert_allclose(value[4], 1.0, rtol=1e-5)


# ---- mappings --------------------------------------------------------------------------------


@jax.jit
def there_and_back(mapping, values):
    mapped = mapping.forward(values)
    return mapped, mapping.inverse(mapped)


def test_mappings_invert_to_rounding(mapping):
    sizes = np.concatenate([np.logspace(-12, 4, 60), [0.0]])
    values = np.concatenate([-sizes, sizes])
    with jax.enable_x64(True):
        mapped, back = there_and_back(mapping, jnp.asarray(values))
        # The log mapping stores differences relative to its offset and threshold.
        scale = 1e-14 if isinstance(mapping, LogMapping) else 0.0
        np.testing.assert_allclose(back, values, rtol=2e-12, atol=scale)
        order = np.argsort(values)
        assert np.all(np.diff(np.asarray(mapped)[order]) >= 0)
    back = there_and_back(mapping, jnp.asarray(values, jnp.float32))[1]
    np.testing.assert_allclose(
        back,
        values,
        rtol=2e-3 if mapping == MAPPINGS["log"] else 2e-5,
        atol=3e-6 if isinstance(mapping, LogMapping) else 0.0,
    )


def test_mappings_have_inverse_slopes(mapping):
    """Finite at 0 and at the seams; f'(x) (f^-1)'(f(x)) = 1."""
    values = jnp.array([-3.0, -0.2, 0.0, 0.3, 2.0, 7.0])
    up = jax.vmap(jax.grad(mapping.forward))(values)
    down = jax.vmap(jax.grad(mapping.inverse))(mapping.forward(values))
    inner = values != 2.0 if isinstance(mapping, LogMapping) else values == values
    np.testing.assert_allclose(np.asarray(up * down)[inner], 1.0, rtol=1e-4)
    assert jnp.all(up > 0) and jnp.all(jnp.isfinite(up))


def test_h_transform_by_its_formula():
    x = np.linspace(-50, 50, 101)
    expected = np.sign(x) * (np.sqrt(np.abs(x) + 1) - 1) + 0.01 * x
    np.testing.assert_allclose(HTransform(0.01).forward(jnp.asarray(x)), expected, rtol=1e-5)


def test_log_mapping_is_smooth_at_its_seams():
    mapping, step = LogMapping(0.1, 2.0), 1e-3
    for seam in (0.0, 2.0):
        left, right = (jax.grad(mapping.forward)(seam + d) for d in (-step, step))
        np.testing.assert_allclose(left, right, rtol=0.03)
        jump = mapping.forward(seam + 1e-6) - mapping.forward(seam - 1e-6)
        assert abs(float(jump)) < 1e-4


def test_mapped_returns_are_the_mapped_sum(mapping):
    reward, discount = cases()
    rest = random_returns()
    ours = mapping.inverse(compose(Mapped(mapping), reward, discount, mapping.forward(rest)))
    np.testing.assert_allclose(ours, reward + discount * rest, atol=2e-4)


@pytest.mark.parametrize(
    ("kind", "setting"),
    [
        (HTransform, "epsilon"),
        (SignedHyperbolic, "scale"),
        (LogMapping, "offset"),
        (LogMapping, "threshold"),
    ],
)
def test_settings_out_of_range_are_refused(kind, setting):
    with pytest.raises(ValueError, match=setting):
        kind(**{setting: -1.0})


# ---- reward channels -------------------------------------------------------------------------


def test_identity_channels_are_q_learning_exactly():
    channels = RewardChannels((Identity(), Identity()), jnp.array([1.0, 0.5]))
    rng = np.random.default_rng(3)
    next_params, mask = rng.normal(size=(4, 2)), np.array([True, True, False, True])
    current, reward = rng.normal(size=2), rng.normal(size=2)
    ours = channels.update(
        jnp.asarray(current),
        jnp.asarray(reward),
        0.9,
        jnp.asarray(next_params),
        0.3,
        0.5,
        jnp.asarray(mask),
    )
    best = np.argmax(np.where(mask, next_params @ [1.0, 0.5], -np.inf))
    target = reward + 0.9 * next_params[best]
    np.testing.assert_allclose(ours, current + 0.15 * (target - current), atol=1e-6)
    # The weighted sum of the channels is what plain Q-learning on the summed reward stores.
    summed = current @ [1, 0.5] + 0.15 * (
        reward @ [1, 0.5] + 0.9 * (next_params @ [1, 0.5])[best] - current @ [1, 0.5]
    )
    np.testing.assert_allclose(channels.q_values(ours), summed, atol=1e-6)


def test_the_action_is_joint_not_per_channel():
    channels = RewardChannels((Identity(), Identity()), jnp.ones(2))
    after = jnp.array([[10.0, -20.0], [0.0, 1.0], [-20.0, 10.0]])
    assert channels.target(jnp.zeros(2), 1.0, after).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("mapping", [LogMapping(0.02, 4.0), HTransform(0.0)])
def test_stationary_value_goes_from_the_f_mean_to_the_mean(mapping):
    """Rewards 0 or 4 with even odds, discount 0: at value_rate 1 the stationary value is
    f^-1((f(0) + f(4)) / 2), far below the mean 2 that value_rate -> 0 gives."""
    channels = RewardChannels((mapping,), jnp.ones(1))
    lanes, rate = 512, 2e-3
    middle = 0.5 * (mapping.forward(jnp.array(0.0)) + mapping.forward(jnp.array(4.0)))
    f_mean = float(mapping.inverse(middle))

    @jax.jit
    def stationary(value_rate, key):
        def step(params, key):
            rewards = 4.0 * jax.random.bernoulli(key, 0.5, (lanes, 1))
            new = jax.vmap(
                lambda c, r: channels.update(
                    c, r, 0.0, jnp.zeros((1, 1)), value_rate, rate / value_rate
                )
            )(params, rewards)
            return new, ()

        start = jnp.full((lanes, 1), middle)
        return jnp.mean(channels.values(jax.lax.scan(step, start, jax.random.split(key, 4000))[0]))

    key = jax.random.key(0)
    assert abs(float(stationary(1.0, key)) - f_mean) < 0.05
    assert f_mean < 1.7
    assert abs(float(stationary(rate, key)) - 2.0) < 0.05
    assert f_mean < float(stationary(0.3, key)) < 2.0


def test_decomposition_keeps_the_greedy_policy():
    """Reward split into its positive and negative parts: the same best actions and values."""
    num_states, num_actions, discount = 5, 3, 0.7
    rng = np.random.default_rng(4)
    after = jnp.asarray(rng.integers(num_states, size=(num_states, num_actions)))
    reward = jnp.asarray(rng.normal(size=(num_states, num_actions)))
    parts = jnp.stack([jnp.maximum(reward, 0), jnp.maximum(-reward, 0)], axis=-1)
    channels = RewardChannels(
        (LogMapping(0.05, 10.0), LogMapping(0.05, 10.0)), jnp.array([1.0, -1.0])
    )

    @jax.jit
    def solve():
        def sweep(_, both):
            params, q = both
            new = jax.vmap(
                jax.vmap(lambda c, r, n: channels.update(c, r, discount, params[n], 0.5, 0.9))
            )(params, parts, after)
            return new, reward + discount * jnp.max(q, axis=1)[after]

        zero = channels.params(jnp.zeros((num_states, num_actions, 2)))
        return jax.lax.fori_loop(0, 400, sweep, (zero, jnp.zeros_like(reward)))

    params, q = solve()
    np.testing.assert_allclose(channels.q_values(params), q, atol=2e-3)
    np.testing.assert_array_equal(jnp.argmax(channels.q_values(params), 1), jnp.argmax(q, axis=1))
