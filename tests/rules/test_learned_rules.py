"""Learned policy gradients and learned rewards: what they read, and what must not reach them."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import rule_cases as cases
import scipy.special
from flax import linen as nn

from jaxrl.agents import ActorCriticAgent
from jaxrl.core import Box, Discrete, Progress, Space, Transition
from jaxrl.networks import CategoricalPolicy, GaussianPolicy
from jaxrl.rules import (
    AdvantageActorCritic,
    PolicyOutputs,
    PolicyTargets,
    StaticRiskGradient,
    drift,
    lpg,
    reactive_entropy,
    with_reward,
)

START = Progress(np.int32(0), np.float32(np.inf))
NUM_STEPS, WIDTH, NUM_PREDICTIONS = 6, 5, 3
TERMINATED, TRUNCATED = 2, 4  # steps that end an episode, one each way


@functools.cache
def made():
    with jax.ensure_compile_time_eval():
        return lpg(jax.random.key(0), WIDTH, NUM_PREDICTIONS, num_embedded=4)


def experience(**changes):
    """A rollout of one environment, `[6]`, and the network's outputs on it."""
    generator = np.random.default_rng(0)
    steps = np.arange(NUM_STEPS)
    numbers = {
        "reward": generator.normal(size=NUM_STEPS),
        "log_prob": -generator.exponential(size=NUM_STEPS),
        "value": generator.normal(size=NUM_STEPS),
        "logits": generator.normal(size=(NUM_STEPS, NUM_PREDICTIONS)),
        "next_logits": generator.normal(size=(NUM_STEPS, NUM_PREDICTIONS)),
    }
    numbers = {name: np.asarray(array, np.float32) for name, array in numbers.items()}
    numbers |= changes
    nothing = np.zeros(NUM_STEPS, np.float32)
    terminated = steps == TERMINATED
    trajectory = Transition(
        observation=nothing,
        action=np.zeros(NUM_STEPS, np.int32),
        reward=numbers["reward"],
        discount=np.float32(0.9 * (1.0 - terminated)),
        next_observation=nothing,
        terminated=terminated,
        truncated=steps == TRUNCATED,
        extras={},
    )
    outputs = PolicyOutputs(
        log_prob=numbers["log_prob"],
        entropy=nothing,
        value=numbers["value"],
        next_value=numbers["value"],
        policy=CategoricalPolicy(np.zeros((NUM_STEPS, 2), np.float32)),
        heads={"prediction": numbers["logits"]},
        next_heads={"prediction": numbers["next_logits"]},
    )
    return outputs, trajectory


@jax.jit
def said(outputs, trajectory):
    """pi_hat `[T]` and log y_hat `[T, m]`."""
    targets, _ = made().targets((), outputs, trajectory, START)
    return targets.advantage, targets.heads["prediction"]


