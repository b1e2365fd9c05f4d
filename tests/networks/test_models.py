"""Torsos and whole networks: shapes, identities, and memory that stops where an episode does."""

from __future__ import annotations

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
from flax import linen as nn

from jaxrl.core import Box, Discrete, MultiDiscrete, list_settings
from jaxrl.networks import (
    ActionCritic,
    DeterministicActor,
    ImplicitQNetwork,
    NetworkSettings,
    QNetwork,
    TanhGaussianActor,
    actor_critic,
)

KEY = jax.random.key(0)
SMALL = NetworkSettings(hidden_sizes=(16, 8), num_features=4, initialiser="lecun")
RNG = np.random.default_rng(0)
OBSERVATIONS = {
    "discrete": (Discrete(5), np.array([[0, 4, 2], [1, 3, 0]], np.int32)),
    "flat": (Box(-1.0, 1.0, (3,)), RNG.normal(size=(2, 3, 3)).astype(np.float32)),
    "number": (Box(-1.0, 1.0, ()), RNG.normal(size=(2, 3)).astype(np.float32)),
    "table": (Box(-1.0, 1.0, (4, 2)), RNG.normal(size=(2, 3, 4, 2)).astype(np.float32)),
    "image": (Box(0.0, 1.0, (6, 5, 2), jnp.dtype("bool")), RNG.random((2, 3, 6, 5, 2)) < 0.5),
    "bytes": (
        Box(0.0, 255.0, (3, 3, 1), jnp.dtype("uint8")),
        RNG.integers(0, 256, (2, 3, 3, 3, 1)).astype(np.uint8),
    ),
    "several": (MultiDiscrete([3, 2]), RNG.integers(0, 2, (2, 3, 2)).astype(np.int32)),
}
OBSERVATIONS["tree"] = tuple(
    {"see": (OBSERVATIONS["image"][i], OBSERVATIONS["bytes"][i]), "at": OBSERVATIONS["several"][i]}
    for i in range(2)
)
# The laws of the literature, in float64.
ACTIVATION_LAWS = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0.0),
    "silu": lambda x: x * scipy.special.expit(x),
    # The tanh form of Hendrycks & Gimpel 2016, section 2.
    "gelu": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0.0))),
}


def weights(module, *inputs):
    """Normal parameters of the module's shapes, biases too, without compiling its own init."""
    draw = np.random.default_rng(1)
    shapes = jax.eval_shape(module.init, KEY, *inputs)
    return jax.tree.map(lambda x: draw.normal(0, 0.4, x.shape).astype(np.float32), shapes)


def dense(params, features):
    return features @ np.asarray(params["kernel"], np.float64) + params["bias"]


def mlp(params, features, activation="tanh", layer_norm=False):
    """Dense layers in float64, by their definition."""
    for index in range(sum(name.startswith("Dense") for name in params)):
        features = dense(params[f"Dense_{index}"], features)
        if layer_norm:
            norm = params[f"LayerNorm_{index}"]
            centred = features - features.mean(-1, keepdims=True)
            spread = np.sqrt(features.var(-1, keepdims=True) + 1e-6)
            features = centred / spread * norm["scale"] + norm["bias"]
        features = ACTIVATION_LAWS[activation](features)
    return features


def convolved(params, image):
    """A valid 3x3 cross-correlation in float64, window by window, then tanh."""
    windows = np.lib.stride_tricks.sliding_window_view(image.astype(float), (3, 3), axis=(-3, -2))
    out = np.einsum("...hwcij,ijcf->...hwf", windows, params["kernel"]) + params["bias"]
    return np.tanh(out)


def flat_by_hand(kind, batch):
    """Observations `[2, 3, *observation]` as numbers, one-hot where discrete; leaves by name."""
    if kind == "tree":
        parts = [flat_by_hand("several", batch["at"]), *(flat_by_hand("", x) for x in batch["see"])]
        return np.concatenate(parts, axis=-1)
    if kind == "several":
        return np.concatenate([np.eye(3)[batch[..., 0]], np.eye(2)[batch[..., 1]]], axis=-1)
    return np.eye(5)[batch] if kind == "discrete" else batch.reshape(2, 3, -1)


