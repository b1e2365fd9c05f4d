"""Chains of parts and of lagged copies: what each hook of a learner from replay does, by hand."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tables import FROM_REPLAY, HALF, Line, filled, kernel, rows, started
from v02_beer import BellmanRank

from jaxrl import envs
from jaxrl.agents import (
    PRESETS,
    GradientDescent,
    IteratedCopies,
    RewardShift,
    TargetUpdate,
    VarianceWeights,
    action_values,
    chain,
)
from jaxrl.core import Array, PartFacts, list_settings, setting, struct
from jaxrl.core.notation import KINDS, default_of
from jaxrl.envs.wrappers import Stock, TimeLimit
from jaxrl.replay import UniformReplay
from jaxrl.training import start_training, sweep, train_iteration

KEY = jax.random.key(0)
REPLAY = {"replay": UniformReplay(8, store_next=True)}
ONLINE = np.array([[2.0, 1.0], [1.0, 3.0], [0.0, 9.0]])
LAGGED = np.array([[7.0, 5.0], [10.0, 4.0], [6.0, -2.0]])
TAKEN = rows((0, 1.0, 1, ""), (0, 1.0, 1, ""))  # from state 0 to 1, with a reward of 1


@jax.jit
def update(agent, state, data):
    return agent.update(KEY, state, data)


def stepped(agent, online=ONLINE, lagged=LAGGED, data=TAKEN):
    """The state before and after one update on `data`, and the metrics."""
    state = started(agent, Line())
    before = state.replace(
        params=filled(state.params, advantage=online),
        target_params=filled(state.target_params, advantage=lagged),
    )
    return before, *jax.device_get(update(agent, before, data))


# --- the hooks ------------------------------------------------------------------------------------


@struct.dataclass
class Everything:
    """Every hook, each by a number of its own."""

    size: float = setting(1.0, "of all that it does")

    facts = PartFacts()

    def init(self, key, agent, env, params):
        """A count."""
        return jnp.zeros(())

    def relabelled(self, key, state, agent, data):
        """Rewards of 1 become 3."""
        return data.replace(reward=data.reward + 2.0 * self.size)

    def reward(self, key, state, step, lookahead):
        """And then 4."""
        return lookahead.replace(reward=lookahead.reward + self.size)

    def weigh(self, state, step, td_error):
        """Half of it, where it is above."""
        return jnp.where(td_error > 0, 0.5 * self.size, 1.0)

    def penalty(self, state, step, params):
        """A slope of 1 in the entry (2, 0)."""
        return jnp.sum(step.state.model.apply(params, jnp.array([2]))[0, 0] * self.size)

    def update(self, state, step, target, lagged):
        """What the lagged copy is off by."""
        return state + jnp.mean(target.mean() - lagged)

    def metrics(self, state) -> dict[str, Array]:
        """The sum so far."""
        return {"everything": state}


def test_every_hook_of_a_part_does_its_work():
    """Target 4 + 10 / 2 = 9 for the entry of 2: half of the error is 3.5; the lagged one is 7."""
    agent = PRESETS["dqn"]().replace(**FROM_REPLAY | REPLAY | {"parts": (Everything(),)})
    before, after, metrics = stepped(agent)
    moved = kernel(after.params, "advantage") - kernel(before.params, "advantage")
    np.testing.assert_allclose(moved, [[3.5, 0.0], [0.0, 0.0], [-1.0, 0.0]], rtol=1e-5)
    np.testing.assert_allclose(after.parts[0], 9.0 - 7.0, rtol=1e-6)
    np.testing.assert_allclose(metrics["everything"], 2.0, rtol=1e-6)
    np.testing.assert_allclose(metrics["loss"], 0.5 * 7.0**2 / 2 + 0.0, rtol=1e-5)


def test_critics_of_box_actions_call_the_same_hooks():
    """The target of a shifted critic is higher by (1 - d) K, and what is read lower by K."""
    base = {name: FROM_REPLAY[name] for name in FROM_REPLAY if name != "replay"}
    data = rows((0, 1.0, 1, ""), (0, 1.0, 1, ""), discrete=False)
    for shift in (0.0, -1.0, 1.0):  # K = 2 shift; all critics are 0, before the step
        agent = PRESETS["td3"]().replace(**base | REPLAY | {"parts": (RewardShift(shift),)})
        state = started(agent, Line(discrete=False))
        state = state.replace(learner=jax.tree.map(np.zeros_like, state.learner))
        _, metrics = jax.device_get(update(agent, state, data))
        read = agent.q_values(state, np.zeros(1, np.int32), np.zeros((1, 1), np.float32))
        np.testing.assert_allclose(metrics["critic_loss"], (1.0 + shift) ** 2 / 2, atol=1e-6)
        np.testing.assert_allclose(metrics["q_value"], -2.0 * shift, atol=1e-6)
        np.testing.assert_allclose(read, np.full((2, 1), -2.0 * shift), atol=1e-6)


@struct.dataclass
class Weighted:
    """Counts the coordinates of an action by weights."""

    weights: tuple[float, ...]

    facts = PartFacts(entropy=True)

    def log_prob(self, state, log_probs):
        """Their weighted sum."""
        return log_probs @ jnp.asarray(self.weights)


def test_a_part_says_what_counts_as_the_entropy_of_an_actor():
    """In the metric, in the loss of the actor and in the targets of the critics."""
    base = {name: FROM_REPLAY[name] for name in FROM_REPLAY if name != "replay"}
    data = rows((0, 1.0, 1, ""), (0, 1.0, 1, ""), discrete=False)
    found = {}
    for weight in (None, 1.0, 3.0):
        parts = () if weight is None else (Weighted((weight,)),)
        agent = PRESETS["sac"]().replace(**base | REPLAY | {"parts": parts})
        state = started(agent, Line(discrete=False))
        if weight == 3.0:  # the same worth of the same draws
            params = state.learner.params
            params = params.replace(log_temperature=params.log_temperature - jnp.log(3.0))
            state = state.replace(learner=state.learner.replace(params=params))
        found[weight] = jax.device_get(update(agent, state, data)[1])
    for name in ("critic_loss", "actor_loss", "entropy"):
        np.testing.assert_allclose(found[1.0][name], found[None][name], rtol=1e-5)
        scale = 3.0 if name == "entropy" else 1.0
        np.testing.assert_allclose(found[3.0][name], scale * found[None][name], rtol=1e-4)
    for name, env in (("td3", Line(discrete=False)), ("dqn", Line())):
        settings = base | REPLAY if name == "td3" else FROM_REPLAY
        agent = PRESETS[name]().replace(**settings | {"parts": (Weighted((1.0,)),)})
        with pytest.raises(ValueError, match="entropy"):
            agent.check(env)


@pytest.mark.slow
def test_the_number_of_a_part_is_swept_by_path():
    agent = PRESETS["dqn"]().replace(**FROM_REPLAY | {"parts": (RewardShift(0.0),)})
    over = {"parts.reward_shift.shift": (0.0, -1.0)}
    result = sweep(KEY, agent, TimeLimit(Line(), 4), num_steps=64, num_seeds=2, over=over)
    assert [one["parts.reward_shift.shift"] for one in result.settings] == [0.0, -1.0]


@pytest.mark.parametrize("name", sorted(KINDS["parts"].builders))
def test_every_part_learns_keeps_its_types_and_is_told_apart(name):
    """Two updates in a row give what one gives, by structure, shape and type."""
    part = default_of("parts", name)
    assert isinstance(part.facts, PartFacts) and isinstance(part, chain.HOOKS)
    discount = 1.0 if part.facts.undiscounted else HALF
    agent = PRESETS["dqn"]().replace(**FROM_REPLAY | {"parts": (part,), "discount": discount})
    mdp = envs.garnet(KEY, 3, 2, 2, HALF)
    env = Stock(envs.TabularEnv(mdp), discount=HALF) if name == "stock_conditioned" else Line()
    agent.check(env)
    start = lambda: start_training(KEY, agent, env, 100.0)  # noqa: E731
    once = jax.eval_shape(lambda: train_iteration(agent, env, start())[0])
    twice = jax.eval_shape(lambda state: train_iteration(agent, env, state)[0], once)
    assert jax.tree.map(jnp.result_type, once) == jax.tree.map(jnp.result_type, twice)
    assert jax.tree.map(jnp.shape, once) == jax.tree.map(jnp.shape, twice)
    names = [info.name for info in list_settings(agent) if info.name.startswith("parts.")]
    own = part.facts.name or {"differential": "average_reward"}.get(name, name)
    assert names == [f"parts.{own}.{info.name}" for info in list_settings(part)]


# --- lagged copies --------------------------------------------------------------------------------


def test_copies_inside_a_chain_are_refreshed_and_the_first_moves_with_the_window_alone():
    """Network k counts up by k + 1 from 10 k; refreshed after 2, 4, ..., the window after 3."""
    copies = IteratedCopies(num_networks=3, period=3, refresh=2)
    online, lagged = np.array([0.0, 10.0, 20.0]), np.array([-1.0, 0.0, 10.0])
    assert copies.init(np.array([1.0, 2.0, 3.0])).tolist() == [1.0, 1.0, 2.0]
    seen = []
    for count in range(1, 5):
        online = online + np.array([1.0, 2.0, 3.0])
        lagged = copies.move(lagged, online, count)
        online = np.asarray(copies.shift(online, count))
        seen.append((lagged.tolist(), online.tolist()))
    assert seen == [
        ([-1.0, 0.0, 10.0], [1.0, 12.0, 23.0]),
        ([-1.0, 2.0, 14.0], [2.0, 14.0, 26.0]),  # copy 0 stays
        ([3.0, 16.0, 29.0], [16.0, 29.0, 29.0]),  # all of them, then each one place down
        ([3.0, 17.0, 31.0], [17.0, 31.0, 32.0]),
    ]


@functools.cache
def iterated():
    """Two networks one step each: the first from LAGGED, the second from a copy of 3 LAGGED."""
    target = IteratedCopies(num_networks=2, period=100, refresh=100)
    agent = PRESETS["iterated_dqn"]().replace(**FROM_REPLAY | REPLAY | {"target": target})
    return agent, *stepped(agent, [ONLINE, ONLINE + 1.0], [LAGGED, 3.0 * LAGGED])


def test_each_network_moves_to_the_backup_of_the_copy_before_it():
    """1 + 10 / 2 = 6 for the entry of 2, and 1 + 30 / 2 = 16 for that of 3."""
    _, before, after, metrics = iterated()
    moved = kernel(after.params, "advantage") - kernel(before.params, "advantage")
    expected = np.zeros((2, 3, 2))
    expected[:, 0, 0] = [4.0, 13.0]
    np.testing.assert_allclose(moved, expected, rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], (4.0**2 + 13.0**2) / 4, rtol=1e-5)


def test_environments_act_by_networks_that_they_draw_and_the_reader_is_the_mean():
    agent, before, _, _ = iterated()
    opposed = before.replace(params=filled(before.params, advantage=[ONLINE, -ONLINE]))
    here = np.zeros(2000, np.int32)
    action, _ = jax.jit(lambda key: agent.act(key, opposed, here, explore=False))(KEY)
    assert abs(np.mean(action) - 0.5) < 0.05  # 2 > 1 by one network, -2 < -1 by the other
    values = agent.q_values(before, here[:1])
    np.testing.assert_allclose(values, ONLINE[:1] + 0.5, rtol=1e-6)


def test_one_network_is_the_usual_copy():
    plain = PRESETS["dqn"]().replace(**FROM_REPLAY | REPLAY | {"num_updates": 5})
    found = []
    for target in (TargetUpdate(2, 1.0), IteratedCopies(1, period=2, refresh=3)):
        agent = plain.replace(target=target)
        state = started(agent, Line())
        after, metrics = jax.device_get(update(agent, state, TAKEN))
        found.append((after.params, after.target_params, after.optimiser, metrics))
    one, chain = (jax.tree.leaves(tree) for tree in found)
    for left, right in zip(one, chain, strict=True):
        np.testing.assert_allclose(left, np.reshape(right, np.shape(left)), rtol=1e-6, atol=1e-7)


# --- the rank of features -------------------------------------------------------------------------


@jax.jit
def many_bounds(key):
    """Cosines and bounds of triples that obey the equation: any, and with phi - d phi' along w."""

    def one(key):
        next_features, weights, other = jax.random.normal(key, (3, 5))
        discount = jax.random.uniform(key, minval=0.1)
        found = []
        for features in (other, discount * next_features + 0.7 * weights):
            reward = weights @ (features - discount * next_features)
            pair = (features, next_features, weights, reward, discount)
            found.append(jnp.stack(BellmanRank.cosine_and_bound(*pair)))
        return jnp.stack(found)

    return jax.vmap(one)(jax.random.split(key, 500))