def test_the_recurrence_is_an_lstm_run_backwards():
    """Against flax's cell, one step after the other, with the same weights."""
    outputs, trajectory = experience()
    expected, log_y = jax.jit(by_flax)(made().weights, outputs, trajectory)
    pi_hat, log_y_hat = said(outputs, trajectory)
    np.testing.assert_allclose(pi_hat, expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(log_y_hat, log_y, rtol=1e-5, atol=1e-6)


def by_flax(weights, outputs, trajectory):
    def embed(logits):
        units = nn.relu(nn.softmax(logits) @ weights["embed"] + weights["embed_bias"])
        return units @ weights["embed_out"] + weights["embed_out_bias"]

    cell = nn.LSTMCell(WIDTH)
    params = {}
    for index, gate in enumerate("ifgo"):
        columns = slice(index * WIDTH, (index + 1) * WIDTH)
        params[f"i{gate}"] = {"kernel": weights["inputs"][:, columns]}
        params[f"h{gate}"] = {
            "kernel": weights["memory"][:, columns],
            "bias": weights["bias"][columns],
        }
    memory = (jnp.zeros(WIDTH), jnp.zeros(WIDTH))
    expected = []
    for t in reversed(range(NUM_STEPS)):
        if t in (TERMINATED, TRUNCATED):
            memory = (jnp.zeros(WIDTH), jnp.zeros(WIDTH))
        step = [
            trajectory.reward[t],
            trajectory.discount[t],
            float(t == TERMINATED),
            jnp.exp(outputs.log_prob[t]),
            embed(outputs.heads["prediction"][t]),
            0.0 if t == TERMINATED else embed(outputs.next_heads["prediction"][t]),
        ]
        memory, hidden = cell.apply({"params": params}, memory, jnp.stack(step))
        expected.append(hidden @ weights["outputs"] + weights["outputs_bias"])
    expected = jnp.stack(expected[::-1])
    return expected[:, 0], nn.log_softmax(expected[:, 1:])


@pytest.mark.parametrize("changed", range(NUM_STEPS))
def test_a_step_is_seen_by_itself_and_by_what_led_to_it_in_its_episode(changed):
    """Not by later steps, and not by the episode before: whether that terminated or was cut."""
    outputs, trajectory = experience()
    first_of_episode = {0: 0, 1: 0, 2: 0, 3: 3, 4: 3, 5: 5}[changed]
    moved = trajectory.replace(
        reward=trajectory.reward + np.eye(NUM_STEPS, dtype=np.float32)[changed]
    )
    pi_hats = said(outputs, trajectory)[0], said(outputs, moved)[0]
    seen = np.not_equal(*map(np.asarray, pi_hats))
    assert np.flatnonzero(seen).tolist() == list(range(first_of_episode, changed + 1))


def test_the_successor_is_read_at_a_cut_and_not_at_a_termination():
    outputs, trajectory = experience()
    for step, read in [(TERMINATED, False), (TRUNCATED, True)]:
        logits = outputs.next_heads["prediction"].copy()
        logits[step] += [3.0, -2.0, 0.0]
        moved = outputs.replace(next_heads={"prediction": logits})
        pi_hats = said(outputs, trajectory)[0][step], said(moved, trajectory)[0][step]
        assert (pi_hats[0] != pi_hats[1]) == read


def test_the_value_network_is_not_used_and_a_batch_is_its_rows():
    outputs, trajectory = experience()
    moved, _ = experience(value=np.full(NUM_STEPS, 7.0, np.float32))
    np.testing.assert_array_equal(said(outputs, trajectory)[0], said(moved, trajectory)[0])
    other = trajectory.replace(reward=-trajectory.reward)
    rows = [said(outputs, each) for each in (trajectory, other)]
    stack = lambda *leaves: np.stack(leaves, axis=1)  # noqa: E731
    together = said(jax.tree.map(stack, outputs, outputs), jax.tree.map(stack, trajectory, other))
    for index, row in enumerate(rows):
        for one, batch in zip(row, together, strict=True):
            np.testing.assert_allclose(batch[:, index], one, rtol=1e-5, atol=1e-6)


def test_of_continuous_actions_it_reads_the_log_density():
    outputs, trajectory = experience()
    law = GaussianPolicy(np.zeros((NUM_STEPS, 1), np.float32), np.zeros(1, np.float32))
    gaussian = outputs.replace(policy=law)
    as_if = outputs.replace(log_prob=np.log(gaussian.log_prob + 9.0))
    shifted = gaussian.replace(log_prob=gaussian.log_prob + 9.0)  # exp(log(x)) = x
    pi_hats = said(shifted, trajectory)[0], said(as_if, trajectory)[0]
    np.testing.assert_allclose(*pi_hats, rtol=1e-4, atol=1e-5)


def test_its_loss_by_hand():
    """-log pi pi_hat + c KL(y || y_hat), with slopes -pi_hat and y (log y / y_hat - KL)."""
    y, y_hat = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.2, 0.6])
    logits = np.float32(np.log(y) + 4.0)
    outputs = PolicyOutputs(np.float32(-0.7), 0.0, 0.0, heads={"prediction": logits})
    heads = {"prediction": np.float32(np.log(y_hat))}
    targets = PolicyTargets(2.0, 0.0, -0.7, 0.0, heads=heads)
    rule = made().replace(prediction_weight=0.25)
    kl = scipy.special.rel_entr(y, y_hat).sum()

    @jax.jit
    @functools.partial(jax.value_and_grad, argnums=(0, 1))
    def loss_of(log_prob, logits):
        changed = outputs.replace(log_prob=log_prob, heads={"prediction": logits})
        return rule.loss(changed, targets, START)

    loss, slope = loss_of(outputs.log_prob, logits)
    np.testing.assert_allclose(loss, 1.4 + 0.25 * kl, rtol=1e-5)
    np.testing.assert_allclose(slope[0], -2.0, rtol=1e-6)
    np.testing.assert_allclose(slope[1], 0.25 * y * (np.log(y / y_hat) - kl), rtol=1e-4, atol=1e-7)


def test_sizes_below_one_are_refused():
    with pytest.raises(ValueError, match="num_predictions=0"):
        lpg(jax.random.key(0), num_predictions=0)


def test_an_agent_that_would_standardise_pi_hat_is_refused():
    for rule in (made(), with_reward(made(), abs)):
        with pytest.raises(ValueError, match="normalise_advantages=False"):
            ActorCriticAgent(rule=rule).check(cases.env())
        ActorCriticAgent(rule=rule, normalise_advantages=False).check(cases.env())


# --- rewards -------------------------------------------------------------------------------------

A2C = AdvantageActorCritic()


