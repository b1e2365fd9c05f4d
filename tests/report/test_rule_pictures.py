"""Pictures of rules: one for whatever a probe holds, without a warning."""

from __future__ import annotations

import warnings

import jax
import pytest
from matplotlib.image import imread

from jaxrl import a2c, ppo, rules
from jaxrl.core.schedules import Linear
from jaxrl.meta.probe import probe
from jaxrl.report.rule_pictures import draw_probe

PROBED = {
    "agent with all parts": ppo().replace(rule=rules.DriftPolicy(rules.DiscoveredDrift())),
    "timed drift": rules.drift(jax.random.key(0), num_hidden=4, timed=True).drift,
    "no drift at all": rules.ZeroDrift(),
    "learned gradient": rules.lpg(jax.random.key(0), num_hidden=2, num_predictions=2, timed=True),
    "schedule": Linear(1.0, 0.1),
}


@pytest.mark.parametrize("rule", PROBED.values(), ids=PROBED)
def test_a_picture_comes_of_any_probe_without_a_warning(tmp_path, rule):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        path = draw_probe(tmp_path / "plots" / "a.png", probe(rule, num_points=9), "a rule")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_more_points_of_a_life_make_a_wider_picture_and_more_parts_a_higher_one(tmp_path):
    shapes = {}
    for name in ("timed drift", "no drift at all", "schedule"):
        path = draw_probe(tmp_path / f"{name}.png", probe(PROBED[name], num_points=5))
        shapes[name] = imread(path).shape
    assert shapes["timed drift"][1] > shapes["no drift at all"][1]
    assert shapes["no drift at all"][0] > shapes["schedule"][0]


def test_an_empty_probe_is_refused(tmp_path):
    empty = probe(a2c().replace(rule=rules.StaticRiskGradient()), num_points=5)
    with pytest.raises(ValueError, match="nothing to draw"):
        draw_probe(tmp_path / "a.png", empty)
