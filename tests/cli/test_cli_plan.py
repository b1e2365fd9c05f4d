"""`jaxrl plan`: what it solves, writes, draws and refuses."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from small_run import Run

from jaxrl.cli import grids, main
from jaxrl.core import TabularMDP, tabular_mdp
from jaxrl.envs import make
from jaxrl.report import PlanPicture, draw_plan
from jaxrl.training import RunFolder

LEVEL = 0.1


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The windy cliff under nested CVaR."""
    folder = tmp_path_factory.mktemp("planned") / "run"
    words = ["--env", "WindyCliff", "--functional", f"cvar:{LEVEL}", "--out", str(folder)]
    assert main(["plan", *words]) == 0
    return folder


def test_a_plan_leaves_its_solution_and_a_picture(planned: Path) -> None:
    assert (planned / "plots" / "plan.png").read_bytes().startswith(b"\x89PNG")
    assert RunFolder(planned).status()["state"] == "done"
    assert RunFolder(planned).config()["parts"] == {"functional": "cvar:0.1"}
    summary = json.loads((planned / "summary.json").read_text())
    assert summary["converged"] and summary["contracts"] and summary["note"] == ""
    assert 0 < summary["error_bound"] <= 1e-6 and summary["discount"] == pytest.approx(0.99)
    with np.load(planned / "solution.npz") as found:
        assert found["values"].dtype == np.float64
        start = float(found["initial"] @ found["values"])
    assert summary["start_value"] == start


def worst_tails(found: dict, values: np.ndarray, level: float) -> np.ndarray:
    """The mean of the worst `level` share of what each pair leads to, `[S, A]`."""
    reward = np.broadcast_to(found["reward"], found["prob"].shape)
    going_on = found["discount"] * (1.0 - found["terminal"])
    worth = reward + going_on * values[found["next_state"]]
    order = np.argsort(worth, axis=-1)
    probs = np.take_along_axis(found["prob"], order, -1)
    before = np.cumsum(probs, axis=-1) - probs
    tail = np.clip(level - before, 0.0, probs) / level  # the worst share first
    return np.sum(tail * np.take_along_axis(worth, order, -1), axis=-1)


def test_its_values_are_those_of_a_plain_sweep(planned: Path) -> None:
    with np.load(planned / "solution.npz") as file:
        found = dict(file)
    values = np.zeros(len(found["values"]))
    for _ in range(3000):  # 0.99^3000 = 8e-14
        values = worst_tails(found, values, LEVEL).max(axis=1)
    np.testing.assert_allclose(found["values"], values, atol=1e-6)


def test_the_kernel_is_a_law_of_the_set_and_gives_the_values_back(planned: Path) -> None:
    with np.load(planned / "solution.npz") as file:
        found = dict(file)
    kernel, prob = found["kernel"], found["prob"]
    np.testing.assert_allclose(kernel.sum(axis=-1), 1.0, atol=1e-9)
    assert np.all(kernel >= 0) and np.all(kernel <= prob / LEVEL + 1e-9)
    law = found["policy"][..., None] * kernel  # [S, A, K]
    num_states = len(law)
    chain = np.zeros((num_states, num_states))
    source = np.broadcast_to(np.arange(num_states)[:, None, None], law.shape)
    np.add.at(chain, (source, found["next_state"]), law * (1.0 - found["terminal"]))
    earned = (law * found["reward"]).sum(axis=(1, 2))
    values = np.linalg.solve(np.eye(num_states) - found["discount"] * chain, earned)
    np.testing.assert_allclose(found["values"], values, atol=1e-6)


