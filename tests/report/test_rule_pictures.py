"""Pictures of rules: one for whatever a probe holds, without a warning."""

from __future__ import annotations

import warnings

import jax
import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread

from jaxrl import a2c, ppo, rules
from jaxrl.core import Linear
from jaxrl.meta import probe
from jaxrl.report import draw_probe

PROBED = {
    "agent with all parts": lambda: ppo().replace(rule=rules.DriftPolicy(rules.DiscoveredDrift())),
    "timed drift": lambda: rules.drift(jax.random.key(0), num_hidden=4, timed=True).drift,
    "no drift at all": rules.ZeroDrift,
    "learned gradient": lambda: rules.lpg(
        jax.random.key(0), num_hidden=2, num_predictions=2, timed=True
    ),
    "schedule": lambda: Linear(1.0, 0.1),
}
LONG = ("agent with all parts", "timed drift", "learned gradient")  # seconds of drawing


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow) if n in LONG else n for n in PROBED]
)
def test_a_picture_comes_of_any_probe_without_a_warning(tmp_path, name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        probed = probe(PROBED[name](), num_points=9)
        path = draw_probe(tmp_path / "plots" / "a.png", probed, "a rule")
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow  # twelve maps
def test_more_points_of_a_life_make_a_wider_picture_and_more_parts_a_higher_one(tmp_path):
    shapes = {}
    for name in ("timed drift", "no drift at all", "schedule"):
        path = draw_probe(tmp_path / f"{name}.png", probe(PROBED[name](), num_points=5))
        shapes[name] = imread(path).shape
    assert shapes["timed drift"][1] > shapes["no drift at all"][1]
    assert shapes["no drift at all"][0] > shapes["schedule"][0]


def test_a_schedule_is_drawn_from_its_first_value_down_to_its_last(tmp_path):
    """The blue line falls evenly from the left upper corner of its panel to the right lower one."""
    path = draw_probe(tmp_path / "a.png", probe(Linear(1.0, 0.1), num_points=5))
    pixels = imread(path)[..., :3]
    rows, columns = np.nonzero(np.abs(pixels - to_rgb("#0072B2")).max(-1) < 0.02)
    slope, start = np.polyfit(columns, rows, 1)
    assert slope > 0 and np.ptp(columns) > 300 and np.ptp(rows) > 80  # rows count downwards
    np.testing.assert_allclose(start + slope * columns, rows, atol=3)


def test_an_empty_probe_is_refused(tmp_path):
    empty = probe(a2c().replace(rule=rules.StaticRiskGradient()), num_points=5)
    with pytest.raises(ValueError, match="nothing to draw"):
        draw_probe(tmp_path / "a.png", empty)
