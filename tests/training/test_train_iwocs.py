"""Worst-case search with learning agents: what it finds, what it compiles, what it refuses."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from linear_policy import Dithered
from toys import KEY

import jaxrl
from jaxrl import envs
from jaxrl.agents import Optimiser, preset, response
from jaxrl.core import Linear, outcome_mdp, struct
from jaxrl.envs.control import CartPole, Pendulum
from jaxrl.networks import NetworkSettings
from jaxrl.replay import UniformReplay
from jaxrl.training import LeastValuePolicy, iwocs, train_iwocs
from jaxrl.training.iwocs import LeastValueState

TRACES = []


@struct.dataclass
class Counted:
    """An environment that notes how often `step` is traced."""

    env: envs.TabularEnv

    @property
    def observation_space(self):
        return self.env.observation_space

    @property
    def action_space(self):
        return self.env.action_space

    def reset(self, key):
        return self.env.reset(key)

    def step(self, key, state, action):
        TRACES.append(None)
        return self.env.step(key, state, action)


# --- a choice between four actions: every search is known ----------------------------------------

# What action (column) pays in setting (row), once; setting 0 is the nominal one.
CHOICES = {
    # Trained in 0: action 0, worst in 1 (0). With 1: action 1 by either set, worst in 2 (-5), so
    # that the nominal agent stays. With 2: action 2 by every set, worst in 3 (-1): it stays again.
    # With 3: all agents take action 3, worst in 2 (1), which is found already; no set is better.
    "all at last": ([10, 8, 6, 4], [0, 9, 7, 2], [5, -5, 6, 1], [3, 4, -1, 2]),
    # Trained in 0: action 0, worst in 1 (-1). With 1: together action 1, worst in 2 (-3); agent 1
    # alone action 2, worst in 0 (0). With 2: all take action 2, no worse than agent 1 alone.
    "one of two": ([10, 9, 0, -2], [-1, 2, 5, -2], [3, -3, 4, -2], [9, 9, 9, 9]),
}
NUM_SEEDS = 3  # in lanes of two: the last is padded


def choice(rewards):
    shape = (1, 4, 1)
    mdp = outcome_mdp(
        np.ones(shape),
        np.zeros(shape, int),
        np.reshape(rewards, shape).astype(float),
        terminal=np.ones(shape, bool),
    )
    return Counted(envs.TabularEnv(mdp))


def chooser():
    """A table of four numbers that reaches them: no noise, no bootstrap."""
    return preset("pqn").replace(
        network=NetworkSettings(hidden_sizes=(), initialiser="lecun"),
        optimiser=Optimiser(learning_rate=Linear(0.5, 0.0)),
        exploration=1.0,
        num_envs=16,
        rollout_length=4,
        num_epochs=4,
        num_minibatches=1,
    )


AT_ONCE = {"name": "one of two", "tolerance": 100.0}


def chosen(name, **options):
    """What a search in one of `CHOICES` found; one that stops at once always comes first."""
    search(**AT_ONCE)
    return search(name, **options)[0]


@functools.cache
def search(name, **options):
    """What was found, and how often the environment was traced for it."""
    env, *models = map(choice, CHOICES[name])
    TRACES.clear()
    found = train_iwocs(
        KEY,
        chooser(),
        env,
        models=models,
        num_steps=6400,
        num_seeds=NUM_SEEDS,
        lanes=2,
        num_episodes=2,
        max_steps=3,
        **options,
    )
    return found, len(TRACES)


@functools.cache
def tables(name):
    """Every agent's values `[S, N, A]`."""
    found = chosen(name)
    policy, used = found.policy, np.eye(4, dtype=bool)

    @jax.jit
    @jax.vmap
    def values(agents):
        def alone(mask):
            return policy.q_values(LeastValueState(agents, mask), jnp.zeros(1, int))[0]

        return jax.vmap(alone)(used)

    return jax.device_get(values(found.states.agents))


def expected_returns(name, actions):
    """What candidates that take these actions earn in every setting, `[N, M]`."""
    return np.array(CHOICES[name], np.float32).T[list(actions)]


def test_the_worst_kernel_of_the_nominal_agent_is_found_and_then_none_is_worse():
    found = chosen("all at last")
    assert found.found.tolist() == [[0, 1, 2, 3]] * NUM_SEEDS
    assert found.num_models.tolist() == [4] * NUM_SEEDS and found.converged.all()
    sets = [[1, 0, 0, 0]] * 3 + [[1, 1, 1, 1]]
    np.testing.assert_array_equal(found.sets, np.array([sets] * NUM_SEEDS, bool))
    np.testing.assert_array_equal(found.states.used, np.ones((NUM_SEEDS, 4), bool))
    returns = expected_returns("all at last", [0, 0, 0, 3])
    np.testing.assert_array_equal(found.returns, [returns] * NUM_SEEDS)
    np.testing.assert_array_equal(found.worst_returns, [[0, 0, 0, 1]] * NUM_SEEDS)


