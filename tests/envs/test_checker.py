"""The checker names what a user's environment gets wrong, and passes every one of ours."""

import jax
import jax.numpy as jnp
import pytest

import jaxrl
from jaxrl import envs
from jaxrl.core import Box, Discrete, TimeStep, struct


@struct.dataclass
class Counter:
    """Counts to three from a random place; each test breaks one thing."""

    broken: str = struct.field(pytree_node=False, default="")

    @property
    def observation_space(self):
        if self.broken == "no space":
            return None
        if self.broken == "bounds":
            return Box(1.0, -1.0, (1,))
        return Box(-1.0, 5.0, (2,) if self.broken == "shape" else (1,))

    @property
    def action_space(self):
        return Discrete(0 if self.broken == "no action" else 2)

    def reset(self, key):
        place = jax.random.uniform(key)
        state = {"time": jnp.zeros((), jnp.int32), "place": place}
        if self.broken == "weak":
            state["time"] = 0
        if self.broken == "one value":
            return state
        return state, place[None]

    def step(self, key, state, action):
        time = state["time"] + jnp.ones((), jnp.int32)
        place = jax.random.uniform(key)
        over = time >= 3
        if self.broken == "resets":
            time = jnp.where(over, 0, time)
        observed = (9.0 if self.broken == "outside" else 1.0) * place[None]
        step = TimeStep(
            observation=observed.astype(jnp.float16) if self.broken == "dtype" else observed,
            reward=jnp.where(self.broken == "no reward", jnp.nan, place),
            terminated=over * (2.0 if self.broken == "chance" else 1.0),
            truncated=over if self.broken == "both" else jnp.zeros((), bool),
            cost=jnp.zeros(0),
            info={},
        )
        after = {"time": time, "place": place}
        if self.broken == "structure":
            after["more"] = time
        if self.broken == "state":
            after["time"] = time.astype(jnp.float32)
        if self.broken == "integer":
            step = step.replace(reward=time)
        if self.broken == "flag":
            step = step.replace(truncated=jnp.zeros(()))
        if self.broken == "five":
            return step.observation, step.reward, step.terminated, step.truncated, {}
        return after, step


SAID = {
    "no space": "observation_space: None is no space",
    "bounds": "lower bound above",
    "no action": "action_space: Discrete takes a whole number of values; got 0",
    "shape": r"observation is float32\[1\], but its space says float32\[2\]",
    "dtype": "float32.* after reset, float16",
    "weak": "Python number",
    "one value": r"reset\(key\) must return",
    "outside": "outside its space",
    "no reward": "reward is not finite",
    "chance": r"outside \[0, 1\]",
    "both": "terminated and truncated are true at once",
    "resets": "leave the reset to the loop",
    "structure": "another structure",
    "state": r"state\['time'\] is int32.* float32",
    "integer": "reward is int32",
    "flag": "truncated is float32",
    "five": "step returns 5 values",
}


@pytest.mark.parametrize("broken", SAID)
def test_it_says_what_is_wrong(broken):
    with pytest.raises(ValueError, match=rf"(?s)Counter cannot be trained in:.*{SAID[broken]}"):
        envs.check(Counter(broken))


def test_a_sound_environment_passes():
    envs.check(Counter())


@struct.dataclass
class Parts(Counter):
    """The same in two parts."""

    @property
    def observation_space(self):
        return {"at": Box(-1.0, 5.0, (1,)), "time": Discrete(2 if self.broken == "part" else 9)}

    @property
    def action_space(self):
        kinds = {"legal tree": {"hit": Discrete(2)}, "legal box": Box(0.0, 1.0, (2,))}
        return kinds.get(self.broken, Discrete(2))

    def _parts(self, state, place):
        time = state["time"].astype(jnp.int8) if self.broken == "type" else state["time"]
        return {"at": place, "clock" if self.broken == "name" else "time": time}

    def reset(self, key):
        state, place = Counter().reset(key)
        return state, self._parts(state, place)

    def step(self, key, state, action):
        state, step = Counter().step(key, state, action)
        return state, step.replace(observation=self._parts(state, step.observation))


@struct.dataclass
class Told(Parts):
    """One that says which actions are legal."""

    def legal(self, state):
        if self.broken == "shape":
            return jnp.ones(3, bool)
        return jnp.ones(2, bool) & ((state["time"] < 2) | (self.broken != "legal none"))


PARTS_SAID = {
    "part": (Parts, "outside its space"),
    "type": (Parts, r"observation\['time'\] is int8\[\], but its space says int32\[\]"),
    "name": (Parts, r"observation is \['at'\], \['clock'\], but its space is \['at'\], \['time'\]"),
    "legal tree": (Told, r"legal\(state\) cannot be traced: Expected dict"),
    "legal box": (Told, "legal is of Discrete or MultiDiscrete actions"),
    "shape": (Told, r"legal gives bool\[3\]: give bool\[2\]"),
    "legal none": (Told, "no action is legal in a state that goes on"),
}


@pytest.mark.parametrize("broken", PARTS_SAID)
def test_it_says_which_part_is_wrong_and_what_of_legal(broken):
    kind, said = PARTS_SAID[broken]
    with pytest.raises(ValueError, match=said):
        envs.check(kind(broken), num_steps=20)


def test_keys_that_are_not_used_are_told():
    with pytest.warns(UserWarning, match="makes use of its key"):
        envs.check(envs.make("DeepSea"))


@pytest.mark.slow
@pytest.mark.parametrize("broken", ["five", "structure", "state", "one value"])
def test_training_says_it_too(broken):
    """Where the loop cannot be traced, of all that is wrong the first."""
    with pytest.raises(ValueError, match=f"Counter cannot be trained in: .*{SAID[broken]}"):
        jaxrl.train(jax.random.key(0), jaxrl.dqn(), Counter(broken), num_steps=64)


# One of each way in which they are made; test_env_contract has the contract of all of them.
SLOW = ("Breakout-MinAtar", "Catch-bsuite", "FourRooms", "Garnet", "Pendulum-v1", "TwoColours")


@pytest.mark.filterwarnings("ignore:neither reset nor step")
@pytest.mark.parametrize(
    "name", ["CartPole", *(pytest.param(n, marks=pytest.mark.slow) for n in SLOW)]
)
def test_every_environment_of_ours_passes(name):
    envs.check(envs.make(name), num_steps=40)
