"""Evaluation in many environments at once: by setting, on average, and at worst."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxrl.core import struct
from jaxrl.core.arguments import check_names
from jaxrl.core.estimates import Estimate
from jaxrl.core.protocols import Environment, Policy
from jaxrl.core.types import Array, Key, PyTree
from jaxrl.envs.parameters import check_parameter, resolve_parameter, with_parameters
from jaxrl.envs.wrappers.randomisation import DomainRandomisation
from jaxrl.training import bootstrap
from jaxrl.training.episodes import Evaluation, play_episodes, tail_mean
from jaxrl.training.lanes import strong_floats


@struct.dataclass
class RobustEvaluation:
    """Returns of `E` whole episodes in each of `M` environments, of one agent.

    The worst case is of the mean return, over the environments that were tried: a bound on no
    other. Choose settings that neither training nor a search has seen.
    """

    returns: Array  # [M, E] undiscounted [return]
    lengths: Array  # [M, E] [steps]
    finished: Array  # [M, E] bool
    parameters: dict[str, Array]  # [M] each, by full name; empty when given as environments
    same_episodes: bool = struct.field(pytree_node=False, default=True)

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
        return Evaluation(self.returns[index], self.lengths[index], self.finished[index])

    def summary(
        self, tail: float = 0.1, level: float = 0.95, num_resamples: int = 2000
    ) -> dict[str, Estimate]:
        """The numbers of all settings together, with bootstrap intervals stratified by setting.

        Args:
            tail: share of the worst settings, and of the worst episodes, in (0, 1].
            level: of the intervals, in (0, 1).
            num_resamples: of the bootstrap, which draws episodes anew and holds the agent fixed.

        Returns:
            `mean`, `worst`, `cvar_settings` and `cvar_episodes` [return].
        """
        statistics = {
            "mean": bootstrap.mean_of_settings,
            "worst": bootstrap.worst_setting,
            "cvar_settings": bootstrap.tail_of_settings(tail),
            "cvar_episodes": bootstrap.tail_of_episodes(tail),
        }
        return {
            name: self._estimate(self.returns, statistic, level, num_resamples)
            for name, statistic in statistics.items()
        }

    def setting_summary(self, level: float = 0.95, num_resamples: int = 2000) -> list[Estimate]:
        """The mean return in each setting, with its own bootstrap interval."""
        return [
            self._estimate(row[None], bootstrap.mean_of_settings, level, num_resamples)
            for row in np.asarray(self.returns)
        ]

    def _estimate(
        self,
        returns: Array | np.ndarray,
        statistic: bootstrap.Statistic,
        level: float,
        num_resamples: int,
    ) -> Estimate:
        return bootstrap.stratified_estimate(
            np.asarray(returns),
            statistic,
            same_episodes=self.same_episodes,
            level=level,
            num_resamples=num_resamples,
        )


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
    if paired:
        sizes = {name: len(values) for name, values in columns.items()}
        if len(set(sizes.values())) > 1:
            given = ", ".join(f"{size} of {name}" for name, size in sizes.items())
            raise ValueError(f"paired values come in equal numbers; got {given}.")
        return {name: tuple(values) for name, values in columns.items()}
    rows = list(itertools.product(*columns.values()))
    return {name: tuple(row[i] for row in rows) for i, name in enumerate(columns)}


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
    first, *rest = [jax.tree.flatten(env) for env in envs]
    shapes = [jnp.shape(leaf) for leaf in first[0]]
    for number, (leaves, structure) in enumerate(rest, start=1):
        if structure != first[1] or [jnp.shape(leaf) for leaf in leaves] != shapes:
            raise ValueError(
                f"environments 0 and {number} differ in more than numbers (shapes, or static "
                "fields), and cannot be played in one program: evaluate them one at a time."
            )
    columns = list(zip(first[0], *(leaves for leaves, _ in rest), strict=True))
    varied = tuple(any(leaf is not column[0] for leaf in column) for column in columns)
    leaves = [
        jnp.stack([jnp.asarray(leaf) for leaf in strong_floats(column)]) if moves else column[0]
        for column, moves in zip(columns, varied, strict=True)
    ]
    num_settings = len(envs)
    keys = key[None] if same_episodes else jax.random.split(key, num_settings)
    played = _play_each(
        keys,
        agent,
        leaves,
        agent_state,
        num_settings,
        first[1],
        varied,
        num_episodes,
        max_steps,
        explore,
    )
    labels = {name: jnp.asarray(row, float) for name, row in (parameters or {}).items()}
    return RobustEvaluation(played.returns, played.lengths, played.finished, labels, same_episodes)


@functools.partial(
    jax.jit,
    static_argnames=(
        "num_settings",
        "structure",
        "varied",
        "num_episodes",
        "max_steps",
        "explore",
    ),
)
def _play_each(
    keys: Key,
    agent: Policy,
    leaves: list[Any],
    agent_state: PyTree,
    num_settings: int,
    structure: Any,
    varied: tuple[bool, ...],
    num_episodes: int,
    max_steps: int,
    explore: bool,
) -> Evaluation:
    """Episodes `[M, E]`; leaves that are `varied` carry the settings in front."""

    def play(key: Key, leaves: list[Any]) -> Evaluation:
        env = jax.tree.unflatten(structure, leaves)
        return play_episodes(key, agent, env, agent_state, num_episodes, max_steps, explore)

    shared_key = keys.shape[0] == 1
    axes = (None if shared_key else 0, [0 if moves else None for moves in varied])
    return jax.vmap(play, in_axes=axes, axis_size=num_settings)(
        keys[0] if shared_key else keys, leaves
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