def test_a_set_of_fewer_agents_is_chosen_where_it_is_better_at_worst():
    found = chosen("one of two")
    assert found.found.tolist() == [[0, 1, 2, -1]] * NUM_SEEDS
    assert found.num_models.tolist() == [3] * NUM_SEEDS and found.converged.all()
    sets = [[1, 0, 0, 0], [0, 1, 0, 0], [1, 1, 1, 0], [0, 0, 0, 0]]
    np.testing.assert_array_equal(found.sets, np.array([sets] * NUM_SEEDS, bool))
    # The first of the best: agent 1 alone, which the later candidate only equals.
    np.testing.assert_array_equal(found.states.used, [[False, True, False, False]] * NUM_SEEDS)
    returns = np.full((4, 4), np.nan, np.float32)
    returns[:3] = expected_returns("one of two", [0, 2, 2])
    np.testing.assert_array_equal(found.returns, [returns] * NUM_SEEDS)
    np.testing.assert_array_equal(found.worst_returns, [[-1, 0, 0, np.nan]] * NUM_SEEDS)


def test_all_agents_together_are_kept_where_no_fewer_are_better():
    """The published search knows no other candidate, and ends where this one does."""
    published, found = chosen("all at last", subsets=False), chosen("all at last")
    np.testing.assert_array_equal(published.sets, [np.tri(4, dtype=bool)] * NUM_SEEDS)
    returns = expected_returns("all at last", [0, 1, 2, 3])
    np.testing.assert_array_equal(published.returns, [returns] * NUM_SEEDS)
    np.testing.assert_array_equal(published.found, found.found)
    np.testing.assert_array_equal(published.states.used, found.states.used)


@pytest.mark.parametrize(
    ("options", "settings", "converged"),
    [
        # The nominal agent's worst case is 10 less than what it was made for, exactly.
        ({"tolerance": 10.0}, [0, -1, -1, -1], True),
        # In 1 the two agents' is 13 less than their worst of 0 and 1; in 2 the three's is 7 less.
        ({"tolerance": 9.5}, [0, 1, 2, -1], True),
        pytest.param({"max_models": 2}, [0, 1], False, marks=pytest.mark.slow),  # other shapes
    ],
    ids=["at once", "tolerated", "too few"],
)
def test_the_search_ends_where_it_should(options, settings, converged):
    found = chosen("all at last", **options)
    assert found.found.tolist() == [settings] * NUM_SEEDS
    assert found.converged.tolist() == [converged] * NUM_SEEDS


def test_agents_learn_each_in_its_own_setting():
    for name, rewards in CHOICES.items():
        trained = 4 if name == "all at last" else 3
        expected = [rewards[:trained]] * NUM_SEEDS
        np.testing.assert_allclose(tables(name)[:, :trained], expected, atol=0.05)


def test_a_run_is_training_with_the_key_of_its_seed_and_number():
    """`fold_in(fold_in(key, seed), number)`, as promised, bit for bit: lanes of other seeds beside
    it, in the program of the search."""
    found = chosen("all at last")
    ours = jax.device_get(found.states.agents.params)
    for number, seeds in ((0, [2, 0]), (1, [1, 2])):
        fold = jax.random.fold_in
        keys = jnp.stack([fold(fold(KEY, seed), number) for seed in seeds])
        settings = iwocs._stacked([choice(CHOICES["all at last"][number])] * 2)
        alone = iwocs._train_group(keys, found.policy.agent, settings, 6400)
        for mine, theirs in zip(
            jax.tree.leaves(ours), jax.tree.leaves(jax.device_get(alone.params)), strict=True
        ):
            np.testing.assert_array_equal(mine[seeds, number], theirs)


def test_seeds_differ_and_the_nominal_candidate_is_kept():
    """Of two vectors and a bias, only the sum is learned: the rest tells the seeds apart."""
    found = chosen("all at last")
    leaves = jax.tree.leaves(jax.device_get(found.states.agents.params))
    assert any(len(np.unique(leaf[:, 0].reshape(NUM_SEEDS, -1), axis=0)) == 3 for leaf in leaves)
    act = jax.jit(lambda state: found.policy.act(KEY, state, np.zeros(1, int))[0])
    for seed in range(NUM_SEEDS):
        assert found.candidate(0, seed).used.tolist() == [True, False, False, False]
        assert act(found.candidate(0, seed)).tolist() == [0]
        assert act(found.state(seed)).tolist() == [3]


def test_one_program_trains_in_every_setting():
    """A search that stops at once traces all that those over four settings need."""
    assert chosen("all at last").num_models.tolist() == [4] * NUM_SEEDS
    traces = search(**AT_ONCE)[1], search("all at last")[1]
    assert traces[0] > 0 and traces[1] == 0


