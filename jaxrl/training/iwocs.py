"""Robust policies as a sequence of ordinary training runs: incremental worst-case search.

Its policy takes the action whose least value among several agents is greatest.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.agents.action_values import legal_scores
from jaxrl.agents.readers import HasQValues, acting
from jaxrl.core import Struct
from jaxrl.core.arguments import check_whole
from jaxrl.core.protocols import Agent, Environment
from jaxrl.core.types import Array, Key, PyTree
from jaxrl.envs.parameters import list_parameters
from jaxrl.training.evaluation import (
    check_alike,
    environments_at,
    evaluate_each,
    expand_parameters,
)
from jaxrl.training.lanes import default_lanes, strong_floats
from jaxrl.training.loop import check_training, train


class LeastValueState(Struct):
    """The agents that have a say."""

    agents: PyTree  # states [N, ...] of N agents, without what learning alone needs
    used: Array  # [N] bool


class LeastValuePolicy(Struct):
    """Acts by q(s, a) = min over i of q_i(s, a), the q_i those of N agents of one kind.

    discrete actions:    argmax over a of q(s, a); q_i is the agent's score, which is the functional
                         of its return law where it has one
    continuous actions:  argmax of q(s, a) over the N actions that the agents would take; q_i is the
                         least mean of its critics

    Where each agent learned a task of its own this is a bound on what any one of them promises. A
    network that has never seen anything like s has a say all the same: the minimum is only as good
    as the worst of the N extrapolations.

    Attributes:
        agent: the settings that the N agents share.

    Example:
        >>> from jaxrl import dqn
        >>> from jaxrl.envs.control import CartPole
        >>> fresh = jax.jit(jax.vmap(lambda key: dqn().init(key, CartPole())))
        >>> agents = fresh(jax.random.split(jax.random.key(0), 2))
        >>> policy, state = LeastValuePolicy(dqn()), LeastValueState(agents, jnp.ones(2, bool))
        >>> policy.act(jax.random.key(0), state, jnp.zeros((5, 4)), explore=False)[0].shape
        (5,)

    Sources:
        Zouitine, Geist & Rachelson (2024), Solving robust MDPs as a sequence of static RL problems,
        algorithm 1 (the minimum). The paper's deep form, section 5.1, acts by the policy whose own
        q_i promises least for its own action, and drops q_i where a model of the task that agent i
        learned in foresees the state badly; neither is done here.
    """

    agent: Agent

    def initial_memory(self, num_envs: int) -> tuple:
        """Nothing is carried between steps."""
        return ()

    def act(
        self,
        key: Key,
        state: LeastValueState,
        observation: PyTree,
        explore: bool = True,
        memory: PyTree = (),
        mask: PyTree = (),
    ) -> tuple[Array, dict[str, Any]]:
        """`observation[B, ...]` -> `action[B, ...]`, no extras. It does not explore."""
        chosen = jax.vmap(lambda one: self.agent.act(key, one, observation, explore=False)[0])
        actions = chosen(state.agents)  # [N, B, ...]
        if jnp.issubdtype(actions.dtype, jnp.integer):
            scores = legal_scores(self.q_values(state, observation), mask)
            return jnp.argmax(scores, axis=-1).astype(jnp.int32), {}
        values = jax.vmap(lambda action: self.q_values(state, observation, action))(actions)
        values = jnp.where(state.used[:, None], values, -jnp.inf)  # [N, B]
        best = jnp.argmax(values, axis=0)
        return jax.vmap(lambda row, index: row[index], (1, 0))(actions, best), {}

    def q_values(self, state: LeastValueState, observation: PyTree, *action: Array) -> Array:
        """The least values [return]: `[B, A]` of discrete actions, `[B]` of `action[B, ...]`."""
        agent: Any = self.agent
        found = jax.vmap(lambda one: agent.q_values(one, observation, *action))(state.agents)
        found = jnp.min(found, axis=1) if action else found  # [N, B] of critics, [N, B, A]
        used = state.used.reshape(-1, *[1] * (found.ndim - 1))
        return jnp.min(jnp.where(used, found, jnp.inf), axis=0)

    def response(
        self, key: Key, state: LeastValueState, observation: Array, memory: PyTree
    ) -> tuple[Array, bool]:
        """The least values, or the action: see `jaxrl.agents.readers.response`."""
        actions = self.act(key, state, observation, explore=False)[0]
        if jnp.issubdtype(actions.dtype, jnp.integer):
            return self.q_values(state, observation), True
        return actions.reshape(actions.shape[0], -1), False


class WorstCaseTraining(Struct):
    """What the search leaves: S seeds, up to N settings each, of M that were looked at.

    Candidate i acts by the least values of agents that were trained in the first i + 1 settings.
    """

    policy: LeastValuePolicy
    states: LeastValueState  # [S, ...] of `policy`: each seed's candidate with the best worst case
    sets: Array  # [S, N, N] bool, the agents of each candidate; none where the search had ended
    found: Array  # [S, N] int32, settings trained in, in order; -1 where ended
    returns: Array  # [S, N, M] mean return of each candidate in each setting; NaN where ended
    num_models: Array  # [S] int32, settings trained in
    converged: Array  # [S] bool, the search ended because no setting was left to add
    parameters: dict[str, Array]  # [M] each, by full name; empty when given as environments

    @property
    def worst_returns(self) -> Array:
        """Mean return of each candidate in its worst setting, `[S, N]`; NaN where ended."""
        return jnp.min(self.returns, axis=-1)

    def state(self, seed: int = 0) -> LeastValueState:
        """What `policy` acts on for one seed."""
        return _lane(self.states, seed)

    def candidate(self, number: int, seed: int = 0) -> LeastValueState:
        """Candidate `number` of a seed; 0 is the agent that knows the nominal setting alone."""
        last = min(number, int(self.num_models[seed]) - 1)
        return self.state(seed).replace(used=self.sets[seed, last])

    def setting(self, number: int, seed: int = 0) -> dict[str, float]:
        """The parameters of the setting that a seed found as its `number`-th."""
        index = int(self.found[seed, number])
        return {name: float(values[index]) for name, values in self.parameters.items()}


def train_iwocs(
    key: Key,
    agent: Agent,
    env: Environment,
    *,
    num_steps: int,
    over: Mapping[str, Sequence[float]] | None = None,
    paired: bool = False,
    models: Sequence[Environment] = (),
    num_seeds: int = 1,
    max_models: int = 4,
    subsets: bool = True,
    tolerance: float = 0.0,
    num_episodes: int = 64,
    max_steps: int = 10_000,
    lanes: int | None = None,
) -> WorstCaseTraining:
    """Train in a setting, look for the candidate's worst setting, train there too, repeat.

        q_i  = action values learned from nothing in setting T_i alone,   T_0 the environment's own
        pi_i = greedy in min over j <= i of q_j
        T_{i+1} = the setting where pi_i has the least mean return

    until that setting is among T_0 .. T_i, or hardly worse than the worst of them: then the
    policy's worst case is one that it was made for. Each run is ordinary training in one
    environment that never changes, so that every agent with values of actions will do. The settings
    are static: one holds for a whole episode.

    The minimum of optimal values is the robust value where nature's choices in different states and
    actions are free of each other; over a box of parameters they are not, and a network's error
    where it has not been counts in full. Therefore candidate i, by default, is greedy in the
    minimum over the set of agents, among all sets of 0 .. i, whose policy has the best worst case:
    single agents and the nominal one are among them, and ties go to the greatest set. Its worst
    setting is trained in when that of pi_i is known already. With `subsets=False` candidate i is
    pi_i, as published. The settings and episodes that a candidate was chosen on flatter it:
    evaluate on others.

    Args:
        key: seed `s` trains in its i-th setting with `fold_in(fold_in(key, s), i)`.
        agent: of a kind that `LeastValuePolicy` takes; it is trained anew in every setting.
        env: the nominal setting, T_0.
        num_steps: environment steps of each training run, rounded up as in `jaxrl.train`.
        over: the settings looked at, as in `jaxrl.evaluate`; the nominal one is added as number 0.
        paired: as in `jaxrl.evaluate`.
        models: the settings looked at, as environments that differ from `env` in numbers only;
            instead of `over`.
        num_seeds: S, independent searches.
        max_models: N, settings that are trained in at most.
        subsets: try every set of agents, 2^N - 1 in all; else all of them only.
        tolerance: of the mean return in the worst setting below that in the worst one found, which
            is small enough to stop, >= 0 [return].
        num_episodes: in each setting, the same draws in all of them.
        max_steps: episodes still running after so many steps are cut.
        lanes: seeds trained in one call of the program; by default one on a CPU, 64 elsewhere.

    Returns:
        settings found, returns by candidate and setting, and `policy` with its `states`, which
        `jaxrl.evaluate(key, result.policy, env, result.state(seed), over=...)` takes.

    Raises:
        ValueError: an agent without values of actions, no settings or both kinds of them, or a
            number out of range.
        KeyError: the environment has no such parameter.

    Numerics:
        Settings are traced: one program trains in all of them and one plays in all of them.

    Example:
        >>> from jaxrl import dqn, evaluate
        >>> from jaxrl.envs.control import CartPole
        >>> settings = {"pole_half_length": [0.25, 1.0]}
        >>> key, env, agent = jax.random.key(0), CartPole(time_limit=20.0), dqn()
        >>> found = train_iwocs(key, agent, env, num_steps=16, over=settings, num_episodes=2)
        >>> found.setting(0)
        {'pole_half_length': 0.5}
        >>> policy, state = found.policy, found.state(seed=0)
        >>> evaluate(key, policy, env, state, num_episodes=2, over=settings).returns.shape
        (2, 2)

    Sources:
        Zouitine, Geist & Rachelson (2024), Solving robust MDPs as a sequence of static RL problems,
        algorithm 1 and section 5 (the deep form: one run for each setting). There the search ends
        where the worst return of pi_i is, within a tolerance, what its q promised at the start. The
        deep form learns by SAC, with a second critic that leaves the entropy out; searches by
        CMA-ES, or on a grid as here; and acts by the policy whose own q promises least for its own
        action, where here the least q of each proposed action counts. There a q_j counts only where
        a learned model of T_j foresaw the state, and where none does a policy acts that was trained
        in random settings; here every q_j counts.
    """
    check_training(agent, env)
    if not isinstance(agent, HasQValues):
        raise ValueError(
            f"{type(agent).__name__} has no values of single actions, of which the least is taken: "
            "use dqn, qr_dqn, c51 or pqn with discrete actions, sac, td3 or tqc with continuous "
            "ones."
        )
    if (over is None) == (not models):
        told = "none" if over is None else "both over and models"
        raise ValueError(
            f"the settings to look at: got {told}. Give over={{'pole_mass': [0.1, 0.5]}}, or "
            "models, a list of environments."
        )
    if not tolerance >= 0.0:
        raise ValueError(f"tolerance={tolerance} must be at least 0.")
    num_seeds = check_whole("num_seeds", num_seeds)
    max_models = check_whole("max_models", max_models)
    play: dict[str, Any] = {
        "num_episodes": check_whole("num_episodes", num_episodes),
        "max_steps": check_whole("max_steps", max_steps),
    }
    given = expand_parameters(env, over, paired) if over is not None else {}
    envs = [env, *(environments_at(env, given) if given else models)]
    check_alike({f"models[{n - 1}]" if n else "env": one for n, one in enumerate(envs)})
    nominal = {info.name: info.value for info in list_parameters(env)}
    policy = LeastValuePolicy(strong_floats(agent))
    width = min(check_whole("lanes", default_lanes() if lanes is None else lanes), num_seeds)
    found = np.full((num_seeds, max_models), -1, np.int32)
    returns = np.full((num_seeds, max_models, len(envs)), np.nan, np.float32)
    sets = np.zeros((num_seeds, max_models, max_models), bool)
    wanted = np.zeros(num_seeds, np.int32)  # the setting to train in next, -1 where ended
    agents: list[list[PyTree]] = [[] for _ in range(num_seeds)]
    for number in range(max_models):
        seeds = np.flatnonzero(wanted >= 0)
        found[seeds, number] = wanted[seeds]
        for rows in (seeds[start : start + width] for start in range(0, len(seeds), width)):
            padded = np.resize(rows, width) if len(rows) < width else rows
            settings = _stacked([strong_floats(envs[wanted[seed]]) for seed in padded])
            trained = _train_group(_keys(key, padded, number), policy.agent, settings, num_steps)
            for lane, seed in enumerate(rows):
                agents[seed].append(_lane(trained, lane))
        for seed in seeds:
            play_key = _keys(key, np.array([seed]), max_models)[0]
            states = _padded(agents[seed], max_models)
            tried = []  # sets of agents, and what they earn in each setting
            for mask in _candidates(number, max_models, subsets):
                state = LeastValueState(states, jnp.asarray(mask))
                played = evaluate_each(play_key, policy, envs, state, **play)
                tried.append((mask, np.asarray(played.setting_means)))
            if subsets and number:
                tried.append((sets[seed, number - 1], returns[seed, number - 1]))
            best = tried[_best([row.min() for _, row in tried])]
            sets[seed, number], returns[seed, number] = best
            own = found[seed, : number + 1]
            rows = (tried[0][1], best[1])
            worse = [row for row in rows if row.min() < row[own].min() - tolerance]
            wanted[seed] = worse[0].argmin() if worse else -1
    used = [sets[seed, _best(row)] for seed, row in enumerate(returns.min(axis=-1))]
    return WorstCaseTraining(
        policy=policy,
        states=LeastValueState(
            _stacked([_padded(some, max_models) for some in agents]), jnp.asarray(np.array(used))
        ),
        sets=jnp.asarray(sets),
        found=jnp.asarray(found),
        returns=jnp.asarray(returns),
        num_models=jnp.asarray(np.sum(found >= 0, axis=1), jnp.int32),
        converged=jnp.asarray(wanted < 0),
        parameters={name: jnp.asarray([nominal[name], *row], float) for name, row in given.items()},
    )


@functools.partial(jax.jit, static_argnames="num_steps")
def _train_group(keys: Key, agent: Agent, settings: PyTree, num_steps: int) -> PyTree:
    """Agents trained from nothing, `[W, ...]`, each in a setting of its own, of `settings[W]`."""

    def one(key: Key, env: Environment) -> PyTree:
        state = train(key, agent, env, num_steps=num_steps, num_records=1).state
        return acting(agent, state.agent)

    if keys.shape[0] == 1:  # a conditional of one lane skips what it does not need
        return _stacked([one(keys[0], _lane(settings, 0))])
    return jax.vmap(one)(keys, settings)


@jax.jit
def _keys(key: Key, seeds: Array, number: Array) -> Key:
    """The keys `[W]` of these seeds for their run of this number."""
    return jax.vmap(lambda seed: jax.random.fold_in(jax.random.fold_in(key, seed), number))(seeds)


def _candidates(number: int, max_models: int, subsets: bool) -> np.ndarray:
    """The sets of agents `[C, N]` to try once there are `number` + 1, the greatest first."""
    if not subsets:
        return (np.arange(max_models) <= number)[None]
    later = (False,) * (max_models - number - 1)
    rows = [(*row, True, *later) for row in itertools.product((True, False), repeat=number)]
    return np.array(sorted(rows, key=sum, reverse=True))


def _best(values: Sequence[float] | np.ndarray) -> int:
    """The place of the first greatest value; NaN is the least."""
    return int(np.argmax(np.nan_to_num(values, nan=-np.inf, posinf=np.inf, neginf=-np.inf)))


def _padded(agents: list[PyTree], max_models: int) -> PyTree:
    """A seed's agents `[N, ...]`; the first again where there is none."""
    return _stacked([*agents, *agents[:1] * (max_models - len(agents))])


def _stacked(trees: Sequence[PyTree]) -> PyTree:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def _lane(tree: PyTree, lane: int) -> PyTree:
    return jax.tree.map(lambda leaf: leaf[lane], tree)
