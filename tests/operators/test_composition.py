"""Compositions and value mappings."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.operators import (
    Avoidance,
    DiscountedSum,
    HTransform,
    Identity,
    LogMapping,
    Mapped,
    MaxForm,
    MinForm,
    Reachability,
    SignedHyperbolic,
)

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
NUM = 400
HELD = (np.inf, -np.inf, np.nan, 7.0)


@pytest.fixture(params=COMPOSITIONS)
def composition(request):
    return request.param


@pytest.fixture(params=MAPPINGS)
def mapping(request):
    return request.param


def cases():
    """Rewards, discounts, returns and other returns, `[NUM]` each."""
    rng = np.random.default_rng(0)
    discount = rng.choice([0.0, 0.5, 0.99, 1.0], size=NUM)
    reward = rng.normal(size=NUM)
    rest = np.random.default_rng(1).normal(size=NUM) * 3
    return tuple(x.astype(np.float32) for x in (reward, discount, rest))


def rows():
    """Every triple that a composition is called with, by name: `[..., NUM]`."""
    reward, discount, rest = cases()
    full, none = np.full_like, np.zeros_like(discount)
    calls = {
        "alone": (reward, none, none),
        "plain": (reward, discount, rest),
        "more": (reward, discount, rest + 0.5),
        "reverse": (reward, discount, rest[::-1]),
        "middle": (reward, discount, 0.5 * (rest + rest[::-1])),
        "small": (0.01 * reward, discount, rest),
        "small_more": (0.01 * reward, discount, rest + 0.5),
        "mirrored": (-reward, discount, -rest),
        "no_rest": (full(reward, -np.inf), none, full(reward, 1.0)),
        "all_rest": (full(reward, np.inf), none, full(reward, 1.0)),
        "nan_reward": (full(reward, np.nan), discount * 0 + 1, rest),
        "nan_rest": (reward, discount * 0 + 1, full(reward, np.nan)),
    }
    return calls | {f"held_{x}": (reward, none, full(reward, x)) for x in HELD}


@functools.cache
def measured():
    """Of every composition: what it makes of each row, and its slopes after the end."""
    calls = rows()
    stacked = [np.stack(part).astype(np.float32) for part in zip(*calls.values(), strict=True)]
    ended = np.stack([name.startswith("held_") for name in calls])

    @jax.jit
    def measure(reward, discount, rest):
        found = {}
        for name, composition in COMPOSITIONS.items():
            slope = jax.grad(lambda *x, c=composition: jnp.sum(c(*x)), (0, 1, 2))
            slopes = slope(*(x[ended] for x in (reward, discount, rest)))
            found[name] = composition(reward, discount, rest), slopes
        for name, mapping in MAPPINGS.items():
            *first, mapped = reward[1], discount[1], mapping.forward(rest[1])
            found[f"back_{name}"] = mapping.inverse(Mapped(mapping)(*first, mapped))
        return found

    found = jax.device_get(measure(*stacked))
    for name in COMPOSITIONS:
        values, slopes = found[name]
        found[name] = dict(zip(calls, values, strict=True)) | {"slopes": slopes}
    return found


def test_nothing_is_read_after_the_end(composition):
    """A function of the reward alone, in value and gradient, whatever stands for the rest."""
    found, (reward, _, _) = measured()[composition], cases()
    for held in HELD:
        np.testing.assert_array_equal(found[f"held_{held}"], found["alone"])
    by_reward, _, by_rest = found["slopes"]
    kind = COMPOSITIONS[composition]
    if not isinstance(kind, Mapped):
        np.testing.assert_array_equal(found["alone"], reward)
        np.testing.assert_array_equal(found["no_rest"], -np.inf)
        np.testing.assert_array_equal(found["all_rest"], np.inf)
        np.testing.assert_array_equal(by_reward, 1.0)
    else:  # f(r), with the slope of f by a difference
        step = 1e-4 * np.maximum(1.0, np.abs(reward))
        ahead, behind = (there_and_back(kind.mapping, reward + s, True)[0] for s in (step, -step))
        slope = (ahead - behind) / (2 * step)
        far = np.abs(reward) > 1e-3  # from the seam at 0
        np.testing.assert_allclose(by_reward[:, far], np.stack([slope[far]] * 4), rtol=2e-3)
        np.testing.assert_allclose(
            found["alone"], there_and_back(kind.mapping, reward, True)[0], rtol=2e-5, atol=1e-5
        )
    np.testing.assert_array_equal(by_rest, 0.0)


def test_a_nan_that_is_read_is_reported(composition):
    found = measured()[composition]
    assert np.all(np.isnan(found["nan_reward"])) and np.all(np.isnan(found["nan_rest"]))


def test_monotone_in_the_rest(composition):
    found = measured()[composition]
    assert np.all(found["more"] >= found["plain"] - 1e-5)


def test_contraction_is_as_stated(composition):
    """|difference| <= discount |change of the rest| everywhere, exactly when it says so."""
    found, (_, discount, _) = measured()[composition], cases()
    moved = np.abs(found["small_more"] - found["small"])
    within = bool(np.all(moved <= discount * 0.5 + 1e-5))
    assert within == COMPOSITIONS[composition].facts.contracts


def test_linearity_is_as_stated(composition):
    found = measured()[composition]
    mean = 0.5 * (found["plain"] + found["reverse"])
    is_linear = bool(np.all(np.abs(mean - found["middle"]) < 1e-5))
    assert is_linear == COMPOSITIONS[composition].facts.linear


def test_only_extreme_forms_need_a_law(composition):
    kind = COMPOSITIONS[composition]
    assert kind.facts.needs_law == isinstance(kind, (MinForm, MaxForm))


def test_every_composition_is_its_formula():
    """In float64, by NumPy, where the episode goes on and where it does not."""
    reward, d, rest = (x.astype(float) for x in cases())
    ends = d == 0
    expected = {
        "sum": reward + d * rest,
        "min": np.where(ends, reward, np.minimum(reward, d * rest)),
        "max": np.where(ends, reward, np.maximum(reward, d * rest)),
        "reach": (1 - d) * reward + d * np.maximum(reward, rest),
        "avoid": (1 - d) * reward + d * np.minimum(reward, rest),
    }
    for name, wanted in expected.items():
        np.testing.assert_allclose(measured()[name]["plain"], wanted, atol=2e-6, err_msg=name)


@functools.cache
def unrolled():
    """Returns of one episode of three steps: the last one has discount 0."""

    @jax.jit
    def unroll(rewards, discount):
        def all_of(composition, rewards):
            result = jnp.zeros(())
            for reward, d in zip(rewards[::-1], (0.0, discount, discount), strict=True):
                result = composition(reward, d, result)
            return result

        found = {name: all_of(COMPOSITIONS[name], rewards) for name in COMPOSITIONS}
        return found | {"max_of_minus": all_of(MaxForm(), -rewards)}

    rewards = np.float32([3.0, 1.5, 4.0])
    return {d: jax.device_get(unroll(rewards, np.float32(d))) for d in (0.5, 1.0)}


def test_returns_of_an_episode():
    found = unrolled()
    assert found[0.5]["sum"] == 3.0 + 0.75 + 1.0
    assert found[1.0]["min"] == 1.5  # not the zero after the end
    assert found[1.0]["max_of_minus"] == -1.5
    assert found[0.5]["min"] == min(3.0, 0.75, 1.0)
    assert found[0.5]["max"] == max(3.0, 0.75, 1.0)
    assert found[1.0]["reach"] == 4.0
    assert found[1.0]["avoid"] == 1.5
    # (1 - d) 3 + d max(3, (1 - d) 1.5 + d max(1.5, 4)) with d = 1/2: inner 2.75, 3 stays.
    assert found[0.5]["reach"] == 3.0


def test_min_and_expectation_do_not_commute():
    """Rest 0 or 4 with even odds, reward 2: the law gives (0 + 2) / 2, the mean min(2, 2)."""
    least = np.asarray(MinForm()(2.0, 1.0, np.float32([0.0, 4.0, 2.0])))
    assert least[:2].mean() == 1.0
    assert least[2] == 2.0


def test_avoidance_is_the_feasibility_operator_mirrored():
    violation, discount, rest = cases()
    expected = (1 - discount) * violation + discount * np.maximum(violation, rest)
    np.testing.assert_allclose(-measured()["avoid"]["mirrored"], expected, atol=1e-6)


def test_reachable_set_on_a_line():
    """Margin 1 in the last of 5 cells, -1 elsewhere; the first two cells fall back for ever. As
    the discount tends to 1, the values' signs are the exact reachable set."""
    margin = np.float32([-1.0, -1.0, -1.0, -1.0, 1.0])
    after = np.array([0, 0, 3, 4, 4])

    @jax.jit
    def solve():
        sweep = lambda _, value: Reachability()(margin, 0.99, value[after])  # noqa: E731
        return jax.lax.fori_loop(0, 3000, sweep, jnp.zeros(5))

    # In cells 3 and 2: 0.99 - 0.01, and then 0.99 of that less 0.01.
    np.testing.assert_allclose(solve(), [-1.0, -1.0, 0.9602, 0.98, 1.0], rtol=1e-5)


