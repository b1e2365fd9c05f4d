"""Learning curves: what is drawn is the statistic, gaps and diverged seeds are shown as such."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from jaxrl.report import compare_runs, interquartile_mean, learning_curves, plots
from jaxrl.training import open_run

NAN = np.nan


def noisy_curves(num_seeds: int = 8, num_records: int = 40) -> tuple[np.ndarray, np.ndarray]:
    steps = np.linspace(0, 5e5, num_records)
    noise = np.random.default_rng(0).normal(0, 20, (num_seeds, num_records))
    return steps, 500 * (1 - np.exp(-steps / 1e5)) + noise


def ink(path: Path) -> float:
    """Share of the picture that is not white."""
    return float((imread(path)[..., :3].min(-1) < 0.98).mean())


def test_the_line_is_the_interquartile_mean_inside_its_band() -> None:
    _, values = noisy_curves()
    mean, low, high = plots.curve_band(values)
    np.testing.assert_allclose(mean, interquartile_mean(values, axis=0), rtol=1e-12)
    assert np.all(low < mean) and np.all(mean < high)
    wider = plots.curve_band(values, level=0.999)
    assert np.all(wider[1] <= low) and np.all(high <= wider[2])


def test_gaps_hold_the_value_before_and_wait_for_the_first() -> None:
    values = [[NAN, NAN, 4.0, NAN], [NAN, 2.0, NAN, 6.0]]
    mean, low, high = plots.curve_band(values)
    np.testing.assert_array_equal(mean, [NAN, 2.0, 3.0, 5.0])  # -, (2), (4, 2 held), (4 held, 6)
    np.testing.assert_array_equal(np.isnan(low), [True, True, False, False])
    np.testing.assert_array_equal(np.isnan(low), np.isnan(high))


def test_diverged_seeds_rank_lowest_from_where_they_ended() -> None:
    # Eight seeds, two cut at either end. One seed ends after record 0, three after record 1.
    values = np.tile(np.arange(1.0, 9.0)[:, None], (1, 3))
    values[7, 1:] = NAN
    values[5:, 2:] = NAN
    failed = np.arange(8) >= 5
    mean, low, _ = plots.curve_band(values, failed)
    # Record 0: 3 4 5 6. Record 1: - 1 | 2 3 4 5 | 6 7. Record 2: - - | - 1 2 3 | 4 5: unknown.
    np.testing.assert_array_equal(mean, [4.5, 3.5, NAN])
    assert 1.0 <= low[0] < 4.5 and np.isnan(low[2])


CURVES = {
    "one": {"ppo": noisy_curves()},
    "several": {f"agent {i}": noisy_curves(3 + i) for i in range(9)},
    "one-seed": {"ppo": noisy_curves(1)},
    "one-record": {"ppo": ([1000], [[3.0], [5.0]])},
    "first-record": {"ppo": ([0], [[3.0], [5.0]])},
    "nothing-known": {"ppo": ([0, 10], [[NAN, NAN], [NAN, NAN]])},
    "constant": {"ppo": ([0, 10], [[2.0, 2.0], [2.0, 2.0]])},
    "with-gaps": {"ppo": ([0, 10, 20], [[NAN, 1.0, NAN], [NAN, NAN, 3.0]])},
    "many-records": {"ppo": noisy_curves(4, 3000)},
    "many-seeds": {"ppo": noisy_curves(300, 10)},
}


SLOW = ("one", "one-seed", "one-record", "first-record", "constant", "many-records", "many-seeds")


@pytest.mark.parametrize(
    "curves",
    [
        pytest.param(curves, id=name, marks=pytest.mark.slow if name in SLOW else ())
        for name, curves in CURVES.items()
    ],
)
def test_a_picture_comes_of_any_curves_without_a_warning(tmp_path: Path, curves: dict) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path = learning_curves(tmp_path / "plots" / "curve.png", curves, title="CartPole-v1")
    assert path.read_bytes().startswith(b"\x89PNG")
    assert 0.005 < ink(path) < 0.9


def end_of_mean(path: Path) -> float:
    """Where the mean line ends, as a share of the horizontal axis."""
    pixels = imread(path)[..., :3]
    dark = pixels.max(-1) < 0.3
    axis = np.flatnonzero(dark[dark.sum(1).argmax()])  # the row of the axis has most dark pixels
    left, right = axis[0], axis[-1]
    blue = np.abs(pixels - to_rgb("#0072B2")).max(-1) < 0.02  # text of that colour is outside
    return (np.flatnonzero(blue[:, left : right + 1].any(0))[-1]) / (right - left)


def test_diverged_seeds_change_the_picture(tmp_path: Path) -> None:
    steps, values = noisy_curves()
    values[:3, 20:] = NAN
    held = learning_curves(tmp_path / "a.png", {"ppo": (steps, values)})
    told = learning_curves(tmp_path / "b.png", {"ppo": (steps, values)}, {"ppo": [0, 1, 2]})
    # Silent seeds hold their last value to the end; of eight with three diverged the middle half
    # holds one that has no value: the mean ends with record 19 of 0 to 39.
    assert end_of_mean(held) == pytest.approx(1.0, abs=0.01)
    assert end_of_mean(told) == pytest.approx(19 / 39, abs=0.01)


def test_misshapen_curves_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no curve"):
        learning_curves(tmp_path / "a.png", {})
    with pytest.raises(ValueError, match=r"'ppo' has steps \(2,\) and values \(3,\)"):
        learning_curves(tmp_path / "a.png", {"ppo": ([0, 1], [1.0, 2.0, 3.0])})
    assert not (tmp_path / "a.png").exists()


def test_runs_are_compared_from_their_folders(tmp_path: Path) -> None:
    steps, values = noisy_curves(4, 5)
    for name in ("a/run", "b/run"):
        with open_run(tmp_path / name, {"name": name}) as run:
            for step, column in zip(steps, values.T, strict=True):
                lanes = {"seeds": [0, 1, 0, 1], "settings": ["x=1", "x=1", "x=2", "x=2"]}
                record = {"step": step, **lanes, "metrics": {"episode_return": column}}
                run.append_metrics([record])
            if name == "b/run":
                run.finish({})
    path = compare_runs(tmp_path / "plot.png", [tmp_path / "a/run", tmp_path / "b/run"])
    assert ink(path) > 0.005
    with pytest.raises(KeyError, match="known: episode_return"):
        compare_runs(path, [tmp_path / "a/run"], metric="loss")


def test_a_picture_takes_the_place_of_a_link_and_not_of_what_it_points_to(tmp_path: Path) -> None:
    path, target = tmp_path / "plots" / "curve.png", tmp_path / "target"
    path.parent.mkdir()
    target.write_text("of another")
    path.symlink_to(target)
    learning_curves(path, {"ppo": ([0, 1], [[1.0, 2.0]])})
    assert target.read_text() == "of another" and not path.is_symlink() and ink(path) > 0
    assert list(path.parent.iterdir()) == [path]


def test_importing_the_report_is_light() -> None:
    code = (
        "import sys, jaxrl.report.plots; "
        "print([m for m in ('matplotlib', 'pyarrow', 'scipy', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