@pytest.mark.slow
def test_it_is_evaluated_like_any_agent():
    """Action 3 pays 4 in setting 0, and ends."""
    found = chosen("all at last")
    env = choice(CHOICES["all at last"][0]).env
    played = jaxrl.evaluate(
        KEY, found.policy, env, found.state(0), num_episodes=2, over={"time_limit": [3.0, 5.0]}
    )
    assert played.lengths.tolist() == [[1, 1]] * 2 and played.returns.tolist() == [[4.0, 4.0]] * 2


def test_attacks_know_how_it_responds():
    """The preferences are the least values: of 0, -5, -1 and 1, up to what was learned."""
    found = chosen("all at last")
    kinds = []

    @jax.jit
    def respond(state):
        rows, are_preferences = response(found.policy, KEY, state, np.zeros(1, int), ())
        kinds.append(are_preferences)
        return rows

    rows = respond(found.state(0))
    assert kinds == [True]
    np.testing.assert_allclose(rows, [[0.0, -5.0, -1.0, 1.0]], atol=0.05)


# --- the policy ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sac", "qr_dqn"])
def test_the_action_is_the_one_whose_least_value_is_greatest(name):
    """Of three agents' actions, or of all, by hand; the third has no say."""
    env = CartPole() if name == "qr_dqn" else Pendulum()
    agent = preset(name).replace(network=NetworkSettings(hidden_sizes=(8,)), num_envs=1)
    agent = agent.replace(replay=UniformReplay(capacity=8), batch_size=1)

    @jax.jit
    def run(key):
        states = jax.vmap(lambda key: agent.acting(agent.init(key, env)))(jax.random.split(key, 3))
        observation = jax.random.normal(key, (64, *env.observation_space.shape))
        state = LeastValueState(states, jnp.array([True, True, False]))
        chosen, _ = LeastValuePolicy(agent).act(key, state, observation)
        if name == "qr_dqn":
            apply = jax.vmap(lambda one: agent.scores(one.model.apply(one.params, observation)))
            return chosen, None, apply(states)  # [3, B, A]
        act = jax.vmap(lambda one: agent.act(key, one, observation, explore=False)[0])
        actions = act(states)  # [3, B, 1]
        apply = jax.vmap(agent.q_values, (0, None, None))
        return chosen, actions, jnp.stack([apply(states, observation, a) for a in actions])

    chosen, actions, values = jax.tree.map(np.asarray, run(KEY))
    if name == "qr_dqn":
        expected = np.minimum(values[0], values[1]).argmax(axis=-1)
        assert np.any(expected != values.min(axis=0).argmax(axis=-1))
    else:  # of action, agent, critic, row
        least = values[:2, :2].min(axis=(1, 2))
        expected = np.where((least[0] >= least[1])[:, None], *actions[:2])
        assert 0 < np.sum(least[0] >= least[1]) < 64
    np.testing.assert_allclose(chosen, expected, rtol=1e-5, atol=1e-6)


def test_an_agent_of_ones_own_needs_q_values_and_nothing_else():
    """Preferences (1, 3) and (2, 1): the least are 1 and 1, a tie, or alone 1 and 3."""
    policy = LeastValuePolicy(Dithered())
    seen = np.ones((2, 1), np.float32)
    agents = np.float32([[[1.0, 3.0]], [[2.0, 1.0]]])  # [N, D, A]
    for used, action in (([True, True], 0), ([True, False], 1)):
        state = LeastValueState(agents, np.array(used))
        assert policy.act(KEY, state, seen)[0].tolist() == [action, action]
        rows, are_preferences = response(policy, KEY, state, seen, ())
        assert are_preferences
        np.testing.assert_array_equal(rows[0], [1.0, 1.0] if action == 0 else [1.0, 3.0])


# --- what is refused -----------------------------------------------------------------------------

LENGTHS = {"pole_half_length": [0.4, 0.6]}
REFUSED = {
    "no values": ({"agent": preset("ppo"), "over": LENGTHS}, "dqn.*continuous"),
    "no settings": ({}, "got none"),
    "settings twice": ({"over": LENGTHS, "models": [CartPole()]}, "both"),
    "another kind": ({"models": [Pendulum()]}, r"models\[0\] differs"),
    "no models": ({"over": LENGTHS, "max_models": 0}, "max_models"),
    "no seeds": ({"over": LENGTHS, "num_seeds": 0}, "num_seeds"),
    "less than nothing": ({"over": LENGTHS, "tolerance": -1.0}, "tolerance"),
    "a length of nothing": ({"over": {"pole_half_length": [0.0]}}, "range"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused_with_the_remedy(case):
    changes, remedy = REFUSED[case]
    arguments = {"agent": preset("dqn"), "env": CartPole(), "num_steps": 1000} | changes
    with pytest.raises(ValueError, match=f"(?s){remedy}"):
        train_iwocs(KEY, **arguments)


def test_an_unknown_parameter_names_the_near_ones():
    with pytest.raises(KeyError, match="pole_mass"):
        train_iwocs(KEY, preset("dqn"), CartPole(), num_steps=16, over={"pole_mas": [1.0]})
