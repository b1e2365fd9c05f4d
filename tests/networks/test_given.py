"""Networks that are not ours: modules of flax and pairs of functions, in every whole network."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn, nnx

from jaxrl.core import Box, Discrete
from jaxrl.networks import (
    ActionCritic,
    DeterministicActor,
    ImplicitQNetwork,
    NatureTorso,
    NetworkSettings,
    QNetwork,
    ResNetTorso,
    TanhGaussianActor,
    actor_critic,
)
from jaxrl.networks.given import as_network

KEY = jax.random.key(0)
SPACE = Box(-1.0, 1.0, (3,))
BATCH = np.random.default_rng(0).normal(size=(2, 4, 3)).astype(np.float32)


class Linen(nn.Module):
    """Flattens by the idiom that needs exactly one leading axis."""

    width: int = 5

    @nn.compact
    def __call__(self, x):
        return jnp.tanh(nn.Dense(self.width)(x.reshape(x.shape[0], -1)))


class Nnx(nnx.Module):
    def __init__(self, size, width=5, *, rngs):
        self.layers = nnx.List([nnx.Linear(size, width, rngs=rngs)])

    def __call__(self, x):
        return jnp.tanh(self.layers[0](x))


def drawn(key, x):
    return {"kernel": jax.random.normal(key, (x.shape[-1], 5))}


def applied(params, x):
    return jnp.tanh(x @ params["kernel"])


GIVEN = {
    "linen": Linen(),
    "nnx": functools.partial(Nnx, 3, width=5),
    "nnx as it is": Nnx(3, rngs=nnx.Rngs(7)),
    "pair": (drawn, applied),
}


def kernels(params):
    """The matrices [3, 5] of a network's parameters, or [C, 3, 5]."""
    return [leaf for leaf in jax.tree.leaves(params) if leaf.shape[-2:] == (3, 5)]


@functools.cache
def run_q(kind):
    """Of a dueling network: parameters and outputs of a batch `[2, 4]` and of one observation."""
    torso = as_network(GIVEN[kind]).torso(SPACE)
    model = QNetwork(torso, 2, dueling=True)
    params = model.init(KEY, BATCH)
    return params, model.apply(params, BATCH), model.apply(params, BATCH[1, 2])


@pytest.mark.parametrize("kind", GIVEN)
def test_the_agent_s_outputs_stand_on_the_features(kind):
    params, outputs, one = run_q(kind)
    own = {name: jax.tree.map(np.asarray, layer) for name, layer in params["params"].items()}
    (kernel,) = kernels(own["torso"])
    features = np.tanh(BATCH @ kernel)  # biases start at 0
    value = features @ own["value"]["kernel"]
    advantage = features @ own["advantage"]["kernel"]
    expected = value + advantage - advantage.mean(-1, keepdims=True)
    assert outputs.shape == (2, 4, 2) and one.shape == (2,)
    np.testing.assert_allclose(outputs, expected, atol=1e-5)
    np.testing.assert_allclose(one, expected[1, 2], atol=1e-5)


@pytest.mark.parametrize("kind", GIVEN)
def test_every_use_draws_its_own_parameters_unless_they_are_given(kind):
    network = as_network(GIVEN[kind])
    model = actor_critic(network, SPACE, Discrete(2), shared=False)
    params = model.init(KEY, BATCH[0], jnp.zeros(4, bool), ())
    actor, critic = kernels(params)
    critics = ActionCritic(network.torso(SPACE), num_critics=2)
    (both,) = kernels(critics.init(KEY, BATCH[0], jnp.zeros((4, 1))))
    drawn = [
        actor,
        critic,
        *both,
        *kernels(critics.init(jax.random.key(1), BATCH[0], jnp.zeros((4, 1))))[0],
    ]
    same = [np.array_equal(one, other) for i, one in enumerate(drawn) for other in drawn[:i]]
    if kind == "nnx as it is":
        assert all(same)
        np.testing.assert_array_equal(actor, GIVEN[kind].layers[0].kernel[...])
    else:
        assert not any(same)


