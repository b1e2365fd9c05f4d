"""Legal actions: rollouts hand them over, agents obey, and a mask that is absent costs nothing."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl
from jaxrl import envs
from jaxrl.agents import Generative
from jaxrl.core import Discrete, MultiDiscrete, TimeStep, struct
from jaxrl.envs import TabularEnv, wrappers
from jaxrl.planning import value_iteration
from jaxrl.training import rollout, start_training, train

KEY = jax.random.key(0)
GAMMA = 0.9
# What is illegal would be the best by far; in state 0 one action is left, and the last action is
# legal nowhere. Rewards are costs otherwise.
LEGAL = np.array([[0, 1, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0]], bool)
COSTS = np.array([[9.0, -1.0, 9.0, 9.0], [-2.0, -0.5, 9.0, 9.0], [-1.0, 9.0, -0.25, 9.0]])
MOVES = np.array([[0, 1, 0, 0], [2, 0, 1, 1], [0, 2, 1, 2]])


def cost_mdp(mask=LEGAL):
    """Three states; a tenth of the time one goes elsewhere."""
    transition = 0.9 * np.eye(3)[MOVES] + 0.1 / 3
    return jaxrl.tabular_mdp(transition, COSTS, GAMMA, initial=np.full(3, 1 / 3), mask=mask)


ENV = TabularEnv(cost_mdp(), time_limit=20.0)
PLAIN = {"hidden_sizes": (), "discount": GAMMA}
SMALL_Q = {"warmup": 32, "batch_size": 16, "capacity": 256, "num_envs": 4, "layer_norm": False}
AGENTS = {
    "ppo": jaxrl.ppo(num_envs=4, rollout_length=16, num_minibatches=2, num_epochs=1, **PLAIN),
    "dqn": jaxrl.dqn(**PLAIN, **SMALL_Q),
    "pqn": jaxrl.pqn(num_envs=4, rollout_length=16, num_minibatches=2, num_epochs=1, **PLAIN),
}


def num_illegal(trajectory):
    taken = np.take_along_axis(np.asarray(trajectory.mask), trajectory.action[..., None], -1)
    return int(np.sum(~taken))


@functools.cache
def lived(name):
    """A short life, and a rollout after it."""
    agent = AGENTS[name]

    @jax.jit
    def run(key):
        state = train(key, agent, ENV, num_steps=640, num_records=1).state
        return state, rollout(key, agent, ENV, state.agent, state.rollout)[1]

    return jax.device_get(run(KEY))


@pytest.mark.parametrize("name", AGENTS)
def test_nothing_illegal_is_done(name):
    state, trajectory = lived(name)
    assert trajectory.mask.dtype == bool and num_illegal(trajectory) == 0
    places = np.asarray(trajectory.observation)
    np.testing.assert_array_equal(trajectory.mask, LEGAL[places])
    np.testing.assert_array_equal(
        trajectory.next_mask, LEGAL[np.asarray(trajectory.next_observation)]
    )
    greedy = AGENTS[name].act(KEY, state.agent, jnp.arange(3), False, (), LEGAL)[0]
    assert LEGAL[np.arange(3), greedy].all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.agent.params))


@pytest.mark.parametrize("name", ["dqn", "pqn"])
def test_no_target_is_built_on_illegal_actions(name):
    """The last action, legal nowhere, is made to look as if it were worth 100: a target with it
    would be near 90, and a loss near 90^2 / 2."""
    agent, (state, trajectory) = AGENTS[name], lived(name)

    def tempted(params):
        output = params["params"]["advantage"]
        output = {**output, "bias": output["bias"].at[-1].set(100.0)}
        return {"params": {**params["params"], "advantage": output}}

    @jax.jit
    def update(learner, trajectory):
        changed = {"params": tempted(learner.params)}
        if name == "dqn":
            changed["target_params"] = tempted(learner.target_params)
        return agent.update(KEY, learner.replace(**changed), trajectory)[1]

    learner = jax.tree.map(jnp.asarray, state.agent)
    assert 0.0 < float(update(learner, trajectory)["loss"]) < 50.0


def test_the_actor_learns_the_law_that_acted():
    """Its log-probabilities are those recorded, and its entropy that of the legal actions."""
    state, trajectory = lived("ppo")
    agent = AGENTS["ppo"]
    law = agent.policy(state.agent, trajectory.observation, (), trajectory.mask)
    np.testing.assert_allclose(
        law.log_prob(trajectory.action), trajectory.extras["log_prob"], atol=1e-5
    )
    assert np.all(np.exp(law.log_probs())[~trajectory.mask] == 0.0)
    whole = agent.replace(num_minibatches=1)  # its one step begins where it acted
    _, metrics = jax.jit(whole.update)(KEY, state.agent, trajectory)
    np.testing.assert_allclose(metrics["entropy"], np.mean(law.entropy()), atol=1e-5)


def test_where_nothing_is_said_nothing_is_kept():
    """No mask in the data and none in the replay; so the program is the one without them."""
    env, agent = TabularEnv(cost_mdp(None)), AGENTS["dqn"]
    assert not hasattr(env, "legal") and hasattr(ENV, "legal")

    def run(key):
        start = start_training(key, agent, env, 100.0)
        return start.agent, rollout(key, agent, env, start.agent, start.rollout)[1]

    state, trajectory = jax.eval_shape(run, KEY)
    for kept in (trajectory, state.replay.memory):
        assert kept.mask == () and kept.next_mask == ()


@struct.dataclass
class Open:
    """An environment inside, and a mask that allows everything."""

    env: TabularEnv

    observation_space = property(lambda self: self.env.observation_space)
    action_space = property(lambda self: self.env.action_space)

    def reset(self, key):
        return self.env.reset(key)

    def step(self, key, state, action):
        return self.env.step(key, state, action)

    def legal(self, state):
        return jnp.ones(4, bool)


@pytest.mark.slow
@pytest.mark.parametrize("name", AGENTS)
def test_a_mask_that_allows_everything_changes_nothing(name):
    env = TabularEnv(cost_mdp(None), time_limit=20.0)
    run = lambda env: train(KEY, AGENTS[name], env, num_steps=640, num_records=2)  # noqa: E731
    bare, masked = (jax.jit(run)(one) for one in (env, Open(env)))
    for one, other in zip(
        jax.tree.leaves(bare.metrics), jax.tree.leaves(masked.metrics), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-4)


@struct.dataclass
class Unaware:
    """An agent that takes no mask."""

    num_envs: int = struct.field(pytree_node=False, default=2)
    rollout_length: int = struct.field(pytree_node=False, default=4)
    discount: float = GAMMA

    def check(self, env):
        pass

    def init(self, key, env, total_steps=0.0):
        return ()

    def initial_memory(self, num_envs):
        return ()

    def act(self, key, state, observation, explore=True, memory=()):
        return jnp.zeros(observation.shape[0], jnp.int32), {}

    def update(self, key, state, trajectory):
        return state, {}


def test_who_cannot_obey_refuses():
    with pytest.raises(ValueError, match="act of Unaware takes no mask"):
        train(KEY, Unaware(), ENV, num_steps=8)
    with pytest.raises(ValueError, match="act of Unaware takes no mask"):
        jaxrl.evaluate(KEY, Unaware(), ENV, (), num_episodes=2)
    with pytest.raises(ValueError, match="Ensemble does not model which actions are legal"):
        jaxrl.dqn(successors=jaxrl.Ensemble()).check(ENV.replace(one_hot=True))
    with pytest.raises(ValueError, match="real-valued"):
        jaxrl.sac().check(ENV)


@pytest.mark.parametrize("store_next", [False, True])
def test_a_window_ends_with_its_own_mask(store_next):
    """Two steps are used, so that the next mask is that of the state after the second."""
    replay = jaxrl.replay.UniformReplay(8, 1, 2, store_next)
    flag = jnp.zeros((4, 1), bool)
    place = jnp.arange(4.0)[:, None]
    masks = jnp.eye(5, dtype=bool)[:, None]
    step = place, place, place, place * 0 + 1, place + 1, flag, flag, {}
    rows = jaxrl.Transition(*step, mask=masks[:4], next_mask=masks[1:])
    state = replay.init(jax.tree.map(lambda leaf: leaf[0], rows))
    batch = replay.sample(KEY, replay.add(state, rows), 16).transition
    first = np.asarray(batch.observation).astype(int)
    np.testing.assert_array_equal(batch.mask, np.eye(5, dtype=bool)[first])
    np.testing.assert_array_equal(batch.next_mask, np.eye(5, dtype=bool)[first + 2])
    episodes = jaxrl.replay.EpisodeReplay(8, 1, 2, store_next)
    drawn = episodes.sample(KEY, episodes.add(state, rows), 16).transition
    where = np.asarray(drawn.observation).astype(int)
    np.testing.assert_array_equal(drawn.mask, np.eye(5, dtype=bool)[where])
    np.testing.assert_array_equal(drawn.next_mask, np.eye(5, dtype=bool)[where + 1])


WRAPPED = {
    "same": lambda env: wrappers.RewardScale(env, 2.0),
    "inner": lambda env: wrappers.TimeLimit(env, 9),
    "both": lambda env: wrappers.StickyActions(wrappers.RewardNoise(env), 0.5),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_wrappers_hand_on_what_is_legal_and_nothing_where_nothing_is_said(name):
    wrapped = WRAPPED[name](ENV)
    state, observation = wrapped.reset(KEY)
    np.testing.assert_array_equal(wrapped.legal(state), LEGAL[int(observation)])
    assert not hasattr(WRAPPED[name](envs.make("CartPole")), "legal")


def test_wrappers_that_change_actions_change_the_mask_alike():
    state, observation = ENV.reset(KEY)
    held = wrappers.HeldActions(ENV, durations=(1, 4))
    np.testing.assert_array_equal(held.legal(state), np.repeat(LEGAL[int(observation)], 2))
    risky = wrappers.ExpectedConditionalRisk(ENV, num_thresholds=3)
    state, seen = risky.reset(KEY)
    np.testing.assert_array_equal(risky.legal(state), np.repeat(LEGAL[np.argmax(seen[:3])], 3))


@pytest.mark.parametrize("wrap", [wrappers.StickyActions, wrappers.NoisyActions])
def test_what_is_done_by_chance_is_legal_too(wrap):
    """An illegal action would pay 9."""
    env = wrap(ENV, 0.9)

    @jax.jit
    @jax.vmap
    def rewards(key):
        def step(carry, key):
            state, place = carry
            state, seen = env.step(key, state, jnp.argmax(jnp.asarray(LEGAL)[place]))
            return (state, seen.observation), seen.reward

        return jax.lax.scan(step, env.reset(key), jax.random.split(key, 50))[1]

    assert np.max(rewards(jax.random.split(KEY, 20))) <= 0.0


def test_a_hold_ends_where_the_action_is_no_longer_legal():
    """Action 2 leads from state 2 to state 1, where it is illegal."""
    mdp = jaxrl.tabular_mdp(np.eye(3)[MOVES], COSTS, GAMMA, initial=[0.0, 0.0, 1.0], mask=LEGAL)
    env = wrappers.HeldActions(TabularEnv(mdp), durations=(4,), discount=GAMMA)
    state, _ = env.reset(KEY)
    _, step = env.step(KEY, state, jnp.asarray(2))
    assert float(step.info["duration"]) == 1.0 and float(step.reward) == -0.25


def test_whether_a_table_tells_is_seen_when_it_is_built():
    assert ENV.replace(mdp=cost_mdp(None)).masked is False
    assert TabularEnv(cost_mdp(None)).replace(mdp=cost_mdp()).masked
    traced = jax.jit(lambda mdp: TabularEnv(mdp, masked=True).legal(ENV.reset(KEY)[0]))(cost_mdp())
    assert traced.shape == (4,)


@struct.dataclass
class Levers:
    """Two levers, of 3 and 2 places; what is legal goes round with the time."""

    action_space = MultiDiscrete([3, 2])

    @property
    def observation_space(self):
        return {"time": Discrete(4), "places": MultiDiscrete([3, 2])}

    def _see(self, state):
        time, places = state
        return {"time": time, "places": places}

    def reset(self, key):
        state = jax.random.randint(key, (), 0, 4), jnp.zeros(2, jnp.int32)
        return state, self._see(state)

    def step(self, key, state, action):
        ok = jnp.all(jnp.asarray(self.action_space.allows(self.legal(state), action)))
        state = (state[0] + 1) % 4, jnp.asarray(action, jnp.int32)
        reward = jnp.where(ok, jnp.sum(action) * 1.0, -100.0)
        return state, TimeStep(self._see(state), reward, jnp.zeros((), bool), state[0] == 0)

    def legal(self, state):
        time, _ = state
        first = jnp.arange(3) != time % 3
        return jnp.concatenate([first, jnp.array([True, False]) | (time > 1)])


def test_a_product_of_categoricals_obeys_in_every_coordinate():
    envs.check(Levers(), num_steps=40)
    agent = AGENTS["ppo"].replace(num_minibatches=1)
    start = jax.jit(lambda key: start_training(key, agent, Levers(), 100.0))(KEY)
    played = jax.jit(lambda key: rollout(key, agent, Levers(), start.agent, start.rollout)[1])(KEY)
    assert np.min(played.reward) >= 0.0 and played.action.shape == (16, 4, 2)
    _, metrics = jax.jit(agent.update)(KEY, start.agent, played)
    assert np.isfinite(metrics["loss"])
    # At equal logits: the mean entropy is that of the legal choices.
    choices = np.log(played.mask[..., :3].sum(-1)) + np.log(played.mask[..., 3:].sum(-1))
    np.testing.assert_allclose(metrics["entropy"], choices.mean(), atol=0.02)
    with pytest.raises(ValueError, match="values each of the actions of a Discrete space"):
        AGENTS["dqn"].check(Levers())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ppo", "dqn", "pqn", "munchausen", "generative", "c51"])
def test_masked_agents_reach_the_planner(name):
    """Greedy in the planner's actions, and, of value learners, near its values."""
    rate = {"learning_rate": 1e-2}
    q_settings = {**PLAIN, "layer_norm": False, **rate}
    agent, num_steps = {
        "ppo": (jaxrl.ppo(num_envs=16, rollout_length=32, **PLAIN, **rate), 100_000),
        "dqn": (jaxrl.dqn(**q_settings), 30_000),
        "pqn": (jaxrl.pqn(**{**q_settings, "lambda_": 0.0}), 100_000),
        "munchausen": (jaxrl.munchausen_dqn(**q_settings), 30_000),
        "generative": (jaxrl.dqn(**q_settings, successors=Generative(num_samples=4)), 30_000),
        "c51": (jaxrl.c51(**q_settings, low=-10.0, high=10.0), 12_000),
    }[name]
    mdp = cost_mdp()
    solution = value_iteration(mdp)

    @jax.jit
    def run(key):
        state = train(key, agent, ENV, num_steps=num_steps, num_records=1).state
        return state, rollout(key, agent, ENV, state.agent, state.rollout)[1]

    state, trajectory = run(KEY)
    assert num_illegal(jax.device_get(trajectory)) == 0
    places = jnp.arange(3)
    best = np.where(LEGAL, solution.q_values, -np.inf).argmax(-1)
    greedy = agent.act(KEY, state.agent, places, False, (), LEGAL)[0]
    np.testing.assert_array_equal(greedy, best)
    if name in ("dqn", "pqn", "generative", "c51"):
        found = np.where(LEGAL, agent.q_values(state.agent, places), -np.inf).max(-1)
        np.testing.assert_allclose(found, solution.values, atol=0.25)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ppo", "dqn"])
def test_nothing_illegal_is_done_in_a_million_steps(name):
    """Every illegal step pays 9, which no legal one does: none is in the data of a whole life."""
    agent = {
        "ppo": jaxrl.ppo(num_envs=64, **PLAIN),
        "dqn": jaxrl.dqn(num_envs=64, capacity=6400, **PLAIN),
    }[name]

    def life(key):
        state = start_training(key, agent, ENV, 1e6)

        def iterate(carry, key):
            learner, where = carry
            where, trajectory, _ = rollout(key, agent, ENV, learner, where)
            learner, _ = agent.update(key, learner, trajectory)
            return (learner, where), jnp.max(trajectory.reward)

        num = -(-1_000_000 // (agent.num_envs * agent.rollout_length))
        keys = jax.random.split(key, num)
        return jnp.max(jax.lax.scan(iterate, (state.agent, state.rollout), keys)[1])

    assert float(jax.jit(life)(KEY)) <= 0.0