# ---- mappings --------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnames="wide")
def _there_and_back(mapping, values, wide):
    mapped = mapping.forward(values)
    back = mapping.inverse(mapped)
    down = jax.vmap(jax.grad(mapping.inverse))(mapped)
    return mapped, back, jax.vmap(jax.grad(mapping.forward))(values), down


def there_and_back(mapping, values, wide):
    """Mapped values, what they go back to, and the slopes of both ways: one program a mapping."""
    full = np.zeros(NUM, np.float64 if wide else np.float32)
    full[: len(values)] = values
    with jax.enable_x64(wide):
        found = _there_and_back(mapping, full, wide)
    return [np.asarray(x)[: len(values)] for x in found]


def test_mappings_invert_to_rounding(mapping):
    kind = MAPPINGS[mapping]
    sizes = np.concatenate([np.logspace(-12, 4, 60), [0.0]])
    values = np.concatenate([-sizes, sizes])
    mapped, back, *_ = there_and_back(kind, values, True)
    # The log mapping stores differences relative to its offset and threshold.
    scale = 1e-14 if isinstance(kind, LogMapping) else 0.0
    np.testing.assert_allclose(back, values, rtol=2e-12, atol=scale)
    order = np.argsort(values)
    assert np.all(np.diff(mapped[order]) >= 0)
    back = there_and_back(kind, values, False)[1]
    np.testing.assert_allclose(
        back,
        values.astype(np.float32),
        rtol=2e-3 if mapping == "log" else 2e-5,
        atol=3e-6 if isinstance(kind, LogMapping) else 0.0,
    )