@pytest.mark.parametrize("kind", GIVEN)
def test_every_whole_network_takes_it(kind):
    torso, action = as_network(GIVEN[kind]).torso(SPACE), np.zeros((2, 4, 2), np.float32)
    levels = np.full((2, 4, 7), 0.5, np.float32)
    rows = {
        "implicit": (ImplicitQNetwork(torso, 6, num_levels=7), (BATCH, levels), (2, 4, 6, 7, 2)),
        "actor": (DeterministicActor(torso, 2), (BATCH,), (2, 4, 2)),
        "critics": (ActionCritic(torso, 3, (9,)), (BATCH, action), (3, 2, 4, 9)),
    }
    for name, (model, inputs, shape) in rows.items():
        found, params = jax.eval_shape(functools.partial(model.init_with_output, KEY), *inputs)
        assert found.shape == shape, name
        assert jax.eval_shape(model.apply, params, *inputs).shape == shape, name
    policy, _ = jax.eval_shape(
        functools.partial(TanhGaussianActor(torso, 2).init_with_output, KEY), BATCH
    )
    assert policy.loc.shape == (2, 4, 2)


def test_actions_join_the_features_in_a_layer_of_their_width():
    action = np.random.default_rng(1).normal(size=(2, 4, 2)).astype(np.float32)
    model = ActionCritic(as_network(Linen()).torso(SPACE), num_critics=1)
    params = model.init(KEY, BATCH, action)
    own = jax.tree.map(lambda leaf: np.asarray(leaf[0]), params["params"]["Vmap_CriticBody_0"])
    features = np.tanh(BATCH @ own["Torso_0"]["given"]["Dense_0"]["kernel"])
    joined = np.concatenate([features, action], axis=-1)
    hidden = np.maximum(joined @ own["Torso_0"]["MLP_0"]["Dense_0"]["kernel"], 0.0)
    expected = (hidden @ own["Dense_0"]["kernel"])[..., 0]
    np.testing.assert_allclose(model.apply(params, BATCH, action)[0], expected, atol=1e-5)


def test_states_of_a_discrete_space_come_as_they_are():
    network = as_network(functools.partial(nnx.Embed, 6, 5))
    model = QNetwork(network.torso(Discrete(6)), 2)
    params = model.init(KEY, jnp.array([3]))
    assert model.apply(params, jnp.array([[0, 5, 2]])).shape == (1, 3, 2)


def test_equal_ones_are_one_program():
    for first, second, equal in (
        (Linen(), Linen(), True),
        (Linen(), Linen(6), False),
        (GIVEN["nnx"], functools.partial(Nnx, 3, width=5), True),
        (GIVEN["nnx"], functools.partial(Nnx, 3, width=6), False),
        (GIVEN["nnx as it is"], Nnx(3, rngs=nnx.Rngs(7)), True),
        (GIVEN["nnx as it is"], Nnx(3, rngs=nnx.Rngs(8)), False),
        (GIVEN["pair"], (drawn, applied), True),
    ):
        one, other = as_network(first), as_network(second)
        assert (jax.tree.structure(one) == jax.tree.structure(other)) == equal
        assert (one.torso(SPACE) == other.torso(SPACE)) == equal
        assert not equal or hash(one.torso(SPACE)) == hash(other.torso(SPACE))
        assert jax.tree.leaves(one) == []  # no array of theirs is in a program's arguments