def test_what_obeys_the_bellman_equation_obeys_the_bound():
    found = np.asarray(many_bounds(KEY))
    assert np.all(found[:, 0, 0] <= found[:, 0, 1] + 1e-5)
    np.testing.assert_allclose(found[:, 1, 0], found[:, 1, 1], atol=1e-4)  # equality along w
    assert np.median(found[:, 0, 1] - found[:, 0, 0]) > 0.1


RANK = {
    # Of a reward, and how the transition ends: 8 times the excess, by NumPy below.
    "contradicts": (3.0, ""),
    "agrees": (0.0, ""),
    "ends": (3.0, "terminated"),
}


@pytest.mark.parametrize("name", RANK)
def test_the_penalty_of_a_critic_is_what_its_cosine_is_above_the_bound(name):
    """Critics of (one-hot state, action): phi is their input and 1, and w the kernel and bias."""
    reward, end = RANK[name]
    base = {one: FROM_REPLAY[one] for one in FROM_REPLAY if one != "replay"}
    losses = []
    for weight in (0.0, 8.0):
        agent = PRESETS["td3"]().replace(**base | REPLAY | {"parts": (BellmanRank(weight),)})
        agent = agent.replace(smoothing=0.0, num_critics=1)
        state = started(agent, Line(discrete=False))
        learner = jax.tree.map(np.zeros_like, state.learner)
        critic = jax.tree.map(lambda leaf: np.full_like(leaf, 0.5), learner.params.critic)
        state = state.replace(learner=learner.replace(params=learner.params.replace(critic=critic)))
        data = rows((0, reward, 1, end), (0, reward, 1, end), discrete=False)
        losses.append(float(jax.device_get(update(agent, state, data))[1]["critic_loss"]))
    here, there = np.array([1.0, 0, 0, 0, 1]), np.array([0, 1.0, 0, 0, 1])  # the actor is at 0
    bound = (2 + 2 * HALF**2 - reward**2 / (5 * 0.5**2)) / (2 * HALF * 2)
    excess = max(here @ there / 2 - bound, 0.0) if end == "" else 0.0
    assert (excess > 0) == (name == "contradicts")
    np.testing.assert_allclose(losses[1] - losses[0], 8.0 * excess, atol=1e-4)


