"""Arguments of public functions that cannot be meant."""

import dataclasses
import math
import re

import jax
import numpy as np
import pytest

import jaxrl
from jaxrl import envs
from jaxrl.core import Linear, arguments, struct
from jaxrl.envs import wrappers
from jaxrl.training import Checkpoints, load_metrics

KEY = jax.random.key(0)
AGENT = jaxrl.dqn().replace(num_envs=4)
ENV = envs.make("CartPole")


class NoStruct:
    observation_space, action_space = ENV.observation_space, ENV.action_space

    def reset(self, key):
        return ENV.reset(key)

    def step(self, key, state, action):
        return ENV.step(key, state, action)


@struct.dataclass
class Five(NoStruct):
    size: float = 1.0

    def step(self, key, state, action):
        _, step = ENV.step(key, state, action)
        return step.observation, step.reward, step.terminated, step.truncated, {}


SWEEPS = {
    "num_seeds": [True, 1.5, "2", None, 0, -1],
    "num_steps": [float("inf"), float("nan"), None, "many", 0],
    "num_records": [1.5, 0, "10"],
    "lanes": [1.5, 0, True],
    "first_seed": [-1, 0.5, 2**64],
    "checkpoint_seconds": [float("nan"), -1, "60"],
    "key": [0, None, jax.random.split(KEY, 2), np.zeros(3, np.uint32)],
    "agent": [None, "ppo", jaxrl.QNetworkAgent],
    "env": [None, "CartPole", type(ENV), NoStruct(), Five()],
    "over": [["discount"], {1: [1.0]}, {"discount": 0.9}, {"discount": ["a"]}, {"discount": "0.9"}],
}
SAID = {"over": r"over|discount", "env": r"env|Five"}


@pytest.mark.parametrize(
    "name, value", [(name, value) for name, values in SWEEPS.items() for value in values]
)
def test_a_sweep_refuses_it_in_a_sentence(name, value):
    asked = {"key": KEY, "agent": AGENT, "env": ENV, "num_seeds": 1, "num_steps": 64}
    with pytest.raises(ValueError, match=SAID.get(name, name)) as refused:
        jaxrl.sweep(**asked | {name: value})
    assert re.fullmatch(r"[^\n]+[.:][^\n]*", str(refused.value))


@pytest.mark.parametrize("values", [[0.9, 0.9], [0.9, 0.9 + 1e-12]])
def test_two_equal_values_are_no_sweep(values):
    with pytest.raises(ValueError, match="equal in float32"):
        jaxrl.sweep(KEY, AGENT, ENV, num_seeds=1, num_steps=64, over={"discount": values})


def with_rate(rate):
    ppo = jaxrl.ppo()
    return ppo.replace(optimiser=ppo.optimiser.replace(learning_rate=rate))


REFUSED = {
    "infinite": with_rate(float("inf")),
    "too large": with_rate(1e39),
    "too small": with_rate(1e-50),
    "no number": with_rate(float("nan")),
    "a schedule from nowhere": with_rate(Linear(float("nan"), 0.0)),
    "a schedule to nowhere": with_rate(Linear(1e-3, float("inf"))),
    "when": with_rate(Linear(1e-3, 0.0, end=float("nan"))),
    "no width": AGENT.replace(network=AGENT.network.replace(hidden_sizes=(64, 0))),
    "a discount of text": AGENT.replace(discount="0.9"),
    "no discount": AGENT.replace(discount=None),
    "many discounts": AGENT.replace(discount=np.array([0.9, 0.99])),
    "a width of text": AGENT.replace(network=AGENT.network.replace(hidden_sizes="64")),
    "half an environment": dataclasses.replace(AGENT, num_envs=1.5),
}


@pytest.mark.parametrize("name", REFUSED)
def test_settings_are_looked_at_as_float32_sees_them(name):
    with pytest.raises(ValueError, match=r"learning_rate|hidden_sizes|num_envs|discount"):
        jaxrl.train(KEY, REFUSED[name], ENV, num_steps=64)


@pytest.mark.parametrize("name", ["cart_mass", "pole_mass", "pole_half_length", "time_step"])
def test_what_is_no_length_or_mass_is_refused(name):
    for value in (0.0, -1.0, 1e-60, float("inf")):
        with pytest.raises(ValueError, match=name):
            jaxrl.train(KEY, AGENT, ENV.replace(**{name: value}), num_steps=64)


