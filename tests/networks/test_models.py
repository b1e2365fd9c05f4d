"""Torsos and whole networks: shapes, identities, and memory that stops where an episode does."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxrl.core.spaces import Box, Discrete
from jaxrl.networks import ActionCritic, NetworkSettings, QNetwork, actor_critic
from jaxrl.networks.models import GRU
from jaxrl.networks.torsos import ACTIVATIONS, Convolution3x3

KEY = jax.random.key(0)
SMALL = NetworkSettings(hidden_sizes=(16, 8), num_features=4, initialiser="lecun")
OBSERVATIONS = {
    "discrete": (Discrete(5), jnp.array([[0, 4, 2], [1, 3, 0]])),
    "flat": (Box(-1.0, 1.0, (3,)), jax.random.normal(KEY, (2, 3, 3))),
    "number": (Box(-1.0, 1.0, ()), jax.random.normal(KEY, (2, 3))),
    "table": (Box(-1.0, 1.0, (4, 2)), jax.random.normal(KEY, (2, 3, 4, 2))),
    "image": (
        Box(0.0, 1.0, (6, 5, 2), jnp.dtype("bool")),
        jax.random.bernoulli(KEY, 0.5, (2, 3, 6, 5, 2)),
    ),
    "bytes": (
        Box(0.0, 255.0, (3, 3, 1), jnp.dtype("uint8")),
        jax.random.randint(KEY, (2, 3, 3, 3, 1), 0, 256).astype(jnp.uint8),
    ),
}


def init(module, *inputs):
    """Fresh parameters, in one compiled program."""
    return jax.jit(module.init)(KEY, *inputs)


def has_convolution(params) -> bool:
    names = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    return any("Convolution" in name for name in names)


@pytest.mark.parametrize("kind", OBSERVATIONS)
def test_a_torso_takes_any_leading_axes(kind):
    space, batch = OBSERVATIONS[kind]
    torso = SMALL.torso(space)
    params = init(torso, batch[0, :1])
    features, one = jax.jit(lambda p: (torso.apply(p, batch), torso.apply(p, batch[1, 2])))(params)
    assert features.shape == (2, 3, 8) and features.dtype == jnp.float32
    assert one.shape == (8,)
    np.testing.assert_allclose(features[1, 2], one, atol=1e-5)
    assert has_convolution(params) == (kind in ("image", "bytes"))
    assert bool(jnp.any(features[0, 0] != features[1, 1]))


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
    with pytest.raises(ValueError, match="Box or a Discrete"):
        SMALL.torso("space")


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_and_norm_gives_finite_features_and_gradients(activation, layer_norm):
    settings = SMALL.replace(activation=activation, layer_norm=layer_norm)
    torso = settings.torso(Box(-1.0, 1.0, (3,)))

    @jax.jit
    def slope():
        params = torso.init(KEY, jnp.zeros(3))
        return jax.grad(lambda params: torso.apply(params, jnp.zeros((2, 3))).sum())(params)

    grads = slope()
    assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(grads))


@pytest.mark.parametrize("shape", [(1, 7, 6, 3), (2, 3, 4, 5, 1), (3, 3, 2)])
def test_the_convolution_is_linen_s_with_the_same_parameters(shape):
    image = jax.random.normal(KEY, shape)
    ours = Convolution3x3(5, nn.initializers.lecun_normal())
    theirs = nn.Conv(5, (3, 3), padding="VALID")
    params = init(ours, image)
    params = jax.tree.map(lambda leaf: leaf + 0.1, params)  # the bias too
    shapes = jax.eval_shape(theirs.init, KEY, image)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, shapes)

    def output_and_slope(net):
        def loss(params):
            output = net.apply(params, image)
            return jnp.sum(output**2), output

        return jax.jit(jax.grad(loss, has_aux=True))(params)

    (slope, output), (their_slope, their_output) = map(output_and_slope, (ours, theirs))
    np.testing.assert_allclose(output, their_output, atol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), slope, their_slope
    )


@pytest.mark.parametrize("head_shape", [(), (7,), (2, 3)])
@pytest.mark.parametrize("dueling", [False, True])
def test_q_network_shapes(head_shape, dueling):
    network = QNetwork(SMALL.torso(Discrete(5)), 4, head_shape, dueling)
    observation = OBSERVATIONS["discrete"][1]
    params = jax.eval_shape(network.init, KEY, observation)
    assert jax.eval_shape(network.apply, params, observation).shape == (2, 3, 4, *head_shape)


@pytest.mark.parametrize("head_shape", [(), (7,)])
def test_dueling_advantages_are_centred(head_shape):
    """The mean over actions is the value stream, whatever the advantage stream holds."""
    network = QNetwork(SMALL.torso(Discrete(5)), 4, head_shape, dueling=True)
    observation = jnp.arange(5)
    params, apply = init(network, observation), jax.jit(network.apply)
    outputs = apply(params, observation)
    mean = jnp.mean(outputs, axis=1)
    value = params["params"]["value"]
    features = network.torso.apply({"params": params["params"]["torso"]}, observation)
    expected = (features @ value["kernel"] + value["bias"]).reshape(5, *head_shape)
    np.testing.assert_allclose(mean, expected, atol=1e-5)
    # A constant added to every advantage changes nothing.
    params["params"]["advantage"]["bias"] = params["params"]["advantage"]["bias"] + 3.0
    np.testing.assert_allclose(apply(params, observation), outputs, atol=1e-5)


def test_gru_starts_afresh_where_an_episode_does():
    cell = GRU(6)
    features = jax.random.normal(KEY, (5, 3, 4))
    memory = jnp.zeros((3, 6))
    params, apply = init(cell, memory, (features[0], jnp.zeros(3, bool))), jax.jit(cell.apply)
    starts = jnp.zeros((5, 3), bool).at[2, 1].set(True)

    def run(memory, features, starts):
        states = []
        for feature, start in zip(features, starts, strict=True):
            memory, output = apply(params, memory, (feature, start))
            np.testing.assert_array_equal(memory, output)
            states.append(memory)
        return jnp.stack(states)

    cut, whole = run(memory, features, starts), run(memory, features, jnp.zeros((5, 3), bool))
    np.testing.assert_array_equal(cut[:, [0, 2]], whole[:, [0, 2]])
    np.testing.assert_array_equal(cut[:2], whole[:2])
    assert bool(jnp.any(cut[2:, 1] != whole[2:, 1]))
    # From its start on, the lane is what a fresh memory gives.
    alone = run(jnp.zeros((1, 6)), features[2:, 1:2], jnp.zeros((3, 1), bool))
    np.testing.assert_allclose(cut[2:, 1], alone[:, 0], atol=1e-6)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("recurrent", [0, 6])
@pytest.mark.parametrize("discrete", [False, True])
def test_actor_critic_shapes_and_first_policy(shared, recurrent, discrete):
    network = SMALL.replace(recurrent_size=recurrent)
    actions = Discrete(3) if discrete else Box(-jnp.ones(2), jnp.ones(2), (2,))
    model = actor_critic(network, Box(-1.0, 1.0, (4,)), actions, shared, {"extra": (3, 2)})
    observation = jax.random.normal(KEY, (7, 4))
    memory, starts = model.initial_memory(7), jnp.zeros(7, bool)
    params = init(model, observation, starts, memory)
    policy, value, heads, _ = jax.jit(model.apply)(params, observation, starts, memory)
    assert value.shape == (7,) and heads["extra"].shape == (7, 3, 2)
    drawn = policy.sample(KEY)
    assert drawn.shape == ((7,) if discrete else (7, 2))
    assert policy.log_prob(drawn).shape == policy.entropy().shape == (7,)
    # The last layer is scaled by 0.01, so that every action is tried at first.
    if discrete:
        np.testing.assert_allclose(policy.entropy(), np.log(3.0), atol=1e-3)
    else:
        np.testing.assert_allclose(policy.loc, 0.0, atol=0.05)
        np.testing.assert_array_equal(policy.log_scale, 0.0)
    torsos = [name for name in params["params"] if "torso" in name]
    assert len(torsos) == (1 if shared else 2)


def test_sharing_a_torso_makes_the_value_loss_move_the_policy():
    def moved(shared):
        model = actor_critic(SMALL, Box(-1.0, 1.0, (4,)), Discrete(3), shared)
        observation, starts = jnp.ones((1, 4)), jnp.zeros(1, bool)
        params = init(model, observation, starts, ())

        def value(params):
            return model.apply(params, observation, starts, (), method="value")[0].sum()

        torso = jax.jit(jax.grad(value))(params)["params"]["actor_torso"]
        return any(bool(jnp.any(leaf != 0)) for leaf in jax.tree.leaves(torso))

    assert moved(True) and not moved(False)


def test_actions_without_a_policy_are_refused():
    with pytest.raises(ValueError, match="Discrete or a Box"):
        actor_critic(SMALL, Box(-1.0, 1.0, (4,)), Box(-1.0, 1.0, (2, 2)), False)


@pytest.mark.parametrize("kind", OBSERVATIONS)
def test_critics_of_an_ensemble_are_different_networks(kind):
    space, batch = OBSERVATIONS[kind]
    critic = ActionCritic(SMALL.torso(space), num_critics=3)
    action = jnp.ones((2, 3, 2))
    params, apply = init(critic, batch, action), jax.jit(critic.apply)
    values = apply(params, batch, action)
    assert values.shape == (3, 2, 3)
    assert float(jnp.min(jnp.std(values, axis=0))) > 0
    assert bool(jnp.any(values != apply(params, batch, -action)))