def test_mappings_have_inverse_slopes(mapping):
    """Finite at 0 and at the seams; f'(x) (f^-1)'(f(x)) = 1."""
    kind, values = MAPPINGS[mapping], np.array([-3.0, -0.2, 0.0, 0.3, 2.0, 7.0])
    _, _, up, down = there_and_back(kind, values, True)
    inner = values != 2.0 if isinstance(kind, LogMapping) else values == values
    np.testing.assert_allclose((up * down)[inner], 1.0, rtol=1e-9)
    assert np.all(up > 0) and np.all(np.isfinite(up))


def test_mappings_are_their_formulas():
    x = np.linspace(-50, 50, 101)
    size, sign = np.abs(x), np.sign(x)
    expected = {
        "identity": x,
        "h": sign * (np.sqrt(size + 1) - 1) + 1e-3 * x,
        "root": sign * (np.sqrt(size + 1) - 1),
        "asinh": sign * 0.5 * np.log(size / 0.5 + np.sqrt((size / 0.5) ** 2 + 1)),
        # A line of slope (t + o) / o below 0, the logarithm up to t, and then what is stored.
        "log": np.where(
            x > 2, x, 2 + 2.01 * np.log((np.clip(x, 0, 2) + 0.01) / 2.01) + 201 * np.minimum(x, 0)
        ),
    }
    for name, wanted in expected.items():
        found = there_and_back(MAPPINGS[name], x, True)[0]
        np.testing.assert_allclose(found, wanted, rtol=1e-12, atol=1e-14, err_msg=name)


def test_h_transform_by_its_formula():
    x = np.linspace(-50, 50, 101)
    expected = np.sign(x) * (np.sqrt(np.abs(x) + 1) - 1) + 0.01 * x
    found = there_and_back(HTransform(0.01), x, True)[0]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(
    "scale", [1.0, *(pytest.param(s, marks=pytest.mark.slow) for s in (0.5, 1e3))]
)
def test_signed_hyperbolic_has_finite_returns_for_all_that_is_stored(scale):
    """exp(89) is infinite in float32; an infinite return stays one, as of an illegal action."""
    mapping, far = SignedHyperbolic(scale), np.float32([80.0, 90.0, 1e6, 3e38])
    returns = mapping.inverse(scale * jnp.asarray([*far[:3], 3e35]))
    assert np.all(np.isfinite(returns)) and np.all(np.diff(returns) >= 0)
    np.testing.assert_allclose(mapping.inverse(-scale * far[:3]), -returns[:3], rtol=1e-6)
    assert np.all(np.isfinite(jax.vmap(jax.grad(mapping.inverse))(scale * jnp.asarray(far[:3]))))
    assert mapping.inverse(jnp.array([-jnp.inf, jnp.inf])).tolist() == [-np.inf, np.inf]


def test_log_mapping_is_smooth_at_its_seams():
    mapping, step = LogMapping(0.1, 2.0), 1e-7
    for seam in (0.0, 2.0):
        points = seam + step * np.array([-1.0, 0.0, 1.0])
        mapped, _, slopes, _ = there_and_back(mapping, points, True)
        np.testing.assert_allclose(slopes[0], slopes[2], rtol=1e-5)
        np.testing.assert_allclose(np.diff(mapped), slopes[[0, 2]] * step, rtol=1e-5)


def test_mapped_returns_are_the_mapped_sum(mapping):
    reward, discount, rest = cases()
    found = measured()[f"back_{mapping}"]
    np.testing.assert_allclose(found, reward + discount * rest, atol=2e-4)


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