def features_by_hand(kind, params, batch):
    """What `SMALL.torso` gives for a batch `[2, 3, *observation]`."""
    inner = params["params"]
    if kind in ("image", "bytes"):
        inner = inner["MinAtarTorso_0"]
        flat = convolved(inner["Convolution3x3_0"], batch).reshape(2, 3, -1)
    elif kind == "tree":
        images = [convolved(inner[f"Convolution3x3_{i}"], batch["see"][i]) for i in range(2)]
        flat = flat_by_hand("tree", {"at": batch["at"], "see": images})
    else:
        flat = flat_by_hand(kind, batch)
    return mlp(inner["MLP_0"], flat)


def has_convolution(params) -> bool:
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    return any("Convolution" in name for name in names)


@functools.cache
def torso_outputs():
    """Parameters, features of a batch, and of one of its observations alone; by kind."""
    torsos = {kind: SMALL.torso(space) for kind, (space, _) in OBSERVATIONS.items()}
    batches = {kind: batch for kind, (_, batch) in OBSERVATIONS.items()}
    first = lambda batch: jax.tree.map(lambda leaf: leaf[0, :1], batch)  # noqa: E731
    params = {kind: weights(torsos[kind], first(batches[kind])) for kind in torsos}

    @jax.jit
    def run(params, batches):
        return {
            kind: (
                torso.apply(params[kind], batches[kind]),
                torso.apply(params[kind], jax.tree.map(lambda leaf: leaf[1, 2], batches[kind])),
            )
            for kind, torso in torsos.items()
        }

    return params, jax.device_get(run(params, batches))


@pytest.mark.parametrize("kind", OBSERVATIONS)
def test_a_torso_takes_any_leading_axes(kind):
    params, outputs = torso_outputs()
    features, one = outputs[kind]
    assert features.shape == (2, 3, 8) and features.dtype == jnp.float32
    assert one.shape == (8,)
    np.testing.assert_allclose(features[1, 2], one, atol=1e-5)
    assert has_convolution(params[kind]) == (kind in ("image", "bytes", "tree"))
    expected = features_by_hand(kind, params[kind], OBSERVATIONS[kind][1])
    np.testing.assert_allclose(features, expected, atol=1e-4)


def test_an_image_may_be_flattened_instead():
    space, batch = OBSERVATIONS["image"]
    torso = SMALL.replace(flatten_images=True).torso(space)
    params = jax.eval_shape(torso.init, KEY, batch[0])
    assert not has_convolution(params)
    assert jax.eval_shape(torso.apply, params, batch).shape == (2, 3, 8)


def test_what_no_torso_takes_is_refused():
    with pytest.raises(ValueError, match="flatten_images"):
        SMALL.torso(Box(0.0, 1.0, (2, 9, 1)))
    SMALL.replace(flatten_images=True).torso(Box(0.0, 1.0, (2, 9, 1)))
    with pytest.raises(ValueError, match="is no space: give"):
        SMALL.torso("space")


# Of each activation one kind of layer in every run, and the other by -m slow.
ACTIVATIONS = {info.name: info for info in list_settings(SMALL)}["activation"].choices
KINDS = [(activation, norm) for activation in ACTIVATIONS for norm in (False, True)]
NORMED = ("relu", "gelu")


def is_quick(activation, layer_norm):
    return layer_norm == (activation in NORMED)


@functools.cache
def activated(quick):
    """Parameters of each kind of layer; its features and their slopes there, and at zero."""
    kinds = [kind for kind in KINDS if is_quick(*kind) == quick]
    torsos = {
        (activation, layer_norm): SMALL.replace(activation=activation, layer_norm=layer_norm).torso(
            Box(-1.0, 1.0, (3,))
        )
        for activation, layer_norm in kinds
    }
    given = {name: weights(torso, np.zeros(3, np.float32)) for name, torso in torsos.items()}
    # At zero each unit stands where a rectifier bends, and a layer has no spread.
    both = jax.tree.map(lambda leaf: np.stack([leaf, np.zeros_like(leaf)]), given)
    observation = np.array([0.3, -1.0, 2.0], np.float32)

    def measured(torso, params):
        features = torso.apply(params, observation)
        return features.sum(), features

    @jax.jit
    def slopes_and_features(both):
        return {
            name: jax.vmap(jax.grad(functools.partial(measured, torso), has_aux=True))(both[name])
            for name, torso in torsos.items()
        }

    return given, observation, jax.device_get(slopes_and_features(both))


