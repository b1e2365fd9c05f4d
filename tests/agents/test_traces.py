"""What a policy draws is what is scored; what is done is a function of it, in any tree."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from flax import linen as nn

import jaxrl
from jaxrl import Box, Discrete, MultiDiscrete, TimeStep, envs, rules
from jaxrl.agents import preset, response
from jaxrl.core import struct
from jaxrl.networks import CategoricalPolicy, GaussianPolicy, PolicyLaw, ProductPolicy
from jaxrl.training import rollout, start_training

KEY = jax.random.key(0)
SIZES = {"num_envs": 4, "rollout_length": 8, "num_minibatches": 2, "num_epochs": 1}
PUSH, KIND, BAG = Box(0.0, 10.0, (2,)), Discrete(3), MultiDiscrete([2, 3])
SPACES = {
    "discrete": KIND,
    "several": BAG,
    "box": PUSH,
    "dict": {"push": PUSH, "what": {"bag": BAG, "kind": KIND}},
    "tuple": (KIND, PUSH),
    "discrete tree": (KIND, {"bag": BAG}),
}


@struct.dataclass
class Acted:
    """Any actions; pays for the sum of their numbers, and ends after four steps."""

    kind: str = struct.field(pytree_node=False, default="dict")

    observation_space = Box(-1.0, 1.0, (2,))
    action_space = property(lambda self: SPACES[self.kind])

    def reset(self, key):
        return jnp.zeros((), jnp.int32), jax.random.uniform(key, (2,), minval=-1.0)

    def step(self, key, state, action):
        reward = sum(jnp.sum(leaf) for leaf in jax.tree.leaves(action)) * jnp.float32(0.1)
        seen = jax.random.uniform(key, (2,), minval=-1.0)
        return state + 1, TimeStep(seen, reward, jnp.zeros((), bool), state >= 3)


def lived(agent, env, key=KEY):
    """A first state, and its trajectory."""
    start = start_training(key, agent, env, 100.0)
    return start.agent, rollout(key, agent, env, start.agent, start.rollout)[1]


def types(tree):
    return jax.tree.map(lambda x: (x.shape, x.dtype), tree)


def types_of(agent, env):
    """The same, of which an update must keep the types of the state."""

    def run(key):
        before, trajectory = lived(agent, env, key)
        return before, agent.update(key, before, trajectory)[0], trajectory

    before, after, trajectory = jax.eval_shape(run, KEY)
    assert types(before) == types(after)
    return trajectory


EVERY = [
    kind if kind in ("discrete", "box", "dict") else pytest.param(kind, marks=pytest.mark.slow)
    for kind in SPACES
]


@pytest.mark.parametrize("kind", EVERY)
def test_actions_of_any_tree_of_spaces_are_learned_from_and_none_is_stored_twice(kind):
    agent, env = jaxrl.ppo(**SIZES), Acted(kind)
    agent.check(env)
    trajectory = types_of(agent, env)
    wanted = jax.tree.map(
        lambda x: ((8, 4, *x.shape), x.dtype), SPACES[kind], is_leaf=lambda x: hasattr(x, "sample")
    )
    assert types(trajectory.action) == wanted
    assert ("trace" in trajectory.extras) == (kind in ("box", "dict", "tuple"))
    assert jax.tree.structure(trajectory.trace) == jax.tree.structure(trajectory.action)


@functools.cache
def played():
    """A trajectory with actions in a dict, and what the law at each step says of it."""
    agent, env = jaxrl.ppo(**SIZES), Acted()

    @jax.jit
    def run(key):
        state, seen = lived(agent, env, key)
        law, other = agent.policy(state, seen.observation), agent.policy(state, seen.observation)
        other = jax.tree.map(lambda x: 0.5 * x - 0.1, other)
        said = law.log_prob(seen.trace), law.entropy(), law.kl(other), law.mode()
        return seen, law.parts, other.parts, said

    return jax.device_get(run(KEY))


def logs(law):
    """Log-probabilities of a categorical, in float64."""
    return scipy.special.log_softmax(law.logits.astype(float), axis=-1)


def test_what_is_scored_is_what_was_drawn_and_what_is_done_is_a_function_of_it():
    """Against SciPy, part by part."""
    seen, law, _, (log_prob, *_) = played()
    raw, push = seen.trace["push"], seen.action["push"]
    np.testing.assert_allclose(push, np.clip(5.0 + 5.0 * raw, 0.0, 10.0), atol=1e-5)
    assert np.mean(np.abs(raw) > 1.0) > 0.1  # clipped, so that the action tells less
    normal = scipy.stats.norm(law["push"].loc, np.exp(law["push"].log_scale))
    expected = normal.logpdf(raw).sum(-1)
    one = lambda law, drawn: np.take_along_axis(logs(law), drawn[..., None], -1)[..., 0]  # noqa: E731
    expected += one(law["what"]["kind"], seen.action["what"]["kind"])
    for place, part in enumerate(law["what"]["bag"].parts):
        expected += one(part, seen.action["what"]["bag"][..., place])
    np.testing.assert_allclose(log_prob, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(seen.extras["log_prob"], log_prob, rtol=1e-5, atol=1e-5)


def test_entropies_and_divergences_of_the_parts_are_summed():
    _, law, other, (_, entropy, kl, mode) = played()
    flat = [(law["what"]["kind"], other["what"]["kind"])]
    flat += zip(law["what"]["bag"].parts, other["what"]["bag"].parts, strict=True)
    scale, others = (np.exp(x["push"].log_scale.astype(float)) for x in (law, other))
    expected = scipy.stats.norm(0.0, scale).entropy().sum(-1)
    gap = law["push"].loc - other["push"].loc
    divergence = (np.log(others / scale) + (scale**2 + gap**2) / (2 * others**2) - 0.5).sum(-1)
    for one, its in flat:
        probs = np.exp(logs(one))
        expected = expected + scipy.stats.entropy(probs, axis=-1)
        divergence = divergence + np.sum(probs * (logs(one) - logs(its)), axis=-1)
    np.testing.assert_allclose(entropy, expected, rtol=1e-5)
    np.testing.assert_allclose(kl, divergence, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(mode["push"], law["push"].loc)
    np.testing.assert_array_equal(mode["what"]["kind"], logs(law["what"]["kind"]).argmax(-1))


def test_parts_are_drawn_by_keys_of_their_own_and_masked_by_masks_of_their_own():
    twins = ProductPolicy((GaussianPolicy(jnp.zeros(3), jnp.zeros(3)),) * 2)
    first, second = twins.sample(KEY)
    assert not np.any(first == second)
    coin = CategoricalPolicy(jnp.zeros(4))
    law = ProductPolicy({"coin": coin, "place": twins.parts[0]})
    masked = law.masked({"coin": jnp.array([False, True, False, False]), "place": ()})
    assert masked.sample(KEY)["coin"] == 1 and float(masked.parts["coin"].entropy()) == 0.0
    assert masked.parts["place"] is law.parts["place"]
    with pytest.raises(ValueError, match="real-valued actions are all legal"):
        law.masked({"coin": (), "place": jnp.ones(3, bool)})


# ---- a law of one's own --------------------------------------------------------------------------


@struct.dataclass
class Steps:
    """A chain, x_1 ~ N(loc, 1) and x_2 ~ N(x_1 + loc, 1), of which the last is done."""

    loc: jax.Array  # [..., D]

    def sample(self, key):
        first, second = jax.random.normal(key, (2, *self.loc.shape))
        return jnp.stack([first + self.loc, second + first + 2 * self.loc], axis=-2)

    def mode(self):
        return jnp.stack([self.loc, 2 * self.loc], axis=-2)

    def action(self, trace):
        return trace[..., 1, :]

    def log_prob(self, trace):
        steps = jnp.stack([trace[..., 0, :], trace[..., 1, :] - trace[..., 0, :]], axis=-2)
        squares = (steps - self.loc[..., None, :]) ** 2 + jnp.log(2 * jnp.pi)
        return -0.5 * jnp.sum(squares, axis=(-2, -1))

    def entropy(self):
        return jnp.sum(jnp.log(2 * jnp.pi * jnp.e) + 0.0 * self.loc, axis=-1)

    def kl(self, other):
        return jnp.sum((self.loc - other.loc) ** 2, axis=-1)

    def masked(self, mask):
        raise ValueError("nothing is illegal.")


class Head(nn.Module):
    """Gives `Steps` of so many numbers, or nothing that is a law."""

    size: int = 2
    lawful: bool = True

    @nn.compact
    def __call__(self, features):
        loc = nn.Dense(self.size)(features)
        return Steps(loc) if self.lawful else loc


def test_a_law_of_ones_own_is_scored_by_the_whole_of_what_it_draws():
    agent, env = jaxrl.ppo(policy_head=Head(), **SIZES), Acted("box")
    agent.check(env)
    types_of(agent, env)

    @jax.jit
    def run(key):
        state, seen = lived(agent, env, key)
        place, (rows, discrete) = (
            jnp.ones((3, 2)),
            response(agent, key, state, jnp.ones((3, 2)), ()),
        )
        assert not discrete
        return seen, agent.policy(state, seen.observation).loc, rows, agent.policy(state, place).loc

    seen, loc, rows, here = jax.device_get(run(KEY))
    drawn = seen.trace
    assert drawn.shape == (8, 4, 2, 2)
    np.testing.assert_allclose(seen.action, np.clip(5 + 5 * drawn[..., 1, :], 0, 10), atol=1e-5)
    moved = np.stack([drawn[..., 0, :], drawn[..., 1, :] - drawn[..., 0, :]], axis=-2)
    expected = scipy.stats.norm(loc[..., None, :]).logpdf(moved).sum((-2, -1))
    np.testing.assert_allclose(seen.extras["log_prob"], expected, rtol=1e-4)
    np.testing.assert_allclose(rows, 5.0 + 10.0 * here, rtol=1e-5)  # the last step of the mode


def test_every_law_of_ours_and_one_of_ones_own_is_one():
    coin = CategoricalPolicy(jnp.zeros(4))
    for law in (coin, GaussianPolicy(coin.logits, coin.logits), ProductPolicy((coin,)), Steps(1.0)):
        assert isinstance(law, PolicyLaw)
    assert not isinstance(jnp.zeros(3), PolicyLaw)


def test_what_is_no_law_or_draws_other_actions_is_refused():
    with pytest.raises(ValueError, match=r"policy_head=Head gives a .* all the methods"):
        jaxrl.ppo(policy_head=Head(lawful=False)).check(Acted("box"))
    for head, kind in ((Head(3), "box"), (Head(), "tuple"), (Head(), "discrete")):
        with pytest.raises(ValueError, match=r"policy_head=Head draws actions like .*\(1, [23]\)"):
            jaxrl.ppo(policy_head=head).check(Acted(kind))


@pytest.mark.parametrize("name", ["dqn", "pqn", "iqn", "sac", "td3"])
def test_agents_that_choose_one_thing_refuse_a_tree_of_actions(name):
    with pytest.raises(ValueError, match=r"this environment's are .*use ppo or a2c"):
        preset(name).check(Acted("tuple"))


def test_a_box_in_a_tree_is_checked_and_no_attack_on_several_parts_is_known(monkeypatch):
    monkeypatch.setitem(SPACES, "whole", (KIND, Box(0.0, 1.0, (2,), jnp.dtype("int32"))))
    with pytest.raises(ValueError, match=r"int32.*Box of float32"):
        jaxrl.ppo().check(Acted("whole"))
    agent = jaxrl.ppo(**SIZES)
    for kind in ("tuple", "several"):
        with pytest.raises(ValueError, match="no gradient attack"):
            jax.eval_shape(
                lambda key, kind=kind: response(
                    agent, key, agent.init(key, Acted(kind)), jnp.ones((3, 2)), ()
                )[0],
                KEY,
            )


# ---- memory as part of the action ----------------------------------------------------------------


@struct.dataclass
class Cue:
    """A cue is seen in the first of two steps; 1 for naming it in the second."""

    observation_space = Box(-1.0, 1.0, (1,))
    action_space = Discrete(2)

    def reset(self, key):
        cue = jnp.where(jax.random.bernoulli(key), 1.0, -1.0)
        return (cue, jnp.zeros((), bool)), cue[None]

    def step(self, key, state, action):
        (cue, is_last), never = state, jnp.zeros((), bool)
        named = jnp.float32((action == 1) == (cue > 0)) * is_last
        return (cue, ~never), TimeStep(jnp.zeros(1), named, is_last, never)


@pytest.mark.slow
def test_the_score_of_action_and_memory_is_the_exact_gradient():
    """Of a linear policy: the noise of the memory integrated by NumPy, differences in float64."""
    num_envs = 100_000
    agent = jaxrl.a2c(hidden_sizes=(), num_envs=num_envs, rollout_length=2)
    env = envs.wrappers.CarriedMemory(Cue(), size=1)
    start = start_training(KEY, agent, env, 1.0)
    params = jax.tree.map(lambda x: jax.random.normal(KEY, x.shape), start.agent.params)
    state = start.agent.replace(params=params)
    seen = jax.jit(rollout, static_argnums=1)(KEY, agent, env, state, start.rollout)[1]

    def score(params, episode, trace):
        law = agent.policy(state.replace(params=params), episode.observation)
        return jnp.sum(law.log_prob(trace) * jnp.cumsum(episode.reward[::-1])[::-1])

    slopes = jax.jit(jax.vmap(jax.grad(score), (None, 1, 1)))(params, seen, seen.trace)
    head = params["params"]["policy_head"]
    noise, width = np.linspace(-9.0, 9.0, 20_001, retstep=True)
    weight = scipy.stats.norm.pdf(noise) * width

    def exact(told):
        act, remember = told["heads_0"]["output"], told["heads_1"]
        slope = act["kernel"][:, 1] - act["kernel"][:, 0]
        offset, total = act["bias"][1] - act["bias"][0], 0.0
        for cue in (-1.0, 1.0):
            mean = remember["output"]["kernel"][0, 0] * cue + remember["output"]["bias"][0]
            memory = np.clip(mean + np.exp(remember["log_scale"][0]) * noise, -1.0, 1.0)
            total += weight @ scipy.special.expit(cue * (slope[1] * memory + offset))
        return total / 2

    head = jax.tree.map(lambda x: np.asarray(x, np.float64), head)
    found = jax.tree.map(lambda x: np.asarray(x, np.float64), slopes["params"]["policy_head"])
    leaves, tree = jax.tree.flatten(head)
    for index, rows in enumerate(jax.tree.leaves(found)):
        for place in np.ndindex(*rows.shape[1:]):
            ends = []
            for bump in (1e-5, -1e-5):
                moved = [leaf.copy() for leaf in leaves]
                moved[index][place] += bump
                ends.append(exact(jax.tree.unflatten(tree, moved)))
            rows_here = rows[(slice(None), *place)]
            error = rows_here.std() / num_envs**0.5 + 1e-6
            assert abs(rows_here.mean() - (ends[0] - ends[1]) / 2e-5) < 4.5 * error


@pytest.mark.slow
def test_a_memory_in_the_action_solves_what_a_policy_without_one_cannot():
    """By chance half of the cues are named."""
    rule = rules.ProximalPolicy(lambda_=1.0, entropy_weight=0.0)
    agent = jaxrl.ppo(rule=rule, learning_rate=3e-3, hidden_sizes=(32,), num_envs=32)

    def learned(key, env):
        state = jaxrl.train(key, agent, env, num_steps=60_000, num_records=1).state.agent
        return jaxrl.evaluate(key, agent, env, state, num_episodes=200).mean

    keys = jax.random.split(KEY, 4)
    run = jax.jit(jax.vmap(learned, (0, None)))
    carried, plain = run(keys, envs.wrappers.CarriedMemory(Cue(), size=1)), run(keys, Cue())
    assert np.mean(carried) > 0.9 and np.max(plain) < 0.65
