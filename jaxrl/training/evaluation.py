"""Evaluation: many whole episodes side by side, nothing learned; in one environment or a grid."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict, Unpack, overload

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.core import Struct, struct
from jaxrl.core.arguments import check_key, check_names, check_parts, check_whole
from jaxrl.core.estimates import Estimate, percentile_interval
from jaxrl.core.protocols import Agent, Environment, Policy, act, legal_of_each
from jaxrl.core.types import Array, Key, PyTree, TimeStep, select
from jaxrl.envs.parameters import check_parameter, resolve_parameter, with_parameters
from jaxrl.envs.wrappers.randomisation import DomainRandomisation
from jaxrl.functionals import CVaR
from jaxrl.training.attacks import Attack, AttackedPolicy
from jaxrl.training.lanes import strong_floats
from jaxrl.training.rollouts import total_reward

# How often each episode is drawn, `[R, M, E]`, and the returns `[M, E]` -> `[R, ...]`.
Statistic = Callable[[np.ndarray, np.ndarray], np.ndarray]


class Evaluation(Struct):
    """Returns of `E` whole episodes. An episode cut by `max_steps` counts with what it had."""

    returns: Array  # [E] undiscounted [return]
    lengths: Array  # [E] [steps]
    finished: Array  # [E] bool
    costs: PyTree = ()  # [E, num_costs] undiscounted; () where the environment has none
    channels: PyTree = ()  # [E, C] returns of the channels of a reward; () where it has none

    @property
    def mean(self) -> Array:
        """Mean return `[]`."""
        return jnp.mean(self.returns)

    @property
    def worst_decile(self) -> Array:
        """The return `[]` that nine episodes in ten reach: the lower 0.1-quantile."""
        rank = max(0, -(-self.returns.shape[-1] // 10) - 1)
        return jnp.sort(self.returns)[rank]

    def cvar(self, level: float = 0.1) -> Array:
        """Mean `[]` of the worst `level` share of returns: static CVaR, on whole returns."""
        return tail_mean(level, self.returns)

    def summary(self) -> dict[str, float]:
        """Plain numbers for a table or a file; `cost_0` and `return_0`, of a channel, are means."""
        return {name: number.item() for name, number in jax.device_get(_numbers(self)).items()}


def tail_mean(level: float, values: Array) -> Array:
    """Mean `[]` of the worst `level` share of `values[N]`, each of which counts alike."""
    return _of_equals(CVaR(level), values)


@jax.jit
def _of_equals(functional: CVaR, values: Array) -> Array:
    probs = jnp.full(values.shape, 1.0 / len(values), jnp.result_type(values, float))
    return functional(probs, values)


@jax.jit
def _numbers(played: Evaluation) -> dict[str, Array]:
    return {
        "mean": played.mean,
        "cvar_0.1": played.cvar(0.1),
        "worst_decile": played.worst_decile,
        "worst": jnp.min(played.returns),
        "mean_length": jnp.mean(played.lengths),
        "num_episodes": jnp.int32(len(played.returns)),
        "num_unfinished": jnp.sum(~played.finished),
        **{name: jnp.mean(values) for name, values in by_name(played).items()},
    }


def by_name(played: Any) -> dict[str, Any]:
    """Of every episode `[..., E]`, by name: each cost, and each channel of the return."""
    named = {"cost": played.costs, "return": played.channels}
    known = {name: values for name, values in named.items() if not isinstance(values, tuple)}
    return {
        f"{name}_{index}": values[..., index]
        for name, values in known.items()
        for index in range(values.shape[-1])
    }


@functools.partial(jax.jit, static_argnames=("num_episodes", "max_steps", "explore"))
def play_episodes(
    key: Key,
    policy: Policy,
    env: Environment,
    policy_state: PyTree,
    num_episodes: int,
    max_steps: int,
    explore: bool,
) -> Evaluation:
    """`num_episodes` episodes at once, until the last has ended or `max_steps` steps are made.

    Where ends are probabilities, a reward or cost counts with the chance that its step is reached.
    """
    reset_key, play_key = jax.random.split(key)
    env_state, observation = jax.vmap(env.reset)(jax.random.split(reset_key, num_episodes))

    def running(carry: tuple) -> Array:
        step, _, evaluation, _ = carry
        return (step < max_steps) & ~jnp.all(evaluation.finished)

    def play(carry: tuple) -> tuple:
        step, (env_state, observation, memory), evaluation, survival = carry
        act_key, env_key = jax.random.split(jax.random.fold_in(play_key, step))
        mask = legal_of_each(env, env_state, num_episodes)
        seen = (observation, explore, memory, mask)
        action, extras = act(policy, act_key, policy_state, *seen)
        keys = jax.random.split(env_key, num_episodes)
        env_state, timestep = jax.vmap(env.step)(keys, env_state, action)
        alive = ~evaluation.finished

        def plus(totals: Array, values: Array) -> Array:
            lanes = (..., *(None,) * (totals.ndim - 1))
            return totals + jnp.where(alive[lanes], survival[lanes] * values, 0.0)

        costs, channels = of_step(timestep)
        evaluation = Evaluation(
            returns=plus(evaluation.returns, total_reward(timestep)),
            lengths=evaluation.lengths + alive,
            finished=evaluation.finished | (timestep.terminated >= 1) | timestep.truncated,
            costs=jax.tree.map(plus, evaluation.costs, costs),
            channels=jax.tree.map(plus, evaluation.channels, channels),
        )
        memory = select(evaluation.finished, memory, extras.get("memory", ()))
        survival = survival * (1.0 - jnp.asarray(timestep.terminated, jnp.float32))
        return step + 1, (env_state, timestep.observation, memory), evaluation, survival

    def of_step(step: TimeStep) -> tuple[PyTree, PyTree]:
        """Costs and channels `[E, C]`, each () where there are none."""
        channels = step.reward if step.reward.ndim > 1 else ()
        return step.cost if step.cost.shape[-1] else (), channels

    def first_step(key: Key, env_state: PyTree, observation: PyTree, memory: PyTree) -> tuple:
        action, _ = policy.act(key, policy_state, observation, explore, memory)
        keys = jax.random.split(key, num_episodes)
        return of_step(jax.vmap(env.step)(keys, env_state, action)[1])

    start = (env_state, observation, policy.initial_memory(num_episodes))
    shapes = jax.eval_shape(first_step, play_key, *start)
    costs, channels = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, jnp.float32), shapes)
    nothing = Evaluation(
        returns=jnp.zeros(num_episodes, jnp.float32),
        lengths=jnp.zeros(num_episodes, jnp.int32),
        finished=jnp.zeros(num_episodes, bool),
        costs=costs,
        channels=channels,
    )
    begin = jnp.zeros((), jnp.int32), start, nothing, jnp.ones(num_episodes, jnp.float32)
    return jax.lax.while_loop(running, play, begin)[2]


def setting_means(counts: np.ndarray, returns: np.ndarray) -> np.ndarray:
    """Mean return in each setting, `[R, M]`."""
    if counts.shape[1] == 1:  # the same draw in all settings
        return counts[:, 0] @ returns.T / returns.shape[1]
    return np.einsum("rme,me->rm", counts, returns) / returns.shape[1]


def mean_of_settings(counts: np.ndarray, returns: np.ndarray) -> np.ndarray:
    """Mean of all settings, `[R]`."""
    return setting_means(counts, returns).mean(-1)


def worst_setting(counts: np.ndarray, returns: np.ndarray) -> np.ndarray:
    """Mean return in the worst setting of each resample, `[R]`."""
    return setting_means(counts, returns).min(-1)


def greatest_setting(counts: np.ndarray, costs: np.ndarray) -> np.ndarray:
    """Mean cost in the setting of each resample where it is greatest, `[R]`."""
    return setting_means(counts, costs).max(-1)


def tail_of_settings(counts: np.ndarray, returns: np.ndarray, tail: float) -> np.ndarray:
    """CVaR over settings of their mean returns, `[R]`."""
    means = setting_means(counts, returns)
    return _tail_mean(means, np.ones_like(means), tail)


def tail_of_episodes(counts: np.ndarray, returns: np.ndarray, tail: float) -> np.ndarray:
    """CVaR over the episodes of all settings together, `[R]`."""
    times = np.broadcast_to(counts, (len(counts), *returns.shape)).reshape(len(counts), -1)
    return _tail_mean(returns.reshape(1, -1), times, tail)


def stratified_estimate(
    returns: np.ndarray,
    statistic: Statistic,
    *,
    same_episodes: bool,
    level: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """A statistic of `returns[M, E]` and its percentile interval.

    Every resample draws the E episodes of each setting anew, so that no setting weighs more than in
    the original. With `same_episodes`, episode `e` shares its randomness across settings: whole
    columns are drawn, which keeps the dependence; drawing apart would give intervals too narrow
    for averages over settings and too wide for differences.

    Args:
        returns: `[M, E]` [return]; NaN where an episode diverged.
        statistic: one of those above; of a tail, with its share bound.
        same_episodes: whether columns are drawn whole.
        level: share of the resamples inside the interval, in (0, 1).
        num_resamples: how often episodes are drawn.
        seed: of the draws.

    Numerics:
        Numpy, and seeded: the same returns give the same interval. A least mean over settings is
        lower in a resample than in truth where settings are close: its interval errs to the safe
        side.

    Sources:
        Efron & Tibshirani, "An introduction to the bootstrap" (1993), ch. 13 (percentiles).
    """
    returns = np.asarray(returns, np.float64)
    num_settings, num_episodes = returns.shape
    strata = 1 if same_episodes else num_settings
    generator = np.random.default_rng(seed)
    batch = max(1, 4_000_000 // returns.size)
    replicates = []
    for start in range(0, num_resamples, batch):
        size = min(batch, num_resamples - start)
        drawn = generator.integers(0, num_episodes, (size * strata, num_episodes))
        drawn += num_episodes * np.arange(size * strata)[:, None]
        counts = np.bincount(drawn.reshape(-1), minlength=drawn.size).astype(np.float64)
        replicates.append(statistic(counts.reshape(size, strata, num_episodes), returns))
    value = statistic(np.ones((1, 1, num_episodes)), returns)[0]
    low, high = percentile_interval(np.concatenate(replicates), level)
    return Estimate(float(value), float(low), float(high))


def _tail_mean(values: np.ndarray, times: np.ndarray, tail: float) -> np.ndarray:
    """Mean of the lowest `tail` share of `values[R or 1, N]`, each counted `times[R, N]`."""
    order = np.argsort(values, axis=-1)
    values = np.take_along_axis(values, order, axis=-1)
    times = np.take_along_axis(times, np.broadcast_to(order, times.shape), axis=-1)
    before = np.cumsum(times, axis=-1) - times
    wanted = tail * times.sum(-1, keepdims=True)
    taken = np.clip(wanted - before, 0.0, times)
    return (taken * values).sum(-1) / wanted[:, 0]


class RobustEvaluation(Struct):
    """Returns of `E` whole episodes in each of `M` environments, of one agent.

    The worst case is of the mean return, over the environments that were tried: a bound on no
    other. Choose settings that neither training nor a search has seen.
    """

    returns: Array  # [M, E] undiscounted [return]
    lengths: Array  # [M, E] [steps]
    finished: Array  # [M, E] bool
    parameters: dict[str, Array]  # [M] each, by full name; empty when given as environments
    same_episodes: bool = struct.field(pytree_node=False, default=True)
    costs: PyTree = ()  # [M, E, num_costs] undiscounted; () where the environment has none
    channels: PyTree = ()  # [M, E, C] returns of the channels of a reward; () where it has none

    @property
    def setting_means(self) -> Array:
        """Mean return `[M]` in each setting."""
        return jnp.mean(self.returns, axis=-1)

    @property
    def mean(self) -> Array:
        """Mean return `[]` over settings, each counted alike."""
        return jnp.mean(self.setting_means)

    @property
    def worst(self) -> Array:
        """Mean return `[]` in the worst setting."""
        return jnp.min(self.setting_means)

    @property
    def worst_setting(self) -> Array:
        """The number `[]` of the worst setting."""
        return jnp.argmin(self.setting_means)

    def cvar(self, level: float = 0.1) -> Array:
        """Mean `[]` of the worst `level` share of all episodes: static CVaR of the return when the
        setting, too, is drawn."""
        return tail_mean(level, self.returns.reshape(-1))

    def cvar_over_settings(self, level: float = 0.1) -> Array:
        """Mean `[]` of the mean returns in the worst `level` share of settings; the worst case
        where `level` is 1 / M or less."""
        return tail_mean(level, self.setting_means)

    def setting_cvars(self, level: float = 0.1) -> Array:
        """Mean `[M]` of the worst `level` share of episodes in each setting."""
        return jax.vmap(lambda returns: tail_mean(level, returns))(self.returns)

    def setting(self, index: int) -> dict[str, float]:
        """The parameters of setting `index`."""
        return {name: float(values[index]) for name, values in self.parameters.items()}

    def evaluation(self, index: int) -> Evaluation:
        """The episodes of setting `index`."""
        what = (self.returns, self.lengths, self.finished, self.costs, self.channels)
        return Evaluation(*jax.tree.map(lambda leaf: leaf[index], what))

    def summary(
        self, tail: float = 0.1, level: float = 0.95, num_resamples: int = 2000
    ) -> dict[str, Estimate]:
        """The numbers of all settings together, with bootstrap intervals stratified by setting.

        Args:
            tail: share of the worst settings, and of the worst episodes, in (0, 1].
            level: of the intervals, in (0, 1).
            num_resamples: of the bootstrap, which draws episodes anew and holds the agent fixed.

        Returns:
            `mean`, `worst`, `cvar_settings` and `cvar_episodes` [return]; for each cost the mean,
            `cost_0`, and the mean in the setting where it is greatest, `worst_cost_0` [cost]; for
            each channel of the reward its mean return, `return_0`.
        """
        statistics = {
            "mean": mean_of_settings,
            "worst": worst_setting,
            "cvar_settings": functools.partial(tail_of_settings, tail=tail),
            "cvar_episodes": functools.partial(tail_of_episodes, tail=tail),
        }
        how = {"same_episodes": self.same_episodes, "level": level, "num_resamples": num_resamples}
        returns = np.asarray(self.returns)
        found = {
            name: stratified_estimate(returns, statistic, **how)
            for name, statistic in statistics.items()
        }
        for name, values in by_name(self).items():
            found[name] = stratified_estimate(values, mean_of_settings, **how)
            if name.startswith("cost"):
                found[f"worst_{name}"] = stratified_estimate(values, greatest_setting, **how)
        return found

    def setting_summary(self, level: float = 0.95, num_resamples: int = 2000) -> list[Estimate]:
        """The mean return in each setting, with its own bootstrap interval."""
        how = {"same_episodes": self.same_episodes, "level": level, "num_resamples": num_resamples}
        return [
            stratified_estimate(row[None], mean_of_settings, **how)
            for row in np.asarray(self.returns)
        ]


def expand_parameters(
    env: Environment, over: Mapping[str, Sequence[float]], paired: bool = False
) -> dict[str, tuple[float, ...]]:
    """The parameters of every setting by full name, as many values of each as there are settings.

    Raises:
        KeyError: a parameter that the environment does not have.
        ValueError: no values, a value out of range, unequal numbers of paired values, a parameter
            given twice, or one that `DomainRandomisation` draws.
    """
    check_names("over", over)
    if not over:
        raise ValueError("over={} names no parameter: give at least one and its values.")
    columns: dict[str, list[float]] = {}
    for name, values in over.items():
        full = resolve_parameter(env, name)
        if full in columns:
            raise ValueError(f"{full} is given twice.")
        if len(values) == 0:
            raise ValueError(f"{name} is varied over no values: give at least one.")
        _refuse_drawn(env, full)
        columns[full] = [float(value) for value in values]
        for value in columns[full]:
            check_parameter(env, full, value)
    if paired and len({len(values) for values in columns.values()}) > 1:
        given = ", ".join(f"{len(values)} of {name}" for name, values in columns.items())
        raise ValueError(f"paired values come in equal numbers; got {given}.")
    rows = zip(*columns.values()) if paired else itertools.product(*columns.values())  # noqa: B905
    return dict(zip(columns, zip(*rows, strict=True), strict=True))


def environments_at(
    env: Environment, parameters: Mapping[str, Sequence[float]]
) -> list[Environment]:
    """`env` at each setting of `parameters`, as `expand_parameters` gives them."""
    rows = zip(*parameters.values(), strict=True)
    return [with_parameters(env, dict(zip(parameters, row, strict=True))) for row in rows]


def evaluate_each(
    key: Key,
    agent: Policy,
    envs: Sequence[Environment],
    agent_state: PyTree,
    *,
    num_episodes: int = 1000,
    max_steps: int = 10_000,
    explore: bool = False,
    same_episodes: bool = True,
    parameters: Mapping[str, Sequence[float]] | None = None,
) -> RobustEvaluation:
    """Play `num_episodes` episodes in each of several environments, in one compiled call.

    For environments that differ in more than scalar parameters, such as tabular ones; else
    `jaxrl.evaluate(..., over=...)` is shorter.

    Args:
        key: all randomness of the evaluation.
        agent: acts.
        envs: `M` environments that differ in numbers only.
        agent_state: a trained state.
        num_episodes: episodes in each environment.
        max_steps: episodes still running after so many steps are cut.
        explore: act as in training rather than greedily.
        same_episodes: episode `e` draws the same keys in every environment.
        parameters: what tells the environments apart, `M` values by name; only passed on.

    Raises:
        ValueError: no environments, or they differ in shapes or in what is compiled.

    Example:
        >>> from jaxrl import dqn, envs
        >>> winds = [envs.make("WindyWalk", wind=wind) for wind in (0.0, 0.4)]
        >>> state = dqn().init(jax.random.key(0), winds[0])
        >>> played = evaluate_each(jax.random.key(1), dqn(), winds, state, num_episodes=5)
        >>> played.returns.shape
        (2, 5)
    """
    if not envs:
        raise ValueError("there is no environment to evaluate in: give at least one.")
    check_alike({f"envs[{number}]": env for number, env in enumerate(envs)})
    columns = list(zip(*map(jax.tree.leaves, envs), strict=True))
    varied = tuple(any(leaf is not column[0] for leaf in column) for column in columns)
    leaves = [
        jnp.stack([jnp.asarray(leaf) for leaf in strong_floats(column)]) if moves else column[0]
        for column, moves in zip(columns, varied, strict=True)
    ]
    num_settings = len(envs)
    keys = key[None] if same_episodes else jax.random.split(key, num_settings)
    env = jax.tree.unflatten(jax.tree.structure(envs[0]), leaves)
    play = (num_episodes, max_steps, explore)
    played = _play_each(keys, agent, env, agent_state, num_settings, varied, play)
    labels = {name: jnp.asarray(row, float) for name, row in (parameters or {}).items()}
    return RobustEvaluation(
        played.returns,
        played.lengths,
        played.finished,
        labels,
        same_episodes,
        played.costs,
        played.channels,
    )


@functools.partial(jax.jit, static_argnames=("num_settings", "varied", "play"))
def _play_each(
    keys: Key,
    agent: Policy,
    env: Environment,
    agent_state: PyTree,
    num_settings: int,
    varied: tuple[bool, ...],
    play: tuple[int, int, bool],
) -> Evaluation:
    """Episodes `[M, E]`; leaves of `env` that are `varied` carry the settings in front, and so do
    `keys` where they are several."""
    shared_key = keys.shape[0] == 1
    axes = jax.tree.unflatten(jax.tree.structure(env), [0 if moves else None for moves in varied])
    return jax.vmap(
        lambda key, env: play_episodes(key, agent, env, agent_state, *play),
        in_axes=(None if shared_key else 0, axes),
        axis_size=num_settings,
    )(keys[0] if shared_key else keys, env)


def check_alike(envs: Mapping[str, Environment]) -> None:
    """Raise `ValueError` where environments, by name, differ from the first in more than numbers:
    one program serves those that do not."""
    kinds = {
        name: (jax.tree.structure(env), [jnp.shape(leaf) for leaf in jax.tree.leaves(env)])
        for name, env in envs.items()
    }
    first = next(iter(kinds))
    for name, kind in kinds.items():
        if kind != kinds[first]:
            raise ValueError(
                f"{name} differs from {first} in more than numbers (shapes, or static fields), and "
                "no one program serves both: take one at a time."
            )


def _refuse_drawn(env: Environment, full: str) -> None:
    """Raise where a wrapper on the way to the parameter draws it anew in every episode."""
    owner: Any = env
    path = full.split(".")
    while path:
        if isinstance(owner, DomainRandomisation):
            inner = ".".join(path[1:])
            if inner in {resolve_parameter(owner.env, name) for name in owner.ranges}:
                raise ValueError(
                    f"{full} is drawn anew in every episode by DomainRandomisation: evaluate the "
                    "environment inside it."
                )
        owner = getattr(owner, path.pop(0), None)


class _Play(TypedDict, total=False):
    """What `evaluate` takes with and without a grid."""

    num_episodes: int
    max_steps: int
    explore: bool
    attack: Attack | None


@overload
def evaluate(
    key: Key,
    agent: Policy,
    env: Environment,
    agent_state: PyTree,
    *,
    over: None = ...,
    **play: Unpack[_Play],
) -> Evaluation: ...


@overload
def evaluate(
    key: Key,
    agent: Policy,
    env: Environment,
    agent_state: PyTree,
    *,
    over: Mapping[str, Sequence[float]],
    paired: bool = ...,
    same_episodes: bool = ...,
    **play: Unpack[_Play],
) -> RobustEvaluation: ...


def evaluate(
    key: Key,
    agent: Policy,
    env: Environment,
    agent_state: PyTree,
    *,
    num_episodes: int = 1000,
    max_steps: int = 10_000,
    explore: bool = False,
    attack: Attack | None = None,
    over: Mapping[str, Sequence[float]] | None = None,
    paired: bool = False,
    same_episodes: bool = True,
) -> Evaluation | RobustEvaluation:
    """Play `num_episodes` episodes at once; pure, so `vmap` it over agent states or environments.

    With `over`, play them in every environment of a grid, all in one compiled call.

    Args:
        key: all randomness of the evaluation.
        agent: acts.
        env: the environment.
        agent_state: a trained state, such as one of `SweepResult.agent_states`.
        num_episodes: episodes, all played side by side; so many in each environment.
        max_steps: episodes still running after so many steps are cut and counted as unfinished.
        explore: act as in training rather than greedily.
        attack: shifts what the agent observes, such as `GradientAttack`; the episode goes on in
            the true state.
        over: values of parameters of the environment by name, `{"pole_mass": [0.1, 0.3]}`: names
            as `jaxrl.envs.parameters` lists them, all combinations in the order of a nested loop.
        paired: with `over`, take the first values of all names together, then the second, ...
        same_episodes: with `over`, common random numbers: episode `e` draws the same keys in every
            environment, so that differences between them are sharper than each number alone.

    Returns:
        returns and lengths `[num_episodes]`; with `over`, `[num_settings, num_episodes]`. Costs,
        where the environment has some, have one axis more, last.

    Raises:
        ValueError: fewer than one episode or step, another agent's state, no values, or one out of
            range.
        KeyError: the environment has no such parameter; the message lists near names.

    Example:
        >>> import jax
        >>> from jaxrl import envs, pqn
        >>> env = envs.TabularEnv(envs.riverswim(), time_limit=20.0)
        >>> state = pqn().init(jax.random.key(0), env)
        >>> evaluate(jax.random.key(1), pqn(), env, state, num_episodes=3).lengths.tolist()
        [20, 20, 20]
        >>> limits = {"time_limit": [5.0, 7.0]}
        >>> played = evaluate(jax.random.key(1), pqn(), env, state, num_episodes=2, over=limits)
        >>> played.lengths.tolist()
        [[5, 5], [7, 7]]
    """
    check_key(key)
    check_parts("agent", agent, ("act",), "jaxrl.ppo()")
    check_parts("env", env, ("reset", "step"), 'jaxrl.envs.make("CartPole")')
    if agent_state is None:
        raise ValueError(
            "agent_state is None: give a trained one, such as result.agent_state(0, 0)."
        )
    num_episodes = check_whole("num_episodes", num_episodes)
    max_steps = check_whole("max_steps", max_steps)
    player: Policy = agent if attack is None else AttackedPolicy(agent, attack)
    parameters = None if over is None else expand_parameters(env, over, paired)
    try:
        if parameters is None:
            return play_episodes(key, player, env, agent_state, num_episodes, max_steps, explore)
        return evaluate_each(
            key,
            player,
            environments_at(env, parameters),
            agent_state,
            num_episodes=num_episodes,
            max_steps=max_steps,
            explore=explore,
            same_episodes=same_episodes,
            parameters=parameters,
        )
    except Exception as error:
        wanted = agent_state
        if isinstance(agent, Agent):
            wanted = jax.eval_shape(agent.init, jax.random.key(0), env)
        if type(agent_state) is type(wanted):
            raise
        raise ValueError(
            f"agent_state is {type(agent_state).__name__}, but {type(agent).__name__} acts by a "
            f"{type(wanted).__name__}: give one of its own, such as result.agent_state(0, 0)."
        ) from error