def test_the_features_of_all_actions_stand_in_the_block_of_each():
    """Values are linear in them, by the network that learns and by the lagged copy."""
    agent = PRESETS["dqn"]().replace(**FROM_REPLAY | {"parts": (BellmanRank(),)})
    state = started(agent, Line())
    state = state.replace(params=jax.tree.map(lambda leaf: leaf + 0.25, state.params))
    data = jax.tree.map(lambda leaf: leaf[0], TAKEN)
    pair = action_values.pair(agent, state, data, state.params)
    values = state.model.apply(state.params, data.observation)
    np.testing.assert_allclose(pair.features @ pair.weights, values[:, 0], rtol=1e-6)
    with pytest.raises(ValueError, match="leave dueling off"):
        stepped(agent.replace(dueling=True))


# --- weights of a variance ------------------------------------------------------------------------

VARIANCE = VarianceWeights(
    least=0.5, scale_rate=0.25, optimiser=GradientDescent(learning_rate=1.0, max_grad_norm=None)
)


@functools.cache
def weighted(num_updates):
    """One step, as update number `num_updates`, of a state whose parts are tables too."""
    target = TargetUpdate(period=2, step_size=1.0)
    agent = PRESETS["dqn"]().replace(
        **FROM_REPLAY | REPLAY | {"parts": (VARIANCE,), "target": target}
    )
    state = started(agent, Line())
    (own,) = state.parts
    own = own.replace(
        params=filled(own.params, advantage=np.zeros((3, 2))),
        frozen=filled(own.frozen, advantage=np.log([[1.5, 1.0], [1.0, 1.0], [1.0, 1.0]])),
        previous=filled(own.previous, advantage=LAGGED + 1.0),
    )
    state = state.replace(
        params=filled(state.params, advantage=ONLINE),
        target_params=filled(state.target_params, advantage=LAGGED),
        parts=(own,),
        num_updates=np.int32(num_updates - 1),
    )
    return state, *jax.device_get(update(agent, state, TAKEN))


