"""Update rules against each other: every one at its own best settings, on lives new to all."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np

from jaxrl.core.estimates import Estimate
from jaxrl.core.protocols import Agent
from jaxrl.core.settings import list_settings, near_names, resolve_setting
from jaxrl.core.types import Array, Key
from jaxrl.meta.lives import MEASURES, HeldOut, live
from jaxrl.training.evaluation import mean_of_settings, stratified_estimate
from jaxrl.training.lanes import (
    expand_settings,
    lane_axes,
    make_groups,
    strong_floats,
    with_settings,
)

Grid = Mapping[str, Sequence[float]]  # settings, with the values to combine


@dataclasses.dataclass(frozen=True)
class Contender:
    """One agent: what was tried for it, and what its best settings earned on new lives."""

    agent: Agent  # under the best settings
    scores: np.ndarray  # [num_lives], of the best settings on new lives
    settings: Mapping[str, float] = dataclasses.field(default_factory=dict)  # the best ones tried
    # [C, num_tuning_lives] of the C that were tried, NaN where a life has no score
    tuning_scores: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((1, 0)))
    at_end: tuple[str, ...] = ()  # settings whose best value is the last one on a side


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Agents on the same new lives: life `l` of each has the same task and the same key.

    Example:
        >>> from jaxrl import a2c
        >>> found = Comparison({}, "score", 0.95).beside("old", a2c(), [1.0, 5.0, 9.0])
        >>> found = found.beside("new", a2c(), [2.0, 6.0, 10.0])
        >>> found.difference("new", "old")
        Estimate(value=1.0, low=1.0, high=1.0)
        >>> print(found.table().splitlines()[3])
        | new | as given | 6 [2, 10] | 1 [1, 1] | 100 % |
    """

    contenders: dict[str, Contender]
    measure: str
    level: float  # of the intervals

    def beside(self, name: str, agent: Agent, scores: Sequence[float] | Array) -> Comparison:
        """With an agent beside the others, by its scores `[num_lives]` in the same lives.

        Those are the lives of `held_out.lives(fold_in(key, 1), agent)`, for `compare(key, ...)`.

        Raises:
            ValueError: another number of lives.
        """
        one = Contender(agent, np.asarray(scores, np.float64))
        for other in self.contenders.values():
            if one.scores.shape != other.scores.shape:
                raise ValueError(
                    f"{name} has lives {one.scores.shape}, the others {other.scores.shape}."
                )
        return dataclasses.replace(self, contenders={**self.contenders, name: one})

    def score(self, name: str) -> Estimate:
        """Mean over lives, with its bootstrap interval; NaN when a life has no score."""
        return self._estimate(self.contenders[name].scores)

    def difference(self, name: str, other: str) -> Estimate:
        """Mean over lives of what `name` earned more than `other` in the same life."""
        return self._estimate(self.contenders[name].scores - self.contenders[other].scores)

    def wins(self, name: str, other: str) -> float:
        """Share of lives in which `name` earned more; ties count half, NaN loses."""
        mine, theirs = (
            np.nan_to_num(self.contenders[one].scores, nan=-np.inf) for one in (name, other)
        )
        return float(np.mean((mine > theirs) + 0.5 * (mine == theirs)))

    def _estimate(self, scores: np.ndarray) -> Estimate:
        if len(scores) == 1:
            return Estimate(float(scores[0]), -math.inf, math.inf)
        return stratified_estimate(
            scores[None], mean_of_settings, same_episodes=True, level=self.level
        )

    def table(self, baseline: str | None = None) -> str:
        """Markdown: scores, and differences from `baseline`, the first agent by default.

        Raises:
            KeyError: no agent of this name.
        """
        names = list(self.contenders)
        baseline = names[0] if baseline is None else baseline
        if baseline not in names:
            raise KeyError(f"unknown agent {baseline!r}; {near_names(baseline, names)}")
        share = f"{100 * self.level:g} %"
        lines = [
            f"| agent | best settings | {self.measure} ({share}) | "
            f"more than {baseline}, paired ({share}) | lives won |",
            "|---|---|---|---|---|",
        ]
        for name, one in self.contenders.items():
            settings = ", ".join(
                f"{setting}={value:g}" + " (end of its list)" * (setting in one.at_end)
                for setting, value in one.settings.items()
            )
            paired = ["", ""]
            if name != baseline:
                won = f"{100 * self.wins(name, baseline):.0f} %"
                paired = [_text(self.difference(name, baseline)), won]
            cells = [name, settings or "as given", _text(self.score(name)), *paired]
            lines.append(f"| {' | '.join(cells)} |")
        rows = self.contenders
        notes = f"{len(rows[baseline].scores)} new lives for each agent, the same for all"
        if num_tuning := max(one.tuning_scores.shape[1] for one in rows.values()):
            notes += f"; settings chosen on {num_tuning} other lives"
        lost = {name: int(np.isnan(one.scores).sum()) for name, one in rows.items()}
        if told := ", ".join(f"{name} {count}" for name, count in lost.items() if count):
            notes += f"; lives without a score: {told}"
        return "\n".join([*lines, "", f"{notes}."])