@pytest.mark.usefixtures("undrawn")
def test_a_horizon_is_backward_induction(jaxrl: Run, tmp_path: Path) -> None:
    """Under CVaR; nature's kernel is that of the first step, where the order of states differs
    from that with a step more to go."""
    words = ["--env", "RiverSwim", "--horizon", "6", "--discount", "1", "--functional", "cvar:0.75"]
    code, out, error = jaxrl("plan", *words, "--out", tmp_path / "run")
    assert code == 0 and error == "" and "for the first step" in out
    with np.load(tmp_path / "run" / "solution.npz") as file:
        found = dict(file)
    values = np.zeros(6)
    for _ in range(6):
        later, q_values = values, worst_tails(found, values, 0.75)
        values = q_values.max(axis=1)
    np.testing.assert_allclose(found["values"], values, atol=1e-12)
    np.testing.assert_allclose(found["q_values"], q_values, atol=1e-12)
    np.testing.assert_array_equal(found["policy"].argmax(axis=1), q_values.argmax(axis=1))
    worth = found["reward"] + later[found["next_state"]]
    np.testing.assert_allclose((found["kernel"] * worth).sum(axis=-1), q_values, atol=1e-9)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["num_iterations"] == 6
    assert summary["start_value"] == pytest.approx(found["initial"] @ values, abs=1e-12)


@pytest.mark.usefixtures("undrawn")
def test_the_gain_is_the_best_of_all_policies(jaxrl: Run, tmp_path: Path) -> None:
    words = ["--env-set", "num_states=4", "--average-reward", "--out", tmp_path / "run"]
    code, out, _ = jaxrl("plan", "--env", "RiverSwim", *words)
    assert code == 0 and "gain [return per step]" in out and "discount" not in out
    with np.load(tmp_path / "run" / "solution.npz") as file:
        found = dict(file)
    states, gains = np.arange(4), []
    for actions in itertools.product(range(2), repeat=4):
        law = found["prob"][states, actions]
        chain = np.zeros((4, 4))
        np.add.at(chain, (states[:, None], found["next_state"][states, actions]), law)
        reward = np.broadcast_to(found["reward"], found["prob"].shape)[states, actions]
        system = np.vstack([chain.T - np.eye(4), np.ones(4)])
        share = np.linalg.lstsq(system, np.array([0, 0, 0, 0, 1.0]), rcond=None)[0]
        gains.append(share @ (law * reward).sum(axis=-1))
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["gain"] == pytest.approx(max(gains), abs=2e-6)


CLIFF = ["--env", "WindyCliff", "--functional", "cvar:0.1"]  # compiled already


@pytest.mark.usefixtures("undrawn")
def test_what_is_not_certified_is_said(jaxrl: Run, tmp_path: Path) -> None:
    """Discount 1, where some policies walk for ever."""
    code, out, _ = jaxrl("plan", *CLIFF, "--discount", "1", "--out", tmp_path / "run")
    assert code == 0 and "note: at discount 1 some policy never ends" in out
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["converged"] and summary["error_bound"] is None
    assert "note" in summary and summary["residual"] <= 1e-6


@pytest.mark.usefixtures("undrawn")
def test_a_plan_that_does_not_converge_fails(jaxrl: Run, tmp_path: Path) -> None:
    words = [*CLIFF, "--max-iterations", "2", "--out", tmp_path / "run"]
    code, out, _ = jaxrl("plan", *words)
    assert code == 1 and "note: not converged" in out and "raise --max-iterations" in out
    assert RunFolder(tmp_path / "run").status()["state"] == "failed"
    code, _, error = jaxrl("plan", *words, "--discount", "0.9")
    assert code == 2 and "discount: None (folder) != 0.9 (asked)" in error