def test_errors_are_divided_by_the_frozen_variance_of_their_pair():
    """1.5 + 0.5 = 2 halves the error of 4. The former copy's target is 1 + 11 / 2 = 6.5, and the
    present one holds 7: a square of 1/4, above which the variance of 1.5 is by more than 1."""
    before, after, metrics = weighted(1)
    moved = kernel(after.params, "advantage") - kernel(before.params, "advantage")
    np.testing.assert_allclose(moved[0, 0], 0.5 * (6.0 - 2.0), rtol=1e-5)
    np.testing.assert_allclose(metrics["loss"], 0.5 * 4.0**2 / 2, rtol=1e-5)
    now, then = after.parts[0], before.parts[0]
    slope = kernel(now.params, "advantage") - kernel(then.params, "advantage")
    expected = np.zeros((3, 2))
    expected[0, 0] = -1.0  # Huber's slope times that of exp at 0
    np.testing.assert_allclose(slope, expected, atol=1e-5)
    # The mean weight is 1/2: the scale goes up by 1/4 (1 - 1/2) 1/2.
    np.testing.assert_allclose(metrics["variance_scale"], np.exp(1 / 16), rtol=1e-5)


@pytest.mark.parametrize("number", [1, 2])
def test_variances_are_frozen_and_the_former_copy_kept_where_the_copy_moves(number):
    before, after, _ = weighted(number)
    now, then, moves = after.parts[0], before.parts[0], number == 2
    frozen = now.params if moves else then.frozen
    previous = before.target_params if moves else then.previous
    for found, known in ((now.frozen, frozen), (now.previous, previous)):
        np.testing.assert_array_equal(kernel(found, "advantage"), kernel(known, "advantage"))


assert HALF == 0.5  # as the sums above have it