@pytest.mark.parametrize(
    ("activation", "layer_norm"),
    [pytest.param(*kind, marks=() if is_quick(*kind) else pytest.mark.slow) for kind in KINDS],
)
def test_every_activation_and_norm_gives_finite_features_and_gradients(activation, layer_norm):
    given, observation, outputs = activated(is_quick(activation, layer_norm))
    slope, features = outputs[activation, layer_norm]
    params = given[activation, layer_norm]["params"]["MLP_0"]
    np.testing.assert_allclose(
        features[0], mlp(params, observation, activation, layer_norm), atol=1e-5
    )
    np.testing.assert_array_equal(features[1], 0.0)
    slope = slope["params"]["MLP_0"]
    # Of the first bias, by differences of the law in float64.
    total = lambda bias: mlp(  # noqa: E731
        params | {"Dense_0": params["Dense_0"] | {"bias": bias}},
        observation,
        activation,
        layer_norm,
    ).sum()
    bias = params["Dense_0"]["bias"].astype(float)
    differences = [(total(bias + d) - total(bias - d)) / 2e-6 for d in 1e-6 * np.eye(len(bias))]
    np.testing.assert_allclose(slope["Dense_0"]["bias"][0], differences, atol=1e-4)
    # With all weights zero only the last bias moves the sum, by the slope of the law at 0.
    at_zero = {"relu": 0.0, "silu": 0.5, "gelu": 0.5}.get(activation, 1.0)
    last = slope["LayerNorm_1" if layer_norm else "Dense_1"].pop("bias")
    np.testing.assert_allclose(last[1], at_zero, atol=1e-6)
    assert all(np.all(leaf[1] == 0) for leaf in jax.tree.leaves(slope))


SHAPES = [(1, 7, 6, 3), (2, 3, 4, 5, 1), (3, 3, 2)]


@functools.cache
def convolutions():
    """Outputs and slopes of ours and of linen's, with the same parameters, by shape."""
    draw = np.random.default_rng(2)
    images = {shape: draw.normal(size=shape).astype(np.float32) for shape in SHAPES}
    bare = NetworkSettings(hidden_sizes=(), num_features=5)  # nothing behind the convolution
    ours = {shape: bare.torso(Box(-9.0, 9.0, shape[-3:])) for shape in SHAPES}
    theirs = nn.Conv(5, (3, 3), padding="VALID")
    params = {shape: weights(theirs, image) for shape, image in images.items()}

    def by_torso(shape, params, image):
        held = {"MinAtarTorso_0": {"Convolution3x3_0": params["params"]}}
        return ours[shape].apply({"params": held}, image)

    def by_linen(shape, params, image):
        output = jnp.tanh(theirs.apply(params, image))
        return output.reshape(*output.shape[:-3], -1)

    def loss(params, apply, shape, image):
        output = apply(shape, params, image)
        return jnp.sum(output**2), output

    @jax.jit
    def run(params, images):
        slope = jax.grad(loss, has_aux=True)
        return {
            shape: [slope(params[shape], by, shape, images[shape]) for by in (by_torso, by_linen)]
            for shape in SHAPES
        }

    shapes = {
        shape: jax.eval_shape(ours[shape].init, KEY, image) for shape, image in images.items()
    }
    return params, shapes, jax.device_get(run(params, images))


@pytest.mark.parametrize("shape", SHAPES)
def test_the_convolution_is_linen_s_with_the_same_parameters(shape):
    params, shapes, outputs = convolutions()
    held = shapes[shape]["params"]["MinAtarTorso_0"]["Convolution3x3_0"]
    assert jax.tree.map(np.shape, params[shape]["params"]) == jax.tree.map(np.shape, held)
    (slope, output), (their_slope, their_output) = outputs[shape]
    np.testing.assert_allclose(output, their_output, atol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), slope, their_slope
    )


@pytest.mark.parametrize("head_shape", [(), (7,), (2, 3)])
@pytest.mark.parametrize("dueling", [False, True])
def test_q_network_shapes(head_shape, dueling):
    network = QNetwork(SMALL.torso(Discrete(5)), 4, head_shape, dueling)
    observation = OBSERVATIONS["discrete"][1]
    params = jax.eval_shape(network.init, KEY, observation)
    assert jax.eval_shape(network.apply, params, observation).shape == (2, 3, 4, *head_shape)


