"""A critic that sees more than the actor: what is hidden from it never reaches the policy."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxrl
from jaxrl import Box, Discrete, TimeStep, core
from jaxrl.agents import NormalisedAgent
from jaxrl.core import struct

KEY = jax.random.key(0)
SIZES = {"hidden_sizes": (8,), "num_envs": 8, "rollout_length": 4, "num_minibatches": 2}


@struct.dataclass
class Pair:
    """A struct of spaces, or of what is seen."""

    near: object
    far: object


@struct.dataclass
class Hidden:
    """Action 1 pays for a sign that is seen, over a hidden number that is paid whatever is done."""

    kind: str = struct.field(pytree_node=False, default="dict")
    width: float = 5.0  # of the hidden number [return]

    def _of(self, sign, level, clock):
        return {
            "dict": {"sign": sign, "own": {"level": level, "clock": clock}},
            "tuple": (sign, (level, clock)),
            "struct": Pair(sign, (level, clock)),
            "single": sign,
        }[self.kind]

    @property
    def observation_space(self):
        return self._of(Box(-1.0, 1.0, (1,)), Box(-jnp.inf, jnp.inf, (1,)), Discrete(4))

    action_space = Discrete(2)

    def reset(self, key):
        sign_key, level_key = jax.random.split(key)
        sign = jnp.where(jax.random.bernoulli(sign_key), 1.0, -1.0)[None]
        level = self.width * jax.random.normal(level_key, (1,))
        return (sign, level), self._of(sign, level, jnp.zeros((), jnp.int32))

    def step(self, key, state, action):
        sign, level = state
        reward = jnp.where(action == 1, sign[0], 0.0) + level[0]
        seen = self._of(sign, level, jnp.ones((), jnp.int32))
        return state, TimeStep(seen, reward, jnp.ones((), bool), jnp.zeros((), bool))


def batch(sign, level, clock=0):
    return {
        "sign": jnp.full((3, 1), sign),
        "own": {"level": jnp.full((3, 1), level), "clock": jnp.full(3, clock)},
    }


@pytest.mark.parametrize("recurrent", [0, 4])
def test_what_is_hidden_never_reaches_the_policy_and_reaches_the_critic(recurrent):
    """By moving it and by gradients; what is seen reaches both."""
    names = ("sign", "own.clock")
    agent = jaxrl.ppo(actor_sees=names, recurrent_size=recurrent, **SIZES)
    agent.check(Hidden())

    @jax.jit
    def run(key):
        state = agent.init(key, Hidden())
        state = state.replace(params=jax.tree.map(lambda x: x + 0.1, state.params))

        def said(seen):
            _, extras = agent.act(key, state, seen)
            return agent.policy(state, seen).logits[:, 0], agent.values(state, seen), extras

        slope = lambda part: jax.grad(lambda seen: said(seen)[part].sum(), allow_int=True)  # noqa: E731
        found = [said(batch(*given)) for given in ((1.0, 2.0), (1.0, -3.0), (1.0, 2.0, 1))]
        return found, [slope(part)(batch(1.0, 2.0)) for part in (0, 1)]

    (usual, moved, later), slopes = jax.device_get(run(KEY))
    np.testing.assert_array_equal(usual[0], moved[0])
    np.testing.assert_array_equal(usual[2]["log_prob"], moved[2]["log_prob"])
    assert np.all(usual[1] != moved[1]) and np.all(usual[0] != later[0])
    policy, value = slopes
    assert np.all(policy["own"]["level"] == 0) and np.all(policy["sign"] != 0)
    assert np.all(value["own"]["level"] != 0) and np.all(value["sign"] != 0)
    if recurrent:
        actors, critics = zip(usual[2]["memory"], moved[2]["memory"], strict=True)
        np.testing.assert_array_equal(*actors)
        assert np.any(critics[0] != critics[1])


def test_to_act_nothing_else_is_needed():
    agent = jaxrl.ppo(actor_sees=("sign",), **SIZES)
    state = jax.jit(lambda key: agent.init(key, Hidden()))(KEY)
    whole, seen = batch(1.0, 2.0), {"sign": jnp.ones((3, 1))}
    for explore in (True, False):
        first, second = (agent.act(KEY, state, given, explore)[0] for given in (whole, seen))
        np.testing.assert_array_equal(first, second)


PARTS = {
    "dict": ("sign", "own.clock", "own"),
    "tuple": ("0", "1.1"),
    "struct": ("near", "far.0", "far"),
}


@pytest.mark.parametrize("kind", PARTS)
def test_parts_of_every_tree_are_named(kind):
    sizes = {"sign": 1, "own.clock": 4, "own": 5, "0": 1, "1.1": 4, "near": 1, "far.0": 1, "far": 5}
    for name in PARTS[kind]:
        agent = jaxrl.ppo(actor_sees=(name,), **SIZES)
        NormalisedAgent(agent).check(Hidden(kind))
        state = jax.eval_shape(functools.partial(agent.init, env=Hidden(kind)), KEY)
        params = state.params["params"]
        widths = [params[f"{who}_torso"]["MLP_0"]["Dense_0"]["kernel"].shape[0] for who in WHO]
        assert widths == [sizes[name], 6]


WHO = ("actor", "critic")


def test_what_is_not_there_or_cannot_be_kept_apart_is_refused():
    known = {"speed": "sign, own", "own.speed": "level, clock", "sign.0": "none, as it is"}
    for name, parts in known.items():
        last = name.rpartition(".")[2]
        with pytest.raises(ValueError, match=f"no part '{last}' in .*; its parts: {parts}"):
            jaxrl.ppo(actor_sees=(name,)).check(Hidden())
    with pytest.raises(ValueError, match="none, as it is a single array"):
        jaxrl.ppo(actor_sees=("sign",)).check(Hidden("single"))
    with pytest.raises(ValueError, match=r"actor_sees=.*shared_torso=True.*leave one out"):
        jaxrl.ppo(actor_sees=("sign",), shared_torso=True).check(Hidden())


def test_it_is_a_setting_like_any_other():
    full, value = core.notation.parse_setting(jaxrl.ppo(), "actor_sees", "sign,own.clock")
    assert jaxrl.ppo().replace(**{full: value}).actor_sees == ("sign", "own.clock")


@pytest.mark.slow
def test_a_critic_that_sees_what_is_hidden_learns_a_better_baseline():
    """Rewards are a hidden number of deviation 5, and what can be won is a tenth of that."""

    def learned(key, agent):
        state = jaxrl.train(key, agent, Hidden(), num_steps=4_000, num_records=1).state.agent
        seen = jax.vmap(Hidden().reset)(jax.random.split(key, 500))[1]
        error = agent.values(state, seen) - seen["own"]["level"][:, 0]
        chance = jnp.exp(agent.policy(state, seen).log_probs()[:, 1])
        return jnp.mean(chance * seen["sign"][:, 0]), jnp.mean(error**2)

    keys, found = jax.random.split(KEY, 16), {}
    base = jaxrl.a2c(learning_rate=1e-2, hidden_sizes=(16,), num_envs=32, rollout_length=4)
    for name, env_sees in {"more": ("sign",), "all": ()}.items():
        agent = base.replace(actor_sees=env_sees)
        found[name] = jax.device_get(
            jax.jit(jax.vmap(lambda key, agent=agent: learned(key, agent)))(keys)
        )
    assert found["more"][1].mean() < 0.5 * 25.0
    assert found["more"][0].mean() > 0.1