def compare(
    key: Key,
    agents: Mapping[str, Agent],
    held_out: HeldOut,
    *,
    tune: Grid | Mapping[str, Grid] | None = None,
    num_tuning_lives: int = 32,
    measure: str = "final_return",
    level: float = 0.95,
    chunk: int = 0,
) -> Comparison:
    """Give every agent its own best settings, then measure all of them on the same new lives.

    The settings of an agent are those of the highest mean over tuning lives. Their scores there
    flatter it, as the best of many draws; what is reported comes from other lives, with other keys
    and other tasks of the law. Lives are paired across agents, and across settings.

    Args:
        key: tuning lives draw from `fold_in(key, 0)`, new ones from `fold_in(key, 1)`.
        agents: by name; the first is what the table compares with.
        held_out: tasks, length and number of the new lives.
        tune: `{setting: values}` for all agents, or `{agent: {setting: values}}`. All combinations
            are tried, in one compiled program: their values are traced.
        num_tuning_lives: for each combination.
        measure: of `Lifetime`; higher is better. Returns need an episode to end in time.
        level: of the intervals, in (0, 1).
        chunk: lives run at once, to bound memory; 0 for `held_out.num_lives`.

    Raises:
        KeyError: an unknown agent or setting.
        ValueError: no agent or life, a value out of range, an unknown measure, or settings that
            give no score anywhere.

    Warns:
        UserWarning: a best value is the largest or smallest of its list, and the setting's range
            goes on: the best may lie further out.

    Numerics: one program for each agent, whatever the values and their number. Scores depend on
        `chunk` in the last bits.

    Example:
        >>> from jaxrl import a2c
        >>> from jaxrl.meta import RandomBandits
        >>> held_out = HeldOut(RandomBandits(1e3), total_steps=1e3, num_lives=64)
        >>> rates = {"a2c": {"learning_rat": [1e-4, 1e-3, 1e-2]}}  # and then result.table()
        >>> compare(jax.random.key(0), {"a2c": a2c()}, held_out, tune=rates)
        Traceback (most recent call last):
        KeyError: "unknown setting 'learning_rat'; did you mean optimiser.learning_rate?"
    """
    if not agents or num_tuning_lives < 1 or held_out.num_lives < 1:
        raise ValueError(
            f"{len(agents)} agents, num_tuning_lives={num_tuning_lives} and num_lives="
            f"{held_out.num_lives}: there must be at least 1 of each."
        )
    if measure not in MEASURES:
        raise ValueError(f"measure={measure!r} is not one of: {', '.join(MEASURES)}.")
    if not 0.0 < level < 1.0:
        raise ValueError(f"level={level} is out of range: give a value in (0, 1).")
    grids = _grids(agents, tune or {})
    tried = {name: expand_settings(agent, grids[name]) for name, agent in agents.items()}
    width = chunk or held_out.num_lives
    tuning = dataclasses.replace(held_out, num_lives=num_tuning_lives)
    tuning_key, new_key = (jax.random.fold_in(key, number) for number in (0, 1))
    contenders = {}
    for name, agent in agents.items():
        best, scores = 0, np.zeros((1, 0))
        if len(tried[name]) > 1:
            scores = _scores(tuning_key, agent, tried[name], tuning, measure, width)
            means = scores.mean(axis=1)
            if np.isnan(means).all():
                raise ValueError(
                    f"{name} has lives without a {measure} under every setting, as "
                    + ("no episode ended in time" if "return" in measure else "it diverged")
                    + ": use measure='final_rate', longer lives, or other values."
                )
            best = int(np.nanargmax(means))
        chosen, at_end = tried[name][best], []
        known = {info.name: info for info in list_settings(agent)}
        for setting, values in grids[name].items():
            info, value = known[resolve_setting(agent, setting)], chosen[setting]
            if min(values) < value < max(values) or min(values) == max(values):
                continue
            if value not in (info.low, info.high):  # of its range, beyond which there is nothing
                at_end.append(setting)
                warnings.warn(
                    f"the best {setting} of {name} is {value:g}, the end of "
                    f"{[float(value) for value in values]}: try values beyond.",
                    stacklevel=2,
                )
        new = _scores(new_key, agent, [chosen], held_out, measure, width)[0]
        own = strong_floats(with_settings(agent, chosen))
        contenders[name] = Contender(own, new, chosen, scores, tuple(at_end))
    return Comparison(contenders, measure, level)


def _grids(agents: Mapping[str, Agent], tune: Any) -> dict[str, Grid]:
    """What is tried for each agent."""
    if not any(isinstance(values, Mapping) for values in tune.values()):
        return {name: tune for name in agents}
    for name in tune.keys() - agents.keys():
        raise KeyError(f"tune names the unknown agent {name!r}; {near_names(name, list(agents))}")
    return {name: tune.get(name, {}) for name in agents}


def _scores(
    key: Key, agent: Agent, settings: list[dict], held_out: HeldOut, measure: str, width: int
) -> np.ndarray:
    """`[C, num_lives]`, in calls of one program of `width` lives; the last call is padded."""
    lives, found = range(held_out.num_lives), []
    one_program = held_out.replace(num_lives=width)
    for group in make_groups(key, agent, settings, lives, width):
        scores = _life_scores(group.agent, group.keys, one_program, group.swept)
        found.append(np.asarray(scores[measure], np.float64)[: group.num_runs])
    return np.concatenate(found).reshape(len(settings), -1)


@partial(jax.jit, static_argnums=3)
def _life_scores(
    agent: Agent, keys: Key, held_out: HeldOut, swept: tuple[str, ...]
) -> dict[str, Array]:
    """All measures `[W]` of agents whose swept settings are `[W]`, in the lives of `keys[W]`.

    The lives are those of `held_out.lives` under the same key.
    """

    def one(agent: Agent, own: Key) -> dict[str, Array]:
        return held_out.live(own, agent, partial(live, agent=agent)).measures

    return jax.vmap(one, (lane_axes(agent, swept), 0))(agent, keys)


def _text(estimate: Estimate) -> str:
    return f"{estimate.value:.4g} [{estimate.low:.4g}, {estimate.high:.4g}]"