@pytest.mark.parametrize("head_shape", [pytest.param((), marks=pytest.mark.slow), (7,)])
def test_dueling_advantages_are_centred(head_shape):
    """Value plus advantage minus the mean advantage over actions, for each return parameter."""
    network = QNetwork(SMALL.torso(Discrete(5)), 4, head_shape, dueling=True)
    observation = np.arange(5)
    params = weights(network, observation)
    outputs = np.asarray(jax.jit(network.apply)(params, observation))
    inner = params["params"]
    features = mlp(inner["torso"]["MLP_0"], np.eye(5))
    value = dense(inner["value"], features).reshape(5, 1, *head_shape)
    advantage = dense(inner["advantage"], features).reshape(5, 4, *head_shape)
    expected = value + advantage - advantage.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(outputs, expected, atol=1e-5)


def test_an_implicit_network_is_the_product_of_observation_and_level():
    """Equation 4 of Dabney et al. 2018, written out."""
    torso = SMALL.torso(Discrete(5))
    network = ImplicitQNetwork(torso, 4, num_levels=2, num_cosines=3, dueling=True)
    observation, levels = np.arange(5), np.tile(np.float32([0.1, 0.7]), (5, 1))
    params = weights(network, observation, levels)
    outputs = np.asarray(jax.jit(network.apply)(params, observation, levels))
    inner = params["params"]
    features = mlp(inner["Torso_0"]["MLP_0"], np.eye(5))  # without the last hidden layer
    cosines = np.cos(np.pi * np.arange(3) * np.array([[0.1], [0.7]]))  # [K, C]
    phi = np.maximum(dense(inner["level"], cosines), 0.0)
    hidden = mlp(inner["MLP_0"], features[:, None, :] * phi)
    advantage = dense(inner["advantage"], hidden)
    values = advantage - advantage.mean(-1, keepdims=True) + dense(inner["value"], hidden)
    np.testing.assert_allclose(outputs[..., 0], np.moveaxis(values, -1, -2), atol=1e-5)
    np.testing.assert_array_equal(outputs[..., 1], np.tile(levels[:, None, :], (1, 4, 1)))


def gru(params, memory, features):
    """One step of Cho et al. 2014 in float64, as linen names its parts."""
    cell = params["GRUCell_0"]
    sigmoid = scipy.special.expit
    reset = sigmoid(dense(cell["ir"], features) + memory @ cell["hr"]["kernel"])
    update = sigmoid(dense(cell["iz"], features) + memory @ cell["hz"]["kernel"])
    new = np.tanh(dense(cell["in"], features) + reset * dense(cell["hn"], memory))
    return (1.0 - update) * new + update * memory


@pytest.mark.parametrize(
    ("discrete", "recurrent", "shared"),
    [  # each setting in every run; the other pairs of them by -m slow
        (False, 0, False),
        (True, 6, True),
        *(
            pytest.param(*kind, marks=pytest.mark.slow)
            for kind in itertools.product((False, True), (0, 6), (False, True))
            if kind not in ((False, 0, False), (True, 6, True))
        ),
    ],
)
def test_actor_critic_shapes_and_first_policy(shared, recurrent, discrete):
    network = SMALL.replace(recurrent_size=recurrent)
    actions = Discrete(3) if discrete else Box(-np.ones(2), np.ones(2), (2,))
    model = actor_critic(network, Box(-1.0, 1.0, (4,)), actions, shared, {"extra": (3, 2)})
    observation = jax.ShapeDtypeStruct((7, 4), np.float32)
    memory, starts = 2 * (np.zeros((7, 6), np.float32),) if recurrent else (), np.zeros(7, bool)
    params = jax.eval_shape(model.init, KEY, observation, starts, memory)
    policy, value, heads, _ = jax.eval_shape(model.apply, params, observation, starts, memory)
    assert value.shape == (7,) and heads["extra"].shape == (7, 3, 2)
    drawn = jax.eval_shape(lambda policy: policy.sample(KEY), policy)
    assert drawn.shape == ((7,) if discrete else (7, 2))
    log_prob = jax.eval_shape(lambda policy, drawn: policy.log_prob(drawn), policy, drawn)
    assert log_prob.shape == jax.eval_shape(lambda policy: policy.entropy(), policy).shape == (7,)
    torsos = [name for name in params["params"] if "torso" in name]
    assert len(torsos) == (1 if shared else 2)


