"""Groups of episodes from one start: the gradient of every outcome of a small tree, summed."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxrl.core import Progress, Transition
from jaxrl.rules import LeaveOneOut, PolicyOutputs, PolicyTargets

# Action 0 ends at once and pays 4; action 1 goes on to a second state, whose actions pay 1 and 9.
LOGITS = np.array([[0.3, -0.4], [0.2, 0.7]])
PATHS = ((0,), (1, 0), (1, 1))
PAID = np.array([4.0, 1.0, 9.0])
NOISE = np.array([[5.0, 3.0, 4.0], [-5.0, -3.0, -4.0]])  # luck, which helps all: even odds
GROUP = 3


def probs_of(logits):
    first, second = jax.nn.softmax(logits)
    return jnp.stack([first[0], first[1] * second[0], first[1] * second[1]])


def rollout_of(paths, paid):
    """Two steps of lanes that follow `paths`; what follows an end is another episode."""
    action, reward = np.zeros((2, len(paths)), np.int32), np.zeros((2, len(paths)))
    first = np.zeros((2, len(paths)), np.int32)
    for lane, path in enumerate(paths):
        action[: len(path), lane] = path
        reward[len(path) - 1, lane] = paid[lane]
        first[len(path) :, lane], reward[len(path) :, lane] = -1, 100.0
    ended = np.array([[len(path) == 1 for path in paths], [True] * len(paths)])
    return Transition(
        observation=np.array([np.zeros(len(paths), int), np.ones(len(paths), int)]),
        action=action,
        reward=reward,
        discount=1.0 - ended,
        next_observation=action,
        terminated=ended,
        truncated=np.zeros_like(ended),
        extras={"first_step": first},
    )


def outputs_of(logits, data):
    """Of a table of logits: the state of a step is its number."""
    log_probs = jax.nn.log_softmax(logits)
    log_prob = log_probs[data.observation, data.action]
    return PolicyOutputs(log_prob, jnp.zeros_like(log_prob), jnp.zeros_like(log_prob))


@jax.jit
@jax.vmap
def estimates(data):
    """What one update's first step climbs, times the steps it averages over, with leave-one-out,
    with returns less the mean of all, and without a baseline."""
    rule = LeaveOneOut(group_size=GROUP, entropy_weight=0.0)
    old = outputs_of(LOGITS, data)
    targets, _ = rule.targets((), old, data, Progress.start())
    counts = data.extras["first_step"] == 0
    totals = jnp.sum(jnp.where(counts, data.reward, 0.0), axis=0)
    ways = [
        targets.advantage,
        *(jnp.where(counts, x, 0.0) for x in (totals - totals.mean(), totals)),
    ]

    def slope(advantage):
        told = targets.replace(advantage=advantage)
        loss = lambda logits: jnp.mean(  # noqa: E731
            rule.loss(outputs_of(logits, data), told, Progress.start())
        )
        return -2.0 * jax.grad(loss)(jnp.asarray(LOGITS))

    return jnp.stack([slope(advantage) for advantage in ways])


def moments(shared=None):
    """Means and variances (traces) of the estimates over all that may happen, and the gradient.

    Args:
        shared: None without noise; whether the lanes of a group share the environment's draw.
    """
    with jax.enable_x64(True):
        probs = np.asarray(probs_of(LOGITS))
        rows, weights = [], []
        draws = [(0,) * GROUP]
        if shared is not None:
            draws = [(0,) * GROUP, (1,) * GROUP]
            draws = draws if shared else list(itertools.product((0, 1), repeat=GROUP))
        for lanes in itertools.product(range(3), repeat=GROUP):
            for draw in draws:
                noise = [NOISE[d, i] for d, i in zip(draw, lanes, strict=True)]
                paid = PAID[list(lanes)] + (0.0 if shared is None else np.array(noise))
                rows.append(rollout_of([PATHS[i] for i in lanes], paid))
                weights.append(np.prod(probs[list(lanes)]) / len(draws))
        found = np.asarray(estimates(jax.tree.map(lambda *leaf: np.stack(leaf), *rows)))
        mean = np.einsum("n,nwij->wij", weights, found)
        spread = np.einsum("n,nwij->w", weights, (found - mean) ** 2)
        return mean, spread, np.asarray(jax.grad(lambda x: probs_of(x) @ PAID)(LOGITS))


def test_the_mean_over_a_tree_is_the_gradient():
    """With the mean of all lanes, the own one too, it is (1 - 1/K) of it."""
    (alone, among_all, without), spread, exact = moments()
    np.testing.assert_allclose(alone, exact, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(among_all, (1.0 - 1.0 / GROUP) * exact, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(without, exact, rtol=1e-12, atol=1e-14)
    assert spread[0] < spread[2]  # the mean return is far from 0


def test_luck_that_a_group_shares_leaves_the_mean_and_less_variance():
    (shared, *_), less, exact = moments(shared=True)
    (own, *_), more, _ = moments(shared=False)
    np.testing.assert_allclose(shared, exact, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(own, exact, rtol=1e-12, atol=1e-14)
    assert less[0] < 0.5 * more[0]


def advantages(returns, group_size=4, **settings):
    """Of episodes of one step."""
    data = jax.tree.map(jnp.asarray, rollout_of([(0,)] * len(returns), np.zeros(len(returns))))
    data = data.replace(reward=data.reward.at[0].set(returns))
    rule = LeaveOneOut(group_size=group_size, **settings)
    outputs = outputs_of(jnp.asarray(LOGITS), data)
    return rule.targets((), outputs, data, Progress.start())[0].advantage


def test_advantages_of_groups():
    found = advantages(jnp.array([1.0, 0.0, 0.0, 2.0, 0.1, 0.1, 0.1, 0.1]))
    others = [1 - 2 / 3, -1.0, -1.0, 2 - 1 / 3]  # each less the mean of the other three
    np.testing.assert_allclose(found[0, :4], others, atol=1e-6)
    np.testing.assert_allclose(found[0, 4:], 0.0, atol=1e-6)
    np.testing.assert_array_equal(found[1], 0.0)  # after the end


def test_by_deviation_a_group_of_equal_returns_says_nothing():
    """The mean of seven equal floats is off by a bit, which no division may blow up."""
    off = []
    for equal in (0.1, 1e4 / 3, 0.7, 0.0):
        returns = jnp.full(7, equal)
        off.append(float(jnp.abs(advantages(returns, 7)).max()))
        np.testing.assert_array_equal(advantages(returns, 7, by_deviation=True), 0.0)
    assert max(off) > 0.0
    slopes = jax.grad(lambda paid: jnp.sum(advantages(paid, by_deviation=True)))(jnp.ones(4))
    np.testing.assert_array_equal(slopes, 0.0)  # an outer loop's
    one = np.float32([1.0, 0.0, 0.0, 2.0])
    found = advantages(jnp.asarray(one), by_deviation=True)[0]
    np.testing.assert_allclose(found, (one - one.mean()) / one.std(), rtol=1e-6)


@pytest.mark.parametrize("advantage, slopes", [(2.0, (2.0, 0.0)), (-2.0, (-2.0, -3.0))])
def test_the_clip_is_of_single_steps(advantage, slopes):
    """At ratio 1, and at 1.5, whose gain is cut at 1.2 and whose loss is not: d ratio = ratio."""
    rule, log_ratio = LeaveOneOut(), jnp.log(jnp.array([1.0, 1.5]))
    zeros = jnp.zeros(2)
    targets = PolicyTargets(jnp.full(2, advantage), zeros, zeros, zeros)
    targets = targets.replace(heads={"counts": jnp.array([1.0, 0.0])})

    def loss(log_prob, entropy):
        outputs = PolicyOutputs(log_prob, entropy, jnp.zeros(2))
        return jnp.sum(rule.loss(outputs, targets, Progress.start()))

    found = jax.grad(loss, argnums=(0, 1))(log_ratio, jnp.ones(2))
    np.testing.assert_allclose(-found[0], slopes, rtol=1e-6)
    np.testing.assert_allclose(-found[1], [0.01, 0.0], rtol=1e-6)  # entropy of what counts alone