@pytest.mark.parametrize("value", [-1, 0, math.inf, True, 1e39, 1e-50])
def test_a_gymnax_pole_has_a_length(value):
    with pytest.raises(ValueError, match="length"):
        envs.make("CartPole-v1", length=value)


BUILT = {
    "max_speed": lambda: envs.make("Pendulum-v1", max_speed=-1.0),
    "link_length_1": lambda: envs.make("Acrobot-v1", link_length_1=-1.0),
    "no limit: max_steps": lambda: wrappers.TimeLimit(ENV, 0),
    "half a step: max_steps": lambda: wrappers.TimeLimit(ENV, 1.5),
    "scale": lambda: wrappers.RewardScale(ENV, math.nan),
    "noise scale": lambda: wrappers.ObservationNoise(ENV, -1.0),
    "probability": lambda: wrappers.StickyActions(ENV, 2.0),
    "epsilon": lambda: wrappers.NormaliseReward(ENV, epsilon=-1.0),
    "clip": lambda: wrappers.NormaliseReward(ENV, clip=math.nan),
    "length": lambda: wrappers.domain_randomisation(
        envs.make("CartPole-v1"), {"length": wrappers.Uniform(-1.0, 1.0)}
    ),
    "reward": lambda: jaxrl.tabular_mdp([[[1.0]]], [[1e39]], 0.9),
    "discount": lambda: jaxrl.tabular_mdp([[[1.0]]], [[1.0]], 1e-50),
}


@pytest.mark.parametrize("name", BUILT)
def test_a_number_without_meaning_is_refused_where_something_is_built(name):
    with pytest.raises(ValueError, match=name.split()[-1]):
        BUILT[name]()


def test_builders_of_a_trace_do_not_look_at_numbers():
    built = jax.jit(lambda x: wrappers.TimeLimit(wrappers.RewardScale(ENV, x), x))(-1.0)
    assert (built.max_steps, built.env.scale) == (-1, -1)


@pytest.mark.parametrize("step", [1.5, True, "../x", -1, None])
def test_a_checkpoint_needs_a_whole_step(step, tmp_path):
    with pytest.raises(ValueError, match="whole number"):
        Checkpoints(tmp_path / "inner").save(step, {"x": 1.0})
    assert not list(tmp_path.rglob("*x*"))


def test_the_rest_of_what_is_called(tmp_path):
    with pytest.raises(ValueError, match="unknown environment None"):
        envs.make(None)
    with pytest.raises(ValueError, match="pole_half_length"):
        envs.make("CartPole", pole_half_length=-1)
    with pytest.raises(ValueError, match="agent_state is None"):
        jaxrl.evaluate(KEY, AGENT, ENV, None)
    for path in (tmp_path, None):
        with pytest.raises(ValueError, match="rule file"):
            jaxrl.meta.load(path)


@pytest.mark.parametrize("state", [{}, 5, "x", AGENT.init(KEY, ENV)], ids=type)
def test_the_state_of_another_agent_does_not_play(state):
    with pytest.raises(ValueError, match=r"agent_state is .*ActorCriticState"):
        jaxrl.evaluate(KEY, jaxrl.ppo(), ENV, state, num_episodes=2)


def test_what_is_no_folder_is_refused(tmp_path):
    for asked in (
        lambda: Checkpoints(None),
        lambda: Checkpoints(tmp_path, keep=1.5),
        lambda: load_metrics(None),
        lambda: jaxrl.evaluate(KEY, AGENT, ENV, AGENT.init(KEY, ENV), over={1: [1.0]}),
    ):
        with pytest.raises(ValueError, match=r"^(folder|keep|path|over)=.* must "):
            asked()


def test_whole_numbers_and_lists_of_numbers():
    assert arguments.check_whole("n", 1e6) == 10**6 and isinstance(
        arguments.check_whole("n", np.int8(3)), int
    )
    assert arguments.check_number("x", np.float32(0.5)) == 0.5
    assert (
        arguments.check_numbers("x", np.array([1, 2])) == [1.0, 2.0]
        and arguments.check_numbers("x", ()) == []
    )
    with pytest.raises(ValueError, match="at least 2"):
        arguments.check_whole("n", 1, low=2)
