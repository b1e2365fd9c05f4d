"""A plan as a picture: values, policy, and what nature does to it."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from jaxrl.core.mdp import TabularMDP
from jaxrl.report.plots import write_picture

_MOST_BARS = 60  # states drawn one by one; more are a line
_MOST_KERNEL = 100  # states of a kernel drawn entry by entry
_MOST_OUTCOMES = 10  # bars of one law
_GREY, _MODEL, _FEARED, _LINE = "0.85", "0.6", "#D55E00", "#0072B2"


@dataclasses.dataclass(frozen=True)
class GridLayout:
    """Where the states of a grid world lie."""

    shape: tuple[int, int]  # rows, columns
    cells: np.ndarray  # [S, 2], row and column of each state
    moves: np.ndarray  # [S, A, 2], rows down and columns right that each action aims at


@dataclasses.dataclass(frozen=True)
class PlanPicture:
    """What is drawn."""

    mdp: TabularMDP
    values: np.ndarray  # [S] [return]
    policy: np.ndarray  # [S, A], probabilities
    kernel: np.ndarray  # [S, A, K], nature's law of the outcomes
    worth: np.ndarray  # [S, A, K], of the outcomes [return]
    title: str
    grid: GridLayout | None = None
    value_label: str = "value [return]"

    @property
    def occupied(self) -> np.ndarray:
        """`[S]` bool: the states in which some policy has to act."""
        return _reachable(self.mdp, np.ones_like(self.policy))

    @property
    def visited(self) -> np.ndarray:
        """`[S]` bool: the states in which this policy has to act."""
        return _reachable(self.mdp, self.policy)

    @property
    def moved(self) -> np.ndarray:
        """`[S, A, K]`: probability that nature adds to each outcome, under the policy."""
        return (self.kernel - np.asarray(self.mdp.prob)) * self.policy[..., None]

    @property
    def shift(self) -> np.ndarray:
        """`[S]`: probability that nature moves, in total variation, under the policy."""
        moved = 0.5 * np.abs(self.kernel - np.asarray(self.mdp.prob)).sum(axis=-1)
        return (self.policy * moved).sum(axis=1)

    @property
    def marked(self) -> tuple[int, int]:
        """State and action where nature costs most, of those that the policy meets."""
        before = np.where(np.asarray(self.mdp.prob) > 0, self.worth, 0.0) * self.mdp.prob
        after = np.where(self.kernel != 0, self.worth, 0.0) * self.kernel
        cost = (before - after).sum(axis=-1)
        met = (self.policy > 1e-3) & self.visited[:, None]
        state, action = np.unravel_index(np.argmax(np.where(met, np.abs(cost), -1.0)), met.shape)
        return int(state), int(action)


def draw_plan(path: str | Path, plan: PlanPicture) -> Path:
    """Draw a plan: a grid world as a grid with arrows, other models as bars and heat maps.

    Where nature moves no probability her panels are left out.

    Args:
        path: the PNG to write; its folder is made.
        plan: what to draw.

    Returns:
        `path`.
    """
    from matplotlib.figure import Figure

    has_nature = bool(np.max(plan.shift) > 1e-9)
    rows, columns = plan.grid.shape if plan.grid else (3, 4)
    if plan.grid is not None:
        draws: dict[str, Any] = {"values and policy": partial(_grid_values, plan.grid)}
        draws["where nature pushes the walker"] = partial(_grid_nature, plan.grid)
    else:
        draws = {"values": _bar_values, "policy": _policy_map}
        draws["what nature adds and takes"] = _kernel_map
    state, action = plan.marked
    draws[f"action {action} in {_name(plan, state)}, where nature costs most"] = _laws
    shown = list(draws.items())[: None if has_nature else -2]
    height = float(np.clip(4.8 * rows / columns + 1.5, 3.2, 6.5))
    figure = Figure(figsize=(1.0 + 4.8 * len(shown), height), layout="constrained")
    panels = np.atleast_1d(figure.subplots(1, len(shown)))
    for axes, (title, draw) in zip(panels, shown, strict=True):
        draw(figure, axes, plan)
        axes.set_title(title, fontsize=10)
    figure.suptitle(plan.title, fontsize=11)
    return write_picture(path, figure, dpi=130)


def _reachable(mdp: TabularMDP, policy: np.ndarray) -> np.ndarray:
    """`[S]` bool: states that are met, and left again, from the first ones on."""
    legal = np.asarray(mdp.legal) & (policy > 1e-9)
    goes_on = (np.asarray(mdp.prob) > 0) & (np.asarray(mdp.terminal) < 1) & legal[..., None]
    source = np.broadcast_to(np.arange(len(legal))[:, None, None], goes_on.shape)[goes_on]
    target = np.asarray(mdp.next_state)[goes_on]
    found, count = np.asarray(mdp.initial) > 0, -1
    while count != found.sum():
        count = found.sum()
        found[target[found[source]]] = True
    return found


def _board(figure: Any, axes: Any, numbers: np.ndarray, grid: GridLayout, **look: Any) -> None:
    """A heat map `[S]` on the grid; NaN and walls are grey."""
    table = np.full(grid.shape, np.nan)
    table[tuple(grid.cells.T)] = numbers
    axes.set_facecolor(_GREY)
    label = look.pop("label")
    image = axes.imshow(table, **look)
    figure.colorbar(image, ax=axes, label=label, shrink=0.75, location="bottom", pad=0.02)
    axes.set(xticks=[], yticks=[])


def _grid_values(grid: GridLayout, figure: Any, axes: Any, plan: PlanPicture) -> None:
    shown = np.where(plan.occupied, plan.values, np.nan)
    _board(figure, axes, shown, grid, label=plan.value_label, cmap="viridis")
    state, action = np.nonzero((plan.policy > 0.02) & plan.occupied[:, None])
    is_mixed = plan.policy[plan.occupied].max(axis=1).min() < 0.98
    length = (0.42 if is_mixed else 0.6) * plan.policy[state, action, None]
    arrows = length * _unit(grid.moves[state, action])
    _arrows(axes, grid, state, arrows, "white", "tail" if is_mixed else "mid")
    # S where episodes begin, E where they end, when such cells are few.
    ends = np.zeros(len(plan.values), bool)
    over = (np.asarray(plan.mdp.terminal) > 0) & (np.asarray(plan.mdp.prob) > 0)
    ends[np.asarray(plan.mdp.next_state)[over & plan.occupied[:, None, None]]] = True
    begins = np.asarray(plan.mdp.initial) > 0
    for where, letter in ((begins, "S"), (ends & ~plan.occupied, "E")):
        if where.sum() > max(4, len(where) // 4):
            continue
        for row, column in grid.cells[where]:
            axes.text(
                *(column - 0.36, row - 0.3, letter),
                **{"ha": "center", "va": "center", "fontsize": 8, "color": "black"},
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.8},
            )


def _grid_nature(grid: GridLayout, figure: Any, axes: Any, plan: PlanPicture) -> None:
    shown = np.where(plan.occupied, plan.shift, np.nan)
    label = "probability that nature moves"
    # Half as far again as the data go, so that black arrows stand out.
    most = 1.5 * float(np.nanmax(shown))
    _board(figure, axes, shown, grid, label=label, cmap="Oranges", vmin=0.0, vmax=most)
    places = grid.cells[np.asarray(plan.mdp.next_state)]  # [S, A, K, 2]
    push = (plan.moved[..., None] * places).sum(axis=(1, 2))
    state = np.flatnonzero(plan.occupied & (np.linalg.norm(push, axis=1) > 1e-6))
    _arrows(axes, grid, state, 0.6 * _unit(push[state]), "black", "mid")
    row, column = grid.cells[plan.marked[0]]
    axes.plot(column, row, "s", markerfacecolor="none", markeredgecolor=_LINE, markersize=22)


def _unit(vectors: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return vectors / np.where(length > 0, length, 1.0)


def _arrows(
    axes: Any, grid: GridLayout, state: np.ndarray, arrows: np.ndarray, colour: str, pivot: str
) -> None:
    """Arrows `[M, 2]` (rows down, columns right) from the middle of the cells of `state[M]`."""
    row, column = grid.cells[state].T
    axes.quiver(
        *(column, row, arrows[:, 1], arrows[:, 0]),
        **{"angles": "xy", "scale_units": "xy", "scale": 1.0, "pivot": pivot},
        **{"color": colour, "width": 0.09, "units": "xy", "headwidth": 3.0, "headlength": 3.0},
        headaxislength=2.7,
    )


def _bar_values(figure: Any, axes: Any, plan: PlanPicture) -> None:
    states = np.arange(len(plan.values))
    draw = axes.bar if len(states) <= _MOST_BARS else axes.plot
    draw(states, plan.values, color=_LINE)
    axes.set(xlabel="state", ylabel=plan.value_label)
    axes.spines[["top", "right"]].set_visible(False)


def _policy_map(figure: Any, axes: Any, plan: PlanPicture) -> None:
    shown = np.where(np.asarray(plan.mdp.legal), plan.policy, np.nan).T
    axes.set_facecolor(_GREY)
    _heat(figure, axes, shown, "probability", cmap="Blues", vmin=0.0, vmax=1.0)
    axes.set(xlabel="state", ylabel="action")
    axes.yaxis.get_major_locator().set_params(integer=True)


def _kernel_map(figure: Any, axes: Any, plan: PlanPicture) -> None:
    num_states = len(plan.values)
    if num_states > _MOST_KERNEL:
        axes.plot(np.arange(num_states), plan.shift, color=_FEARED)
        axes.set(xlabel="state", ylabel="probability that nature moves")
        return
    table = np.zeros((num_states, num_states))
    source = np.broadcast_to(np.arange(num_states)[:, None, None], plan.moved.shape)
    np.add.at(table, (source, np.asarray(plan.mdp.next_state)), plan.moved)
    most = max(float(np.abs(table).max()), 1e-12)
    label = "feared less nominal probability"
    _heat(figure, axes, table, label, cmap="PuOr_r", vmin=-most, vmax=most)
    axes.set(xlabel="next state", ylabel="state")


def _heat(figure: Any, axes: Any, table: np.ndarray, label: str, **look: Any) -> None:
    image = axes.imshow(table, aspect="auto", interpolation="nearest", **look)
    figure.colorbar(image, ax=axes, label=label, shrink=0.75)


def _laws(figure: Any, axes: Any, plan: PlanPicture) -> None:
    """Nominal and feared law of the successor where nature costs most."""
    state, action = plan.marked
    reached, place = np.unique(np.asarray(plan.mdp.next_state)[state, action], return_inverse=True)
    laws = np.zeros((2, len(reached)))
    for law, probs in zip(laws, (np.asarray(plan.mdp.prob), plan.kernel), strict=True):
        np.add.at(law, place.reshape(-1), probs[state, action])
    kept = np.sort(np.argsort(-laws.max(axis=0), kind="stable")[:_MOST_OUTCOMES])
    x = np.arange(len(kept))
    axes.bar(x - 0.2, laws[0, kept], 0.4, color=_MODEL, label="model")
    axes.bar(x + 0.2, laws[1, kept], 0.4, color=_FEARED, label="feared")
    axes.set_xticks(x, [_name(plan, reached[index]) for index in kept])
    axes.set(ylim=(0, 1), ylabel="probability", xlabel="successor")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)


def _name(plan: PlanPicture, state: Any) -> str:
    if plan.grid is None:
        return f"state {int(state)}"
    row, column = plan.grid.cells[state]
    return f"({int(row)}, {int(column)})"