def test_first_layers_are_orthogonal_with_their_gains():
    """W^T W = gain^2 I: 2 in hidden layers, 0.01^2 where every action is tried at first."""
    network = NetworkSettings(hidden_sizes=(8,), initialiser="orthogonal")
    box = Box(-np.ones(3), np.ones(3), (3,))
    model = actor_critic(network, Box(-1.0, 1.0, (8,)), box, True, {"extra": (2,)})
    inputs = (np.zeros((1, 8), np.float32), np.zeros(1, bool), ())
    params = jax.device_get(jax.jit(model.init)(KEY, *inputs))["params"]
    np.testing.assert_array_equal(params["policy_head"].pop("log_scale"), 0.0)
    gains = {"actor_torso": 2.0, "policy_head": 1e-4, "value_head": 1.0, "extra_heads_extra": 1e-4}
    assert set(params) == set(gains)
    for name, square in gains.items():
        biases_and_kernels = {leaf.ndim: leaf for leaf in jax.tree.leaves(params[name])}
        kernel = biases_and_kernels[2]
        gram = kernel.T @ kernel
        np.testing.assert_allclose(gram, square * np.eye(len(gram)), atol=1e-4 * square)
        np.testing.assert_array_equal(biases_and_kernels[1], 0.0)


@pytest.mark.parametrize("shared", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_each_part_of_an_actor_critic_reads_its_own_memory(shared):
    """Policy by the actor's torso, core and memory; value by the critic's; starts in both."""
    network = SMALL.replace(recurrent_size=6)
    model = actor_critic(network, Box(-1.0, 1.0, (4,)), Discrete(3), shared, {"extra": (2,)})
    observation = RNG.normal(size=(3, 4)).astype(np.float32)
    memory = tuple(RNG.normal(size=(2, 3, 6)).astype(np.float32))
    starts = np.array([False, True, False])
    params = weights(model, observation, starts, memory)

    @jax.jit
    def run(params, observation, starts, memory):
        given = (params, observation, starts, memory)
        alone = [model.apply(*given, method=name) for name in ("policy", "value")]
        return model.apply(*given), alone

    found = jax.device_get(run(params, observation, starts, memory))
    (policy, value, heads, after), ((policy_alone, actor_alone), (value_alone, critic_alone)) = (
        found
    )
    inner = params["params"]

    def stepped(part, own):
        features = mlp(inner[f"{part}_torso"]["MLP_0"], observation)
        return gru(inner[f"{part}_core"], np.where(starts[:, None], 0.0, own), features)

    critic = "actor" if shared else "critic"
    actor_memory = stepped("actor", memory[0])
    # Both memories of a shared core are the actor's when one pass serves both.
    critic_memory = stepped(critic, memory[1])
    together = actor_memory if shared else critic_memory
    close = functools.partial(np.testing.assert_allclose, atol=1e-5)
    logits = dense(inner["policy_head"]["output"], actor_memory)
    close(policy.logits, logits)
    close(policy_alone.logits, logits)
    close(heads["extra"], dense(inner["extra_heads_extra"], actor_memory))
    close(value, dense(inner["value_head"], together)[:, 0])
    close(value_alone, dense(inner["value_head"], critic_memory)[:, 0])
    close(after[0], actor_memory)
    close(after[1], together)
    close(actor_alone, actor_memory)
    close(critic_alone, critic_memory)


def test_sharing_a_torso_makes_the_value_loss_move_the_policy():
    """The slope of the value by the actor's torso is the chain rule's, or zero."""
    observation, starts = RNG.normal(size=(1, 4)).astype(np.float32), np.zeros(1, bool)
    models = [
        actor_critic(SMALL, Box(-1.0, 1.0, (4,)), Discrete(3), shared) for shared in (False, True)
    ]
    params = [weights(model, observation, starts, ()) for model in models]

    @jax.jit
    def slopes(params):
        def value(params, model):
            return model.apply(params, observation, starts, (), method="value")[0].sum()

        pairs = zip(models, params, strict=True)
        return [jax.grad(value)(given, model)["params"]["actor_torso"] for model, given in pairs]

    apart, shared = jax.device_get(slopes(params))
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(apart))
    inner = params[1]["params"]
    features = mlp(inner["actor_torso"]["MLP_0"], observation)
    # d value / d last bias = (1 - tanh^2) of the last layer times the value's weights.
    expected = (1.0 - features[0] ** 2) * inner["value_head"]["kernel"][:, 0]
    np.testing.assert_allclose(shared["MLP_0"]["Dense_1"]["bias"], expected, atol=1e-5)