class Remembers(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.BatchNorm(use_running_average=False)(x)


class Forgets(nnx.Module):
    def __init__(self, rngs):
        self.norm, self.drop = nnx.BatchNorm(3, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x):
        return self.drop(self.norm(x))


IMAGE = Box(0, 255, (35, 40, 3), jnp.dtype("uint8"))


@pytest.mark.parametrize(
    "given, space, message",
    [
        (Remembers(), SPACE, "network=Remembers .*float32.2, 3.: .* keeps batch_stats .*LayerNorm"),
        (Forgets, SPACE, "keeps BatchStat, RngCount, RngKey beside"),
        (nnx.Linear(4, 2, rngs=nnx.Rngs(0)), SPACE, r"network=Linear .*float32\[2, 3\]: dot_gen"),
        (lambda rngs: lambda x: x, SPACE, "network=<lambda>"),
        (nn.Dense(2), Box(-1.0, 1.0, (4, 3)), r"gives float32\[2, 4, 2\], not features"),
        ((lambda key, x: (), lambda params, x: x[0]), SPACE, r"gives float32\[3\], not features"),
        ((lambda key, x: (), lambda params, x: x > 0), SPACE, r"gives bool\[2, 3\], not features"),
        (NatureTorso(), IMAGE, "sides of at least 36: use NetworkSettings"),
        (ResNetTorso(), Box(0.0, 1.0, (7, 9, 1)), "sides of at least 8"),
        (ResNetTorso(), SPACE, "it takes images"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_sentence(given, space, message):
    with pytest.raises(ValueError, match=message):
        as_network(given).torso(space)


@pytest.mark.parametrize("given", [3, "mlp", None, Linen, NetworkSettings, (drawn,), (drawn, 3)])
def test_what_is_no_network_is_refused(given):
    with pytest.raises(ValueError, match=r"give NetworkSettings, a flax\.linen module"):
        as_network(given)


# Sides after each layer, by hand: (side - kernel) // stride + 1 without padding, and half, rounded
# up, with it. The last column is that of the publication's inputs, 84 x 84 x 4.
IMAGES = {
    # 36 -> 8 -> 3 -> 1;  84 -> 20 -> 9 -> 7
    "nature": (NatureTorso(), {36: 1 * 1 * 64, 84: 7 * 7 * 64}, 512),
    # 8 -> 4 -> 2 -> 1;  84 -> 42 -> 21 -> 11
    "resnet": (ResNetTorso(), {8: 1 * 1 * 32, 84: 11 * 11 * 32}, 256),
}
# Weights and biases of all layers at 84 x 84 x 4, worked out from the published sizes.
COUNTS = {
    "nature": 8 * 8 * 4 * 32 + 32 + 4 * 4 * 32 * 64 + 64 + 3 * 3 * 64 * 64 + 64 + 3136 * 512 + 512,
    "resnet": (
        sum(9 * i * o + o + 4 * (9 * o * o + o) for i, o in ((4, 16), (16, 32), (32, 32)))
        + 3872 * 256
        + 256
    ),
}


@pytest.mark.parametrize("name", IMAGES)
def test_torsos_of_images_have_the_published_sizes(name):
    module, flat, width = IMAGES[name]
    for side, size in flat.items():
        network = as_network(module)
        torso = network.torso(Box(0, 255, (side, side, 4), jnp.dtype("uint8")))
        image = jax.ShapeDtypeStruct((3, side, side, 4), jnp.uint8)
        features, params = jax.eval_shape(functools.partial(torso.init_with_output, KEY), image)
        assert features.shape == (3, width) and features.dtype == jnp.float32
        assert params["params"]["given"]["Dense_0"]["kernel"].shape == (size, width)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == COUNTS[name]


def test_a_residual_block_is_left_out_by_zero_weights():
    """With all convolutions but each stage's first at 0: maxima of the first alone, by hand."""
    module = ResNetTorso(widths=(2,), hidden_size=3)
    image = np.random.default_rng(2).integers(0, 256, (1, 4, 4, 1)).astype(np.uint8)
    shapes = jax.eval_shape(module.init, KEY, image)["params"]
    params = jax.tree.map(lambda x: np.zeros(x.shape, np.float32), shapes)
    params["Conv_0"]["kernel"][1, 1, 0] = [1.0, -2.0]  # the pixel itself, twice over
    params["Dense_0"]["kernel"][:, 0] = np.arange(8)
    found = module.apply({"params": params}, image)
    unit = image[0, :, :, 0] / 255.0
    # "SAME" of 4 by 3 with stride 2: one column of padding, at the end.
    tops = [[unit[i : i + 3, j : j + 3].max() for j in (0, 2)] for i in (0, 2)]
    flat = np.stack([np.array(tops), np.zeros((2, 2))], -1)  # -2 x rectifies to 0
    np.testing.assert_allclose(found[0, 0], flat.ravel() @ np.arange(8), rtol=1e-5)