@jax.jit
def returns_of(rule, trajectory):
    outputs, _ = experience()
    return rule.targets((), outputs, trajectory, START)[0].returns


def test_a_function_pays_and_a_factor_discounts_before_the_inner_rule():
    _, trajectory = experience()
    rule = with_reward(A2C, lambda observation, action, reward: 3.0 * reward + action)
    rule = rule.replace(discount_factor=0.5)
    changed = trajectory.replace(reward=3.0 * trajectory.reward, discount=0.5 * trajectory.discount)
    np.testing.assert_allclose(returns_of(rule, trajectory), returns_of(A2C, changed), rtol=1e-6)


@pytest.mark.parametrize("source", ["function", "network"])
def test_a_hint_is_added_with_a_factor_of_its_own(source):
    """The rest of the reward is as it is without a hint."""
    given = jax.random.key(0) if source == "network" else lambda o, a, r: 3.0 * r + a
    spaces = (Discrete(5), Discrete(2))
    step = (np.array([4, 0, 3]), np.array([1, 0, 0]), np.float32([2.0, -1.0, 0.5]))
    pay = jax.jit(lambda paid: paid(*step))
    without = pay(with_reward(A2C, given, *spaces).reward)
    rule = with_reward(A2C, given, *spaces, hint=lambda seen, action: 10.0 * seen + action)
    for factor in (1.0, 0.25, 0.0):
        paid = rule.reward.replace(hint_factor=factor) if factor < 1.0 else rule.reward
        expected = np.asarray(without) + factor * np.array([41.0, 0.0, 30.0])
        np.testing.assert_allclose(pay(paid), expected, rtol=1e-6)
    weights = ("reward.reward.weights",) if source == "network" else ()
    assert rule.facts.learned == (*weights, "reward.hint_factor")


BOX = Box(0.0, 1.0, (2, 3))
SPACES = [(Discrete(5), Discrete(2)), (BOX, Discrete(2)), (BOX, Box(-1.0, 1.0, (2,)))]


@pytest.mark.parametrize("spaces", SPACES, ids=["table", "pixels", "continuous"])
def test_a_network_without_output_weights_pays_the_environment_s_reward(spaces):
    """And with them the blend of the formula; over any leading axes."""
    generator = np.random.default_rng(1)

    def draw(space: Space):
        """Values, and what the network is shown of them."""
        if isinstance(space, Discrete):
            index = generator.integers(0, space.num_values, (4, 3))
            return index, np.eye(space.num_values)[index]
        values = generator.uniform(size=(4, 3, *space.shape)).astype(np.float32)
        return values, values.reshape(4, 3, -1)

    reward = generator.normal(size=(4, 3)).astype(np.float32)
    drawn, shown = zip(*map(draw, spaces), strict=True)
    features = np.concatenate(shown, axis=-1)
    pay = jax.jit(lambda paid: (paid(*drawn, reward), jax.vmap(jax.vmap(paid))(*drawn, reward)))
    for scale in (0.0, 1.0):
        paid = with_reward(A2C, jax.random.key(0), *spaces, num_hidden=4, scale=scale).reward
        found, one = pay(paid)
        w = {name: np.asarray(leaf, np.float64) for name, leaf in paid.weights.items()}
        units = np.tanh(features @ w["hidden"] + w["hidden_bias"])
        said = units @ w["outputs"] + w["outputs_bias"]
        assert w["outputs"].std() > 0.1 or scale == 0.0
        expected = said[..., 0] + said[..., 1] * reward if scale else reward
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(one, found, rtol=1e-5, atol=1e-6)


class OneByOne:
    """A rule of a user's own that states its facts as they come."""

    needs_episodes, learned = True, ("table",)


def test_facts_that_stand_one_by_one_are_read_through_a_wrapper():
    facts = with_reward(OneByOne(), abs).facts
    assert facts.needs_episodes and not facts.raw_advantages
    assert facts.learned == ("rule.table",)


def test_everything_else_is_the_inner_rule_s():
    spaces = SPACES[0]
    key = jax.random.key(0)
    assert with_reward(made(), key, *spaces).facts.learned == ("reward.weights", "rule.weights")
    assert with_reward(drift(key), abs).facts.learned == ("rule.drift.weights",)
    assert with_reward(made(), abs).outputs == made().outputs
    assert with_reward(StaticRiskGradient(), abs).facts.needs_episodes
    assert not with_reward(A2C, abs).facts.needs_episodes
    reactive = reactive_entropy(key, StaticRiskGradient())
    assert reactive.facts.needs_episodes and reactive.facts.learned == ("weights",)
    assert with_reward(A2C, abs).init({}) == ()
    with pytest.raises(ValueError, match="observation_space"):
        with_reward(A2C, key)