def test_a_box_of_any_shape_has_a_policy_over_its_numbers():
    box = Box(-1.0, 1.0, (2, 3))
    assert actor_critic(SMALL, Box(-1.0, 1.0, (4,)), box, False).policy_head.action_size == 6
    with pytest.raises(ValueError, match="None is no space"):
        actor_critic(SMALL, Box(-1.0, 1.0, (4,)), None, False)


SIMPLE = ("discrete", "image", "tree")  # kinds of critics of every run; of the others by -m slow


@functools.cache
def ensembles(simple):
    """Parameters of three critics of (observation, action), and their values, by kind."""
    kinds = [kind for kind in OBSERVATIONS if (kind in SIMPLE) == simple]
    critics = {kind: ActionCritic(SMALL.torso(OBSERVATIONS[kind][0]), 3) for kind in kinds}
    batches = {kind: OBSERVATIONS[kind][1] for kind in kinds}
    action = RNG.normal(size=(2, 3, 2)).astype(np.float32)
    params = {kind: weights(critic, batches[kind], action) for kind, critic in critics.items()}

    @jax.jit
    def run(params, batches):
        return {k: critic.apply(params[k], batches[k], action) for k, critic in critics.items()}

    return params, action, jax.device_get(run(params, batches))


@pytest.mark.parametrize(
    "kind",
    [k if k in SIMPLE else pytest.param(k, marks=pytest.mark.slow) for k in OBSERVATIONS],
)
def test_critics_of_an_ensemble_are_different_networks(kind):
    """Each is a network of its own slice of the parameters, on observation and action joined."""
    params, action, values = ensembles(kind in SIMPLE)
    batch = OBSERVATIONS[kind][1]
    flat = flat_by_hand(kind, batch)
    inputs = np.concatenate([flat, action], axis=-1)
    (body,) = params[kind]["params"].values()
    assert values[kind].shape == (3, 2, 3)
    for index in range(3):
        own = jax.tree.map(lambda leaf, index=index: leaf[index], body)
        expected = dense(own["Dense_0"], mlp(own["Torso_0"]["MLP_0"], inputs))[..., 0]
        np.testing.assert_allclose(values[kind][index], expected, atol=1e-4)


def test_critics_of_an_ensemble_begin_apart():
    """Three draws of one law: no two first kernels agree in any entry."""
    critic = ActionCritic(SMALL.replace(hidden_sizes=(2,)).torso(Box(-1.0, 1.0, (3,))), 3)
    inputs = np.zeros((1, 3), np.float32), np.zeros((1, 2), np.float32)
    kernels = [
        leaf for leaf in jax.tree.leaves(jax.jit(critic.init)(KEY, *inputs)) if leaf.ndim > 2
    ]
    assert [kernel.shape for kernel in kernels] == [(3, 2, 1), (3, 5, 2)]
    for kernel in map(np.asarray, kernels):
        for one, other in ((0, 1), (0, 2), (1, 2)):
            assert np.all(kernel[one] != kernel[other])


def test_the_scale_of_a_squashed_policy_runs_between_its_bounds():
    """log-scale = min + (max - min) (tanh(x) + 1) / 2, and the deterministic actor is a tanh."""
    torso = SMALL.torso(Box(-1.0, 1.0, (3,)))
    actors = TanhGaussianActor(torso, 2, -5.0, 2.0), DeterministicActor(torso, 2)
    observation = OBSERVATIONS["flat"][1][0]
    params = [weights(actor, observation) for actor in actors]
    run = jax.jit(
        lambda given: [a.apply(p, observation) for a, p in zip(actors, given, strict=True)]
    )
    policy, action = jax.device_get(run(params))
    inner = params[0]["params"]
    features = mlp(inner["torso"]["MLP_0"], observation)
    np.testing.assert_allclose(policy.loc, dense(inner["loc"], features), atol=1e-5)
    expected = -1.5 + 3.5 * np.tanh(dense(inner["log_scale"], features))
    np.testing.assert_allclose(policy.log_scale, expected, atol=1e-5)
    inner = params[1]["params"]
    expected = np.tanh(dense(inner["output"], mlp(inner["torso"]["MLP_0"], observation)))
    np.testing.assert_allclose(action, expected, atol=1e-5)