BAD = {
    "out of range": (["--functional", "cvar:2"], "level=2.0 is out of range: give a value in (0"),
    "near name": (["--functional", "cvarr:0.1"], "did you mean cvar"),
    "array": (["--functional", "interval:0.1"], "in Python"),
    "no law kept": (["--composition", "max_form"], "stores a mean only"),
    "no steps": (["--horizon", "0"], "--horizon 0"),
    "discount": (["--discount", "1.5"], "--discount 1.5"),
    "tolerance": (["--tolerance", "0"], "--tolerance 0"),
    "gain of some steps": (["--average-reward", "--horizon", "3"], "leave them out"),
    "no such parameter": (["--env-set", "wnd=0.1"], "did you mean wind"),
    "no table": (["--env", "CartPole-v1"], "Tabular are: AccessControlQueue, "),
    "no such environment": (["--env", "WindyClif"], "WindyCliff"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_code_2(name: str, jaxrl: Run, tmp_path: Path) -> None:
    words, expected = BAD[name]
    code, _, error = jaxrl("plan", *words)
    assert code == 2 and expected in error and error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


# Without wind and slips every free move goes where its arrow points.
GRIDS = {
    "WindyCliff": {"wind": 0.0, "num_columns": 6},
    "WindyWalk": {"wind": 0.0},
    "CliffWalking": {},
    "FrozenLake-4x4": {"slip_prob": 0.0},
    "FourRooms": {"slip_prob": 0.0},
    "DeepSea": {"size": 4},
    "WindyGridworld": {"kings_moves": True},
}


@pytest.mark.parametrize("name", GRIDS)
def test_arrows_point_where_moves_lead(name: str) -> None:
    mdp = make(name, **GRIDS[name]).mdp  # pyright: ignore
    grid = grids.grid_layout(name, GRIDS[name], mdp)
    assert grid is not None and grid.moves.shape == (mdp.num_states, mdp.num_actions, 2)
    assert np.all(grid.cells < grid.shape) and len(np.unique(grid.cells, axis=0)) == len(grid.cells)
    outcome = np.asarray(mdp.prob).argmax(axis=-1)
    reached = np.take_along_axis(np.asarray(mdp.next_state), outcome[..., None], -1)[..., 0]
    step = grid.cells[reached] - grid.cells[:, None, :]
    free = np.abs(step).sum(axis=-1) > 0
    if name == "WindyGridworld":  # the columns without wind, and away from the edge
        free &= np.isin(grid.cells[:, 1], [1])[:, None]
        free &= np.isin(grid.cells[:, 0], np.arange(1, 6))[:, None]
    if name in ("WindyCliff", "CliffWalking"):  # a fall goes back to the start
        start = (grid.shape[0] - 1) * grid.shape[1]
        free &= reached != start
    assert free.sum() >= min(len(grid.cells), 40)
    np.testing.assert_array_equal(step[free], grid.moves[free])


def test_a_grid_follows_the_size_and_other_models_have_none() -> None:
    mdp = make("RiverSwim").mdp  # pyright: ignore
    assert grids.grid_layout("RiverSwim", {}, mdp) is None
    maze = grids.grid_layout("RandomMaze", {"width": 4, "height": 7}, make("WindyCliff").mdp)  # pyright: ignore
    assert maze is not None and maze.shape == (7, 4) and maze.cells[4].tolist() == [1, 0]
    assert grids.grid_layout("WindyCliff", {}, mdp) is None


def picture(mdp: TabularMDP, kernel: np.ndarray) -> PlanPicture:
    return PlanPicture(
        mdp=mdp,
        values=np.array([1.0, 2.0]),
        policy=np.ones((2, 1)),
        kernel=kernel,
        worth=np.broadcast_to(np.array([3.0, 5.0]), kernel.shape),
        title="two states",
    )


def calm_and_feared() -> tuple[PlanPicture, PlanPicture]:
    mdp = tabular_mdp([[[0.5, 0.5]], [[0.5, 0.5]]], [[0.0], [0.0]], discount=0.9)
    kernel = np.array([[[0.5, 0.5]], [[1.0, 0.0]]])
    return picture(mdp, np.asarray(mdp.prob)), picture(mdp, kernel)


def test_nature_is_marked_where_she_moves() -> None:
    calm, feared = calm_and_feared()
    assert feared.shift.tolist() == [0.0, 0.5] and feared.marked == (1, 0)
    assert calm.shift.tolist() == [0.0, 0.0] and feared.visited.all()


@pytest.mark.slow
def test_nature_is_drawn_where_she_moves(tmp_path: Path) -> None:
    from matplotlib.image import imread

    widths = [
        imread(draw_plan(tmp_path / f"{i}.png", p)).shape[1]
        for i, p in enumerate(calm_and_feared())
    ]
    assert widths[1] > 1.5 * widths[0]  # two panels more


def test_states_that_nobody_acts_in_are_left_out() -> None:
    """Of 4 x 7 cells the walker of the windy cliff acts in all but the bottom row's last six."""
    mdp = make("WindyCliff").mdp  # pyright: ignore
    prob = np.asarray(mdp.prob)
    shown = PlanPicture(mdp, np.zeros(28), np.full((28, 4), 0.25), prob, prob, "")
    assert np.flatnonzero(~shown.occupied).tolist() == list(range(22, 28))
